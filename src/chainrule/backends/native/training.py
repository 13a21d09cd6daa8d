"""The training loop as native code: gather a minibatch, take a step, note its numbers, again.

    void train(ptr table, ptr data, ptr rows, ptr noted, i64 first, i64 last)

`table` holds the base pointers of the step (see `step`); `data` for every array of the data its address and
the bytes from one row to the next; `rows` the row numbers of all steps, a batch after the other; `noted` has
room for a float64 per step and number that is noted. Parameters and optimizer state stay in the arena from
step to step, and from call to call.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from hashlib import sha256

import numpy as np

from chainrule.backends.native.arena import address
from chainrule.backends.native.calling import array_at
from chainrule.backends.native.elements import transposed
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.emitters import EMITTERS
from chainrule.backends.native.engine import Program
from chainrule.backends.native.step import Emitter, Step, flushing_denormals
from chainrule.backends.native.target import Target
from chainrule.backends.native.values import INDEX, POINTER, SCALARS, Index, Value, vector
from chainrule.backends.native.watching import UNWATCHED, Watch
from chainrule.graph import Array, Graph
from chainrule.schedule.kernels import View
from chainrule.schedule.lower import schedule
from chainrule.schedule.views import dense_strides
from chainrule.types import Shape

_NEAR = 256
"""Bytes of a row from which on the next row is fetched into the cache while this one is copied."""
_LINE = 64


class Training(Program):
    """The step of a trainer, run many times in one call.

    graph   inputs: `leaves` arrays of a batch, then state; outputs: `noted` scalars, then new state
    state   output → input whose value it replaces (both by number)
    """

    def __init__(
        self, graph: Graph, leaves: int, noted: int, state: Mapping[int, int],
        target: Target | None = None, *, guarded: bool | None = None,
        emitters: Mapping[type, Emitter] = EMITTERS, watch: Watch = UNWATCHED,
    ) -> None:  # fmt: skip
        self.graph = graph
        self._leaves, self._noted = leaves, noted
        made = schedule(graph, owned=True, state=state)
        super().__init__(made, target, guarded=guarded, emitters=emitters, watch=watch)
        pointer, index = ctypes.c_void_p, ctypes.c_int64
        self._train = self.code.function("train", pointer, pointer, pointer, pointer, index, index)
        self._frame = self._new_frame()
        self._resident: list[Array | None] = [None] * (len(graph.inputs) - leaves)

    def emit(self) -> Step:
        """The step's code, and the loop around it."""
        made = super().emit()
        _emit_train(made.module, self)
        return made

    def _key(self) -> str:
        """Besides the step: where a batch lies, and what is noted."""
        views = [
            (self.plan.places[v.buffer], v.offset, v.shape, v.strides, v.buffer.dtype) for v in self._seen
        ]
        return sha256(f"{super()._key()} {self._leaves} {views}".encode()).hexdigest()

    # -- running ---------------------------------------------------------------------------------------------
    def load(self, values: Sequence[Array]) -> None:
        """Put the values of the state into the arena (those that are not there already)."""
        resident = self._resident
        self.forget()  # should Ctrl-C come in the middle
        for place, value, there in zip(self._read, values, resident, strict=True):
            if there is not value:
                place[...] = value
        self.holds(values)

    def holds(self, values: Sequence[Array | None]) -> None:
        """Say that these arrays are the values of the state that is in the arena."""
        self._resident = list(values)

    def forget(self) -> None:
        """Say that what is in the arena is nobody's state: the next `load` puts every value there."""
        self.holds([None] * len(self._resident))

    def run(self, data: Sequence[Array], rows: Array) -> Array:
        """Train on batches of `rows` (steps, batch), an int64 array; what was noted, (steps, numbers).

        The rows of each array of `data` must be dense (`row_is_dense`), and all numbers those of a row.
        """
        steps = len(rows)
        noted = np.empty((steps, self._noted))
        given = np.array([each for leaf in data for each in (leaf.ctypes.data, leaf.strides[0])], np.int64)
        with self.working(self._frame):
            self._train(self._frame.table, address(given), address(rows), address(noted), 0, steps)
        return noted

    def state(self) -> list[Array]:
        """The new values of the state, in the order of the outputs, as arrays that nobody else holds."""
        values = [np.array(place, order="C") for place in self._written]
        for value in values:
            value.flags.writeable = False
        return values

    @cached_property
    def _read(self) -> list[Array]:
        """The state's arrays in the arena, as a step reads them."""
        return list(map(self._array, self.schedule.inputs[self._leaves :]))

    @cached_property
    def _written(self) -> list[Array]:
        """The same as a step leaves them."""
        return list(map(self._array, self.schedule.outputs[self._noted :]))

    def _array(self, view: View) -> Array:
        place = self.plan.places[view.buffer]
        return array_at(self._frame.memory[place.slot], view, place.offset)

    # -- for the code ----------------------------------------------------------------------------------------
    @property
    def batch(self) -> tuple[View, ...]:
        """Where the arrays of a batch lie."""
        return self.schedule.inputs[: self._leaves]

    @property
    def notes(self) -> tuple[View, ...]:
        """Where the numbers lie that are noted after a step."""
        return self.schedule.outputs[: self._noted]

    @property
    def _seen(self) -> tuple[View, ...]:
        return (*self.batch, *self.notes)


def row_is_dense(array: Array) -> bool:
    """True when the elements of every row lie side by side in memory, in their order."""
    expected = array.itemsize
    for extent, stride in zip(reversed(array.shape[1:]), reversed(array.strides[1:]), strict=True):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


# -- code ----------------------------------------------------------------------------------------------------
def _emit_train(module: Module, training: Training) -> None:
    names = ("table", "data", "rows", "noted", "first", "last")
    types = (POINTER, POINTER, POINTER, POINTER, INDEX, INDEX)
    train = Function(module, "train", list(zip(names, types, strict=True)), internal=False)
    table, data, rows, noted, first, last = train.arguments
    target, watch = training.target, training.watch
    views = (*training.batch, *training.notes)
    slots = dict.fromkeys(training.plan.places[view.buffer].slot for view in views)
    bases = {slot: train.load(train.at(table, slot, POINTER), POINTER) for slot in slots}

    def place(view: View) -> Value:
        slot, offset = training.plan.places[view.buffer]
        return train.at(bases[slot], offset + view.offset * view.buffer.dtype.itemsize, "i8")

    size = training.batch[0].shape[0]
    gathers = [
        _emit_gather(module, f"rows_of_{k}", view, target.lanes(view.buffer.dtype))
        for k, view in enumerate(training.batch)
    ]

    def step(number: Index, _: list[Value]) -> None:
        chosen = train.at(rows, train.mul(number, size), INDEX)
        for k, (name, view) in enumerate(zip(gathers, training.batch, strict=True)):
            array = train.load(train.at(data, 2 * k, POINTER), POINTER)
            apart = train.load(train.at(data, 2 * k + 1, INDEX), INDEX)
            gather = partial(train.call, name, "void", [array, apart, chosen, place(view)])
            watch.work(train, table, 1 + k, gather)
        train.call("step", "void", [table])
        slot = train.at(noted, train.mul(number, len(training.notes)), "double")
        for k, view in enumerate(training.notes):
            value = train.load(place(view), SCALARS[view.buffer.dtype.name])
            wide = value if value.type == "double" else train.convert("fpext", value, "double")
            train.store(wide, train.at(slot, k, "double"))

    def loop() -> None:
        train.loop(first, last, 1, [], step)

    flushing_denormals(train, target, lambda: watch.work(train, table, 0, loop))
    train.give_back()


def _emit_gather(module: Module, name: str, view: View, lanes: int) -> str:
    """``void gather(ptr data, i64 bytes from row to row, ptr row numbers, ptr batch)``."""
    arguments = [("data", POINTER), ("apart", INDEX), ("rows", POINTER), ("batch", POINTER)]
    function = Function(module, name, arguments)
    data, apart, rows, batch = function.arguments
    size, itemsize = view.shape[0], view.buffer.dtype.itemsize
    bytes_ = math.prod(view.shape[1:]) * itemsize

    def row(number: Index) -> Value:
        chosen = function.load(function.at(rows, number, INDEX), INDEX)
        return function.at(data, function.mul(chosen, apart), "i8")

    def copy(number: Index, _: list[Value]) -> None:
        source = row(number)
        target = function.at(batch, function.mul(number, view.strides[0] * itemsize), "i8")
        if bytes_ >= _NEAR:
            following = row(function.smaller(function.add(number, 1), size - 1))
            _fetch(function, following, bytes_)
        _copy_row(function, source, target, view.shape[1:], view.strides[1:], itemsize)

    def turn(first: Index, _: list[Value]) -> None:
        chosen = [row(function.smaller(function.add(first, k), size - 1)) for k in range(lanes)]
        _turn_rows(function, chosen, function.at(batch, first, scalar), view, lanes)

    scalar = SCALARS[view.buffer.dtype.name]
    if not size or not bytes_:
        pass
    elif _examples_lie_innermost(view, lanes):
        function.loop(0, size, lanes, [], turn)
    else:
        function.loop(0, size, 1, [], copy)
    function.give_back()
    return name


def _examples_lie_innermost(view: View, lanes: int) -> bool:
    """True where element k of example i lies at ``k * step + i``, with room for whole vectors of examples."""
    elements, step = math.prod(view.shape[1:]), view.strides[-1]
    regular = all(
        stride == dense * step
        for stride, dense in zip(view.strides[1:], dense_strides(view.shape[1:]), strict=True)
    )
    return view.strides[0] == 1 and regular and elements >= lanes > 1 and step >= view.shape[0]


def _turn_rows(function: Function, rows: Sequence[Value], target: Value, view: View, lanes: int) -> None:
    """As many examples as a vector has lanes, a square of elements at a time turned over in registers."""
    scalar = SCALARS[view.buffer.dtype.name]
    elements, step = math.prod(view.shape[1:]), view.strides[-1]

    def square(at: Index, _: list[Value]) -> None:
        loaded = [function.load(function.at(each, at, scalar), vector(scalar, lanes)) for each in rows]
        for k, column in enumerate(transposed(function, loaded)):
            place = function.mul(function.add(at, k), step)
            function.store(column, function.at(target, place, scalar))

    whole = elements // lanes * lanes
    function.loop(0, whole, lanes, [], square)
    if whole < elements:
        square(elements - lanes, [])  # once more some of the elements before


def _fetch(function: Function, pointer: Value, size: int) -> None:
    function.loop(
        0, size, _LINE, [], lambda at, _: function.prefetch(function.at(pointer, at, "i8"), locality=2)
    )


def _copy_row(
    function: Function, source: Value, target: Value, shape: Shape, strides: Shape, itemsize: int
) -> None:
    """Dense elements to elements with strides: axis by axis, the last dense ones at once."""
    run, axes = itemsize, len(shape)
    while axes and (shape[axes - 1] == 1 or strides[axes - 1] * itemsize == run):
        axes -= 1
        run *= shape[axes]
    if axes == 0:
        _copy_bytes(function, source, target, run)
        return
    inside = math.prod(shape[1:]) * itemsize

    def part(at: Index, _: list[Value]) -> None:
        _copy_row(
            function,
            function.at(source, function.mul(at, inside), "i8"),
            function.at(target, function.mul(at, strides[0] * itemsize), "i8"),
            shape[1:],
            strides[1:],
            itemsize,
        )

    function.loop(0, shape[0], 1, [], part)


def _copy_bytes(function: Function, source: Value, target: Value, size: int) -> None:
    """`size` bytes, in vectors, then in halves of vectors down to single bytes."""
    at = size // _LINE * _LINE

    def line(position: Index, _: list[Value]) -> None:
        value = function.load(function.at(source, position, "i8"), f"<{_LINE} x i8>")
        function.store(value, function.at(target, position, "i8"))

    function.loop(0, at, _LINE, [], line)
    width = _LINE // 2
    while at < size:
        if size - at >= width:
            type_ = f"i{8 * width}" if width <= 8 else f"<{width} x i8>"
            value = function.load(function.at(source, at, "i8"), type_, align=1)
            function.store(value, function.at(target, at, "i8"), align=1)
            at += width
        width //= 2
