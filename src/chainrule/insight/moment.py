"""What is looked at: a loss that was computed eagerly, or one step of a run, computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, Union

from chainrule import train
from chainrule.optim import Optimizer
from chainrule.origin import at_user_line
from chainrule.run import RunFolder
from chainrule.tensor import Tensor

Given: TypeAlias = Union[Tensor, "train.Run", "train.Replayed", RunFolder, str, Path]
"""A loss, a run, the folder of a run, or a step that was replayed already."""


@dataclass(frozen=True)
class Moment:
    """A loss whose chain can be opened, and where it came from.

    loss  a scalar that was computed eagerly
    step  the step of the run, counted from 0; None for a loss that was given
    rows  what each row of the batch is called, such as "row 1,204"; empty where nobody knows
    optimizer  what made a step of the gradients; None where nobody knows
    """

    loss: Tensor
    step: int | None = None
    rows: Sequence[str] = ()
    optimizer: Optimizer | None = None


def moment_of(given: Given, step: int | None = None) -> Moment:
    """The moment that is meant by a loss, or by a step of a run: the last one where none is named.

    A run keeps the step that was asked for last, so that opening one number after the other replays it once.
    """
    if isinstance(given, Tensor):
        return Moment(given, step)
    if isinstance(given, train.Replayed):
        if step is not None and step != given.step:
            raise ValueError(
                f"this is step {given.step:,} of a run{at_user_line()}: for step {step:,}, give the run"
            )
        replayed = given
    elif isinstance(given, train.Run | RunFolder | str | Path):
        replayed = train.replay(given, step)
    else:
        raise TypeError(
            f"this is a {type(given).__name__}{at_user_line()}: what can be looked at is a loss, a scalar "
            "Tensor that was computed eagerly, or a run, or the folder of one"
        )
    return Moment(replayed.loss, replayed.step, replayed.names, replayed.optimizer)
