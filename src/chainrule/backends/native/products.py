"""The innermost loops of a contraction: the sums of one tile, in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chainrule.backends.native import elements
from chainrule.backends.native.emit import Function
from chainrule.backends.native.epilogue import Tile, fixed
from chainrule.backends.native.tiling import LEFT, RIGHT, Axis, Plan
from chainrule.backends.native.values import SCALARS, Index, Value, constant, register_type

_LINE = 64
Span = tuple[Index, Index]
"""Steps on an axis, from the first up to, not including, the last."""


class Products:
    """Sums of products over the summed axes of a plan."""

    def __init__(
        self, function: Function, plan: Plan, dtypes: Sequence[np.dtype[Any]], slack: tuple[bool, bool]
    ) -> None:
        """`dtypes` of all places; `slack`: whole vectors of left, of right, may be read beyond an axis."""
        self._function, self._plan, self._slack, self._dtypes = function, plan, slack, dtypes
        dtype = self._dtype = dtypes[LEFT]
        self._scalar = SCALARS[dtype.name]
        self.zero = constant(0, register_type(dtype, plan.lanes))
        """Nothing, in a vector of sums."""

    def of(self, tile: Tile, sums: list[Value], span: Span) -> list[Value]:
        """The sums of a tile, row by row, after some steps of the outermost summed axis."""
        if self._plan.empty:
            return sums
        return self._along(0, tile, span, tile.pointers[LEFT], tile.pointers[RIGHT], sums)

    # -- loops -----------------------------------------------------------------------------------------------
    def _along(
        self, depth: int, tile: Tile, span: Span, left: Value, right: Value, sums: list[Value]
    ) -> list[Value]:
        """The loop over a summed axis, and those within it."""
        axis = self._plan.loops[depth]
        if depth == len(self._plan.loops) - 1:
            return self._innermost(tile, span, left, right, sums)
        inner = 0, self._plan.loops[depth + 1].extent

        def body(step: Index, sums: list[Value]) -> list[Value]:
            return self._along(depth + 1, tile, inner, *self._ahead(axis, step, left, right), sums)

        return self._function.loop(*span, 1, sums, body)

    def _innermost(self, tile: Tile, span: Span, left: Value, right: Value, sums: list[Value]) -> list[Value]:
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
                if not isinstance(step, int):
                    self._fetch(tile, step, axis.extent // stride)
                return self._step(tile, *places, [k * width for k in range(count)], sums, mask)

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
        function, scalar = self._function, self._scalar
        one = function.at(left, function.mul(step, axis.stride(LEFT)), scalar)
        return one, function.at(right, function.mul(step, axis.stride(RIGHT)), scalar)

    def _fetch(self, tile: Tile, step: Index, turns: int) -> None:
        """A turn's share of the lines that the statements will need for this tile."""
        function, plan = self._function, self._plan
        row, _, vectors = tile.dimensions
        lines = -(-fixed(vectors.steps) * plan.lanes * self._dtype.itemsize // _LINE)
        spots = fixed(row.steps) * lines
        each = -(-spots // turns)
        for k in range(each if plan.fetched else 0):
            turn = function.mul(step, spots // each * 65536 // (turns * plan.unroll))
            spot = function.add(function.mul(function.shifted_right(turn, 16), each), k)
            down, line = function.divide(spot, lines)
            for number in plan.fetched:
                dtype = self._dtypes[number]
                across = function.mul(line, _LINE // dtype.itemsize)
                offset = function.add(function.mul(down, row.axis.stride(number)), across)
                function.prefetch(function.at(tile.pointers[number], offset, SCALARS[dtype.name]))

    # -- what is written out ---------------------------------------------------------------------------------
    def _step(
        self,
        tile: Tile,
        left: Value,
        right: Value,
        steps: Sequence[int],
        sums: list[Value],
        mask: Value | None,
    ) -> list[Value]:
        """Every row times every column of the tile, for steps of the innermost axis and the whole window.

        An element that several of them need is read once.
        """
        sums = list(sums)
        loaded: dict[tuple[int, int, bool], Value] = {}
        for step in steps:
            for window in self._window():
                for number, place in enumerate(tile.places()):
                    factors = [
                        self._factor(tile, side, pointer, step, window[side], place, mask, loaded)
                        for side, pointer in ((RIGHT, right), (LEFT, left))
                    ]
                    sums[number] = self._multiply_add(factors[1], factors[0], sums[number])
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
        self, tile: Tile, side: int, pointer: Value, step: int, offset: int, place: tuple[int, int, int],
        mask: Value | None, loaded: dict[tuple[int, int, bool], Value],
    ) -> Value:  # fmt: skip
        """The value of one operand, a vector, for one sum of the tile."""
        plan, function = self._plan, self._function
        for dimension, index in zip(tile.dimensions, place, strict=True):
            offset += index * dimension.width * dimension.axis.stride(side)
        offset += step * plan.loops[-1].stride(side)
        lane = plan.lane.stride(side)
        if not plan.dot:
            whole = place[2] != fixed(tile.dimensions[2].steps) - 1 or (lane == 1 and self._slack[side])
            mask = None if whole else tile.mask
        key = side, offset, mask is None
        if key not in loaded:
            address = function.at(pointer, offset, self._scalar)
            loaded[key] = elements.read(function, address, self._dtype, lane, plan.lanes, mask)
        return loaded[key]

    def _multiply_add(self, a: Value, b: Value, total: Value) -> Value:
        """a * b + total as the dtype does it."""
        function = self._function
        if self._dtype.kind == "f":
            return function.fma(a, b, total)
        logical = self._dtype.kind == "b"
        both = function.binary("and" if logical else "mul", a, b)
        return function.combine("any" if logical else "sum", total, both)

    # -- dot products ----------------------------------------------------------------------------------------
    def added_up(self, vectors: Sequence[Value]) -> Value:
        """The sum over the lanes of up to as many vectors as there are lanes, the k-th one's in lane k."""
        function, step = self._function, self._plan.lanes
        combiner = "any" if self._dtype.kind == "b" else "sum"
        some: list[Value | None] = [*vectors, *[None] * (step - len(vectors))]
        while len(some) > 1:
            step = len(some) // 2
            merged: list[Value | None] = []
            for a, b in zip(some[:step], some[step:], strict=True):
                pair = None if a is None else _interleaved(function, a, b or a, step)
                merged.append(pair and function.combine(combiner, *pair))
            some = merged
        assert some[0] is not None
        return some[0]


def _interleaved(function: Function, a: Value, b: Value, step: int) -> tuple[Value, Value]:
    """Stretches of `step` lanes exchanged: a's even ones with b's even ones, and the odd ones likewise."""
    count = int(a.type[1:].split(" ")[0])
    low = [lane if not lane & step else count + lane - step for lane in range(count)]
    high = [lane + step if not lane & step else count + lane for lane in range(count)]
    return function.shuffle(a, b, low), function.shuffle(a, b, high)
