"""Elementwise work and reductions in machine code, against NumPy: every stride, dtype and place of the lane.

Arrays without slack end where a page begins that nobody may touch: a read or store beyond their end kills the
process.
"""

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.emit import Module
from chainrule.backends.native.loops import emit_loops
from chainrule.backends.native.target import Target, host, restricted
from chainrule.schedule.interpret import elements, run_kernel
from chainrule.schedule.kernels import Access, Buffer, Expression, Loops, Statement, places, targets

TARGETS = {"host": host(), "avx2": restricted("avx2"), "x86-64": restricted("x86-64")}
PAGE = mmap.PAGESIZE
FLOAT32, FLOAT64, INT64, BOOL = (np.dtype(name) for name in ("float32", "float64", "int64", "bool"))
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())


# -- running -------------------------------------------------------------------------------------------------
class Guarded:
    """Memory that ends where a page begins that nobody may touch; `slack` bytes are between."""

    def __init__(self, values: np.ndarray[Any, Any], slack: int) -> None:
        size = values.nbytes + slack
        pages = -(-size // PAGE) + 1
        self.memory = mmap.mmap(-1, (pages + 1) * PAGE)
        whole = np.frombuffer(self.memory, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (0, pages):
            address = ctypes.c_void_p(whole.ctypes.data + page * PAGE)
            assert libc.mprotect(address, ctypes.c_size_t(PAGE), 0) == 0
        begin = pages * PAGE - size
        self.array = whole[begin : begin + values.nbytes].view(values.dtype)
        self.array[:] = values


def run(
    kernel: Loops, memory: dict[Buffer, np.ndarray[Any, Any]], target: Target, alone: bool = True
) -> dict[Buffer, np.ndarray[Any, Any]]:
    """The memory after the kernel has run, unit by unit from the last, or all units in one call."""
    module = Module(target.triple)
    emitted = emit_loops(module, "kernel", kernel, target)
    code = Code(compile_object(module.text(), target), target)
    guarded = {
        buffer: Guarded(values, 64 + -(values.nbytes + 64) % 64 if buffer.slack else 0)
        for buffer, values in memory.items()
    }
    scratch = Guarded(np.full(-(-max(emitted.scratch, 1) // 64) * 64, 0xA5, np.uint8), 0)
    pointers = [
        guarded[place.buffer].array.ctypes.data + place.offset * place.buffer.dtype.itemsize
        for place in places(kernel)
    ]
    arguments = [ctypes.c_void_p] * (len(pointers) + 1) + [ctypes.c_int64] * 2
    function = code.function("kernel", *arguments)
    units = [(unit, unit + 1) for unit in reversed(range(emitted.units))] if alone else [(0, emitted.units)]
    for first, last in units:
        function(*pointers, scratch.array.ctypes.data, first, last)
    function(*pointers, scratch.array.ctypes.data, emitted.units, emitted.units)  # no unit, no work
    return {buffer: each.array.copy() for buffer, each in guarded.items()}


def check(
    kernel: Loops, target: Target, memory: dict[Buffer, np.ndarray[Any, Any]], tolerance: float = 0.0,
    alone: bool = True,
) -> None:  # fmt: skip
    """The kernel does what the interpreter does, and stores nowhere else."""
    expected = {buffer: values.copy() for buffer, values in memory.items()}
    run_kernel(kernel, expected)
    found = run(kernel, memory, target, alone)
    overrun = {access.buffer for access in targets(kernel) if access.overrun}
    for statement in kernel.statements:
        if statement.target is not None:
            extents = [1 if axis in statement.over else n for axis, n in enumerate(kernel.extents)]
            if statement.per_row:
                extents[kernel.rows :] = [1] * (len(extents) - kernel.rows)
            at = elements(statement.target, tuple(extents))
            buffer = statement.target.buffer
            np.testing.assert_allclose(
                found[buffer][at], expected[buffer][at], rtol=tolerance, atol=tolerance
            )
    for buffer in memory.keys() - overrun:
        np.testing.assert_allclose(found[buffer], expected[buffer], rtol=tolerance, atol=tolerance)


# -- making kernels ------------------------------------------------------------------------------------------
def array(name: str, dtype: Any, shape: Sequence[int], *, pad: int = 1, slack: bool = False) -> Buffer:
    """A row-major buffer whose last axis is padded to a multiple of `pad`."""
    strides, size = [], 1
    for number, extent in enumerate(reversed(shape)):
        strides.insert(0, size)
        size *= -(-extent // pad) * pad if number == 0 else extent
    return Buffer(name, np.dtype(dtype), tuple(shape), tuple(strides), size, slack=slack)


def load(buffer: Buffer, strides: Sequence[int], offset: int = 0) -> Expression:
    return Expression("load", (), buffer.dtype, {"access": Access(buffer, offset, tuple(strides))})


def op(name: str, *arguments: Expression, dtype: Any = None, **attributes: Any) -> Expression:
    return Expression(name, arguments, np.dtype(dtype) if dtype else arguments[0].dtype, attributes)


def cast(value: Expression, dtype: Any) -> Expression:
    return Expression("astype", (value,), np.dtype(dtype), {"dtype": np.dtype(dtype)})


def number(value: Any, dtype: Any = FLOAT32) -> Expression:
    return Expression("constant", (), np.dtype(dtype), {"value": np.dtype(dtype).type(value)})


def result(statement: Statement) -> Expression:
    return Expression("result", (), statement.value.dtype, {"statement": statement})


def fill(kernel: Loops, generator: np.random.Generator) -> dict[Buffer, np.ndarray[Any, Any]]:
    """Small whole numbers, of which sums are exact, in every buffer."""
    memory = {}
    for buffer in dict.fromkeys(place.buffer for place in places(kernel)):
        low = -2 if buffer.dtype.kind in "if" else 0
        memory[buffer] = generator.integers(low, 3, buffer.size).astype(buffer.dtype)
    return memory


class Draws:
    """Random kernels in which everything is exact."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        axes = int(self.generator.integers(0, 5))
        large = int(self.generator.integers(0, max(axes, 1)))
        self.extents = tuple(
            int(self.generator.choice([0, 1, 2, 3, 5], p=[0.04, 0.2, 0.26, 0.3, 0.2]) if axis != large
                else self.generator.choice([1, 7, 16, 31, 40, 67, 130]))
            for axis in range(axes)
        )  # fmt: skip
        self.rows = int(self.generator.integers(0, axes + 1))
        self.lane = int(self.generator.integers(0, max(axes, 1)))
        self.dtype = np.dtype(self.generator.choice(["float32", "float32", "float64", "int64", "int32"]))
        self.inner = tuple(range(self.rows, axes))
        self.buffers = 0

    def chance(self, probability: float) -> bool:
        return bool(self.generator.random() < probability)

    def place(self, axes: Sequence[int], dtype: Any, broadcast: float, target: bool) -> Access:
        """Somewhere that moves along some of `axes`, in any order, maybe with gaps."""
        strides, size, padded = [0] * len(self.extents), 1, False
        moving = [axis for axis in axes if not self.chance(broadcast)]
        if self.chance(0.4):
            self.generator.shuffle(moving)
        for number, axis in enumerate(reversed(moving)):
            strides[axis] = size * (2 if self.chance(0.1) else 1)
            size = max(1, strides[axis] * self.extents[axis])
            if number == 0 and self.chance(0.5):
                size = -(-size // 64) * 64
                padded = axis == self.lane and strides[axis] == 1
        self.buffers += 1
        slack = self.chance(0.5)
        buffer = Buffer(f"b{self.buffers}", np.dtype(dtype), (size + 3,), (1,), size + 3, slack=slack)
        overrun = target and slack and padded
        return Access(buffer, 0 if overrun else int(self.generator.integers(0, 4)), tuple(strides), overrun)

    def value(self, axes: Sequence[int], earlier: list[Statement], depth: int = 2) -> Expression:
        """An expression over loads that move along `axes`, and results of earlier statements."""
        if depth == 0 or self.chance(0.15):
            if earlier and self.chance(0.5):
                return result(earlier[int(self.generator.integers(0, len(earlier)))])
            if axes and self.chance(0.1):
                position = Expression("position", (), INT64, {"axis": int(self.generator.choice(axes))})
                return cast(position, self.dtype) if self.dtype != INT64 else position
            if self.chance(0.1):
                return number(int(self.generator.integers(-2, 3)), self.dtype)
            if self.chance(0.1):
                return cast(load_at(self.place(axes, BOOL, 0.3, False)), self.dtype)
            return load_at(self.place(axes, self.dtype, 0.25, False))
        a, b = (self.value(axes, earlier, depth - 1) for _ in range(2))
        name = str(self.generator.choice(["add", "subtract", "maximum", "where"]))
        if name == "where":
            return op("where", op("less", a, b, dtype=BOOL), b, a, dtype=self.dtype)
        return op(name, a, b)

    def kernel(self) -> Loops:
        every = tuple(range(len(self.extents)))
        rows, earlier, of_row = every[: self.rows], list[Statement](), list[Statement]()
        statements = []
        for _ in range(int(self.generator.integers(1, 5))):
            kind = str(self.generator.choice(["point", "row", "combined", "total"], p=[0.4, 0.2, 0.25, 0.15]))
            per_row = kind == "row" or (kind == "total" and self.chance(0.3))
            space = rows if per_row else every
            combiner, over = None, tuple[int, ...]()
            if kind == "combined":
                over = self.inner
            elif kind == "total" and rows:
                count = int(self.generator.integers(1, len(rows) + 1))
                over = tuple(sorted(int(axis) for axis in self.generator.choice(rows, count, replace=False)))
                over = over if per_row else over + self.inner
            value = self.value(space, of_row if per_row else earlier)
            if over:
                combiner = str(self.generator.choice(["sum", "max", "min", "any", "all"]))
                if combiner in ("any", "all"):
                    value = op("greater", value, number(1, self.dtype), dtype=BOOL)
            kept = [axis for axis in space if axis not in over]
            place = self.place(kept, value.dtype, 0.0, True)
            whole = not over or self.lane not in over
            target = Access(
                place.buffer, place.offset, place.strides, place.overrun and whole and not per_row
            )
            statement = Statement(value, target, combiner, over, per_row)
            statements.append(statement)
            if value.dtype != BOOL and not (over and set(over) & set(rows)):
                earlier.append(statement)
                if per_row or over == self.inner:
                    of_row.append(statement)
        return Loops(self.extents, self.rows, self.lane, tuple(statements))


def load_at(access: Access) -> Expression:
    return Expression("load", (), access.buffer.dtype, {"access": access})


@pytest.mark.parametrize("seed", range(150))
def test_random_kernels(seed: int) -> None:
    draws = Draws(seed)
    kernel = draws.kernel()
    target = [*TARGETS.values()][seed % 3]
    check(kernel, target, fill(kernel, draws.generator), alone=bool(seed % 2))
