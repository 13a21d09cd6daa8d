"""The cause: which factor of the chain rule is out of order, and in which layer.

The largest term of a ledger is seldom the cause, because a factor that is out of order changes all that come
behind it. So everything is judged given what reaches it: a weight by the spread that keeps norms as they are
(He et al., 2015), an activation by what it would make of normal numbers with the spread of the sums that it
gets, a bias beside these sums. The cause is the first departure in causal order: what comes in, targets and
loss, then all weights together, then layer by layer, and last all activations together.

It locates and does not judge: whether a departure does harm is seen in the outcome. How far gradients may
shrink before it does depends on the optimizer, since Adam divides them by their size. docs/design.md has the
figures, and what cannot be decided from one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chainrule.graph import Array, Node
from chainrule.insight.adjoint import Adjoint
from chainrule.insight.departures import FAR, Departures, departures_of, log10, rms, shared, signed, times
from chainrule.insight.stages import Chain, Stage
from chainrule.optim.base import Transform
from chainrule.tensor import asarray


class _Limits(NamedTuple):
    """Decades by which factors may depart.

    one          a factor alone
    larger       one weight, if it is too large: that does harm sooner
    grown        all weights together, if they are too large
    shrunk       all weights together, with what activations then do, if they are too small
    activations  all activations together
    alike        what all rows have in common, beside what they differ by, for what activations add to it
    """

    one: float
    larger: float
    grown: float
    shrunk: float
    activations: float
    alike: float


_FRESH, _TRAINED = _Limits(0.5, 0.3, 0.6, 2.7, 2.0, 5.0), _Limits(1.0, 1.0, 3.0, 4.0, 4.0, 8.0)
_FRESH_EVENED, _TRAINED_EVENED = (  # until gradients are as small as the 1e-8 that Adam adds to their size
    _FRESH._replace(shrunk=8.0, activations=5.0),
    _TRAINED._replace(shrunk=10.0, activations=8.0),
)
_STEADY = 0.2  # of one layer among all: less is within what recommended initialisations differ by
_SAME_SIGN = 0.8  # share of the layers that must depart in one direction
_LARGEST_SHARE = 0.6  # of one layer in what all depart by together: more, and that layer is the cause
_LARGEST_ROW = 0.5  # decades by which the largest row of an input is longer than the middle one anyway
_RANK = 0.6  # decades of stable rank that a fresh weight may lack
_SMALL = 1e-3  # gradient, beside 1, at which an optimizer is tried
_NOISE = 0.6  # decades of a weight by chance, times the root of its size


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


def causes_of(
    adjoint: Adjoint, step: int | None = None, optimizer: Transform | None = None
) -> tuple[Cause, ...]:
    """All that departs, the likeliest cause first.

    step       of the training: only at step 0 is a weight expected to be random, only later to have drifted
    optimizer  what makes steps of the gradients; SGD, for which their size matters most, if not given
    """
    chain = Chain(adjoint)
    layers = departures_of(chain)
    evened = optimizer is not None and evens_out(optimizer)
    return (*_inputs(chain), *_targets(chain), *_loss(chain), *_in_layers(layers, step, evened))


def evens_out(optimizer: Transform) -> bool:
    """Whether the steps of an optimizer are as large however small gradients are: it is tried with two."""
    steps = []
    weight = {"weight": asarray(np.zeros(1))}
    for size in (1.0, _SMALL):
        gradient = {"weight": asarray(np.full(1, size))}
        updates, _ = optimizer.update(gradient, optimizer.init(weight), weight)
        steps.append(float(np.abs(updates["weight"].numpy()).max()))
    return steps[1] > math.sqrt(_SMALL) * steps[0]


def _in_layers(layers: list[Departures], step: int | None, evened: bool) -> Iterator[Cause]:
    fresh, trained = (_FRESH_EVENED, _TRAINED_EVENED) if evened else (_FRESH, _TRAINED)
    limits = trained if step else fresh
    everywhere = _weights(layers, limits)
    yield from everywhere
    common = everywhere[0].evidence["median"] if everywhere else 0.0
    for layer in layers:
        yield from _weight(layer, limits, common, fresh=step == 0)
        if layer.bias > limits.one:
            yield Cause("bias", layer.stage.layer, layer.bias_told(), {"bias": layer.bias})
        if _beyond(layer, limits):
            yield Cause("activation", layer.stage.responder, layer.activation_told(), layer.activation)
    yield from _activations(layers, limits)


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
        return {"scale": FAR, "shift": 0.0, "row": 0.0}
    rows = values.reshape(len(values), -1).astype(np.float64)
    shift = row = 0.0
    if len(rows) > 1:
        in_common = shared(rows)
        shift = in_common if in_common < FAR else 0.0  # rows that are all the same are no matter of scale
        norms = np.linalg.norm(rows, axis=1)
        middle = float(np.median(norms))
        row = max(0.0, log10(norms.max() / middle) - _LARGEST_ROW) if middle else 0.0
    return {"scale": log10(rms(values)), "shift": shift, "row": row}


def _scales_told(what: str, values: Array) -> str:
    wrong = np.size(values) - np.count_nonzero(np.isfinite(values))
    if wrong:
        held = "a value that is" if wrong == 1 else f"{wrong:,} values that are"
        return f"{what} holds {held} infinite or not a number."
    rows = values.reshape(len(values), -1).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    return (
        f"{what} is not standardised: mean {rows.mean():.3g}, standard deviation {rows.std():.3g}; "
        f"its largest row has norm {norms.max():.3g}, the middle one {np.median(norms):.3g}."
    )


# -- the loss ------------------------------------------------------------------------------------------------
def _loss(chain: Chain) -> Iterator[Cause]:
    """A loss that is no mean: the weights with which it counts its examples do not add up to 1."""
    weight = _counted(chain)
    if weight is not None and abs(log10(weight)) > _FRESH.one:
        reason = f"The loss counts its examples {weight:.3g} times, where a mean counts them once."
        yield Cause("loss", "", reason, {"scale": log10(weight)})


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
def _weight(layer: Departures, limits: _Limits, common: float, fresh: bool) -> Iterator[Cause]:
    """A weight that is too large or too small, beyond what all are; a fresh one that is not random."""
    scale, rank = layer.weight - common, layer.rank if fresh else 0.0
    limit = limits.larger if scale > 0 else limits.one
    if abs(scale) > limit + _NOISE / math.sqrt(layer.stage.weight.size) or rank < -_RANK:
        told = layer.weight_told(of_one_direction=rank < -_RANK)
        yield Cause("weight", layer.stage.layer, told, {"scale": scale, "rank": rank})


def _beyond(layer: Departures, limits: _Limits) -> bool:
    """Whether a response departs by more than it may, and than it would by chance."""
    noise = {"forward": layer.noise, "backward": layer.noise_back}
    return any(abs(by) > limits.one + noise[way] for way, by in layer.activation.items())


def _weights(layers: list[Departures], limits: _Limits) -> list[Cause]:
    """All weights too large or too small, of which none needs to be so by much."""
    by_stage = {each.stage: each.weight for each in layers if each.stage.fan_in > 1}
    if not by_stage:
        return []
    departures = list(by_stage.values())
    total, median = _in_series(layers, by_stage), float(np.median(departures))
    common = _in_series(layers, dict.fromkeys(by_stage, median))  # without what one layer adds
    passing = _in_series(layers, _gains(layers))
    if abs(passing) > abs(total):  # activations depart by more, and are told themselves
        passing = 0.0
    far = common > limits.grown or common + passing < -limits.shrunk
    if (
        (far or abs(median) > limits.one)
        and abs(median) > _STEADY
        and max(map(abs, departures)) < _LARGEST_SHARE * abs(total)
        and _one_sided(departures)
    ):
        reason = (
            f"The weights of all {len(departures)} layers are {times(median)} what their inputs ask for, in "
            f"the middle: together they change what passes through by {signed(total, 1)} decades."
        )
        return [Cause("weights", "", reason, {"median": median, "together": total})]
    return []


def _activations(layers: list[Departures], limits: _Limits) -> Iterator[Cause]:
    """All activations together change what comes back, by more than weights are expected to make up for.

    Where sums are so small that nothing is lost, weights that make up for a loss are none of their doing.
    """
    back = {each.stage: max(0.0, each.backward) for each in layers}
    gains = {stage: min(gain, back[stage]) for stage, gain in _gains(layers).items()}
    total = _in_series(layers, gains)
    by_chance = 0.5 * math.hypot(*(each.noise for each in layers if each.stage in gains))
    alike = _in_series(layers, {each.stage: each.alike for each in layers})
    if not _one_sided(list(gains.values())):
        return
    if abs(total) > limits.activations + by_chance:
        reason = (
            f"Together, the activations change the error on its way back by {signed(total, 1)} decades, "
            "more than weights are expected to make up for."
        )
        yield Cause("activations", "", reason, {"together": total, "alike": alike})
    elif alike > limits.alike:
        reason = (
            "Together, the activations make all rows alike: what these have in common grows by "
            f"{alike:.1f} decades beside what they differ by."
        )
        yield Cause("activations", "", reason, {"together": total, "alike": alike})


def _gains(layers: list[Departures]) -> dict[Stage, float]:
    """By how many decades responses change the error, with what weights should make up for."""
    return {
        each.stage: each.backward + math.log10(each.gain)
        for each in layers
        if each.stage.response and math.isfinite(each.backward)
    }


def _in_series(layers: list[Departures], departures: Mapping[Stage, float]) -> float:
    """The departures of those stages, all in series, that add up to most."""
    totals = [
        math.fsum(departures.get(stage, 0.0) for stage in each.chain.in_series(each.stage)) for each in layers
    ]
    return max(totals, key=abs, default=0.0)


def _one_sided(departures: list[float]) -> bool:
    grown = sum(each > 0 for each in departures)
    return max(grown, len(departures) - grown) >= _SAME_SIGN * len(departures)


def _largest(evidence: Mapping[str, float]) -> float:
    return max((abs(each) for each in evidence.values()), default=0.0)
