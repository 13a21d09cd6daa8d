"""Steps that are looked at: an operation that makes NaN or infinity is an error; gaps in data are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.backends.finding import kinds
from chainrule.backends.native.checked import Looking, NotFiniteError, explained
from chainrule.backends.native.training import Training
from chainrule.backends.native.watching import UNWATCHED, Watch
from chainrule.errors import NumericalError
from chainrule.trace import Program
from chainrule.train.stepping import NOTED, NativeSteps, PythonSteps

Array = np.ndarray[Any, Any]


class CheckedPythonSteps(PythonSteps):
    """Steps taken one by one and looked at."""

    checked = True

    def _values(
        self, leaves: Sequence[Array], chosen: Array, given: Sequence[Array], detail: int
    ) -> Sequence[Any]:
        values = super()._values(leaves, chosen, given, detail)
        check_given(self._program, leaves, chosen, given, values)
        return values


class CheckedNativeSteps(NativeSteps):
    """Native steps whose first operation that makes NaN or infinity is an error.

    When a slice has met one it is run again step by step, to know what the step was given.
    """

    def _compiled(self, watch: Watch) -> Training:
        return super()._compiled(Looking() if watch is UNWATCHED else watch)

    def run(self, leaves: Sequence[Array], rows: Array, details: Array | None = None) -> list[Array]:
        before = self._state()
        try:
            noted = super().run(leaves, rows, details)
            if np.isfinite(noted[0]).all():
                return noted
        except NotFiniteError:
            pass
        each = []
        for number, chosen in enumerate(rows):
            self._put_back(before)
            each.append(self._step(leaves, chosen, before, None if details is None else details[[number]]))
            before = self._state()
        return [np.concatenate(parts) for parts in zip(*each, strict=True)]

    def _step(
        self, leaves: Sequence[Array], chosen: Array, before: Sequence[Array], details: Array | None
    ) -> list[Array]:
        given = [*(np.take(leaf, chosen, axis=0) for leaf in leaves), *before]
        try:
            noted = super().run(leaves, chosen[None], details)
            check_given(self._program, leaves, chosen, given, noted[0][0])
        except NotFiniteError as found:
            self._put_back(before)
            raise explained(found, self.code, self._graph, given) from None
        except NumericalError:
            self._put_back(before)
            raise
        return noted

    def _put_back(self, values: Sequence[Array]) -> None:
        self.code.forget()
        self.code.load(values)

    def _state(self) -> list[Array]:
        """The values of the cells that a step reads, as they are now."""
        new = dict(zip(self._program.written, self.code.state(), strict=True))
        return [new.get(cell, cell.numpy()) for cell in self._program.read]


def check_given(
    program: Program,
    leaves: Sequence[Array],
    chosen: Array,
    given: Sequence[Array],
    noted: Sequence[Any] | Array,
) -> None:
    """Raise where a step's loss or gradient norm is not finite because of what the step was given."""
    if np.isfinite([float(each) for each in noted[:NOTED]]).all():
        return
    for number, array in enumerate(given):
        if not kinds(array):
            continue
        place = np.argwhere(~np.isfinite(array))[0]
        if number < len(leaves):
            told = f"array {number} of the data, in row {chosen[place[0]]}"
            told += f" at {tuple(map(int, place[1:]))}" if place[1:].size else ""
        else:
            told = f"{program.read[number - len(leaves)].name}, at {tuple(map(int, place))}"
        raise NumericalError(
            f"the loss is {float(noted[0])} because of what the step was given: {array[tuple(place)]} in "
            f"{told}. Fill gaps in the data, or leave such rows out"
        )
