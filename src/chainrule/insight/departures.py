"""What departs in one stage of a network: its weights, bias and response, each given what reaches it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from chainrule.graph import Array
from chainrule.insight.adjoint import decades
from chainrule.insight.stages import Chain, Stage

FAR = 30.0
"""Decades that stand for an exact zero, or for what is not a number."""
_SMALLEST_SIDE = 4  # of a matrix whose rank says something
_NOISE = 1.5  # decades of a gain by chance, times the root of how many numbers it is a mean of
_ATTAINABLE = math.log10(2)  # gain of an activation: what loses more is not for weights to make up for
_HIGHEST = math.log10(1.5)  # gain that an activation asks of weights
_LINEAR, _NORMAL = 0.1, 1.0  # spreads at which the gain of an activation is taken
_FEWEST = 10  # numbers of which a gain is a mean: fewer are all zero by chance, one time in a thousand
_ROWS, _POWERS = 256, 20  # rows that are compared with each other; rounds of the power method


@dataclass(frozen=True)
class Departures:
    """The departures of one stage of a chain, in decades.

    before  those of the stages through which all that comes in has passed
    """

    stage: Stage
    chain: Chain
    before: tuple[Departures, ...] = ()

    @cached_property
    def gain(self) -> float:
        """The factor by which weights should make up for what the response loses."""
        _, linear = self.chain.gains(self.stage, _LINEAR)
        forward, normal = self.chain.gains(self.stage, _NORMAL)
        back = -0.5 * (linear + normal)
        if not (math.isfinite(back) and math.isfinite(forward)) or abs(back) > _ATTAINABLE:
            return 1.0
        return 10 ** min(max(min(back, -forward, key=abs), 0.0), _HIGHEST)

    @cached_property
    def expected(self) -> float:
        """The root mean square of weights that keep norms as they are."""
        return self.gain / math.sqrt(max(self.stage.fan_in, 1.0))

    @cached_property
    def weight(self) -> float:
        """Decades by which the weights are too large."""
        return log10(rms(self.stage.weight.value) / self.expected)

    @cached_property
    def rank(self) -> float:
        """Decades by which the stable rank of a matrix departs from that of a random one."""
        values = self.stage.weight.value
        if values.ndim < 2 or not np.isfinite(values).all():
            return 0.0
        matrix = values.reshape(values.shape[0], -1).astype(np.float64)
        rows, columns = matrix.shape
        whole = float(np.vdot(matrix, matrix))
        if min(rows, columns) < _SMALLEST_SIDE or not whole:
            return 0.0
        random = rows * columns / (math.sqrt(rows) + math.sqrt(columns)) ** 2
        return log10(whole / _largest_square(matrix)) - log10(random)

    @cached_property
    def usual(self) -> float:
        """The root mean square of the sums, were the weights as expected, here and before.

        Small weights before are departures of their own: without them, what comes in would be as the data.
        """
        incoming = rms(self.stage.incoming.value)
        lost = max(-FAR, math.fsum(each.weight for each in self.before))
        if lost < 0:
            data = rms(self.before[0].stage.incoming.value)
            incoming = max(incoming, min(incoming * 10**-lost, data))
        return incoming * self.expected * math.sqrt(max(self.stage.fan_in, 1.0))

    @cached_property
    def bias(self) -> float:
        """Decades by which the bias adds to the sums: those that come, and those that should come.

        A trained bias often undoes what large weights make of a mean that comes in, and is as large as that.
        """
        if self.stage.bias is None or not self.usual:
            return 0.0
        sums = max(self.usual, rms(self.stage.product.value))
        return log10(math.hypot(1.0, rms(self.stage.bias.value) / sums))

    @cached_property
    def activation(self) -> dict[str, float]:
        """Decades by which the response's gains depart, forward and backward."""
        stage = self.stage
        spread = rms(stage.product.value)
        if not stage.response or not spread or not math.isfinite(spread):
            return {}
        error = self.chain.error(stage.answer)
        known = error is not None and np.isfinite(error).all() and error.any()
        forward, backward = stage.gains(spread, error if known else None)
        return {
            "forward": _difference(decades((stage.answer.value,)) - decades((stage.total.value,)), forward),
            "backward": _difference(self.backward, backward),
        }

    @cached_property
    def noise(self) -> float:
        """Decades by which a gain differs from what is expected by chance.

        It is a mean over the numbers that differ from each other. In deep networks all rows become alike
        (Poole et al., 2016), and then only the units count.
        """
        units = self.stage.total.size / len(self.stage.total.value)
        alike = float(self._alike.mean())
        return _NOISE * math.sqrt(alike / units) if math.isfinite(alike) else 0.0

    @cached_property
    def noise_back(self) -> float:
        """The same of the way back, where numbers count by their part of the error.

        What a trained network still has wrong is a few rows, and all units that these reach may be dead.
        """
        error = self.chain.error(self.stage.answer)
        if error is None or len(error) < len(self._alike) or not (np.isfinite(error).all() and error.any()):
            return self.noise
        rows = (error / np.abs(error).max()).reshape(len(error), -1)[: len(self._alike)]
        squares = np.square(rows.astype(np.float64))
        by_row, by_unit = (squares.sum(axis=axis) / squares.sum() for axis in (1, 0))
        alike = float(by_row @ self._alike @ by_row) * float(np.square(by_unit).sum())
        few_rows = len(by_row) * float(np.square(by_row).sum()) > 2  # less than half of them
        if few_rows and alike * _FEWEST > 1:
            return FAR
        return max(self.noise, _NOISE * math.sqrt(alike)) if math.isfinite(alike) else self.noise

    @cached_property
    def _alike(self) -> Array:
        """How alike rows are: the squared cosine between the sums of each two."""
        values = self.stage.total.value
        rows = values.reshape(len(values), -1)[:_ROWS].astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(norms > 0, norms, 1.0)
        return np.asarray(np.square(rows @ rows.T))

    @cached_property
    def alike(self) -> float:
        """Decades by which the response makes what rows have in common outweigh what they differ by."""
        came, went = self.stage.total.value, self.stage.answer.value
        if not self.stage.response or len(came) < 2 or len(came) != len(went):
            return 0.0
        return _difference(shared(went), shared(came))

    @cached_property
    def backward(self) -> float:
        """Decades by which the response changes the derivative on its way back."""
        ends = [self.chain.error(node) for node in (self.stage.total, self.stage.answer)]
        if ends[0] is None or ends[1] is None:
            return math.nan
        return decades((ends[0],)) - decades((ends[1],))

    # -- in words --------------------------------------------------------------------------------------------
    def weight_told(self, of_one_direction: bool) -> str:
        """The sentence for a weight."""
        layer, found = self.stage.layer, rms(self.stage.weight.value)
        if not math.isfinite(found):
            return f"The weights of {layer} hold values that are infinite or not a number."
        if of_one_direction:
            return (
                f"The weights of {layer} are nearly of one direction: their stable rank is "
                f"{times(self.rank)} that of random ones."
            )
        return (
            f"The weights of {layer} are {times(self.weight)} what {self.stage.fan_in:.0f} inputs ask for: "
            f"their root mean square is {found:.3g}, not {self.expected:.3g}."
        )

    def bias_told(self) -> str:
        """The sentence for a bias."""
        assert self.stage.bias is not None
        return (
            f"The bias of {self.stage.layer} outweighs what it is added to: its root mean square is "
            f"{rms(self.stage.bias.value):.3g}, that of the sums should be {self.usual:.3g}."
        )

    def activation_told(self) -> str:
        """The sentence for a response."""
        on, back = (times(self.activation[way]) for way in ("forward", "backward"))
        return (
            f"Given what reaches it, {self.stage.responder} passes on {on} what is usual of its sums, and "
            f"passes back {back} what is usual of the error."
        )


def departures_of(chain: Chain) -> list[Departures]:
    """The departures of all stages of a chain, in the order in which they were computed."""
    found: list[Departures] = []
    for stage in chain.stages:
        before = tuple(each for each in found if stage in chain.in_series(each.stage))
        found.append(Departures(stage, chain, before))
    return found


# -- numbers -------------------------------------------------------------------------------------------------
def rms(values: Any) -> float:
    """Root mean square, without overflow; nan for what is not finite."""
    array = np.asarray(values)
    return 10 ** (decades((array,)) - 0.5 * math.log10(max(1, array.size)))


def shared(values: Array) -> float:
    """Decades by which what all rows have in common adds to what they differ by."""
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    variance, square = float(rows.var(axis=0).mean()), float(np.square(rows.mean(axis=0)).mean())
    if not variance:
        return FAR if square else 0.0
    return 0.5 * log10(1 + square / variance)


def _largest_square(matrix: Array) -> float:
    """The square of the largest singular value, to some percent: a few rounds of the power method."""
    vector = np.random.default_rng(0).normal(size=matrix.shape[1])
    size = 1.0
    for _ in range(_POWERS):
        vector = matrix.T @ (matrix @ (vector / size))
        size = float(np.linalg.norm(vector)) or 1.0
    return size


def log10(ratio: float) -> float:
    """log10, where an exact zero and what is not finite are far away."""
    if ratio == 0:
        return -FAR
    return math.log10(ratio) if math.isfinite(ratio) else FAR


def _difference(found: float, expected: float) -> float:
    """Between decades; a zero that is not expected is far away, what is undefined is none."""
    if math.isnan(found) or not math.isfinite(expected):
        return 0.0
    return max(-FAR, min(FAR, found - expected))


def signed(decades: float, digits: int = 2) -> str:
    """A factor in decades.

    >>> signed(-0.6149), signed(-0.001), signed(-math.inf), signed(math.nan)
    ('−0.61', '0.00', 'zero', 'undefined')
    """
    if math.isnan(decades):
        return "undefined"
    if math.isinf(decades):
        return "zero" if decades < 0 else "infinite"
    rounded = round(decades, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def times(departure: float) -> str:
    """Decades as a factor, in words."""
    return "nothing of" if departure <= -FAR else f"{10**departure:.2g} times"
