"""Where buffers lie: temporaries share one arena by lifetime, constants have a block of their own.

A kernel finds a buffer by its `Place`: a slot of the table of base pointers that the native code is given,
and bytes behind that pointer. The first slots are the arena, the constants, the scratch memory, the team of
threads and the memory of who watches; one slot for every array of the caller follows, and one for every
window of a loop, whose pointer the native code itself changes from iteration to iteration.
"""

from __future__ import annotations

import math
import mmap
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from chainrule.schedule.kernels import Buffer, Repeat, Schedule, Work, read_and_written

ARENA, CONSTANTS, SCRATCH, TEAM, WATCH, DETAIL, GIVEN = range(7)
"""Slots of the table of base pointers; DETAIL is a number instead, how much detail the run is asked for. The
caller's arrays begin at GIVEN."""

LINE = 64
"""Bytes: a cache line, and the widest vector. Every buffer of ours begins at a multiple of it."""
_PAGE = mmap.PAGESIZE
_STAGGER = 12
"""Cache lines at most between neighbours, beyond their slack. Processors tell loads from earlier stores by
the low 12 bits of the address first: arrays whose size is a power of two would collide line by line."""


class Place(NamedTuple):
    """A buffer's base: a slot of the table, and bytes behind what it points to."""

    slot: int
    offset: int


@dataclass(frozen=True)
class Region:
    """Memory to be had: its bytes, and the pages [first, last) in it that nobody may touch.

    fronts  bytes [first, last) of a guarded region that lie before a buffer on its first page
    start   byte from which on it is used
    """

    size: int
    guards: tuple[tuple[int, int], ...] = ()
    fronts: tuple[tuple[int, int], ...] = ()
    start: int = 0


@dataclass(frozen=True)
class Plan:
    """The place of every buffer.

    given  the buffers of the caller's arrays, in the order of their slots
    slots  how many there are in the table
    """

    places: dict[Buffer, Place]
    given: tuple[Buffer, ...]
    slots: int
    arena: Region
    constants: Region


def plan(schedule: Schedule, guarded: bool = False) -> Plan:
    """A place for every buffer of `schedule`.

    Two temporaries share memory when one is touched for the last time by an earlier kernel than the one that
    first touches the other; state has its memory for itself. Arrays of the caller are used where they are,
    except inputs that promise slack, which no array of the caller has: those are copied into the arena first.
    guarded: every buffer, also the caller's, has pages of its own between pages that nobody may touch.
    """
    buffers = schedule.buffers
    constants = [each for each in buffers if each.role == "constant"]
    given = [each for each in buffers if is_given(each) and not guarded]
    kept = set(constants) | set(given)
    temporaries = [each for each in dict.fromkeys(map(home_of, buffers)) if each not in kept]
    found = {each: Place(GIVEN + number, 0) for number, each in enumerate(given)}
    blocks, arena = _isolated(temporaries) if guarded else _shared(schedule, temporaries)
    found.update({each: Place(ARENA, offset) for each, offset in blocks.items()})
    blocks, block = _isolated(constants) if guarded else _side_by_side(constants)
    found.update({each: Place(CONSTANTS, offset) for each, offset in blocks.items()})
    found.update({each: found[home_of(each)] for each in buffers if each.home is not None})
    slots = GIVEN + len(given)
    for window in schedule.windows:
        found[window.buffer] = Place(slots, 0)
        slots += 1
    return Plan(found, tuple(given), slots, arena, block)


def is_given(buffer: Buffer) -> bool:
    """True where kernels work in the caller's own array."""
    return buffer.role == "output" or (buffer.role == "input" and not buffer.slack)


def spread(size: int) -> int:
    """Bytes that `size` bytes take among others: whole lines, a line of slack, and the stagger."""
    lines = -(-size // LINE) + 1
    return LINE * (lines + min(lines // 16, _STAGGER))


def guarded_block(size: int) -> Region:
    """A region of one block of `size` bytes that ends where a forbidden page begins."""
    (start,), region = _isolated_blocks([(size, LINE)])
    return replace(region, start=start)


# -- sharing by lifetime -------------------------------------------------------------------------------------
def _shared(schedule: Schedule, buffers: Iterable[Buffer]) -> tuple[dict[Buffer, int], Region]:
    """What only runs that are asked for some detail touch lies behind all else: the others work in no more
    memory than if it were not there.
    """
    first, last = lifetimes(schedule)
    always = {home_of(view.buffer) for view in schedule.inputs}
    for kernel, (least, _) in schedule.timed:
        if not least:
            always.update(map(home_of, set().union(*read_and_written(kernel))))
    offsets: dict[Buffer, int] = {}
    end = 0
    listed = list(buffers)
    for part in (
        [each for each in listed if each in always],
        [each for each in listed if each not in always],
    ):
        births: list[list[Buffer]] = [[] for _ in range(len(schedule.innermost) + 2)]
        deaths: list[list[Buffer]] = [[] for _ in births]
        for each in part:
            births[first[each]].append(each)
            deaths[last[each]].append(each)
        free = _FreeList(end)
        for born, dying in zip(births, deaths, strict=True):
            for each in born:
                offsets[each] = free.take(spread(_bytes(each)))
            for each in dying:  # only now: a kernel writes its results while it reads what dies with it
                free.give_back(offsets[each], spread(_bytes(each)))
        end = free.end
    return offsets, Region(end)


def lifetimes(schedule: Schedule) -> tuple[dict[Buffer, int], dict[Buffer, int]]:
    """When each buffer is first and last touched: 0 before the first kernel, kernels from 1 on.

    What a loop touches outside of itself it touches from its first kernel to its last.
    """
    first: dict[Buffer, int] = {home_of(view.buffer): 0 for view in schedule.inputs}
    last = dict(first)

    def touch(kernels: Iterable[Work], time: int) -> int:
        for kernel in kernels:
            begin = time + 1
            time = touch(kernel.kernels, time) if isinstance(kernel, Repeat) else begin
            for buffer in map(home_of, set().union(*read_and_written(kernel))):
                first[buffer] = min(begin, first.get(buffer, begin))
                last[buffer] = time
        return time

    end = touch(schedule.kernels, 0) + 1
    for view in schedule.outputs:
        first.setdefault(home_of(view.buffer), 0)
        last[home_of(view.buffer)] = end
    for buffer in first:
        if buffer.role == "state":
            first[buffer], last[buffer] = 0, end
    return first, last


def home_of(buffer: Buffer) -> Buffer:
    """The buffer that has memory of its own for this one."""
    return buffer if buffer.home is None else home_of(buffer.home)


class _FreeList:
    """Holes between blocks, merged with their neighbours; memory ends at `end`."""

    def __init__(self, start: int) -> None:
        self.end = start
        self._holes: list[tuple[int, int]] = []  # (offset, size), by offset

    def take(self, size: int) -> int:
        """The smallest hole that is large enough, the first of several; else the end grows."""
        fitting = [(extent, offset) for offset, extent in self._holes if extent >= size]
        if fitting:
            extent, offset = min(fitting)
        elif self._holes and sum(self._holes[-1]) == self.end:
            offset, extent = self._holes[-1]  # the last hole reaches the end: grow it
            self.end = offset + size
        else:
            self.end += size
            return self.end - size
        self._holes.remove((offset, extent))
        if extent > size:
            insort(self._holes, (offset + size, extent - size))
        return offset

    def give_back(self, offset: int, size: int) -> None:
        at = bisect_left(self._holes, (offset, 0))
        if at < len(self._holes) and self._holes[at][0] == offset + size:
            size += self._holes.pop(at)[1]
        if at and sum(self._holes[at - 1]) == offset:
            at -= 1
            before, extent = self._holes.pop(at)
            offset, size = before, extent + size
        self._holes.insert(at, (offset, size))


# -- without sharing -----------------------------------------------------------------------------------------
def _side_by_side(buffers: Iterable[Buffer]) -> tuple[dict[Buffer, int], Region]:
    offsets, end = {}, 0
    for each in buffers:
        offsets[each] = end
        end += spread(_bytes(each))
    return offsets, Region(end)


def _isolated(buffers: Iterable[Buffer]) -> tuple[dict[Buffer, int], Region]:
    listed = list(buffers)
    blocks = [(_bytes(each) + LINE, LINE) if each.slack else (_exact_bytes(each), 1) for each in listed]
    starts, region = _isolated_blocks(blocks)
    return dict(zip(listed, starts, strict=True)), region


def _isolated_blocks(blocks: Iterable[tuple[int, int]]) -> tuple[list[int], Region]:
    """Blocks of (bytes, alignment), each ending where a forbidden page begins."""
    starts: list[int] = []
    guards, fronts = [(0, _PAGE)], []
    at = _PAGE
    for size, alignment in blocks:
        end = at + -(-max(size, 1) // _PAGE) * _PAGE
        start = (end - size) // alignment * alignment
        starts.append(start)
        fronts.append((at, start))
        guards.append((end, end + _PAGE))
        at = end + _PAGE
    return starts, Region(at, tuple(guards), tuple(fronts))


def _bytes(buffer: Buffer) -> int:
    return int(buffer.size * buffer.dtype.itemsize)


def _exact_bytes(buffer: Buffer) -> int:
    """Of an array of the caller, which ends with its last element, whatever room the kernels would like.

    One without elements has a line all the same: what a loop reads again and again may be read before it is
    known that the loop is empty.
    """
    return math.prod(buffer.shape) * buffer.dtype.itemsize or LINE
