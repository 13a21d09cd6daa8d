"""What is looked at: a loss that was computed eagerly, or one step of a run, computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.tensor import Tensor


@dataclass(frozen=True)
class Moment:
    """A loss whose chain can be opened, and where it came from.

    loss  a scalar that was computed eagerly
    step  the step of the run, counted from 0; None for a loss that was given
    rows  what each row of the batch is called, such as "house #1,204"; empty where nobody knows
    """

    loss: Tensor
    step: int | None = None
    rows: Sequence[str] = ()


def moment_of(given: Tensor, step: int | None = None) -> Moment:
    """The moment that is meant by a loss."""
    return Moment(given, step)
