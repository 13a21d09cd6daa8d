"""The first bad number: what made the first NaN or infinity, out of which numbers, for which row.

An operation is to blame that gives NaN where nothing it reads is NaN, or an infinity where nothing it reads
is infinite. The loss is looked at first, then the way back; for a run, the update of the step before too.
A run is looked at by replaying its failing step, so that steps which do not fail pay nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chainrule.backends.finding import NAMES, NAN, Fault, cure_of, fault_of, first_place, kinds
from chainrule.graph import ITEM, KEEPS_HISTORY, Array, Graph, Node, format_type, reachable
from chainrule.insight.adjoint import Adjoint, Edge, parameters_of
from chainrule.insight.moment import Given, Moment, moment_of
from chainrule.insight.rows import Rows
from chainrule.schedule.reasons import line_of
from chainrule.tensor import Parameter, Tensor
from chainrule.train.past import Past, Replayed
from chainrule.train.replaying import bad_step_of, past_of

FORWARD, BACKWARD, UPDATE, GIVEN, ROUNDING = "forward", "backward", "update", "given", "rounding"
_WAY_BACK = "the gradient that comes back"
_ROUNDING_CURE = (
    "The numbers are at the edge of their dtype: a smaller learning rate, or float64, keeps off it."
)
_GIVEN_CURE = "Fill gaps in the data, or leave such rows out; a weight that is not finite has to be set anew."


class Read(NamedTuple):
    """What an operation read: what it is called, the range of its finite numbers, the number at the place.

    here  None where the result's element is made of several elements, or of none
    """

    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    here: float | None

    def __str__(self) -> str:
        numbers = f"{self.low:.4g}" if self.low == self.high else f"from {self.low:.4g} to {self.high:.4g}"
        return f"{self.name}: {numbers}" + (
            "" if self.here is None or self.low == self.high else f", here {self.here:.6g}"
        )


@dataclass(frozen=True, repr=False)
class BadNumber:
    """The first NaN or infinity, and what made it.

    step       of the run, counted from 0; None for a loss that was given
    way        "forward", "backward", "update" (of the optimizer), "given" (nothing made it: data or weights
               hold it), or "rounding" (compiled code met it, the reference, which rounds otherwise, does not)
    made       "nan", "inf" or "nan and inf"
    operation  that made it: "log"; on the way back, the operation whose derivative did
    layer      path of its layer, "" outside of all
    line       the user's, ``train.py:12``, "" where none of them computes it
    of         what is bad: the result of the operation, the gradient by something, a parameter
    place      indices of the first such element
    row        of the batch to which it belongs, "" where it belongs to none or to several
    reads      what went in
    cure       what helps, a sentence
    gradient   the first one on the way back that is bad; None where all are finite
    """

    step: int | None
    way: str
    made: str
    operation: str
    layer: str
    line: str
    of: str
    place: tuple[int, ...]
    row: str
    reads: tuple[Read, ...]
    cure: str
    gradient: BadNumber | None = None

    @property
    def sentence(self) -> str:
        """Who made what, where, for which row, in which step."""
        return self._what if self.step is None else f"in step {self.step:,}, {self._what}"

    @property
    def _what(self) -> str:
        places = [self.layer and f"in layer {self.layer}", self.line and f"at {self.line}"]
        where = "".join(f" {each}" for each in places if each)
        what = {
            FORWARD: f"{self.operation}{where} made {self.made}",
            BACKWARD: f"the derivative of {self.operation}{where} made {self.made}",
            UPDATE: f"the update by {self.operation} made {self.made}",
            GIVEN: f"{self.made.replace('nan', 'NaN')} was given, no operation made it",
            ROUNDING: "compiled code met nan or inf, and the reference, which rounds otherwise, does not",
        }[self.way]
        return f"{what} for {self.row}" if self.row else what

    @property
    def _which(self) -> str:
        return f"element {self.place} of {self.of}" if self.place else self.of

    def __str__(self) -> str:
        told = [f"{self.sentence[:1].upper()}{self.sentence[1:]}{self.of and f': {self._which}'}."]
        told += [f"  {'and' if k else 'It reads'} {each}" for k, each in enumerate(self.reads)]
        if self.gradient is not None:
            told += [f"  On the way back, {self.gradient._what}: {self.gradient._which}."]
        return "\n".join([*told, f"  {self.cure}"])

    __repr__ = __str__


def first_bad_number(given: Given, step: int | None = None) -> BadNumber | None:
    """What made the first NaN or infinity of a loss, its gradients, or a training; None where all is finite.

    given  a loss that was computed eagerly, or a run, or the folder of one (see `cr.train.replay`)
    step   of the run; by default the one at which training ended because its loss was not finite

    >>> import chainrule as cr
    >>> weight = cr.nn.Parameter([0.5, 0.0])
    >>> weight.name = "weight"
    >>> found = cr.first_bad_number(cr.sum(cr.log(weight * 2)))
    >>> found.operation, found.made, found.place, found.reads[0].here
    ('log', 'inf', (1,), 0.0)
    >>> cr.first_bad_number(cr.sum(cr.exp(weight))) is None
    True
    """
    with np.errstate(all="ignore"):
        if isinstance(given, Tensor | Replayed):
            return _of_loss(moment_of(given))
        bad = bad_step_of(given)
        at = bad if step is None else step
        return None if at is None else of_step(past_of(given), at, at == bad)


@np.errstate(all="ignore")
def of_step(past: Past, step: int, ended: bool = True) -> BadNumber | None:
    """Of a step; where its weights are bad already, of the first step that made them so.

    ended  whether training ended there, because its loss or gradient was not finite
    """
    replayed = past.replay(step)
    at = replayed.step
    while (spoilt := _spoilt(replayed)) and replayed.step > 0:
        after, replayed = replayed, past.replay(replayed.step - 1)
        if not _spoilt(replayed):
            return _of_loss(moment_of(replayed)) or _of_update(past, replayed, after, spoilt)
    found = _of_loss(moment_of(replayed))
    if found is None and ended and replayed.step == at:
        return BadNumber(replayed.step, ROUNDING, "", "", "", "", "", (), "", (), _ROUNDING_CURE)
    return found


def _spoilt(replayed: Replayed) -> str:
    """The first parameter or buffer that is not finite before a step."""
    names = (name for name in replayed.state if name.startswith("model."))
    return next((name for name in names if kinds(replayed.state[name])), "")


def _of_update(past: Past, before: Replayed, after: Replayed, name: str) -> BadNumber:
    """An update that made a parameter bad of a finite gradient."""
    value, path, loss = after.state[name], name.removeprefix("model."), before.loss.node
    kind = kinds(value)
    place = first_place(value, kind)
    node = parameters_of(loss).get(path)
    gradient = None if node is None else Adjoint(loss, [node]).cotangents.get(node)
    reads = [_read("the weight", before.state[name], place)]
    reads += [_read("its gradient", gradient[0], place)] if gradient else []
    optimizer, layer = type(past.trainer.optimizer).__name__, path.rpartition(".")[0]
    return BadNumber(
        before.step, UPDATE, NAMES[kind], optimizer, layer, "", path, place, "", tuple(reads),
        cure_of(optimizer),
    )  # fmt: skip


# -- a loss --------------------------------------------------------------------------------------------------
def _of_loss(moment: Moment) -> BadNumber | None:
    loss = moment.loss.node
    leaves = [node for node in reachable([loss]) if node.primitive is None and node.status in KEEPS_HISTORY]
    learned = [node for node in leaves if isinstance(node.cell, Parameter)] or leaves
    rows = Rows([loss], moment.rows)
    book = _Book(moment.step, rows)
    back, root = None, None
    if loss.floating and loss.shape == () and learned:
        back, root = book.first_gradient(Adjoint(loss, learned))
    if kinds(loss.value):
        root = _root([loss])
    if root is None:
        return back
    return book.forward(root, back)


def _root(bad: Sequence[Node]) -> Node:
    """Of the values that are bad, and those through which they became so, the first that is to blame."""
    seen, pending = set[Node](), list(bad)
    while pending:
        node = pending.pop()
        if node not in seen and kinds(node.value):
            seen.add(node)
            pending.extend(node.operands)
    order = sorted(seen, key=lambda node: node.serial)
    return next(filter(_to_blame, order), order[0])


def _to_blame(node: Node) -> bool:
    """Whether a value has what nothing it was made of has. An infinite constant may be meant: a mask."""
    if node.primitive is None:
        return node.cell is not None or bool(kinds(node.value) & NAN)
    return bool(_new(node))


def _new(node: Node) -> int:
    """What there is in a value of NaN and infinity, and in nothing that it was made of."""
    read = kinds([each for each in node.attributes.values() if isinstance(each, float)])
    for each in node.operands:
        read |= kinds(each.value)
    return kinds(node.value) & ~read


@dataclass(frozen=True)
class _Book:
    """Describes what was found."""

    step: int | None
    rows: Rows

    def forward(self, root: Node, gradient: BadNumber | None) -> BadNumber:
        """An operation that made something bad, or what was given so."""
        if root.primitive is None:
            return self._given(root, gradient)
        fault = _fault(root)
        node, place = fault.node, fault.position
        turn = "" if fault.iteration is None else f", in iteration {fault.iteration} of the loop"
        return BadNumber(
            self.step, FORWARD, NAMES[fault.kind], node.name, node.layer or root.layer,
            line_of(node) or line_of(root), f"its result, {format_type(node.type)}{turn}", place,
            self.rows.of(node, place), _reads(node, fault.operands, place if _pointwise(node) else None),
            cure_of(node.name), gradient,
        )  # fmt: skip

    def _given(self, leaf: Node, gradient: BadNumber | None) -> BadNumber:
        kind = kinds(leaf.value)
        place = first_place(leaf.value, kind)
        return BadNumber(
            self.step, GIVEN, NAMES[kind], "", "", "", _called(leaf), place, self.rows.of(leaf, place), (),
            _GIVEN_CURE, gradient,
        )  # fmt: skip

    def first_gradient(self, adjoint: Adjoint) -> tuple[BadNumber | None, Node | None]:
        """The first bad gradient on the way back; and who is to blame, where a value was bad already."""
        for edge, part in adjoint.parts.items():
            came = adjoint.cotangents[edge.user]
            if not kinds(part) and not kinds(came):
                continue
            values = [each for each in (edge.user, *edge.user.operands) if kinds(each.value)]
            found = self._backward(edge, part[0], came[0]) if edge.user.name != ITEM else None
            return found, _root(values) if values else None
        return None, None

    def _backward(self, edge: Edge, part: Array, came: Array) -> BadNumber:
        user = edge.user
        bad = part if kinds(part) else came
        kind = kinds(bad) & ~kinds(came) or kinds(bad)
        place = first_place(bad, kind)
        here = place if _pointwise(user) and bad.shape == user.shape else None
        reads = (_read(_WAY_BACK, came, here, user), *_reads(user, _values(user), here))
        return BadNumber(
            self.step, BACKWARD, NAMES[kind], user.name, user.layer, line_of(user),
            f"the gradient with respect to {_called(edge.value)}", place, self.rows.of(edge.value, place),
            reads, cure_of(user.name),
        )  # fmt: skip


def _fault(root: Node) -> Fault:
    """Who is to blame: the operation, or one within it, where it has a graph of its own, such as a loop."""
    if any(isinstance(each, Graph) for each in root.attributes.values()):
        inside = fault_of(Graph(root.operands, (root,)), _values(root))
        if inside is not None:
            return inside
    kind = _new(root)
    place = () if isinstance(root.value, tuple) else first_place(root.value, kind)
    return Fault(root, kind, place, _values(root))


def _values(node: Node) -> tuple[Any, ...]:
    return tuple(each.value for each in node.operands)


def _pointwise(node: Node) -> bool:
    return node.primitive is not None and node.primitive.elementwise


def _reads(node: Node, values: Sequence[Any], place: tuple[int, ...] | None) -> tuple[Read, ...]:
    """The floating arrays that an operation read; what they are at a place of its result."""
    return tuple(
        _read(_called(each), value, place, node)
        for each, value in zip(node.operands, values, strict=True)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size
    )


def _read(name: str, value: Array, place: tuple[int, ...] | None, result: Node | None = None) -> Read:
    """What was read; a place is that in a result, or in the array itself."""
    finite = value[np.isfinite(value)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.nan, math.nan)
    if place is None:
        return Read(name, value.shape, low, high, None)
    whole = value if result is None else np.broadcast_to(value, result.shape)
    return Read(name, value.shape, low, high, float(whole[place]))


def _called(node: Node) -> str:
    """What a value is called."""
    if node.cell is not None and node.cell.name:
        return str(node.cell.name)
    if node.primitive is None:
        return (
            "the data" if node.size > 1 else f"the number {node.value.item():.6g}" if node.size else "nothing"
        )
    of = [each.cell.name for each in node.operands if each.cell is not None]
    if len(node.operands) == 1 and any(of):
        return f"{node.name} of {of[0]}"
    return f"{node.name} in {node.layer}" if node.layer else node.name
