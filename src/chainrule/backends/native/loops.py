"""Elementwise work and reductions: a `Loops` kernel as nested loops over vectors.

The space is simplified first (`loop_space`); a row is done in stages (`loop_stages`); values are computed
where they are first known (`loop_values`); here are the loops, and what they combine.

Floating sums: a lane of an accumulator adds at most 128 numbers; accumulators are combined pairwise, and
where there is more to add, float32 goes on in float64. So the error of a sum of any length is below 64 units
in the last place of Σ|x|, and mostly below one; NumPy's pairwise sums stay below log2(n / 128) + 16. (Where
results lie along the lane and rows are added up beside other work, they are added one after the other in
their own dtype, as NumPy does it.) The order depends on lengths alone, never on units or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from chainrule.backends.native import elements
from chainrule.backends.native.emit import Emitted, Function, Module
from chainrule.backends.native.loop_space import Form, Space, simplified
from chainrule.backends.native.loop_stages import Choices, Stage, choose
from chainrule.backends.native.loop_values import Point, Values, memory_type
from chainrule.backends.native.target import Target
from chainrule.backends.native.values import (
    INDEX,
    POINTER,
    SCALARS,
    Index,
    Value,
    constant,
    lanes_of,
    register_type,
    vector,
)
from chainrule.schedule.kernels import Access, Loops, places

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def emit_loops(module: Module, name: str, kernel: Loops, target: Target) -> Emitted:
    """Write the function of a kernel into a module; see `places` for its arguments."""
    space = simplified(kernel, target)
    accesses = places(kernel)
    arguments = [(f"p{number}", POINTER) for number in range(len(accesses))]
    arguments += [("scratch", POINTER), ("first", INDEX), ("last", INDEX)]
    function = Function(module, name, arguments, internal=False)
    pointers = {
        access: pointer
        for access, pointer in zip(accesses, function.arguments, strict=False)
        if isinstance(access, Access)
    }
    return _Writer(function, space, choose(space, target), pointers).write()


class _Accumulator(NamedTuple):
    """The name of an accumulator that loops carry; the wide one takes the sums of the others of its row."""

    form: Form
    offsets: tuple[int, ...]
    wide: bool = False


class _Slot(NamedTuple):
    """Scratch memory in which a total grows: `size` elements, for every result one, or a vector of lanes
    that are combined at last.
    """

    access: Access
    dtype: np.dtype[Any]
    lanes: int
    size: int


_State = dict[_Accumulator, Value]
_Body = Callable[[list[Point], _State], _State]


class _Writer:
    """Writes the body of one function."""

    def __init__(
        self, function: Function, space: Space, choices: Choices, pointers: dict[Access, Value]
    ) -> None:
        self.f, self.space, self.choices = function, space, choices
        self.lane, self.lanes, self.copies = space.lane, space.lanes, choices.copies
        *_, scratch, self.first, self.last = function.arguments
        self.values = Values(function, space, pointers, scratch, choices.across)
        outwards = {self.lane: 2, choices.across: 1}
        self.rows = sorted(range(space.rows), key=lambda axis: outwards.get(axis, 0))
        self.narrow: list[_Accumulator] = []  # those that go over to wide ones

    # -- the whole -------------------------------------------------------------------------------------------
    def write(self) -> Emitted:
        """The function; threads that find no unit left do nothing."""
        self.slots = {form: self._slot(form) for form in self.space.totals() if form.target}
        if not self.choices.unrolled:
            for stage in self.choices.stages:
                self.values.keep([*stage.kept])
        self.f.if_then(self.f.compare("slt", self.first, self.last), self._body)
        self.f.give_back()
        return Emitted(self.choices.units, self.values.scratch_bytes)

    def _body(self) -> None:
        origin = Point((0,) * len(self.space.extents))
        for form, slot in self.slots.items():
            self._clear(form, slot)
        with self.values.scope():
            self.values.hoist([origin])
            self._nest(self.rows, [origin], {}, self._row)
        self.copies = {}
        for form in self.slots:
            self._nest(self._kept(form), [origin], {}, partial(self._total, form))

    # -- loops -----------------------------------------------------------------------------------------------
    def _nest(self, axes: Sequence[int], points: list[Point], state: _State, body: _Body) -> _State:
        """`body` for all positions along `axes`, the last one innermost."""
        if not axes:
            return body(points, state)
        if self.narrow and len(axes) == self.choices.depth:
            return self._folded(state, lambda inside: self._span(axes, points, inside, body))
        return self._span(axes, points, state, body)

    def _span(self, axes: Sequence[int], points: list[Point], state: _State, body: _Body) -> _State:
        """The loop along the first of `axes`: turns that do several neighbours, then the rest one by one."""
        axis, extent = axes[0], self.space.extents[axes[0]]
        width = self.lanes if axis == self.lane else 1
        step = width * self.copies.get(axis, 1)
        full = extent // step * step

        def turn(index: Index, state: _State, copies: int, valid: Index | None) -> _State:
            self.values.open(axis, index)
            if axis == self.choices.across:
                self.values.square = copies > 1
            spread = [each.moved(axis, copy * width, valid) for each in points for copy in range(copies)]
            if len(axes) > 1 or (axis < self.space.rows and self.space.inner):
                self.values.hoist(spread)
            result = self._nest(axes[1:], spread, state, body)
            self.values.close(axis)
            return result

        def main(start: Index, stop: Index, state: _State) -> _State:
            return self._loop(start, stop, step, state, lambda i, s: turn(i, s, step // width, None))

        def rest(state: _State) -> _State:
            return self._loop(
                full, extent, width, state, lambda i, s: turn(i, s, 1, self._valid(i, width, extent))
            )

        if axis == self.choices.cut:
            return self._units(axis, full, main, rest)
        if self.narrow and self.choices.block is not None and len(axes) == 1:
            return self._blocks(self.choices.block * step, full, main, rest, state)
        return rest(main(0, full, state))

    def _units(
        self, axis: int, full: int, main: Callable[..., _State], rest: Callable[..., _State]
    ) -> _State:
        """The part of a loop that the units from `first` to `last` have; the rest belongs to the last one."""
        f, extent = self.f, self.space.extents[axis]
        start, stop = f.mul(self.first, self.choices.chunk), f.mul(self.last, self.choices.chunk)
        if full:
            main(start, f.smaller(stop, full), {})

        def tail() -> None:
            rest({})

        if full < extent:
            f.if_then(f.compare("sge", f.index(stop), f.index(extent)), tail)
        return {}

    def _blocks(
        self, block: int, full: int, main: Callable[..., _State], rest: Callable[..., _State], state: _State
    ) -> _State:
        """A long loop in blocks, behind each of which sums go over to wide accumulators."""

        def one(start: Index, state: _State) -> _State:
            stop = self.f.smaller(self.f.add(start, block), full)
            return self._folded(state, lambda inside: main(start, stop, inside))

        state = self._loop(0, full, block, state, one)
        return self._folded(state, rest) if full < self.space.extents[self.space.inner[-1]] else state

    def _valid(self, index: Index, width: int, extent: int) -> Index | None:
        """How many of the lanes from `index` on are before the end; None for all."""
        if extent % width == 0 or (isinstance(index, int) and index + width <= extent):
            return None
        if isinstance(index, int):
            return extent - index
        return self.f.emit(INDEX, f"sub nsw i64 {extent}, {index.text}")

    def _loop(
        self, start: Index, stop: Index, step: int, state: _State, body: Callable[[Index, _State], _State]
    ) -> _State:
        """A loop that carries the accumulators of `state`."""
        keys = list(state)

        def inside(index: Index, carried: list[Value]) -> list[Value]:
            with self.values.scope():
                new = body(index, dict(zip(keys, carried, strict=True)))
            return [new[key] for key in keys]

        values = self.f.loop(start, stop, step, [state[key] for key in keys], inside)
        return dict(zip(keys, values, strict=True))

    # -- rows ------------------------------------------------------------------------------------------------
    def _row(self, points: list[Point], state: _State) -> _State:
        """Everything about the rows that `points` stand for."""
        every = self.values.vector if self._lane_in_rows else self.values.value
        for number, stage in enumerate(self.choices.stages):
            self.values.stage = number
            done = [(form, point, every(form.value, point)) for form in stage.row for point in points]
            for form, point, value in done:
                if form.combiner:
                    self._add_to_slot(form, self._masked(form, value, point), point)
                else:
                    self.values.store(form, value, point)
            if stage.roots():
                self._walk(stage, points)
        self.values.stage = 0
        return state

    @property
    def _lane_in_rows(self) -> bool:
        return self.lane is not None and self.lane < self.space.rows

    def _walk(self, stage: Stage, points: list[Point]) -> None:
        """One walk over the inner axes, for one or several rows at once."""
        before = self.values.roots
        self.values.roots, self.values.sources = stage.roots(), stage.known
        self.values.hoist(points)
        carried = [form for form in stage.points if form.combiner and form.over >= set(self.space.inner)]

        def body(points: list[Point], state: _State) -> _State:
            for point in points:
                self._point(stage, carried, point, state)
            return state

        if self.choices.unrolled:
            state = body(self._written_out(points), {})
        else:
            state = self._nest(self.space.inner, points, self._accumulators(carried, points), body)
            self.narrow = []
        for form in carried:
            for point in points:
                self._complete(form, point, state)
        self.values.roots, self.values.sources = before, {}

    def _written_out(self, points: list[Point]) -> list[Point]:
        """All points of the rows' inner axes."""
        for axis in self.space.inner:
            width, extent = self.lanes if axis == self.lane else 1, self.space.extents[axis]
            points = [
                each.moved(axis, position, self._valid(position, width, extent))
                for each in points
                for position in range(0, extent, width)
            ]
        return points

    def _point(self, stage: Stage, carried: list[Form], point: Point, state: _State) -> None:
        """All statements of a stage at one point; everything is read before anything is stored."""
        done = [(form, self.values.vector(form.value, point)) for form in stage.points]
        for each, value in [(each, self.values.value(each, point)) for each in stage.kept]:
            self.values.spill(each, value, point)
        for form, value in done:
            if not form.combiner:
                self.values.store(form, value, point)
                continue
            value = self._masked(form, value, point)
            if form in carried:
                key = _Accumulator(form, point.offsets)
                state[key] = self._combine(form, state[key], value) if key in state else value
            else:
                self._add_to_slot(form, value, point)

    def _complete(self, form: Form, point: Point, state: _State) -> None:
        """The accumulators of a row become its result, or go to the total."""
        wide = state.get(_Accumulator(form, point.offsets, True))
        value = self._merged(form, state, point.offsets) if wide is None else wide
        if not self.space.of_row(form):
            self._add_to_slot(form, value, point)
            return
        value = self._final(form, value)
        self.values.set_result(form, point, value)
        self.values.store(form, value, point)

    # -- accumulators ----------------------------------------------------------------------------------------
    def _accumulators(self, carried: list[Form], points: list[Point]) -> _State:
        """What a walk begins with: an accumulator for every point that one turn of its loops does."""
        last = self.space.inner[-1]
        width = self.lanes if last == self.lane else 1
        spread = [
            each.moved(last, copy * width) for each in points for copy in range(self.copies.get(last, 1))
        ]
        keys = [_Accumulator(form, each.offsets) for form in carried for each in spread]
        if self.choices.block or self.choices.depth:
            self.narrow = [key for key in keys if key.form.combiner == "sum" and key.form.dtype.kind == "f"]
            sums = dict.fromkeys(key.form for key in self.narrow)
            keys = [key for key in keys if key not in self.narrow]
            keys += [_Accumulator(form, each.offsets, True) for form in sums for each in points]
        return {key: self._identity(key.form, FLOAT64 if key.wide else key.form.dtype) for key in keys}

    def _folded(self, state: _State, run: Callable[[_State], _State]) -> _State:
        """Run loops with fresh accumulators, and add these to the wide ones behind them."""
        fresh = {key: self._identity(key.form, key.form.dtype) for key in self.narrow}
        result = run({**{key: value for key, value in state.items() if not key.wide}, **fresh})
        new = {}
        for key, value in state.items():
            new[key] = result.get(key, value)
            if key.wide:
                part = self._as(FLOAT64, self._merged(key.form, result, key.offsets))
                new[key] = self._combine(key.form, value, part)
        return new

    def _merged(self, form: Form, state: _State, offsets: tuple[int, ...]) -> Value:
        """The accumulators of one row as one, pairwise."""
        rows = self.space.rows
        parts = [
            value
            for key, value in state.items()
            if key.form is form and not key.wide and key.offsets[:rows] == offsets[:rows]
        ]
        while len(parts) > 1:
            pairs = [self._combine(form, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
            parts = pairs + parts[len(parts) // 2 * 2 :]
        return parts[0] if parts else self._identity(form, form.dtype)

    def _final(self, form: Form, value: Value) -> Value:
        """A combined value as the statement has it: one number for combined lanes, of its dtype."""
        assert form.combiner is not None
        if self.lane in form.over:
            value = self.f.reduce(form.combiner, value, form.dtype.kind == "u")
        return self._as(form.dtype, value)

    def _combine(self, form: Form, a: Value, b: Value) -> Value:
        assert form.combiner is not None
        return self.f.combine(form.combiner, a, b, form.dtype.kind == "u")

    def _masked(self, form: Form, value: Value, point: Point) -> Value:
        """Lanes behind the end do not count where lanes are combined."""
        mask = self.values.mask(point)
        if mask is None or self.lane not in form.over or lanes_of(value.type) != self.lanes:
            return value
        return self.f.select(mask, value, constant(form.identity, value.type))

    def _identity(self, form: Form, dtype: np.dtype[Any]) -> Value:
        return constant(form.identity, register_type(dtype, self.lanes))

    def _as(self, dtype: np.dtype[Any], value: Value) -> Value:
        """A floating value in another floating dtype; any other value is of the right one."""
        if dtype.kind != "f":
            return value
        type_ = vector(SCALARS[dtype.name], lanes_of(value.type))
        return self.f.convert("fpext" if dtype == FLOAT64 else "fptrunc", value, type_)

    # -- totals ----------------------------------------------------------------------------------------------
    def _kept(self, form: Form) -> list[int]:
        """The axes along which a total has results, the lane last."""
        axes = self.rows if form.per_row else sorted(self.space.every, key=lambda axis: axis == self.lane)
        return [axis for axis in axes if axis not in form.over]

    def _slot(self, form: Form) -> _Slot:
        kept = self._kept(form)
        wide = form.combiner == "sum" and form.dtype == FLOAT32 and self.lane not in kept
        dtype = FLOAT64 if wide else form.dtype
        lanes = self.lanes if self._lane_in_rows or not form.per_row else 1
        access, size = self.values.room(dtype, kept, 1 if self.lane in kept else lanes)
        return _Slot(access, dtype, lanes, size)

    def _clear(self, form: Form, slot: _Slot) -> None:
        """Nothing has been combined yet."""
        pointer, nothing = self.values.known(slot.access), self._identity(form, slot.dtype)

        def clear(index: Index, carried: list[Value]) -> None:
            place = self.f.at(pointer, index, memory_type(slot.access))
            elements.write(self.f, nothing, place, slot.dtype, 1)

        self.f.loop(0, slot.size, self.lanes, [], clear)

    def _add_to_slot(self, form: Form, value: Value, point: Point) -> None:
        if form not in self.slots:
            return
        slot = self.slots[form]
        pointer = self.values.address(slot.access, point)
        before = elements.read(self.f, pointer, slot.dtype, 1, slot.lanes)
        after = self._combine(form, before, self._as(slot.dtype, value))
        elements.write(self.f, after, pointer, slot.dtype, 1)

    def _total(self, form: Form, points: list[Point], state: _State) -> _State:
        """Store what has grown in a slot."""
        slot = self.slots[form]
        for point in points:
            pointer = self.values.address(slot.access, point)
            value = elements.read(self.f, pointer, slot.dtype, 1, slot.lanes)
            self.values.store(form, self._final(form, value), point)
        return state
