"""Schedules run by NumPy, plainly: the oracle for lowering, and for the machine code of kernels.

Every access becomes an array of the positions it visits; every statement is computed over its whole space at
once, walk by walk. So what a kernel must not do can be looked up in those arrays: touch what lies outside of
a buffer, store an element twice, read what it has stored. Memory begins as NaN (integers: a pattern), so that
a read of what nobody wrote shows in the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.errors import BoundsError, GraphError
from chainrule.graph import Array, describe
from chainrule.primitive import Primitive
from chainrule.primitives import REGISTRY
from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Contraction,
    Expression,
    Kernel,
    Loops,
    Repeat,
    Schedule,
    Special,
    Statement,
    View,
    Work,
    expressions,
    loads,
    own_buffers,
)
from chainrule.types import Shape

Memory = Mapping[Buffer, Array]
"""The flat array of every buffer."""

_WIDEST_VECTOR = 64  # bytes: as far as an overrun may reach on any target
_PATTERN = 0xA5  # every byte of an integer that nobody wrote
_REDUCE: dict[str, np.ufunc] = {
    "sum": np.add,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}


def interpret(schedule: Schedule, inputs: Sequence[Any]) -> list[Array]:
    """The outputs of a schedule for values of its inputs, in fresh memory; errors as in `run_kernel`."""
    memory = {buffer: _fresh(buffer) for buffer in schedule.buffers if buffer.home is None}
    memory |= {buffer: memory[buffer.home] for buffer in schedule.buffers if buffer.home is not None}
    for view, value in zip(schedule.inputs, inputs, strict=True):
        array = np.asarray(value)
        if (array.shape, array.dtype) != (view.shape, view.buffer.dtype):
            wanted = f"{view.buffer.dtype} {view.shape}"
            raise GraphError(f"input {view.buffer.name} is {wanted}, not {array.dtype} {array.shape}")
        memory[view.buffer][elements(view, view.shape)] = array
    for kernel in schedule.kernels:
        run_kernel(kernel, memory)
    return [memory[view.buffer][elements(view, view.shape)] for view in schedule.outputs]


def run_kernel(kernel: Work, memory: Memory) -> None:
    """Run one kernel on the flat arrays of its buffers.

    Raises `GraphError`, which names the kernel, where it breaks the rules of `kernels`: an access that leaves
    its buffer, an element that is stored twice or read after it was stored, a dtype that is not the one said.
    An index beyond the end is a `BoundsError`, as on every backend.
    """
    if isinstance(kernel, Repeat):
        _repeat(kernel, memory)
        return
    try:
        with np.errstate(all="ignore"):
            if isinstance(kernel, Special):
                _special(kernel, memory)
            else:
                _Run(kernel, memory).statements()
    except IndexError as error:
        raise BoundsError(f"{_named(kernel)}: {error}") from None
    except (ValueError, TypeError) as error:
        raise GraphError(f"{_named(kernel)}: {error}") from error


# -- memory --------------------------------------------------------------------------------------------------
def _fresh(buffer: Buffer) -> Array:
    """Memory nobody has written to; that of a constant holds its value, state begins as zeros."""
    array = np.empty(buffer.size, buffer.dtype)
    array[:] = 0 if buffer.role == "state" else poison(buffer.dtype)
    if buffer.value is not None:
        whole = View(buffer, 0, buffer.shape, buffer.strides)
        array[elements(whole, buffer.shape)] = buffer.value
    return array


def poison(dtype: np.dtype[Any]) -> Any:
    """What a number is that nobody wrote: NaN, True, or a pattern of bits."""
    if dtype.kind == "f":
        return np.nan
    return True if dtype.kind == "b" else np.frombuffer(bytes([_PATTERN] * dtype.itemsize), dtype)[0]


def elements(place: Access | View, extents: Shape) -> Array:
    """The position in its buffer of every element that a place visits in a loop of `extents`."""
    if len(place.strides) != len(extents):
        raise GraphError(f"{len(place.strides)} strides of {place.buffer.name} for a loop over {extents}")
    at = np.full(extents, place.offset, np.int64)
    for axis, (extent, stride) in enumerate(zip(extents, place.strides, strict=True)):
        at += np.arange(extent).reshape(-1, *(1,) * (len(extents) - axis - 1)) * stride
    if at.size and not (at.min() >= 0 and at.max() < place.buffer.size):
        raise GraphError(
            f"elements {at.min()} to {at.max()} of {place.buffer.name}, which has {place.buffer.size}"
        )
    return at


# -- kernels -------------------------------------------------------------------------------------------------
def _repeat(loop: Repeat, memory: Memory) -> None:
    """The kernels of a loop, with windows that move; what is theirs is forgotten after each iteration."""
    for t in range(loop.count):
        shown = dict(memory)
        for window in loop.windows:
            start = window.offset + t % window.period * window.step
            source = memory[window.source]
            if not 0 <= start <= source.size:
                raise GraphError(f"{window.buffer.name} begins at {start} of {source.size} in iteration {t}")
            shown[window.buffer] = source[start : start + window.buffer.size]
        for buffer in own_buffers(loop):
            if buffer.role == "temporary":
                memory[buffer][:] = poison(buffer.dtype)
        for kernel in loop.kernels:
            run_kernel(kernel, shown)


def _special(kernel: Special, memory: Memory) -> None:
    record = REGISTRY[kernel.record]
    assert isinstance(record, Primitive)
    operands = [memory[view.buffer][elements(view, view.shape)] for view in kernel.operands]
    value = np.asarray(record.meaning(np, *operands, **kernel.attributes))
    target = kernel.target
    if (value.shape, value.dtype) != (target.shape, target.buffer.dtype):
        wanted = f"{target.buffer.dtype} {target.shape}"
        raise GraphError(f"the value is {value.dtype} {value.shape}, not {wanted}")
    memory[target.buffer][elements(target, target.shape)] = value


class _Run:
    """The statements of one kernel, one after the other, each over its whole space."""

    def __init__(self, kernel: Loops | Contraction, memory: Memory) -> None:
        self.kernel, self.memory = kernel, memory
        self.rows = kernel.outputs if isinstance(kernel, Contraction) else kernel.rows
        self.extents = kernel.extents[: self.rows] if isinstance(kernel, Contraction) else kernel.extents
        self.results: dict[Statement, Array] = {}
        self.stored: dict[Buffer, Array] = {}  # which elements the kernel has stored
        self.overruns: list[tuple[Access, Array]] = []
        self.known: dict[tuple[Expression, bool], Any] = {}  # the bool: per row

    def statements(self) -> None:
        """Walk by walk; what they store beyond the end of a row comes last, where it harms most."""
        for statement in self.kernel.statements:
            self._check_in_place(statement)
        walks = {each: self._walk(each.value) for each in self.kernel.statements}
        for number in sorted(set(walks.values())):
            self.known = {}  # the points of the row are visited anew, and their loads repeated
            here = [each for each, at in walks.items() if at == number]
            if self.rows == len(self.extents):  # a row is a point
                self._together(here)
            else:
                for per_row in (True, False):
                    self._together([each for each in here if each.per_row == per_row])
        for each in filter(self._is_total, self.kernel.statements):
            if each.target is not None:
                self._store(each, each.target, self.results[each])
        for target, at in self.overruns:
            self._overrun(target, at)

    def _together(self, statements: Sequence[Statement]) -> None:
        """Statements of one walk: all values of a point are there before any is stored."""
        for each in statements:
            self.results[each] = self._combined(each)
        for each in statements:
            if each.target is not None and not self._is_total(each):
                self._store(each, each.target, self.results[each])

    def _is_total(self, statement: Statement) -> bool:
        """Whether a value is complete only when the kernel ends; it is stored after everything is read."""
        return any(axis < self.rows for axis in statement.over)

    def _walk(self, value: Expression) -> int:
        """How many walks over the rows have to be over before a value can be computed."""
        earlier = (each.attributes["statement"] for each in expressions([value]) if each.op == "result")
        return max((bool(each.combiner) + self._walk(each.value) for each in earlier), default=0)

    def _space(self, statement: Statement) -> Shape:
        """The points at which a statement is computed."""
        inner = len(self.extents) - self.rows
        return (*self.extents[: self.rows], *(1,) * inner) if statement.per_row else self.extents

    # -- values
    def _combined(self, statement: Statement) -> Array:
        """The value at every point, combined along its axes, which are left with length 1."""
        points = np.broadcast_to(self._value(statement), self._space(statement))
        if statement.combiner is None:
            return points
        inner, over = set(range(self.rows, len(self.extents))), set(statement.over)
        if over < inner and not statement.per_row:
            raise GraphError(f"{statement.combiner} along {statement.over} leaves out an inner axis")
        combine = _REDUCE[statement.combiner]
        first: Any = combine.identity
        if first is None:  # of max and min: what no number exceeds
            first = _extreme(points.dtype, lowest=statement.combiner == "max")
        return np.asarray(combine.reduce(points, statement.over, points.dtype, keepdims=True, initial=first))

    def _value(self, statement: Statement) -> Any:
        """The expression, each of its parts once."""
        for each in expressions([statement.value]):
            if (each, statement.per_row) not in self.known:
                value = np.asarray(self._computed(each, statement))
                if value.dtype != each.dtype:
                    raise GraphError(f"{each.op} gives {value.dtype}, the expression says {each.dtype}")
                self.known[each, statement.per_row] = value
        return self.known[statement.value, statement.per_row]

    def _computed(self, each: Expression, statement: Statement) -> Any:
        match each.op:
            case "constant":
                return each.attributes["value"]
            case "load":
                return self._loaded(each.attributes["access"], statement)
            case "position":
                axis = each.attributes["axis"]
                shape = (-1, *(1,) * (len(self.extents) - axis - 1))
                return np.arange(self._space(statement)[axis], dtype=np.int64).reshape(shape)
            case "sum":
                return self._sum(each.dtype)
            case "result":
                return self._result(each.attributes["statement"])
        record = REGISTRY[each.op]
        assert isinstance(record, Primitive)
        arguments = [self.known[argument, statement.per_row] for argument in each.arguments]
        return record.meaning(np, *arguments, **each.attributes)

    def _loaded(self, access: Access, statement: Statement) -> Array:
        if statement.per_row and any(access.strides[self.rows :]):
            raise GraphError(f"{access.buffer.name} is read by row but moves along inner axes")
        at = elements(access, self._space(statement))
        stored = self.stored.get(access.buffer.home or access.buffer)
        if stored is not None and stored[at].any():
            raise GraphError(f"{access.buffer.name} is read after the kernel has stored to it")
        return self.memory[access.buffer][at]

    def _result(self, statement: Statement) -> Array:
        if statement not in self.results:
            raise GraphError("a statement uses the result of one that does not come before it")
        if self._is_total(statement):
            raise GraphError("a statement uses what is complete only when the kernel ends")
        return self.results[statement]

    def _sum(self, dtype: np.dtype[Any]) -> Any:
        """Σ left × right; the letters of an operand leave out the axes along which it does not move."""
        kernel = self.kernel
        assert isinstance(kernel, Contraction)
        if 0 in kernel.extents[kernel.outputs :]:
            return np.zeros(self.extents, dtype)
        axes = range(len(kernel.extents))
        left = [k for k in axes if kernel.left.strides[k] or not kernel.right.strides[k]]
        right = [k for k in axes if kernel.right.strides[k]]
        values = [
            self.memory[access.buffer][elements(_along(access, moving), _chosen(kernel.extents, moving))]
            for access, moving in ((kernel.left, left), (kernel.right, right))
        ]
        operands = [each.astype(dtype) for each in values]
        return np.einsum(operands[0], left, operands[1], right, [*axes][: kernel.outputs], optimize=True)

    # -- storing
    def _store(self, statement: Statement, target: Access, value: Array) -> None:
        buffer = target.buffer
        if value.dtype != buffer.dtype:
            raise GraphError(f"{value.dtype} is stored to {buffer.name}, which is {buffer.dtype}")
        at, value = self._once(statement, target, value)
        stored = self.stored.setdefault(buffer.home or buffer, np.zeros(self.memory[buffer].size, bool))
        before = np.count_nonzero(stored)
        stored[at] = True
        if np.count_nonzero(stored) - before != at.size:
            raise GraphError(f"an element of {buffer.name} is stored twice")
        self.memory[buffer][at] = value
        if target.overrun:
            self.overruns.append((target, at))

    def _once(self, statement: Statement, target: Access, value: Array) -> tuple[Array, Array]:
        """Where a target stands still along an axis, every point stores the same number: one is enough."""
        at = self._stored_at(statement, target)
        for axis, extent in enumerate(at.shape):
            if extent > 1 and not target.strides[axis]:
                first = np.take(value, [0], axis)
                if np.array_equal(
                    np.broadcast_to(first, value.shape), value, equal_nan=value.dtype.kind == "f"
                ):
                    at, value = np.take(at, [0], axis), first
        return at, value

    def _stored_at(self, statement: Statement, target: Access) -> Array:
        space = self._space(statement)
        return elements(target, tuple(1 if k in statement.over else n for k, n in enumerate(space)))

    def _check_in_place(self, statement: Statement) -> None:
        """A target is the memory of a load with the same strides, or of none."""
        target = statement.target
        if target is None or self._is_total(statement):
            return
        at = self._stored_at(statement, target)
        repeated = at.size != np.unique(at).size
        summed = isinstance(self.kernel, Contraction)
        for number, access in enumerate(loads(self.kernel)):
            if (access.buffer.home or access.buffer) is not (target.buffer.home or target.buffer):
                continue
            whole = summed and number < 2
            read = elements(access, self.kernel.extents if whole else self._touched(access))
            alike = not whole and (access.offset, access.strides) == (target.offset, target.strides)
            if not (alike and not repeated) and np.isin(at, read).any():
                raise GraphError(f"a target lies over {access.buffer.name}, which is read with other strides")

    def _touched(self, access: Access) -> Shape:
        """The kernel's space, without axes along which an access stands still."""
        return tuple(
            n if stride or n == 0 else 1 for n, stride in zip(self.extents, access.strides, strict=True)
        )

    def _overrun(self, target: Access, at: Array) -> None:
        """What stores of whole vectors leave beyond the end of the lane axis: anything."""
        lane = self.kernel.lane
        if lane >= len(self.extents) or target.strides[lane] != 1 or not at.size:
            return
        per_vector = _WIDEST_VECTOR // target.buffer.dtype.itemsize
        last = np.take(at, [-1], axis=lane)
        beyond = last + np.arange(1, -self.extents[lane] % per_vector + 1).reshape(-1, *(1,) * last.ndim)
        if not target.buffer.slack and beyond.size and beyond.max() >= target.buffer.size:
            raise GraphError(f"vectors are stored beyond the end of {target.buffer.name}")
        self.memory[target.buffer][beyond[beyond < target.buffer.size]] = poison(target.buffer.dtype)


def _along(access: Access, axes: Sequence[int]) -> Access:
    """An access in a loop over some of the axes alone."""
    return Access(access.buffer, access.offset, _chosen(access.strides, axes))


def _chosen(numbers: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(numbers[axis] for axis in axes)


def _extreme(dtype: np.dtype[Any], lowest: bool) -> Any:
    if dtype.kind == "f":
        return -np.inf if lowest else np.inf
    if dtype.kind == "b":
        return not lowest
    return np.iinfo(dtype).min if lowest else np.iinfo(dtype).max


def _named(kernel: Kernel) -> str:
    """A kernel for an error message: what it computes and where that comes from."""
    what = type(kernel).__name__
    if not kernel.nodes:
        return f"{what} {kernel.record}" if isinstance(kernel, Special) else f"{what} over {kernel.extents}"
    return f"{what} of {', '.join(node.name for node in kernel.nodes)} ({describe(kernel.nodes[-1])})"
