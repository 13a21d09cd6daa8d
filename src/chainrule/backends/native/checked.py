"""Checked native code: after every kernel, what it has written is looked at for NaN and infinity.

The code keeps in mind of every buffer whether there is NaN or infinity in it. A kernel that writes either
while nothing that it reads has any is noted, the first one of a run, and an error is raised after the run.
Which of its operations it was is found by running the graph again on the reference, from the same values.

What a fused kernel makes and selects away again is never written, so it is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from chainrule.backends import numpy as reference
from chainrule.backends.finding import INFINITE, NAN, CheckedReference, first_fault, kinds, place_of
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.engine import Executable, Program, compile_graph
from chainrule.backends.native.target import Target, host
from chainrule.backends.native.values import INDEX, POINTER, SCALARS, Index, Value, constant, vector
from chainrule.backends.native.watching import Pointer, Watch, memory_of
from chainrule.errors import NumericalError
from chainrule.graph import Array, Graph
from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Contraction,
    Kernel,
    Schedule,
    Special,
    View,
    expressions,
    read_and_written,
)
from chainrule.schedule.memory import Plan
from chainrule.schedule.reasons import made_of

_FOUND, _ELEMENT, _KIND, _FLAGS = 0, 1, 2, 3
"""Numbers in memory: the first kernel to blame and 1, where in its buffer, what it made; flags follow."""
Axes = tuple[tuple[int, int], ...]
"""(extent, stride) of the axes along which elements lie, the innermost last."""


class NotFiniteError(Exception):
    """A kernel made NaN or infinity: its number, the element of what it wrote, and the bits for what."""

    def __init__(self, kernel: int, element: int, kind: int) -> None:
        self.kernel, self.element, self.kind = kernel, element, kind


class Looking(Watch):
    """Looks at everything that kernels write."""

    def __init__(self, target: Target | None = None) -> None:
        self._target = host() if target is None else target
        self._flags: dict[Buffer, int] = {}  # → where its flag is in memory
        self._source: dict[Buffer, Buffer] = {}

    def told(self, schedule: Schedule, plan: Plan) -> str:
        self._know(schedule)
        flags = [[self._flags[each] for each in self._read(kernel)] for kernel in schedule.innermost]
        given = [_given(kernel) for kernel in schedule.innermost]
        constants = [kinds(each.value) for each in schedule.buffers if each.value is not None]
        inputs = [(*plan.places[v.buffer], v.offset, v.shape, v.strides) for v in schedule.inputs]
        return f"looking {flags} {given} {constants} {inputs}"

    def _know(self, schedule: Schedule) -> None:
        self._flags = {buffer: _FLAGS + k for k, buffer in enumerate(schedule.buffers)}
        self._source = {window.buffer: window.source for window in schedule.windows}

    def _read(self, kernel: Kernel) -> list[Buffer]:
        """What a kernel reads, in a fixed order."""
        return sorted({self._root(each) for each in read_and_written(kernel)[0]}, key=self._flags.__getitem__)

    def bytes(self, schedule: Schedule) -> int:
        return 8 * (_FLAGS + len(schedule.buffers))

    def begin(self, step: Function, table: Value, schedule: Schedule, pointer: Pointer) -> None:
        """Forget the flags; set those of what the step is given."""
        self._know(schedule)
        memory = memory_of(step, table)
        step.loop(
            _FLAGS, _FLAGS + len(self._flags), 1, [],
            lambda k, _: step.store(constant(0, INDEX), step.at(memory, k, INDEX)),
        )  # fmt: skip
        for view in schedule.inputs:
            axes = _axes(view.shape, view.strides)
            if view.buffer.dtype.kind == "f" and axes is not None:
                seen = self._look(step, pointer(view), view.buffer, axes)
                self._flag(step, memory, view.buffer, step.binary("and", seen, constant(3, INDEX)))

    def kernel(
        self, step: Function, table: Value, number: int, kernel: Kernel, pointer: Pointer,
        call: Callable[[], None],
    ) -> None:  # fmt: skip
        call()
        memory = memory_of(step, table)
        known = constant(_given(kernel), INDEX)
        for buffer in self._read(kernel):
            if buffer.value is None:
                there = step.load(step.at(memory, self._flags[buffer], INDEX), INDEX)
            else:
                there = constant(kinds(buffer.value), INDEX)
            known = step.binary("or", known, there)
        for place, axes in _written(kernel):
            self._check(step, memory, number, place, axes, known, pointer)

    def _check(
        self, step: Function, memory: Value, number: int, place: Access | View, axes: Axes, known: Value,
        pointer: Pointer,
    ) -> None:  # fmt: skip
        """Look at one place that a kernel has written, whose operands are `known`; note what is new."""
        seen = self._look(step, pointer(place), place.buffer, axes)
        found = step.at(memory, _FOUND, INDEX)

        def note() -> None:
            kind = step.binary("and", seen, constant(3, INDEX))
            self._flag(step, memory, place.buffer, kind)
            new = step.binary("and", kind, step.binary("xor", known, constant(-1, INDEX)))
            first = step.compare("eq", step.load(found, INDEX), constant(0, INDEX))
            to_blame = step.compare("ne", new, constant(0, INDEX))

            def write() -> None:
                step.store(constant(number + 1, INDEX), found)
                element = step.binary("ashr", seen, constant(2, INDEX))
                step.store(element, step.at(memory, _ELEMENT, INDEX))
                step.store(new, step.at(memory, _KIND, INDEX))

            step.if_then(step.binary("and", first, to_blame), write)

        step.if_then(step.compare("ne", seen, constant(0, INDEX)), note)

    def _flag(self, step: Function, memory: Value, buffer: Buffer, kind: Value) -> None:
        place = step.at(memory, self._flags[self._root(buffer)], INDEX)
        step.store(step.binary("or", step.load(place, INDEX), kind), place)

    def _root(self, buffer: Buffer) -> Buffer:
        while buffer in self._source:
            buffer = self._source[buffer]
        return buffer

    def _look(self, step: Function, pointer: Value, buffer: Buffer, axes: Axes) -> Value:
        """0, or four times the first element that is not finite, with the bits for what there is."""
        text = "_".join(f"{extent}x{stride}".replace("-", "m") for extent, stride in axes)
        name = f"look_{buffer.dtype.name}_{text}"
        if name not in step.module.functions:
            _emit_look(step.module, name, SCALARS[buffer.dtype.name], axes, self._target.lanes(buffer.dtype))
        return step.call(name, INDEX, [pointer])

    def after(self, memory: Array) -> None:
        """Raise `NotFiniteError` for what was noted."""
        noted = memory.view(np.int64)
        if noted[_FOUND]:
            kernel, element, kind = (int(each) for each in noted[:_FLAGS])
            noted[_FOUND] = 0
            raise NotFiniteError(kernel - 1, element, kind)


def explained(found: NotFiniteError, program: Program, graph: Graph, values: Sequence[Any]) -> NumericalError:
    """The error for a kernel of `program` that made NaN or infinity when `graph` was run on `values`."""
    kernels = program.schedule.innermost
    fault = first_fault(graph, values, [each.nodes for each in kernels])
    if fault is not None:
        return fault.error()
    kernel = kernels[found.kernel]
    what = " and ".join(name for bit, name in ((NAN, "nan"), (INFINITE, "inf")) if found.kind & bit)
    return NumericalError(
        f"kernel {found.kernel} ({made_of(kernel)}) made {what}{place_of(kernel.nodes)}: element "
        f"{found.element} of what it writes. Nothing that it reads has any, and on the reference, which "
        "rounds in another order, none of its operations does: the numbers are at the edge of their dtype"
    )


class CheckedExecutable(Executable):
    """An `Executable` that raises `NumericalError` where an operation makes NaN or infinity."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph, watch=Looking())

    def __call__(self, values: Sequence[Any]) -> list[Array]:
        try:
            return super().__call__(values)
        except NotFiniteError as found:
            raise explained(found, self.program, self.graph, values) from None

    def run(self, values: Sequence[Any]) -> list[Array]:
        return self(values)


def compile_checked(graph: Graph) -> Executable | reference.Executable:
    """As `engine.compile_graph`; the same goes for what runs on the reference."""
    return compile_graph(graph, CheckedExecutable, CheckedReference)


# -- what is looked at ---------------------------------------------------------------------------------------
def _given(kernel: Kernel) -> int:
    """What a kernel is given as constants."""
    if isinstance(kernel, Special):
        return kinds([each for each in kernel.attributes.values() if isinstance(each, float)])
    found = 0
    for each in expressions(statement.value for statement in kernel.statements):
        found |= kinds(
            [value for value in each.attributes.values() if isinstance(value, float | np.floating)]
        )
    return found


def _written(kernel: Kernel) -> Iterable[tuple[Access | View, Axes]]:
    """The floating places that a kernel writes, and along which axes they lie."""
    if isinstance(kernel, Special):
        listed: list[tuple[Access | View, Axes | None]] = [
            (kernel.target, _axes(kernel.target.shape, kernel.target.strides))
        ]
    else:
        listed = []
        for statement in kernel.statements:
            if statement.target is None:
                continue
            axes = _axes(kernel.extents, statement.target.strides)
            if statement.combiner and isinstance(kernel, Contraction):  # sums of parts, somewhere in a row
                axes = _axes((statement.target.buffer.size,), (1,))
            listed.append((statement.target, axes))
    for place, axes in listed:
        if axes is not None and place.buffer.dtype.kind == "f":
            yield place, axes


def _axes(extents: Sequence[int], strides: Sequence[int]) -> Axes | None:
    """The axes of a place, those that are one in memory as one; None where it has no elements."""
    if 0 in extents[: len(strides)]:
        return None
    moving = [(n, s) for n, s in zip(extents, strides, strict=False) if s and n != 1]
    merged: list[tuple[int, int]] = []
    for extent, stride in sorted(moving, key=lambda axis: -abs(axis[1])):
        if merged and merged[-1][1] == extent * stride:
            merged[-1] = merged[-1][0] * extent, stride
        else:
            merged.append((extent, stride))
    return tuple(merged)


# -- code ----------------------------------------------------------------------------------------------------
def _emit_look(module: Module, name: str, scalar: str, axes: Axes, lanes: int) -> None:
    """``i64 look(ptr first element)``: quickly whether there is anything; only then where and what."""
    function = Function(module, name, [("place", POINTER)], result=INDEX)
    (place,) = function.arguments
    answer = function.allocate(INDEX, align=8)
    function.store(constant(0, INDEX), answer)
    function.if_then(
        _spoilt(function, place, scalar, axes, lanes), lambda: _search(function, answer, scalar, axes)
    )
    function.give_back(function.load(answer, INDEX))


def _spoilt(function: Function, place: Value, scalar: str, axes: Axes, lanes: int) -> Value:
    """True where some element is not finite: 0 times such a one is NaN, and whatever it is added to."""
    *outer, (extent, stride) = axes or ((1, 1),)
    whole = extent // lanes * lanes if stride == 1 else 0
    types = vector(scalar, lanes), scalar

    def element(offset: Index, type_: str, total: Value) -> Value:
        value = function.load(function.at(place, offset, scalar), type_)
        return function.fma(value, constant(0, type_), total)

    def row(offset: Index, totals: list[Value]) -> list[Value]:
        many, one = totals
        (many,) = function.loop(
            0, whole, lanes, [many], lambda at, held: [element(function.add(offset, at), types[0], held[0])]
        )
        (one,) = function.loop(
            whole, extent, 1, [one],
            lambda at, held: [element(function.add(offset, function.mul(at, stride)), types[1], held[0])],
        )  # fmt: skip
        return [many, one]

    many, one = _over(function, outer, 0, [constant(0, each) for each in types], row)
    total = function.binary("fadd", function.reduce("sum", many), one)
    return function.compare("uno", total, total)


def _search(function: Function, answer: Value, scalar: str, axes: Axes) -> None:
    """Element by element: the first one that is not finite, and what there is."""
    (place,) = function.arguments

    def element(offset: Index, _: list[Value]) -> list[Value]:
        value = function.load(function.at(place, offset, scalar), scalar)
        rest = function.binary("fsub", value, value)

        def note() -> None:
            before = function.load(answer, INDEX)
            first = function.binary("shl", function.index(offset), constant(2, INDEX))
            new = function.select(function.compare("eq", before, constant(0, INDEX)), first, before)
            is_nan = function.compare("uno", value, value)
            kind = function.select(is_nan, constant(NAN, INDEX), constant(INFINITE, INDEX))
            function.store(function.binary("or", new, kind), answer)

        function.if_then(function.compare("uno", rest, rest), note)
        return []

    _over(function, axes, 0, [], element)


def _over(
    function: Function, axes: Sequence[tuple[int, int]], offset: Index, carried: Sequence[Value],
    body: Callable[[Index, list[Value]], list[Value]],
) -> list[Value]:  # fmt: skip
    """Nested loops; `body` is given where an element lies."""
    if not axes:
        return body(offset, list(carried))
    (extent, stride), *inner = axes

    def iteration(at: Index, held: list[Value]) -> list[Value]:
        return _over(function, inner, function.add(offset, function.mul(at, stride)), held, body)

    return function.loop(0, extent, 1, carried, iteration)
