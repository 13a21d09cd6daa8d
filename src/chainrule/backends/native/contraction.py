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
from functools import partial
from itertools import product
from math import prod
from typing import NamedTuple

from chainrule.backends.native import elements
from chainrule.backends.native.emit import Emitted, Function, Module
from chainrule.backends.native.epilogue import Dimension, Epilogue, Place, Tile, fixed
from chainrule.backends.native.packing import Packer
from chainrule.backends.native.products import Products
from chainrule.backends.native.target import Target
from chainrule.backends.native.tiling import RIGHT, Axis, Plan, Split, make_plan
from chainrule.backends.native.values import INDEX, POINTER, SCALARS, Index, Value, constant  # fmt: skip
from chainrule.schedule.kernels import Contraction, places

_CHUNK = 48
"""Tiles that set their sums aside at a time: these fit the second cache beside the panel."""
_NEAR = 48
"""Rows whose sums are set aside only for statements that are too long to write out: in the first cache."""
_LINE = 64


def emit_contraction(module: Module, name: str, kernel: Contraction, target: Target) -> Emitted:
    """Write the function of a contraction; see `places` for its arguments."""
    pointers = [(f"place{number}", POINTER) for number in range(len(places(kernel)))]
    arguments = [*pointers, ("scratch", POINTER), ("first", INDEX), ("last", INDEX)]
    function = Function(module, name, arguments)
    emitted = Emitted(0)
    if 0 not in kernel.extents[: kernel.outputs]:
        plan = make_plan(kernel, target)
        parts = [each.target for each in kernel.statements if each.combiner and each.target is not None]
        assert all(plan.units <= each.buffer.size for each in parts), "every unit needs a place for its sum"
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
        self.function, self.plan = function, plan
        *pointers, self.memory, self.first, self.last = function.arguments
        self.pointers = pointers
        self.dtype = kernel.left.buffer.dtype
        self.scalar = SCALARS[self.dtype.name]
        self.types = [SCALARS[place.buffer.dtype.name] for place in places(kernel)]
        self.epilogue = Epilogue(function, kernel, plan, pointers)
        self.packer = Packer(function, plan, kernel.right) if plan.packed else None
        slack = kernel.left.buffer.slack, kernel.right.buffer.slack or bool(plan.packed)
        dtypes = [place.buffer.dtype for place in places(kernel)]
        self.products = Products(function, plan, dtypes, slack)
        self.on_lane = not plan.dot and plan.column.extent == 1
        self.columns = plan.panels.size * (1 if self.on_lane else plan.vectors)
        self.chunk = _CHUNK if plan.block else max(1, _NEAR // plan.rows.size)
        long = self.epilogue.is_long(plan.rows.size * self.columns)
        self.waits = not plan.dot and bool(plan.block or long)
        panel = plan.panel_width * prod(axis.extent for axis in plan.packed) if plan.packed else 0
        kept = min(self.chunk, plan.rows.pieces) * plan.rows.size * self._row if self.waits else 0
        self.panel_bytes = -(-panel * self.dtype.itemsize // _LINE) * _LINE
        self.scratch = self.panel_bytes + kept * self.dtype.itemsize
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
        starts: dict[int, Index] = {}
        rest = self._decode(run, plan.others, starts)
        rest, panel = function.divide(rest, plan.panels.pieces)
        self._decode(rest, plan.outer, starts)
        start = _start(function, plan.panels, panel)
        along = plan.packed_lane if self.on_lane else plan.column
        start = function.mul(start, plan.lanes) if self.on_lane else start
        pointers = self._moved(self.pointers, along, start)
        starts[along.number] = start
        for axis in (*plan.outer, *plan.others):
            pointers = self._moved(pointers, axis, starts[axis.number])
        remaining = function.add(plan.lane.extent, function.mul(start, -1 if self.on_lane else 0))
        if self.packer is not None:
            self._pack(pointers[RIGHT], run, first, panel, remaining)
            pointers[RIGHT] = self.memory
        selected = partial(self._panel, pointers, remaining, starts)
        self.epilogue.begin()
        self._panel_rows(selected, panel, tiles)
        self.epilogue.end(function.add(function.mul(run, plan.rows.pieces), tiles[0]))

    def _panel_rows(self, selected: Callable[..., _Panel], panel: Index, tiles: tuple[Index, Index]) -> None:
        """The tiles of one panel, of whichever size it is."""
        function, plan = self.function, self.plan
        *most, last = plan.panels.sizes
        if not most:
            self._rows(selected(*last), tiles)
            return
        large = function.compare("slt", function.index(panel), constant(plan.panels.large, INDEX))
        function.if_then(large, lambda: self._rows(selected(*most[0]), tiles))
        function.if_then(function.opposite(large), lambda: self._rows(selected(*last), tiles))

    def _decode(self, number: Index, axes: Sequence[Axis], starts: dict[int, Index]) -> Index:
        """Positions on axes of which a number counts all; what is left of the number."""
        for axis in reversed(axes):
            number, starts[axis.number] = self.function.divide(number, axis.extent)
        return number

    def _moved(self, pointers: Sequence[Value], axis: Axis, steps: Index) -> list[Value]:
        """Every place, some steps along an axis."""
        function = self.function
        return [
            function.at(pointer, function.mul(steps, axis.stride(number)), type_)
            for number, (pointer, type_) in enumerate(zip(pointers, self.types, strict=True))
        ]

    def _pack(self, source: Value, run: Index, first: Index, panel: Index, remaining: Index) -> None:
        """The columns of a panel copied to the scratch memory, unless the run before has done that."""
        function, panels = self.function, self.plan.panels
        assert self.packer is not None
        count: Index = panels.size
        if panels.large < panels.pieces:
            small = function.compare("sge", function.index(panel), constant(panels.large, INDEX))
            count = function.add(panels.size, function.mul(function.convert("zext", small, INDEX), -1))
        pack = partial(self.packer.pack, source, self.memory, count, remaining)
        _, repeated = function.divide(run, prod(axis.extent for axis in self.plan.others))
        if isinstance(repeated, int):
            pack()
            return
        begins = function.compare("eq", function.index(run), function.index(first))
        new = function.compare("eq", repeated, constant(0, INDEX))
        function.if_then(function.binary("or", begins, new), pack)

    def _panel(
        self, pointers: Sequence[Value], remaining: Index, starts: Mapping[int, Index],
        _: int, end: int, size: int,
    ) -> _Panel:  # fmt: skip
        """A panel of one of the sizes there are; a mask where the last vector may not be whole."""
        function, plan = self.function, self.plan
        points, vectors = (1, size) if self.on_lane else (size, plan.vectors)
        mask = None
        if not plan.dot and plan.lane.extent % plan.lanes and (end == plan.panels.pieces or not self.on_lane):
            mask = function.mask_below(function.add(remaining, -(vectors - 1) * plan.lanes), plan.lanes)
        return _Panel(pointers, points, vectors, remaining, mask, starts)

    # -- tiles -----------------------------------------------------------------------------------------------
    def _rows(self, panel: _Panel, tiles: tuple[Index, Index]) -> None:
        """Some tiles of a panel, one below the other."""
        function, plan = self.function, self.plan
        if not self.waits:
            self._each_tile(panel, *tiles, lambda tile, _: self._finish(tile, self._whole(tile)))
            return

        def chunk(begin: Index, _: list[Value]) -> None:
            end = function.smaller(function.add(begin, self.chunk), tiles[1])
            first, last = _start(function, plan.rows, begin), _start(function, plan.rows, end)
            rows = function.add(last, function.mul(first, -1))
            whole = self._tile(panel, first, rows)
            if plan.block:
                self._interrupted(panel, begin, end, whole)
            else:
                self._each_tile(
                    panel, begin, end, lambda tile, row: self._keep(tile, row, first, self._whole(tile))
                )
            self.epilogue.run(whole, partial(self._kept, whole), looped=True)

        function.loop(*tiles, self.chunk, [], chunk)

    def _tile(self, panel: _Panel, start: Index, rows: Index) -> Tile:
        """Rows of a panel from a start."""
        plan = self.plan
        last = (plan.second, panel.vectors, 1) if plan.dot else (plan.lane, panel.vectors, plan.lanes)
        dimensions = Dimension(plan.row, rows), Dimension(plan.column, panel.points), Dimension(*last)
        starts = {**panel.starts, plan.row.number: start}
        return Tile(
            self._moved(panel.pointers, plan.row, start), dimensions, panel.remaining, panel.mask, starts
        )

    def _each_tile(
        self, panel: _Panel, begin: Index, end: Index, body: Callable[[Tile, Index], None]
    ) -> None:
        """``body(tile, its first row)``, with one copy of the code for each size of tiles."""
        function, split = self.function, self.plan.rows

        def at(size: int, number: Index, _: list[Value]) -> None:
            start = _start(function, split, number)
            body(self._tile(panel, start, size), start)

        if len(split.sizes) == 1:
            function.loop(begin, end, 1, [], partial(at, split.size))
            return
        function.loop(begin, function.smaller(end, split.large), 1, [], partial(at, split.size))
        function.loop(function.larger(begin, split.large), end, 1, [], partial(at, split.size - 1))

    def _interrupted(self, panel: _Panel, begin: Index, end: Index, whole: Tile) -> None:
        """The sums of some tiles in memory, all going a block further at a time."""
        function, plan = self.function, self.plan
        row, _, _ = whole.dimensions
        first = whole.starts[plan.row.number]
        start = self.epilogue.first_values(whole) or [self.products.zero] * panel.points * panel.vectors

        def clear(row: Index, _: list[Value]) -> None:
            self._spill(self._at(row), start)

        function.loop(0, row.steps, 1, [], clear)
        extent = plan.loops[0].extent

        def block(step: Index, _: list[Value]) -> None:
            stop = function.smaller(function.add(step, plan.block), extent)

            def further(tile: Tile, row: Index) -> None:
                here = function.add(row, function.mul(first, -1))
                columns = tile._replace(dimensions=(Dimension(Axis(), 1), *tile.dimensions[1:]))
                sums = [
                    self._kept(tile, (function.add(here, r), point, step))
                    for r in range(fixed(tile.dimensions[0].steps))
                    for _, point, step in columns.places()
                ]
                self._keep(tile, row, first, self.products.of(tile, sums, (step, stop)))

            self._each_tile(panel, begin, end, further)

        function.loop(0, extent, plan.block, [], block)

    def _whole(self, tile: Tile) -> list[Value]:
        """The sums of a tile, from beginning to end."""
        rows, points, vectors = (fixed(dimension.steps) for dimension in tile.dimensions)
        start = self.epilogue.first_values(tile) or [self.products.zero] * points * vectors
        return self.products.of(tile, start * rows, (0, self.plan.loops[0].extent))

    # -- sums in memory --------------------------------------------------------------------------------------
    @property
    def _row(self) -> int:
        """Elements of a row of sums in the scratch memory."""
        return self.columns * self.plan.lanes

    def _at(self, row: Index) -> Value:
        kept = self.function.at(self.memory, self.panel_bytes, "i8")
        return self.function.at(kept, self.function.mul(row, self._row), self.scalar)

    def _keep(self, tile: Tile, row: Index, first: Index, sums: Sequence[Value]) -> None:
        """A tile's sums set aside, in a chunk whose first row is `first`."""
        place = self._at(self.function.add(row, self.function.mul(first, -1)))
        rows = fixed(tile.dimensions[0].steps)
        columns = len(sums) // rows
        for r in range(rows):
            target = self.function.at(place, r * self._row, self.scalar)
            self._spill(target, sums[r * columns : (r + 1) * columns])

    def _kept(self, tile: Tile, place: Place) -> Value:
        """A sum that was set aside."""
        function, (row, point, step) = self.function, place
        vector = function.add(function.mul(point, fixed(tile.dimensions[2].steps)), step)
        return self._reload(self._at(row), function.mul(vector, self.plan.lanes), self.plan.lanes)

    def _spill(self, place: Value, values: Sequence[Value]) -> None:
        for k, value in enumerate(values):
            target = self.function.at(place, k * self.plan.lanes, self.scalar)
            elements.write(self.function, value, target, self.dtype, 1)

    def _reload(self, place: Value, offset: Index, lanes: int) -> Value:
        source = self.function.at(place, offset, self.scalar)
        return elements.read(self.function, source, self.dtype, 1, lanes)

    # -- the end of a tile -----------------------------------------------------------------------------------
    def _finish(self, tile: Tile, sums: list[Value]) -> None:
        """The statements, on sums in registers."""
        if self.plan.dot:
            self._finish_dot(tile, sums)
            return
        at: dict[Place, Value] = dict(zip(tile.places(), sums, strict=True))
        self.epilogue.run(tile, at.__getitem__, looped=False)

    def _finish_dot(self, tile: Tile, sums: list[Value]) -> None:
        """The same where each sum's parts are the lanes of a vector: these are added up first."""
        function, lanes = self.function, self.plan.lanes
        if self._stack is None:
            self._stack = function.allocate(self.scalar, (self.plan.rows.size * self.columns + 1) * lanes)
        stack = self._stack
        inner = max(range(3), key=lambda k: (self._contiguous(tile.dimensions[k]), tile.dimensions[k].steps))
        order = [k for k in range(3) if k != inner] + [inner]
        dimensions = [tile.dimensions[k] for k in order]
        rows, points, count = (fixed(dimension.steps) for dimension in dimensions)
        at = dict(zip(tile.places(), sums, strict=True))
        places = product(range(rows), range(points), range(count))
        listed = [at[place[order.index(0)], place[order.index(1)], place[order.index(2)]] for place in places]
        groups = [listed[k : k + lanes] for k in range(0, len(listed), lanes)]
        self._spill(stack, [self.products.added_up(group) for group in groups])
        width = min(lanes, 1 << (count - 1).bit_length())
        mask = function.mask_below(count % width, width) if count % width else None
        vectors = Dimension(dimensions[2].axis, -(-count // width), width)

        def reloaded(place: Place) -> Value:
            line = function.add(function.mul(place[0], points), place[1])
            start = function.add(function.mul(line, count), function.mul(place[2], width))
            return self._reload(stack, start, width)

        totals = Tile(tile.pointers, (dimensions[0], dimensions[1], vectors), count, mask, tile.starts)
        self.epilogue.run(totals, reloaded, self.epilogue.is_long(rows * points * -(-count // width)))

    def _contiguous(self, dimension: Dimension) -> int:
        """How many places of the statements are contiguous along an axis of more than one element."""
        if dimension.steps == 1:
            return -1
        return sum(dimension.axis.stride(number) == 1 for number in range(RIGHT + 1, len(self.types)))


def _start(function: Function, split: Split, number: Index) -> Index:
    """The first element of a piece of an axis."""
    if split.large == split.pieces:
        return function.mul(number, split.size)
    return function.add(function.mul(number, split.size - 1), function.smaller(number, split.large))
