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
from chainrule.nest import Nest, Place, Read, along, itself
from chainrule.primitives.index import GATHER, SCATTER

MOST_POINTS = 100_000  # of a loop that are counted one by one


class Count(NamedTuple):
    """A number of paths; where it is not exact, there are more."""

    number: int
    exact: bool = True

    def __str__(self) -> str:
        return f"{'' if self.exact else 'more than '}{self.number:,} path{'' if self.number == 1 else 's'}"


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
    if nest.combiner is None and nest.body is itself and user.size == edge.value.size:  # each element once
        if counts.size == 1:
            return counts.reshape((1,) * len(shape))
        if user.name == "reshape":
            return np.broadcast_to(counts, user.shape).reshape(shape) if user.size <= MOST_POINTS else None
    total: Any = None
    for read in nest.reads:
        if read.operand == edge.operand:
            found = _through(nest, read, counts)
            if found is None:
                return None
            total = found if total is None else total + found
    return np.asarray(total, object)


def _along_indices(edge: Edge, counts: Array) -> Array | None:
    """Back through a gather: what is added up where each index points. And the other way round."""
    user = edge.user
    if max(user.size, edge.value.size) > MOST_POINTS:
        return None
    everywhere = np.array(np.broadcast_to(counts, user.shape))
    indices, axis = [each.value for each in user.operands[1:]], user.attributes["axis"]
    if user.primitive is GATHER:
        found = SCATTER.meaning(np, everywhere, *indices, shape=edge.value.shape, axis=axis)
    else:
        found = GATHER.meaning(np, everywhere, *indices, axis=axis)
    return np.asarray(found, object)


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
