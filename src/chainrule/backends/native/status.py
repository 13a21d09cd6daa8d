"""What machine code says when an index lies outside of its axis.

It touches no memory out of bounds: it takes position 0 instead, notes which kernel this was, and goes on. The
note is one number per module, `@out_of_range`; whoever ran the code asks for it through the exported function
``i32 take_out_of_range()``, which returns it (0: all indices were good) and forgets it, discards the results
and raises `bounds_error`. The number is computed from the name of the kernel's function, so that an object
from the cache explains itself. Calls that run at the same time share the note: take it under the lock, or
let both fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.values import Value, constant
from chainrule.errors import BoundsError
from chainrule.graph import describe
from chainrule.schedule.kernels import Special

ACCESSOR = "take_out_of_range"


def declare_status(module: Module) -> Value:
    """The note of a module and the function that takes it; asked for again, the same. Returns its address."""
    note = module.variable("out_of_range", "i32")
    if ACCESSOR not in module.functions:
        function = Function(module, ACCESSOR, [], result="i32", internal=False)
        taken = function.emit("i32", f"atomicrmw xchg {note}, i32 0 monotonic")
        function.give_back(taken)
    return note


def failure_number(name: str) -> int:
    """What the kernel whose function is called `name` notes: never 0, the same in every process."""
    return crc32(name.encode()) & 0x7FFFFFFF or 1


def note_failure(function: Function) -> None:
    """Code for: an index of this kernel is out of range. What was noted first stays."""
    note = declare_status(function.module)
    number = constant(failure_number(function.name), "i32")
    function.emit("{ i32, i1 }", f"cmpxchg {note}, i32 0, {number} monotonic monotonic")


def indexed_axes(kernel: Special) -> tuple[tuple[int, int], ...]:
    """(axis, length) of the axes that the indices of a kernel run over."""
    axis, count = kernel.attributes["axis"], len(kernel.operands) - 1
    if kernel.record == "checked_indices":
        return ((axis, kernel.attributes["extent"]),)
    shape = (kernel.operands[0] if kernel.record == "gather" else kernel.target).shape
    return tuple((k, shape[k]) for k in range(axis, axis + count))


def bounds_error(kernels: Sequence[Special]) -> BoundsError:
    """The error for the kernels that share a function which noted an index out of range."""
    node_names = dict.fromkeys(describe(node) for kernel in kernels for node in kernel.nodes)
    axes = indexed_axes(kernels[0])
    extents = " or ".join(f"axis {axis} with size {extent}" for axis, extent in axes)
    return BoundsError(f"{' or '.join(node_names)}: an index is out of bounds for {extents}")
