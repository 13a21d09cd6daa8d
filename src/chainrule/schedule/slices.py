"""Slices: kernels that go through the same examples of a batch do so for some of these at a time.

What one product of attention leaves for the next, the scores of all examples, may be larger than the second
cache, though nobody needs more than one example's at a time. So kernels one behind the other whose outermost
axis is the same become a loop (`Repeat`) over slices of that axis, which stay in the cache from kernel to
kernel. What only they use has memory for one slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from chainrule.schedule.keeping import CACHE
from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Contraction,
    Expression,
    Kernel,
    Loops,
    Repeat,
    Schedule,
    Statement,
    Window,
    Work,
    expressions,
    loads,
    read_and_written,
    targets,
)
from chainrule.types import Shape

SLICE = CACHE // 2
"""Bytes that the kernels of a loop may touch in one turn."""

Cut = Loops | Contraction


def in_slices(schedule: Schedule) -> Schedule:
    """The same kernels in the same order, some of them in loops over slices of their outermost axis."""
    shared = Counter(
        buffer for kernel in schedule.kernels for buffer in set().union(*read_and_written(kernel))
    )
    shared.update(view.buffer for view in (*schedule.inputs, *schedule.outputs))
    shared.update(buffer.home for buffer in schedule.buffers if buffer.home is not None)
    made: list[Work] = []
    run: list[Cut] = []
    for kernel in schedule.kernels:
        if isinstance(kernel, Loops | Contraction) and _goes_on(run, kernel):
            run.append(kernel)
            continue
        made += _looped(run, shared)
        run = [kernel] if isinstance(kernel, Contraction) and _goes_on([], kernel) else []
        made += [] if run else [kernel]
    return replace(schedule, kernels=(*made, *_looped(run, shared)))


# -- which kernels -------------------------------------------------------------------------------------------
def _outermost(kernel: Cut) -> int:
    """The first axis longer than 1; behind the last one if there is none."""
    return next((axis for axis, extent in enumerate(kernel.extents) if extent > 1), len(kernel.extents))


def _goes_on(run: Sequence[Cut], kernel: Cut) -> bool:
    """True where a kernel can be cut as those of a run, which begins with a product, and as part of it."""
    if not run and not isinstance(kernel, Contraction):
        return False
    if not _can_be_cut(kernel) or any(_count(each) != _count(kernel) for each in run[:1]):
        return False
    together = [*run, kernel]
    parts: dict[Buffer, set[tuple[int, int] | None]] = {}
    for each in together:
        for access in (*loads(each), *targets(each)):
            parts.setdefault(access.buffer, set()).add(_part(each, access))
    written = {access.buffer for each in together for access in targets(each)}
    return all(_is_regular(found, buffer in written) for buffer, found in parts.items())


def _count(kernel: Cut) -> int:
    return kernel.extents[_outermost(kernel)]


def _can_be_cut(kernel: Cut) -> bool:
    """True for a kernel whose outermost axis is a row axis along which nothing is combined."""
    axis = _outermost(kernel)
    rows = kernel.outputs if isinstance(kernel, Contraction) else kernel.rows
    if axis >= rows or axis == kernel.lane or 0 in kernel.extents:
        return False
    if isinstance(kernel, Contraction):
        if any(statement.combiner for statement in kernel.statements):
            return False
        if not (kernel.left.strides[axis] and kernel.right.strides[axis]):
            return False  # every slice would read a weight anew
    asked = expressions(statement.value for statement in kernel.statements)
    return (
        not any(axis in statement.over for statement in kernel.statements)
        and not any(each.op == "position" and each.attributes["axis"] == axis for each in asked)
        and all(access.buffer.home is None for access in targets(kernel))
        and all(access.buffer.role in ("temporary", "output") for access in targets(kernel))
    )


def _part(kernel: Cut, access: Access) -> tuple[int, int] | None:
    """How far apart the parts of a buffer are that points of the outermost axis touch, and which of these
    parts point 0 touches; None where parts overlap.
    """
    axis = _outermost(kernel)
    step = access.strides[axis]
    ends = [
        (extent - 1) * stride
        for other, (extent, stride) in enumerate(zip(kernel.extents, access.strides, strict=False))
        if other != axis
    ]
    if step == 0:
        return 0, 0
    first, last = (access.offset + sum(pick(0, end) for end in ends) for pick in (min, max))
    return (step, first // step) if step > 0 and first // step == last // step else None


def _is_regular(parts: set[tuple[int, int] | None], written: bool) -> bool:
    """Whether all kernels touch a buffer in parts that are as far apart: if one writes it, in the same."""
    steps = {part and part[0] for part in parts}
    return len(steps) == 1 and None not in steps and not (written and (len(parts) > 1 or 0 in steps))


# -- loops ---------------------------------------------------------------------------------------------------
def _looped(run: Sequence[Cut], shared: Counter[Buffer]) -> Sequence[Work]:
    """A run of kernels as a loop, if slices of it fit into the cache and the whole does not."""
    while run and not _is_fed(run[:-1], run[-1]):
        return [*_looped(run[:-1], shared), run[-1]]
    if len(run) < 2:
        return run
    steps = {
        access.buffer: access.strides[_outermost(kernel)]
        for kernel in run
        for access in (*loads(kernel), *targets(kernel))
    }
    each = sum(step * buffer.dtype.itemsize for buffer, step in steps.items())
    count = _count(run[0])
    lengths = [length for length in range(1, count) if count % length == 0 and length * each <= SLICE]
    if count * each <= CACHE or not lengths:
        return run
    return [_Slices(run, steps, lengths[-1], shared).loop()]


def _is_fed(before: Sequence[Cut], kernel: Cut) -> bool:
    """Whether a kernel reads what one of those before it writes."""
    written = {access.buffer for each in before for access in targets(each)}
    return any(access.buffer in written for access in loads(kernel))


class _Slices:
    """The loop that runs kernels for `length` points of their outermost axis at a time."""

    def __init__(
        self, run: Sequence[Cut], steps: dict[Buffer, int], length: int, shared: Counter[Buffer]
    ) -> None:
        self._run, self._steps, self._length = run, steps, length
        self._count = _count(run[0])
        own = Counter(buffer for kernel in run for buffer in set().union(*read_and_written(kernel)))
        written = {access.buffer for kernel in run for access in targets(kernel)}
        self._own = {buffer for buffer in written if own[buffer] == shared[buffer]}
        self._windows: list[Window] = []
        self._seen = {buffer: self._slice(buffer) for buffer, step in steps.items() if step}

    def loop(self) -> Repeat:
        kernels = tuple(map(self._cut, self._run))
        return Repeat(self._count // self._length, kernels, tuple(self._windows))

    def _slice(self, buffer: Buffer) -> Buffer:
        """What kernels see of a buffer: a window, or memory of their own where nobody else looks."""
        step = self._steps[buffer]
        size = buffer.size - (self._count - self._length) * step
        shape, strides = self._shape(buffer, step)
        if buffer in self._own:
            return replace(buffer, shape=shape, strides=strides, size=size)
        name = f"{buffer.name}_slice"
        seen = Buffer(name, buffer.dtype, shape, strides, size, "window", slack=buffer.slack)
        self._windows.append(Window(seen, buffer, 0, self._length * step, self._count // self._length))
        return seen

    def _shape(self, buffer: Buffer, step: int) -> tuple[Shape, Shape]:
        """The shape of a slice: shorter along the axis that is cut, if the buffer has it as one."""
        axes = list(zip(buffer.shape, buffer.strides, strict=True))
        if (self._count, step) not in axes:
            return (self._length * step,), (1,)
        at = axes.index((self._count, step))
        return (*buffer.shape[:at], self._length, *buffer.shape[at + 1 :]), buffer.strides

    # -- kernels ---------------------------------------------------------------------------------------------
    def _cut(self, kernel: Cut) -> Kernel:
        """A kernel for one slice."""
        axis = _outermost(kernel)
        extents = (*kernel.extents[:axis], self._length, *kernel.extents[axis + 1 :])
        moved = {
            each: replace(each, buffer=self._seen.get(each.buffer, each.buffer))
            for each in (*loads(kernel), *targets(kernel))
        }
        values: dict[Expression, Expression] = {}
        statements: dict[Statement, Statement] = {}

        def value(each: Expression) -> Expression:
            if each not in values:
                attributes = each.attributes
                if each.op == "load":
                    attributes = {"access": moved[attributes["access"]]}
                elif each.op == "result":
                    attributes = {"statement": statements[attributes["statement"]]}
                values[each] = replace(
                    each, arguments=tuple(map(value, each.arguments)), attributes=attributes
                )
            return values[each]

        for each in kernel.statements:
            target = None if each.target is None else moved[each.target]
            statements[each] = replace(each, value=value(each.value), target=target)
        made = tuple(statements.values())
        if isinstance(kernel, Contraction):
            left, right = moved[kernel.left], moved[kernel.right]
            return replace(kernel, extents=extents, left=left, right=right, statements=made)
        return replace(kernel, extents=extents, statements=made)
