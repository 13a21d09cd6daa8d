"""Opening one number: an element of a gradient as a sum of what made it, layer by layer.

An element of a gradient is a number times elements of the errors further on: dL/dx = Σ dz/dx · dL/dz over
the elements z that x moves. What x moves is followed forward, from gate to gate (see `ledger`), until it is
more than one element: these are the children, and each is opened in the same way, up to the loss. The
largest children and one remainder add up to the number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import GradientError
from chainrule.graph import Array, Node
from chainrule.insight.adjoint import Adjoint, parameters_of
from chainrule.insight.gates import gates_of, place_of
from chainrule.insight.moment import moment_of
from chainrule.ops import ops
from chainrule.origin import at_user_line
from chainrule.reverse import check_backward
from chainrule.tensor import Tensor, asarray
from chainrule.transform import jvp

Index = tuple[int, ...]


class Step(NamedTuple):
    """One factor on the way to the children: the operation and its layer, and the local derivative."""

    label: str
    factor: float


@dataclass(frozen=True)
class Remainder:
    """The children that are not listed: their sum, and how many they are."""

    value: float
    count: int


@dataclass(frozen=True)
class Explanation:
    """A number in a gradient, or a part of one.

    label       what it is: a parameter's element, or the element of a layer through which a part of it goes
    value       the number
    steps       the local derivatives between it and its children, in order
    children    the largest parts, largest first
    remainder   all other parts together
    magnitude   the sum of the absolute values of all parts: much more than the value where they cancel
    """

    label: str
    value: float
    steps: tuple[Step, ...]
    children: tuple[Part, ...]
    remainder: Remainder
    magnitude: float

    @property
    def cancellation(self) -> float:
        """|value| ÷ the sum of the parts' absolute values: 1 where all have one sign, 0 where they cancel."""
        return abs(self.value) / self.magnitude if self.magnitude else math.nan

    def __str__(self) -> str:
        steps = [f"    × {step.factor:<12.6g} {step.label}" for step in self.steps]
        rows = [f"{each.value:+14.6g}  {each.label}  (× {each.derivative:.4g})" for each in self.children]
        if self.remainder.count:
            rows.append(f"{self.remainder.value:+14.6g}  remaining {self.remainder.count}")
        head = f"{self.label} = {self.value:.6g}"
        if len(rows) > 1:
            count = len(self.children) + self.remainder.count
            head += f", the sum of {count} parts; it is {self.cancellation:.0%} of the sum of their sizes"
        return "\n".join([head, *steps, *rows])


@dataclass(frozen=True)
class Part:
    """A child: the part of a number that goes through one element of a layer.

    label       the layer and the element, whose first index is the row of the batch
    value       the part
    derivative  of that element by what is opened: the last factor before it
    """

    label: str
    value: float
    derivative: float
    _at: _State = field(repr=False)

    def open(self, most: int = 5) -> Explanation:
        """The parts of this part, one layer nearer to the loss."""
        return self._at.opened(self.label, most)


class _Book:
    """What all numbers of one loss have in common."""

    def __init__(self, loss: Node, leaves: Sequence[Node]) -> None:
        self.adjoint = Adjoint(loss, leaves)
        self.gates = gates_of(self.adjoint)

    def error(self, node: Node) -> Array:
        """The derivative of the loss by a value, which has one output."""
        (cotangent,) = self.adjoint.cotangents[node]
        return cotangent

    def between(self, node: Node, gate: Node) -> list[Node]:
        """The nodes on the ways from a node to its gate, the gate included, operands first."""
        found, pending = set[Node](), [node]
        while pending:
            for edge in self.adjoint.uses.get(pending.pop(), ()):
                if edge.user not in found:
                    found.add(edge.user)
                    if edge.user is not gate:
                        pending.append(edge.user)
        return sorted(found, key=lambda each: each.serial)

    def moved(self, node: Node, tangent: Array, gate: Node) -> Array:
        """How the gate moves when a node moves like that."""
        tangents = {node: tangent}
        for user in self.between(node, gate):
            moving = [k for k, each in enumerate(user.operands) if each in tangents]
            if not isinstance(user.value, np.ndarray):
                raise GradientError(
                    f"{user.name} has several outputs, and its inside cannot be opened yet{at_user_line()}"
                )
            tangents[user] = _pushed(user, moving, [tangents[user.operands[k]] for k in moving])
        return tangents[gate]


@dataclass(frozen=True)
class _State:
    """A number: a factor times the error of one element of a node."""

    book: _Book
    node: Node
    index: Index
    factor: float

    @property
    def value(self) -> float:
        return self.factor * float(self.book.error(self.node)[self.index])

    def opened(self, label: str, most: int) -> Explanation:
        """Follow what the element moves until that is more than one element."""
        at, steps = self, list[Step]()
        while at.node is not self.book.adjoint.loss:
            gate = self.book.gates[at.node]
            tangent = np.zeros(at.node.shape, at.node.dtype)
            tangent[at.index] = 1
            tangent = self.book.moved(at.node, tangent, gate).astype(np.float64)
            places = np.argwhere(tangent)
            if len(places) != 1:
                return self._divided(label, steps, at, gate, tangent, most)
            index = tuple(map(int, places[0]))
            derivative = float(tangent[index])
            if derivative != 1 or gate.name not in _MOVES:
                steps.append(Step(f"{gate.name} in {place_of(gate)}", derivative))
            at = _State(self.book, gate, index, at.factor * derivative)
        return Explanation(label, self.value, tuple(steps), (), Remainder(0.0, 0), abs(self.value))

    def _divided(
        self, label: str, steps: list[Step], at: _State, gate: Node, tangent: Array, most: int
    ) -> Explanation:
        factors = at.factor * tangent
        parts = factors * self.book.error(gate)
        moved = np.flatnonzero(tangent)
        order = moved[np.argsort(-np.abs(parts.ravel()[moved]), kind="stable")]
        children = []
        for flat in order[:most]:
            index = tuple(map(int, np.unravel_index(flat, parts.shape)))
            state = _State(self.book, gate, index, float(factors[index]))
            name = f"{place_of(gate)}{list(index)}"
            children.append(Part(name, float(parts[index]), float(tangent[index]), state))
        rest = float(parts.ravel()[order[len(children) :]].sum())
        remainder = Remainder(rest, len(moved) - len(children))
        magnitude = float(np.abs(parts).sum())
        return Explanation(label, self.value, tuple(steps), tuple(children), remainder, magnitude)


_MOVES = frozenset(("permute_dims", "reshape", "broadcast_to", "identity", "add"))
"""Operations that pass an element on as it is, not worth a line."""


def explain(
    loss: Tensor, parameter: str, index: Index, most: int = 5, step: int | None = None
) -> Explanation:
    """Open one element of a gradient into the parts that made it.

    loss       a scalar that was computed eagerly
    parameter  the path of a parameter, such as "layers.0.weight"
    index      which of its elements
    most       how many parts are listed; the others are one remainder

    >>> import numpy as np, chainrule as cr
    >>> weight = cr.nn.Parameter(np.array([2.0, 1.0]))
    >>> weight.name = "weight"
    >>> inputs = np.array([[1.0, 0.0], [3.0, 1.0], [10.0, 2.0]])
    >>> found = cr.explain(cr.sum(cr.square(inputs @ weight)), "weight", (0,))
    >>> found.value  # Σ over the rows of 2 · (inputs @ weight) · inputs[:, 0]
    486.0
    >>> [(each.label.split()[0], each.value) for each in found.children]
    [('matmul', 440.0), ('matmul', 42.0), ('matmul', 4.0)]
    """
    moment = moment_of(loss, step)
    node = moment.loss.node
    check_backward(node, seeded=False)
    leaves = parameters_of(node)
    if parameter not in leaves:
        raise KeyError(f"this loss depends on no parameter {parameter!r}, but on {', '.join(leaves)}")
    leaf = leaves[parameter]
    fits = len(index) == leaf.ndim and all(
        0 <= k < extent for k, extent in zip(index, leaf.shape, strict=True)
    )
    if not fits:
        raise IndexError(f"{parameter} has shape {leaf.shape}: {index} is none of its elements")
    book = _Book(node, [leaf])
    if leaf not in book.adjoint.cotangents:
        raise GradientError(f"no derivative flows from this loss to {parameter}{at_user_line()}")
    return _State(book, leaf, tuple(index), 1.0).opened(f"{parameter}{list(index)}", most)


def _pushed(node: Node, moving: Sequence[int], tangents: Sequence[Array]) -> Array:
    """How the value of a node moves when some of its operands do."""
    primitive = node.primitive
    assert primitive is not None

    def of_moving(*values: Any) -> Tensor:
        operands = list(node.operands)
        for k, value in zip(moving, values, strict=True):
            operands[k] = value.node
        return Tensor(ops.apply(primitive, operands, **node.attributes))

    primals = [asarray(node.operands[k].value) for k in moving]
    _, tangent = jvp(of_moving, primals, [asarray(each) for each in tangents])
    moved: Array = tangent.numpy()
    return moved
