"""Contractions in machine code: sums of products in every orientation, and what happens to the sums.

The oracle is NumPy's einsum on strided views of the same memory.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.contraction import emit_contraction
from chainrule.backends.native.emit import INDEX, POINTER, Function, Module
from chainrule.backends.native.target import Target, restricted
from chainrule.schedule.kernels import Access, Buffer, Contraction, Expression, Statement

Array = np.ndarray[Any, Any]
TARGETS = ("avx512", "avx2", "x86-64")
PAGE = mmap.PAGESIZE


# -- memory ----------------------------------------------------------------------------------------------------
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
        generator = np.random.default_rng(abs(hash(name)) % 1000 + seed)
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
    groups: Callable[[int], list[int]] | None = None,
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
    for last in [*(groups(emitted.units) if groups else []), emitted.units]:
        function(*pointers, scratch.ctypes.data, first, last)
        first = last


SUM = {dtype: Expression("sum", (), np.dtype(dtype)) for dtype in ("float32", "float64", "int32", "bool")}


def check(
    extents: Sequence[int], outputs: int, lane: int, left: Operand, right: Operand, out: Operand, name: str,
    groups: Callable[[int], list[int]] | None = None,
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
    m: int, n: int, k: int, orientation: str, dtype: Any = np.float32, slack: bool = True, overrun: bool = False,
    pad: int = 3,
) -> tuple[Operand, Operand, Operand]:  # fmt: skip
    """Operands of a matrix product: "nt" is a plain left and a transposed right one. Rows have padding."""
    across = {"n": (k + pad, 0, 1), "t": (1, 0, m + pad)}[orientation[0]]
    down = {"n": (0, 1, n + pad), "t": (0, k + pad, 1)}[orientation[1]]
    return (
        Operand("left", (m, n, k), across, dtype, slack),
        Operand("right", (m, n, k), down, dtype, slack),
        Operand("out", (m, n), (n + pad, 1), dtype, slack, overrun),
    )


# -- plain products ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("orientation", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (7, 19, 5), (13, 70, 33), (3, 130, 17), (37, 10, 64)])
def test_matrix_products(name: str, orientation: str, m: int, n: int, k: int) -> None:
    check((m, n, k), 2, 1, *matrices(m, n, k, orientation), name)
    check((m, n, k), 2, 1, *matrices(m, n, k, orientation, np.float64, slack=False, pad=0), name)
