"""Where the time of a program goes: each kernel timed by the code itself, and whose work it does.

The program is compiled anew with a look at the processor's counter before and after every call, and totals
are kept in memory of its own. Python only asks for them after a run, so nothing of it is in the figures. The
program that was there before is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from chainrule.backends.native.emit import Function
from chainrule.backends.native.engine import Executable, Program
from chainrule.backends.native.machine import Machine, machine, ticks_of_a_look, ticks_per_second
from chainrule.backends.native.values import INDEX, Value
from chainrule.backends.native.watching import Pointer, Watch, memory_of, ticks
from chainrule.graph import Array, Graph
from chainrule.schedule.kernels import Kernel, Schedule, Special, targets
from chainrule.schedule.listing import aligned, cost
from chainrule.schedule.memory import Plan
from chainrule.schedule.reasons import PARTS, line_of, made_of, shares

_FIELDS = 2
"""Numbers per entry: ticks, and how many calls."""


class Timing(Watch):
    """Adds up the ticks and the calls of the whole, of every kernel, and of what gathers a batch.

    rounds  what was added up in each run of the program: a row (ticks, calls) per kernel, then for the whole
            and for each array that is gathered
    """

    def __init__(self) -> None:
        self.rounds: list[Array] = []
        self._kernels = 0

    def told(self, schedule: Schedule, plan: Plan) -> str:
        return "timing"

    def bytes(self, schedule: Schedule) -> int:
        return 8 * _FIELDS * (len(schedule.innermost) + 1 + len(schedule.inputs))

    def begin(self, step: Function, table: Value, schedule: Schedule, pointer: Pointer) -> None:
        self._kernels = len(schedule.innermost)

    def kernel(
        self, step: Function, table: Value, number: int, kernel: Kernel, pointer: Pointer,
        call: Callable[[], None],
    ) -> None:  # fmt: skip
        self._timed(step, table, number, call)

    def work(self, function: Function, table: Value, number: int, body: Callable[[], object]) -> None:
        self._timed(function, table, self._kernels + number, body)

    @staticmethod
    def _timed(function: Function, table: Value, entry: int, body: Callable[[], object]) -> None:
        memory = memory_of(function, table)
        before = ticks(function)
        body()
        passed = function.binary("sub", ticks(function), before)
        for offset, more in enumerate((passed, function.index(1))):
            place = function.at(memory, _FIELDS * entry + offset, INDEX)
            function.store(function.binary("add", function.load(place, INDEX), more), place)

    def after(self, memory: Array) -> None:
        totals = memory.view(np.int64)
        self.rounds.append(totals.reshape(-1, _FIELDS).copy())
        totals[:] = 0


# -- what was found ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """One kernel, or the gathering of one array of a batch.

    kernel        its number in `show("kernels")`; None for what is no kernel
    function      the name of its function in `show("llvm")`
    computes      operations of the graph
    layers        (layer, part) → the share that it works for each: forward, backward or update
    line          the user's line
    calls         in one run of the program
    seconds       of one run, all calls together: the median over rounds
    share         of the seconds of a run
    flops, bytes  what it does in one run at least: see `chainrule.schedule.listing.Cost`
    of_peak       fraction of the multiply-adds that the threads could do in that time
    of_bandwidth  fraction of the bytes that memory could give: above 1 where the data lies in caches
    """

    kernel: int | None
    function: str
    computes: str
    layers: dict[tuple[str, str], float]
    line: str
    calls: float
    seconds: float
    share: float
    flops: float
    bytes: float
    of_peak: float
    of_bandwidth: float

    @property
    def layer(self) -> str:
        """The layers it works for, the one that has most of it first."""
        ranked = sorted(self.layers, key=lambda key: -self.layers[key])
        return ", ".join(dict.fromkeys(layer for layer, _ in ranked if layer))


@dataclass(frozen=True)
class LayerRow:
    """What a layer costs in a run. A kernel that works for several is divided by their operations in it."""

    layer: str
    seconds: float
    share: float
    forward: float
    backward: float
    update: float


@dataclass(frozen=True)
class Profile:
    """The time of one run of a program (for a trainer, one step), kernel by kernel.

    rows      in the order in which they run
    seconds   of one run, the median over rounds
    rest      seconds between the kernels: the loop, calls, and looking at the counter
    runs      how many were timed; rounds: in how many parts, over which medians are taken
    machine   what the shares are of, for `threads` cores
    """

    rows: tuple[Row, ...]
    seconds: float
    rest: float
    runs: int
    rounds: int
    threads: int
    machine: Machine = field(repr=False)

    @property
    def layers(self) -> tuple[LayerRow, ...]:
        """What each layer costs, in the order in which they first run."""
        found: dict[str, dict[str, float]] = {}
        for row in self.rows:
            for (layer, part), each in row.layers.items():
                parts = found.setdefault(layer, dict.fromkeys(PARTS, 0.0))
                parts[part] += each * row.seconds
        return tuple(
            LayerRow(layer, sum(parts.values()), _fraction(sum(parts.values()), self.seconds), **parts)
            for layer, parts in found.items()
        )

    def __str__(self) -> str:
        counted = f"{self.runs} runs in {self.rounds} rounds, medians"
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        head = f"{_micro(self.seconds)} µs per run ({counted}{threads}); {self.machine}"
        return "\n".join([head, "", self._by_kernel(), self._by_layer()])

    def _by_kernel(self) -> str:
        head = ("kernel", "function", "calls", "µs", "share", "flops", "bytes", "of peak", "of memory",
                "layer", "line", "computes")  # fmt: skip
        rows = [head]
        for row in self.rows:
            numbers = f"{row.calls:g}", _micro(row.seconds), f"{row.share:.1%}"
            work = f"{row.flops:,.0f}", f"{row.bytes:,.0f}", f"{row.of_peak:.1%}", f"{row.of_bandwidth:.0%}"
            number = "" if row.kernel is None else str(row.kernel)
            rows.append((number, row.function, *numbers, *work, row.layer, row.line, row.computes))
        rest = ("", "rest", "", _micro(self.rest), f"{_fraction(self.rest, self.seconds):.1%}", *[""] * 7)
        return aligned([*rows, rest], {0, 2, 3, 4, 5, 6, 7, 8})

    def _by_layer(self) -> str:
        rows: list[Sequence[str]] = [("layer", "µs", "share", *PARTS)]
        for row in self.layers:
            parts = (_micro(each) if each else "" for each in (row.forward, row.backward, row.update))
            rows.append((row.layer or "no layer", _micro(row.seconds), f"{row.share:.1%}", *parts))
        return aligned(rows, {1, 2, 3, 4, 5})


def profile_call(graph: Graph, values: Sequence[Array], repeats: int) -> Profile:
    """`graph` run on `values`, once to warm up and then `repeats` times."""
    timing = Timing()
    executable = Executable(graph, watch=timing)
    for _ in range(1 + repeats):
        executable(values)
    del timing.rounds[0]
    return profiled(executable.program, timing, [1] * repeats)


def profiled(program: Program, timing: Timing, runs: Iterable[int]) -> Profile:
    """What the rounds of `timing` say of a program that was run so many times in each."""
    counted = np.array(list(runs), float)[:, None]
    totals = np.stack(timing.rounds)
    ticks_, calls = totals[..., 0], totals[..., 1]
    kernels = len(program.schedule.innermost)
    looks = calls.astype(float)  # an entry has the time of one of its two looks; the whole has all of them
    looks[:, kernels] += 2 * (calls.sum(axis=1) - calls[:, kernels])
    own = np.maximum(ticks_ - ticks_of_a_look() * looks, 0.0)
    seconds = np.median(own / counted, axis=0) / ticks_per_second()
    each = calls.sum(axis=0) / counted.sum()
    whole = float(seconds[kernels])
    measured, rows = machine(), []
    for place in range(len(seconds)):
        if place == kernels or not each[place]:
            continue
        made = _kernel_row if place < kernels else _gathering_row
        number = place if place < kernels else place - kernels - 1
        rows.append(made(program, measured, number, float(each[place]), float(seconds[place]), whole))
    rows.sort(key=lambda row: -1 if row.kernel is None else row.kernel)
    rest = whole - sum(row.seconds for row in rows)
    total = int(counted.sum())
    return Profile(tuple(rows), whole, rest, total, len(totals), program.threads, measured)


def _kernel_row(
    program: Program, machine: Machine, number: int, calls: float, seconds: float, whole: float
) -> Row:
    kernel = program.schedule.innermost[number]
    flops, bytes_ = (calls * each for each in cost(kernel))
    target = kernel.target if isinstance(kernel, Special) else next(targets(kernel))
    peak = machine.flops * program.threads * 4 / max(4, target.buffer.dtype.itemsize)
    lines = dict.fromkeys(line for node in kernel.nodes if (line := line_of(node)))
    return Row(
        number, program.functions.name(program.functions.numbers[number]), made_of(kernel), shares(kernel),
        ", ".join(lines), calls, seconds, _fraction(seconds, whole), flops, bytes_,
        _fraction(flops, peak * seconds), _fraction(bytes_, machine.bytes * seconds),
    )  # fmt: skip


def _gathering_row(
    program: Program, machine: Machine, number: int, calls: float, seconds: float, whole: float
) -> Row:
    view = program.schedule.inputs[number]
    bytes_ = 2.0 * calls * int(np.prod(view.shape)) * view.buffer.dtype.itemsize
    return Row(
        None, f"rows_of_{number}", "gathers a batch", {("batch", PARTS[0]): 1.0}, "", calls, seconds,
        _fraction(seconds, whole), 0.0, bytes_, 0.0, _fraction(bytes_, machine.bytes * seconds),
    )  # fmt: skip


def _fraction(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.2f}"
