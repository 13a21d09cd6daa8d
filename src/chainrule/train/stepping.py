"""Who takes the steps of a trainer: the reference backend step by step, or native code many at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from chainrule import passes
from chainrule.backends.native.training import Training, row_is_dense
from chainrule.graph import constant
from chainrule.program import BACKENDS
from chainrule.schedule.kernels import Unsupported
from chainrule.tensor import Cell
from chainrule.trace import Program

Array = np.ndarray[Any, Any]
NOTED = 2
"""Numbers that a step gives back: its loss and the norm of its gradients."""


class Stepper(Protocol):
    """Takes steps. Between `load` and `unload` it has the values of the cells."""

    def load(self) -> None:
        """Take the values of the cells over."""

    def run(self, leaves: Sequence[Array], rows: Array) -> Array:
        """One step per row of `rows` (steps, batch), integers; returns (steps, NOTED) numbers."""

    def unload(self) -> None:
        """Put the new values into the cells."""


def stepper(program: Program, backend: str) -> Stepper:
    """The one for a backend; the reference, with a warning, for what native code cannot do yet."""
    if backend == "native":
        try:
            return NativeSteps(program)
        except Unsupported as reason:
            warnings.warn(f"{reason}: the training step runs on the numpy backend instead", stacklevel=4)
            backend = "numpy"
    return PythonSteps(program, backend)


class PythonSteps:
    """Steps taken one by one."""

    def __init__(self, program: Program, backend: str) -> None:
        self._program = program
        self._execute = BACKENDS[backend](program.graph)
        self._state: dict[Cell, Any] = {}

    def load(self) -> None:
        self._state = {}

    def run(self, leaves: Sequence[Array], rows: Array) -> Array:
        noted = np.empty((len(rows), NOTED))
        for number, chosen in enumerate(rows):
            batch = [np.take(leaf, chosen, axis=0) for leaf in leaves]
            state = self._state
            values = self._execute(
                [*batch, *(state[c] if c in state else c.numpy() for c in self._program.read)]
            )
            state.update(zip(self._program.written, values[NOTED:], strict=True))
            noted[number] = values[:NOTED]
        return noted

    def unload(self) -> None:
        for cell, value in self._state.items():
            cell.assign(value)
        self._state = {}


class NativeSteps:
    """Steps taken by native code, whole slices of an epoch in one call."""

    def __init__(self, program: Program) -> None:
        self._program = program
        arguments = program.arguments
        places = {cell: arguments + k for k, cell in enumerate(program.read)}
        state = {NOTED + k: places[cell] for k, cell in enumerate(program.written)}
        self.code = Training(passes.simplify_for_kernels(program.graph), arguments, NOTED, state)
        self._dense: dict[int, tuple[Array, Array]] = {}

    def load(self) -> None:
        self.code.load([cell.numpy() for cell in self._program.read])

    def run(self, leaves: Sequence[Array], rows: Array) -> Array:
        return self.code.run(
            [self._with_dense_rows(leaf) for leaf in leaves], np.ascontiguousarray(rows, np.int64)
        )

    def unload(self) -> None:
        for cell, value in zip(self._program.written, self.code.state(), strict=True):
            cell.assign(constant(value))
        self.code.holds([cell.numpy() for cell in self._program.read])

    def _with_dense_rows(self, leaf: Array) -> Array:
        """The array itself, or a copy that is made once."""
        if row_is_dense(leaf):
            return leaf
        found = self._dense.get(id(leaf))
        if found is None or found[0] is not leaf:
            found = self._dense[id(leaf)] = (leaf, np.ascontiguousarray(leaf))
        return found[1]
