"""What happens to a contraction's sums while they are in registers: its statements, on a tile at a time.

A tile has three dimensions: rows, points, and the vectors of a lane axis. An expression is computed once for
all that it does not depend on: a learning rate once per call, a bias once per column and not per row. Short
statements are written out for every vector of the tile. Of long ones there is one copy, in a loop over the
tile, which is set down on the stack for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

from chainrule.backends.native import elements, scalars, vectormath
from chainrule.backends.native.emit import Function
from chainrule.backends.native.tiling import Axis, Plan
from chainrule.backends.native.values import SCALARS, Index, Value, constant, register_type
from chainrule.schedule.kernels import Access, Contraction, Expression, Statement, expressions

_INLINE = 160
"""Operations that the statements may come to, over a whole tile, and still be written out."""
_FUNCTION = 20
"""Operations that a function of the vector mathematics library counts for."""

Pointers = Sequence[Value]
"""Where each of a kernel's places begins, for a tile or for a run of tiles."""
Place = tuple[Index, Index, Index]
"""Where in a tile: row, point, vector."""
_FIRST: Place = (0, 0, 0)


class Dimension(NamedTuple):
    """A dimension of a tile: its axis, its steps, and how many elements a step is."""

    axis: Axis
    steps: Index
    width: int = 1


class Tile(NamedTuple):
    """Rows, points and vectors of a part of the output.

    pointers   where each of the kernel's places begins
    remaining  elements on the lane's axis from the tile's start; what lies beyond is not there
    mask       the lanes of the last vector that are there; None: all of them
    starts     the kernel's axis → where the tile begins on it, for positions
    """

    pointers: Pointers
    dimensions: tuple[Dimension, Dimension, Dimension]
    remaining: Index
    mask: Value | None
    starts: Mapping[int, Index]

    @property
    def lanes(self) -> int:
        return self.dimensions[2].width

    @property
    def axes(self) -> list[int]:
        """The kernel's axes that the tile extends along."""
        return [dimension.axis.number for dimension in self.dimensions]

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Everywhere in a tile whose size is known, row by row."""
        rows, points, vectors = (fixed(dimension.steps) for dimension in self.dimensions)
        return product(range(rows), range(points), range(vectors))


class _Point(NamedTuple):
    """Where expressions are evaluated, with the sum there, and what is known already."""

    tile: Tile
    place: Place
    known: dict[tuple[Expression, Place], Value]
    total: Value | None = None


Sums = Callable[[Place], Value]


class Epilogue:
    """The statements of a contraction, in the function that computes it."""

    def __init__(self, function: Function, kernel: Contraction, plan: Plan, pointers: Pointers) -> None:
        self._function, self._statements = function, kernel.statements
        self._overruns = not plan.dot  # vectors lie along the kernel's lane axis, and may overrun its end
        self._all = tuple(expressions(statement.value for statement in kernel.statements))
        loaded = [each for each in self._all if each.op == "load"]
        stored = [statement for statement in kernel.statements if statement.target is not None]
        order: list[Expression | Statement] = [*loaded, *stored]
        self._number = {each: number for number, each in enumerate(order, 2)}
        self._long = {axis for axis in range(kernel.outputs) if kernel.extents[axis] > 1}
        self._moves: dict[Expression, set[int] | None] = {}
        for each in self._all:
            self._moves[each] = self._moving(each)
        self._totals = {
            each: function.allocate(SCALARS[each.value.dtype.name], plan.lanes)
            for each in stored
            if each.combiner is not None
        }
        self._lanes = plan.lanes
        self._weight = len(stored) + sum(map(_operations, self._all))
        self._started, self._start = (None, None) if plan.dot else self._beginning(plan.row.number)
        nowhere = Tile(pointers, (Dimension(Axis(), 1),) * 3, 1, None, {})
        once = _Point(nowhere, _FIRST, {})
        for each in self._all:
            if self._moves[each] == set():
                self._value(each, once)
        self._known = once.known

    def is_long(self, vectors: int) -> bool:
        """The statements are better looped over so many vectors than written out for each."""
        return self._weight * vectors > _INLINE

    def first_values(self, tile: Tile) -> list[Value] | None:
        """What the sums in the columns of a tile start from; None: from 0."""
        if self._start is None:
            return None
        known = dict(self._known)
        first_row = tile._replace(dimensions=(Dimension(Axis(), 1), *tile.dimensions[1:]))
        values = [self._value(self._start, _Point(tile, place, known)) for place in first_row.places()]
        return [self._function.widened(each, tile.lanes) for each in values]

    def begin(self) -> None:
        """Totals start from 0."""
        for statement, total in self._totals.items():
            type_ = register_type(statement.value.dtype, self._lanes)
            self._function.store(constant(0, type_), total)

    def end(self, unit: Index) -> None:
        """Leave the totals of what was stored since `begin` at the place of the unit that began it."""
        function = self._function
        for statement, total in self._totals.items():
            dtype = statement.value.dtype
            assert statement.target is not None
            value = function.reduce("sum", function.load(total, register_type(dtype, self._lanes)))
            place = function.at(function.arguments[self._number[statement]], unit, SCALARS[dtype.name])
            function.store(value, place)

    def run(self, tile: Tile, sums: Sums, looped: bool) -> None:
        """The statements everywhere in a tile, written out or in loops."""
        known = dict(self._known)
        if looped:
            self._walk(tile, sums, (), known)
            return
        for place in tile.places():
            self._store(_Point(tile, place, known, sums(place)))

    # -- running ---------------------------------------------------------------------------------------------
    def _walk(
        self, tile: Tile, sums: Sums, path: tuple[Index, ...], known: dict[tuple[Expression, Place], Value]
    ) -> None:
        """Loops over the dimensions of a tile; what a loop does not change is computed before it."""
        row, point, step = (*path, 0, 0, 0)[:3]
        if len(path) == 3:
            self._store(_Point(tile, (row, point, step), known, sums((row, point, step))))
            return
        inner = set(tile.axes[len(path) :])
        for each in self._all:
            moves = self._moves[each]
            if moves is not None and not moves & inner:
                self._value(each, _Point(tile, (row, point, step), known))
        steps = tile.dimensions[len(path)].steps
        columns = [each.steps for each in tile.dimensions[max(1, len(path)) :]]
        if path and not self.is_long(prod(map(fixed, columns))):
            for step in range(fixed(steps)):
                self._walk(tile, sums, (*path, step), known)
            return
        self._function.loop(
            0, steps, 1, [], lambda step, _: self._walk(tile, sums, (*path, step), dict(known))
        )  # fmt: skip

    def _store(self, point: _Point) -> None:
        """The statements at one place; all are computed first, for storing may change what is loaded."""
        tile, place = point.tile, point.place
        values = [self._value(each.value, point) for each in self._statements]
        for statement, value in zip(self._statements, values, strict=True):
            target = statement.target
            if target is None:
                continue
            if statement in self._totals:
                self._add_up(statement, self._function.widened(value, tile.lanes), point)
                continue
            number = self._number[statement]
            stride = tile.dimensions[2].axis.stride(number)
            pointer = self._address(number, target, tile, place)
            mask = None if self._overruns and target.overrun and stride == 1 else self._mask(tile, place)
            value = self._function.widened(value, tile.lanes)
            elements.write(self._function, value, pointer, target.buffer.dtype, stride, mask)

    def _add_up(self, statement: Statement, value: Value, point: _Point) -> None:
        """Add a vector to a total, lanes that are not there as 0."""
        function, total = self._function, self._totals[statement]
        mask = self._mask(point.tile, point.place)
        if mask is not None:
            value = function.select(mask, value, constant(0, value.type))
        if point.tile.lanes != self._lanes:  # in a narrower tile lane 0 takes all
            value = function.reduce("sum", value)
        function.store(function.binary("fadd", function.load(total, value.type), value), total)

    # -- what depends on what --------------------------------------------------------------------------------
    def _moving(self, each: Expression) -> set[int] | None:
        """The kernel's axes along which an expression changes; None: it depends on the sum."""
        if each.op == "sum":
            return None
        if each.op == "load":
            strides = each.attributes["access"].strides
            return {axis for axis in self._long if strides[axis]}
        if each.op == "position":
            return self._long & {each.attributes["axis"]}
        if each.op == "result":
            return self._moves[each.attributes["statement"].value]
        along: set[int] = set()
        for argument in each.arguments:
            moves = self._moves[argument]
            if moves is None:
                return None
            along |= moves
        return along

    def _beginning(self, row: int) -> tuple[Expression | None, Expression | None]:
        """(sum + load, the load) where the sum is used nowhere else and the load is the same for all rows.

        The sums then begin with what is loaded, and the addition costs nothing.
        """
        users = [each for each in self._all if any(argument.op == "sum" for argument in each.arguments)]
        if len(users) != 1 or any(statement.value.op == "sum" for statement in self._statements):
            return None, None
        others = [argument for argument in users[0].arguments if argument.op != "sum"]
        if users[0].op != "add" or users[0].dtype.kind != "f" or [each.op for each in others] != ["load"]:
            return None, None
        moves = self._moves[others[0]]
        return (None, None) if moves is None or row in moves else (users[0], others[0])

    # -- values ----------------------------------------------------------------------------------------------
    def _value(self, each: Expression, point: _Point) -> Value:
        """An expression at a place: a vector, or a scalar where it is the same in all lanes."""
        if each.op == "sum" or each is self._started:
            assert point.total is not None
            return point.total
        if each.op == "result":
            return self._value(each.attributes["statement"].value, point)
        moves = self._moves[each]
        here = [moves is None or axis in moves for axis in point.tile.axes]
        row, column, step = (index if moved else 0 for index, moved in zip(point.place, here, strict=True))
        key = each, (row, column, step)
        if key not in point.known:
            point.known[key] = self._computed(each, point, point.tile.lanes if here[2] else 1)
        return point.known[key]

    def _computed(self, each: Expression, point: _Point, lanes: int) -> Value:
        if each.op == "constant":
            return scalars.constant_value(each, lanes)
        if each.op == "load":
            return self._loaded(each, point, lanes)
        if each.op == "position":
            return self._position(each.attributes["axis"], point, lanes)
        arguments = [self._function.widened(self._value(a, point), lanes) for a in each.arguments]
        return scalars.compute(self._function, each, arguments, lanes)

    def _loaded(self, each: Expression, point: _Point, lanes: int) -> Value:
        access: Access = each.attributes["access"]
        number, tile = self._number[each], point.tile
        pointer = self._address(number, access, tile, point.place)
        stride = tile.dimensions[2].axis.stride(number)
        mask = None if stride == 1 and access.buffer.slack else self._mask(tile, point.place)
        return elements.read(self._function, pointer, access.buffer.dtype, stride, lanes, mask)

    def _position(self, axis: int, point: _Point, lanes: int) -> Value:
        function, tile = self._function, point.tile
        position: Index = tile.starts.get(axis, 0)
        for dimension, step in zip(tile.dimensions, point.place, strict=True):
            if dimension.axis.number == axis:
                position = function.add(position, function.mul(step, dimension.width))
        value = function.splat(function.index(position), lanes)
        return value if lanes == 1 else function.binary("add", value, function.lane_numbers(lanes))

    def _address(self, number: int, access: Access, tile: Tile, place: Place) -> Value:
        function = self._function
        offset: Index = 0
        for dimension, step in zip(tile.dimensions, place, strict=True):
            stride = dimension.width * dimension.axis.stride(number)
            offset = function.add(offset, function.mul(step, stride))
        return function.at(tile.pointers[number], offset, SCALARS[access.buffer.dtype.name])

    def _mask(self, tile: Tile, place: Place) -> Value | None:
        """The lanes of a vector that are there."""
        vectors, step = tile.dimensions[2], place[2]
        if tile.mask is None or step == fixed(vectors.steps) - 1:
            return tile.mask
        if isinstance(step, int):
            return None
        left = self._function.add(tile.remaining, self._function.mul(step, -vectors.width))
        return self._function.mask_below(left, vectors.width)


def fixed(steps: Index) -> int:
    """A number of steps that is known while the code is written."""
    assert isinstance(steps, int)
    return steps


def _operations(each: Expression) -> int:
    if each.op in ("constant", "sum", "result"):
        return 0
    return _FUNCTION if hasattr(vectormath, each.op) else 1
