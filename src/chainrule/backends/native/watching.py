"""What may be done around every call of a kernel; by default nothing, and nothing is written for it.

A watch has memory of its own in every frame, behind slot WATCH of the table of base pointers, and adds code
to the step: see `profile` (how long does each kernel take?) and `checked` (who made the first NaN?).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from chainrule.backends.native.emit import Function
from chainrule.backends.native.values import POINTER, Value, constant
from chainrule.graph import Array
from chainrule.schedule.kernels import Access, Kernel, Schedule, View
from chainrule.schedule.memory import WATCH, Plan

Pointer = Callable[[Access | View], Value]
"""Where an access of the running kernel begins."""


class Watch:
    """Watches nothing."""

    def told(self, schedule: Schedule, plan: Plan) -> str:
        """Everything its code depends on besides the calls of the kernels, as text."""
        return ""

    def bytes(self, schedule: Schedule) -> int:
        """Memory of the watch in every frame, zeros at first."""
        return 0

    def begin(self, step: Function, table: Value, schedule: Schedule, pointer: Pointer) -> None:
        """Code for the beginning of a step."""

    def kernel(
        self, step: Function, table: Value, number: int, kernel: Kernel, pointer: Pointer,
        call: Callable[[], None],
    ) -> None:  # fmt: skip
        """Code for a call of kernel `number` of the innermost ones; `call` writes the call itself."""
        call()

    def work(self, function: Function, table: Value, number: int, body: Callable[[], object]) -> None:
        """Code for work that is no kernel: 0 is everything, from 1 on the arrays of a batch are gathered."""
        body()

    def after(self, memory: Array) -> None:
        """Called after every run with the memory of its frame, by whoever ran it."""


UNWATCHED = Watch()


def memory_of(function: Function, table: Value) -> Value:
    """The memory of the watch."""
    return function.load(function.at(table, WATCH, POINTER), POINTER)


def ticks(function: Function) -> Value:
    """The processor's counter of time, in units of its own (see `machine.ticks_per_second`).

    It is read when everything before is done and before anything after it begins: processors work ahead.
    """
    if function.module.triple.startswith(("aarch64", "arm64")):
        # The cycle counter is closed to programs there; the timer that all cores share is open.
        fence = partial(function.intrinsic, "llvm.aarch64.isb", "void", [constant(15, "i32")])
        counter = function.module.named("cntvct_el0")
        read = partial(function.intrinsic, "llvm.read_volatile_register.i64", "i64", [counter])
    else:
        fence = partial(function.intrinsic, "llvm.x86.sse2.lfence", "void", [])
        read = partial(function.intrinsic, "llvm.readcyclecounter", "i64", [])
    fence()
    now = read()
    fence()
    return now
