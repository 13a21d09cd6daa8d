"""What telemetry asks of an array, in one walk over it: the record `tally`.

Telemetry asks of everything in a step, so this walk is written for speed: a vector of numbers takes a
mask, a product, a sum, a maximum and a minimum of sizes, and nothing else. What need not be there at all is
counted in a walk of its own, if the first one shows that there is any: zeros, if the smallest size is 0;
numbers outside of bounds, if the largest size is; numbers that are not finite, if the sum of squares is not.
Where the very first vector has a zero, as behind a ReLU, zeros are counted at once.

Sums are added up in each lane for a stretch of memory (`_ROW`), pairwise from there on, and in float64 from
stretch to stretch. The walks are functions that all arrays of a dtype share; their results go to `FIELDS`
numbers in float64, where the next stretch goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from chainrule.backends.native.emit import Emitted, Function
from chainrule.backends.native.tally_walks import (
    CHAINS,
    FIELDS,
    LARGEST,
    LOWEST,
    OUTSIDE,
    SMALLEST,
    WIDE,
    Found,
    Vector,
    Walk,
    first_walk,
    walk_over_odd,
    walk_over_zeros,
)
from chainrule.backends.native.target import Target
from chainrule.backends.native.values import (
    SCALARS,
    Index,
    Value,
    constant,
    vector,
)
from chainrule.backends.native.walking import Axes, each_point, merged, offset, scratch_of, views_of
from chainrule.schedule.kernels import Special, View

_ROW = 128
"""Numbers that are added up in a row in one lane, at most."""


def emit_tally(function: Function, kernel: Special, target: Target) -> Emitted:
    """The six numbers of a tally."""
    (x,), out = kernel.operands, kernel.target
    dtype = x.buffer.dtype
    scalar = SCALARS[dtype.name]
    source, destination = views_of(function)
    found = Found(function, scratch_of(function))
    space = _Space(x, target)
    bounds = _Bounds(kernel.attributes["low"], kernel.attributes["high"])

    def walk(write: Callable[[Walk], None], name: str) -> None:
        given = bounds.limits(scalar)
        made = Walk.named(function.module, name, write, dtype, space.step, target, given)
        space.walk(
            function, source,
            lambda place, rows: function.call(
                made, "void", [place, *space.given(function, rows), found.pointer, *given]
            ),
        )  # fmt: skip

    def first(counting: bool) -> None:
        kind = "counting" if counting else "sizes"
        name = f"{kind}_lowest" if bounds.lopsided else kind
        walk(partial(first_walk, counting=counting, lopsided=bounds.lopsided), name)

    found.begin()
    begins = space.begins_with_zero(function, source)
    if begins is None:
        first(counting=False)
    else:
        function.if_then(begins, lambda: first(counting=True))
        function.if_then(function.opposite(begins), lambda: first(counting=False))
    zero = function.compare("oeq", found.load(SMALLEST), constant(0.0, WIDE))
    function.if_then(zero, lambda: walk(walk_over_zeros, "zeros"))
    if bounds.some:
        function.if_then(bounds.left(found), lambda: walk(bounds.walk, bounds.name))
    function.if_then(found.is_not_finite(), lambda: walk(walk_over_odd, "odd"))
    for field in range(OUTSIDE + 1):
        value = found.load(field)
        place = function.at(destination, field * out.strides[0], scalar)
        function.store(value if scalar == WIDE else function.convert("fptrunc", value, scalar), place)
    return Emitted(1, FIELDS * 8)


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

    def left(self, found: Found) -> Value:
        """Whether the first walk leaves it open that all are inside."""
        large = found.compare("ogt", LARGEST, self.high)
        return found.either(large, found.compare("olt", LOWEST, self.low)) if self.lopsided else large

    def walk(self, walk: Walk) -> None:
        """How many elements are outside."""
        function = walk.function
        low, high = (function.splat(each, walk.lanes) for each in walk.limits)

        def outside(each: Vector) -> Value:
            if not self.lopsided:
                return function.compare("ogt", each.size, high)
            below = function.compare("olt", each.value, low)
            return function.binary("or", below, function.compare("ogt", each.value, high))

        walk.count_where(OUTSIDE, outside)


class _Space:
    """An array as rows of equal length whose elements lie `step` apart, some rows to a stretch.

    The order of elements is nobody's business here, so axes are taken by their strides, whatever the layout.
    """

    def __init__(self, x: View, target: Target) -> None:
        order = sorted(range(len(x.shape)), key=lambda axis: -abs(x.strides[axis]))
        shape, strides = (tuple(each[axis] for axis in order) for each in (x.shape, x.strides))
        axes = merged(shape, strides)
        most = _ROW * CHAINS * target.lanes(x.buffer.dtype)
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
