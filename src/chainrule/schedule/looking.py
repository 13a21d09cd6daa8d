"""What statements read and write, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Contraction,
    Loops,
    Repeat,
    Special,
    Statement,
    Work,
    read_and_written,
)


def accesses_of(statements: Sequence[Statement]) -> list[Access]:
    """What statements load and store."""
    return [access for statement in statements for access in statement.accesses]


def stores_again(kernel: Loops | Contraction, statement: Statement) -> bool:
    """Whether several points store one element: in place, the second would read what the first stored."""
    assert statement.target is not None
    rows = kernel.outputs if isinstance(kernel, Contraction) else kernel.rows
    if any(axis < rows for axis in statement.over):
        return False  # stored once, when the kernel ends
    count = rows if statement.per_row or statement.over else len(statement.target.strides)
    points = zip(kernel.extents[:count], statement.target.strides[:count], strict=True)
    return any(extent > 1 and not stride for extent, stride in points)


def stage_of(statement: Statement) -> int:
    """How many combined results have to be known, one after the other, before a statement can run."""
    return max((1 + stage_of(each) for each in statement.results), default=0)


def replaces(kernel: Work, written: Buffer, old: Buffer) -> bool:
    """True where a kernel may write one buffer in the memory of another: it reads that element by element."""
    if old not in read_and_written(kernel)[0]:
        return True
    if isinstance(kernel, Special | Repeat) or (
        isinstance(kernel, Contraction) and old in (kernel.left.buffer, kernel.right.buffer)
    ):
        return False
    accesses = accesses_of(kernel.statements)
    mine = {each.strides for each in accesses if each.buffer is written}
    theirs = {(each.strides, each.offset) for each in accesses if each.buffer is old}
    both = (written, old)
    touching = [each for each in kernel.statements if any(a.buffer in both for a in each.accesses)]
    writers = [each for each in touching if each.target is not None and each.target.buffer is written]
    if any(stores_again(kernel, each) for each in writers):
        return False
    stages = {(each.per_row, stage_of(each)) for each in touching}
    return len(mine) == 1 and theirs == {(next(iter(mine)), 0)} and len(stages) == 1
