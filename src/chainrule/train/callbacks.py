"""What `fit` tells while it runs, and who may listen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Where training stands. Losses are those of the loss function; `metrics` are those of the task."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    gradient_norm: float
    rows_per_second: float
    validation_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Callback:
    """Base class of listeners; override what you need. A true result of `on_epoch` stops the training."""

    def on_start(self, trainer: Any, epochs: int, steps: int) -> None:
        """Training begins (or goes on after a resume)."""

    def on_slice(self, progress: Progress) -> None:
        """Some steps were taken (about every 0.2 s)."""

    def on_epoch(self, progress: Progress) -> bool | None:
        """An epoch ended and, if there is validation data, was validated."""
        return None

    def on_end(self, reason: str) -> None:
        """Training ended: "all epochs", "early stopping", "stopped by a callback", "interrupted", ..."""
