"""Contractions in machine code: sums of products in every orientation, and what happens to the sums.

The oracle is NumPy's einsum on strided views of the same memory.
"""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.contraction import emit_contraction
from chainrule.backends.native.elements import transposed
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.target import Target, restricted
from chainrule.backends.native.values import INDEX, POINTER, vector
from chainrule.schedule.kernels import Access, Buffer, Contraction, Expression, Statement, places

Array = np.ndarray[Any, Any]
TARGETS = ("avx512", "avx2", "x86-64")
PAGE = mmap.PAGESIZE
LEFT, RIGHT = 0, 1


# -- memory --------------------------------------------------------------------------------------------------
class Fenced:
    """Memory that ends where no page may be touched; arrays lie right before its end."""

    def __init__(self, size: int) -> None:
        whole = -(-size // PAGE) * PAGE
        self._map = mmap.mmap(-1, whole + PAGE)
        self._anchor = ctypes.c_char.from_buffer(self._map)
        start = ctypes.addressof(self._anchor)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(start + whole), ctypes.c_size_t(PAGE), 0) == 0
        self.address = start + whole - size

    def array(self, dtype: Any, count: int) -> Array:
        kind = ctypes.c_char * (count * np.dtype(dtype).itemsize)
        return np.frombuffer(kind.from_address(self.address), dtype=dtype)


_KEPT: list[Fenced] = []


def memory(dtype: Any, count: int, slack: bool) -> Array:
    """Uninitialised elements: with room behind them that holds NaN, or right before a forbidden page."""
    dtype = np.dtype(dtype)
    room = 128 if slack else 0
    fenced = Fenced((count + room) * dtype.itemsize)
    _KEPT.append(fenced)
    whole = fenced.array(dtype, count + room)
    whole[:] = np.nan if dtype.kind == "f" else 77 if dtype.kind in "iu" else True
    return whole


class Operand:
    """A buffer with numbers in it, and the strides at which a kernel visits it."""

    def __init__(
        self, name: str, extents: Sequence[int], strides: Sequence[int], dtype: Any = np.float32,
        slack: bool = True, overrun: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        size = 1 + sum(max(extent - 1, 0) * stride for extent, stride in zip(extents, strides, strict=True))
        self.shape, self.strides = tuple(extents), tuple(strides)
        self.data = memory(dtype, size, slack)
        generator = np.random.default_rng(zlib.crc32(name.encode()) + seed)
        drawn = (
            generator.integers(-3, 4, size) if self.data.dtype.kind in "iub" else generator.normal(size=size)
        )
        self.data[:size] = drawn.astype(dtype)
        role = "temporary" if slack else "input"
        buffer = Buffer(name, self.data.dtype, (size,), (1,), size, role=role, slack=slack)
        self.access = Access(buffer, 0, tuple(strides), overrun)

    @property
    def view(self) -> Array:
        item = self.data.dtype.itemsize
        return np.lib.stride_tricks.as_strided(self.data, self.shape, [s * item for s in self.strides])

    @property
    def load(self) -> Expression:
        return Expression("load", (), self.data.dtype, {"access": self.access})


def run(
    kernel: Contraction,
    memories: Sequence[Array],
    target: Target,
    groups: Callable[[int], Iterable[int]] | None = None,
) -> None:
    """Compile a kernel and run all its units, in the groups that end where `groups(units)` says."""
    module = Module(target.triple)
    emitted = emit_contraction(module, "kernel", kernel, target)
    names = [(f"p{k}", POINTER) for k in range(len(memories))]
    names += [("scratch", POINTER), ("first", INDEX), ("last", INDEX)]
    outside = Function(module, "outside", names, internal=False)
    outside.call("kernel", "void", outside.arguments)
    outside.give_back()
    code = Code(compile_object(module.text(), target), target)
    function = code.function(
        "outside", *[ctypes.c_void_p] * (len(memories) + 1), ctypes.c_int64, ctypes.c_int64
    )
    scratch = memory(np.uint8, -(-emitted.scratch // 64) * 64 or 64, False)
    pointers = [each.ctypes.data for each in memories]
    first = 0
    for last in [*(groups(emitted.units) if groups else ()), emitted.units]:
        function(*pointers, scratch.ctypes.data, first, last)
        first = last


SUM = {dtype: Expression("sum", (), np.dtype(dtype)) for dtype in ("float32", "float64", "int32", "bool")}


def check(
    extents: Sequence[int], outputs: int, lane: int, left: Operand, right: Operand, out: Operand, name: str,
    groups: Callable[[int], Iterable[int]] | None = None,
) -> None:  # fmt: skip
    """A plain sum of products, stored; the oracle is einsum in float64."""
    dtype = left.data.dtype
    kernel = Contraction(
        tuple(extents), outputs, lane, left.access, right.access, (Statement(SUM[dtype.name], out.access),)
    )  # fmt: skip
    before = out.data.copy()
    expected = reference(left, right, outputs)
    run(kernel, [left.data, right.data, out.data], restricted(name), groups)
    np.testing.assert_allclose(out.view, expected, **tolerance(dtype))
    untouched = np.ones(out.data.shape, bool)
    at = np.zeros(out.shape, int)
    for axis, (extent, stride) in enumerate(zip(out.shape, out.strides, strict=True)):
        at += np.arange(extent).reshape(-1, *[1] * (len(out.shape) - axis - 1)) * stride
    untouched[at] = False
    if not out.access.overrun:
        np.testing.assert_array_equal(out.data[untouched], before[untouched])


def reference(left: Operand, right: Operand, outputs: int) -> Array:
    wide = np.float64 if left.data.dtype.kind == "f" else np.int64
    products = left.view.astype(wide) * right.view.astype(wide)
    total = products.sum(axis=tuple(range(outputs, products.ndim)))
    return total.astype(bool) if left.data.dtype.kind == "b" else total


def tolerance(dtype: np.dtype[Any]) -> dict[str, float]:
    if dtype.kind != "f":
        return {"rtol": 0, "atol": 0}
    return {"rtol": 1e-4, "atol": 1e-4} if dtype.itemsize == 4 else {"rtol": 1e-12, "atol": 1e-12}


def matrices(
    m: int, n: int, k: int, orientation: str, dtype: Any = np.float32, slack: bool = True,
    overrun: bool = False, pad: int = 3,
) -> tuple[Operand, Operand, Operand]:  # fmt: skip
    """Operands of a matrix product: "nt" is a plain left and a transposed right one. Rows have padding."""
    across = {"n": (k + pad, 0, 1), "t": (1, 0, m + pad)}[orientation[0]]
    down = {"n": (0, 1, n + pad), "t": (0, k + pad, 1)}[orientation[1]]
    return (
        Operand("left", (m, n, k), across, dtype, slack),
        Operand("right", (m, n, k), down, dtype, slack),
        Operand("out", (m, n), (n + pad, 1), dtype, slack, overrun),
    )


# -- plain products ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("orientation", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (7, 19, 5), (13, 70, 33), (3, 130, 17), (37, 10, 64)])
def test_matrix_products(name: str, orientation: str, m: int, n: int, k: int) -> None:
    check((m, n, k), 2, 1, *matrices(m, n, k, orientation), name)
    check((m, n, k), 2, 1, *matrices(m, n, k, orientation, np.float64, slack=False, pad=0), name)


@pytest.mark.parametrize("name", TARGETS)
def test_whole_vectors_may_be_stored_where_that_is_allowed(name: str) -> None:
    check((9, 21, 6), 2, 1, *matrices(9, 21, 6, "nn", overrun=True, pad=11), name)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("slack", [True, False])
def test_rows_that_collide_in_cache_are_copied(name: str, slack: bool) -> None:
    check((9, 41, 70), 2, 1, *matrices(9, 41, 70, "nn", slack=slack, pad=256 - 41), name)


@pytest.mark.parametrize("orientation", ["nn", "tt"])
@pytest.mark.parametrize("k", [0, 1, 1030])
def test_sums_of_nothing_and_of_much(orientation: str, k: int) -> None:
    check((50, 37, k), 2, 1, *matrices(50, 37, k, orientation), "avx512")
    check((400, 17, k), 2, 1, *matrices(400, 17, k, orientation, slack=False), "avx2")


@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0)])
def test_no_output(m: int, n: int) -> None:
    left, right, out = matrices(max(m, 1), max(n, 1), 3, "nn")
    statement = Statement(SUM["float32"], out.access)
    kernel = Contraction((m, n, 3), 2, 1, left.access, right.access, (statement,))
    before = out.data.copy()
    run(kernel, [left.data, right.data, out.data], restricted("avx512"))
    np.testing.assert_array_equal(out.data, before)


@pytest.mark.parametrize("dtype", [np.int32, np.bool_])
@pytest.mark.parametrize("lane", [1, 2])
def test_integers_and_bools(dtype: Any, lane: int) -> None:
    check((5, 11, 7), 2, lane, *matrices(5, 11, 7, "nt", dtype, slack=False, pad=0), "avx512")


# -- other orders of axes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("slack", [True, False])
def test_batched_products(name: str, slack: bool) -> None:
    b, m, n, k = 3, 7, 18, 9
    left = Operand("left", (b, m, n, k), (m * k + 5, k, 0, 1), slack=slack)
    right = Operand("right", (b, m, n, k), (n * k, 0, k, 1), slack=slack)
    out = Operand("out", (b, m, n), (n, b * n, 1), slack=slack)
    check((b, m, n, k), 3, 2, left, right, out, name)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 3, 16, 53])
def test_the_lane_may_be_summed(name: str, dtype: Any, k: int) -> None:
    for m, n in ((1, 1), (19, 1), (9, 5), (2, 31)):
        check((m, n, k), 2, 2, *matrices(m, n, k, "nt", dtype, slack=False, pad=0), name)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("slack", [True, False])
def test_any_strides(name: str, slack: bool) -> None:
    m, n, k = 6, 13, 21
    left = Operand("left", (m, n, k), (2, 0, 3 * m), slack=slack)
    right = Operand("right", (m, n, k), (0, 3, 2 * n + 40), slack=slack)
    out = Operand("out", (m, n), (1, 2 * m), slack=slack)
    check((m, n, k), 2, 1, left, right, out, name)
    check((m, n, k), 2, 2, left, right, out, name)


@pytest.mark.parametrize("name", TARGETS)
def test_both_operands_move_along_the_lane(name: str) -> None:
    left = Operand("left", (5, 19, 4), (76, 1, 19), slack=False)
    right = Operand("right", (5, 19, 4), (0, 1, 19), slack=False)
    check((5, 19, 4), 2, 1, left, right, Operand("out", (5, 19), (19, 1), slack=False), name)


@pytest.mark.parametrize("name", TARGETS)
def test_an_operand_that_stands_still(name: str) -> None:
    left = Operand("left", (4, 6, 3), (0, 0, 0))
    right = Operand("right", (4, 6, 3), (0, 0, 1))
    check((4, 6, 3), 2, 1, left, right, Operand("out", (4, 6), (6, 1)), name)
    outer = Operand("left", (4, 6), (1, 0)), Operand("right", (4, 6), (0, 1)), Operand("out", (4, 6), (6, 1))
    check((4, 6), 2, 1, *outer, name)


# -- convolutions --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", [16, 5])
def test_convolution_with_samples_in_the_lanes(name: str, stride: int, batch: int) -> None:
    o, h, w, c, ky, kx = 3, 4, 5, 2, 3, 3
    tall, wide = (h - 1) * stride + ky, (w - 1) * stride + kx
    extents = (o, h, w, batch, c, ky, kx)
    left = Operand("left", extents, (c * ky * kx, 0, 0, 0, ky * kx, kx, 1), slack=False)
    rows = wide * batch
    strides = (0, stride * rows, stride * batch, 1, tall * rows, rows, batch)
    right = Operand("right", extents, strides, slack=False)
    out = Operand("out", extents[:4], (h * w * batch, w * batch, batch, 1), slack=False)
    check(extents, 4, 3, left, right, out, name)


@pytest.mark.parametrize("name", TARGETS)
def test_convolution_with_channels_in_the_lanes(name: str) -> None:
    n, h, w, o, ky, kx, c = 2, 3, 4, 20, 2, 3, 5
    extents = (n, h, w, o, ky, kx, c)
    wide, tall = w + kx - 1, h + ky - 1
    left = Operand("left", extents, (tall * wide * c, wide * c, c, 0, wide * c, c, 1), slack=False)
    right = Operand("right", extents, (0, 0, 0, ky * kx * c, kx * c, c, 1), slack=False)
    out = Operand("out", extents[:4], (h * w * o, w * o, o, 1), slack=False)
    check(extents, 4, 3, left, right, out, name)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("batch", [16, 5])
def test_the_gradient_of_a_convolution_s_weights(name: str, batch: int) -> None:
    o, c, ky, kx, h, w = 3, 2, 3, 3, 4, 5
    extents = (o, c, ky, kx, h, w, batch)
    wide, tall = w + kx - 1, h + ky - 1
    left = Operand("left", extents, (h * w * batch, 0, 0, 0, w * batch, batch, 1), slack=False)
    strides = (0, tall * wide * batch, wide * batch, batch, wide * batch, batch, 1)
    right = Operand("right", extents, strides, slack=False)
    out = Operand("out", extents[:4], (c * ky * kx, ky * kx, kx, 1), slack=False)
    check(extents, 4, 6, left, right, out, name)


# -- anything ------------------------------------------------------------------------------------------------
def drawn(seed: int) -> tuple[Sequence[int], int, int, Operand, Operand, Operand, str]:
    """Axes of random lengths and parts in random orders of memory, on a random target."""
    generator = np.random.default_rng(seed)
    outputs, summed = int(generator.integers(1, 5)), int(generator.integers(0, 4))
    extents = [int(each) for each in generator.choice([1, 1, 2, 3, 5, 7, 16, 21, 40], outputs + summed)]
    while np.prod(extents) > 60_000:
        extents[int(np.argmax(extents))] = 2
    moves = generator.random((2, len(extents))) < 0.6
    lane = int(generator.integers(0, len(extents)))
    moves[RIGHT, lane] = True
    if lane >= outputs:
        moves[LEFT, lane] = True
    moves[LEFT, ~moves.any(axis=0)] = True

    def strides(moved: Sequence[bool], last: int | None) -> list[int]:
        order = sorted(generator.permutation(len(moved)), key=lambda axis: axis == last)
        found, step = [0] * len(moved), int(generator.choice([1, 1, 1, 2]))
        for axis in reversed(order):
            if moved[axis]:
                found[axis] = step
                step = step * extents[axis] + int(generator.choice([0, 0, 3]))
        return found

    dtype = generator.choice(["float32", "float32", "float64"])
    slack = bool(generator.random() < 0.5)
    contiguous = lane if generator.random() < 0.7 else None
    left = Operand("left", extents, strides(moves[LEFT], contiguous), dtype, slack)
    right = Operand("right", extents, strides(moves[RIGHT], contiguous), dtype, slack)
    out = Operand("out", extents[:outputs], strides([True] * outputs, contiguous), dtype, slack)
    return extents, outputs, lane, left, right, out, str(generator.choice(TARGETS))


@pytest.mark.parametrize("seed", range(60))
def test_random_contractions(seed: int) -> None:
    check(*drawn(seed))


# -- units ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("orientation", ["nn", "nt"])
def test_units_in_any_groups_give_the_same_bits(orientation: str) -> None:
    results = []
    for groups in (
        lambda units: [],
        lambda units: [1, units // 3, units // 2],
        lambda units: list(range(units)),
    ):
        operands = matrices(30, 90, 600, orientation)
        check((30, 90, 600), 2, 1, *operands, "avx512", groups)
        results.append(operands[2].view.copy())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


# -- statements ----------------------------------------------------------------------------------------------
def node(op: str, *arguments: Expression, **attributes: Any) -> Expression:
    """An elementwise operation; comparisons give bool."""
    logical = op in ("less", "greater", "equal")
    return Expression(op, arguments, np.dtype(bool) if logical else arguments[-1].dtype, attributes)


def number(value: float, dtype: Any = np.float32) -> Expression:
    return Expression("constant", (), np.dtype(dtype), {"value": np.dtype(dtype).type(value)})


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("lane", "orientation"), [(1, "nn"), (1, "nt"), (2, "nt")])
@pytest.mark.parametrize(("m", "n", "k"), [(13, 37, 20), (1, 5, 3), (30, 1, 40)])
def test_several_statements(name: str, lane: int, orientation: str, m: int, n: int, k: int) -> None:
    """relu(sum + bias), kept beside; a mask as bool, transposed; a row's factor; a sum that is updated."""
    left, right, out = matrices(m, n, k, orientation, slack=False, pad=0)
    bias = Operand("bias", (m, n), (0, 1), slack=False)
    factor = Operand("factor", (m, n), (3, 0), slack=False)
    rate = Operand("rate", (m, n), (0, 0), slack=False)
    state = Operand("state", (m, n), (1, m), slack=False)
    mask = Operand("mask", (m, n), (1, m + 2), np.bool_, slack=False)
    biased = node("add", SUM["float32"], bias.load)
    first = Statement(node("maximum", biased, number(0)), out.access)
    kept = Expression("result", (), np.dtype(np.float32), {"statement": first})
    second = Statement(node("greater", kept, number(0.5)), mask.access)
    scaled = node("multiply", node("multiply", kept, factor.load), node("exp", rate.load))
    third = Statement(node("add", state.load, scaled), state.access)
    kernel = Contraction((m, n, k), 2, lane, left.access, right.access, (first, second, third))
    relu = np.maximum(reference(left, right, 2) + bias.view, 0)
    state_after = state.view + relu * factor.view * np.exp(rate.view.astype(np.float64))
    operands = {each.access: each.data for each in (left, right, out, bias, factor, rate, state, mask)}
    memories = [operands[place] for place in places(kernel)]  # type: ignore[index]
    run(kernel, memories, dataclasses.replace(restricted(name), l2=0))  # everything is fetched ahead
    np.testing.assert_allclose(out.view, relu, rtol=1e-4, atol=1e-4)
    clear = np.abs(relu - 0.5) > 1e-3
    np.testing.assert_array_equal(mask.view[clear], (relu > 0.5)[clear])
    np.testing.assert_allclose(state.view, state_after, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("k", [20, 700])
@pytest.mark.parametrize("lane", [1, 2])
def test_long_statements_are_looped_over_a_tile(name: str, k: int, lane: int) -> None:
    m, n = 29, 75
    left, right, out = matrices(m, n, k, "nt", slack=False)
    shift = Operand("shift", (m, n), (n, 1), slack=False)
    smooth = node(
        "tanh", node("multiply", node("tanh", node("add", SUM["float32"], shift.load)), number(0.5))
    )
    kernel = Contraction((m, n, k), 2, lane, left.access, right.access, (Statement(smooth, out.access),))
    run(kernel, [left.data, right.data, shift.data, out.data], restricted(name))
    expected = np.tanh(0.5 * np.tanh(reference(left, right, 2) + shift.view))
    np.testing.assert_allclose(out.view, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("lane", [1, 2])
def test_positions(lane: int) -> None:
    """Axes whose positions are asked for are never merged: here they lie end to end in all memory."""
    b, m, n, k = 3, 9, 10, 4
    left = Operand("left", (b, m, n, k), (m * k, k, 0, 1))
    right = Operand("right", (b, m, n, k), (0, 0, 1, n))
    out = Operand("out", (b, m, n), (m * n, n, 1))
    axis = [Expression("position", (), np.dtype(np.int64), {"axis": number}) for number in range(3)]
    later = node("less", axis[1], axis[2])
    shifted = node(
        "add", SUM["float32"], Expression("astype", (axis[0],), np.dtype(np.float32), {"dtype": "float32"})
    )
    value = Expression("where", (later, number(0), shifted), np.dtype(np.float32))
    kernel = Contraction(
        (b, m, n, k), 3, lane + 1, left.access, right.access, (Statement(value, out.access),)
    )
    run(kernel, [left.data, right.data, out.data], restricted("avx512"))
    expected = reference(left, right, 3) + np.arange(b)[:, None, None]
    np.testing.assert_allclose(
        out.view, np.where(np.arange(m)[:, None] < np.arange(n), 0, expected), rtol=1e-4, atol=1e-4
    )


# -- squares -------------------------------------------------------------------------------------------------
class Shuffles:
    """Does with NumPy what the code would do."""

    @staticmethod
    def shuffle(a: Lanes, b: Lanes, lanes: list[int]) -> Lanes:
        return Lanes(np.concatenate([a.values, b.values])[lanes], a.type)


class Lanes:
    def __init__(self, values: np.ndarray[Any, Any], type_: str) -> None:
        self.values, self.type = values, type_


@pytest.mark.parametrize("scalar", ["float", "double", "i64", "i8", "i1"])
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32])
def test_squares_of_vectors_are_turned(lanes: int, scalar: str) -> None:
    square = np.arange(lanes * lanes).reshape(lanes, lanes)
    rows = [Lanes(row, vector(scalar, lanes)) for row in square]
    turned = transposed(cast(Any, Shuffles), cast(Any, rows))
    np.testing.assert_array_equal([cast(Any, column).values for column in turned], square.T)
