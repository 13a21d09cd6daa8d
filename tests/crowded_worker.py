"""Loads compiled code where the only free memory is single pages that lie 8 GB apart, and a lot far below.

Usage: python crowded_worker.py, on Linux, in a process of its own.
"""

from __future__ import annotations

import ctypes

import numpy as np

import chainrule as cr
from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.target import host

PAGE = 4096
APART = 8 << 30
RESERVED = 0x4022  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE

LIBC = ctypes.CDLL(None)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def taken(size: int) -> int:
    """Addresses that nobody can use from now on: the highest free ones."""
    return int(LIBC.mmap(None, size, 0, RESERVED, -1, 0))


def fill(below: int) -> None:
    """Take every free place above `below`."""
    for size in (1 << 30, 1 << 26, 1 << 22, 1 << 18, 1 << 14, PAGE):
        while taken(size) > below:
            pass


def main() -> None:
    x = np.linspace(0.1, 1.0, 120, dtype=np.float32)
    compiled = cr.compile(lambda x: cr.tanh(x) + cr.log(x))
    compiled(x)
    content = compile_object(compiled.show("llvm"), host())
    Code(content, host())
    fill(taken(1 << 30))
    lowest = taken(APART)
    fill(lowest)
    for page in (lowest + PAGE, lowest + APART - PAGE):
        LIBC.munmap(page, PAGE)
    Code(content, host()).address("run")


if __name__ == "__main__":
    main()
