"""How many paths lead from an element to the loss: products of local derivatives whose sum is the derivative.

They are counted backward, from element to element, with whole numbers of any size. A count that is the same
along an axis is kept once, so a layer costs what its shape says, not what its elements are; only where
windows overlap, or indices decide, is it counted one by one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from chainrule.graph import ITEM, Array, Node
from chainrule.insight.adjoint import Adjoint, Edge
from chainrule.insight.spread import loop_of
from chainrule.nest import Nest, Place, Read, along
from chainrule.primitives.index import GATHER, SCATTER
from chainrule.types import Shape

MOST_POINTS = 100_000  # of a loop that are counted one by one
_LONG = 10**15  # a longer number is rounded in words


class Count(NamedTuple):
    """A number of paths; where it is not exact, there are more."""

    number: int
    exact: bool = True

    def __str__(self) -> str:
        """In words: "512 paths", "about 1.18e+21 paths", "more than 3 paths"."""
        told = f"{self.number:,}" if self.number < _LONG else _rounded(self.number)
        return f"{'' if self.exact else 'more than '}{told} path{'' if self.number == 1 else 's'}"

    def __repr__(self) -> str:
        return f"<{self}>"  # Python refuses to write down numbers of thousands of digits


def _rounded(number: int) -> str:
    """A number that may be larger than any float."""
    decades = math.log10(number)
    exponent = math.floor(decades)
    return f"about {10 ** (decades - exponent):.2f}e+{exponent}"


class Paths:
    """The paths to a loss from every element of what leads to it."""

    def __init__(self, adjoint: Adjoint) -> None:
        self._counts: dict[Node, Array] = {adjoint.loss: np.full(adjoint.loss.shape, 1, object)}
        self._inexact: set[Node] = set()
        for node in adjoint.backward_order:
            for edge in adjoint.uses.get(node, ()):
                self._add(edge)

    def count(self, node: Node, place: Place) -> Count:
        """How many lead from one element."""
        counts = self._counts.get(node)
        exact = node not in self._inexact
        if counts is None:
            return Count(0, exact)
        held = tuple(0 if extent == 1 else at for at, extent in zip(place, counts.shape, strict=True))
        return Count(int(counts[held]), exact)

    def _add(self, edge: Edge) -> None:
        node, user = edge.value, edge.user
        counts = self._counts.get(user)
        more = None if counts is None or user.name == ITEM else _back(edge, counts)
        if more is None or user in self._inexact:
            self._inexact.add(node)
        if more is not None:
            known = self._counts.get(node)
            self._counts[node] = more if known is None else np.asarray(known + more, object)


def _back(edge: Edge, counts: Array) -> Array | None:
    """The paths from every element of an operand through one use; None where they are too many to count."""
    user, shape = edge.user, edge.value.shape
    if user.primitive in (GATHER, SCATTER):
        return _along_indices(edge, counts)
    nest = loop_of(user)
    if nest is None:
        return None
    if user.name == "reshape":
        return _reshaped(counts, user.shape, shape)
    total: Any = None
    for read in nest.reads:
        if read.operand == edge.operand:
            found = _through(nest, read, counts)
            if found is None:
                return None
            total = found if total is None else total + found
    return np.asarray(total, object)


def _reshaped(counts: Array, shape: Shape, to: Shape) -> Array | None:
    """The same counts under another shape; what both have in front and behind stays as it is."""
    same = [k for k, (a, b) in enumerate(zip(shape, to, strict=False)) if shape[:k] == to[:k] and a == b]
    first, rest = len(same), (shape[len(same) :], to[len(same) :])
    last = sum(shape[-k:] == to[-k:] for k in range(1, 1 + min(map(len, rest))))
    ahead, middle, behind = np.split(np.arange(len(shape)), [first, len(shape) - last])
    kept = [counts.shape[axis] for axis in ahead], [counts.shape[axis] for axis in behind]
    target = to[first : len(to) - last]
    if all(counts.shape[axis] == 1 for axis in middle):
        return counts.reshape([*kept[0], *(1 for _ in target), *kept[1]])
    full = [*kept[0], *(shape[axis] for axis in middle), *kept[1]]
    if math.prod(full) > max(MOST_POINTS, counts.size):
        return None
    return _once(np.broadcast_to(counts, full).reshape([*kept[0], *target, *kept[1]]))


def _along_indices(edge: Edge, counts: Array) -> Array | None:
    """Back through a gather: what is added up where each index points. And the other way round."""
    user, shape = edge.user, edge.value.shape
    indices, axis = [each.value for each in user.operands[1:]], user.attributes["axis"]
    gathers = user.primitive is GATHER
    behind = axis + (np.broadcast(*indices).ndim if gathers else len(indices))  # the axes that indices decide
    kept = np.broadcast_to(counts, (*counts.shape[:axis], *user.shape[axis:behind], *counts.shape[behind:]))
    if max(kept.size, *(each.size for each in indices)) > MOST_POINTS:
        return None
    if not gathers:
        return np.asarray(GATHER.meaning(np, kept, *indices, axis=axis), object)
    target = (*counts.shape[:axis], *shape[axis : axis + len(indices)], *counts.shape[behind:])
    return np.asarray(SCATTER.meaning(np, np.array(kept), *indices, shape=target, axis=axis), object)


def _through(nest: Nest, read: Read, counts: Array) -> Array | None:
    """Each point of a loop passes the paths of the output element it belongs to on to what it reads there."""
    loop = _over_loop(nest, counts)
    mentioned = [axis for index in read.index for axis, _ in index.terms]
    for axis in set(range(len(nest.extents))).difference(mentioned):
        loop = _summed(loop, axis, nest.extents[axis])
    axis_of: dict[int, int] = {}  # axis of the operand → the loop axis that runs along it
    for k, (index, extent) in enumerate(zip(read.index, read.shape, strict=True)):
        for axis, _ in index.terms[:1]:
            if index == along(axis) and mentioned.count(axis) == 1 and nest.extents[axis] == extent:
                axis_of[k] = axis
    searched = [k for k, index in enumerate(read.index) if index.terms and k not in axis_of]
    if searched:
        found = _searched(nest, read, loop, searched)
        if found is None:
            return None
        loop, others = found
        axis_of = {k: len(searched) + others.index(axis) for k, axis in axis_of.items()}
        axis_of |= {k: at for at, k in enumerate(searched)}
    ordered = [axis_of[k] for k in range(len(read.shape)) if k in axis_of]
    rest = [axis for axis in range(loop.ndim) if axis not in ordered]  # all of length 1
    shape = [loop.shape[axis_of[k]] if k in axis_of else 1 for k in range(len(read.shape))]
    return _once(np.transpose(loop, ordered + rest).reshape(shape))


def _over_loop(nest: Nest, counts: Array) -> Array:
    """The paths of the output element of every point, by loop axis; of length 1 where all are alike."""
    kept = [axis for axis in nest.output if axis is not None]
    extents = [extent for axis, extent in zip(nest.output, counts.shape, strict=True) if axis is not None]
    ordered = np.transpose(counts.reshape(extents), np.argsort(kept))
    sizes = iter(ordered.shape)
    return ordered.reshape([next(sizes) if axis in kept else 1 for axis in range(len(nest.extents))])


def _summed(loop: Array, axis: int, extent: int) -> Array:
    """The sum along an axis, kept as one of length 1."""
    total = loop * extent if loop.shape[axis] == 1 else loop.sum(axis=axis, keepdims=True)
    return np.asarray(total, object)


def _searched(nest: Nest, read: Read, loop: Array, searched: list[int]) -> tuple[Array, list[int]] | None:
    """Along axes of the operand that are windows or parts: every position by itself.

    These axes come first in the result, then the loop axes that are named.
    """
    axes = sorted({axis for k in searched for axis, _ in read.index[k].terms})
    others = [axis for axis in range(loop.ndim) if axis not in axes]
    extents, rest = [nest.extents[axis] for axis in axes], [loop.shape[axis] for axis in others]
    if math.prod(extents) * math.prod(rest) > MOST_POINTS:
        return None
    full = np.broadcast_to(np.transpose(loop, axes + others), [*extents, *rest])
    points = np.indices(tuple(extents)).reshape(len(axes), -1)
    grid = [points[axes.index(axis)] if axis in axes else 0 for axis in range(loop.ndim)]
    inside, places = np.ones(points.shape[1], bool), []
    for k in searched:
        place, somewhere = read.index[k].at(grid)
        inside &= somewhere & (place >= 0) & (place < read.shape[k])
        places.append(place)
    found = np.zeros([*(read.shape[k] for k in searched), *rest], object)
    np.add.at(found, tuple(place[inside] for place in places), full.reshape(-1, *rest)[inside])
    return found, others


def _once(counts: Array) -> Array:
    """Counts that are alike along an axis, kept once."""
    for axis, extent in enumerate(counts.shape):
        first = counts.take([0], axis) if extent else counts
        if extent > 1 and np.all(counts == first):
            counts = first
    return counts
