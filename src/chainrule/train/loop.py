"""Epochs around the step: validation, early stopping, checkpoints, listeners.

What decides the result (batches, losses, when to stop) depends only on cells and counts that a checkpoint
holds, never on time. So a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.errors import RunError
from chainrule.run import Checkpoint, RunFolder
from chainrule.train.callbacks import Callback, Progress
from chainrule.train.past import EVERY, Past, Rows, fingerprint, modes_of, state_of
from chainrule.train.states import States
from chainrule.train.trainer import Trainer
from chainrule.tree import unflatten

Array = np.ndarray[Any, Any]
Data = tuple[Any, ...]
SLICE_SECONDS = 0.2
"""How often listeners are told."""
CHECKPOINT_SECONDS = 2.0
STATE_SECONDS = 0.5
"""How long between states that a replay may begin with, at least."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped with Ctrl-C after its state was saved; the message says how to go on."""


@dataclass
class Best:
    """The epoch with the lowest validation loss so far."""

    value: float = math.inf
    epoch: int = -1
    arrays: dict[str, Array] = field(default_factory=dict)


class Loop:
    """Trains for `epochs` epochs.

    data, validation  ``(inputs, targets)`` or ``(inputs, targets, weights)``; validation may be None
    patience          stop after this many epochs without a lower validation loss
    restore_best      end with the weights of the best epoch (needs validation)
    plateau           an optim plateau schedule: told the validation loss, it returns a learning-rate scale
    measure           more numbers about an epoch, given the validation outputs
    folder            where checkpoints and history go, None to keep nothing
    rows              which of the user's rows `data` are

    `past` are the steps it took; `bad_step` is the one whose loss or gradient was not finite, None while all
    were. Training ends with it, with the weights from before it.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: Data,
        epochs: int,
        *,
        validation: Data | None = None,
        patience: int | None = None,
        restore_best: bool = True,
        plateau: Any = None,
        measure: Callable[[Array], dict[str, float]] | None = None,
        callbacks: Sequence[Callback] = (),
        folder: RunFolder | None = None,
        stamp: dict[str, Any] | None = None,
        rows: Rows = EVERY,
    ) -> None:
        leaves, structure = trainer.leaves(data)  # cast here, not once per epoch
        self.trainer, self.data, self.epochs = trainer, unflatten(structure, leaves), epochs
        self.validation, self.patience, self.restore_best = validation, patience, restore_best
        self.plateau, self.measure, self.callbacks = plateau, measure, callbacks
        self.folder, self.stamp = folder, stamp or {}
        self.rows = len(leaves[0])
        self.per_epoch = trainer.steps_per_epoch(self.rows)
        self.epoch = 0
        self.loss_sum, self.row_count = 0.0, 0
        self.best = Best()
        self.history: list[dict[str, Any]] = []
        self.past = Past(trainer, self.data, States(folder, _facts(trainer, folder)), self.history, rows=rows)
        self.reason = ""
        self.bad_step: int | None = None
        self._gradient_norm = float("nan")
        self._stop_asked = False
        self._saved_at = self._told_at = time.monotonic()
        self._noted_at = -math.inf
        self._told_rows = 0
        self._step = 0

    def run(self) -> str:
        """Train to the end (from the checkpoint, if there is one) and return the reason for stopping."""
        self._note_state()
        self._restore()
        for each in self.callbacks:
            each.on_start(self.trainer, self.epochs, self.per_epoch)
        with self._ctrl_c():
            while self.epoch < self.epochs and not self.reason:
                self._train_epoch()
                self._finish_epoch()
        self.reason = self.reason or "all epochs"
        self.past.steps = self._step_now() + (self.bad_step is not None)
        if self.restore_best and self.best.arrays:
            self.trainer.load_state({**self.trainer.state(), **self.best.arrays})
        self._checkpoint()
        for each in self.callbacks:
            each.on_end(self.reason)
        return self.reason

    @property
    def outcome(self) -> dict[str, Any]:
        """How it ended, for the result of a run."""
        told = {"reason": self.reason, "epochs": len(self.history), "steps": self.past.steps}
        return told if self.bad_step is None else {**told, "bad_step": self.bad_step}

    # -- one epoch -----------------------------------------------------------------------------------------
    def _train_epoch(self) -> None:
        """The steps that are left in this epoch; between slices there is time to tell, stop and save."""
        end = (self.epoch + 1) * self.per_epoch
        while (left := end - self._step_now()) > 0:
            self._note_state()
            self._told_at, self._told_rows = time.monotonic(), 0
            self.trainer.run(self.data, left, on_slice=self._after_slice)
            if self.bad_step is not None:
                self.past.go_to(self.bad_step)  # the slice went on after it, for as long as time allowed
                return
            if self._stop_asked:
                self._interrupt()
            if self._checkpoint_is_due():
                self._checkpoint()

    def _step_now(self) -> int:
        self._step = int(self.trainer.count.item())
        return self._step

    def _after_slice(self, losses: Array, norms: Array, rows: Array) -> bool:
        bad = ~np.isfinite(losses) | np.isnan(norms)
        if bad.any():
            first = int(np.argmax(bad))
            self.bad_step = self._step + first
            losses, norms, rows = losses[: first + 1], norms[: first + 1], rows[: first + 1]
        sums = np.cumsum(np.concatenate([[self.loss_sum], losses * rows]))  # one by one, however they are cut
        self.loss_sum = float(sums[-1])
        self.row_count += int(rows.sum())
        self._told_rows += int(rows.sum())
        self._step += len(losses)
        self._gradient_norm = float(norms[-1])
        if time.monotonic() - self._told_at > SLICE_SECONDS:
            self._tell_slice(float(losses[-1]))
            self._told_at, self._told_rows = time.monotonic(), 0
        return self._stop_asked or self.bad_step is not None or self._checkpoint_is_due()

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self._saved_at > CHECKPOINT_SECONDS

    def _finish_epoch(self) -> None:
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "loss": self.loss_sum / max(self.row_count, 1),
            "gradient_norm": self._gradient_norm,
        }
        if self.validation is not None:
            row |= self._validate()
        self.history.append(row)
        if self.folder is not None:
            self.folder.append_history(row)
        self.loss_sum, self.row_count = 0.0, 0
        self.epoch += 1
        if self.bad_step is not None:
            what = "gradient is not a number" if math.isfinite(row["loss"]) else "loss is not finite"
            self.reason = f"the {what} in step {self.bad_step:,}, in epoch {self.epoch}"
        elif self.patience is not None and self.epoch - 1 - self.best.epoch >= self.patience:
            self.reason = "early stopping"
        progress = self._progress(row["loss"], row.get("validation_loss"), row)
        answers = [each.on_epoch(progress) for each in self.callbacks]  # everybody is told, whoever stops
        if any(answers):
            self.reason = self.reason or "stopped by a callback"

    def _validate(self) -> dict[str, float]:
        assert self.validation is not None
        outputs = self.trainer.predict(self.validation[0])
        loss = self.trainer.evaluate(outputs, self.validation[1])
        if loss < self.best.value:
            kept = {k: v for k, v in self.trainer.state().items() if k.startswith("model.")}
            self.best = Best(loss, self.epoch, kept if self.restore_best else {})
        if self.plateau is not None:
            self.trainer.set_scale(self.plateau.scale_after(loss))
        return {"validation_loss": loss, **(self.measure(outputs) if self.measure else {})}

    # -- telling -------------------------------------------------------------------------------------------
    def _tell_slice(self, last: float) -> None:
        progress = self._progress(last, None, {})
        for each in self.callbacks:
            each.on_slice(progress)

    def _progress(self, loss: float, validation_loss: float | None, row: dict[str, Any]) -> Progress:
        elapsed = max(time.monotonic() - self._told_at, 1e-9)
        known = ("epoch", "loss", "gradient_norm", "validation_loss")
        return Progress(
            epoch=self.epoch,
            epochs=self.epochs,
            step=self._step,
            steps=self.epochs * self.per_epoch,
            loss=loss,
            gradient_norm=self._gradient_norm,
            rows_per_second=self._told_rows / elapsed,
            validation_loss=validation_loss,
            metrics={name: value for name, value in row.items() if name not in known},
        )

    # -- stopping and going on -------------------------------------------------------------------------------
    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """Ctrl-C lets the running step finish; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self._stop_asked:
                raise KeyboardInterrupt
            self._stop_asked = True

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self) -> None:
        self._checkpoint()
        for each in self.callbacks:
            each.on_end("interrupted")
        if self.folder is None:
            raise Interrupted(
                f"stopped in epoch {self.epoch + 1} of {self.epochs}; nothing was saved, because no "
                "run folder was given"
            )
        raise Interrupted(
            f"stopped in epoch {self.epoch + 1} of {self.epochs}; everything up to this step is saved. "
            f"Go on with: chainrule train --resume {self.folder.path}"
        )

    def _note_state(self) -> None:
        """Now and then, for replays; what is kept changes nothing about the result."""
        if time.monotonic() - self._noted_at >= STATE_SECONDS:
            self.past.states.note(self._step_now(), state_of(self.trainer))
            self._noted_at = time.monotonic()

    def _checkpoint(self) -> None:
        self._saved_at = time.monotonic()
        if self.folder is None:
            return
        progress = {
            **self.stamp,
            "epoch": self.epoch,
            "loss_sum": self.loss_sum,
            "row_count": self.row_count,
            "gradient_norm": self._gradient_norm,
            "best_value": self.best.value,
            "best_epoch": self.best.epoch,
            "reason": self.reason,
            "bad_step": self.bad_step,
            "history": len(self.history),
            "plateau": None if self.plateau is None else self.plateau.state(),
        }
        best = {f"best.{name}": value for name, value in self.best.arrays.items()}
        told = {f"telemetry.{name}": value for name, value in self.trainer.telemetry.state().items()}
        self.folder.write_checkpoint(Checkpoint({**self.trainer.state(), **best, **told}, progress))

    def _restore(self) -> None:
        saved = self.folder.checkpoint() if self.folder is not None else None
        if saved is None or self.folder is None:
            if self.folder is not None and self.folder.has("history.jsonl"):
                self.folder.cut_history(0)
            return
        for name, value in self.stamp.items():
            if saved.progress.get(name) != value:
                raise RunError(
                    f"{self.folder.path} cannot go on: its {name.replace('_', ' ')} was "
                    f"{saved.progress.get(name)!r} and is now "
                    f"{value!r}. Restore what changed, or start a new run"
                )
        kept, told = (_under(f"{part}.", saved.arrays) for part in ("best", "telemetry"))
        now = {k: v for k, v in saved.arrays.items() if not k.startswith(("best.", "telemetry."))}
        self.trainer.load_state(now)
        self.trainer.telemetry.load_state(told)
        progress = saved.progress
        self.epoch, self.reason = progress["epoch"], progress["reason"]
        self.bad_step = progress.get("bad_step")  # older versions did not say
        self.loss_sum, self.row_count = progress["loss_sum"], progress["row_count"]
        self._gradient_norm = progress["gradient_norm"]
        self.best = Best(progress["best_value"], progress["best_epoch"], kept)
        if self.plateau is not None and progress["plateau"] is not None:
            self.plateau.load_state(progress["plateau"])
        self.folder.cut_history(progress["history"])
        self.history[:] = self.folder.history()


def _under(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """Those whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): value for k, value in arrays.items() if k.startswith(prefix)}


def _facts(trainer: Trainer, folder: RunFolder | None) -> dict[str, Any]:
    """What a replay from a folder has to know besides the recipe."""
    if folder is None:
        return {}
    modes = modes_of(trainer.model)
    return {"training": modes, "loss": fingerprint(trainer.loss)}
