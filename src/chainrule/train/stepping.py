"""Who takes the steps of a trainer: the reference backend step by step, or native code many at a time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from chainrule import passes
from chainrule.backends.native.training import Training
from chainrule.backends.native.watching import UNWATCHED, Watch
from chainrule.errors import BoundsError
from chainrule.graph import Graph, constant
from chainrule.program import Executable, compiler, on_demand
from chainrule.schedule.kernels import Unsupported
from chainrule.tensor import Cell
from chainrule.trace import Program
from chainrule.train.facts import Column

if TYPE_CHECKING:
    from chainrule.backends.native.profile import Profile

Array = np.ndarray[Any, Any]
NOTED = 2
"""Numbers that every step gives back: its loss and the norm of its gradients; then what it tells."""
SLICE_NUMBERS = 1 << 18
"""Numbers that the steps of a slice give back at most: what a cache holds."""
SLICE_SECONDS = 0.1
"""How long native code runs before Python looks after progress, Ctrl-C and checkpoints."""


class Stepper(Protocol):
    """Takes steps. Between `load` and `unload` it has the values of the cells."""

    backend: str
    noted: tuple[int, ...]
    """For everything that a step may give back how much detail it has to be asked for."""

    def load(self) -> None:
        """Take the values of the cells over."""

    def run(self, leaves: Sequence[Array], rows: Array, details: Array | None = None) -> list[Array]:
        """One step per row of `rows` (steps, batch), integers; for each an integer: how much detail it is
        asked for.

        Elements of a row of each of `leaves` lie side by side. Returns for each detail an array (steps that
        were asked for it, numbers); the first has the `NOTED` of every step.
        """

    def unload(self) -> None:
        """Put the new values into the cells."""

    def show(self, what: str) -> str:
        """The step as text, see `Trainer.show`."""


def stepper(program: Program, noted: Sequence[int], backend: str, checked: bool = False) -> Stepper:
    """The one for a backend; the reference, with a warning, for what native code cannot do yet.

    noted  for everything that a step notes how much detail it has to be asked for
    """
    if backend == "native":
        kind = _looked_at().CheckedNativeSteps if checked else NativeSteps
        try:
            steps: Stepper = kind(program, noted)
            return steps
        except Unsupported as reason:
            warnings.warn(f"{reason}: the training step runs on the numpy backend instead", stacklevel=5)
            backend = "numpy"
    steps = (_looked_at().CheckedPythonSteps if checked else PythonSteps)(program, noted, backend)
    return steps


def _looked_at() -> Any:
    return on_demand("train.checking")


class PythonSteps:
    """Steps taken one by one."""

    checked = False

    def __init__(self, program: Program, noted: Sequence[int], backend: str) -> None:
        self.backend = backend
        self.noted = tuple(noted)
        self._program = program
        self._executables: dict[int, Executable] = {}
        self._state: dict[Cell, Any] = {}

    def load(self) -> None:
        self._state = {}

    def run(self, leaves: Sequence[Array], rows: Array, details: Array | None = None) -> list[Array]:
        noted: list[list[Array]] = [[] for _ in range(1 + max(self.noted))]
        for number, chosen in enumerate(rows):
            detail = 0 if details is None else min(int(details[number]), len(noted) - 1)
            batch = [leaf[chosen] for leaf in leaves]
            state = self._state
            given = [*batch, *(state[c] if c in state else c.numpy() for c in self._program.read)]
            values = self._values(leaves, chosen, given, detail)
            count = len(values) - len(self._program.written)
            state.update(zip(self._program.written, values[count:], strict=True))
            for each, row in enumerate(_by_detail(values[:count], self.noted, detail)):
                noted[each].append(row)
        return [np.array(each or np.empty((0, 0)), np.float64) for each in noted]

    def _values(
        self, leaves: Sequence[Array], chosen: Array, given: Sequence[Array], detail: int
    ) -> Sequence[Any]:
        """What the step computes."""
        return self._execute(detail)(given)

    def _execute(self, detail: int) -> Executable:
        """The step with everything of some detail, and what has less."""
        if detail not in self._executables:
            graph, count = self._program.graph, len(self.noted)
            told = [node for node, each in zip(graph.outputs, self.noted, strict=False) if each <= detail]
            asked = Graph(graph.inputs, (*told, *graph.outputs[count:]))
            self._executables[detail] = compiler(self.backend, self.checked)(asked)
        return self._executables[detail]

    def show(self, what: str) -> str:
        return self._execute(max(self.noted)).show(what)

    def unload(self) -> None:
        for cell, value in self._state.items():
            cell.assign(value)
        self._state = {}


def _by_detail(values: Sequence[Any], noted: Sequence[int], most: int) -> Iterator[Array]:
    """What has each detail up to the most, as one array."""
    here = [each for each in noted if each <= most]
    for detail in range(most + 1):
        parts = [np.ravel(value) for value, each in zip(values, here, strict=True) if each == detail]
        yield np.concatenate(parts) if parts else np.empty(0)


class NativeSteps:
    """Steps taken by native code, whole slices of an epoch in one call."""

    backend = "native"

    def __init__(self, program: Program, noted: Sequence[int]) -> None:
        self.noted = tuple(noted)
        self._program = program
        self._graph = passes.simplify_for_kernels(program.graph)
        self.code = self._compiled(UNWATCHED)
        self._spoiled = False

    def _compiled(self, watch: Watch) -> Training:
        arguments = self._program.arguments
        places = {cell: arguments + k for k, cell in enumerate(self._program.read)}
        state = {len(self.noted) + k: places[cell] for k, cell in enumerate(self._program.written)}
        return Training(self._graph, arguments, self.noted, state, watch=watch)

    def load(self) -> None:
        self.code.load([cell.numpy() for cell in self._program.read])
        self._spoiled = False

    def run(self, leaves: Sequence[Array], rows: Array, details: Array | None = None) -> list[Array]:
        try:
            return self.code.run(leaves, np.ascontiguousarray(rows, np.int64), details)
        except BoundsError:  # found when the slice had ended: its later steps learned from what was wrong
            self._spoiled = True
            self.code.forget()
            raise

    def unload(self) -> None:
        if not self._spoiled:
            for cell, value in zip(self._program.written, self.code.state(), strict=True):
                cell.assign(constant(value))
            self.code.holds([cell.numpy() for cell in self._program.read])

    def show(self, what: str) -> str:
        match what:
            case "simplified":
                return str(self._graph)
            case "passes":
                return passes.report(self._program.graph, passes.FOR_KERNELS)
        return self.code.show(what)

    def profile(self, leaves: Sequence[Array], rounds: Sequence[Array]) -> Profile:
        """Steps on some blocks of rows (steps, batch), the first to warm up; nothing of it is kept."""
        profiling = on_demand("backends.native.profile")
        timing = profiling.Timing()
        code = self._compiled(timing)
        code.load([cell.numpy() for cell in self._program.read])
        for rows in rounds:
            code.run(leaves, np.ascontiguousarray(rows, np.int64))
        del timing.rounds[0]
        found: Profile = profiling.profiled(code, timing, [len(rows) for rows in rounds[1:]])
        return found


class Pace:
    """Cuts blocks of steps into slices that take about SLICE_SECONDS, as the last ones of that kind went.

    What a slice is changes nothing about the result.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self._fixed = fixed
        self._steps = fixed or 1

    def slices(self, block: Array, numbers: int = NOTED) -> Iterator[Array]:
        """The rows of a block, a slice after the other; every step gives back so many `numbers`."""
        at, most = 0, max(1, SLICE_NUMBERS // numbers)
        while at < len(block):
            part = block[at : at + min(self._steps, most)]
            started = time.perf_counter()
            yield part
            if self._fixed is None:
                each = (time.perf_counter() - started) / len(part)
                self._steps = max(1, min(8 * self._steps, int(SLICE_SECONDS / max(each, 1e-9))))
            at += len(part)


class Step(NamedTuple):
    """A step for batches of some types: as a program, who takes it, what it tells of itself, its pace."""

    program: Program
    stepper: Stepper
    columns: dict[int, list[Column]]
    pace: Pace
