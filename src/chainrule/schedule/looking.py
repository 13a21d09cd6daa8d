"""What statements read and write, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.schedule.kernels import Access, Contraction, Loops, Statement


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
