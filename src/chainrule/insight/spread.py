"""What an element moves: through one operation, by the loop that computes it, only where it is read.

A few elements of a value move. The loop of the operation (see `nest`) says at which points it reads them;
only there is the local derivative taken, so that opening one weight of a large matrix costs what that weight
moves, not what the matrix weighs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from chainrule.graph import TRACKED, Array, Node
from chainrule.insight.adjoint import Edge
from chainrule.insight.forward import pushed
from chainrule.nest import Index, Nest, Place, Read, nest_of
from chainrule.ops import ops, recording
from chainrule.reverse import walk
from chainrule.types import Shape, Type

MOST_POINTS = 500_000  # of a loop that are looked at one by one; where it is more, all of it is computed


class Moved(NamedTuple):
    """How a value moves.

    places  which of its elements, counted in row-major order, each once
    by      how much each moves
    sizes   the same without cancellation: every path's part of it taken positive
    """

    places: Array
    by: Array
    sizes: Array

    @classmethod
    def element(cls, node: Node, place: Place) -> Moved:
        """One element moves by 1."""
        flat = np.ravel_multi_index(place, node.shape) if place else 0
        return cls(np.array([flat]), np.ones(1), np.ones(1))

    def plus(self, other: Moved) -> Moved:
        """Both together."""
        return _summed(*map(np.concatenate, zip(self, other, strict=True)))

    @property
    def really(self) -> Moved:
        """Without what paths that cancel leave where it is."""
        return Moved(*(each[self.by != 0] for each in self))


def spread(edge: Edge, moved: Moved) -> tuple[Moved, ...]:
    """How every output of a node moves when one of its operands does."""
    user = edge.user
    assert user.primitive is not None
    nest = loop_of(user)
    if nest is None or nest.combiner not in (None, "sum"):
        return _everywhere(edge, moved)
    reads = [each for each in nest.reads if each.operand == edge.operand]
    found = [points_that_read(nest, read, moved.places) for read in reads]
    whole = Moved(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    for points in found:
        if points is None:
            return _everywhere(edge, moved)
        derivative = np.ones(()) if moves(user) else derivative_at(user, nest, points.loop, edge.operand)
        places, which = _output_places(nest, points.loop, user.shape), points.which
        part = Moved(places, derivative * moved.by[which], np.abs(derivative) * moved.sizes[which])
        whole = whole.plus(part)
    return (whole,)


def loop_of(node: Node) -> Nest | None:
    """The loop that computes a node; None where there is none."""
    assert node.primitive is not None
    if node not in _loops:
        types = (each.type for each in node.operands)
        _loops[node] = nest_of(node.primitive, *types, **node.attributes)
    return _loops[node]


_loops: WeakKeyDictionary[Node, Nest | None] = WeakKeyDictionary()
"""Loops made so far: that of a loop's stacked results has a read for every step, and is asked for at each."""


def moves(node: Node) -> bool:
    """Whether a node only lays elements out anew: every one of its elements is one of an operand, or 0."""
    if node.primitive is None or node.primitive.elementwise:
        return False
    nest = loop_of(node)
    return nest is not None and nest.combiner is None and bool(nest.reads)


def _summed(places: Array, by: Array, sizes: Array) -> Moved:
    if len(places) > 1:
        places, inverse = np.unique(places, return_inverse=True)
        by, sizes = (np.bincount(inverse, each, len(places)) for each in (by, sizes))
    return Moved(places, by, sizes)


def _everywhere(edge: Edge, moved: Moved) -> tuple[Moved, ...]:
    """The whole operation forward: for those that are no loop, or read a moved element nearly everywhere.

    Sizes are carried in the same way, which is right where no derivative is negative, in a maximum say.
    """
    stand_in = Node(None, (), {}, edge.value.type, edge.value.value)
    operands = tuple(stand_in if k == edge.operand else each for k, each in enumerate(edge.user.operands))
    alone = Node(edge.user.primitive, operands, edge.user.attributes, edge.user.type, edge.user.value)

    def carried(numbers: Array) -> tuple[Array, ...]:
        tangent = np.zeros(edge.value.shape, edge.value.dtype)
        tangent.reshape(-1)[moved.places] = numbers
        found = pushed(alone, {stand_in: tangent})
        return found if isinstance(found, tuple) else (found,)

    cancels = not np.array_equal(np.abs(moved.by), moved.sizes) or (moved.by < 0).any()
    by = carried(moved.by)
    sizes = carried(moved.sizes) if cancels else by
    return tuple(map(_nonzero, by, sizes))


def _nonzero(by: Array, sizes: Array) -> Moved:
    flat, whole = by.reshape(-1).astype(np.float64), np.abs(sizes.reshape(-1).astype(np.float64))
    places = np.flatnonzero(flat)
    return Moved(places, flat[places], np.maximum(np.abs(flat), whole)[places])


# -- where a loop reads --------------------------------------------------------------------------------------
class Points(NamedTuple):
    """Points of a loop: the position of each along every loop axis, and which of the elements it reads."""

    which: Array
    loop: list[Array]

    def of_output(self, nest: Nest, shape: Shape, place: Place) -> list[Place]:
        """Those that belong to one element of the output."""
        flat = np.ravel_multi_index(place, shape) if shape else 0
        here = np.flatnonzero(_output_places(nest, self.loop, shape) == flat)
        return [tuple(int(at[k]) for at in self.loop) for k in here]


def points_that_read(nest: Nest, read: Read, places: Array) -> Points | None:
    """All points of a loop at which some elements are read; None where these are too many.

    An index along one loop axis says where on it the element is read; loop axes that no index mentions are
    free; only those that share an index with others (windows) have to be tried.
    """
    elements = np.unravel_index(places, read.shape) if read.shape else ()
    which, fixed = np.arange(len(places)), dict[int, Array]()
    tried: list[tuple[Index, int]] = []
    for axis, index in enumerate(read.index):
        if not index.terms:
            continue  # of length 1
        along = _alone(index)
        if along is None or along in fixed:
            tried.append((index, axis))
        else:
            fixed[along] = (elements[axis] - index.offset) * index.terms[0][1]
    inside = np.ones(len(places), bool)
    for axis, at in fixed.items():
        inside &= (at >= 0) & (at < nest.extents[axis])
    which, fixed = which[inside], {axis: at[inside] for axis, at in fixed.items()}
    searched = sorted({axis for index, _ in tried for axis, _ in index.terms} - fixed.keys())
    free = [axis for axis in range(len(nest.extents)) if axis not in fixed and axis not in searched]
    for axes, conditions in ((searched, tried), (free, [])):
        extents = [nest.extents[axis] for axis in axes]
        if len(which) * math.prod(extents) > MOST_POINTS:
            return None
        which, fixed = _crossed(which, fixed, axes, extents)
        for index, axis in conditions:
            position, somewhere = index.at([fixed.get(k, 0) for k in range(len(nest.extents))])
            kept = np.broadcast_to((position == elements[axis][which]) & somewhere, which.shape)
            which, fixed = which[kept], {k: at[kept] for k, at in fixed.items()}
    return Points(which, [fixed[axis] for axis in range(len(nest.extents))])


def _alone(index: Index) -> int | None:
    """The one loop axis along which an index runs, forward or backward, step by step."""
    if len(index.terms) == 1 and index.divisor == 1 and index.modulus is None:
        ((axis, coefficient),) = index.terms
        return axis if abs(coefficient) == 1 else None
    return None


def _crossed(
    which: Array, fixed: dict[int, Array], axes: Sequence[int], extents: Sequence[int]
) -> tuple[Array, dict[int, Array]]:
    """Every point so far with every position along more axes."""
    if not axes:
        return which, fixed
    count = math.prod(extents)
    more = np.indices(tuple(extents)).reshape(len(axes), count)
    crossed = {axis: np.repeat(at, count) for axis, at in fixed.items()}
    crossed |= {axis: np.tile(more[k], len(which)) for k, axis in enumerate(axes)}
    return np.repeat(which, count), crossed


def _output_places(nest: Nest, loop: list[Array], shape: Shape) -> Array:
    """The element of the output to which each point belongs."""
    if not shape:
        return np.zeros(len(loop[0]) if loop else 1, np.int64)
    zero = np.zeros((), np.int64)
    at = np.broadcast_arrays(*(zero if axis is None else loop[axis] for axis in nest.output), *loop)
    return np.asarray(np.ravel_multi_index(at[: len(shape)], shape), np.int64)


# -- the derivative there ------------------------------------------------------------------------------------
def at_points(user: Node, nest: Nest, loop: list[Array]) -> tuple[list[Node], Callable[..., Node]]:
    """What is read at points of a loop, as leaves, and what makes the values of the points from them.

    For an elementwise operation these are its operands and the operation itself; else the loop's body.
    """
    primitive = user.primitive
    assert primitive is not None
    grid = loop or [np.zeros(1, np.int64)]
    size = len(grid[0])
    leaves = []
    for read in nest.reads:
        assert read.operand is not None
        operand = user.operands[read.operand]
        values = np.broadcast_to(_values(operand.value, read, grid), (size,))
        status = TRACKED if operand.floating else operand.status
        leaves.append(Node(None, (), {}, Type((size,), operand.dtype), values, (), status))
    if primitive.elementwise:
        return leaves, lambda *given: ops.apply(primitive, given, **user.attributes)
    return leaves, lambda *given: nest.body(ops, *given)


def _values(array: Array, read: Read, grid: list[Array]) -> Array:
    """What is read at each point; zeros where that is nowhere."""
    places, inside = read.places(grid)
    if np.all(inside):
        return np.asarray(array[tuple(places)])
    held = tuple(np.where(inside, place, 0) for place in places)
    return np.where(inside, array[held], np.zeros((), array.dtype))


def derivative_at(user: Node, nest: Nest, loop: list[Array], operand: int) -> Array:
    """The local derivative at points of a loop, by what an operand is there."""
    leaves, point = at_points(user, nest, loop)
    moving = [leaf for leaf, read in zip(leaves, nest.reads, strict=True) if read.operand == operand]
    with recording(True):
        value = point(*leaves)
    with recording(False):
        (found,) = walk([value], [ops.full(value.type, 1)], moving)
    zero = np.zeros(len(leaves[0].value)) if found is None else found.value
    return np.asarray(zero, np.float64)
