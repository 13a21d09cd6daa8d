"""The cause: which factor of the chain rule is out of order, and in which layer.

The largest term of a ledger is seldom the cause, because a factor that is out of order changes all that come
behind it. So everything is judged given what reaches it: a weight by the spread that keeps norms as they are
(He et al., 2015), an activation by what it would make of normal numbers with the spread of the sums that it
gets, a bias beside these sums. The cause is the first departure in causal order: what comes in, targets and
loss, then all weights together, then layer by layer, and last all activations together.

It locates and does not judge: whether a departure does harm is seen in the outcome. docs/design.md has the
figures, and what cannot be decided from one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from chainrule.graph import Array, Node
from chainrule.insight.adjoint import Adjoint, decades
from chainrule.insight.stages import Chain, Stage


class _Limits(NamedTuple):
    """Decades by which factors may depart: one alone, all weights together, all activations together."""

    one: float
    grown: float
    shrunk: float
    activations: float


_FRESH, _TRAINED = _Limits(0.5, 0.6, 1.5, 1.5), _Limits(1.0, 3.0, 3.0, 3.0)
_STEADY = 0.2  # of one layer among all: less is within what recommended initialisations differ by
_SAME_SIGN = 0.8  # share of the layers that must depart in one direction
_LARGEST_SHARE = 0.6  # of one layer in what all depart by together: more, and that layer is the cause
_LARGEST_ROW = 0.5  # decades by which the largest row of an input is longer than the middle one anyway
_RANK = 0.6  # decades of stable rank that a fresh weight may lack
_SMALLEST_SIDE = 4  # of a matrix whose rank says something
_NOISE, _NOISE_OF_WEIGHTS = 1.5, 0.6  # decades by chance, times the root of how many numbers are averaged
_ATTAINABLE = math.log10(2)  # gain of an activation: what loses more is not for weights to make up for
_HIGHEST = math.log10(1.5)  # gain that an activation asks of weights
_LINEAR, _NORMAL = 0.1, 1.0  # spreads at which the gain of an activation is taken
_FAR = 30.0  # decades that stand for an exact zero, or for what is not a number
_ROWS, _POWERS = 256, 20  # rows that are compared with each other; rounds of the power method


@dataclass(frozen=True)
class Cause:
    """A factor that departs from what it should be, given what reaches it.

    factor    "input", "targets", "loss", "weights" (everywhere), "weight", "bias", "activation" or
              "activations" (everywhere)
    layer     path of the layer; "" for what belongs to none
    reason    one sentence with the numbers
    evidence  the departures that say so, in decades, by name
    """

    factor: str
    layer: str
    reason: str
    evidence: Mapping[str, float]

    def __str__(self) -> str:
        return self.reason


def causes_of(adjoint: Adjoint, step: int | None = None) -> tuple[Cause, ...]:
    """All that departs, the likeliest cause first.

    step  of the training: only at step 0 is a weight expected to be random, and only later to have drifted
    """
    chain = Chain(adjoint)
    limits = _TRAINED if step else _FRESH
    judged = [_Judged(stage, chain, limits) for stage in chain.stages]
    return tuple(_found(chain, judged, step)) if judged else ()


def _found(chain: Chain, judged: list[_Judged], step: int | None) -> Iterator[Cause]:
    yield from _inputs(chain)
    yield from _targets(chain)
    yield from _loss(chain)
    everywhere = _weights(judged)
    if everywhere:
        yield everywhere
    common = everywhere.evidence["median"] if everywhere else 0.0
    for each in judged:
        yield from each.causes(common, fresh=step == 0)
    yield from _activations(judged)


# -- what comes in -------------------------------------------------------------------------------------------
def _inputs(chain: Chain) -> Iterator[Cause]:
    """Inputs that are far from zero mean and unit spread, or have a row that outweighs all others."""
    for node in dict.fromkeys(stage.incoming for stage in chain.stages):
        if node in chain.of_data:
            layer = next(stage.layer for stage in chain.stages if stage.incoming is node)
            evidence = _scales(node.value)
            if _largest(evidence) > _FRESH.one:
                yield Cause("input", layer, _scales_told(f"The input of {layer}", node.value), evidence)


def _targets(chain: Chain) -> Iterator[Cause]:
    """Targets of a regression, known by being subtracted from what a network gives."""
    for node in chain.behind:
        for each in node.operands:
            if each in chain.of_data and each.size > 1 and node.name == "subtract":
                evidence = _scales(each.value) | {"row": 0.0}
                if _largest(evidence) > _FRESH.one:
                    yield Cause("targets", "", _scales_told("The target", each.value), evidence)


def _scales(values: Array) -> dict[str, float]:
    """How far an array (rows first) is from unit spread, zero mean and rows of one size."""
    if not np.isfinite(values).all():
        return {"scale": _FAR, "shift": 0.0, "row": 0.0}
    rows = values.reshape(len(values), -1).astype(np.float64)
    shift = row = 0.0
    if len(rows) > 1:
        variance = float(rows.var(axis=0).mean())
        square = float(np.square(rows.mean(axis=0)).mean())
        shift = 0.5 * _log10(1 + square / variance) if variance else 0.0
        norms = np.linalg.norm(rows, axis=1)
        middle = float(np.median(norms))
        row = max(0.0, _log10(norms.max() / middle) - _LARGEST_ROW) if middle else 0.0
    return {"scale": _log10(_rms(values)), "shift": shift, "row": row}


def _scales_told(what: str, values: Array) -> str:
    wrong = np.size(values) - np.count_nonzero(np.isfinite(values))
    if wrong:
        return f"{what} holds {wrong} values that are infinite or not a number."
    rows = values.reshape(len(values), -1).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    return (
        f"{what} is not standardised: mean {rows.mean():.3g}, standard deviation {rows.std():.3g}, and "
        f"its largest row has norm {norms.max():.3g}, the middle one {np.median(norms):.3g}."
    )


# -- the loss ------------------------------------------------------------------------------------------------
def _loss(chain: Chain) -> Iterator[Cause]:
    """A loss that is no mean: the weights with which it counts its examples do not add up to 1."""
    weight = _counted(chain)
    if weight is not None and abs(_log10(weight)) > _FRESH.one:
        reason = f"The loss counts its examples {weight:.3g} times, where a mean counts them once."
        yield Cause("loss", "", reason, {"scale": _log10(weight)})


def _counted(chain: Chain) -> float | None:
    """The derivatives of the loss by the examples' losses, added up: 1 for a mean, n for a sum of n."""
    behind, counted = set(chain.behind), list[float]()
    pending = [chain.adjoint.loss]
    while pending:
        for each in pending.pop().operands:
            if each in behind and each.ndim == 0:
                pending.append(each)
            elif each in behind and (error := chain.error(_unscaled(each, behind))) is not None:
                counted.append(float(np.abs(error.astype(np.float64)).sum()))
    return math.fsum(counted) if counted else None


def _unscaled(node: Node, behind: set[Node]) -> Node:
    """The examples' losses before they were multiplied with, or divided by, what no network made."""
    while node.name in ("multiply", "divide"):
        made = [k for k, each in enumerate(node.operands) if each in behind]
        if made != [0] and (made != [1] or node.name == "divide"):
            break
        node = node.operands[made[0]]
    return node


# -- the layers ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Judged:
    """The departures of one stage."""

    stage: Stage
    chain: Chain
    limits: _Limits

    @cached_property
    def gain(self) -> float:
        """The factor by which weights should make up for what the response loses."""
        _, linear = self.stage.gains(_LINEAR)
        forward, normal = self.stage.gains(_NORMAL)
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
        return _log10(_rms(self.stage.weight.value) / self.expected)

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
        return _log10(whole / _largest_square(matrix)) - _log10(random)

    @cached_property
    def usual(self) -> float:
        """The root mean square of the sums, were the weights as expected."""
        return _rms(self.stage.incoming.value) * self.expected * math.sqrt(max(self.stage.fan_in, 1.0))

    @cached_property
    def bias(self) -> float:
        """Decades by which the bias adds to the sums."""
        if self.stage.bias is None or not self.usual:
            return 0.0
        return _log10(math.hypot(1.0, _rms(self.stage.bias.value) / self.usual))

    @cached_property
    def activation(self) -> dict[str, float]:
        """Decades by which the response's gains depart, forward and backward."""
        stage = self.stage
        spread = _rms(stage.product.value)
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
        rows = self.stage.total.value.reshape(len(self.stage.total.value), -1)[:_ROWS].astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        pairs = (rows := rows / np.where(norms > 0, norms, 1.0)) @ rows.T
        alike = float(np.square(pairs).mean())
        return _NOISE * math.sqrt(alike / rows.shape[1]) if math.isfinite(alike) else 0.0

    @cached_property
    def backward(self) -> float:
        """Decades by which the response changes the derivative on its way back."""
        ends = [self.chain.error(node) for node in (self.stage.total, self.stage.answer)]
        if ends[0] is None or ends[1] is None:
            return math.nan
        return decades((ends[0],)) - decades((ends[1],))

    def causes(self, common: float, fresh: bool) -> Iterator[Cause]:
        """What departs here: the weight, then the bias, then the response.

        common  decades by which all weights depart together, which is told elsewhere
        fresh   whether weights should be random
        """
        evidence = {"scale": self.weight - common, "rank": self.rank if fresh else 0.0}
        by_chance = _NOISE_OF_WEIGHTS / math.sqrt(max(1, self.stage.weight.size))
        if abs(evidence["scale"]) > self.limits.one + by_chance or evidence["rank"] < -_RANK:
            yield Cause("weight", self.stage.layer, self.weight_told(evidence), evidence)
        if self.bias > self.limits.one:
            yield Cause("bias", self.stage.layer, self.bias_told(), {"bias": self.bias})
        if _largest(self.activation) > self.limits.one + self.noise:
            yield Cause("activation", self.stage.responder, self.activation_told(), self.activation)

    def weight_told(self, evidence: Mapping[str, float]) -> str:
        """The sentence for a weight."""
        layer, found = self.stage.layer, _rms(self.stage.weight.value)
        if not math.isfinite(found):
            return f"The weights of {layer} hold values that are infinite or not a number."
        if evidence["rank"] < -_RANK:
            return (
                f"The weights of {layer} are nearly of one direction: their stable rank is "
                f"{_times(self.rank)} that of random ones."
            )
        return (
            f"The weights of {layer} are {_times(self.weight)} what {self.stage.fan_in:.0f} inputs ask for: "
            f"their root mean square is {found:.3g}, not {self.expected:.3g}."
        )

    def bias_told(self) -> str:
        """The sentence for a bias."""
        assert self.stage.bias is not None
        return (
            f"The bias of {self.stage.layer} outweighs what it is added to: its root mean square is "
            f"{_rms(self.stage.bias.value):.3g}, that of the sums should be {self.usual:.3g}."
        )

    def activation_told(self) -> str:
        """The sentence for a response."""
        on, back = (_times(self.activation[way]) for way in ("forward", "backward"))
        return (
            f"{self.stage.responder} passes on {on} what it should of the sums it gets, and passes back "
            f"{back} what it should of the error."
        )


# -- all layers together -------------------------------------------------------------------------------------
def _weights(judged: list[_Judged]) -> Cause | None:
    """All weights too large or too small: none needs to be so by much."""
    departures = [each.weight for each in judged]
    total, median, limits = math.fsum(departures), float(np.median(departures)), judged[0].limits
    limit = limits.grown if total > 0 else limits.shrunk
    if (
        (abs(total) > limit or abs(median) > limits.one)
        and abs(median) > _STEADY
        and max(map(abs, departures)) < _LARGEST_SHARE * abs(total)
        and _one_sided(departures)
    ):
        reason = (
            f"The weights of all {len(judged)} layers are {_times(median)} what their inputs ask for, in the "
            f"middle: together they change what passes through by {total:+.1f} decades."
        )
        return Cause("weights", "", reason, {"median": median, "together": total})
    return None


def _activations(judged: list[_Judged]) -> Iterator[Cause]:
    """All activations together shrink what comes back, by more than weights are expected to make up for."""
    gains = [each.backward + math.log10(each.gain) for each in judged if each.stage.response]
    gains = [each for each in gains if math.isfinite(each)]
    total = math.fsum(gains)
    if abs(total) > judged[0].limits.activations and _one_sided(gains):
        reason = (
            f"Together, {len(gains)} activations change the error on its way back by {total:+.1f} decades, "
            "with what the weights should make up for already counted."
        )
        yield Cause("activations", "", reason, {"together": total})


def _one_sided(departures: list[float]) -> bool:
    grown = sum(each > 0 for each in departures)
    return max(grown, len(departures) - grown) >= _SAME_SIGN * len(departures)


# -- numbers -------------------------------------------------------------------------------------------------
def _rms(values: Any) -> float:
    """Root mean square, without overflow; nan for what is not finite."""
    array = np.asarray(values)
    return 10 ** (decades((array,)) - 0.5 * math.log10(max(1, array.size)))


def _largest_square(matrix: Array) -> float:
    """The square of the largest singular value, to some percent: a few rounds of the power method."""
    vector = np.random.default_rng(0).normal(size=matrix.shape[1])
    size = 1.0
    for _ in range(_POWERS):
        vector = matrix.T @ (matrix @ (vector / size))
        size = float(np.linalg.norm(vector)) or 1.0
    return size


def _log10(ratio: float) -> float:
    """log10, where an exact zero and what is not finite are far away."""
    if ratio == 0:
        return -_FAR
    return math.log10(ratio) if math.isfinite(ratio) else _FAR


def _difference(found: float, expected: float) -> float:
    """Between decades; a zero that is not expected is far away, what is undefined is none."""
    if math.isnan(found) or not math.isfinite(expected):
        return 0.0
    return max(-_FAR, min(_FAR, found - expected))


def _largest(evidence: Mapping[str, float]) -> float:
    return max((abs(each) for each in evidence.values()), default=0.0)


def _times(departure: float) -> str:
    """Decades as a factor, in words."""
    return "nothing of" if departure <= -_FAR else f"{10**departure:.2g} times"
