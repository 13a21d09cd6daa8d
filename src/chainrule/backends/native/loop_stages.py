"""The stages of a row: which statements run in the same walk over the inner axes, and what later walks need.

A statement that needs what another one combines over the row waits for the next walk. What an earlier walk
has computed at a point is computed again where that is cheap, else read from where it was stored, else kept
in scratch memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from chainrule.backends.native.loop_space import Form, Space, cost
from chainrule.backends.native.target import Target
from chainrule.schedule.kernels import Access, Expression

_RECOMPUTED = 6
"""Instructions up to which a value is computed again; a store and a load cost about as much."""


@dataclass(eq=False)
class Stage:
    """One walk over the inner axes, and what is computed once per row before it.

    row     statements of the row; points: statements at every point
    kept    values that are stored in scratch memory for later stages
    known   where values of earlier stages are found: the target of a statement, or None for scratch memory
    """

    row: list[Form] = field(default_factory=list)
    points: list[Form] = field(default_factory=list)
    kept: dict[Expression, None] = field(default_factory=dict)
    known: dict[Expression, Access | None] = field(default_factory=dict)

    def roots(self) -> list[Expression]:
        """What is computed at every point."""
        return [*(form.value for form in self.points), *self.kept]


def stages(space: Space, unrolled: bool) -> list[Stage]:
    """The stages in order; `unrolled`: a row is done without loops, and its values stay in registers."""
    count = 1 + max((space.level(form.value) for form in space.forms), default=0)
    made = [Stage() for _ in range(count)]
    for form in space.forms:
        stage = made[space.level(form.value)]
        (stage.row if form.per_row or not space.inner else stage.points).append(form)
    _keep_loads(space, made)
    if not unrolled:
        _find_values(space, made)
    return made


def _moves(space: Space, expression: Expression) -> bool:
    """Whether a value changes along an inner axis."""
    return any(axis in space.inner for axis in space.axes(expression))


def _keep_loads(space: Space, made: list[Stage]) -> None:
    """Read in the first stage what a later one reads after its memory may have been written."""
    for number, stage in enumerate(made):
        overwritten = {
            space.strides[form.target]
            for earlier in made[:number]
            for form in earlier.points
            if form.target is not None and not form.combiner
        }
        for each in space.walk(stage.roots()):
            if each.op == "load" and space.strides[each.attributes["access"]] in overwritten:
                made[0].kept[each] = None


def _find_values(space: Space, made: list[Stage]) -> None:
    """Decide for every value that several stages need where the later ones find it."""
    first: dict[Expression, int] = {}
    stored = {
        form.value: form.target
        for stage in made
        for form in stage.points
        if form.target is not None and not form.combiner and space.lane in space.axes(form.value)
    }
    for number, stage in enumerate(made):
        seen: set[Expression] = set()

        def enter(each: Expression, number: int = number, seen: set[Expression] = seen) -> None:
            if each in seen or not _moves(space, each):
                return
            seen.add(each)
            home = first.setdefault(each, number)
            forced = each in made[0].kept and number > 0
            if home < number and each.op != "result" and (forced or not _cheap(space, each)):
                if each in stored and space.level(each) < number:
                    made[number].known[each] = stored[each]
                else:
                    made[home].kept[each] = None
                    made[number].known[each] = None
                return
            for argument in space.arguments(each):
                enter(argument)

        for root in stage.roots():
            enter(root)


def _cheap(space: Space, expression: Expression) -> bool:
    """Whether computing a value again takes less than keeping it."""
    again: Iterable[Expression] = space.walk([expression])
    return sum(cost(each) for each in again if _moves(space, each)) <= _RECOMPUTED


# -- how the loops are written -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Choices:
    """How a kernel's loops are written.

    stages      what a row consists of
    unrolled    a row's inner axes are written out, without a loop
    copies      neighbours along an axis that one turn of its loop does
    cut, chunk  the row axis along which work is cut into units, and how much of it one unit has
    block       turns of the innermost loop after which floating sums go over to wide accumulators; `depth`:
                or the number of innermost axes after which they do
    across      the axis along which what does not lie side by side along the lane does: squares of both are
                read by rows and turned in registers
    """

    stages: list[Stage]
    unrolled: bool
    copies: dict[int, int]
    cut: int | None
    chunk: int
    units: int
    block: int | None
    depth: int | None
    across: int | None


_UNIT = 16 << 10
_FEW = 8
_LONG = 128
_SQUARES = 60


def choose(space: Space, target: Target) -> Choices:
    """What suits the length of the axes and of the loop's body."""
    body = sum(cost(each) + _scatter(space, each) for each in space.walk(form.value for form in space.forms))
    turns = {axis: turns_of(space, axis) for axis in range(len(space.extents))}
    inner = math.prod(turns[axis] for axis in space.inner)
    unrolled = bool(space.inner) and (inner <= 1 or (inner <= _FEW and inner * body <= 400))
    made = stages(space, unrolled)
    copies = {axis: turns[axis] for axis in space.inner} if unrolled else {}
    budget = 4 if body <= 8 else 2 if body <= 40 else 1
    if space.lane is not None and space.lane < space.rows:
        sums = sum(bool(form.combiner) for form in space.forms)
        if not space.inner:
            copies[space.lane] = _dividing(turns[space.lane], budget)
        elif not unrolled and not any(stage.kept for stage in made):
            most = max(1, _FEW // max(1, sums)) * (2 if target.registers > 16 else 1)
            copies[space.lane] = _dividing(turns[space.lane], min(most, 2 * budget))
            budget = max(1, min(budget, 4 // copies[space.lane]))
        else:
            budget = 1
    if space.inner and not unrolled:
        copies[space.inner[-1]] = _dividing(turns[space.inner[-1]], budget)
    if _waits(space, made) and (
        4 * inner <= target.registers if unrolled else not any(stage.kept for stage in made)
    ):
        copies[space.rows - 1] = _dividing(turns[space.rows - 1], 2)
    across = _across(space, body)
    if across is not None and space.lane is not None:
        copies = {across: space.lanes, space.lane: 1}
    cut, folding = _cut(space, turns, copies, body), _folding(space, turns, copies)
    return Choices(made, unrolled, copies, *cut, *folding, across)


def _waits(space: Space, made: list[Stage]) -> bool:
    """Whether a row's vectors are combined, lane by lane, before the row goes on: meanwhile another can."""
    return len(made) > 1 and space.rows > 0 and space.lane is not None and space.lane in space.inner


def _across(space: Space, body: int) -> int | None:
    """The axis for squares: the one along which most loads are side by side that are not along the lane."""
    if space.inner or space.totals():
        return None
    loaded = {
        each.attributes["access"]
        for form in space.forms
        for each in space.walk([form.value])
        if each.op == "load"
    }
    counts = {
        axis: sum(
            space.stride(access, axis) == 1 and space.stride(access, space.lane) not in (0, 1)
            for access in loaded
        )
        for axis in range(space.rows)
        if axis != space.lane and space.extents[axis] >= space.lanes
    }
    best = max(counts, key=lambda axis: counts[axis], default=None)
    return best if best is not None and counts[best] and body <= _SQUARES else None


def turns_of(space: Space, axis: int) -> int:
    """Turns of a loop along an axis: whole vectors along the lane, single positions along others."""
    width = space.lanes if axis == space.lane else 1
    return -(-space.extents[axis] // width)


def _scatter(space: Space, expression: Expression) -> int:
    """What a load costs when its lanes do not lie side by side."""
    if expression.op != "load" or space.stride(expression.attributes["access"], space.lane) in (0, 1):
        return 0
    return 2 * space.lanes


def _dividing(turns: int, most: int) -> int:
    """The largest power of two up to `most` that leaves no rest; `most` where a rest does not matter."""
    if turns >= 16 * most:
        return most
    while most > 1 and turns % most:
        most //= 2
    return max(most, 1)


def _cut(
    space: Space, turns: dict[int, int], copies: dict[int, int], body: int
) -> tuple[int | None, int, int]:
    """The axis to cut, the length of a piece, how many there are: each total belongs to one piece alone."""
    rows = [axis for axis in range(space.rows) if not any(axis in form.over for form in space.totals())]
    if not rows or 0 in space.extents:
        return None, 0, 1
    long = [axis for axis in rows if turns[axis] >= _FEW]
    axis = long[0] if long else max(rows, key=lambda axis: turns[axis])
    moved = sum(access.buffer.dtype.itemsize for access, strides in space.strides.items() if any(strides))
    weight = (moved + 2 * body) * math.prod(space.extents) / space.extents[axis]
    step = (space.lanes if axis == space.lane else 1) * copies.get(axis, 1)
    chunk = -(-math.ceil(_UNIT / weight) // step) * step
    units = -(-space.extents[axis] // chunk)
    return (axis, chunk, units) if units > 1 else (None, 0, 1)


def _folding(space: Space, turns: dict[int, int], copies: dict[int, int]) -> tuple[int | None, int | None]:
    """Where sums that are long are folded into wide ones: (turns of the innermost loop, depth)."""
    length = [-(-turns[axis] // max(1, copies.get(axis, 1))) for axis in space.inner]
    if math.prod(length) <= _LONG:
        return None, None
    if length[-1] > _LONG:
        return _LONG // 2, None
    depth, inside = 1, length[-1]
    while inside * length[-1 - depth] <= _LONG:
        inside *= length[-1 - depth]
        depth += 1
    return None, depth
