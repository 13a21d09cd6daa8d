"""Values while a `Loops` kernel is written: each expression once per point, as far outside as it is known.

Values live in scopes: what is computed inside a loop is forgotten behind it. What does not change along the
lane axis is a scalar, and repeated where it meets vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from chainrule.backends.native import elements
from chainrule.backends.native.emit import Function
from chainrule.backends.native.loop_space import Form, Space
from chainrule.backends.native.scalars import compute
from chainrule.backends.native.values import INDEX, SCALARS, Index, Value, constant, lanes_of, register_type
from chainrule.schedule.kernels import Access, Buffer, Expression

_LINE = 64


class Point(NamedTuple):
    """A point that one turn of the loops does: how far it lies behind their positions, axis by axis.

    valid  how many of its lanes are before the end of the lane axis; None: all
    """

    offsets: tuple[int, ...]
    valid: Index | None = None

    def moved(self, axis: int, distance: int, valid: Index | None = None) -> Point:
        """The point at another distance along one axis."""
        offsets = (*self.offsets[:axis], distance, *self.offsets[axis + 1 :])
        return Point(offsets, self.valid if valid is None else valid)


class Values:
    """The values that are known at the place where instructions are being written.

    roots    what is being computed; stage: how many walks over the row have been begun, less one
    sources  where values of earlier walks are read from: a target, or None for scratch memory
    square   whether the loop along `across` does whole squares (see `Choices.across`)
    """

    def __init__(
        self, function: Function, space: Space, pointers: dict[Access, Value], scratch: Value,
        across: int | None,
    ) -> None:  # fmt: skip
        self.f, self.space, self.across = function, space, across
        self.lane, self.lanes = space.lane, space.lanes
        self.stage = 0
        self.roots: Sequence[Expression] = [form.value for form in space.forms]
        self.sources: dict[Expression, Access | None] = {}
        self.square = False
        self.positions: dict[int, Index] = {}
        self.scratch_bytes = 0
        self._scratch = scratch
        self._spills: dict[Expression, Access] = {}
        self._scopes: list[dict[Any, Value]] = [{**pointers}]

    # -- scopes ----------------------------------------------------------------------------------------------
    @contextmanager
    def scope(self) -> Iterator[None]:
        """A loop's body: what becomes known in it is forgotten behind it."""
        self._scopes.append({})
        yield
        self._scopes.pop()

    def find(self, key: Any) -> Value | None:
        """What is known under a name, None if nothing is."""
        return next((scope[key] for scope in reversed(self._scopes) if key in scope), None)

    def known(self, key: Any) -> Value:
        """What is known under a name that must be known."""
        found = self.find(key)
        assert found is not None, key
        return found

    def remember(self, key: Any, value: Value) -> Value:
        """Make a value known until the end of the current scope."""
        self._scopes[-1][key] = value
        return value

    def open(self, axis: int, index: Index) -> None:
        """Move along an axis; the pointers follow."""
        self.positions[axis] = index
        for access, strides in self.space.strides.items():
            if strides[axis]:
                moved = self.f.mul(index, strides[axis])
                self.remember(access, self.f.at(self.known(access), moved, memory_type(access)))

    def close(self, axis: int) -> None:
        """Leave the loop along an axis."""
        del self.positions[axis]

    # -- values ----------------------------------------------------------------------------------------------
    def hoist(self, points: Sequence[Point]) -> None:
        """Compute now, of `roots`, what no loop further inside changes."""
        for each in self._settled():
            for point in points:
                self.vector(each, point)

    def _settled(self) -> Iterator[Expression]:
        """The largest parts of `roots` that are known at the loops' positions."""
        seen: set[Expression] = set()

        def enter(each: Expression) -> Iterator[Expression]:
            if each in seen or each.op == "constant":
                return
            seen.add(each)
            if set(self.space.axes(each)) <= self.positions.keys() and self.space.level(each) <= self.stage:
                yield each
            elif each not in self.sources:
                for argument in self.space.arguments(each):
                    yield from enter(argument)

        for root in self.roots:
            yield from enter(root)

    def value(self, expression: Expression, point: Point) -> Value:
        """An expression at a point: a vector if it changes along the lane, a scalar if not."""
        while expression.op == "result" and self.space.arguments(expression):
            (expression,) = self.space.arguments(expression)
        key = self._key(expression, point)
        found = self.find(key)
        return self.remember(key, self._computed(expression, point)) if found is None else found

    def vector(self, expression: Expression, point: Point) -> Value:
        """An expression at a point, in every lane."""
        if expression.op == "constant":
            return constant(expression.attributes["value"], register_type(expression.dtype, self.lanes))
        value = self.value(expression, point)
        if lanes_of(value.type) == self.lanes:
            return value
        key = ("repeated", *self._key(expression, point))
        found = self.find(key)
        return self.remember(key, self.f.splat(value, self.lanes)) if found is None else found

    def set_result(self, form: Form, point: Point, value: Value) -> None:
        """Make the combined value of a row known."""
        self.remember((form, *point.offsets[: self.space.rows]), value)

    def _key(self, expression: Expression, point: Point) -> tuple[Any, ...]:
        """Expressions are known by where they stand on the axes along which they change."""
        name: Any = expression
        if expression.op == "result":
            name = self.space.form_of[expression.attributes["statement"]]
        return (name, *(point.offsets[axis] for axis in self.space.axes(expression)))

    def _computed(self, expression: Expression, point: Point) -> Value:
        moving = self.lane in self.space.axes(expression)
        lanes = self.lanes if moving else 1
        if expression in self.sources:
            access = self.sources[expression]
            if access is not None:
                return self._read(access, point)
            return self.unspilled(expression, point, lanes)
        if expression.op == "constant":
            return constant(expression.attributes["value"], register_type(expression.dtype, 1))
        if expression.op == "load":
            return self._read(expression.attributes["access"], point)
        if expression.op == "position":
            return self._position(expression, point, lanes)
        every = self.vector if moving else self.value
        return compute(self.f, expression, [every(each, point) for each in expression.arguments], lanes)

    def _position(self, expression: Expression, point: Point, lanes: int) -> Value:
        axis = self.space.places.get(expression.attributes["axis"])
        if axis is None:
            return constant(0, INDEX)
        index = self.f.index(self.f.add(self.positions.get(axis, 0), point.offsets[axis]))
        if axis != self.lane:
            return index
        return self.f.binary("add", self.f.splat(index, lanes), self.f.lane_numbers(lanes))

    # -- memory ----------------------------------------------------------------------------------------------
    def address(self, access: Access, point: Point) -> Value:
        """Where an access stands at a point."""
        distance = sum(a * b for a, b in zip(point.offsets, self.space.strides[access], strict=True))
        return self.f.at(self.known(access), distance, memory_type(access))

    def mask(self, point: Point) -> Value | None:
        """The lanes before the end of the lane axis; None for all."""
        return None if point.valid is None else self.f.mask_below(point.valid, self.lanes)

    def _read(self, access: Access, point: Point) -> Value:
        stride = self.space.stride(access, self.lane)
        if self.square and stride not in (0, 1) and self.space.stride(access, self.across) == 1:
            return self._turned(access, point)
        mask = None if self.space.readable(access) else self.mask(point)
        pointer, dtype = self.address(access, point), access.buffer.dtype
        return elements.read(self.f, pointer, dtype, stride, self.lanes if stride else 1, mask)

    def _turned(self, access: Access, point: Point) -> Value:
        """Lanes that lie far apart, where their neighbours along another axis lie side by side: a square of
        them is read by rows and turned, once for all points that need a column of it.
        """
        across, lane = self.across, self.lane
        assert across is not None
        assert lane is not None
        assert not isinstance(point.valid, Value)
        if self.find((access, point.offsets)) is None:
            start, valid = point.moved(across, 0), self.lanes if point.valid is None else point.valid
            rows = []
            for number in range(self.lanes):  # beyond the end, where nothing may be read, the first row again
                row = start.moved(lane, start.offsets[lane] + (number if number < valid else 0))
                pointer = self.address(access, row)
                rows.append(elements.read(self.f, pointer, access.buffer.dtype, 1, self.lanes))
            for number, column in enumerate(elements.transposed(self.f, rows)):
                self.remember((access, point.moved(across, number).offsets), column)
        return self.known((access, point.offsets))

    def store(self, form: Form, value: Value, point: Point) -> None:
        """Store a value in a statement's target, if it has one."""
        access = form.target
        if access is None:
            return
        mask = None if lanes_of(value.type) == 1 or self.space.writable(access) else self.mask(point)
        stride = self.space.stride(access, self.lane)
        elements.write(self.f, value, self.address(access, point), access.buffer.dtype, stride, mask)

    # -- scratch memory --------------------------------------------------------------------------------------
    def room(self, dtype: np.dtype[Any], axes: Sequence[int], unit: int) -> tuple[Access, int]:
        """Scratch memory for `unit` elements at every point of `axes`, and whole vectors along the lane."""
        strides, count = [0] * len(self.space.extents), unit
        for axis in sorted(axes, key=lambda axis: axis != self.lane):
            strides[axis] = count
            extent = self.space.extents[axis]
            count *= -(-extent // self.lanes) * self.lanes if axis == self.lane else extent
        count = -(-count // self.lanes) * self.lanes
        access = Access(Buffer("scratch", dtype, (count,), (1,), count), 0, tuple(strides))
        self.space.strides[access] = access.strides
        self.remember(access, self.f.at(self._scratch, self.scratch_bytes, "i8"))
        self.scratch_bytes += -(-count * dtype.itemsize // _LINE) * _LINE
        return access, count

    def keep(self, expressions: Sequence[Expression]) -> None:
        """Find room for values that a walk leaves to later ones."""
        for each in expressions:
            moving = [axis for axis in self.space.axes(each) if axis in self.space.inner]
            lane_of_rows = self.lane in self.space.axes(each) and self.lane not in moving
            self._spills[each], _ = self.room(each.dtype, moving, self.lanes if lane_of_rows else 1)

    def spill(self, expression: Expression, value: Value, point: Point) -> None:
        """Store a value for later walks."""
        if expression in self._spills:
            pointer = self.address(self._spills[expression], point)
            elements.write(self.f, value, pointer, expression.dtype, 1)

    def unspilled(self, expression: Expression, point: Point, lanes: int) -> Value:
        """What `spill` has stored."""
        pointer = self.address(self._spills[expression], point)
        return elements.read(self.f, pointer, expression.dtype, 1, lanes)


def memory_type(access: Access) -> str:
    """LLVM's type of an element in memory."""
    return SCALARS[access.buffer.dtype.name]
