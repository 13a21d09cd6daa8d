"""What statements read and write, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.schedule.kernels import (
    Access,
    Statement,
    expressions,
)


def accesses_of(statements: Sequence[Statement]) -> list[Access]:
    """What statements load and store."""
    values = expressions(statement.value for statement in statements)
    found = [each.attributes["access"] for each in values if each.op == "load"]
    return found + [statement.target for statement in statements if statement.target is not None]


def stage_of(statement: Statement) -> int:
    """How many combined results have to be known, one after the other, before a statement can run."""
    results = [each.attributes["statement"] for each in expressions([statement.value]) if each.op == "result"]
    return max((1 + stage_of(each) for each in results), default=0)
