"""Gather and scatter: rows copied from, or added to, positions that are only known when the code runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chainrule.backends.native.emit import Emitted, Function
from chainrule.backends.native.status import note_failure
from chainrule.backends.native.target import Target
from chainrule.backends.native.values import INDEX, SCALARS, Index, Value, constant, vector
from chainrule.backends.native.walking import (
    LINE_BYTES,
    Axes,
    Point,
    Units,
    count_units,
    each_point,
    each_stretch,
    is_contiguous,
    merged,
    offset,
    units_of,
    views_of,
)
from chainrule.schedule.kernels import Special, Strides, View
from chainrule.types import Shape, broadcast_shapes


class Parts(NamedTuple):
    """The axes of a gather or scatter. `table` is what is indexed, `rows` is what has a row per index.

    before  shape and strides (table, rows) of the axes in front of the indexed ones
    picked  shape and strides (rows, then every index array) of the axes of the index arrays
    lookup  lengths of the indexed axes and their strides in the table
    after   shape and strides (table, rows) of the axes behind
    """

    before: tuple[Shape, Strides, Strides]
    picked: tuple[Shape, Strides, tuple[Strides, ...]]
    lookup: tuple[Shape, Strides]
    after: tuple[Shape, Strides, Strides]


def _parts(table: View, rows: View, indices: Sequence[View], axis: int) -> Parts:
    shape = broadcast_shapes(*(each.shape for each in indices))
    end, rows_end = axis + len(indices), axis + len(shape)
    return Parts(
        (rows.shape[:axis], table.strides[:axis], rows.strides[:axis]),
        (shape, rows.strides[axis:rows_end], tuple(_broadcast(each, len(shape)) for each in indices)),
        (table.shape[axis:end], table.strides[axis:end]),
        (rows.shape[rows_end:], table.strides[end:], rows.strides[rows_end:]),
    )


def _broadcast(view: View, ndim: int) -> Strides:
    """The strides of a view that is broadcast to more axes: 0 where it is repeated."""
    own = (stride if extent != 1 else 0 for extent, stride in zip(view.shape, view.strides, strict=True))
    return (0,) * (ndim - len(view.shape)) + tuple(own)


# -- gather ------------------------------------------------------------------------------------------------
def emit_gather(function: Function, kernel: Special, target: Target) -> Emitted:
    """Rows of a table one after the other: ``target[before, picked, after] = table[before, index, after]``.

    Long rows are copied a cache line at a time, while the same line of the next row is fetched: the
    processor cannot guess where that is. A unit of work is a step along the outermost axis.
    """
    table, *indices = kernel.operands
    source, *numbers = views_of(function)[:-1]
    destination = views_of(function)[-1]
    parts = _parts(table, kernel.target, indices, kernel.attributes["axis"])
    (before, *before_strides), (picked, rows_strides, index_strides) = parts.before, parts.picked
    still, unmoved = (0,) * len(before), (0,) * len(picked)
    axes = merged(
        before + picked, before_strides[0] + unmoved, before_strides[1] + rows_strides,
        *(still + strides for strides in index_strides),
    )  # fmt: skip
    after = merged(*parts.after)
    lookup = _Lookup(function, numbers, indices, parts.lookup)
    scalar = SCALARS[table.buffer.dtype.name]
    line = LINE_BYTES // table.buffer.dtype.itemsize
    fetched = axes.extents[-1] > 1 and is_contiguous(after) and after.extents[-1] >= line

    def start_of_row(point: Point, noted: bool) -> Value:
        found = lookup.offset([offset(function, strides, point) for strides in axes.strides[2:]], noted)
        return function.at(source, function.add(offset(function, axes.strides[0], point), found), scalar)

    def copy_row(point: Point) -> None:
        row = start_of_row(point, True)
        if 0 in lookup.extents:
            return
        place = function.at(destination, offset(function, axes.strides[1], point), scalar)
        following = start_of_row(_next(function, point, axes.extents), False) if fetched else None

        def copy(offsets: list[Index], width: int) -> None:
            if following is not None and width == line:
                function.prefetch(function.at(following, offsets[0], scalar))
            value = function.load(function.at(row, offsets[0], scalar), vector(scalar, width))
            function.store(value, function.at(place, offsets[1], scalar))

        each_stretch(function, after, line, copy)

    each_point(function, axes.extents, copy_row, units_of(function))
    return Emitted(axes.extents[0])


def _next(function: Function, point: Point, extents: Shape) -> Point:
    """The next point on the last axis; its last one is followed by itself."""
    return (*point[:-1], function.smaller(function.add(point[-1], 1), extents[-1] - 1))


class _Lookup:
    """Where the row lies that index arrays point to."""

    def __init__(
        self, function: Function, pointers: Sequence[Value], indices: Sequence[View],
        axes: tuple[Shape, Strides],
    ) -> None:  # fmt: skip
        self._function, self._pointers = function, pointers
        self._dtypes = [each.buffer.dtype for each in indices]
        self.extents, self._strides = axes

    def offset(self, places: Sequence[Index], noted: bool) -> Index:
        """Elements from the start of the table; `places` says where in each index array to look.

        Negative indices count from the end. One out of range becomes 0, which is `noted` or not.
        """
        function = self._function
        total: Index = 0
        for pointer, place, dtype, extent, stride in zip(
            self._pointers, places, self._dtypes, self.extents, self._strides, strict=True
        ):
            at = function.at(pointer, place, SCALARS[dtype.name])
            total = function.add(
                total, function.mul(_position(function, at, dtype, extent, 1, noted), stride)
            )
        return total


def _position(
    function: Function, pointer: Value, dtype: np.dtype[np.generic], extent: int, width: int, noted: bool
) -> Value:
    """`width` indices as positions counted from the start of an axis; 0 for one that is out of range."""
    number = function.load(pointer, vector(SCALARS[dtype.name], width))
    type_ = vector(INDEX, width)
    number = function.convert("zext" if dtype.kind == "u" else "sext", number, type_)
    if dtype.kind == "i":
        from_end = function.binary("add", number, constant(extent, type_))
        number = function.select(function.compare("slt", number, constant(0, type_)), from_end, number)
    outside = function.compare("uge", number, constant(extent, type_))
    if noted:
        bits = function.convert("bitcast", outside, f"i{width}")
        somewhere = function.compare("ne", bits, constant(0, f"i{width}"))
        function.if_then(somewhere, lambda: note_failure(function))
    return function.select(outside, constant(0, type_), number)


# -- indices alone -----------------------------------------------------------------------------------------
def emit_checked_indices(function: Function, kernel: Special, target: Target) -> Emitted:
    """Indices as positions counted from the start of an axis."""
    (indices,), out = kernel.operands, kernel.target
    source, destination = views_of(function)
    axes = merged(out.shape, indices.strides, out.strides)
    given, wanted = indices.buffer.dtype, SCALARS[out.buffer.dtype.name]
    lanes = target.lanes(np.int64)

    def check(offsets: list[Index], width: int) -> None:
        at = function.at(source, offsets[0], SCALARS[given.name])
        positions = _position(function, at, given, kernel.attributes["extent"], width, True)
        narrow = function.convert("trunc", positions, vector(wanted, width))
        function.store(narrow, function.at(destination, offsets[1], wanted))

    each_stretch(function, axes, lanes, check, units_of(function))
    return Emitted(count_units(axes, lanes))


# -- scatter -----------------------------------------------------------------------------------------------
def emit_scatter(function: Function, kernel: Special, target: Target) -> Emitted:
    """Zeros, to which rows are added one after the other, in the order of their positions.

    A unit of work must own the elements it adds to. It is a step along the axes in front of the indexed ones,
    or where there are none, a cache line's width of every row: then each unit reads all indices.
    """
    updates, *indices = kernel.operands
    parts = _parts(kernel.target, updates, indices, kernel.attributes["axis"])
    before, after = merged(*parts.before), merged(*parts.after)
    adder = _Adder(function, kernel, parts, after)
    units = units_of(function)
    line = LINE_BYTES // updates.buffer.dtype.itemsize
    if before.extents == (1,) and count_units(after, line) > 1:
        adder.clear_rows(units)
        adder.add_rows((0, 0), units)
        return Emitted(count_units(after, line))

    def block(point: Point) -> None:
        table, rows = (offset(function, strides, point) for strides in before.strides)
        adder.clear_all(table)
        adder.add_rows((table, rows), None)

    each_point(function, before.extents, block, units)
    return Emitted(before.extents[0])


class _Adder:
    """The loops of a scatter, for one step along the axes in front of the indexed ones."""

    def __init__(self, function: Function, kernel: Special, parts: Parts, after: Axes) -> None:
        self._function, self._parts, self._after = function, parts, after
        rows, *numbers = views_of(function)[:-1]
        self._rows, self._table = rows, views_of(function)[-1]
        dtype = kernel.target.buffer.dtype
        self._scalar, self._lanes = SCALARS[dtype.name], LINE_BYTES // dtype.itemsize
        self._addition = {"f": "fadd", "b": "or"}.get(dtype.kind, "add")
        self._lookup = _Lookup(function, numbers, kernel.operands[1:], parts.lookup)

    def _clear(self, start: Index, offsets: list[Index], width: int) -> None:
        function, type_ = self._function, vector(self._scalar, width)
        place = function.at(self._table, function.add(start, offsets[0]), self._scalar)
        function.store(constant(0, type_), place)

    def clear_all(self, start: Index) -> None:
        """Zeros in every row of the table."""
        (extents, strides), (shape, columns, _) = self._parts.lookup, self._parts.after
        everything = merged(extents + shape, strides + columns)
        each_stretch(self._function, everything, self._lanes, lambda at, width: self._clear(start, at, width))

    def clear_rows(self, units: Units) -> None:
        """Zeros in the columns of `units` of every row."""
        function, axes = self._function, merged(*self._parts.lookup)

        def clear_row(point: Point) -> None:
            row = offset(function, axes.strides[0], point)
            each_stretch(
                function, self._after, self._lanes, lambda at, width: self._clear(row, at, width), units
            )

        each_point(function, axes.extents, clear_row)

    def add_rows(self, starts: tuple[Index, Index], units: Units | None) -> None:
        """Every row added where its index says, in the columns of `units`."""
        function, scalar = self._function, self._scalar
        extents, rows_strides, index_strides = self._parts.picked
        axes = merged(extents, rows_strides, *index_strides)

        def add_row(point: Point) -> None:
            places = [offset(function, strides, point) for strides in axes.strides[1:]]
            found = self._lookup.offset(places, True)
            if 0 in self._lookup.extents:
                return
            total = function.at(self._table, function.add(starts[0], found), scalar)
            start = function.add(starts[1], offset(function, axes.strides[0], point))
            row = function.at(self._rows, start, scalar)

            def add(offsets: list[Index], width: int) -> None:
                place = function.at(total, offsets[0], scalar)
                known = function.load(place, vector(scalar, width))
                more = function.load(function.at(row, offsets[1], scalar), vector(scalar, width))
                function.store(function.binary(self._addition, known, more), place)

            each_stretch(function, self._after, self._lanes, add, units)

        each_point(function, axes.extents, add_row)
