"""How near contractions come to the processor's peak: one core, one kernel at a time, operands in cache.

    taskset -c 0 .venv/bin/python -m benchmarks.contractions

The peak is measured too, right before each shape. Of several rounds the median of the processor's time
counts. Shapes are those of layers of the networks that the project is timed on, in every orientation: "nt" is
a plain left and a transposed right operand, as in ``x @ weight.T``.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.machine import fma_gflops
from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.contraction import emit_contraction
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.target import Target, host, restricted
from chainrule.backends.native.values import INDEX, POINTER, Index, Value, constant
from chainrule.schedule.kernels import Access, Buffer, Contraction, Expression, Statement

SHAPES = [
    (64, 64, 64), (128, 256, 784), (128, 784, 256), (784, 256, 128), (256, 1024, 784), (256, 1024, 1024),
    (1024, 192, 64), (128, 10, 128), (1024, 784, 256),
]  # fmt: skip
ORIENTATIONS = ("nn", "nt", "tn", "tt")
ROUNDS = 7
_KEPT: list[Code] = []  # the code that is still to run
FLOAT = np.dtype(np.float32)


def padded(extent: int) -> int:
    """A row's length in memory: whole vectors, away from powers of two, as schedules lay out their arrays."""
    whole = -(-extent // 16) * 16
    return whole + 16 if whole >= 128 and whole % 64 == 0 else whole


def operand(
    name: str, rows: int, columns: int, strides: tuple[int, ...]
) -> tuple[Access, np.ndarray[Any, Any]]:
    """An access to an array of random numbers, with room behind it, and the array."""
    size = rows * padded(columns)
    data = np.random.default_rng(0).normal(size=size + 256).astype(FLOAT)
    start = -(data.ctypes.data // 4) % 16
    return Access(Buffer(name, FLOAT, (size,), (1,), size), 0, strides, overrun=True), data[start:]


def product(
    m: int, n: int, k: int, orientation: str, relu: bool
) -> tuple[Contraction, list[np.ndarray[Any, Any]]]:
    """A matrix product, perhaps with a bias and relu, and its memory."""
    across = (padded(k), 0, 1) if orientation[0] == "n" else (1, 0, padded(m))
    down = (0, 1, padded(n)) if orientation[1] == "n" else (0, padded(k), 1)
    left = operand("left", *((m, k) if orientation[0] == "n" else (k, m)), across)
    right = operand("right", *((k, n) if orientation[1] == "n" else (n, k)), down)
    out = operand("out", m, n, (padded(n), 1))
    total = Expression("sum", (), FLOAT)
    value, bias = total, []
    if relu:
        bias = [operand("bias", 1, n, (0, 1))]
        load = Expression("load", (), FLOAT, {"access": bias[0][0]})
        zero = Expression("constant", (), FLOAT, {"value": FLOAT.type(0)})
        value = Expression("maximum", (Expression("add", (total, load), FLOAT), zero), FLOAT)
    kernel = Contraction((m, n, k), 2, 1, left[0], right[0], (Statement(value, out[0]),))
    return kernel, [data for _, data in (left, right, *bias, out)]


def repeating(kernel: Contraction, target: Target) -> tuple[Callable[..., None], int, float]:
    """A function that runs all units of a kernel n times, its bytes of scratch, the seconds to compile."""
    start = time.thread_time()
    module = Module(target.triple)
    emitted = emit_contraction(module, "kernel", kernel, target)
    pointers = len(module.functions["kernel"].arguments) - 2
    names = [(f"p{k}", POINTER) for k in range(pointers)]
    outside = Function(module, "outside", [*names, ("count", INDEX)], internal=False)
    units = [constant(0, INDEX), constant(emitted.units, INDEX)]

    def once(_: Index, __: Sequence[Value]) -> None:
        outside.call("kernel", "void", [*outside.arguments[:-1], *units])

    outside.loop(0, outside.arguments[-1], 1, [], once)
    outside.give_back()
    code = Code(compile_object(module.text(), target), target)
    spent = time.thread_time() - start
    run = code.function("outside", *[ctypes.c_void_p] * pointers, ctypes.c_int64)
    _KEPT.append(code)
    return run, emitted.scratch, spent


def seconds_each(function: Callable[..., None], pointers: Sequence[int], flops: float) -> float:
    """The median over rounds of about 20 ms of the seconds that one run takes."""
    count = max(1, int(20e-3 * 100e9 / flops))
    function(*pointers, max(1, count // 4))
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        function(*pointers, count)
        rounds.append((time.thread_time() - start) / count)
    return sorted(rounds)[ROUNDS // 2]


def main() -> None:
    """Print a row per shape: the share of the peak in every orientation, with and without an epilogue."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--target", default="avx512", choices=["avx512", "avx2", "x86-64"])
    parser.add_argument("--shape", help="only this one, such as 64,64,64")
    options = parser.parse_args()
    target = host() if options.target == "avx512" else restricted(options.target)
    shapes = [tuple(map(int, options.shape.split(",")))] if options.shape else SHAPES
    print(
        "% of the peak; the last columns are nt with a bias and relu, its milliseconds to compile, the peak"
    )
    heads = (*ORIENTATIONS, "relu", "ms", "GFLOP/s")
    print(f"{'M':>6}{'N':>6}{'K':>6}" + "".join(f"{each:>8}" for each in heads))
    for m, n, k in shapes:
        cells, spent, best = [], 0.0, 1e9 * fma_gflops(8 * target.vector_bytes)
        for orientation, relu in [*((each, False) for each in ORIENTATIONS), ("nt", True)]:
            kernel, arrays = product(m, n, k, orientation, relu)
            function, scratch, spent = repeating(kernel, target)
            memory = np.zeros(scratch + 64, np.uint8)
            aligned = -(-memory.ctypes.data // 64) * 64
            pointers = [each.ctypes.data for each in arrays] + [aligned]
            flops = 2.0 * m * n * k
            cells.append(100 * flops / seconds_each(function, pointers, flops) / best)
        print(
            f"{m:>6}{n:>6}{k:>6}"
            + "".join(f"{each:>8.0f}" for each in cells)
            + f"{1e3 * spent:>8.0f}{best / 1e9:>8.0f}"
        )


if __name__ == "__main__":
    main()
