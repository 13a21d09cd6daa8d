"""Nests: a primitive as one loop over elements.

A nest says which elements of the operands make an element of the output, and how: loop axes, an index map per
operand, a body for one point of the loop, and a combiner for the points that belong to one output element. A
law holds it to the record's meaning. So the same structure can serve a compiler, which fuses nests, and an
explainer, which opens an element into those that made it. Records that are no nest say in `feeds` which
elements feed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from chainrule.primitive import Primitive
from chainrule.types import Shape, Type

Place = tuple[int, ...]
"""The indices of one element."""

COMBINERS: dict[str, np.ufunc] = {
    "sum": np.add,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
    "logsumexp": np.logaddexp,
}


@dataclass(frozen=True)
class Index:
    """A position along one axis: (Σ coefficient × loop position + offset) / divisor, modulo `modulus`.

    `terms` are pairs of loop axis and coefficient. The quotient is rounded down; but where the index is
    `exact`, a division with a remainder points nowhere.
    """

    terms: tuple[tuple[int, int], ...] = ()
    offset: int = 0
    divisor: int = 1
    modulus: int | None = None
    exact: bool = False

    def at(self, grid: Any) -> tuple[Any, Any]:
        """The position at every point of a grid of loop positions, and whether it points anywhere."""
        total = sum((grid[axis] * coefficient for axis, coefficient in self.terms), np.int64(self.offset))
        position = total // self.divisor
        if self.modulus is not None:
            position = position % self.modulus
        return position, (total % self.divisor == 0) if self.exact else np.True_


def along(axis: int) -> Index:
    """The position of one loop axis."""
    return Index(((axis, 1),))


def broadcast_index(shape: Shape, to: Shape) -> tuple[Index, ...]:
    """The index map by which broadcasting reads an array of `shape` in a loop over the shape `to`."""
    extra = len(to) - len(shape)
    return tuple(Index() if extent == 1 else along(extra + k) for k, extent in enumerate(shape))


@dataclass(frozen=True)
class Read:
    """What an operand of `shape` contributes to a point: the element at `index`, 0 where that points nowhere.

    With `operand` None it is the position itself.
    """

    operand: int | None
    shape: Shape
    index: tuple[Index, ...]

    def places(self, grid: Any) -> tuple[list[Any], Any]:
        """The element read at every point of a grid of loop positions, and whether there is one."""
        places, inside = [], np.True_
        for index, extent in zip(self.index, self.shape, strict=True):
            position, somewhere = index.at(grid)
            places.append(position)
            inside = inside & somewhere & (position >= 0) & (position < extent)
        return places, inside

    def values(self, arrays: tuple[Any, ...], grid: Any) -> Any:
        """The number read at every point of a grid of loop positions."""
        if self.operand is None:
            return self.index[0].at(grid)[0]
        places, inside = self.places(grid)
        if np.all(inside):
            return arrays[self.operand][tuple(places)]
        elements = arrays[self.operand].reshape(-1)
        flat = np.zeros((), np.int64)
        for position, extent in zip(places, self.shape, strict=True):
            flat = flat * extent + position
        padded = np.append(elements, np.zeros(1, elements.dtype))  # its last element is what nowhere reads
        return padded[np.where(inside, flat, elements.size)]

    def element(self, point: Place) -> tuple[int, Place] | None:
        """(operand, element) read at one point of the loop; None for nowhere and for the position itself."""
        if self.operand is None:
            return None
        places, inside = self.places(np.array(point, dtype=np.int64))
        return (self.operand, tuple(map(int, places))) if inside else None


@dataclass(frozen=True, eq=False)
class Nest:
    """One loop over elements.

    `extents` are the lengths of the loop axes. `output` names the loop axis of every axis of the output, None
    for one of length 1; the points along the other loop axes are combined by `combiner`.
    ``body(xp, *values)`` makes the value of a point from what is read there.
    """

    extents: Shape
    output: tuple[int | None, ...]
    reads: tuple[Read, ...]
    body: Callable[..., Any]
    combiner: str | None = None

    @property
    def combined(self) -> tuple[int, ...]:
        """The loop axes that are no axes of the output."""
        return tuple(axis for axis in range(len(self.extents)) if axis not in self.output)

    def evaluate(self, *arrays: Any) -> Any:
        """What the loop computes, for NumPy arrays: every point by itself, then the combiner."""
        grid = np.indices(self.extents)
        points = np.broadcast_to(
            self.body(np, *(read.values(arrays, grid) for read in self.reads)), self.extents
        )
        if self.combiner is not None:
            points = COMBINERS[self.combiner].reduce(points, axis=self.combined)
        kept = [axis for axis in self.output if axis is not None]
        ordered = np.transpose(points, [sorted(kept).index(axis) for axis in kept])
        return ordered.reshape(tuple(1 if axis is None else self.extents[axis] for axis in self.output))

    def points(self, place: Place) -> Iterator[tuple[tuple[int, Place] | None, ...]]:
        """What is read for one element of the output: per point of the loop, (operand, element) per read."""
        fixed = {axis: at for axis, at in zip(self.output, place, strict=True) if axis is not None}
        for free in product(*(range(self.extents[axis]) for axis in self.combined)):
            at = {**fixed, **dict(zip(self.combined, free, strict=True))}
            point = tuple(at[axis] for axis in range(len(self.extents)))
            yield tuple(read.element(point) for read in self.reads)

    def feeds(self, place: Place) -> set[tuple[int, Place]]:
        """Every (operand, element) that feeds one element of the output."""
        return {each for point in self.points(place) for each in point if each is not None}


def nest_of(record: Primitive, *types: Type, **attributes: Any) -> Nest | None:
    """The nest of a record for operands of these types; None where it is no nest.

    >>> from chainrule.primitives import REGISTRY
    >>> matrix = Type((2, 3), np.dtype("float64"))
    >>> sorted(nest_of(REGISTRY["sum"], matrix, axis=(1,), keepdims=False).feeds((0,)))
    [(0, (0, 0)), (0, (0, 1)), (0, (0, 2))]
    """
    if record.nest is not None:
        nest: Nest = record.nest(*types, **attributes)
        return nest
    if not record.elementwise:
        return None
    shape: Shape = record.infer(*types, **attributes).shape
    return Nest(
        extents=shape,
        output=tuple(range(len(shape))),
        reads=tuple(Read(k, each.shape, broadcast_index(each.shape, shape)) for k, each in enumerate(types)),
        body=partial(_pointwise, record, attributes),
    )


def _pointwise(record: Primitive, attributes: dict[str, Any], xp: Any, *values: Any) -> Any:
    return record.meaning(xp, *values, **attributes)


def moved(shape: Shape, operand: Type, index: tuple[Index, ...]) -> Nest:
    """A nest that fills an array of `shape` with elements of its one operand."""
    return Nest(shape, tuple(range(len(shape))), (Read(0, operand.shape, index),), itself)


def everything(place: Place, *arrays: Any, **attributes: Any) -> list[list[Place]]:
    """`feeds` of a record that says no more: every element of every operand may feed any element."""
    return [list(np.ndindex(np.shape(each))) for each in arrays]


def reduced(operand: Type, axis: tuple[int, ...], keepdims: bool, combiner: str) -> Nest:
    """A nest that combines the elements of its one operand along axes."""
    every = tuple(range(operand.ndim))
    kept = tuple(None if k in axis else k for k in every if keepdims or k not in axis)
    read = Read(0, operand.shape, tuple(map(along, every)))
    return Nest(operand.shape, kept, (read,), itself, combiner)


def itself(xp: Any, value: Any) -> Any:
    """The body of a nest that moves or combines elements as they are."""
    return value


def multiplies(record: Primitive, types: Sequence[Type], attributes: dict[str, Any]) -> bool:
    """Whether a primitive is a product, or a sum of products: linear in each of its operands."""
    if record.elementwise or record.nest is None:
        return record.meaning is multiplied
    nest: Nest = record.nest(*types, **attributes)
    return nest.body is multiplied


def multiplied(xp: Any, *values: Any) -> Any:
    """The body of contractions: the product of what is read."""
    total = values[0]
    for each in values[1:]:
        total = xp.multiply(total, each)
    return total
