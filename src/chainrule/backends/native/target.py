"""What the code is made for: the processor's vector registers and caches.

Tile sizes and vector widths follow from this description; nothing else in the backend names a processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Target:
    """A processor.

    vector_bytes  width of a vector register; registers: how many there are
    features      LLVM's feature string
    l1, l2        bytes of data cache that one core has to itself
    """

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    fused: bool = True
    l1: int = 32 << 10
    l2: int = 1 << 20

    def lanes(self, dtype: Any) -> int:
        """Elements of `dtype` in a vector register."""
        return self.vector_bytes // int(np.dtype(dtype).itemsize)


@cache
def host() -> Target:
    """The processor this runs on."""
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    available = llvm.get_host_cpu_features()
    text = available.flatten()
    cpu = llvm.get_host_cpu_name()
    if available.get("avx512f") and available.get("avx512vl") and available.get("avx512dq"):
        return Target(triple, cpu, text, 64, 32)
    if available.get("avx2") and available.get("fma"):
        return Target(triple, cpu, text, 32, 16)
    if triple.startswith(("aarch64", "arm64")):
        return Target(triple, cpu, text, 16, 32)
    return Target(triple, cpu, text, 16, 16, fused=bool(available.get("fma")))


def restricted(name: str) -> Target:
    """The host held to fewer features: "avx512", "avx2" or "x86-64"; for tests of the narrower targets."""
    whole = host()
    if name == "avx512":
        return whole
    if name == "avx2":
        return Target(whole.triple, "haswell", "", 32, 16)
    if name == "x86-64":
        return Target(whole.triple, "x86-64", "", 16, 16, fused=False)
    raise ValueError(f"there is no target {name!r}: choose avx512, avx2 or x86-64")
