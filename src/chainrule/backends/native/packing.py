"""Panels: some columns of an operand copied together, so that a row of them is contiguous.

Where memory runs along the summed axis instead (a transposed matrix), squares of vectors are turned over in
registers; anything else is copied element by element.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.backends.native.emit import SCALARS, Function, Index, Value, vector
from chainrule.backends.native.tiling import RIGHT, Axis, Plan
from chainrule.schedule.kernels import Access


def transposed(function: Function, rows: Sequence[Value]) -> list[Value]:
    """n vectors of n lanes, lane k of vector i in lane i of vector k; n a power of two."""
    rows = list(rows)
    count = len(rows)
    step = count // 2
    while step:
        for i in (k for k in range(count) if not k & step):
            a, b = rows[i], rows[i + step]
            rows[i], rows[i + step] = interleaved(function, a, b, step)
        step //= 2
    return rows


def interleaved(function: Function, a: Value, b: Value, step: int) -> tuple[Value, Value]:
    """Stretches of `step` lanes exchanged: a's even ones with b's even ones, and the odd ones likewise."""
    count = int(a.type[1:].split(" ")[0])
    low = [lane if not lane & step else count + lane - step for lane in range(count)]
    high = [lane + step if not lane & step else count + lane for lane in range(count)]
    return function.shuffle(a, b, low), function.shuffle(a, b, high)


class Packer:
    """Copies panels of a contraction's right operand into memory of the plan's layout."""

    def __init__(self, function: Function, plan: Plan, access: Access) -> None:
        self._function, self._plan = function, plan
        self._scalar = SCALARS[access.buffer.dtype.name]
        self._summed = list(zip(plan.packed, (*plan.loops, *plan.window), strict=True))
        along = [pair for pair in self._summed if pair[0].stride(RIGHT) == 1 and pair[0].extent > 1]
        self._turned = along[0] if along and plan.lanes > 1 else None

    def pack(self, source: Value, panel: Value, vectors: Index, remaining: Index) -> None:
        """`vectors` vectors of columns from `source` on; of those beyond `remaining` the last is a copy."""
        function, turned = self._function, self._turned
        others = [pair for pair in self._summed if pair is not turned]
        lanes = self._plan.lanes
        width = function.mul(vectors, lanes)

        def block(source: Value, panel: Value, column: Index) -> None:
            clamp = self._plan.lane.extent % lanes != 0
            columns = [function.add(column, k) for k in range(lanes)]
            last = function.add(remaining, -1)
            columns = [function.smaller(each, last) for each in columns] if clamp else columns
            stride = self._plan.packed_lane.stride(RIGHT)
            starts = [function.at(source, function.mul(each, stride), self._scalar) for each in columns]
            destination = function.at(panel, column, self._scalar)
            if turned is None:
                self._copy(starts, destination)
            else:
                self._turn(starts, destination, *turned)

        def enter(depth: int, source: Value, panel: Value) -> None:
            if depth == len(others):
                function.loop(0, width, lanes, [], lambda column, _: block(source, panel, column))
                return
            given, packed = others[depth]

            def body(step: Index, _: list[Value]) -> None:
                place = function.at(source, function.mul(step, given.stride(RIGHT)), self._scalar)
                target = function.at(panel, function.mul(step, packed.stride(RIGHT)), self._scalar)
                enter(depth + 1, place, target)

            function.loop(0, given.extent, 1, [], body)

        enter(0, source, panel)

    def _copy(self, starts: Sequence[Value], destination: Value) -> None:
        for lane, start in enumerate(starts):
            value = self._function.load(start, self._scalar)
            self._function.store(value, self._function.at(destination, lane, self._scalar))

    def _turn(self, starts: Sequence[Value], destination: Value, given: Axis, packed: Axis) -> None:
        """All steps along the contiguous axis, a square of lanes at a time; the last one may overlap."""
        function, scalar, lanes = self._function, self._scalar, self._plan.lanes
        stride, extent = packed.stride(RIGHT), given.extent
        type_ = vector(scalar, lanes)
        squares = -(-extent // lanes)

        def square(number: Index, _: list[Value]) -> None:
            step = function.mul(number, lanes)
            if squares > 1 and extent % lanes:
                step = function.smaller(step, extent - lanes)
            places = [function.at(start, step, scalar) for start in starts]
            if extent < lanes:
                mask = function.mask_below(extent, lanes)
                rows = [function.load_masked(place, type_, mask) for place in places]
            else:
                rows = [function.load(place, type_) for place in places]
            target = function.at(destination, function.mul(step, stride), scalar)
            for k, row in enumerate(transposed(function, rows)[: min(extent, lanes)]):
                function.store(row, function.at(target, k * stride, scalar))

        function.loop(0, squares, 1, [], square)
