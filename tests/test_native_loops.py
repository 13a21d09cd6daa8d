"""Elementwise work and reductions in machine code, against NumPy: every stride, dtype and place of the lane.

Arrays without slack end where a page begins that nobody may touch: a read or store beyond their end kills the
process.
"""

import ctypes
import itertools
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.emit import Module
from chainrule.backends.native.loop_space import simplified
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
    guarded = {buffer: Guarded(values, 64 if buffer.slack else 0) for buffer, values in memory.items()}
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


# -- what networks need, against NumPy in float64 ------------------------------------------------------------
def compute(
    kernel: Loops, target: Target, given: dict[Buffer, np.ndarray[Any, Any]], alone: bool = True
) -> dict[Buffer, np.ndarray[Any, Any]]:
    """All arrays of a kernel after it has run, in their shapes; what is not given begins as 99."""
    memory = {}
    for buffer in dict.fromkeys(place.buffer for place in places(kernel)):
        memory[buffer] = np.full(buffer.size, 99, buffer.dtype)
        if buffer in given:
            shaped(buffer, memory[buffer])[...] = given[buffer]
    return {buffer: shaped(buffer, flat) for buffer, flat in run(kernel, memory, target, alone).items()}


def shaped(buffer: Buffer, flat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    strides = [stride * flat.itemsize for stride in buffer.strides]
    return np.lib.stride_tricks.as_strided(flat, buffer.shape, strides)


def store(buffer: Buffer, strides: Sequence[int] | None = None, overrun: bool = False) -> Access:
    return Access(buffer, 0, tuple(strides or buffer.strides), overrun)


def whole(buffer: Buffer) -> Expression:
    return load(buffer, buffer.strides)


@every_target
@pytest.mark.parametrize("classes", [1, 3, 10, 64, 200])
@pytest.mark.parametrize("slack", [False, True])
def test_softmax_and_cross_entropy_are_one_kernel(target: Target, classes: int, slack: bool) -> None:
    rows, pad = 13, 16 if slack else 1
    scores = array("scores", FLOAT32, (rows, classes), pad=pad, slack=slack)
    gradient = array("gradient", FLOAT32, (rows, classes), pad=pad, slack=slack)
    labels, loss = array("labels", INT64, (rows,)), array("loss", FLOAT32, (1,))
    largest = Statement(whole(scores), None, "max", (1,))
    shifted = op("subtract", whole(scores), result(largest))
    power = op("exp", shifted)
    total = Statement(power, None, "sum", (1,))
    position = Expression("position", (), INT64, {"axis": 1})
    chosen = op("equal", position, load(labels, (1, 0)), dtype=BOOL)
    picked = Statement(op("where", chosen, shifted, number(0), dtype=FLOAT32), None, "sum", (1,))
    each = op("subtract", op("log", result(total)), result(picked))
    error = Statement(each, Access(loss, 0, (0, 0)), "sum", (0,), True)
    probability = op("divide", power, result(total))
    hot = op("where", chosen, number(1), number(0), dtype=FLOAT32)
    slope = Statement(op("subtract", probability, hot), store(gradient, overrun=slack))
    kernel = Loops((rows, classes), 1, 1, (largest, total, picked, error, slope))
    generator = np.random.default_rng(classes)
    z = generator.normal(size=(rows, classes)).astype(FLOAT32) * 4
    y = generator.integers(0, classes, rows)
    found = compute(kernel, target, {scores: z, labels: y})
    p = np.exp(z.astype(FLOAT64) - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(found[gradient], p - np.eye(classes)[y], atol=1e-6)
    np.testing.assert_allclose(found[loss][0], -np.log(p[np.arange(rows), y]).sum(), rtol=1e-6, atol=1e-6)


@every_target
@pytest.mark.parametrize("width", [5, 64, 300])
@pytest.mark.parametrize("lane", [0, 1])
def test_normalisation_is_one_kernel(target: Target, width: int, lane: int) -> None:
    """Layer norm (lane 1: along memory), and the same with the rows side by side (lane 0: batch norm)."""
    rows = 37
    shape, strides = ((rows, width), (width, 1)) if lane else ((width, rows), (1, rows))
    x, y = array("x", FLOAT32, shape), array("y", FLOAT32, shape)
    mean, scale = array("mean", FLOAT32, (rows,)), array("scale", FLOAT32, (width,))
    total = Statement(load(x, strides), None, "sum", (1,))
    average = op("multiply", result(total), number(1 / width))
    kept = Statement(average, Access(mean, 0, (1, 0)), None, (), True)
    apart = op("subtract", load(x, strides), result(kept))
    squares = Statement(op("square", apart), None, "sum", (1,))
    deviation = op("sqrt", op("add", op("multiply", result(squares), number(1 / width)), number(1e-5)))
    value = op("multiply", op("divide", apart, deviation), load(scale, (0, 1)))
    kernel = Loops((rows, width), 1, lane, (total, kept, squares, Statement(value, Access(y, 0, strides))))
    generator = np.random.default_rng(width)
    data, factors = (
        generator.normal(3, 2, shape).astype(FLOAT32),
        generator.normal(size=width).astype(FLOAT32),
    )
    found = compute(kernel, target, {x: data, scale: factors})
    wide = (data if lane else data.T).astype(FLOAT64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5) * factors
    np.testing.assert_allclose(found[y] if lane else found[y].T, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found[mean], wide.mean(1), rtol=1e-6)


@every_target
@pytest.mark.parametrize("width", [1, 10, 64, 500])
def test_bias_gradient_beside_its_error(target: Target, width: int) -> None:
    """The columns' sums and the elementwise work that feeds them; every column is added up in one unit."""
    rows = 300
    x, mask = array("x", FLOAT32, (rows, width)), array("mask", BOOL, (rows, width))
    error, bias = array("error", FLOAT32, (rows, width)), array("bias", FLOAT32, (width,))
    value = op("where", whole(mask), whole(x), number(0), dtype=FLOAT32)
    statements = (Statement(value, store(error)), Statement(value, Access(bias, 0, (0, 1)), "sum", (0,)))
    kernel = Loops((rows, width), 2, 1, statements)
    generator = np.random.default_rng(width)
    data = generator.normal(size=(rows, width)).astype(FLOAT32)
    kept = generator.random((rows, width)) < 0.5
    found = compute(kernel, target, {x: data, mask: kept})
    np.testing.assert_array_equal(found[error], np.where(kept, data, 0))
    np.testing.assert_allclose(
        found[bias], np.where(kept, data, 0).astype(FLOAT64).sum(0), atol=2e-6 * np.sqrt(rows)
    )
    together = compute(kernel, target, {x: data, mask: kept}, alone=False)
    np.testing.assert_array_equal(found[bias], together[bias])


@every_target
@pytest.mark.parametrize("count", [0, 1, 17, 4096, 1_000_003])
def test_long_sums_are_accurate(target: Target, count: int) -> None:
    x, total = array("x", FLOAT32, (count,)), array("total", FLOAT32, (2,))
    data = np.random.default_rng(count).normal(1, 1, count).astype(FLOAT32)
    square = op("square", whole(x))
    statements = (
        Statement(whole(x), Access(total, 0, (0,)), "sum", (0,)),
        Statement(square, Access(total, 1, (0,)), "sum", (0,)),
    )
    found = compute(Loops((count,), 1, 0, statements), target, {x: data})[total]
    wide = data.astype(FLOAT64)
    np.testing.assert_allclose(found[0], wide.sum(), atol=1e-6 * np.abs(wide).sum())
    np.testing.assert_allclose(found[1], (data * data).astype(FLOAT64).sum(), rtol=1e-6)


@every_target
@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (3, 7, 50), (50, 3, 7)])
@pytest.mark.parametrize("column", [False, True])
def test_long_sums_along_other_axes_are_accurate(
    target: Target, shape: tuple[int, ...], column: bool
) -> None:
    """Blocks end at inner axes, or cut the innermost one, whichever has the length for it."""
    extents = (3, *(extent * 8 for extent in shape))
    total = array("total", FLOAT32, (3,))
    x = array("x", FLOAT32, [*extents[1:], 3] if column else extents, pad=64)
    order = (x.strides[-1], *x.strides[:-1]) if column else x.strides
    inner = tuple(range(1, len(extents)))
    statement = Statement(load(x, order), Access(total, 0, (1,) + (0,) * len(inner)), "sum", inner)
    kernel = Loops(extents, 1, 0 if column else len(inner), (statement,))
    data = np.random.default_rng(0).normal(1, 1, x.shape).astype(FLOAT32)
    expected = (np.moveaxis(data, -1, 0) if column else data).astype(FLOAT64).sum(inner)
    np.testing.assert_allclose(compute(kernel, target, {x: data})[total], expected, rtol=1e-6)


@every_target
@pytest.mark.parametrize("count", [1, 16, 33, 5000])
@pytest.mark.parametrize("slack", [False, True])
def test_adam_in_place_with_the_norm_of_its_gradient(target: Target, count: int, slack: bool) -> None:
    weight, first, second, gradient = (array(name, FLOAT32, (count,), slack=slack) for name in "wmvg")
    rate, norm = array("rate", FLOAT32, (1,)), array("norm", FLOAT32, (1,))
    g = whole(gradient)
    m = op("add", op("multiply", whole(first), number(0.9)), op("multiply", g, number(0.1)))
    v = op("add", op("multiply", whole(second), number(0.99)), op("multiply", op("square", g), number(0.01)))
    step = op("divide", m, op("add", op("sqrt", v), number(1e-8)))
    w = op("subtract", whole(weight), op("multiply", step, load(rate, (0,))))
    statements = (
        Statement(m, store(first)), Statement(v, store(second)), Statement(w, store(weight)),
        Statement(op("square", g), Access(norm, 0, (0,)), "sum", (0,)),
    )  # fmt: skip
    generator = np.random.default_rng(count)
    start = {each: generator.random(count).astype(FLOAT32) for each in (weight, first, second, gradient)}
    given = {**start, rate: np.float32(0.01)}
    for kernel in (Loops((count,), 1, 0, statements), Loops((count,), 1, 0, statements[:3])):
        found = compute(kernel, target, given)
        w0, m0, v0, g0 = (start[each].astype(FLOAT64) for each in (weight, first, second, gradient))
        m1, v1 = 0.9 * m0 + 0.1 * g0, 0.99 * v0 + 0.01 * g0**2
        np.testing.assert_allclose(found[first], m1, rtol=1e-6)
        np.testing.assert_allclose(found[second], v1, rtol=1e-6)
        np.testing.assert_allclose(found[weight], w0 - 0.01 * m1 / (np.sqrt(v1) + 1e-8), rtol=1e-6, atol=1e-7)
        if norm in found:
            np.testing.assert_allclose(found[norm][0], (g0**2).sum(), rtol=1e-6)


@every_target
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(33, 50), (16, 16), (100, 3), (3, 100), (64, 17)])
def test_transposing_copies(target: Target, dtype: str, shape: tuple[int, int]) -> None:
    data = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 200, shape).astype(dtype)
    x, y = array("x", dtype, shape), array("y", dtype, shape[::-1])
    for lane in (0, 1):
        kernel = Loops(shape[::-1], 2, lane, (Statement(load(x, (1, shape[1])), store(y)),))
        np.testing.assert_array_equal(compute(kernel, target, {x: data})[y], data.T)


@every_target
@pytest.mark.parametrize(
    ("dtype", "combiner"),
    [
        *itertools.product(
            ("float32", "float64", "int64", "int32", "uint8", "uint64"), ("sum", "max", "min")
        ),
        ("bool", "any"), ("bool", "all"), ("bool", "max"), ("bool", "min"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lane", [0, 1])
def test_reductions_of_every_dtype(target: Target, combiner: str, dtype: str, lane: int) -> None:
    generator = np.random.default_rng(0)
    data = (
        (generator.random((21, 37)) * 250).astype(dtype)
        if dtype != "bool"
        else generator.random((21, 37)) < 0.1
    )
    if dtype in ("float32", "float64") and combiner != "sum":
        data[3, 20] = data[5, 0] = np.nan
        data[7] = -np.inf
    x, y = array("x", dtype, (21, 37)), array("y", dtype, (21,))
    kernel = Loops((21, 37), 1, lane, (Statement(whole(x), Access(y, 0, (1, 0)), combiner, (1,)),))
    ufunc = {"sum": np.add, "max": np.maximum, "min": np.minimum, "any": np.logical_or, "all": np.logical_and}
    expected = ufunc[combiner].reduce(data, 1, data.dtype)
    np.testing.assert_allclose(compute(kernel, target, {x: data})[y], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("combiner", "dtype", "expected"),
    [("sum", FLOAT32, 0), ("max", FLOAT32, -np.inf), ("min", INT64, 2**63 - 1), ("any", BOOL, False),
     ("all", BOOL, True)],
)  # fmt: skip
@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_combined_is_the_identity(
    combiner: str, dtype: np.dtype[Any], expected: float, rows: int
) -> None:
    x, y = array("x", dtype, (4, 0)), array("y", dtype, (4,))
    over = (1,)
    kernel = Loops((4, 0), 2 - rows, 1, (Statement(whole(x), Access(y, 0, (1, 0)), combiner, over),))
    np.testing.assert_array_equal(compute(kernel, host(), {})[y], np.full(4, expected, dtype))


def test_no_axes_and_axes_of_length_one() -> None:
    x, y = array("x", FLOAT32, (1,)), array("y", FLOAT32, (1,))
    for extents in ((), (1,), (1, 1)):
        strides = (1,) * len(extents)
        value = op("multiply", load(x, strides), number(2))
        combined = Statement(value, Access(y, 0, strides), "sum", tuple(range(len(extents))))
        for statement in (Statement(value, Access(y, 0, strides)), combined):
            kernel = Loops(extents, 0, 0, (statement,))
            np.testing.assert_array_equal(compute(kernel, host(), {x: np.float32(3)})[y], [6])


def test_dense_elementwise_work_is_one_flat_loop() -> None:
    x, y = array("x", FLOAT32, (6, 5, 16)), array("y", FLOAT32, (6, 5, 16))
    space = simplified(Loops((6, 5, 16), 1, 2, (Statement(whole(x), store(y)),)), host())
    assert (space.extents, space.rows, space.lane) == ((480,), 1, 0)
    padded = array("padded", FLOAT32, (30, 10), pad=16, slack=True)
    doubled = op("add", whole(padded), whole(padded))
    space = simplified(Loops((30, 10), 2, 1, (Statement(doubled, store(padded, overrun=True)),)), host())
    assert space.extents == (480,)


def test_a_long_elementwise_loop_is_cut_into_units() -> None:
    x = array("x", FLOAT32, (100_000,))
    kernel = Loops((100_000,), 1, 0, (Statement(op("negative", whole(x)), store(x)),))
    assert emit_loops(Module(), "kernel", kernel, host()).units > 10
    data = np.arange(100_000, dtype=FLOAT32)
    for alone in (True, False):
        np.testing.assert_array_equal(compute(kernel, host(), {x: data}, alone)[x], -data)
