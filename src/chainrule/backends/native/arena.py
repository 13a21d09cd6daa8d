"""Memory for native code: cache-line aligned, in huge pages where large, between forbidden pages where asked.

Nothing here is ever shared with a forked child: each process writes its own copy.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

from chainrule.errors import ChainruleError
from chainrule.graph import Array
from chainrule.schedule.memory import LINE, Region

_HUGE = 2 << 20
"""Bytes of a huge page; from twice that on an arena asks for them, which saves walks through page tables."""
_POISON = 0xFF
"""Every byte of guarded memory before a run: NaN in floats, so that reading what nobody wrote shows."""


def allocate(region: Region) -> Array:
    """The bytes of a region, all zero: of partial sums, places that nobody writes to are read too."""
    if region.guards:
        return _guarded(region)
    if region.size < 2 * _HUGE or sys.platform == "win32":
        return _aligned(np.zeros(region.size + LINE, np.uint8), LINE, region.size)
    mapped = _mapped(region.size + _HUGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return _aligned(np.frombuffer(mapped, np.uint8), _HUGE, region.size)


def poison(memory: Array, region: Region) -> None:
    """Overwrite guarded memory before a run."""
    for (_, start), (stop, _) in zip(region.guards, region.guards[1:], strict=False):
        memory[start:stop] = _POISON


def check_fronts(memory: Array, region: Region) -> None:
    """Raise where a run has written before the beginning of a guarded buffer."""
    for start, stop in region.fronts:
        if (memory[start:stop] != _POISON).any():
            raise ChainruleError(f"native code wrote before the buffer at byte {stop} of its memory")


def address(array: Array) -> int:
    """Where an array's first element lies."""
    found: int = array.__array_interface__["data"][0]
    return found


def _mapped(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _aligned(memory: Array, alignment: int, size: int) -> Array:
    start = -address(memory) % alignment
    return memory[start : start + size]


def _guarded(region: Region) -> Array:
    memory = np.frombuffer(_mapped(region.size), np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for start, stop in region.guards:
        begin = ctypes.c_void_p(address(memory) + start)
        if protect(begin, ctypes.c_size_t(stop - start), 0):
            raise OSError(ctypes.get_errno(), "cannot protect guard pages")
    return memory
