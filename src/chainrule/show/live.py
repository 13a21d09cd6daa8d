"""Training as it happens: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rich import progress as bars
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import TaskID
from rich.text import Text

from chainrule.show.figures import LABEL, count, counted, duration, sparkline, value
from chainrule.train.callbacks import Callback, Progress

_PLAIN_LINES = 10  # about as many lines a training leaves in a log
_SMOOTHING = 0.7  # weight of the past in the rate shown
_REFRESHES = 8  # per second


@dataclass
class _Course:
    """What is known so far, whichever kind of display shows it."""

    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    latest: Progress | None = None
    rate: float = 0.0

    def add(self, progress: Progress, whole_epoch: bool) -> None:
        self.latest = progress
        keep = _SMOOTHING if self.rate else 0.0
        self.rate = keep * self.rate + (1 - keep) * progress.rows_per_second
        if whole_epoch:
            self.losses.append(progress.loss)
            if progress.validation_loss is not None:
                self.validation.append(progress.validation_loss)

    def line(self) -> str:
        """``loss 0.0123 · validation 0.0142 · gradient norm 0.31 · 52,000 rows/s``."""
        if self.latest is None:
            return ""
        loss = self.losses[-1] if self.losses else self.latest.loss
        parts = [f"loss {value(loss)}"]
        if self.validation:
            parts.append(f"validation loss {value(self.validation[-1])}")
        parts.append(f"gradient norm {value(self.latest.gradient_norm)}")
        parts.append(f"{count(round(self.rate))} rows/s")
        return " · ".join(parts)


class LiveDisplay(Callback):
    """Shows a training on `out`.

    On a terminal: a bar over epochs, the latest figures and the course of the validation loss, redrawn in
    place and replaced by one line at the end. Elsewhere: about ten lines.
    """

    def __init__(self, out: Console) -> None:
        self.out = out
        self._course = _Course()
        self._display: Live | None = None
        self._bar = bars.Progress(
            bars.TextColumn("epoch"),
            bars.MofNCompleteColumn(separator=" of "),
            bars.BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
            bars.TimeRemainingColumn(compact=True),
            bars.TextColumn("left"),
            console=out,
            expand=True,
        )
        self._task: TaskID | None = None
        self._started = 0.0
        self._epochs = 0

    def on_start(self, trainer: Any, epochs: int, steps: int) -> None:
        self._started, self._epochs = time.monotonic(), epochs
        if self.out.is_terminal:
            self._task = self._bar.add_task("", total=epochs)
            self._display = Live(
                get_renderable=self._picture, console=self.out, refresh_per_second=_REFRESHES, transient=True
            )
            self._display.start()

    def on_slice(self, progress: Progress) -> None:
        self._course.add(progress, whole_epoch=False)
        self._advance(progress)

    def on_epoch(self, progress: Progress) -> None:
        self._course.add(progress, whole_epoch=True)
        self._advance(progress)
        every = max(1, self._epochs // _PLAIN_LINES)
        if self._display is None and (progress.epoch % every == 0 or progress.epoch == self._epochs):
            self._say(f"epoch {progress.epoch} of {self._epochs}: {self._course.line()}")

    def on_end(self, reason: str) -> None:
        if self._display is not None:
            self._display.stop()
        epochs, seconds = len(self._course.losses), time.monotonic() - self._started
        if epochs and reason != "interrupted":
            why = "" if reason == "all epochs" else f": {reason}"
            self._say(f"Trained {counted(epochs, 'epoch')} in {duration(seconds)}{why}.")

    def _say(self, line: str) -> None:
        """One line under what `Screen` tells; never broken, so that a log has a line for each event."""
        self.out.print(Text(" " * LABEL + line), soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was, also after an error."""
        if self._display is not None:
            self._display.stop()

    def _advance(self, progress: Progress) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=min(progress.epoch, self._epochs))

    def _picture(self) -> RenderableType:
        lines: list[RenderableType] = [
            self._bar,
            Text(self._course.line(), no_wrap=True, overflow="ellipsis"),
        ]
        course = sparkline(self._course.validation, self.out.width - len("validation loss "))
        if course:
            lines.append(Text.assemble(("validation loss ", "dim"), (course, "cyan")))
        return Group(*lines)
