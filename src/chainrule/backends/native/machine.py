"""What this machine can do at best: multiply-adds and bytes per second, and how its counter of time runs.

Measured once, in about a tenth of a second, and kept in the cache's folder: a profile sets the times of
kernels beside these.
"""

from __future__ import annotations

import ctypes
import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from chainrule import atomic
from chainrule.backends.native.arena import address
from chainrule.backends.native.build import Code
from chainrule.backends.native.cache import compiled, default_folder
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.step import flushing_denormals
from chainrule.backends.native.target import Target, host
from chainrule.backends.native.values import INDEX, POINTER, Index, Value, constant, vector
from chainrule.backends.native.watching import ticks
from chainrule.errors import RunError

_ACCUMULATORS = 12
"""More than the latency of a multiply-add times how many begin at once; fewer than AVX2 has registers."""
_TURNS = 100_000
_COPIED = 128 << 20
"""Bytes: twice this is beyond the caches of most processors."""
_ROUNDS, _COPIES = 5, 2
_LOOKS = 1000


@dataclass(frozen=True)
class Machine:
    """One core of this machine, as it was measured.

    flops   float32 operations per second of independent multiply-adds, each of which is two; float64: half
    bytes   read and written per second by a copy between arrays too large for the caches
    """

    flops: float
    bytes: float

    def __str__(self) -> str:
        return (
            f"multiply-adds of one core at most {self.flops / 1e9:.0f} GFLOP/s (float32), memory "
            f"{self.bytes / 1e9:.1f} GB/s"
        )


def machine() -> Machine:
    """This machine: from the cache's folder, or measured now and kept there."""
    path = default_folder() / f"machine-{_name()}.json"
    with suppress(OSError, ValueError, TypeError):
        return Machine(**json.loads(path.read_text(encoding="utf-8")))
    measured = measure()
    with suppress(RunError, OSError):  # a folder that may only be read
        atomic.write_text(path, json.dumps(asdict(measured)))
    return measured


def measure() -> Machine:
    """Measure the core this runs on. The quickest round counts: it was disturbed least."""
    lanes = host().lanes(np.float32)
    result = np.empty(lanes, np.float32)
    multiply_add = _code().function("multiply_add", ctypes.c_void_p)
    seconds = _quickest(lambda: multiply_add(address(result)))
    source, target = np.zeros((2, _COPIED), np.uint8)
    source[:], target[:] = 1, 2  # so that the pages are there
    copy = _code().function("copy", ctypes.c_void_p, ctypes.c_void_p)
    return Machine(
        2 * lanes * _ACCUMULATORS * _TURNS / seconds,
        2 * _COPIED / _quickest(lambda: copy(address(source), address(target)), _COPIES),
    )


@cache
def ticks_per_second() -> float:
    """How fast the counter of time runs, held against the clock for some milliseconds."""
    read = _code().function("now", result=ctypes.c_int64)
    first, started = read(), time.perf_counter()
    while time.perf_counter() - started < 0.005:
        pass
    last, stopped = read(), time.perf_counter()
    return float((last - first) / (stopped - started))


@cache
def ticks_of_a_look() -> float:
    """How long it takes to look at the counter."""
    looks = _code().function("looks", result=ctypes.c_int64)
    return min(int(looks()) for _ in range(_ROUNDS)) / _LOOKS


def _quickest(work: Callable[[], object], rounds: int = _ROUNDS) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _name() -> str:
    """Tells one kind of machine from another, for caches in a home that several machines share."""
    target = host()
    model = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line for line in lines if line.startswith("model name")), model)
    return sha256(f"{platform.node()} {model} {target}".encode()).hexdigest()[:16]


# -- code ----------------------------------------------------------------------------------------------------
@cache
def _code() -> Code:
    target = host()
    module = Module(target.triple)
    _emit_multiply_add(module, target)
    _emit_copy(module, target)
    now = Function(module, "now", [], result=INDEX, internal=False)
    now.give_back(ticks(now))
    _emit_looks(module)
    return Code(compiled(module.text(), target), target)


def _emit_multiply_add(module: Module, target: Target) -> None:
    """``void multiply_add(ptr result)``: every accumulator becomes itself · a + b, turn after turn."""
    function = Function(module, "multiply_add", [("result", POINTER)], internal=False)
    (result,) = function.arguments
    type_ = vector("float", target.lanes(np.float32))
    a, b = constant(0.999, type_), constant(0.001, type_)

    def turn(_: Index, held: list[Value]) -> list[Value]:
        return [function.fma(each, a, b) for each in held]

    def loop() -> None:
        start = [constant(k, type_) for k in range(_ACCUMULATORS)]
        total, *others = function.loop(0, _TURNS, 1, start, turn)
        for each in others:
            total = function.binary("fadd", total, each)
        function.store(total, result)

    flushing_denormals(function, target, loop)
    function.give_back()


def _emit_copy(module: Module, target: Target) -> None:
    """``void copy(ptr source, ptr target)``: in whole vectors."""
    function = Function(module, "copy", [("source", POINTER), ("target", POINTER)], internal=False)
    source, to = function.arguments
    type_ = f"<{target.vector_bytes} x i8>"

    def line(at: Index, _: list[Value]) -> None:
        function.store(function.load(function.at(source, at, "i8"), type_), function.at(to, at, "i8"))

    function.loop(0, _COPIED, target.vector_bytes, [], line)
    function.give_back()


def _emit_looks(module: Module) -> None:
    """``i64 looks()``: ticks that some looks at the counter take."""
    function = Function(module, "looks", [], result=INDEX, internal=False)
    first = ticks(function)

    def look(_: Index, __: list[Value]) -> list[Value]:
        return [ticks(function)]

    (last,) = function.loop(0, _LOOKS, 1, [first], look)
    function.give_back(function.binary("sub", last, first))
