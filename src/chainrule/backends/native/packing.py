"""Panels: some columns of an operand copied together, so that a row of them is contiguous.

Where memory runs along the summed axis instead (a transposed matrix), squares of vectors are turned over in
registers; anything else is copied element by element.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.backends.native.elements import transposed
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.tiling import RIGHT, Axis, Plan
from chainrule.backends.native.values import (  # fmt: skip
    INDEX,
    POINTER,
    SCALARS,
    Index,
    Value,
    constant,
    vector,
)
from chainrule.schedule.kernels import Access


def _turner(module: Module, scalar: str, lanes: int, steps: int) -> str:
    """The name of a function that turns a square of `lanes` rows over, of which `steps` columns are there.

    Its arguments: the first row, the distance of rows, the number of the last row, of which those beyond are
    copies; where the first column goes, and the distance of columns. All kernels of a module share it: such
    shuffles take LLVM long to choose instructions for.
    """
    name = f"turn_{scalar}_{lanes}_{steps}"
    if name in module.functions:
        return name
    arguments = [
        ("rows", POINTER),
        ("stride", INDEX),
        ("last", INDEX),
        ("columns", POINTER),
        ("pitch", INDEX),
    ]
    function = Function(module, name, arguments)
    rows, stride, last, columns, pitch = function.arguments
    type_ = vector(scalar, lanes)
    loaded, start = [], rows
    for k in range(lanes):
        if k:
            beyond = function.compare("slt", last, constant(k, INDEX))
            start = function.at(start, function.select(beyond, constant(0, INDEX), stride), scalar)
        mask = function.mask_below(steps, lanes)
        whole = steps == lanes
        loaded.append(function.load(start, type_) if whole else function.load_masked(start, type_, mask))
    for k, row in enumerate(transposed(function, loaded)[:steps]):
        function.store(row, function.at(columns, function.mul(pitch, k), scalar))
    function.give_back()
    return name


class Packer:
    """Copies panels of a contraction's right operand into memory of the plan's layout."""

    def __init__(self, function: Function, plan: Plan, access: Access) -> None:
        self._function, self._plan = function, plan
        self._scalar = SCALARS[access.buffer.dtype.name]
        self._summed = list(zip(plan.packed, (*plan.loops, *plan.window), strict=True))
        along = [pair for pair in self._summed if pair[0].stride(RIGHT) == 1 and pair[0].extent > 1]
        self._copied = plan.packed_lane.stride(RIGHT) == 1
        self._slack = access.buffer.slack
        self._turned = along[0] if along and plan.lanes > 1 and not self._copied else None

    def pack(self, source: Value, panel: Value, vectors: Index, remaining: Index) -> None:
        """`vectors` vectors of columns from `source` on; those beyond `remaining` are copies of the last."""
        last = self._function.add(remaining, -1)
        others = [pair for pair in self._summed if pair is not self._turned]
        self._along(others, source, panel, self._function.mul(vectors, self._plan.lanes), last)

    def _along(
        self, axes: Sequence[tuple[Axis, Axis]], source: Value, panel: Value, width: Index, last: Index
    ) -> None:
        """Loops over summed axes, as they are in memory and in the panel, and over vectors of columns."""
        function, lanes = self._function, self._plan.lanes
        if not axes:
            stride = self._plan.packed_lane.stride(RIGHT)

            def block(column: Index, _: list[Value]) -> None:
                start = function.at(source, function.mul(column, stride), self._scalar)
                left = function.add(last, function.mul(column, -1))
                self._block(start, function.at(panel, column, self._scalar), left)

            function.loop(0, width, lanes, [], block)
            return
        (given, packed), *inner = axes

        def body(step: Index, _: list[Value]) -> None:
            place = function.at(source, function.mul(step, given.stride(RIGHT)), self._scalar)
            target = function.at(panel, function.mul(step, packed.stride(RIGHT)), self._scalar)
            self._along(inner, place, target, width, last)

        function.loop(0, given.extent, 1, [], body)

    def _block(self, source: Value, panel: Value, last: Index) -> None:
        """A vector's width of columns: copied, or turned over along all steps of the contiguous axis."""
        function, scalar, lanes = self._function, self._scalar, self._plan.lanes
        stride = self._plan.packed_lane.stride(RIGHT)
        if self._copied:
            whole = self._slack or self._plan.lane.extent % lanes == 0
            mask = None if whole else function.mask_below(function.add(last, 1), lanes)
            type_ = vector(scalar, lanes)
            value = function.load_masked(source, type_, mask) if mask else function.load(source, type_)
            function.store(value, panel)
            return
        if self._turned is None:
            for lane in range(lanes):
                start = function.at(source, function.mul(function.smaller(lane, last), stride), scalar)
                function.store(function.load(start, scalar), function.at(panel, lane, scalar))
            return
        extent, pitch = self._turned[0].extent, self._turned[1].stride(RIGHT)
        name = _turner(function.module, scalar, lanes, min(lanes, extent))
        rows, columns = (constant(each, INDEX) for each in (stride, pitch))

        def square(number: Index, _: list[Value]) -> None:
            step = function.mul(number, lanes)
            if extent > lanes and extent % lanes:  # the last square overlaps the one before
                step = function.smaller(step, extent - lanes)
            start = function.at(source, step, scalar)
            target = function.at(panel, function.mul(step, pitch), scalar)
            function.call(name, "void", [start, rows, function.index(last), target, columns])

        function.loop(0, -(-extent // lanes), 1, [], square)
