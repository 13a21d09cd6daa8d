"""The training loop as native code: gather a minibatch, take a step, note its numbers, again.

    void train(ptr table, ptr data, ptr rows, ptr noted, ptr asked, i64 first, i64 last)

`table` holds the base pointers of the step (see `step`); `data` for every array of the data its address and
the bytes from one row to the next; `rows` the row numbers of all steps, a batch after the other. `noted` has
the address of an array for each degree of detail, with room for the numbers of the steps that are asked for
it; `asked` for every step how much detail it is asked for, and its row in each of these arrays but the first,
which has a row for every step. Parameters and optimizer state stay in the arena from step to step, and from
call to call.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from hashlib import sha256
from itertools import groupby

import numpy as np

from chainrule.backends.native.arena import address
from chainrule.backends.native.batches import emit_gather
from chainrule.backends.native.calling import array_at
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
from chainrule.schedule.memory import DETAIL

_TOGETHER = 4
"""Numbers that are noted at a time."""


class Training(Program):
    """The step of a trainer, run many times in one call.

    graph   inputs: `leaves` arrays of a batch, then state; outputs: what is noted, scalars or vectors, then
            new state
    noted   for everything that is noted with how much detail a step has to be asked for it; those asked for
            none give the first few
    state   output → input whose value it replaces (both by number)
    """

    def __init__(
        self, graph: Graph, leaves: int, noted: Sequence[int], state: Mapping[int, int],
        target: Target | None = None, *, guarded: bool | None = None,
        emitters: Mapping[type, Emitter] = EMITTERS, watch: Watch = UNWATCHED,
    ) -> None:  # fmt: skip
        self.graph = graph
        self._leaves, self._noted = leaves, tuple(noted)
        details = (*noted, *[0] * (len(graph.outputs) - len(noted)))
        made = schedule(graph, owned=True, state=state, details=details)
        super().__init__(made, target, guarded=guarded, emitters=emitters, watch=watch)
        pointer, index = ctypes.c_void_p, ctypes.c_int64
        self._train = self.code.function("train", *[pointer] * 5, index, index)
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

    def run(self, data: Sequence[Array], rows: Array, details: Array | None = None) -> list[Array]:
        """Train on batches of `rows` (steps, batch), an int64 array.

        details  for every step how much detail it is asked for; none, if not given
        Returns what was noted, for each detail an array (steps that were asked for it, numbers).

        The rows of each array of `data` must be dense (`row_is_dense`), and all numbers those of a row.
        """
        steps, widths = len(rows), self.widths
        asked = _asked(details, steps, len(widths))
        counts = [steps, *((asked[:, 0] >= detail).sum() for detail in range(1, len(widths)))]
        noted = [np.empty((count, width)) for count, width in zip(counts, widths, strict=True)]
        places = np.array([address(each) for each in noted], np.int64)
        given = np.array([each for leaf in data for each in (leaf.ctypes.data, leaf.strides[0])], np.int64)
        with self.working(self._frame):
            self._train(
                self._frame.table, address(given), address(rows), address(places), address(asked), 0, steps
            )
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
        return list(map(self._array, self.schedule.outputs[len(self._noted) :]))

    def _array(self, view: View) -> Array:
        place = self.plan.places[view.buffer]
        return array_at(self._frame.memory[place.slot], view, place.offset)

    # -- for the code ----------------------------------------------------------------------------------------
    @property
    def batch(self) -> tuple[View, ...]:
        """Where the arrays of a batch lie."""
        return self.schedule.inputs[: self._leaves]

    @cached_property
    def notes(self) -> list[list[View]]:
        """Where the numbers lie that are noted after a step, for each detail."""
        views = self.schedule.outputs[: len(self._noted)]
        pairs = list(zip(views, self._noted, strict=True))
        return [[view for view, each in pairs if each == detail] for detail in range(max(self._noted) + 1)]

    @cached_property
    def widths(self) -> list[int]:
        """How many numbers each detail has."""
        return [sum(math.prod(view.shape) for view in views) for views in self.notes]

    @property
    def _seen(self) -> tuple[View, ...]:
        return (*self.batch, *(view for views in self.notes for view in views))


def _asked(details: Array | None, steps: int, most: int) -> Array:
    """For every step how much detail it is asked for, then its row in the array of each but the first."""
    asked = np.zeros((steps, most), np.int64)
    if details is not None and steps:
        asked[:, 0] = details
        for detail in range(1, most):
            np.cumsum(asked[:-1, 0] >= detail, out=asked[1:, detail])
    return asked


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
    names = ("table", "data", "rows", "noted", "asked", "first", "last")
    types = (*[POINTER] * 5, INDEX, INDEX)
    train = Function(module, "train", list(zip(names, types, strict=True)), internal=False)
    table, data, rows, noted, asked, first, last = train.arguments
    target, watch = training.target, training.watch
    noting = _Noting(train, training)
    size = training.batch[0].shape[0]
    gathers = [
        emit_gather(module, f"rows_of_{k}", view, target.lanes(view.buffer.dtype))
        for k, view in enumerate(training.batch)
    ]

    def step(number: Index, _: list[Value]) -> None:
        chosen = train.at(rows, train.mul(number, size), INDEX)
        for k, (name, view) in enumerate(zip(gathers, training.batch, strict=True)):
            array = train.load(train.at(data, 2 * k, POINTER), POINTER)
            apart = train.load(train.at(data, 2 * k + 1, INDEX), INDEX)
            gather = partial(train.call, name, "void", [array, apart, chosen, noting.place(view)])
            watch.work(train, table, 1 + k, gather)
        mine = train.at(asked, train.mul(number, len(training.widths)), INDEX)
        if training.schedule.has_details:
            train.store(train.load(mine, INDEX), train.at(table, DETAIL, POINTER))
        train.call("step", "void", [table])
        noting.note(noted, number, mine)

    def loop() -> None:
        train.loop(first, last, 1, [], step)

    flushing_denormals(train, target, lambda: watch.work(train, table, 0, loop))
    train.give_back()


class _Noting:
    """Code that notes the numbers of a step."""

    def __init__(self, train: Function, training: Training) -> None:
        self._train, self._training = train, training
        table, places = train.arguments[0], training.plan.places
        slots = dict.fromkeys(places[view.buffer].slot for view in training._seen)
        self._bases = {slot: train.load(train.at(table, slot, POINTER), POINTER) for slot in slots}

    def place(self, view: View) -> Value:
        """Where an array begins."""
        slot, offset = self._training.plan.places[view.buffer]
        return self._train.at(self._bases[slot], offset + view.offset * view.buffer.dtype.itemsize, "i8")

    def note(self, noted: Value, number: Index, asked: Value) -> None:
        """Put the numbers of each detail that was asked for into a row of the array for that."""
        train = self._train
        self._put(0, noted, number)
        for detail in range(1, len(self._training.notes)):
            enough = train.compare("sge", train.load(asked, INDEX), train.index(detail))
            train.if_then(enough, partial(self._put_in_row, detail, noted, train.at(asked, detail, INDEX)))

    def _put_in_row(self, detail: int, noted: Value, row: Value) -> None:
        self._put(detail, noted, self._train.load(row, INDEX))

    def _put(self, detail: int, noted: Value, row: Index) -> None:
        """Copy what is noted to a row, as float64. Tables say where it lies: code for each would be long."""
        train, at = self._train, 0
        array = train.load(train.at(noted, detail, POINTER), POINTER)
        target = train.at(array, train.mul(row, self._training.widths[detail]), "double")
        places = self._training.plan.places
        for alike, group in groupby(self._training.notes[detail], self._kind):
            views, (slot, name, count, stride) = list(group), alike
            starts = [_start(view, places[view.buffer].offset) for view in views]
            table = train.module.table(f"noted_{detail}_{at}", INDEX, map(str, starts))
            move = partial(
                _move, train, self._bases[slot], table, SCALARS[name], count, stride,
                train.at(target, at, "double"),
            )  # fmt: skip
            train.loop(0, len(views), 1, [], move)
            at += len(views) * count

    def _kind(self, view: View) -> tuple[int, str, int, int]:
        """What the views have in common that one loop can copy: memory, dtype, elements, stride."""
        slot, _ = self._training.plan.places[view.buffer]
        stride = view.strides[0] if view.strides else 1
        return slot, view.buffer.dtype.name, math.prod(view.shape), stride


def _start(view: View, start: int) -> int:
    """The bytes from the beginning of memory to a scalar or vector."""
    return start + view.offset * view.buffer.dtype.itemsize


def _move(
    train: Function, base: Value, table: Value, scalar: str, count: int, stride: int, target: Value,
    k: Index, _: list[Value],
) -> None:  # fmt: skip
    """Code for: copy the `count` numbers that begin where the table says, some at a time."""
    source = train.at(base, train.load(train.at(table, k, INDEX), INDEX), "i8")
    row = train.at(target, train.mul(k, count), "double")

    def some(at: Index, width: int) -> None:
        value = train.load(train.at(source, train.mul(at, stride), scalar), vector(scalar, width))
        wide = value if scalar == "double" else train.convert("fpext", value, vector("double", width))
        train.store(wide, train.at(row, at, "double"))

    most = _TOGETHER if stride == 1 else 1
    whole = count // most * most
    train.loop(0, whole, most, [], lambda at, _: some(at, most))
    while whole < count:
        width = min(most, 1 << (count - whole).bit_length() - 1)
        some(whole, width)
        whole += width
