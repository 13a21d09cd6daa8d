"""Loops over views: few axes, offsets that follow them, whole vectors where memory is contiguous."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from chainrule.backends.native.emit import Function
from chainrule.backends.native.values import Index, Value
from chainrule.schedule.kernels import Strides
from chainrule.types import Shape

Units = tuple[Value, Value]
"""Which units of work to do: from the first up to, not including, the last."""
Point = tuple[Index, ...]

LINE_BYTES = 64
"""A cache line: what one prefetch brings. Rows are copied a line at a time; LLVM splits it into registers."""


class Axes(NamedTuple):
    """The axes of some loops, outermost first, and how far apart their points lie in every view."""

    extents: Shape
    strides: tuple[Strides, ...]


def merged(extents: Shape, *strides: Strides) -> Axes:
    """The same points in the same order over as few axes as possible, but at least one.

    Axes of length 1 go; neighbours that lie end to end in every view become one.
    """
    if 0 in extents:
        return Axes((0,), ((0,),) * len(strides))
    kept: list[tuple[int, Strides]] = []
    for extent, *steps in zip(extents, *strides, strict=True):
        if extent == 1:
            continue
        if kept and all(a == b * extent for a, b in zip(kept[-1][1], steps, strict=True)):
            kept[-1] = (kept[-1][0] * extent, tuple(steps))
        else:
            kept.append((extent, tuple(steps)))
    kept = kept or [(1, (0,) * len(strides))]
    return Axes(tuple(extent for extent, _ in kept), tuple(zip(*(steps for _, steps in kept), strict=True)))


def offset(function: Function, strides: Strides, point: Point) -> Index:
    """How many elements behind the first one a point lies."""
    total: Index = 0
    for position, stride in zip(point, strides, strict=True):
        total = function.add(total, function.mul(position, stride))
    return total


def each_point(
    function: Function, extents: Shape, body: Callable[[Point], None], units: Units | None = None
) -> None:
    """``body(point)`` at every point, in row-major order; a unit of work is a step on the first axis."""

    def enter(point: Point) -> None:
        if len(point) == len(extents):
            body(point)
            return
        start, stop = units if units and not point else (0, extents[len(point)])
        function.loop(start, stop, 1, [], lambda index, _: enter((*point, index)))

    enter(())


def each_stretch(
    function: Function, axes: Axes, lanes: int, body: Callable[[list[Index], int], None],
    units: Units | None = None,
) -> None:  # fmt: skip
    """``body(offset in each view, width)`` for stretches of `width` elements that together are all points.

    A stretch is a vector of `lanes` elements of the last axis where every view is contiguous along it, and
    a single element elsewhere. A unit of work is a step on the first axis; of the last, a stretch.
    """
    *outer, inner = axes.extents
    lanes = lanes if is_contiguous(axes) else 1

    def stretch(point: Point) -> None:
        def at(start: Index, width: int) -> None:
            body([offset(function, strides, (*point, start)) for strides in axes.strides], width)

        _each_vector(function, inner, lanes, at, None if outer else units)

    each_point(function, tuple(outer), stretch, units)


def is_contiguous(axes: Axes) -> bool:
    """True where neighbours on the last axis are neighbours in every view."""
    return all(strides[-1] == 1 for strides in axes.strides)


def count_units(axes: Axes, lanes: int) -> int:
    """The units of work of `each_stretch`."""
    first, *rest = axes.extents
    return first if rest or not is_contiguous(axes) else -(-first // lanes)


def _each_vector(
    function: Function, extent: int, lanes: int, body: Callable[[Index, int], None], units: Units | None
) -> None:
    """``body(start, width)``: whole vectors, then what is left in powers of two, which need no mask."""
    whole = extent // lanes

    def rest() -> None:
        start, width = whole * lanes, lanes
        while start < extent:
            width //= 2
            if extent - start >= width:
                body(start, width)
                start += width

    if units is None:
        function.loop(0, whole * lanes, lanes, [], lambda start, _: body(start, lanes))
        rest()
        return
    first, last = units
    if whole:
        stop = function.smaller(last, whole)
        function.loop(first, stop, 1, [], lambda unit, _: body(function.mul(unit, lanes), lanes))
    if extent % lanes:
        begun, place = function.compare("sle", first, function.index(whole)), function.index(whole)
        function.if_then(function.binary("and", begun, function.compare("sgt", last, place)), rest)


def views_of(function: Function) -> Sequence[Value]:
    """The pointers that a kernel's function is given, without its scratch and its units."""
    return function.arguments[:-3]


def units_of(function: Function) -> Units:
    """The units of work that a kernel's function is given."""
    return function.arguments[-2], function.arguments[-1]


def scratch_of(function: Function) -> Value:
    """The memory that a kernel's function may use for itself."""
    return function.arguments[-3]
