"""What this machine can do at best: its name, multiply-adds per second of one core, bytes per second.

    taskset -c 1 python -m benchmarks.machine

The peak is that of a loop of independent fused multiply-adds in the widest vectors there are, which waits for
nothing: no memory, no result of the one before. Real work is set beside it as a share.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import llvmlite.binding as llvm
import numpy as np

ACCUMULATORS = 12  # more than latency times issue width anywhere, fewer than the 16 registers of AVX2
ROUNDS = 7
TURNS = 1_000_000
COPIED_BYTES = 1 << 28  # far beyond any cache
VECTOR_BITS = (("avx512f", 512), ("avx", 256), ("sse2", 128), ("neon", 128))


@dataclass(frozen=True)
class Machine:
    """One core and its memory: GFLOP/s of float32 multiply-adds, GB/s read and written by a copy."""

    cpu: str
    cores: int
    vector_bits: int
    gflops: float
    bandwidth: float

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores: FMA peak of one {self.gflops:.0f} GFLOP/s (float32, "
            f"{self.vector_bits}-bit vectors), memory copy {self.bandwidth:.1f} GB/s"
        )


def measure() -> Machine:
    """Measures the core this process runs on, in about two seconds."""
    bits = vector_bits()
    cores = os.cpu_count() or 1
    return Machine(cpu_name(), cores, bits, round(fma_gflops(bits), 1), round(copy_bandwidth(), 1))


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    parts = (line.partition(":") for line in lines)
    facts = {name.strip(): value.strip() for name, _, value in parts}
    name = facts.get("model name") or platform.processor() or platform.machine()
    family = f" (family {facts['cpu family']} model {facts['model']})" if "cpu family" in facts else ""
    return name + family


def vector_bits() -> int:
    """Width of the widest vectors the processor has."""
    features = llvm.get_host_cpu_features()
    return next((bits for name, bits in VECTOR_BITS if features.get(name)), 128)


def fma_gflops(bits: int) -> float:
    """Billions of float32 operations per second, a multiply-add being two."""
    lanes = bits // 32
    _engine, run = _compiled(_fma_loop(lanes))
    seconds = _best(lambda: run(TURNS, 0.999999, 1e-6))
    return 2 * lanes * ACCUMULATORS * TURNS / seconds / 1e9


def cores_worth(cpus: Sequence[int]) -> float:
    """How many cores these CPUs are worth now: what they compute together beside what each does alone.

    Two for two cores; one for two hardware threads of a core, which a virtual machine's host may make of its
    CPUs for seconds at a time, unseen from inside.
    """
    _engine, run = _compiled(_fma_loop(vector_bits() // 32))

    def seconds(cpu: int, together: Barrier) -> float:
        os.sched_setaffinity(0, {cpu})  # of this thread
        run(TURNS // 100, 0.999999, 1e-6)
        together.wait()
        start = time.perf_counter()
        run(TURNS, 0.999999, 1e-6)
        return time.perf_counter() - start

    with ThreadPoolExecutor(len(cpus)) as pool:
        alone = [pool.submit(seconds, cpu, Barrier(1)).result() for cpu in cpus]
        all_ = Barrier(len(cpus))
        beside = [each.result() for each in [pool.submit(seconds, cpu, all_) for cpu in cpus]]
    return sum(one / shared for one, shared in zip(alone, beside, strict=True))


def copy_bandwidth() -> float:
    """Billions of bytes per second that a copy between two large arrays reads and writes."""
    source = np.ones(COPIED_BYTES // 8)
    target = np.zeros_like(source)
    return 2 * COPIED_BYTES / _best(lambda: np.copyto(target, source)) / 1e9


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest round: a peak is what happens when nothing else does."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _fma_loop(lanes: int) -> str:
    """IR of `float run(i64 turns, float a, float b)`: every accumulator becomes itself · a + b, each turn."""
    v, each = f"<{lanes} x float>", range(ACCUMULATORS)
    intrinsic = f"v{lanes}f32"

    def splat(name: str) -> list[str]:
        return [
            f"%{name}.0 = insertelement {v} poison, float %{name}, i32 0",
            f"%{name}.v = shufflevector {v} %{name}.0, {v} poison, <{lanes} x i32> zeroinitializer",
        ]

    start = [f"%start{k} = fmul {v} %a.v, splat (float {k + 1}.0)" for k in each]
    held = [f"%x{k} = phi {v} [%start{k}, %entry], [%y{k}, %loop]" for k in each]
    step = [f"%y{k} = call {v} @llvm.fma.{intrinsic}({v} %x{k}, {v} %a.v, {v} %b.v)" for k in each]
    total = [f"%sum{k} = fadd {v} {f'%sum{k - 1}' if k else '%b.v'}, %y{k}" for k in each]
    last = f"{v} %sum{ACCUMULATORS - 1}"
    body = "\n".join(
        [
            "entry:", *splat("a"), *splat("b"), *start, "br label %loop",
            "loop:", "%i = phi i64 [0, %entry], [%next, %loop]", *held, *step,
            "%next = add i64 %i, 1", "%more = icmp ult i64 %next, %turns",
            "br i1 %more, label %loop, label %end",
            "end:", *total,
            f"%result = call float @llvm.vector.reduce.fadd.{intrinsic}(float 0.0, {last})",
            "ret float %result",
        ]
    )  # fmt: skip
    return (
        f"declare {v} @llvm.fma.{intrinsic}({v}, {v}, {v})\n"
        f"declare float @llvm.vector.reduce.fadd.{intrinsic}(float, {v})\n"
        f"define float @run(i64 %turns, float %a, float %b) #0 {{\n{body}\n}}\n"
        f'attributes #0 = {{ "prefer-vector-width"="{32 * lanes}" }}\n'
    )


def _compiled(ir: str) -> tuple[llvm.ExecutionEngine, Callable[[int, float, float], float]]:
    """The function `run` of this IR as machine code of this processor, and the engine that keeps the code."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(ir), machine)
    engine.finalize_object()
    signature = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float, ctypes.c_float)
    return engine, signature(engine.get_function_address("run"))


if __name__ == "__main__":
    print(measure())
