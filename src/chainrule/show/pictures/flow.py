"""The data flow of a network as boxes and arrows: what each layer puts out, and what comes back to it.

The operations of one call of a layer are one box. Operations are in the order in which they were computed, so
an arrow never leads to an earlier box. Over an arrow runs a value, forward, and over the same arrow comes
back a part of its derivative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from chainrule.graph import Node, reachable
from chainrule.insight.adjoint import Adjoint, Edge, parameters_of
from chainrule.insight.gates import place_of
from chainrule.reverse import check_backward
from chainrule.tensor import Tensor

INPUT, TARGETS, LOSS = "input", "targets", "loss"
_MOVES = frozenset(("permute_dims", "reshape", "broadcast_to", "identity", "item", "astype"))
_MOST_OPERATIONS = 3  # that are named where the kind of a layer is not known


@dataclass(frozen=True)
class Box:
    """One call of a layer, or what goes in, or the loss.

    name        its path; "input", "targets", "loss"; the operation and the line where there is no layer
    kind        its class, or else its operations
    shape       of what it puts out
    activation  root mean square of what it puts out
    error       norm of the derivative of the loss by that; None where none is wanted
    gradient    norm of the gradient of its own parameters; None where it has none
    share       its part of the sum of squares of the gradients of all parameters
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    activation: float
    error: float | None = None
    gradient: float | None = None
    share: float | None = None


class Arrow(NamedTuple):
    """From box number `source` to box number `target`.

    share  of what comes back to the source: those of all its arrows add up to 1; None where nothing does
    """

    source: int
    target: int
    share: float | None


@dataclass(frozen=True)
class Dataflow:
    """Boxes in the order of computation, and arrows between them."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def of_loss(loss: Tensor, kinds: Mapping[str, str] | None = None, depth: int | None = None) -> Dataflow:
    """The data flow behind a loss that was computed eagerly.

    kinds  of layers by path, such as {"0": "Linear"}; the others are told by their operations
    depth  parts of a path that are told apart: 1 makes a box of "encoder" and all below it

    >>> import chainrule as cr
    >>> model = cr.nn.Sequential(cr.nn.Linear(3, 4), cr.nn.Tanh(), cr.nn.Linear(4, 1))
    >>> loss = cr.nn.MSELoss()(model(cr.ones((5, 3))), cr.zeros((5, 1)))
    >>> [(box.name, box.kind, box.shape) for box in of_loss(loss).boxes[:3]]
    [('input', '', (5, 3)), ('0', 'matmul, add', (5, 4)), ('1', 'tanh', (5, 4))]
    """
    node = loss.node
    check_backward(node, seeded=False)
    parameters = parameters_of(node)
    adjoint = Adjoint(node, list(parameters.values()))
    calls = _calls(node, depth)
    flow = _Flow(calls, adjoint)
    gradients = flow.gradients(parameters.values())
    whole = math.fsum(each * each for each in gradients if each)
    boxes = [
        flow.box(k, (kinds or {}).get(call.name, ""), gradients[k], whole) for k, call in enumerate(calls)
    ]
    return Dataflow(tuple(boxes), tuple(flow.arrows()))


# -- calls of layers -----------------------------------------------------------------------------------------
class _Call(NamedTuple):
    name: str
    nodes: list[Node]


def _calls(loss: Node, depth: int | None) -> list[_Call]:
    """What goes in, then neighbours in the order of computation that belong to one layer."""
    nodes = reachable([loss])
    made = [node for node in nodes if node.primitive is not None or node.layer]
    grouped = [list(group) for _, group in groupby(made, lambda node: _cut(node.layer, depth))]
    calls = [_Call(_cut(group[0].layer, depth) or _outside(group, loss), group) for group in grouped]
    inputs, targets = _given(nodes, calls)
    return [*inputs, *calls[:-1], *targets, calls[-1]]


def _cut(path: str, depth: int | None) -> str:
    return path if depth is None else ".".join(path.split(".")[:depth])


def _outside(group: Sequence[Node], loss: Node) -> str:
    return LOSS if group[-1] is loss else place_of(group[-1])


def _given(nodes: Sequence[Node], calls: Sequence[_Call]) -> tuple[list[_Call], list[_Call]]:
    """The data: arrays that were there before the first operation; and the first that only the loss reads."""
    leaves = [each for each in nodes if each.primitive is None and each.cell is None and not each.layer]
    data = [each for each in leaves if each.size > 1]
    begin = min(node.serial for call in calls for node in call.nodes if node.primitive is not None)
    read_by_layers = _read(call for call in calls if call.name != LOSS)
    read_by_loss = _read(calls[-1:]) if len(calls) > 1 else set()
    targets = [node for node in data if node in read_by_loss - read_by_layers][:1]
    inputs = [node for node in data if node.serial < begin and node not in targets]
    names = [INPUT] if len(inputs) == 1 else [f"{INPUT} {k}" for k in range(1, len(inputs) + 1)]
    given = [_Call(name, [node]) for name, node in zip(names, inputs, strict=True)]
    return given, [_Call(TARGETS, [node]) for node in targets]


def _read(calls: Iterable[_Call]) -> set[Node]:
    return {each for call in calls for node in call.nodes for each in node.operands}


# -- boxes and arrows ----------------------------------------------------------------------------------------
class _Flow:
    """Calls of layers, and what runs between them."""

    def __init__(self, calls: Sequence[_Call], adjoint: Adjoint) -> None:
        self._calls, self._adjoint = calls, adjoint
        self._home = {node: k for k, call in enumerate(calls) for node in call.nodes}
        self._over: dict[tuple[int, int], list[Edge]] = {}
        for node, home in self._home.items():
            for operand, value in enumerate(node.operands):
                source = self._home.get(value, home)
                if source != home:
                    self._over.setdefault((source, home), []).append(Edge(node, operand))

    def gradients(self, leaves: Any) -> list[float | None]:
        """The norm of the gradient of each call's own parameters: of those it is the first to read."""
        readers = {
            operand: self._home[node]
            for node in sorted(self._home, key=lambda each: -each.serial)
            for operand in node.operands
        }
        squares: list[float | None] = [None] * len(self._calls)
        for leaf in leaves:
            if leaf in readers:
                home, (gradient,) = readers[leaf], self._adjoint.cotangents.get(leaf, (np.zeros(1),))
                squares[home] = (squares[home] or 0.0) + _norm([gradient]) ** 2
        return [None if square is None else math.sqrt(square) for square in squares]

    def box(self, k: int, kind: str, gradient: float | None, whole: float) -> Box:
        """The box of call `k`, whose parameters have a gradient of that norm."""
        name, nodes = self._calls[k]
        put_out = list(dict.fromkeys(edge.value for edge in self._leaving(k))) or [nodes[-1]]
        values = [value for node in put_out for value in _arrays(node.value)]
        errors = [each for node in put_out for each in self._adjoint.cotangents.get(node, ())]
        size = sum(value.size for value in values)
        share = None if gradient is None else gradient**2 / whole if whole else math.nan
        return Box(
            name,
            kind or _operations(nodes),
            values[-1].shape,
            _norm(values) / math.sqrt(max(1, size)),
            _norm(errors) if errors else None,
            gradient,
            share,
        )

    def arrows(self) -> Iterator[Arrow]:
        """Every pair of calls between which a value runs, with the share of what comes back."""
        for (source, target), edges in sorted(self._over.items()):
            parts = [self._projected(edge) for edge in edges]
            whole = math.fsum(filter(None, map(self._projected, self._leaving(source))))
            known = [each for each in parts if each is not None]
            yield Arrow(source, target, math.fsum(known) / whole if known and whole else None)

    def _leaving(self, source: int) -> Iterator[Edge]:
        return (edge for (home, _), edges in self._over.items() if home == source for edge in edges)

    def _projected(self, edge: Edge) -> float | None:
        """What came back over an edge, on what came back to its value over all edges that leave the box."""
        if edge not in self._adjoint.parts:
            return None
        whole = self._outside(edge.value)
        part = _flat(self._adjoint.parts[edge])
        return float(np.vdot(part, whole))

    def _outside(self, value: Node) -> Any:
        home = self._home[value]
        uses = [edge for edge in self._adjoint.uses[value] if self._home[edge.user] != home]
        return sum(_flat(self._adjoint.parts[edge]) for edge in uses)


def _operations(nodes: Sequence[Node]) -> str:
    names = [node.name for node in nodes if node.primitive is not None and node.name not in _MOVES]
    told = list(dict.fromkeys(names))
    return ", ".join(told[:_MOST_OPERATIONS]) + ("…" if len(told) > _MOST_OPERATIONS else "")


def _arrays(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _flat(arrays: Sequence[Any]) -> Any:
    return np.concatenate([np.asarray(each, np.float64).ravel() for each in arrays])


def _norm(arrays: Sequence[Any]) -> float:
    """The Euclidean norm of all together, without overflow; NaN or infinite where one of them is."""
    flat = np.abs(_flat([each for each in arrays if each.dtype.kind in "fiub"] or [np.zeros(1)]))
    largest = float(flat.max(initial=0.0))
    if not largest or not math.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(flat / largest))
