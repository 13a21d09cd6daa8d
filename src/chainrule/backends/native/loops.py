"""Elementwise work and reductions: a `Loops` kernel as nested loops over vectors.

The lane axis is walked a vector at a time; what does not change along it is a scalar, repeated where it meets
vectors, and computed in the outermost loop in which it is known. A row is done in stages (`loop_stages`).

Floating sums: every lane of up to four accumulators adds at most 128 numbers; those sums are added pairwise,
and where there are more of them than one block has, float32 goes over to float64 accumulators. So the error
of a long sum stays below about 64 units in the last place of Σ|x|, typically below one; NumPy's pairwise
sum has log2(n / 128) + 16. The order is fixed: it depends on lengths alone, never on units or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

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
    lanes_of,
    register_type,
    vector,
)
from chainrule.backends.native.loop_space import Form, Space, simplified
from chainrule.backends.native.loop_stages import Choices, Stage, choose, stages
from chainrule.backends.native.scalars import compute
from chainrule.backends.native.target import Target
from chainrule.schedule.kernels import Access, Buffer, Expression, Loops, places

_LINE = 64
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def emit_loops(module: Module, name: str, kernel: Loops, target: Target) -> Emitted:
    """Write the function of a kernel into a module; see `places` for its arguments."""
    space = simplified(kernel, target)
    return _Writer(module, name, kernel, space, choose(space, target)).write()


class _Point(NamedTuple):
    """A point that one turn of the loops does: how far it lies behind their positions, axis by axis.

    valid  how many of its lanes are before the end of the lane axis; None: all
    """

    offsets: tuple[int, ...]
    valid: Index | None = None

    def moved(self, axis: int, distance: int, valid: Index | None) -> _Point:
        offsets = (*self.offsets[:axis], distance, *self.offsets[axis + 1 :])
        return _Point(offsets, self.valid if valid is None else valid)


class _Key(NamedTuple):
    """The name of an accumulator that loops carry; the wide one takes the sums of the others of its row."""

    form: Form
    offsets: tuple[int, ...]
    wide: bool = False


class _Slot(NamedTuple):
    """Scratch memory in which a total grows, an element (or a vector, to be combined at last) per result."""

    access: Access
    dtype: np.dtype[Any]
    vector: bool
    count: int


_State = dict[_Key, Value]
_Body = Callable[[list[_Point], _State], _State]


class _Writer:
    """Writes one function. Values live in scopes: what is computed inside a loop is forgotten behind it."""

    def __init__(self, module: Module, name: str, kernel: Loops, space: Space, choices: Choices) -> None:
        self.space, self.choices = space, choices
        self.copies = choices.copies
        self.lane, self.lanes = space.lane, space.lanes
        self.rows = tuple(range(space.rows))
        self.stages = stages(space, choices.unrolled)
        self.stage = 0
        self.roots = [form.value for form in space.forms]
        accesses = places(kernel)
        arguments = [(f"p{number}", POINTER) for number in range(len(accesses))]
        arguments += [("scratch", POINTER), ("first", INDEX), ("last", INDEX)]
        self.f = Function(module, name, arguments, internal=False)
        *pointers, self.scratch, self.first, self.last = self.f.arguments
        self.scopes: list[dict[Any, Value]] = [dict(zip(accesses, pointers, strict=True))]
        self.positions: dict[int, Index] = {}
        self.sources: dict[Expression, Access | None] = {}
        self.scratch_bytes = 0
        self.folding = False

    # -- the whole -------------------------------------------------------------------------------------------
    def write(self) -> Emitted:
        self.slots = {form: self._slot(form) for form in self.space.totals() if form.target}
        self.spills = {
            each: self._spill(each)
            for stage in self.stages
            for each in stage.kept
            if not self.choices.unrolled
        }
        self.f.if_then(self.f.compare("slt", self.first, self.last), self._body)
        self.f.give_back()
        return Emitted(self.choices.units, self.scratch_bytes)

    def _body(self) -> None:
        self.scopes.append({})
        for form, slot in self.slots.items():
            self._clear(form, slot)
        origin = _Point((0,) * len(self.space.extents))
        self._hoist([origin])
        self._nest(self.rows, [origin], {}, self._row)
        self.copies = {}
        for form, slot in self.slots.items():
            kept = [axis for axis in self._axes_of(form) if axis not in form.over]
            self._nest(
                kept, [origin], {}, lambda points, state, f=form, s=slot: self._total(f, s, points, state)
            )
        self.scopes.pop()

    # -- loops -----------------------------------------------------------------------------------------------
    def _nest(self, axes: Sequence[int], points: list[_Point], state: _State, body: _Body) -> _State:
        """`body` for all positions along `axes`, the last one innermost."""
        if not axes:
            return body(points, state)
        if self.folding and len(axes) == self.choices.depth:
            return self._folded(state, lambda inside: self._span(axes, points, inside, body))
        return self._span(axes, points, state, body)

    def _span(self, axes: Sequence[int], points: list[_Point], state: _State, body: _Body) -> _State:
        """The loop along the first of `axes`: turns that do several neighbours, then the rest one by one."""
        f, axis = self.f, axes[0]
        width = self.lanes if axis == self.lane else 1
        extent, step = self.space.extents[axis], width * self.copies.get(axis, 1)
        full = extent // step * step

        def turn(index: Index, state: _State, copies: int, valid: Index | None) -> _State:
            self._open(axis, index)
            spread = [each.moved(axis, copy * width, valid) for each in points for copy in range(copies)]
            if len(axes) > 1 or (axis in self.rows and self.space.inner):
                self._hoist(spread)
            result = self._nest(axes[1:], spread, state, body)
            del self.positions[axis]
            return result

        def main(start: Index, stop: Index, state: _State) -> _State:
            return self._loop(start, stop, step, state, lambda i, s: turn(i, s, step // width, None))

        def rest(state: _State) -> _State:
            return self._loop(
                full, extent, width, state, lambda i, s: turn(i, s, 1, self._valid(i, width, extent))
            )

        if axis == self.choices.cut:
            start, stop = f.mul(self.first, self.choices.chunk), f.mul(self.last, self.choices.chunk)
            if full:
                main(start, f.smaller(stop, full), {})
            if full < extent:
                f.if_then(f.compare("sge", f.index(stop), f.index(extent)), lambda: void(rest({})))
            return state
        block = self.choices.block
        if self.folding and block is not None and len(axes) == 1:
            state = self._loop(
                0, full, block * step, state,
                lambda i, s: self._folded(s, lambda t: main(i, f.smaller(f.add(i, block * step), full), t)),
            )  # fmt: skip
            return self._folded(state, rest) if full < extent else state
        return rest(main(0, full, state))

    def _valid(self, index: Index, width: int, extent: int) -> Index | None:
        if extent % width == 0 or (isinstance(index, int) and index + width <= extent):
            return None
        if isinstance(index, int):
            return extent - index
        return self.f.emit(INDEX, f"sub nsw i64 {extent}, {index.text}")

    def _loop(
        self, start: Index, stop: Index, step: int, state: _State, body: Callable[[Index, _State], _State]
    ) -> _State:
        """A loop that carries the accumulators of `state`, with a scope of its own."""
        keys = list(state)

        def inside(index: Index, carried: list[Value]) -> list[Value]:
            self.scopes.append({})
            new = body(index, dict(zip(keys, carried, strict=True)))
            self.scopes.pop()
            return [new[key] for key in keys]

        values = self.f.loop(start, stop, step, [state[key] for key in keys], inside)
        return dict(zip(keys, values, strict=True))

    def _open(self, axis: int, index: Index) -> None:
        """Move along an axis: pointers follow."""
        self.positions[axis] = index
        for access, strides in self.space.strides.items():
            if strides[axis]:
                moved = self.f.mul(index, strides[axis])
                self._remember(access, self.f.at(self._known(access), moved, _memory(access)))

    # -- rows ------------------------------------------------------------------------------------------------
    def _row(self, points: list[_Point], state: _State) -> _State:
        """Everything about the rows that `points` stand for."""
        for self.stage, stage in enumerate(self.stages):
            values = [
                (form, point, self._row_value(form.value, point)) for form in stage.row for point in points
            ]
            for form, point, value in values:
                if form.combiner:
                    self._add_to_slot(form, self._masked(form, value, point), point)
                else:
                    self._store(form, value, point)
            if stage.roots():
                self._walk(stage, points)
        self.stage = 0
        return state

    def _row_value(self, expression: Expression, point: _Point) -> Value:
        in_rows = self.lane is not None and self.lane < self.space.rows
        return self._vector(expression, point) if in_rows else self._value(expression, point)

    def _walk(self, stage: Stage, points: list[_Point]) -> None:
        """One walk over the inner axes, for one or several rows at once."""
        inner = self.space.inner
        carried = [form for form in stage.points if form.combiner and form.over >= set(inner)]
        self.roots, before = stage.roots(), self.roots
        self.sources = stage.known
        self._hoist(points)

        def body(points: list[_Point], state: _State) -> _State:
            for point in points:
                self._point(stage, carried, point, state)
            return state

        if self.choices.unrolled:
            state = body(self._written_out(points), {})
        else:
            last = inner[-1]
            width = self.lanes if last == self.lane else 1
            keys = [
                _Key(form, each.moved(last, copy * width, None).offsets)
                for form in carried for each in points for copy in range(self.copies.get(last, 1))
            ]  # fmt: skip
            sums = [form for form in carried if form.combiner == "sum" and form.dtype.kind == "f"]
            self.folding = bool(sums) and (self.choices.block or self.choices.depth) is not None
            self.narrow = [key for key in keys if self.folding and key.form in sums]
            keys = [key for key in keys if key not in self.narrow]
            keys += [_Key(form, each.offsets, True) for form in sums for each in points if self.folding]
            state = self._nest(inner, points, {key: self._identity(key.form, key.wide) for key in keys}, body)
            self.folding = False
        for form in carried:
            for point in points:
                self._complete(form, point, state)
        self.roots, self.sources = before, {}

    def _written_out(self, points: list[_Point]) -> list[_Point]:
        """All points of the rows' inner axes."""
        for axis in self.space.inner:
            width, extent = self.lanes if axis == self.lane else 1, self.space.extents[axis]
            points = [
                each.moved(axis, position, self._valid(position, width, extent) if axis == self.lane else None)
                for each in points for position in range(0, extent, width)
            ]  # fmt: skip
        return points

    def _point(self, stage: Stage, carried: list[Form], point: _Point, state: _State) -> None:
        """All statements of a stage at one point; everything is read before anything is stored."""
        values = [(form, self._vector(form.value, point)) for form in stage.points]
        kept = [(each, self._value(each, point)) for each in stage.kept]
        for each, value in kept:
            if each in self.spills:
                access = self.spills[each]
                elements.write(self.f, value, self._address(access, point), each.dtype, 1)
        for form, value in values:
            if not form.combiner:
                self._store(form, value, point)
                continue
            value = self._masked(form, value, point)
            if form in carried:
                key = _Key(form, point.offsets)
                state[key] = self._combine(form, state[key], value) if key in state else value
            else:
                self._add_to_slot(form, value, point)

    # -- values ----------------------------------------------------------------------------------------------
    def _known(self, key: Any) -> Value:
        found = self._find(key)
        assert found is not None, key
        return found

    def _find(self, key: Any) -> Value | None:
        return next((scope[key] for scope in reversed(self.scopes) if key in scope), None)

    def _remember(self, key: Any, value: Value) -> Value:
        self.scopes[-1][key] = value
        return value

    def _hoist(self, points: list[_Point]) -> None:
        """Compute now what no loop further inside changes."""
        for each in self._settled():
            for point in points:
                self._vector(each, point)

    def _settled(self) -> Iterator[Expression]:
        """The largest parts of the current statements that are known at the loops' positions."""
        seen: set[Expression] = set()

        def enter(each: Expression) -> Iterator[Expression]:
            if each in seen or each.op == "constant":
                return
            seen.add(each)
            if set(self.space.axes(each)) <= self.positions.keys() and self.space.level(each) <= self.stage:
                yield each
            elif each not in self.sources:
                for argument in self.space.arguments(each):
                    yield from enter(argument)

        for root in self.roots:
            yield from enter(root)

    def _value(self, expression: Expression, point: _Point) -> Value:
        """An expression at a point: a vector if it changes along the lane, a scalar if not."""
        while expression.op == "result" and self.space.arguments(expression):
            (expression,) = self.space.arguments(expression)
        key = self._key(expression, point)
        found = self._find(key)
        return self._remember(key, self._computed(expression, point)) if found is None else found

    def _key(self, expression: Expression, point: _Point, kind: str = "") -> tuple[Any, ...]:
        """Expressions are known by where they stand on the axes along which they change."""
        name: Any = expression
        if expression.op == "result":
            name = self.space.form_of[expression.attributes["statement"]]
        return name, kind, *(point.offsets[axis] for axis in self.space.axes(expression))

    def _computed(self, expression: Expression, point: _Point) -> Value:
        moving = self.lane in self.space.axes(expression)
        lanes = self.lanes if moving else 1
        if expression in self.sources:
            access = self.sources[expression]
            if access is not None:
                return self._read(access, point)
            spill = self.spills[expression]
            return elements.read(self.f, self._address(spill, point), expression.dtype, 1, lanes)
        if expression.op == "constant":
            return constant(expression.attributes["value"], register_type(expression.dtype, 1))
        if expression.op == "load":
            return self._read(expression.attributes["access"], point)
        if expression.op == "position":
            return self._position(expression, point, lanes)
        every = self._vector if moving else self._value
        arguments = [every(argument, point) for argument in expression.arguments]
        return compute(self.f, expression, arguments, lanes)

    def _vector(self, expression: Expression, point: _Point) -> Value:
        """An expression at a point, in every lane."""
        if expression.op == "constant":
            return constant(expression.attributes["value"], register_type(expression.dtype, self.lanes))
        value = self._value(expression, point)
        if lanes_of(value.type) == self.lanes:
            return value
        key = self._key(expression, point, "repeated")
        found = self._find(key)
        return self._remember(key, self.f.splat(value, self.lanes)) if found is None else found

    def _position(self, expression: Expression, point: _Point, lanes: int) -> Value:
        axis = self.space.places.get(expression.attributes["axis"])
        if axis is None:
            return constant(0, INDEX)
        index = self.f.index(self.f.add(self.positions.get(axis, 0), point.offsets[axis]))
        if axis != self.lane:
            return index
        return self.f.binary("add", self.f.splat(index, lanes), self.f.lane_numbers(lanes))

    # -- memory ----------------------------------------------------------------------------------------------
    def _address(self, access: Access, point: _Point) -> Value:
        distance = sum(a * b for a, b in zip(point.offsets, self.space.strides[access], strict=True))
        return self.f.at(self._known(access), distance, _memory(access))

    def _mask(self, point: _Point) -> Value | None:
        return None if point.valid is None else self.f.mask_below(point.valid, self.lanes)

    def _read(self, access: Access, point: _Point) -> Value:
        stride = self.space.stride(access, self.lane)
        mask = None if self.space.readable(access) else self._mask(point)
        pointer, dtype = self._address(access, point), access.buffer.dtype
        return elements.read(self.f, pointer, dtype, stride, self.lanes if stride else 1, mask)

    def _store(self, form: Form, value: Value, point: _Point) -> None:
        access = form.target
        if access is None:
            return
        stride = self.space.stride(access, self.lane)
        mask = None if lanes_of(value.type) == 1 or self.space.writable(access) else self._mask(point)
        elements.write(self.f, value, self._address(access, point), access.buffer.dtype, stride, mask)

    def _scratch(self, dtype: np.dtype[Any], strides: Sequence[int], count: int) -> Access:
        """`count` elements of scratch memory, walked with these strides."""
        access = Access(Buffer("scratch", dtype, (count,), (1,), count), 0, tuple(strides))
        self.space.strides[access] = access.strides
        self._remember(access, self.f.at(self.scratch, self.scratch_bytes, "i8"))
        self.scratch_bytes += -(-count * dtype.itemsize // _LINE) * _LINE
        return access

    def _dense(self, axes: Sequence[int], unit: int) -> tuple[list[int], int]:
        """Strides of an array over `axes`, whole vectors along the lane, and its number of elements."""
        strides, count = [0] * len(self.space.extents), unit
        for axis in sorted(axes, key=lambda axis: axis != self.lane):
            strides[axis] = count
            extent = self.space.extents[axis]
            count *= -(-extent // self.lanes) * self.lanes if axis == self.lane else extent
        return strides, count

    def _spill(self, expression: Expression) -> Access:
        """Room for a value at every inner point of a row."""
        moving = [axis for axis in self.space.axes(expression) if axis in self.space.inner]
        in_rows = self.lane in self.space.axes(expression) and self.lane in self.rows
        return self._scratch(expression.dtype, *self._dense(moving, self.lanes if in_rows else 1))

    # -- combining -------------------------------------------------------------------------------------------
    def _identity(self, form: Form, wide: bool = False) -> Value:
        dtype = FLOAT64 if wide else form.dtype
        return constant(_identity(form.combiner, form.dtype), register_type(dtype, self.lanes))

    def _combine(self, form: Form, a: Value, b: Value) -> Value:
        assert form.combiner is not None
        return self.f.combine(form.combiner, a, b, form.dtype.kind == "u")

    def _masked(self, form: Form, value: Value, point: _Point) -> Value:
        """Lanes behind the end do not count where lanes are combined."""
        mask = self._mask(point)
        if mask is None or self.lane not in form.over or lanes_of(value.type) != self.lanes:
            return value
        return self.f.select(mask, value, constant(_identity(form.combiner, form.dtype), value.type))

    def _merged(self, form: Form, state: _State, offsets: tuple[int, ...]) -> Value:
        """The accumulators of one row as one, pairwise."""
        rows = self.space.rows
        parts = [
            value for key, value in state.items()
            if key.form is form and not key.wide and key.offsets[:rows] == offsets[:rows]
        ]  # fmt: skip
        while len(parts) > 1:
            pairs = [self._combine(form, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
            parts = pairs + parts[len(parts) // 2 * 2 :]
        return parts[0] if parts else self._identity(form)

    def _folded(self, state: _State, run: Callable[[_State], _State]) -> _State:
        """Run loops with fresh accumulators, and add these to the wide ones behind them."""
        fresh = {key: self._identity(key.form) for key in self.narrow}
        result = run({**{key: value for key, value in state.items() if not key.wide}, **fresh})
        new = {}
        for key, value in state.items():
            new[key] = result.get(key, value)
            if key.wide:
                part = self._widened(self._merged(key.form, result, key.offsets), FLOAT64)
                new[key] = self._combine(key.form, value, part)
        return new

    def _widened(self, value: Value, dtype: np.dtype[Any]) -> Value:
        """A floating value as float64, or back."""
        operation = "fpext" if dtype == FLOAT64 else "fptrunc"
        return self.f.convert(operation, value, vector(SCALARS[dtype.name], lanes_of(value.type)))

    def _complete(self, form: Form, point: _Point, state: _State) -> None:
        """The accumulators of a row become its result, or go to the total."""
        wide = state.get(_Key(form, point.offsets, True))
        value = self._merged(form, state, point.offsets) if wide is None else wide
        if not self.space.of_row(form):
            self._add_to_slot(form, value, point)
            return
        value = self._narrowed(form, value)
        key = (form, "", *point.offsets[: self.space.rows])
        self._remember(key, value)
        self._store(form, value, point)

    def _narrowed(self, form: Form, value: Value) -> Value:
        """A combined vector as what it is in the end: lanes combined, if they are; of the statement's dtype."""
        assert form.combiner is not None
        if self.lane in form.over and lanes_of(value.type) > 1:
            value = self.f.reduce(form.combiner, value, form.dtype.kind == "u")
        return self._widened(value, FLOAT32) if form.dtype == FLOAT32 else value

    # -- totals ----------------------------------------------------------------------------------------------
    def _axes_of(self, form: Form) -> tuple[int, ...]:
        """The axes along which a statement is computed."""
        return self.rows if form.per_row else tuple(range(len(self.space.extents)))

    def _slot(self, form: Form) -> _Slot:
        """Float32 sums grow in float64, unless they stay vectors of results, which are added row by row."""
        kept = [axis for axis in self._axes_of(form) if axis not in form.over]
        wide = form.combiner == "sum" and form.dtype == FLOAT32 and self.lane not in kept
        dtype = FLOAT64 if wide else form.dtype
        is_vector = self.lane in self._axes_of(form)
        strides, count = self._dense(kept, self.lanes if is_vector and self.lane not in kept else 1)
        count = -(-count // self.lanes) * self.lanes
        return _Slot(self._scratch(dtype, strides, count), dtype, is_vector, count)

    def _clear(self, form: Form, slot: _Slot) -> None:
        number = constant(_identity(form.combiner, form.dtype), register_type(slot.dtype, self.lanes))
        pointer, memory = self._known(slot.access), _memory(slot.access)

        def clear(index: Index, carried: list[Value]) -> None:
            elements.write(self.f, number, self.f.at(pointer, index, memory), slot.dtype, 1)

        self.f.loop(0, slot.count, self.lanes, [], clear)

    def _add_to_slot(self, form: Form, value: Value, point: _Point) -> None:
        if form not in self.slots:
            return
        slot = self.slots[form]
        if form.dtype == FLOAT32:
            value = self._widened(value, slot.dtype)
        pointer = self._address(slot.access, point)
        before = elements.read(self.f, pointer, slot.dtype, 1, lanes_of(value.type))
        elements.write(self.f, self._combine(form, before, value), pointer, slot.dtype, 1)

    def _total(self, form: Form, slot: _Slot, points: list[_Point], state: _State) -> _State:
        """Store what has grown in a slot."""
        for point in points:
            lanes = self.lanes if slot.vector else 1
            value = elements.read(self.f, self._address(slot.access, point), slot.dtype, 1, lanes)
            self._store(form, self._narrowed(form, value), point)
        return state


def _identity(combiner: str | None, dtype: np.dtype[Any]) -> Any:
    """What changes nothing when it is combined."""
    if combiner in ("sum", "any"):
        return 0
    if combiner == "all":
        return 1
    sign = -1 if combiner == "max" else 1
    if dtype.kind == "f":
        return sign * np.inf
    return np.iinfo(dtype).min if combiner == "max" else np.iinfo(dtype).max


def _memory(access: Access) -> str:
    return SCALARS[access.buffer.dtype.name]


def void(_: Any) -> None:
    """For effects only."""
