"""What is looked at: a loss that was computed eagerly, or one step of a run, computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from chainrule import train
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    from chainrule.run import RunFolder

Given: TypeAlias = Union[Tensor, "train.Run", "train.Replayed", "RunFolder", str, Path]
"""A loss, a run, the folder of a run, or a step that was replayed already."""


@dataclass(frozen=True)
class Moment:
    """A loss whose chain can be opened, and where it came from.

    loss  a scalar that was computed eagerly
    step  the step of the run, counted from 0; None for a loss that was given
    rows  what each row of the batch is called, such as "row 1,204"; empty where nobody knows
    """

    loss: Tensor
    step: int | None = None
    rows: Sequence[str] = ()


def moment_of(given: Given, step: int | None = None) -> Moment:
    """The moment that is meant by a loss, or by a step of a run: the last one where none is named.

    A run keeps the step that was asked for last, so that opening one number after the other replays it once.
    """
    if isinstance(given, Tensor):
        return Moment(given, step)
    replayed = given if isinstance(given, train.Replayed) else train.replay(given, step)
    return Moment(replayed.loss, replayed.step, replayed.names)
