"""A schedule as text: a table of its kernels, and the loop nest of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Contraction,
    Kernel,
    Repeat,
    Schedule,
    Special,
    Statement,
    Work,
    expressions,
    places,
    walked,
)
from chainrule.schedule.memory import ARENA, CONSTANTS, Plan, home_of, lifetimes
from chainrule.schedule.reasons import made_for, made_of
from chainrule.schedule.structure import structure

_BLOCKS = {ARENA: "arena", CONSTANTS: "constants"}
_LEAVES = ("load", "constant", "result", "sum", "position")


class Cost(NamedTuple):
    """What a kernel does at least: arithmetic operations, and bytes between memory and registers.

    An element that is visited several times counts once, and every operation counts as one, also a division
    or an exponential.
    """

    flops: int
    bytes: int


def cost(kernel: Work) -> Cost:
    """What one run of a kernel costs, of a loop all its iterations.

    >>> import numpy as np
    >>> from chainrule.schedule.kernels import Access, Buffer, Contraction, Expression, Statement
    >>> a, b, c = (Buffer(name, np.dtype("float32"), (8, 8), (8, 1), 64) for name in "abc")
    >>> total = Statement(Expression("sum", (), np.dtype("float32")), Access(c, 0, (8, 1)))
    >>> cost(Contraction((8, 8, 8), 2, 1, Access(a, 0, (8, 0, 1)), Access(b, 0, (0, 1, 8)), (total,)))
    Cost(flops=1024, bytes=768)
    """
    if isinstance(kernel, Repeat):
        costs = [cost(each) for each in kernel.kernels]
        return Cost(*(kernel.count * sum(each[k] for each in costs) for k in range(2)))
    touched = 0
    for place in {(id(each.buffer), each.offset, each.strides): each for each in places(kernel)}.values():
        extents = kernel.extents if isinstance(place, Access) and not isinstance(kernel, Special) else ()
        shape = extents if isinstance(place, Access) else place.shape
        moving = [extent for extent, stride in zip(shape, place.strides, strict=False) if stride]
        touched += math.prod(moving) * place.buffer.dtype.itemsize
    return Cost(_flops(kernel), touched)


def _flops(kernel: Kernel) -> int:
    if isinstance(kernel, Special):
        return 0
    summed = isinstance(kernel, Contraction)
    rows = kernel.outputs if isinstance(kernel, Contraction) else kernel.rows
    each_row = math.prod(kernel.extents[:rows])
    points = each_row if summed else math.prod(kernel.extents)
    count = 2 * math.prod(kernel.extents) if summed else 0
    for by_row, times in ((True, each_row), (False, points)):
        statements = [each for each in kernel.statements if each.per_row == by_row]
        count += times * (_operations(statements) + sum(each.combiner is not None for each in statements))
    return count


def _operations(statements: Sequence[Statement]) -> int:
    return sum(each.op not in _LEAVES for each in expressions(s.value for s in statements))


# -- the table -----------------------------------------------------------------------------------------------
def table(schedule: Schedule, numbers: Sequence[int], name: Callable[[int], str]) -> str:
    """A line per kernel; those inside of a loop are indented, and told as they run once.

    `numbers` and `name`: the number of the function of each of the innermost, and what that is called.
    """
    head = ("kernel", "function", "extents", "flops", "bytes", "computes", "for")
    rows = [head]
    places_ = iter(enumerate(numbers))

    def add(kernels: Iterable[Work], indent: str) -> None:
        for kernel in kernels:
            place, called = "", f"{indent}repeat"
            if not isinstance(kernel, Repeat):
                position, number = next(places_)
                place, called = str(position), indent + name(number)
            flops, touched = (f"{each:,}" for each in cost(kernel))
            rows.append((place, called, _size(kernel), flops, touched, made_of(kernel), made_for(kernel)))
            if isinstance(kernel, Repeat):
                add(kernel.kernels, indent + "  ")

    add(schedule.kernels, "")
    return aligned(rows, {0, 3, 4})


def aligned(rows: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """Rows of cells as lines of equally wide columns; those in `right` stand at its right end."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _size(kernel: Work) -> str:
    if isinstance(kernel, Repeat):
        return f"{kernel.count} times"
    extents = kernel.target.shape if isinstance(kernel, Special) else kernel.extents
    return "×".join(map(str, extents)) or "1"


# -- the nests -----------------------------------------------------------------------------------------------
def nests(schedule: Schedule, numbers: Sequence[int], name: Callable[[int], str]) -> str:
    """The loop nest of every function, and the buffers on which each of its kernels runs."""
    runs: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        runs.setdefault(number, []).append(place)
    told = [_nest(schedule, name(number), kernels) for number, kernels in runs.items()]
    return "\n".join(told + [_moves(each) for each in walked(schedule.kernels) if isinstance(each, Repeat)])


def _nest(schedule: Schedule, name: str, kernels: Sequence[int]) -> str:
    innermost = schedule.innermost
    lines = [f"{name}: {structure(innermost[kernels[0]])}"]
    for place in kernels:
        listed = places(innermost[place])
        given = ", ".join(f"p{k}={_named(each.buffer, each.offset)}" for k, each in enumerate(listed))
        reason = made_for(innermost[place])
        lines.append(f"  kernel {place}{reason and f' ({reason})'}: {given}")
    return "\n".join(lines) + "\n"


def _moves(loop: Repeat) -> str:
    lines = [f"repeat {loop.count} times"]
    for window in loop.windows:
        turn = "t" if window.period >= loop.count else f"(t mod {window.period})"
        start = _named(window.source, window.offset)
        lines.append(f"  {window.buffer.name} = {start} {window.step:+}·{turn}")
    return "\n".join(lines) + "\n"


# -- memory --------------------------------------------------------------------------------------------------
def memory(schedule: Schedule, plan: Plan) -> str:
    """A line per buffer: its rows in memory, where it lies, and from which kernel to which it is needed."""
    first, last = lifetimes(schedule)
    end = len(schedule.innermost) + 1
    rows = [("where", "bytes", "buffer", "type", "strides", "role", "kernels")]
    for buffer, place in sorted(plan.places.items(), key=lambda each: each[1]):
        where = f"{_BLOCKS.get(place.slot, 'caller')}+{place.offset}"
        size = f"{buffer.size * buffer.dtype.itemsize:,}"
        type_ = f"{buffer.dtype}[{','.join(map(str, buffer.shape))}]"
        home = home_of(buffer)
        if buffer.role == "window":
            where, times = "moves", ""
        elif buffer is not home:
            times = f"in the place of {home.name}"
        elif home in first and (first[home], last[home]) != (0, end):
            times = f"{max(first[home] - 1, 0)}–{min(last[home], end - 1) - 1}"
        else:
            times = "all"
        rows.append((where, size, buffer.name, type_, str(buffer.strides), buffer.role, times))
    sizes = f"arena {plan.arena.size:,} bytes, constants {plan.constants.size:,} bytes\n\n"
    return sizes + aligned(rows, {1})


def _named(buffer: Buffer, offset: int) -> str:
    return f"{buffer.name}+{offset}" if offset else buffer.name
