"""Kernels that are no loop nest: which function writes the code of which."""

from __future__ import annotations

from collections.abc import Callable

from chainrule.backends.native.emit import Emitted, Function, Module
from chainrule.backends.native.indexing import emit_checked_indices, emit_gather, emit_scatter
from chainrule.backends.native.ordering import emit_argsort, emit_cumulative_sum, emit_extreme
from chainrule.backends.native.tallying import emit_tally
from chainrule.backends.native.target import Target
from chainrule.backends.native.threefry import emit_fold_in, emit_random_bits
from chainrule.backends.native.values import INDEX, POINTER
from chainrule.schedule.kernels import Special, places

_EMITTERS: dict[str, Callable[[Function, Special, Target], Emitted]] = {
    "gather": emit_gather,
    "scatter": emit_scatter,
    "checked_indices": emit_checked_indices,
    "argmax": emit_extreme,
    "argmin": emit_extreme,
    "argsort": emit_argsort,
    "cumulative_sum": emit_cumulative_sum,
    "random_bits": emit_random_bits,
    "fold_in": emit_fold_in,
    "tally": emit_tally,
}
SPECIALS = frozenset(_EMITTERS)
"""Records whose nodes may become a `Special`; any other has to run on the reference."""


def emit_special(module: Module, name: str, kernel: Special, target: Target) -> Emitted:
    """Write the function of a special kernel into a module.

    One that meets an index out of range says so through `status`.

    >>> import numpy as np
    >>> from chainrule.backends.native.emit import Module
    >>> from chainrule.backends.native.target import host
    >>> from chainrule.schedule.kernels import Buffer, Special, View
    >>> key = Buffer("key", np.dtype("uint32"), (2,), (1,), 2)
    >>> bits = Buffer("bits", np.dtype("uint32"), (3, 100), (100, 1), 300)
    >>> views = View(key, 0, (2,), (1,)), View(bits, 0, (3, 100), (100, 1))
    >>> module = Module()
    >>> emitted = emit_special(module, "bits", Special("random_bits", {}, views[:1], views[1]), host())
    >>> emitted.scratch, sorted(module.functions)[0]
    (0, 'bits')
    """
    pointers = [(f"place{k}", POINTER) for k in range(len(places(kernel)))]
    arguments = [*pointers, ("scratch", POINTER), ("first", INDEX), ("last", INDEX)]
    function = Function(module, name, arguments)
    emitted = _EMITTERS[kernel.record](function, kernel, target)
    function.give_back()
    return emitted
