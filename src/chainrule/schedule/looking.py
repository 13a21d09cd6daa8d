"""What kernels read and write, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Contraction,
    Kernel,
    Special,
    Statement,
    expressions,
)


def accesses_of(statements: Sequence[Statement]) -> list[Access]:
    """What statements load and store."""
    values = expressions(statement.value for statement in statements)
    found = [each.attributes["access"] for each in values if each.op == "load"]
    return found + [statement.target for statement in statements if statement.target is not None]


def reads_of(kernel: Kernel) -> set[Buffer]:
    """The buffers that a kernel reads."""
    if isinstance(kernel, Special):
        return {view.buffer for view in kernel.operands}
    found = {access.buffer for access in accesses_of(kernel.statements)}
    found -= {each.target.buffer for each in kernel.statements if each.target is not None}
    return found | ({kernel.left.buffer, kernel.right.buffer} if isinstance(kernel, Contraction) else set())


def written_by(kernel: Kernel) -> set[Buffer]:
    """The buffers that a kernel writes."""
    if isinstance(kernel, Special):
        return {kernel.target.buffer}
    return {each.target.buffer for each in kernel.statements if each.target is not None}


def stage_of(statement: Statement) -> int:
    """How many combined results have to be known, one after the other, before a statement can run."""
    results = [each.attributes["statement"] for each in expressions([statement.value]) if each.op == "result"]
    return max((1 + stage_of(each) for each in results), default=0)
