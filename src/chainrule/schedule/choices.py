"""Choices: the rows of a loop, and the axis whose elements lie side by side in a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chainrule.schedule.joining import Group
from chainrule.schedule.kernels import Access, Statement
from chainrule.schedule.looking import accesses_of
from chainrule.schedule.views import ROW
from chainrule.types import Shape

_FEW = 8
"""Rows below which transposing a factor costs more than adding up vectors."""


def rows_of(group: Group) -> frozenset[int]:
    """The axes of a loop group that are its rows."""
    if group.rows is not None:
        return group.rows
    over = [each for each in group.over.values() if each]
    if not over or all(each == group.every for each in over):
        return group.every
    return group.every - min(over, key=len)


def lane_of(extents: Shape, rows: int, statements: Sequence[Statement]) -> int:
    """The axis to vectorise: the one along which most accesses have stride 1, and fewest any other.

    Accesses count as often as they happen: what belongs to a row once, the others for every inner point.
    """
    inner = math.prod(extents[rows:])

    def merit(axis: int) -> tuple[float, int, int]:
        near = far = 0
        for statement in statements:
            weight = 1 if statement.per_row else max(inner, 1)
            for access in accesses_of([statement]):
                near += weight * (access.strides[axis] == 1)
                far += weight * (access.strides[axis] not in (0, 1))
        if extents[axis] <= 1:
            return (-math.inf, extents[axis], axis)
        full = extents[axis] / (-(-extents[axis] // ROW) * ROW)  # of the lanes, how many have work
        return (near * full - far, extents[axis], axis)

    return max(range(len(extents)), key=merit, default=0)


def vector_axis(
    extents: Shape, outputs: int, reads: Sequence[Access], statements: Sequence[Statement]
) -> tuple[int | None, bool]:
    """The lane of a contraction, and whether its factors have to change places for it.

    The last axis of the output, if one factor alone moves along it. But where that factor would have to be
    transposed for a few rows only, the axis that is summed over, if both factors have it innermost.
    """
    one, other = (read.strides for read in reads)
    single = [axis for axis in range(outputs) if extents[axis] > 1 and (one[axis] == 0) != (other[axis] == 0)]
    dots = [
        axis for axis in range(outputs, len(extents)) if extents[axis] > 1 and one[axis] == other[axis] == 1
    ]
    written = [access for statement in statements if (access := statement.target) is not None]
    near = [axis for axis in single if any(access.strides[axis] == 1 for access in written)]
    lane = near[-1] if near else (single[-1] if single else None)
    if lane is None:
        return (dots[-1], False) if dots else (None, False)
    swapped = other[lane] == 0
    right, left = (one, other) if swapped else (other, one)
    rows = math.prod(extents[axis] for axis in range(outputs) if left[axis] != 0 and right[axis] == 0)
    # A window that slides, as in the derivative of a convolution's weight, reads every element many times.
    slides = any(right[axis] for axis in range(outputs) if axis != lane and left[axis] == 0)
    if dots and right[lane] != 1 and (rows < _FEW or slides):
        one_moves, other_moves = (sum(each[axis] != 0 for axis in range(outputs)) for each in (one, other))
        return dots[-1], one_moves > other_moves  # windows are the right factor: each tile holds whole ones
    return lane, swapped
