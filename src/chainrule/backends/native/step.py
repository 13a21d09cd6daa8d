"""One LLVM function per distinct kernel, and the step that calls them all.

    void step(ptr table)    every kernel once, in order; `table` holds the base pointers of `schedule.memory`
    void run(ptr table)     the same for callers from outside: denormal numbers count as zero meanwhile

Equal kernels share a function (see `schedule.structure`), so twenty equal layers make three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chainrule.backends.native.emit import INDEX, POINTER, Emitted, Function, Module, Value, constant
from chainrule.backends.native.status import ACCESSOR
from chainrule.backends.native.target import Target
from chainrule.schedule.kernels import Kernel, Schedule, places
from chainrule.schedule.memory import SCRATCH, Plan
from chainrule.schedule.structure import structure

Emitter = Callable[[Module, str, Any, Target], Emitted]
"""Writes the function of one kind of kernel: ``emit(module, name, kernel, target)``."""

_FLUSH_X86 = 0x8040  # MXCSR: results and operands that are denormal count as zero (FTZ, DAZ)
_FLUSH_ARM = 1 << 24  # FPCR.FZ: both


@dataclass(frozen=True)
class Functions:
    """The distinct kernels of a schedule.

    texts    their structures; function k is called ``{kind}_{k}``
    kernels  one kernel of each structure
    numbers  for every kernel of the schedule, the number of its function
    """

    texts: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    numbers: tuple[int, ...]

    def name(self, number: int) -> str:
        return f"{self.texts[number].split(None, 1)[0]}_{number}"


def distinct(schedule: Schedule) -> Functions:
    """Kernels with the same structure together."""
    found: dict[str, int] = {}
    kernels, numbers = [], []
    for kernel in schedule.kernels:
        text = structure(kernel)
        if text not in found:
            found[text] = len(found)
            kernels.append(kernel)
        numbers.append(found[text])
    return Functions(tuple(found), tuple(kernels), tuple(numbers))


@dataclass(frozen=True)
class Step:
    """A schedule as assembly. `emitted` has what each function says of itself, by its number."""

    module: Module
    functions: Functions
    emitted: tuple[Emitted, ...]

    @property
    def reports(self) -> bool:
        """True when kernels may meet an index that is out of range, and say so (see `status`)."""
        return ACCESSOR in self.module.functions


def emit_step(
    schedule: Schedule, functions: Functions, plan: Plan, target: Target, emitters: Mapping[type, Emitter]
) -> Step:
    """The module with all kernels' functions, `step` and `run`."""
    module = Module(target.triple)
    emitted = tuple(
        emitters[type(kernel)](module, functions.name(number), kernel, target)
        for number, kernel in enumerate(functions.kernels)
    )
    made = Step(module, functions, emitted)
    _emit_calls(made, schedule, plan)
    run = Function(module, "run", [("table", POINTER)], internal=False)
    flushing_denormals(run, target, lambda: run.call("step", "void", run.arguments))
    run.give_back()
    return made


def calls_text(schedule: Schedule, functions: Functions, plan: Plan) -> str:
    """Everything the step's code depends on besides its target and its emitters, as text."""
    calls = []
    for kernel, number in zip(schedule.kernels, functions.numbers, strict=True):
        given = [(*plan.places[place.buffer], place.offset) for place in places(kernel)]
        calls.append(f"{number} {given}")
    return "\n".join([*functions.texts, *calls])


def _emit_calls(made: Step, schedule: Schedule, plan: Plan) -> None:
    step = Function(made.module, "step", [("table", POINTER)])
    bases: dict[int, Value] = {}

    def base(slot: int) -> Value:
        if slot not in bases:
            bases[slot] = step.load(step.at(step.arguments[0], slot, POINTER), POINTER)
        return bases[slot]

    for kernel, number in zip(schedule.kernels, made.functions.numbers, strict=True):
        units = made.emitted[number].units
        pointers = []
        for place in places(kernel):
            slot, offset = plan.places[place.buffer]
            offset += place.offset * place.buffer.dtype.itemsize
            pointers.append(step.at(base(slot), offset, "i8"))
        given = [*pointers, base(SCRATCH), constant(0, INDEX), constant(units, INDEX)]
        step.call(made.functions.name(number), "void", given)
    step.give_back()


def flushing_denormals(function: Function, target: Target, body: Callable[[], object]) -> None:
    """Run `body` with denormal numbers as zero, then put the processor's state back as it was.

    Thin layers run at half their speed when denormals pass through them. The state belongs to the thread.
    """
    if target.triple.startswith(("x86_64", "i686")):
        cell = function.allocate("i32", align=4)
        function.intrinsic("llvm.x86.sse.stmxcsr", "void", [cell])
        before = function.load(cell, "i32")
        function.store(function.binary("or", before, constant(_FLUSH_X86, "i32")), cell)
        function.intrinsic("llvm.x86.sse.ldmxcsr", "void", [cell])
        body()
        # Flags that were raised meanwhile (inexact, underflow) are dropped: nobody outside asked for them.
        function.store(before, cell)
        function.intrinsic("llvm.x86.sse.ldmxcsr", "void", [cell])
    elif target.triple.startswith(("aarch64", "arm64")):
        before = function.intrinsic("llvm.aarch64.get.fpcr", "i64", [])
        flushing = function.binary("or", before, constant(_FLUSH_ARM, "i64"))
        function.intrinsic("llvm.aarch64.set.fpcr", "void", [flushing])
        body()
        function.intrinsic("llvm.aarch64.set.fpcr", "void", [before])
    else:
        body()
