"""Sums of products: matrix products in any orientation, batched ones, einsum, convolution, attention's two.

One generator. `tiling` says how the loop is cut; here it is written:

    for each run of tiles: a position on the outer axes and a panel of columns
        copy the panel where its columns are not contiguous (`packing`)
        for each tile of rows
            sums = 0, or a bias
            for each step on the summed axes
                sums[row, column] += left[row] * right[column]
            the statements, on the sums in registers (`epilogue`)

A unit of work is one tile of one run, so that any number of threads share the work evenly; each packs the
panels it needs. Long sums are interrupted: all tiles go as far as a block of the panel, which stays in the
first cache meanwhile, and set their sums aside. How one sum is added up never depends on the units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

from chainrule.backends.native import elements
from chainrule.backends.native.emit import (
    INDEX,
    POINTER,
    SCALARS,
    Emitted,
    Function,
    Index,
    Module,
    Value,
    constant,
    register_type,
)  # fmt: skip
from chainrule.backends.native.epilogue import Dimension, Epilogue, Tile
from chainrule.backends.native.packing import Packer, interleaved
from chainrule.backends.native.target import Target
from chainrule.backends.native.tiling import LEFT, RIGHT, Axis, Plan, Split, make_plan
from chainrule.schedule.kernels import Contraction, places

_CHUNK = 48
"""Tiles that set their sums aside at a time: these fit the second cache beside the panel."""
_LINE = 64


def emit_contraction(module: Module, name: str, kernel: Contraction, target: Target) -> Emitted:
    """Write the function of a contraction; see `places` for its arguments."""
    pointers = [(f"place{number}", POINTER) for number in range(len(places(kernel)))]
    arguments = [*pointers, ("scratch", POINTER), ("first", INDEX), ("last", INDEX)]
    function = Function(module, name, arguments)
    emitted = Emitted(0)
    if 0 not in kernel.extents[: kernel.outputs]:
        plan = make_plan(kernel, target)
        writer = _Writer(function, kernel, plan)
        writer.write()
        emitted = Emitted(plan.units, writer.scratch)
    function.give_back()
    return emitted


class _Panel(NamedTuple):
    """Columns that meet the rows: where every place begins, and the tile's second and third dimension."""

    pointers: Sequence[Value]
    points: int
    vectors: int
    remaining: Index
    mask: Value | None
    starts: Mapping[int, Index]


class _Writer:
    """The function of one contraction while it is written."""

    def __init__(self, function: Function, kernel: Contraction, plan: Plan) -> None:
        self.function, self.kernel, self.plan = function, kernel, plan
        *pointers, self.memory, self.first, self.last = function.arguments
        self.pointers = pointers
        self.dtype = kernel.left.buffer.dtype
        self.scalar = SCALARS[self.dtype.name]
        self.types = [SCALARS[place.buffer.dtype.name] for place in places(kernel)]
        self.slack = kernel.left.buffer.slack, kernel.right.buffer.slack
        self.on_lane = not plan.dot and plan.column.extent == 1
        self.columns = plan.panels.size * (1 if self.on_lane else plan.vectors)
        packed = prod(axis.extent for axis in plan.packed) * plan.panel_width if plan.packed else 0
        self.panel_bytes = -(-packed * self.dtype.itemsize // _LINE) * _LINE
        self.slot = plan.rows.size * self.columns * plan.lanes
        aside = min(_CHUNK, plan.rows.pieces) * self.slot * self.dtype.itemsize if plan.block else 0
        self.scratch = self.panel_bytes + aside
        self.epilogue = Epilogue(function, kernel, plan, pointers)
        self.packer = Packer(function, plan, kernel.right) if plan.packed else None
        self._stack: Value | None = None

    # -- loops over the output -------------------------------------------------------------------------------
    def write(self) -> None:
        """All runs of tiles that the units from first to last belong to."""
        function, tiles = self.function, self.plan.rows.pieces
        if tiles == 1:
            function.loop(self.first, self.last, 1, [], lambda run, _: self._run(run, self.first, (0, 1)))
            return
        first, _ = function.divide(self.first, tiles)
        last, _ = function.divide(function.larger(function.add(self.last, -1), 0), tiles)

        def body(run: Index, _: list[Value]) -> None:
            past = function.mul(run, -tiles)
            begin = function.larger(function.add(self.first, past), 0)
            self._run(run, first, (begin, function.smaller(function.add(self.last, past), tiles)))

        function.loop(first, function.add(last, 1), 1, [], body)

    def _run(self, run: Index, first: Index, tiles: tuple[Index, Index]) -> None:
        """The tiles of one panel of columns, at one position on the outer axes."""
        function, plan = self.function, self.plan
        rest, starts = run, dict[int, Index]()
        for axis in reversed(plan.others):
            rest, starts[axis.number] = function.divide(rest, axis.extent)
        rest, panel = function.divide(rest, plan.panels.pieces)
        for axis in reversed(plan.outer):
            rest, starts[axis.number] = function.divide(rest, axis.extent)
        pointers = self.pointers
        for axis in (*plan.outer, *plan.others):
            pointers = self._moved(pointers, axis, starts[axis.number])
        *most, last = plan.panels.kinds

        def columns(kind: tuple[int, int, int]) -> None:
            selected = self._panel(kind, panel, pointers, starts)
            if self.packer is not None:
                selected = self._packed(selected, run, first)
            self._rows(selected, tiles)

        if most:
            inside = function.compare("slt", function.index(panel), constant(plan.panels.large, INDEX))
            function.if_then(inside, lambda: columns(most[0]))
            function.if_then(function.binary("xor", inside, constant(True, "i1")), lambda: columns(last))
        else:
            columns(last)

    def _moved(self, pointers: Sequence[Value], axis: Axis, steps: Index) -> list[Value]:
        """Every place, some steps along an axis."""
        function = self.function
        return [
            function.at(pointer, function.mul(steps, axis.stride(number)), type_)
            for number, (pointer, type_) in enumerate(zip(pointers, self.types, strict=True))
        ]

    def _panel(
        self,
        kind: tuple[int, int, int],
        number: Index,
        pointers: Sequence[Value],
        starts: Mapping[int, Index],
    ) -> _Panel:
        """A panel of one of the kinds that there are."""
        function, plan = self.function, self.plan
        lane = plan.lane.extent
        start = _start(function, plan.panels, kind, number)
        if not self.on_lane:
            moved = self._moved(pointers, plan.column, start)
            full = plan.dot or lane % plan.lanes == 0
            mask = None if full else function.mask_below(lane % plan.lanes, plan.lanes)
            return _Panel(moved, kind[2], plan.vectors, lane, mask, {**starts, plan.column.number: start})
        start = function.mul(start, plan.lanes)
        moved = self._moved(pointers, plan.packed_lane, start)
        remaining = function.add(lane, function.mul(start, -1))
        mask = None
        if lane % plan.lanes and kind[1] == plan.panels.pieces:
            mask = function.mask_below(function.add(remaining, -(kind[2] - 1) * plan.lanes), plan.lanes)
        return _Panel(moved, 1, kind[2], remaining, mask, {**starts, plan.lane.number: start})

    def _packed(self, panel: _Panel, run: Index, first: Index) -> _Panel:
        """The panel with its columns copied to the scratch memory, unless the run before has done that."""
        function = self.function
        _, repeated = function.divide(run, prod(axis.extent for axis in self.plan.others))
        assert self.packer is not None
        pack, source = self.packer.pack, panel.pointers[RIGHT]
        if isinstance(repeated, int):
            pack(source, self.memory, panel.vectors, panel.remaining)
        else:
            begins = function.compare("eq", function.index(run), function.index(first))
            new = function.binary("or", begins, function.compare("eq", repeated, constant(0, INDEX)))
            function.if_then(new, lambda: pack(source, self.memory, panel.vectors, panel.remaining))
        return panel._replace(pointers=[panel.pointers[LEFT], self.memory, *panel.pointers[RIGHT + 1 :]])

    def _rows(self, panel: _Panel, tiles: tuple[Index, Index]) -> None:
        """Some tiles of a panel, one below the other."""
        function, plan = self.function, self.plan
        if not plan.block:
            self._each_tile(panel, *tiles, lambda _, tile: self._finish(tile, self._sums(tile)))
            return

        def chunk(begin: Index, _: list[Value]) -> None:
            end = function.smaller(function.add(begin, _CHUNK), tiles[1])
            self._each_tile(panel, begin, end, lambda n, tile: self._set_aside(n, begin, self._zeros(tile)))
            extent = plan.loops[0].extent
            function.loop(0, extent, plan.block, [], lambda k, _: self._block(panel, k, begin, end))

        function.loop(*tiles, _CHUNK, [], chunk)

    def _block(self, panel: _Panel, step: Index, begin: Index, end: Index) -> None:
        """All tiles one block further along the outermost summed axis."""
        function, plan = self.function, self.plan
        extent = plan.loops[0].extent
        stop = function.smaller(function.add(step, plan.block), extent)
        last = function.compare("eq", function.index(stop), constant(extent, INDEX))
        more = function.binary("xor", last, constant(True, "i1"))

        def further(number: Index, tile: Tile) -> None:
            sums = self._sums(tile, self._taken_up(number, begin, tile), step, stop)
            function.if_then(last, lambda: self._finish(tile, sums))
            function.if_then(more, lambda: self._set_aside(number, begin, sums))

        self._each_tile(panel, begin, end, further)

    def _each_tile(
        self, panel: _Panel, begin: Index, end: Index, body: Callable[[Index, Tile], None]
    ) -> None:
        function, plan = self.function, self.plan

        def tile(kind: tuple[int, int, int], number: Index) -> None:
            start = _start(function, plan.rows, kind, number)
            dimensions = (
                Dimension(plan.row, kind[2]), Dimension(plan.column, panel.points),
                Dimension(plan.lane, panel.vectors, plan.lanes),
            )  # fmt: skip
            pointers = self._moved(panel.pointers, plan.row, start)
            starts = {**panel.starts, plan.row.number: start}
            body(number, Tile(pointers, dimensions, panel.remaining, panel.mask, starts))

        kinds = plan.rows.kinds
        for kind in kinds:
            low = begin if len(kinds) == 1 else function.larger(begin, kind[0])
            high = end if len(kinds) == 1 else function.smaller(end, kind[1])
            function.loop(low, high, 1, [], lambda number, _, kind=kind: tile(kind, number))  # type: ignore[misc]

    # -- sums ------------------------------------------------------------------------------------------------
    def _zeros(self, tile: Tile) -> list[Value]:
        """What the sums of a tile start from."""
        first = None if self.plan.dot else self.epilogue.first_values(tile)
        if first is None:
            zero = constant(0, register_type(self.dtype, self.plan.lanes))
            return [zero for _ in tile.places()]
        return first * tile.dimensions[0].steps

    def _sums(
        self, tile: Tile, sums: list[Value] | None = None, begin: Index = 0, end: Index | None = None
    ) -> list[Value]:
        """The sums of a tile, in registers, after some steps of the outermost summed axis."""
        sums = self._zeros(tile) if sums is None else sums
        if self.plan.empty:
            return sums
        stop = self.plan.loops[0].extent if end is None else end
        return _Products(self, tile).along(0, (begin, stop), tile.pointers[LEFT], tile.pointers[RIGHT], sums)

    def multiply_add(self, a: Value, b: Value, total: Value) -> Value:
        """a * b + total as the dtype does it."""
        function = self.function
        if self.dtype.kind == "f":
            return function.fma(a, b, total)
        logical = self.dtype.kind == "b"
        both = function.binary("and" if logical else "mul", a, b)
        return function.combine("any" if logical else "sum", total, both)

    # -- sums in memory --------------------------------------------------------------------------------------
    def _aside(self, number: Index, begin: Index) -> Value:
        """Where a tile's sums are kept between blocks."""
        function = self.function
        slot = function.mul(function.add(number, function.mul(begin, -1)), self.slot)
        kept = function.at(self.memory, self.panel_bytes, "i8")
        return function.at(kept, slot, self.scalar)

    def _set_aside(self, number: Index, begin: Index, sums: Sequence[Value]) -> None:
        self._spill(self._aside(number, begin), sums)

    def _taken_up(self, number: Index, begin: Index, tile: Tile) -> list[Value]:
        place = self._aside(number, begin)
        return [
            self._reload(place, k * self.plan.lanes, self.plan.lanes) for k, _ in enumerate(tile.places())
        ]

    def _spill(self, place: Value, values: Sequence[Value]) -> None:
        for k, value in enumerate(values):
            target = self.function.at(place, k * self.plan.lanes, self.scalar)
            elements.write(self.function, value, target, self.dtype, 1)

    def _reload(self, place: Value, offset: Index, lanes: int) -> Value:
        source = self.function.at(place, offset, self.scalar)
        return elements.read(self.function, source, self.dtype, 1, lanes)

    def _on_stack(self) -> Value:
        """Memory for the sums of one tile."""
        if self._stack is None:
            vectors = self.plan.rows.size * self.columns + 1
            self._stack = self.function.allocate(self.scalar, vectors * self.plan.lanes)
        return self._stack

    # -- the end of a tile -----------------------------------------------------------------------------------
    def _finish(self, tile: Tile, sums: list[Value]) -> None:
        """The statements, on the sums of a tile."""
        if self.plan.dot:
            self._finish_dot(tile, sums)
            return
        if not self.epilogue.is_long(tile):
            at = dict(zip(tile.places(), sums, strict=True))
            self.epilogue.run(tile, lambda place: at[place], looped=False)  # type: ignore[index]
            return
        function, stack = self.function, self._on_stack()
        self._spill(stack, sums)
        _, points, vectors = (dimension.steps for dimension in tile.dimensions)

        def reloaded(place: tuple[Index, Index, Index]) -> Value:
            column = function.add(function.mul(place[1], vectors), place[2])
            number = function.add(function.mul(place[0], points * vectors), column)
            return self._reload(stack, function.mul(number, self.plan.lanes), self.plan.lanes)

        self.epilogue.run(tile, reloaded, looped=True)

    def _finish_dot(self, tile: Tile, sums: list[Value]) -> None:
        """The same where each sum's parts are the lanes of a vector: these are added up first."""
        function, stack, lanes = self.function, self._on_stack(), self.plan.lanes
        row, column, _ = tile.dimensions
        across = self._contiguous(column) > self._contiguous(row) or row.steps == 1
        outer, inner = (row, column) if across else (column, row)
        order = [
            (o, i) if across else (i, o) for o in range(outer.steps) for i in range(inner.steps)
        ]  # fmt: skip
        listed = [sums[r * column.steps + c] for r, c in order]
        groups = [listed[k : k + lanes] for k in range(0, len(listed), lanes)]
        self._spill(stack, [self._added_up(group) for group in groups])
        width = min(lanes, 1 << (inner.steps - 1).bit_length())
        left_over = inner.steps % width
        vectors = Dimension(inner.axis, -(-inner.steps // width), width)
        mask = function.mask_below(left_over, width) if left_over else None
        totals = Tile(
            tile.pointers, (outer, Dimension(Axis(), 1), vectors), inner.steps, mask, tile.starts
        )  # fmt: skip

        def reloaded(place: tuple[Index, Index, Index]) -> Value:
            start = function.mul(place[0], inner.steps)
            return self._reload(stack, function.add(start, function.mul(place[2], width)), width)

        self.epilogue.run(totals, reloaded, self.epilogue.is_long(totals))

    def _contiguous(self, dimension: Dimension) -> int:
        """How many places of the statements are contiguous along an axis."""
        return sum(dimension.axis.stride(number) == 1 for number in range(RIGHT + 1, len(self.types)))

    def _added_up(self, vectors: Sequence[Value]) -> Value:
        """The sum over the lanes of up to as many vectors as there are lanes, the k-th one's in lane k."""
        function, step = self.function, self.plan.lanes
        combiner = "any" if self.dtype.kind == "b" else "sum"
        some: list[Value | None] = [*vectors, *[None] * (step - len(vectors))]
        while len(some) > 1:
            step = len(some) // 2
            merged: list[Value | None] = []
            for a, b in zip(some[:step], some[step:], strict=True):
                pair = None if a is None else interleaved(function, a, b or a, step)
                merged.append(pair and function.combine(combiner, *pair))
            some = merged
        assert some[0] is not None
        return some[0]


class _Products:
    """The loops over the summed axes, for one tile."""

    def __init__(self, writer: _Writer, tile: Tile) -> None:
        self._writer, self._tile = writer, tile
        self._function, self._plan = writer.function, writer.plan

    def along(
        self, depth: int, span: tuple[Index, Index], left: Value, right: Value, sums: list[Value]
    ) -> list[Value]:
        """The loop over a summed axis, and those within it."""
        function, axis = self._function, self._plan.loops[depth]
        if depth == len(self._plan.loops) - 1:
            return self._innermost(span, left, right, sums)
        inner = 0, self._plan.loops[depth + 1].extent

        def body(step: Index, sums: list[Value]) -> list[Value]:
            return self.along(depth + 1, inner, *self._ahead(axis, step, left, right), sums)

        return function.loop(*span, 1, sums, body)

    def _innermost(
        self, span: tuple[Index, Index], left: Value, right: Value, sums: list[Value]
    ) -> list[Value]:
        """Several steps at a time; then what is left, in dot products with a mask for the last vector."""
        function, plan = self._function, self._plan
        axis, width = plan.loops[-1], plan.lanes if plan.dot else 1
        stride = plan.unroll * width
        start, stop = span
        whole = axis.extent // stride * stride
        part = stop if whole == axis.extent else function.smaller(stop, whole)

        def steps(count: int, mask: Value | None = None) -> Callable[[Index, list[Value]], list[Value]]:
            def body(step: Index, sums: list[Value]) -> list[Value]:
                places = self._ahead(axis, step, left, right)
                return self._step(*places, [k * width for k in range(count)], sums, mask)

            return body

        sums = function.loop(start, part, stride, sums, steps(plan.unroll))
        if whole == axis.extent:
            return sums
        if not isinstance(stop, int):
            return function.loop(part, stop, width, sums, steps(1))
        vectors, lanes = divmod(axis.extent - whole, width)
        sums = steps(vectors)(whole, sums) if vectors else sums
        if lanes:
            sums = steps(1, function.mask_below(lanes, width))(whole + vectors * width, sums)
        return sums

    def _ahead(self, axis: Axis, step: Index, left: Value, right: Value) -> tuple[Value, Value]:
        """Both operands, some steps along a summed axis."""
        function, scalar = self._function, self._writer.scalar
        one = function.at(left, function.mul(step, axis.stride(LEFT)), scalar)
        return one, function.at(right, function.mul(step, axis.stride(RIGHT)), scalar)

    def _step(
        self, left: Value, right: Value, steps: Sequence[int], sums: list[Value], mask: Value | None
    ) -> list[Value]:
        """Every row times every column of the tile, for steps of the innermost axis and the whole window.

        An element that several of them need is read once.
        """
        sums = list(sums)
        loaded: dict[tuple[int, int, bool], Value] = {}
        for step in steps:
            for window in self._window():
                for number, place in enumerate(self._tile.places()):
                    factors = [
                        self._factor(side, pointer, step, window[side], place, mask, loaded)
                        for side, pointer in ((RIGHT, right), (LEFT, left))
                    ]
                    sums[number] = self._writer.multiply_add(factors[1], factors[0], sums[number])
        return sums

    def _window(self) -> list[tuple[int, int]]:
        """How far both operands move, for every position on the summed axes that are written out."""
        offsets = [(0, 0)]
        for axis in self._plan.window:
            offsets = [
                (one + k * axis.stride(LEFT), other + k * axis.stride(RIGHT))
                for one, other in offsets
                for k in range(axis.extent)
            ]
        return offsets

    def _factor(
        self, side: int, pointer: Value, step: int, offset: int, place: tuple[int, int, int],
        mask: Value | None, loaded: dict[tuple[int, int, bool], Value],
    ) -> Value:  # fmt: skip
        """The value of one operand, a vector, for one sum of the tile."""
        plan, writer, tile = self._plan, self._writer, self._tile
        row, column, lane = (dimension.axis.stride(side) for dimension in tile.dimensions)
        offset += step * plan.loops[-1].stride(side) + place[0] * row + place[1] * column
        if not plan.dot:
            offset += place[2] * plan.lanes * lane
            slack = lane == 1 and (writer.slack[side] or (side == RIGHT and bool(plan.packed)))
            mask = tile.mask if place[2] == tile.dimensions[2].steps - 1 and not slack else None
        key = side, offset, mask is None
        if key not in loaded:
            place_ = writer.function.at(pointer, offset, writer.scalar)
            loaded[key] = elements.read(writer.function, place_, writer.dtype, lane, plan.lanes, mask)
        return loaded[key]


def _start(function: Function, split: Split, kind: tuple[int, int, int], number: Index) -> Index:
    """The first element of a piece of an axis."""
    before = 0 if kind[2] == split.size else split.large
    return function.add(function.mul(number, kind[2]), before)
