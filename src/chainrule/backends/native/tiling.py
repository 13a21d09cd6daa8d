"""How a contraction is cut: which axes make the tile held in registers, which are looped, in what order.

A tile is some rows times some columns of the output. Its sums stay in registers while the loop over the
summed axes runs: each step reads a value of `left` per row and of `right` per column and multiplies every
pair. A column is a vector of the lane axis; where that axis is short, or is itself summed over ("dot
products"), the points of a second axis make more columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from chainrule.backends.native.target import Target
from chainrule.schedule.kernels import Contraction, Strides, expressions, places

LEFT, RIGHT = 0, 1
"""Where the two operands stand among a contraction's places."""

_LONGEST_WINDOW = 8
"""A summed axis no longer than this, whose steps meet elements that neighbouring points of the tile read too
(a convolution's), is written out, so that each element is loaded once."""
_UNROLL = 4
"""Steps of the innermost loop that are written out: enough to hide what the loop itself costs."""
_LINE = 64
_COLLIDING = 1024
"""Rows so many bytes apart, or a multiple, have few places in the first cache: a panel does not fit."""
_UNCOPIED = 64
"""Panels of fewer rows fit all the same."""
_COPY = 0.02
"""What one more copy of the code for a tile may cost in speed: it must be compiled."""
_BLOCK = 128
"""Steps at least between interruptions: 128 rows of a 64-wide float32 panel fit the first cache."""
_AGAIN = 4
"""Tiles of a panel at least for which its parts should stay in the first cache."""
_LITTLE_MORE = 1.5
"""Sums that need no more than so many blocks are not interrupted: that costs more than what overflows."""


@dataclass(frozen=True)
class Axis:
    """An axis of the loop, perhaps several of the kernel's in one: a stride for each of the kernel's places.

    number  the kernel's axis that it is, or whose steps are its innermost ones
    """

    extent: int = 1
    strides: Strides = ()
    number: int = -1

    def stride(self, place: int) -> int:
        """How far a place moves along the axis."""
        return self.strides[place] if self.strides else 0


class Split(NamedTuple):
    """An axis in nearly equal pieces: the first `large` have `size` elements, the others one less."""

    pieces: int
    size: int
    large: int

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """(first piece, end, elements of each) for the one or two lengths there are."""
        both = [(0, self.large, self.size), (self.large, self.pieces, self.size - 1)]
        return [each for each in both if each[0] < each[1]]


def split(extent: int, most: int) -> Split:
    """As few pieces as pieces of at most `most` elements allow.

    >>> split(64, 6)
    Split(pieces=11, size=6, large=9)
    """
    count = max(1, -(-extent // most))
    size, left_over = divmod(extent, count)
    return Split(count, size + 1, left_over) if left_over else Split(count, size, count)


@dataclass(frozen=True)
class Plan:
    """The axes of a contraction by the part they play. An absent axis has length 1 and moves nothing.

    lane    whose elements are the lanes of a vector; `dot`: it is summed over
    second  in dot products, an axis that lies whole in every tile
    row     the tile's rows; `rows`: how it is cut
    column  whose points share a panel, when it has length above 1
    panels  how the vectors of the lane, or the points of the column axis, are cut
    outer   looped over outside; others: looped over inside, with the same elements of `right`
    loops   summed axes, outermost first, in dot products with the lane last; the innermost is unrolled
    window  summed axes that are written out
    unroll  steps of the innermost loop that are written out
    block   steps of the outermost loop after which sums are set aside, 0: sums are not interrupted
    packed  the summed axes as `right` has them in memory, where its panels are copied to be contiguous
    fetched places of the statements that are fetched into cache while the sums are computed
    empty   there is nothing to sum: each sum is 0
    """

    lanes: int
    dot: bool
    lane: Axis
    second: Axis
    row: Axis
    column: Axis
    outer: tuple[Axis, ...]
    others: tuple[Axis, ...]
    loops: tuple[Axis, ...]
    window: tuple[Axis, ...]
    rows: Split
    panels: Split
    unroll: int
    fetched: tuple[int, ...]
    empty: bool
    packed_lane: Axis
    packed: tuple[Axis, ...] = ()
    block: int = 0
    units: int = 0

    @property
    def vectors(self) -> int:
        """Columns of the tile beside those of the column axis: vectors along the lane, points of `second`."""
        return self.second.extent if self.dot else -(-self.lane.extent // self.lanes)

    @property
    def panel_width(self) -> int:
        """Elements in a row of a packed panel."""
        return self.panels.size * self.lanes

    @property
    def runs(self) -> int:
        """How often a panel of columns meets all rows of the row axis."""
        return prod(axis.extent for axis in (*self.outer, *self.others)) * self.panels.pieces


def make_plan(kernel: Contraction, target: Target) -> Plan:
    """The plan for a contraction that has an output, on a processor."""
    outputs, summed, lane = _axes(kernel)
    dot = lane in summed
    item = kernel.left.buffer.dtype.itemsize
    widest = target.lanes("float64" if item == 8 else "float32")
    lanes = min(widest, 1 << max(0, lane.extent - 1).bit_length())
    free = [axis for axis in outputs if axis is not lane]
    vectors = -(-lane.extent // lanes)
    pack = not dot and lane.extent > 1 and (lane.stride(RIGHT) not in (0, 1) or _collides(lane, summed, item))
    second = _shared(free, summed) if dot else Axis()
    free = [axis for axis in free if axis is not second]
    column = Axis() if pack or (vectors > 3 and not dot) else _chosen(free, RIGHT, LEFT, summed)
    row = _chosen([axis for axis in free if axis is not column], LEFT, RIGHT, summed)
    if row.extent == 1 and not pack and (dot or vectors < 4) and column.extent < 4:
        row = max((axis for axis in free if axis is not column), key=lambda axis: axis.extent, default=row)
    loose = [axis for axis in free if axis not in (row, column)]
    others = tuple(axis for axis in loose if axis.stride(RIGHT) == 0)
    outer = tuple(axis for axis in loose if axis not in others)
    still = [axis for axis in summed if axis is not lane]
    window = [] if dot else _window(still, row, column)
    loops = [axis for axis in still if axis not in window] + ([lane] if dot else []) or [Axis()]
    width = lanes if dot else 1
    if dot or column.extent > 1:
        columns = _Columns(column.extent, second.extent if dot else vectors, second.extent, False)
    else:
        columns = _Columns(vectors, 1, 1, True)
    rows, panels = _tile(row.extent, columns, prod(axis.extent for axis in summed) // width, target)
    plan = Plan(
        lanes, dot, lane, second, row, column, outer, others, tuple(loops), tuple(window), rows, panels,
        unroll=_unrolled(loops[-1].extent // width, prod(axis.extent for axis in window)),
        fetched=_fetched(kernel, row, lane, target), empty=any(axis.extent == 0 for axis in summed),
        packed_lane=lane,
    )  # fmt: skip
    plan = _with_packing(plan) if pack else plan
    return replace(plan, units=plan.runs * rows.pieces, block=0 if dot else _block(plan, item, target))


# -- axes ----------------------------------------------------------------------------------------------------
def _axes(kernel: Contraction) -> tuple[list[Axis], list[Axis], Axis]:
    """Output axes, summed axes and the lane among them: few, because neighbours in all memory are merged."""
    accesses = places(kernel)
    axes = [
        Axis(
            extent,
            tuple((*access.strides, *[0] * len(kernel.extents))[number] for access in accesses),
            number,
        )
        for number, extent in enumerate(kernel.extents)
    ]
    asked = {
        each.attributes["axis"]
        for each in expressions(statement.value for statement in kernel.statements)
        if each.op == "position"
    }
    outputs = _merged(axes[: kernel.outputs], asked, kernel.lane)
    summed = _merged(axes[kernel.outputs :], set(), kernel.lane)
    return outputs, summed, next(axis for axis in outputs + summed if axis.number == kernel.lane)


def _merged(axes: Iterable[Axis], asked: set[int], lane: int) -> list[Axis]:
    """The same points with fewer axes. Axes whose positions are asked for stay; the lane stays innermost."""
    kept = [axis for axis in axes if axis.extent != 1 or axis.number == lane]
    pair = next(_mergeable(kept, asked, lane), None)
    while pair is not None:
        outer, inner = pair
        kept[kept.index(inner)] = replace(inner, extent=outer.extent * inner.extent)
        kept.remove(outer)
        pair = next(_mergeable(kept, asked, lane), None)
    return kept


def _mergeable(axes: Sequence[Axis], asked: set[int], lane: int) -> Iterator[tuple[Axis, Axis]]:
    for outer in axes:
        for inner in axes:
            if outer is inner or outer.number in {lane, *asked} or inner.number in asked:
                continue
            if outer.strides == tuple(stride * inner.extent for stride in inner.strides):
                yield outer, inner


def _chosen(free: Sequence[Axis], moving: int, still: int, summed: Sequence[Axis]) -> Axis:
    """The output axis for the tile along which one operand moves and the other does not."""

    def merit(axis: Axis) -> tuple[bool, float]:
        shares = any(_meet(axis, each, moving) for each in summed)
        return shares, min(0.75, axis.extent / (6 * -(-axis.extent // 6)))

    candidates = [axis for axis in free if axis.stride(moving) and not axis.stride(still)]
    return max(reversed(candidates), key=merit, default=Axis())


def _shared(free: Sequence[Axis], summed: Sequence[Axis]) -> Axis:
    """A short output axis along which `right` moves over elements that its sums have in common."""
    found = [
        axis
        for axis in free
        if axis.extent <= _LONGEST_WINDOW and not axis.stride(LEFT)
        if any(_meet(axis, each, RIGHT) for each in summed)
    ]
    return min(found, key=lambda axis: axis.stride(RIGHT), default=Axis())


def _meet(axis: Axis, summed: Axis, place: int) -> bool:
    """Steps along both axes lead to the same elements of an operand."""
    (short, extent), (long, _) = sorted([(a.stride(place), a.extent) for a in (axis, summed)])
    return short > 0 and long % short == 0 and long < short * extent


def _collides(lane: Axis, summed: Sequence[Axis], item: int) -> bool:
    """The rows of a panel lie where they drive each other out of the first cache, which knows few places
    for addresses that agree in their last bits.
    """
    if len(summed) != 1 or lane.stride(RIGHT) != 1 or lane.extent * item < _LINE:
        return False
    return summed[0].extent >= _UNCOPIED and summed[0].stride(RIGHT) * item % _COLLIDING == 0


def _window(summed: Sequence[Axis], row: Axis, column: Axis) -> list[Axis]:
    """A short summed axis to write out, unless it is the only one."""
    if len(summed) < 2:
        return []
    short = [axis for axis in summed if axis.extent <= _LONGEST_WINDOW]
    shared = [axis for axis in short if _meet(row, axis, LEFT) or _meet(column, axis, RIGHT)]
    few = [axis for axis in short[-1:] if axis.extent <= _UNROLL]
    return shared[-1:] or few


# -- sizes ---------------------------------------------------------------------------------------------------
class _Columns(NamedTuple):
    """`cut` pieces of `each` columns; every `shared` of them read the same elements, one step apart.

    panels  they are read once per row of tiles, and should stay in the first cache meanwhile
    """

    cut: int
    each: int
    shared: int
    panels: bool


def _tile(rows: int, columns: _Columns, steps: int, target: Target) -> tuple[Split, Split]:
    """How the rows, and the columns, are cut: the cheapest by a rough count."""
    best: tuple[float, Split, Split] | None = None
    for panels in _splits(columns.cut, target.registers):
        width = panels.size * columns.each
        overflows = columns.panels and width * min(steps, _BLOCK) * target.vector_bytes > target.l1
        for heights in _splits(rows, max(1, (target.registers - 2 - width) // width)):
            copies = len(heights.sizes) * len(panels.sizes) * max(1, heights.size * width / 16)
            cost = sum(
                (end - first) * (last - start) * _cost(height, size * columns.each, columns, steps)
                for first, end, height in heights.sizes
                for start, last, size in panels.sizes
            )
            cost *= (1 + _COPY * copies) * (1.5 if overflows and heights.pieces > 1 else 1)
            if best is None or cost < best[0]:
                best = cost, heights, panels
    assert best is not None
    return best[1:]


def _splits(extent: int, most: int) -> Iterator[Split]:
    """All ways to cut an axis in pieces of at most so many elements."""
    for size in range(1, min(extent, most) + 1):
        pieces = split(extent, size)
        if pieces.size == size:
            yield pieces


def _cost(rows: int, width: int, columns: _Columns, steps: int) -> float:
    """Cycles for a tile: two multiplications or loads each, and a sum waits four for the one before.

    Loads count a little beside multiplications too, for what comes from the second cache: more where both
    operands are read as vectors.
    """
    products, loads = rows * width / 2, (rows + width / columns.shared) / 2
    return steps * (max(products, loads, 4) + (0.1 if columns.panels else 0.3) * loads) + 12 + products


def _unrolled(steps: int, window: int) -> int:
    """Steps of the innermost loop to write out, beside a window: a divisor where there is a good one."""
    if steps * window <= 2 * _UNROLL:
        return max(1, steps)
    most = max(1, _UNROLL // window)
    good = [count for count in (most, most + 1, most - 1) if count > 1 and steps % count == 0]
    return good[0] if good else most


def _block(plan: Plan, item: int, target: Target) -> int:
    """Steps of the outermost loop between interruptions, so that the panel's part stays in the first cache.

    Without interruptions, 0, where the rows make so few tiles that a part would hardly be read again.
    """
    inner = prod(axis.extent for axis in (*plan.loops[1:], *plan.window))
    steps = plan.loops[0].extent * inner
    most = max(_BLOCK, target.l1 // (plan.panel_width * item))
    if steps <= _LITTLE_MORE * most or inner > most or plan.rows.pieces < _AGAIN:
        return 0
    step = plan.unroll if len(plan.loops) == 1 else 1
    count = max(1, round(steps / most))
    return -(-plan.loops[0].extent // (count * step)) * step


def _fetched(kernel: Contraction, row: Axis, lane: Axis, target: Target) -> tuple[int, ...]:
    """The statements' places with an element for every sum, once each, where they exceed the second cache.

    Their lines are asked for one at a time while a tile is summed; the processor's own guess comes too late,
    as each row of a tile is a new place to it.
    """
    found: dict[tuple[object, ...], int] = {}
    for number, access in enumerate(places(kernel)[2:], RIGHT + 1):
        if lane.stride(number) == 1 and row.stride(number):
            found.setdefault((id(access.buffer), access.offset, access.strides), number)
    sums = prod(kernel.extents[: kernel.outputs])
    size = sums * sum(places(kernel)[number].buffer.dtype.itemsize for number in found.values())
    return tuple(found.values()) if size > target.l2 // 2 else ()


def _with_packing(plan: Plan) -> Plan:
    """The plan after the panels of `right` are copied to rows of `panel_width`, one per step of the sum."""
    stride, found = plan.panel_width, []
    summed = (*plan.loops, *plan.window)
    for axis in reversed(summed):
        strides = axis.strides or (0, 0)
        found.append(replace(axis, strides=(strides[LEFT], stride, *strides[RIGHT + 1 :])))
        stride *= axis.extent
    axes = tuple(reversed(found))
    lane = replace(plan.lane, strides=(plan.lane.stride(LEFT), 1, *plan.lane.strides[RIGHT + 1 :]))
    return replace(
        plan, loops=axes[: len(plan.loops)], window=axes[len(plan.loops) :], lane=lane, packed=summed,
        packed_lane=plan.lane,
    )  # fmt: skip
