"""In which order the axes of a stored value lie in memory.

Row-major, rows padded to whole vectors, unless
- a reshape of the value would then need a copy: then without padding, or in the order of the permutation that
  the reshape comes after;
- a weight is only multiplied from the side on which its columns are summed over, as in the first layer, which
  hands no derivative back: then its columns lie innermost, with everything that its update reads and writes;
- the network convolves: then the examples of a batch lie innermost, side by side in the lanes of a vector.
  Images are narrow and channels few, so vectors along them would be half empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from chainrule.graph import Graph, Node
from chainrule.nest import Index
from chainrule.schedule.groups import contraction_of
from chainrule.schedule.joining import reduced_axes
from chainrule.schedule.keeping import REDUCTIONS
from chainrule.schedule.kernels import Buffer, Strides, View
from chainrule.schedule.views import (
    ALIASES,
    ROW,
    Axes,
    axes_through,
    base_of,
    dense_strides,
    is_view,
    padded_strides,
    seen_through,
)
from chainrule.types import Shape

_BATCH = (0,)
Order = tuple[int, ...]
"""The axes of an array from the outermost to the innermost in memory."""


class Layout(NamedTuple):
    """The order of axes, and whether rows are padded."""

    order: Order
    padded: bool

    def strides(self, shape: Shape, itemsize: int) -> Strides:
        """The strides of an array of `shape`, in elements."""
        ordered = tuple(shape[axis] for axis in self.order)
        steps = padded_strides(ordered, itemsize) if self.padded else dense_strides(ordered)
        strides = [0] * len(shape)
        for axis, step in zip(self.order, steps, strict=True):
            strides[axis] = step
        return tuple(strides)


def row_major(node: Node) -> Order:
    """The axes as they are counted."""
    return tuple(range(node.ndim))


class Layouts:
    """The layout of every value of a graph, should it be stored."""

    def __init__(self, graph: Graph, owned: bool) -> None:
        self._views: dict[Node, list[Node]] = {}
        for node in graph.nodes:
            if is_view(node):
                self._views.setdefault(node.operands[0], []).append(node)
        self._batch = _batch_axes(graph)
        self._turned = _turned_weights(graph) if owned and not self._batch else set()

    def of(self, node: Node) -> Layout:
        """The layout in which fewest reshapes of the value need a copy; of several the first."""
        axis = self._batch.get(node)
        if axis is not None:
            return Layout((*(k for k in range(node.ndim) if k != axis), axis), True)
        if node in self._turned:
            return Layout((1, 0), True)
        if node not in self._views:
            return Layout(row_major(node), True)
        best, fewest = Layout(row_major(node), True), math.inf
        for layout in self._candidates(node):
            copies = self._copies(node, layout)
            if copies < fewest:
                best, fewest = layout, copies
            if not copies:
                break
        return best

    def _candidates(self, node: Node) -> Iterator[Layout]:
        yield Layout(row_major(node), True)
        yield Layout(row_major(node), False)
        for view in self._views[node]:
            if view.name == "permute_dims":
                yield Layout(view.attributes["axes"], False)

    def _copies(self, node: Node, layout: Layout) -> int:
        """How many views of the value cannot be had by strides."""
        strides = layout.strides(node.shape, node.dtype.itemsize)
        buffer = Buffer("probe", node.dtype, node.shape, strides, 0)
        pending, failures = [(node, View(buffer, 0, node.shape, strides))], 0
        while pending:
            seen, view = pending.pop()
            for each in self._views.get(seen, ()):
                further = seen_through(each, view)
                if further is None:
                    failures += 1
                else:
                    pending.append((each, further))
        return failures


# -- weights -------------------------------------------------------------------------------------------------
def _turned_weights(graph: Graph) -> set[Node]:
    """The matrices that had better lie column by column, and what elementwise work connects with them.

    A product vectorises along an axis that it keeps: where a matrix lies along the other one, its panels are
    transposed first.
    """
    kept: dict[Node, list[int]] = {}
    inputs = set(graph.inputs)
    for node in graph.nodes:
        nest = contraction_of(node)
        for read in nest.reads if nest is not None else ():
            assert nest is not None
            assert read.operand is not None
            operand = node.operands[read.operand]
            weight = base_of(operand)
            axes = _matrix_axes(operand, read.index)
            if weight in inputs and weight.ndim == 2 and axes is not None:
                counts = kept.setdefault(weight, [0, 0])
                for axis, along in enumerate(axes):
                    counts[axis] += math.prod(nest.extents) * (along in nest.output)
    turned = {weight for weight, (rows, columns) in kept.items() if rows > columns and weight.shape[0] >= ROW}
    return _connected(graph, turned)


def _matrix_axes(operand: Node, index: Sequence[Index]) -> tuple[int, ...] | None:
    """The loop axes that move along rows and columns of the matrix behind an operand; None if not plainly."""
    axes = [_only(each) for each in index]
    if any(len(each) != 1 for each in axes):
        return None
    order = list(range(operand.ndim))
    while is_view(operand):
        if operand.name == "permute_dims":
            order = [order[operand.attributes["axes"].index(k)] for k in range(operand.ndim)]
        elif operand.name not in ALIASES:
            return None
        operand = operand.operands[0]
    return tuple(axes[k][0] for k in order)


def _connected(graph: Graph, matrices: set[Node]) -> set[Node]:
    """Nodes of the same shape that elementwise nodes connect with `matrices`, directly or through others."""
    neighbours: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.primitive is not None and node.primitive.elementwise and node.ndim == 2:
            for operand in node.operands:
                base = base_of(operand)
                if base.shape == node.shape and _is_plain(operand):
                    neighbours.setdefault(node, []).append(base)
                    neighbours.setdefault(base, []).append(node)
    found, pending = set(matrices), list(matrices)
    while pending:
        for each in neighbours.get(pending.pop(), ()):
            if each not in found:
                found.add(each)
                pending.append(each)
    return found


def _is_plain(operand: Node) -> bool:
    """True for a value itself, and for one that is turned twice."""
    turns = 0
    while is_view(operand):
        if operand.name not in ALIASES and operand.attributes.get("axes") != (1, 0):
            return False
        turns += operand.name == "permute_dims"
        operand = operand.operands[0]
    return turns % 2 == 0


# -- the batch of a network that convolves -------------------------------------------------------------------
def _batch_axes(graph: Graph) -> dict[Node, int]:
    """The axis of every value along which the examples of the batch lie, in a network that convolves."""
    first = next((node for node in graph.nodes if node.name == "convolve"), None)
    if first is None or first.shape[0] < ROW:
        return {}
    start = _source(first)
    if start is None:
        return {}
    known: dict[Node, Axes] = {start: (_BATCH, *((),) * (start.ndim - 1))}
    for node in graph.nodes:
        if node.primitive is not None and node not in known:
            axes = _carried(node, known)
            if axes is not None and _BATCH in axes:
                known[node] = axes
    return {node: axes.index(_BATCH) for node, axes in known.items() if node.ndim > 1}


def _source(node: Node) -> Node | None:
    """The input of the program that is convolved first; None where it is computed from others."""
    node = node.operands[0]
    while is_view(node) or node.name == "place":
        node = node.operands[0]
    return node if node.primitive is None and node.value is None else None


def _carried(node: Node, known: dict[Node, Axes]) -> Axes | None:
    """The axes of `node` as if a kernel had one axis, the batch."""
    primitive = node.primitive
    assert primitive is not None
    if not any(each in known for each in node.operands):
        return None
    first = known.get(node.operands[0])
    if node.name in ("place", "slice", "flip"):
        return first
    if is_view(node):
        return None if first is None else axes_through(node, first, _extents(node, first))
    if primitive.elementwise:
        return _spread(node, known)
    if node.name in REDUCTIONS:
        return None if first is None else reduced_axes(node, first)
    nest = contraction_of(node)
    if nest is None:
        return None
    batch: set[int] = set()
    for read in nest.reads:
        assert read.operand is not None
        operand = node.operands[read.operand]
        for index, along in zip(read.index, known.get(operand, ((),) * operand.ndim), strict=True):
            if along == _BATCH:
                batch.update(_only(index))
    return tuple(_BATCH if axis in batch else () for axis in nest.output)


def _spread(node: Node, known: dict[Node, Axes]) -> Axes:
    """The batch axis of an elementwise node: where an operand that is not repeated has it."""
    axes: list[tuple[int, ...]] = [()] * node.ndim
    for each in node.operands:
        for k in range(1, each.ndim + 1):
            if each in known and known[each][-k] and each.shape[-k] != 1:
                axes[-k] = _BATCH
    return tuple(axes)


def _extents(node: Node, axes: Axes) -> tuple[int, ...]:
    """The length of the batch, given the axes of the operand of a view."""
    shape = node.operands[0].shape
    return (next((n for n, along in zip(shape, axes, strict=True) if along), 1),)


def _only(index: Index) -> tuple[int, ...]:
    return (index.terms[0][0],) if len(index.terms) == 1 else ()
