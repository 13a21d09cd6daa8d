"""Sensitivity: how far a change of one number carries, and how far the chain rule foresees it.

Backward, the chain rule asks what every value does to the loss. Forward, it asks what one value does to
everything behind it: the change of each stage is the local derivative times the change before it. That is
exact for a change that is small enough; a what-if makes a change of any size and shows both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import DTypeError, GradientError
from chainrule.graph import Array, Node
from chainrule.insight.forward import Value, evaluated, moved
from chainrule.insight.gates import place_of
from chainrule.insight.moment import Given, moment_of
from chainrule.insight.named import Index, asked_for, place_in, value_named
from chainrule.insight.spread import moves
from chainrule.origin import at_user_line
from chainrule.reverse import check_backward
from chainrule.tensor import Tensor

LOSS = "loss"


class Reached(NamedTuple):
    """How a stage moves, per unit of the change.

    layer  path of the layer whose output this is; outside of layers the operation and the user's line
    norm   Euclidean norm of the movement of all its elements
    moved  how many of its elements move
    size   how many it has
    """

    layer: str
    norm: float
    moved: int
    size: int


@dataclass(frozen=True, repr=False)
class Sensitivity:
    """How a small change of one number moves everything behind it.

    label   the number: "0.weight[3, 5]"
    value   what it is
    stages  from there to the loss
    loss    how the loss moves: the derivative of the loss by the number
    """

    label: str
    value: float
    stages: tuple[Reached, ...]
    loss: float

    def __str__(self) -> str:
        head = [f"{self.label} = {self.value:.6g}; for each unit that it changes, to first order:"]
        rows = [
            (each.layer, f"{each.norm:.4g}", f"{each.moved:,} of {each.size:,} elements")
            for each in self.stages
        ]
        table = _table(("stage", "moves by", "in"), rows, "<><")
        return "\n".join([*head, *table, f"{LOSS} {self.loss:+.6g}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks: what is printed elsewhere."""
        return f"<pre>{escape(str(self))}</pre>"


class Stage(NamedTuple):
    """What a change did to a stage: Euclidean norms over its elements.

    layer           path of the layer whose output this is; outside of layers the operation and the line
    predicted_norm  of the change that the chain rule foresees; nan where there is no derivative
    actual_norm     of the change that there is
    gap             of the difference between the two
    """

    layer: str
    predicted_norm: float
    actual_norm: float
    gap: float


@dataclass(frozen=True, repr=False)
class WhatIf:
    """A change of one number, and what became of everything behind it.

    label           the number: "0.weight[3, 5]"
    before, after   what it was, and what it is in this what-if
    stages          from there to the loss, each with its predicted and its actual change
    loss_before     the loss as it was
    loss_predicted  what the chain rule says that it becomes; nan where there is no derivative
    loss_after      what it becomes
    held            layers that bring in numbers through which no derivative flows (the mask of a Dropout, the
                    slopes of a LeakyReLU): an eager loss does not keep how they were made, so they stay
    """

    label: str
    before: float
    after: float
    stages: tuple[Stage, ...]
    loss_before: float
    loss_predicted: float
    loss_after: float
    held: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.label} from {self.before:.6g} to {self.after:.6g} ({self.after - self.before:+.4g})"
        rows = [
            (
                each.layer,
                _told(each.predicted_norm),
                f"{each.actual_norm:.4g}",
                _share(each.gap, each.actual_norm),
            )
            for each in self.stages
        ]
        table = _table(("stage", "predicted", "actual", "gap"), rows, "<>>>")
        foreseen = self.loss_predicted - self.loss_before
        loss = f"{LOSS} from {self.loss_before:.6g} to {self.loss_after:.6g}"
        change = f"{self.loss_after - self.loss_before:+.4g}, predicted {_told(foreseen, '+')}"
        held = [f"held as they were: numbers without a derivative in {', '.join(self.held)}"]
        return "\n".join([head, *table, f"{loss} ({change})", *(held if self.held else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks: what is printed elsewhere."""
        return f"<pre>{escape(str(self))}</pre>"


def sensitivity(
    loss: Given, name: str | Tensor, index: int | Index = (), step: int | None = None
) -> Sensitivity:
    """How a small change of one number moves every later stage, and the loss, by the chain rule.

    loss   a scalar that was computed eagerly, or a run or its folder: then the loss of one of its steps
    name   a parameter by its path, an input ("input", "input 1", … in the order in which they were made), a
           layer by its path, which means its output; or a Tensor that the loss was computed from
    index  which element of it
    step   of a run, counted from 0; the last one where none is named

    Raises GradientError for integers, which have no derivative: see `what_if`.

    >>> import chainrule as cr
    >>> x = cr.asarray([1.0, 2.0])
    >>> with cr.scope("double"):
    ...     y = x * 2.0
    >>> found = cr.sensitivity(cr.sum(y**2), x, 1)
    >>> found.stages
    (Reached(layer='double', norm=2.0, moved=1, size=2),)
    >>> found.loss  # 2 · y[1] · 2
    16.0
    """
    node, label, start, place = _chosen(loss, name, index, step)
    if not start.floating:
        raise GradientError(
            f"{label} is {start.dtype}{at_user_line()}: integers and booleans have no derivative. "
            "cr.what_if(...) puts another value in its place"
        )
    tangents = moved(node, start, _change(start, place, 1))
    stages = tuple(Reached(label, *_size(tangents[last])) for label, last in _stages(tangents, node))
    return Sensitivity(label, float(start.value[place]), stages, float(_flat(tangents[node]).sum()))


def what_if(
    loss: Given,
    name: str | Tensor,
    index: int | Index = (),
    *,
    delta: float | None = None,
    to: float | None = None,
    step: int | None = None,
) -> WhatIf:
    """Change one number, compute everything behind it again, and compare with what the chain rule foresees.

    loss   a scalar that was computed eagerly, or a run or its folder: then the loss of one of its steps. It,
           and all it was computed from, stay as they are
    name   a parameter by its path, an input ("input", "input 1", … in the order in which they were made), a
           layer by its path, which means its output; or a Tensor that the loss was computed from
    index  which element of it
    delta  how much is added to the number; or
    to     what it becomes
    step   of a run, counted from 0; the last one where none is named

    The recorded operations are computed again, in the precision that they have. Random numbers stay the same.

    >>> import chainrule as cr
    >>> x = cr.asarray(3.0)
    >>> found = cr.what_if(x**2, x, delta=0.5)
    >>> found.loss_before, found.loss_predicted, found.loss_after
    (9.0, 12.0, 12.25)
    """
    node, label, start, place = _chosen(loss, name, index, step)
    before = start.value[place].item()
    after = _changed(start, label, before, delta, to)
    value = start.value.copy()
    value[place] = after
    values = evaluated(node, start, value)
    shift = value[place].item() - before
    tangents = moved(node, start, _change(start, place, shift)) if start.floating else {}
    stages = tuple(
        Stage(label, *_compared(last.value, values[last], tangents.get(last)))
        for label, last in _stages(values, node)
    )
    was = float(node.value)
    foreseen = was + float(tangents[node]) if tangents else math.nan
    held = tuple(dict.fromkeys(_holding(values)))
    return WhatIf(label, float(before), float(after), stages, was, foreseen, float(values[node]), held)


# -- what is changed -----------------------------------------------------------------------------------------
def _chosen(
    loss: Given, name: str | Tensor, index: int | Index, step: int | None
) -> tuple[Node, str, Node, Index]:
    """The loss, the number's label, the value that it is in, and where."""
    node = moment_of(loss, step).loss.node
    check_backward(node, seeded=False)
    name, index = asked_for(name, index)
    called, start = value_named(node, name)
    place = place_in(start, called, index)
    return node, f"{called}{list(place)}" if place else called, start, place


def _change(start: Node, place: Index, size: Any) -> Array:
    change = np.zeros(start.shape, start.dtype)
    change[place] = size
    return change


def _changed(start: Node, label: str, before: Any, delta: float | None, to: float | None) -> Any:
    """What the number becomes."""
    if (delta is None) == (to is None):
        raise TypeError("what_if takes either delta=, which is added to the number, or to=, what it becomes")
    after = to if to is not None else before + delta
    if not start.floating and start.dtype.type(after) != after:
        raise DTypeError(f"{label} is {start.dtype}: it cannot become {after}{at_user_line()}")
    return start.dtype.type(after).item()


# -- stages --------------------------------------------------------------------------------------------------
def _stages(reached: Iterable[Node], loss: Node) -> Iterator[tuple[str, Node]]:
    """The last node of every layer that is reached, or of every line outside of layers.

    A layer that is used several times, or computes between layers inside of it, is a stage each time. The
    loss is none, nor is what only lays numbers out anew, such as the transpose of a weight before a loop.
    """
    count: dict[str, int] = {}
    _, *nodes = reached
    for _, run in groupby(nodes, _place):
        *_, last = passed = list(run)
        if last is not loss and not all(map(moves, passed)):
            label = place_of(last)
            count[label] = count.get(label, 0) + 1
            yield label if count[label] == 1 else f"{label} ({count[label]})", last


def _place(node: Node) -> tuple[str, str]:
    line = node.origins[0].where() if node.origins and not node.layer else ""
    return node.layer, line


def _holding(reached: Iterable[Node]) -> Iterator[str]:
    """Where arrays come in that were made without a derivative, by a layer or by a comparison."""
    for node in reached:
        for each in node.operands:
            made = each.dtype == bool or (each.layer and each.size > 1) if each.primitive is None else False
            if made and each.cell is None:
                yield place_of(node)


# -- numbers -------------------------------------------------------------------------------------------------
def _flat(value: Value) -> Array:
    """All numbers of a value, of several outputs too, as float64."""
    parts = value if isinstance(value, tuple) else (value,)
    return np.concatenate([np.asarray(each, np.float64).ravel() for each in parts])


def _norm(flat: Array) -> float:
    return float(np.linalg.norm(flat))


def _size(tangent: Value) -> tuple[float, int, int]:
    flat = _flat(tangent)
    return _norm(flat), int(np.count_nonzero(flat)), flat.size


def _compared(before: Value, after: Value, tangent: Value | None) -> tuple[float, float, float]:
    actual = _flat(after) - _flat(before)
    if tangent is None:
        return math.nan, _norm(actual), math.nan
    predicted = _flat(tangent)
    return _norm(predicted), _norm(actual), _norm(actual - predicted)


def _told(number: float, sign: str = "") -> str:
    return "unknown" if math.isnan(number) else f"{number:{sign}.4g}"


def _share(gap: float, actual: float) -> str:
    """The gap beside what happened; unknown where nothing did, or nothing could be foreseen."""
    return f"{gap / actual:.1%}" if actual and not math.isnan(gap) else "unknown" if gap else "0.0%"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Rows under their heads, columns ranged left (<) or right (>); nothing where there are none."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]
