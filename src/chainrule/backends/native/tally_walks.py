"""The walks over an array from which `tallying` makes a tally: functions that all arrays of a dtype share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from chainrule.backends.native.elements import read
from chainrule.backends.native.emit import Function, Module
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

CHAINS = 4
"""Vectors on which a turn of the loop works, each with a sum of squares of its own: as long as an addition
of products takes, a core begins four pairs of them."""
SQUARES, SUM, LARGEST, ZEROS, NONFINITE, OUTSIDE, SMALLEST, LOWEST = range(8)
"""Results of the walks: those of the record, the smallest size, the lowest number."""
FIELDS = 8  # a cache line
WIDE = "double"


class Found:
    """The results of the walks so far, in memory."""

    def __init__(self, function: Function, pointer: Value) -> None:
        self._function, self.pointer = function, pointer

    def begin(self) -> None:
        """Nothing has been seen yet."""
        for field in range(FIELDS):
            self.store(field, constant(np.inf if field >= SMALLEST else 0.0, WIDE))

    def load(self, field: int) -> Value:
        return self._function.load(self._function.at(self.pointer, field, WIDE), WIDE)

    def store(self, field: int, value: Value) -> None:
        self._function.store(value, self._function.at(self.pointer, field, WIDE))

    def add(self, field: int, value: Value) -> None:
        """Add a number to one of them."""
        self.store(field, self._function.binary("fadd", self.load(field), self._wide(value)))

    def combine(self, field: int, combiner: str, value: Value) -> None:
        """The larger ("max") or smaller of one of them and a number; NaN wins."""
        self.store(field, self._function.combine(combiner, self.load(field), self._wide(value)))

    def _wide(self, value: Value) -> Value:
        if value.type == WIDE:
            return value
        return self._function.convert("fpext" if value.type == "float" else "sitofp", value, WIDE)

    def compare(self, condition: str, field: int, number: float) -> Value:
        """Whether one of them is beyond a number."""
        return self._function.compare(condition, self.load(field), constant(number, WIDE))

    def is_not_finite(self) -> Value:
        """Whether the squares add up to no number: some element is none, or its square is too large."""
        squares = self.load(SQUARES)
        nothing = self._function.binary("fsub", squares, squares)
        return self._function.compare("uno", nothing, nothing)

    def either(self, a: Value, b: Value) -> Value:
        return self._function.binary("or", a, b)


class Vector(NamedTuple):
    """Some elements and their sizes; `mask`: which of them are there, None for all."""

    value: Value
    size: Value
    mask: Value | None


Take = Callable[[list[Vector], list[Value]], list[Value]]


class Walk:
    """A function over rows while it is written: ``void walk(ptr x, i64 rows, i64 apart, i64 length, ptr
    found, …)``.
    """

    def __init__(
        self, function: Function, dtype: np.dtype[np.generic], step: int, target: Target
    ) -> None:  # fmt: skip
        self.function, self.found = function, Found(function, function.arguments[4])
        self.limits = function.arguments[5:]
        self.dtype, self.step, self.scalar = dtype, step, SCALARS[dtype.name]
        self.lanes, self.registers = target.lanes(dtype), target.registers
        self.type = vector(self.scalar, self.lanes)
        self._bits = f"i{8 * dtype.itemsize}"
        self.count = vector(self._bits, self.lanes)
        self._masks = target.vector_bytes == 64  # comparisons go to registers of their own

    @staticmethod
    def named(
        module: Module, kind: str, write: Callable[[Walk], None], dtype: np.dtype[np.generic], step: int,
        target: Target, more: Sequence[Value],
    ) -> str:  # fmt: skip
        """The name of the function that `write` writes, unless it is there already."""
        name = f"tally_{kind}_{dtype.name}_{step}".replace("-", "m")
        if name not in module.functions:
            rows = [("x", POINTER), ("rows", INDEX), ("apart", INDEX), ("length", INDEX), ("found", POINTER)]
            limits = [(f"limit{k}", each.type) for k, each in enumerate(more)]
            function = Function(module, name, [*rows, *limits])
            write(Walk(function, dtype, step, target))
            function.give_back()
        return name

    def over(self, chains: int, carried: Sequence[Value], take: Take) -> list[Value]:
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

    def _read(self, row: Value, at: Index, mask: Value | None = None) -> Vector:
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
            return Vector(value, size, mask)
        if mask is not None and not self.step:
            value = function.select(mask, value, constant(0, self.type))
        name = f"llvm.fabs.{mangled(self.type)}"
        return Vector(value, function.intrinsic(name, self.type, [value]), mask)

    def larger(self, a: Value, b: Value) -> Value:
        """One instruction; b where a is NaN."""
        return self.function.select(self.function.compare("ogt", a, b), a, b)

    def smaller(self, each: Value, mask: Value | None, b: Value) -> Value:
        """The smaller of what is there and b; b where that is NaN."""
        function = self.function
        a = each if mask is None else function.select(mask, each, constant(np.inf, self.type))
        return function.select(function.compare("olt", a, b), a, b)

    def counted(self, condition: Value, each: Vector, count: Value) -> Value:
        """A count that goes up by one in lanes where there is something and the condition holds."""
        function = self.function
        if each.mask is not None:
            condition = function.binary("and", condition, each.mask)
        if self._masks:
            more = function.binary("add", count, constant(1, count.type))
            return function.select(condition, more, count)
        return function.binary("sub", count, function.convert("sext", condition, count.type))

    def count_where(self, field: int, condition: Callable[[Vector], Value]) -> None:
        """The whole of a walk that counts elements."""

        def take(vectors: list[Vector], counts: list[Value]) -> list[Value]:
            added = [self.counted(condition(each), each, counts[k]) for k, each in enumerate(vectors)]
            return [*added, *counts[len(added) :]]

        self.total(field, self.over(CHAINS, [constant(0, self.count)] * CHAINS, take))

    def total(self, field: int, parts: list[Value]) -> None:
        """Vectors, pairwise, and their lanes, to one of the results."""
        add = "fadd" if scalar_of(parts[0].type) == self.scalar else "add"
        while len(parts) > 1:
            parts = [self.function.binary(add, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        self.found.add(field, self.function.reduce("sum", parts[0]))


def first_walk(walk: Walk, counting: bool, lopsided: bool) -> None:
    """Squares, sum, largest size; zeros (`counting`) or the smallest size; with `lopsided` the lowest number
    too. NaN is passed over.
    """
    function = walk.function
    sums = CHAINS if walk.registers > 16 else CHAINS // 2  # an addition alone takes a shorter time
    zero, infinity = constant(0, walk.type), constant(np.inf, walk.type)

    def take(vectors: list[Vector], state: list[Value]) -> list[Value]:
        squares, added = state[:CHAINS], state[CHAINS : CHAINS + sums]
        largest, small, *lowest = state[CHAINS + sums :]
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

    start = [zero] * (CHAINS + sums + 1) + [constant(0, walk.count) if counting else infinity]
    state = walk.over(CHAINS, start + [infinity] * lopsided, take)
    walk.total(SQUARES, state[:CHAINS])
    walk.total(SUM, state[CHAINS : CHAINS + sums])
    largest, small, *lowest = state[CHAINS + sums :]
    walk.found.combine(LARGEST, "max", function.reduce("max", largest))
    if counting:
        walk.total(ZEROS, [small])
    else:
        walk.found.combine(SMALLEST, "min", function.reduce("min", small))
    for each in lowest:
        walk.found.combine(LOWEST, "min", function.reduce("min", each))


def walk_over_zeros(walk: Walk) -> None:
    """How many elements are 0."""
    zero = constant(0, walk.type)
    walk.count_where(ZEROS, lambda each: walk.function.compare("oeq", each.value, zero))


def walk_over_odd(walk: Walk) -> None:
    """What is not finite, and the largest size again, where NaN wins."""
    function, infinity = walk.function, constant(np.inf, walk.type)

    def take(vectors: list[Vector], state: list[Value]) -> list[Value]:
        (each,), (largest, odd) = vectors, state
        return [
            function.combine("max", largest, each.size),
            walk.counted(function.compare("ueq", each.size, infinity), each, odd),
        ]

    largest, odd = walk.over(1, [constant(0, walk.type), constant(0, walk.count)], take)
    walk.found.combine(LARGEST, "max", function.reduce("max", largest))
    walk.total(NONFINITE, [odd])
