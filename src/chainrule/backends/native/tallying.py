"""What telemetry asks of an array, in one walk over it: the record `tally`.

Telemetry asks of everything in a step, so this walk is written for speed: a vector of numbers takes a
mask, a product, a sum, a maximum and a minimum of sizes, and nothing else. What need not be there at all is
counted in a walk of its own, if the first one shows that there is any: zeros, if the smallest size is 0;
numbers outside of bounds, if the largest size is; numbers that are not finite, if the sum of squares is not.
Where the very first vector has a zero, as behind a ReLU, zeros are counted at once.

Sums are added up in each lane for a stretch of memory (`_ROW`), pairwise from there on, and in float64 from
stretch to stretch. The walks are functions that all arrays of a dtype share; their results go to `_FIELDS`
numbers in float64, where the next stretch goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from chainrule.backends.native.elements import read
from chainrule.backends.native.emit import Emitted, Function, Module
from chainrule.backends.native.target import Target
from chainrule.backends.native.values import (
    INDEX,
    POINTER,
    SCALARS,
    Index,
    Value,
    constant,
    mangled,
    scalar_of,
    vector,
)
from chainrule.backends.native.walking import Axes, each_point, merged, offset, scratch_of, views_of
from chainrule.schedule.kernels import Special, View

_CHAINS = 4
"""Vectors on which a turn of the loop works, each with a sum of squares of its own: as long as an addition
of products takes, a core begins four pairs of them."""
_ROW = 128
"""Numbers that are added up in a row in one lane, at most."""
_SQUARES, _SUM, _LARGEST, _ZEROS, _NONFINITE, _OUTSIDE, _SMALLEST, _LOWEST = range(8)
"""Results of the walks: those of the record, the smallest size, the lowest number."""
_FIELDS = 8  # a cache line
_WIDE = "double"


def emit_tally(function: Function, kernel: Special, target: Target) -> Emitted:
    """The six numbers of a tally."""
    (x,), out = kernel.operands, kernel.target
    dtype = x.buffer.dtype
    scalar = SCALARS[dtype.name]
    source, destination = views_of(function)
    found = _Found(function, scratch_of(function))
    space = _Space(x, target)
    bounds = _Bounds(kernel.attributes["low"], kernel.attributes["high"])

    def walk(write: Callable[[_Walk], None], name: str) -> None:
        given = bounds.limits(scalar)
        made = _Walk.named(function.module, name, write, dtype, space.step, target, given)
        space.walk(
            function, source,
            lambda place, rows: function.call(
                made, "void", [place, *space.given(function, rows), found.pointer, *given]
            ),
        )  # fmt: skip

    def first(counting: bool) -> None:
        kind = "counting" if counting else "sizes"
        name = f"{kind}_lowest" if bounds.lopsided else kind
        walk(partial(_first_walk, counting=counting, lopsided=bounds.lopsided), name)

    found.begin()
    begins = space.begins_with_zero(function, source)
    if begins is None:
        first(counting=False)
    else:
        function.if_then(begins, lambda: first(counting=True))
        function.if_then(function.opposite(begins), lambda: first(counting=False))
    zero = function.compare("oeq", found.load(_SMALLEST), constant(0.0, _WIDE))
    function.if_then(zero, lambda: walk(_walk_over_zeros, "zeros"))
    if bounds.some:
        function.if_then(bounds.left(found), lambda: walk(bounds.walk, bounds.name))
    function.if_then(found.is_not_finite(), lambda: walk(_walk_over_odd, "odd"))
    for field in range(_OUTSIDE + 1):
        value = found.load(field)
        place = function.at(destination, field * out.strides[0], scalar)
        function.store(value if scalar == _WIDE else function.convert("fptrunc", value, scalar), place)
    return Emitted(1, _FIELDS * 8)


class _Found:
    """The results of the walks so far, in memory."""

    def __init__(self, function: Function, pointer: Value) -> None:
        self._function, self.pointer = function, pointer

    def begin(self) -> None:
        """Nothing has been seen yet."""
        for field in range(_FIELDS):
            self.store(field, constant(np.inf if field >= _SMALLEST else 0.0, _WIDE))

    def load(self, field: int) -> Value:
        return self._function.load(self._function.at(self.pointer, field, _WIDE), _WIDE)

    def store(self, field: int, value: Value) -> None:
        self._function.store(value, self._function.at(self.pointer, field, _WIDE))

    def add(self, field: int, value: Value) -> None:
        """Add a number to one of them."""
        self.store(field, self._function.binary("fadd", self.load(field), self._wide(value)))

    def combine(self, field: int, combiner: str, value: Value) -> None:
        """The larger ("max") or smaller of one of them and a number; NaN wins."""
        self.store(field, self._function.combine(combiner, self.load(field), self._wide(value)))

    def _wide(self, value: Value) -> Value:
        if value.type == _WIDE:
            return value
        return self._function.convert("fpext" if value.type == "float" else "sitofp", value, _WIDE)

    def compare(self, condition: str, field: int, number: float) -> Value:
        """Whether one of them is beyond a number."""
        return self._function.compare(condition, self.load(field), constant(number, _WIDE))

    def is_not_finite(self) -> Value:
        """Whether the squares add up to no number: some element is none, or its square is too large."""
        squares = self.load(_SQUARES)
        nothing = self._function.binary("fsub", squares, squares)
        return self._function.compare("uno", nothing, nothing)

    def either(self, a: Value, b: Value) -> Value:
        return self._function.binary("or", a, b)


class _Bounds(NamedTuple):
    """Between which numbers elements are inside."""

    low: float
    high: float

    @property
    def some(self) -> bool:
        return math.isfinite(self.low) or math.isfinite(self.high)

    @property
    def lopsided(self) -> bool:
        """True where the largest size does not tell whether all are inside."""
        return self.low != -self.high

    @property
    def name(self) -> str:
        return "outside" if self.lopsided else "beyond"

    def limits(self, scalar: str) -> list[Value]:
        """What the walks are given."""
        return [constant(each, scalar) for each in self]

    def left(self, found: _Found) -> Value:
        """Whether the first walk leaves it open that all are inside."""
        large = found.compare("ogt", _LARGEST, self.high)
        return found.either(large, found.compare("olt", _LOWEST, self.low)) if self.lopsided else large

    def walk(self, walk: _Walk) -> None:
        """How many elements are outside."""
        function = walk.function
        low, high = (function.splat(each, walk.lanes) for each in walk.limits)

        def outside(each: _Vector) -> Value:
            if not self.lopsided:
                return function.compare("ogt", each.size, high)
            below = function.compare("olt", each.value, low)
            return function.binary("or", below, function.compare("ogt", each.value, high))

        walk.count_where(_OUTSIDE, outside)


class _Space:
    """An array as rows of equal length whose elements lie `step` apart, some rows to a stretch.

    The order of elements is nobody's business here, so axes are taken by their strides, whatever the layout.
    """

    def __init__(self, x: View, target: Target) -> None:
        order = sorted(range(len(x.shape)), key=lambda axis: -abs(x.strides[axis]))
        shape, strides = (tuple(each[axis] for axis in order) for each in (x.shape, x.strides))
        axes = merged(shape, strides)
        most = _ROW * _CHAINS * target.lanes(x.buffer.dtype)
        *outer, length = axes.extents
        *apart, self.step = axes.strides[0]
        if length > most:  # whole stretches as rows of their own, and a shorter one
            self._parts = [(length // most, most, 0), (1, length % most, length // most * most)]
            self._apart = most * self.step
        else:
            self._parts = [(outer.pop() if outer else 1, length, 0)]
            self._apart = apart.pop() if apart else 0
        self._outer = Axes(tuple(outer), (tuple(apart),))
        self._most, self._type = most, SCALARS[x.buffer.dtype.name]
        self._lanes = target.lanes(x.buffer.dtype)
        self._length: int = length

    def begins_with_zero(self, function: Function, source: Value) -> Value | None:
        """Whether there is a zero in the first vector; None where there is no whole one."""
        if self.step != 1 or self._lanes == 1 or self._parts[0][1] < self._lanes or not self._parts[0][0]:
            return None
        value = function.load(source, vector(self._type, self._lanes))
        return function.reduce("any", function.compare("oeq", value, constant(0, value.type)))

    def given(self, function: Function, rows: Index) -> list[Value]:
        """What a walk is told: how many rows, how far apart, how long."""
        return [function.index(each) for each in (rows, self._apart, self._length)]

    def walk(self, function: Function, source: Value, stretch: Callable[[Value, Index], object]) -> None:
        """``stretch(place, rows)`` for rows that are a stretch."""

        def enter(point: Sequence[Index]) -> None:
            begun = function.at(source, offset(function, self._outer.strides[0], tuple(point)), self._type)
            for rows, length, start in self._parts:
                self._length = length
                if rows and length:
                    place = function.at(begun, start * self.step, self._type)
                    self._stretches(function, place, rows, stretch)

        each_point(function, self._outer.extents, enter)

    def _stretches(
        self, function: Function, place: Value, rows: int, stretch: Callable[[Value, Index], object]
    ) -> None:
        together = max(1, self._most // max(1, self._length))

        def some(first: Index, count: Index) -> None:
            stretch(function.at(place, function.mul(first, self._apart), self._type), count)

        whole = rows // together * together
        function.loop(0, whole, together, [], lambda first, _: some(first, together))
        if whole < rows:
            some(whole, rows - whole)


# -- the walks ---------------------------------------------------------------------------------------------
class _Vector(NamedTuple):
    """Some elements and their sizes; `mask`: which of them are there, None for all."""

    value: Value
    size: Value
    mask: Value | None


_Take = Callable[[list[_Vector], list[Value]], list[Value]]


class _Walk:
    """A function over rows while it is written: ``void walk(ptr x, i64 rows, i64 apart, i64 length, ptr
    found, …)``.
    """

    def __init__(
        self, function: Function, dtype: np.dtype[np.generic], step: int, target: Target
    ) -> None:  # fmt: skip
        self.function, self.found = function, _Found(function, function.arguments[4])
        self.limits = function.arguments[5:]
        self.dtype, self.step, self.scalar = dtype, step, SCALARS[dtype.name]
        self.lanes, self.registers = target.lanes(dtype), target.registers
        self.type = vector(self.scalar, self.lanes)
        self._bits = f"i{8 * dtype.itemsize}"
        self.count = vector(self._bits, self.lanes)
        self._masks = target.vector_bytes == 64  # comparisons go to registers of their own

    @staticmethod
    def named(
        module: Module, kind: str, write: Callable[[_Walk], None], dtype: np.dtype[np.generic], step: int,
        target: Target, more: Sequence[Value],
    ) -> str:  # fmt: skip
        """The name of the function that `write` writes, unless it is there already."""
        name = f"tally_{kind}_{dtype.name}_{step}".replace("-", "m")
        if name not in module.functions:
            rows = [("x", POINTER), ("rows", INDEX), ("apart", INDEX), ("length", INDEX), ("found", POINTER)]
            limits = [(f"limit{k}", each.type) for k, each in enumerate(more)]
            function = Function(module, name, [*rows, *limits])
            write(_Walk(function, dtype, step, target))
            function.give_back()
        return name

    def over(self, chains: int, carried: Sequence[Value], take: _Take) -> list[Value]:
        """``carried = take(vectors, carried)``: `chains` vectors in a turn, then one by one, then a part."""
        function, lanes = self.function, self.lanes
        x, rows, apart, length = function.arguments[:4]
        turn = chains * lanes

        def along(number: Index, state: list[Value]) -> list[Value]:
            row = function.at(x, function.mul(number, apart), self.scalar)
            whole = function.mul(function.divide(length, turn)[0], turn)
            ones = function.mul(function.divide(length, lanes)[0], lanes)

            def several(at: Index, now: list[Value]) -> list[Value]:
                return take([self._read(row, function.add(at, k * lanes)) for k in range(chains)], now)

            def one(at: Index, now: list[Value]) -> list[Value]:
                return take([self._read(row, at)], now)

            def part(at: Index, now: list[Value]) -> list[Value]:
                left = function.emit(INDEX, f"sub i64 {length.text}, {function.index(at).text}")
                return take([self._read(row, at, function.mask_below(left, lanes))], now)

            state = function.loop(0, whole, turn, state, several)
            state = function.loop(whole, ones, lanes, state, one) if chains > 1 else state
            return function.loop(ones, length, lanes, state, part)

        return function.loop(0, rows, 1, carried, along)

    def _read(self, row: Value, at: Index, mask: Value | None = None) -> _Vector:
        """A vector, or what the mask leaves of it and zeros.

        A whole one is read twice, so that both readings are part of the instructions that use them: there is
        one less to decode.
        """
        function = self.function
        pointer = function.at(row, function.mul(at, self.step), self.scalar)
        value = read(function, pointer, self.dtype, self.step, self.lanes, mask)
        if self.step == 1 and mask is None and self.lanes > 1:
            bits = function.load(pointer, self.count)
            everything = constant((1 << int(self._bits[1:]) - 1) - 1, self.count)
            size = function.convert("bitcast", function.binary("and", bits, everything), self.type)
            return _Vector(value, size, mask)
        if mask is not None and not self.step:
            value = function.select(mask, value, constant(0, self.type))
        name = f"llvm.fabs.{mangled(self.type)}"
        return _Vector(value, function.intrinsic(name, self.type, [value]), mask)

    def larger(self, a: Value, b: Value) -> Value:
        """One instruction; b where a is NaN."""
        return self.function.select(self.function.compare("ogt", a, b), a, b)

    def smaller(self, each: Value, mask: Value | None, b: Value) -> Value:
        """The smaller of what is there and b; b where that is NaN."""
        function = self.function
        a = each if mask is None else function.select(mask, each, constant(np.inf, self.type))
        return function.select(function.compare("olt", a, b), a, b)

    def counted(self, condition: Value, each: _Vector, count: Value) -> Value:
        """A count that goes up by one in lanes where there is something and the condition holds."""
        function = self.function
        if each.mask is not None:
            condition = function.binary("and", condition, each.mask)
        if self._masks:
            more = function.binary("add", count, constant(1, count.type))
            return function.select(condition, more, count)
        return function.binary("sub", count, function.convert("sext", condition, count.type))

    def count_where(self, field: int, condition: Callable[[_Vector], Value]) -> None:
        """The whole of a walk that counts elements."""

        def take(vectors: list[_Vector], counts: list[Value]) -> list[Value]:
            added = [self.counted(condition(each), each, counts[k]) for k, each in enumerate(vectors)]
            return [*added, *counts[len(added) :]]

        self.total(field, self.over(_CHAINS, [constant(0, self.count)] * _CHAINS, take))

    def total(self, field: int, parts: list[Value]) -> None:
        """Vectors, pairwise, and their lanes, to one of the results."""
        add = "fadd" if scalar_of(parts[0].type) == self.scalar else "add"
        while len(parts) > 1:
            parts = [self.function.binary(add, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        self.found.add(field, self.function.reduce("sum", parts[0]))


def _first_walk(walk: _Walk, counting: bool, lopsided: bool) -> None:
    """Squares, sum, largest size; zeros (`counting`) or the smallest size; with `lopsided` the lowest number
    too. NaN is passed over.
    """
    function = walk.function
    sums = _CHAINS if walk.registers > 16 else _CHAINS // 2  # an addition alone takes a shorter time
    zero, infinity = constant(0, walk.type), constant(np.inf, walk.type)

    def take(vectors: list[_Vector], state: list[Value]) -> list[Value]:
        squares, added = state[:_CHAINS], state[_CHAINS : _CHAINS + sums]
        largest, small, *lowest = state[_CHAINS + sums :]
        for k, each in enumerate(vectors):
            squares[k] = function.fma(each.size, each.size, squares[k])
            added[k % sums] = function.binary("fadd", added[k % sums], each.value)
            largest = walk.larger(each.size, largest)
            if counting:
                small = walk.counted(function.compare("oeq", each.size, zero), each, small)
            else:
                small = walk.smaller(each.size, each.mask, small)
            lowest = [walk.smaller(each.value, each.mask, least) for least in lowest]
        return [*squares, *added, largest, small, *lowest]

    start = [zero] * (_CHAINS + sums + 1) + [constant(0, walk.count) if counting else infinity]
    state = walk.over(_CHAINS, start + [infinity] * lopsided, take)
    walk.total(_SQUARES, state[:_CHAINS])
    walk.total(_SUM, state[_CHAINS : _CHAINS + sums])
    largest, small, *lowest = state[_CHAINS + sums :]
    walk.found.combine(_LARGEST, "max", function.reduce("max", largest))
    if counting:
        walk.total(_ZEROS, [small])
    else:
        walk.found.combine(_SMALLEST, "min", function.reduce("min", small))
    for each in lowest:
        walk.found.combine(_LOWEST, "min", function.reduce("min", each))


def _walk_over_zeros(walk: _Walk) -> None:
    """How many elements are 0."""
    zero = constant(0, walk.type)
    walk.count_where(_ZEROS, lambda each: walk.function.compare("oeq", each.value, zero))


def _walk_over_odd(walk: _Walk) -> None:
    """What is not finite, and the largest size again, where NaN wins."""
    function, infinity = walk.function, constant(np.inf, walk.type)

    def take(vectors: list[_Vector], state: list[Value]) -> list[Value]:
        (each,), (largest, odd) = vectors, state
        return [
            function.combine("max", largest, each.size),
            walk.counted(function.compare("ueq", each.size, infinity), each, odd),
        ]

    largest, odd = walk.over(1, [constant(0, walk.type), constant(0, walk.count)], take)
    walk.found.combine(_LARGEST, "max", function.reduce("max", largest))
    walk.total(_NONFINITE, [odd])
