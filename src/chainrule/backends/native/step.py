"""One LLVM function per distinct kernel, and the step that calls them all.

    void step(ptr table)    every kernel once, in order; `table` holds the base pointers of `schedule.memory`
    void run(ptr table)     the same for callers from outside: denormal numbers count as zero meanwhile

Equal kernels share a function (see `schedule.structure`), so twenty equal layers make three. A `Repeat` is a
loop in `step` around the calls of what is inside; in every iteration it moves the pointers of its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from chainrule.backends.native.emit import Emitted, Function, Module
from chainrule.backends.native.sharing import call_share, judged
from chainrule.backends.native.status import ACCESSOR
from chainrule.backends.native.target import Target
from chainrule.backends.native.values import INDEX, POINTER, Index, Value, constant
from chainrule.backends.native.watching import UNWATCHED, Pointer, Watch
from chainrule.schedule.kernels import ALWAYS, Access, Kernel, Repeat, Schedule, View, Window, Work, places
from chainrule.schedule.listing import cost
from chainrule.schedule.memory import DETAIL, LINE, SCRATCH, TEAM, Plan
from chainrule.schedule.structure import structure

Emitter = Callable[[Module, str, Any, Target], Emitted]
"""Writes the function of one kind of kernel: ``emit(module, name, kernel, target)``."""

GRAIN = 100_000
"""Operations that are worth a piece for another thread: some microseconds."""
_MOST_PIECES = 4  # for each thread
_STRETCH = 64  # kernels in one function: LLVM's time for 1,600 calls in one is twice that in stretches
_LITERALLY = 256  # kernels from which on their calls are not optimised: a step takes longer than its calls
_FLUSH_X86 = 0x8040  # MXCSR: results and operands that are denormal count as zero (FTZ, DAZ)
_FLUSH_ARM = 1 << 24  # FPCR.FZ: both


@dataclass(frozen=True)
class Functions:
    """The distinct kernels of a schedule.

    texts    their structures; function k is called ``{kind}_{k}``
    kernels  one kernel of each structure
    numbers  for every innermost kernel of the schedule, the number of its function
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
    for kernel in schedule.innermost:
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
    schedule: Schedule, functions: Functions, plan: Plan, target: Target,
    emitters: Mapping[type, Emitter], threads: int = 1, watch: Watch = UNWATCHED,
) -> Step:  # fmt: skip
    """The module with all kernels' functions, `step` and `run`."""
    module = Module(target.triple)
    emitted = tuple(
        emitters[type(kernel)](module, functions.name(number), kernel, target)
        for number, kernel in enumerate(functions.kernels)
    )
    made = Step(module, functions, emitted)
    _Steps(made, schedule, plan, threads, watch)
    run = Function(module, "run", [("table", POINTER)], internal=False)
    (table,) = run.arguments
    step = partial(run.call, "step", "void", [table])
    flushing_denormals(run, target, lambda: watch.work(run, table, 0, step))
    run.give_back()
    return made


def calls_text(schedule: Schedule, functions: Functions, plan: Plan, threads: int = 1) -> str:
    """Everything the step's code depends on besides its target and its emitters, as text."""
    numbers = iter(functions.numbers)

    def told(kernel: Work) -> str:
        if isinstance(kernel, Repeat):
            moves = [
                (*plan.places[each.buffer], *plan.places[each.source], each.offset, each.step, each.period)
                for each in kernel.windows
            ]
            inside = "\n".join(map(told, kernel.kernels))
            return f"{kernel.count} times {moves}\n{inside}\nend"
        given = [(*plan.places[place.buffer], place.offset) for place in places(kernel)]
        return f"{next(numbers)} {given}"

    calls = map(told, schedule.kernels)
    details = f"details {schedule.details if schedule.has_details else ()}"
    return "\n".join([f"{threads} threads, pieces of {GRAIN}", *functions.texts, *calls, details])


def scratch_bytes(emitted: Sequence[Emitted]) -> int:
    """Scratch memory of one thread: what the neediest kernel wants, on cache lines of its own."""
    most = max((each.scratch for each in emitted), default=0)
    return -(-most // LINE) * LINE + LINE if most else 0


def pieces(kernel: Kernel, units: int, threads: int) -> int:
    """Into how many pieces a kernel's units are cut, as many for every thread; 1 if it is not shared.

    Some pieces for each, so that who is quick takes over from who is slow; none so small that saying so takes
    longer than doing it.
    """
    flops, touched = cost(kernel)
    worth = (flops + 2 * touched) // GRAIN  # a byte from the cache takes about as long as two operations
    for each in range(_MOST_PIECES, 0, -1):
        if each * threads <= min(units, worth):
            return each * threads
    return 1


class _Steps:
    """The function `step`, while it is written: it calls functions for stretches of its kernels."""

    def __init__(self, made: Step, schedule: Schedule, plan: Plan, threads: int, watch: Watch) -> None:
        self._made, self._plan, self._threads, self._watch = made, plan, threads, watch
        self._numbers = enumerate(made.functions.numbers)
        self._function = step = Function(made.module, "step", [("table", POINTER)])
        (self._table,) = step.arguments
        watch.begin(step, self._table, schedule, self._pointer({}))
        with judged(step, _base(step, self._table, {}, TEAM)) if self._shares(schedule) else nullcontext():
            self._stretches(step, schedule)
        step.give_back()

    def _shares(self, schedule: Schedule) -> bool:
        """Whether any kernel is worth sharing."""
        units = (self._made.emitted[number].units for number in self._made.functions.numbers)
        return self._threads > 1 and any(
            pieces(kernel, count, self._threads) > 1
            for kernel, count in zip(schedule.innermost, units, strict=True)
        )

    def _stretches(self, step: Function, schedule: Schedule) -> None:
        for first in range(0, len(schedule.kernels), _STRETCH):
            name = f"stretch_{first // _STRETCH}"
            long = len(schedule.kernels) > _LITERALLY
            self._function = Function(self._made.module, name, [("table", POINTER)], literally=long)
            (self._table,) = self._function.arguments
            bases: dict[int, Value] = {}
            stretch = schedule.timed[first : first + _STRETCH]
            for details, group in groupby(stretch, key=itemgetter(1)):
                self._run_for(details, [kernel for kernel, _ in group], bases)
            self._function.give_back()
            step.call(name, "void", step.arguments)

    def _run_for(self, details: tuple[int, int], kernels: Sequence[Work], bases: dict[int, Value]) -> None:
        """Code for kernels that run only with some details."""
        if details == ALWAYS:
            self._run(kernels, bases)
            return
        step, (least, most) = self._function, details
        asked = step.load(step.at(self._table, DETAIL, POINTER), INDEX)
        fits = step.compare("sle", asked, step.index(most))
        if least:
            fits = step.compare("sge", asked, step.index(least))
        step.if_then(fits, lambda: self._run(kernels, dict(bases)))

    def _run(self, kernels: Sequence[Work], bases: dict[int, Value]) -> None:
        """Code for kernels in order; `bases` are the pointers of the table that are at hand."""
        for kernel in kernels:
            if isinstance(kernel, Repeat):
                self._repeat(kernel, bases)
            else:
                self._call(kernel, bases)

    def _repeat(self, loop: Repeat, bases: Mapping[int, Value]) -> None:
        def iteration(t: Index, _: list[Value]) -> None:
            inside = dict(bases)
            for window in loop.windows:
                turn = t if window.period >= loop.count else self._function.divide(t, window.period)[1]
                self._move(window, turn, inside)
            self._run(loop.kernels, inside)

        self._function.loop(0, loop.count, 1, [], iteration)

    def _move(self, window: Window, turn: Index, bases: dict[int, Value]) -> None:
        """Let a window show its place in this turn; its slot tells the other threads."""
        step, itemsize = self._function, window.buffer.dtype.itemsize
        slot, offset = self._plan.places[window.source]
        source = step.at(_base(step, self._table, bases, slot), offset + window.offset * itemsize, "i8")
        shown = step.at(source, step.mul(turn, window.step * itemsize), "i8")
        own = self._plan.places[window.buffer].slot
        step.store(shown, step.at(self._table, own, POINTER))
        bases[own] = shown

    def _call(self, kernel: Kernel, bases: dict[int, Value]) -> None:
        place, number = next(self._numbers)
        call = _Call(self._made, kernel, number, self._plan)

        def write() -> None:
            cut = pieces(kernel, call.units, self._threads) if self._threads > 1 else 1
            if cut == 1:
                call.emit(self._function, self._table, bases, 0, call.units)
            else:
                team = _base(self._function, self._table, bases, TEAM)
                piece = call.emit_piece(f"piece_{place}", cut)
                call_share(self._function, team, piece, self._table, cut // self._threads)

        self._watch.kernel(self._function, self._table, place, kernel, self._pointer(bases), write)

    def _pointer(self, bases: dict[int, Value]) -> Pointer:
        return partial(_pointer, self._function, self._table, bases, self._plan)


def _base(function: Function, table: Value, known: dict[int, Value], slot: int) -> Value:
    if slot not in known:
        known[slot] = function.load(function.at(table, slot, POINTER), POINTER)
    return known[slot]


def _pointer(
    function: Function, table: Value, known: dict[int, Value], plan: Plan, place: Access | View
) -> Value:
    """Where a kernel finds a place in memory."""
    slot, offset = plan.places[place.buffer]
    offset += place.offset * place.buffer.dtype.itemsize
    return function.at(_base(function, table, known, slot), offset, "i8")


class _Call:
    """The call of one kernel's function."""

    def __init__(self, made: Step, kernel: Kernel, number: int, plan: Plan) -> None:
        self.kernel, self.units = kernel, made.emitted[number].units
        self._made, self._name, self._plan = made, made.functions.name(number), plan

    def emit(
        self, function: Function, table: Value, bases: dict[int, Value], first: Index, last: Index,
        thread: Value | None = None,
    ) -> None:  # fmt: skip
        """Code for the units [first, last), by the caller or by a thread of the team."""
        pointers = [_pointer(function, table, bases, self._plan, each) for each in places(self.kernel)]
        scratch = _base(function, table, bases, SCRATCH)
        if thread is not None:
            mine = function.mul(thread, scratch_bytes(self._made.emitted))
            scratch = function.at(scratch, mine, "i8")
        given = [*pointers, scratch, function.index(first), function.index(last)]
        function.call(self._name, "void", given)

    def emit_piece(self, name: str, count: int) -> str:
        """``void piece(ptr table, i64 thread, i64 piece)``: one of `count` parts of the units."""
        arguments = [("table", POINTER), ("thread", INDEX), ("piece", INDEX)]
        function = Function(self._made.module, name, arguments)
        table, thread, piece = function.arguments

        def start(number: Index) -> Index:
            scaled = function.index(function.mul(number, self.units))
            return function.emit(INDEX, f"udiv {scaled}, {count}")

        self.emit(function, table, {}, start(piece), start(function.add(piece, 1)), thread)
        function.give_back()
        return name


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
