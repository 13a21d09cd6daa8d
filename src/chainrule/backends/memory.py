"""Where the arrays of a run live: in blocks that are used again as soon as a value is dead.

A result is written into a block of the *arena* when NumPy can be told where to put it. What is handed to the
caller never lies in the arena: such a result is allocated anew in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.backends.recording import Call, Symbol
from chainrule.graph import Array

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""


@dataclass
class Memory:
    """The plan.

    block   symbol → number of its block in the arena; only symbols that are no views
    sizes   bytes of each block
    dead    call → symbols outside of the arena that nobody needs after it
    """

    block: dict[Symbol, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    dead: dict[Call, list[Symbol]] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)

    def take(self, size: int) -> int:
        """A free block: the smallest that is large enough, else the largest, grown; else a new one."""
        if not self._free:
            self.sizes.append(size)
            return len(self.sizes) - 1
        fitting = [each for each in self._free if self.sizes[each] >= size]
        best = (
            min(fitting, key=self.sizes.__getitem__)
            if fitting
            else max(self._free, key=self.sizes.__getitem__)
        )
        self._free.remove(best)
        self.sizes[best] = max(self.sizes[best], size)
        return best

    def give_back(self, symbol: Symbol) -> None:
        """The block of a dead symbol is free."""
        self._free.append(self.block[symbol])


def plan(calls: Sequence[Call], outputs: Sequence[Any]) -> Memory:
    """Blocks for the results of `calls`, such that none is overwritten before its last use.

    An elementwise call may write onto an operand that dies with it; any other takes a block that was free
    before the call, so that it never reads what it has already overwritten.
    """
    memory = Memory()
    kept = {each.root for each in outputs if isinstance(each, Symbol)}
    handed_over = {each.root for each in outputs if isinstance(each, Symbol) and is_handed_over(each)}
    ends: dict[Call, list[Symbol]] = {call: [] for call in calls}
    for symbol, call in _last_uses(calls).items():
        if symbol not in kept and not symbol.is_input:
            ends[call].append(symbol)
    for call in calls:
        dying, result = ends[call], call.result
        if writes_into(call) and result.root is result and result not in handed_over:
            onto = next((each for each in dying if each in memory.block and _same_place(call, each)), None)
            memory.block[result] = memory.block[onto] if onto else memory.take(result.span)
            dying = [each for each in dying if each is not onto]
        for each in dying:
            if each in memory.block:
                memory.give_back(each)
        memory.dead[call] = [each for each in dying if each not in memory.block]
    return memory


def is_handed_over(symbol: Symbol) -> bool:
    """True for an output that is given to the caller as it is, not copied.

    Copied is what the caller gave, what would keep a larger array alive, and what is not row-major: state
    that goes round and round must not depend on how it was laid out before a checkpoint.
    """
    return not symbol.root.is_input and symbol.size == symbol.root.size and symbol.is_row_major


def writes_into(call: Call) -> bool:
    """True for a call that can be told where to put its result."""
    if call.kind == "method":
        return bool(call.function == "astype")
    return call.kind in ("ufunc", "reduce") or call.function in (np.where, np.concatenate)


def _last_uses(calls: Sequence[Call]) -> dict[Symbol, Call]:
    """The last call that touches each symbol's memory, itself or through a view of it."""
    found: dict[Symbol, Call] = {}
    for call in calls:
        for each in (*call.symbols, *call.results):
            found[each.root] = call
    return found


def _same_place(call: Call, operand: Symbol) -> bool:
    """True when the result can take the place of `operand`, element by element."""
    uses = any(each is operand for each in call.arguments)
    if call.kind != "ufunc" or call.function.signature is not None or not uses:
        return False
    result = call.result
    same_layout = operand.shape == result.shape and operand.strides == result.strides
    return bool(same_layout and operand.dtype.itemsize == result.dtype.itemsize)


def block(size: int) -> Array:
    """`size` bytes that begin on a cache line."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
