"""Telemetry: a few numbers about every parameter, computed in the step itself and noted at every step.

`facts` adds them to the program of a step as sums, which a backend computes in the loops that touch these
arrays anyway; `Telemetry` keeps what the steps gave back and reads it by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import RunError
from chainrule.graph import Node
from chainrule.ops import as_node, ops
from chainrule.train.coarsening import MAXIMUM, SUM, Coarsened

Array = np.ndarray[Any, Any]
_GAP = 4096
"""Steps that nobody saw are noted in pieces of this size."""


class ParameterFacts(NamedTuple):
    """What is told of a parameter; read from telemetry: arrays with a number per row.

    gradient_norm  Euclidean norm of its gradient, before clipping
    weight_norm    of the values that the step left
    update_norm    of what the step added to them
    nonfinite      elements of its gradient that are infinite or NaN

    In a step, norms are squares of norms: a mean over steps is then their root mean square.
    """

    gradient_norm: Any
    weight_norm: Any
    update_norm: Any
    nonfinite: Any


def facts(gradient: Any, updated: Any, update: Any) -> ParameterFacts:
    """The sums that a step notes of a parameter, as scalars of its dtype."""
    slope = as_node(gradient)
    one, zero = ops.constant(1, slope.dtype), ops.constant(0, slope.dtype)
    return ParameterFacts(
        gradient_norm=_sum_of_squares(slope),
        weight_norm=_sum_of_squares(as_node(updated)),
        update_norm=_sum_of_squares(as_node(update)),
        nonfinite=ops.sum(ops.where(ops.isfinite(slope), zero, one)),
    )


def _sum_of_squares(node: Node) -> Node:
    return ops.sum(ops.square(node))


class Telemetry(Mapping[str, ParameterFacts]):
    """What was noted of every parameter, by its path: ``telemetry["0.weight"].gradient_norm``.

    Each is an array with a number per row. At first a row is a step. Memory is bounded: when 2,048 rows are
    full (fewer for networks of more than 256 parameters), every two become one, and so on: a row then stands
    for 2, 4, 8 ... steps. Norms are then root mean squares over its steps and counts are means; `maxima` has
    the largest.

    Squares of norms are noted in the parameter's dtype: in float32 a norm under 1e-19 reads 0, one over 1e19
    inf. Steps whose numbers were never read, because an error or Ctrl-C came between, are NaN.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._places = {name: k for k, name in enumerate(names)}
        self._first = 0
        self._kept = Coarsened(self._width)

    @property
    def _width(self) -> int:
        return len(self._places) * len(ParameterFacts._fields)

    def note(self, step: int, numbers: Array) -> None:
        """Take the numbers (steps, facts of all parameters) of steps from `step` on.

        Where that is before the last one noted, training went back: telemetry begins anew.
        """
        if not self or not len(numbers):
            return
        following = self._first + self._kept.total
        if not self._kept.total or step < following:
            self._first, self._kept = step, Coarsened(self._width)
        else:
            for start in range(following, step, _GAP):
                self._kept.append(np.full((min(_GAP, step - start), self._width), np.nan))
        self._kept.append(numbers)

    # -- reading -------------------------------------------------------------------------------------------
    @property
    def steps(self) -> Array:
        """The first step of every row, counted from 0."""
        spans = self.spans
        return self._first + np.cumsum(spans) - spans

    @property
    def spans(self) -> Array:
        """For how many steps every row stands."""
        return self._kept.spans

    def __getitem__(self, name: str) -> ParameterFacts:
        if name not in self._places:
            known = ", ".join(self._places) or "none, because telemetry is off: Trainer(..., telemetry=True)"
            raise KeyError(f"there is no telemetry of {name!r}; there is of {known}")
        return self._read(name, SUM, self.spans)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def maxima(self) -> dict[str, ParameterFacts]:
        """The largest number in every row's steps, instead of the mean; NaN where there was one."""
        return {name: self._read(name, MAXIMUM, 1) for name in self._places}

    def _read(self, name: str, which: int, spans: Any) -> ParameterFacts:
        count = len(ParameterFacts._fields)
        first = count * self._places[name]
        found = ParameterFacts(*(self._kept.rows[:, which, first : first + count].T / spans))
        gradient, weight, update = (np.sqrt(squares) for squares in found[:3])
        return ParameterFacts(gradient, weight, update, found.nonfinite)

    def __repr__(self) -> str:
        if not self:
            return "<Telemetry: off>"
        return f"<Telemetry of {len(self)} parameters: {self._kept.total} steps in {len(self.spans)} rows>"

    # -- keeping -------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Array]:
        """Everything, as arrays for a checkpoint; nothing while telemetry is off."""
        if not self:
            return {}
        return {"rows": self._kept.rows.copy(), "steps": np.array([self._first, self._kept.total], np.int64)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put back what `state` gave; with nothing, or while telemetry is off, do nothing."""
        if not self or not state:
            return
        try:
            (first, total), rows = state["steps"].tolist(), state["rows"]
            if rows.shape[1:] != (2, self._width):
                raise ValueError(f"numbers of shape {rows.shape[1:]}, not {(2, self._width)}")
            kept = Coarsened.restored(rows, total)
        except (KeyError, ValueError) as reason:
            raise RunError(
                f"the telemetry that was saved does not fit: {reason}. It was written by another version; "
                "go on without telemetry"
            ) from None
        self._first, self._kept = first, kept
