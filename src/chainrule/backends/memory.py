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
    onto    symbol → operand in whose array it is written, where that array is not in the arena
    dead    call → symbols outside of the arena that nobody needs after it
    """

    block: dict[Symbol, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    onto: dict[Symbol, Symbol] = field(default_factory=dict)
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
    """Places for the results of `calls`, such that none is overwritten before its last use.

    An elementwise call may write onto an operand that dies with it; any other takes a block that was free
    before the call, so that it never reads what it has already overwritten.
    """
    memory = Memory()
    dying = _dying(calls, outputs)
    own = _own_arrays(calls, outputs, dying, memory.onto)
    for call in calls:
        ends, result = dying[call], call.result
        if writes_into(call) and result.root is result and result not in own:
            onto = next((each for each in ends if each in memory.block and _same_place(call, each)), None)
            memory.block[result] = memory.block[onto] if onto else memory.take(result.span)
            ends = [each for each in ends if each is not onto]
        for each in ends:
            if each in memory.block:
                memory.give_back(each)
        memory.dead[call] = [
            each for each in ends if each not in memory.block and each is not memory.onto.get(result)
        ]
    return memory


def _own_arrays(
    calls: Sequence[Call], outputs: Sequence[Any], dying: dict[Call, list[Symbol]], onto: dict[Symbol, Symbol]
) -> set[Symbol]:
    """Symbols that are not in the arena: what is handed over, and what it grows out of in the same array.

    ``m * 0.9 + t`` is computed in the array that is handed over from the product on: one array less goes
    through the cache.
    """
    made_here = {call.result for call in calls if writes_into(call)}
    own = {each.root for each in outputs if isinstance(each, Symbol) and is_handed_over(each)}
    for call in reversed(calls):
        if call.result in own and call.result in made_here and call.result.shape:
            for operand in dying[call]:
                if operand in made_here and operand.root is operand and _same_place(call, operand):
                    onto[call.result] = operand
                    own.add(operand)
                    break
    return own


def _dying(calls: Sequence[Call], outputs: Sequence[Any]) -> dict[Call, list[Symbol]]:
    """The symbols whose memory, their own or a view of it, is touched for the last time by each call."""
    last_use: dict[Symbol, Call] = {}
    for call in calls:
        for each in (*call.symbols, *call.results):
            last_use[each.root] = call
    kept = {each.root for each in outputs if isinstance(each, Symbol)}
    dying: dict[Call, list[Symbol]] = {call: [] for call in calls}
    for symbol, call in last_use.items():
        if symbol not in kept and not symbol.is_input:
            dying[call].append(symbol)
    return dying


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
