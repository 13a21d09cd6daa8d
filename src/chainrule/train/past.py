"""The past of a run: any step taken again, from the same state, on the same batch, with the same draws.

The trainer goes back to the last state that was kept before the step, takes the steps between as it did
then, bit for bit, and computes the loss of the step eagerly, so that its whole history can be looked at.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.errors import RunError
from chainrule.graph import Node, reachable
from chainrule.nn import Module
from chainrule.optim import Optimizer
from chainrule.origin import at_user_line, user_line
from chainrule.tensor import Tensor, asarray
from chainrule.train.feeding import batch_of, shuffled
from chainrule.train.states import State, States
from chainrule.train.telemetry import Telemetry
from chainrule.train.trainer import Trainer
from chainrule.tree import unflatten

Array = np.ndarray[Any, Any]
Data = tuple[Any, ...]


@dataclass(frozen=True)
class Replayed:
    """One step of a run, computed again.

    step   its number, counted from 0
    loss   of the step's batch, computed eagerly in training mode: a scalar with its history
    batch  ``(inputs, targets)`` or ``(inputs, targets, weights)`` as the step saw them
    rows   which rows of the user's data they are, counted from 0
    names  of these rows, for people
    state  of the trainer before the step, by name: parameters, buffers, what the optimizer keeps
    optimizer  that made a step of the gradients; None if nobody knows
    """

    step: int
    loss: Tensor
    batch: Data = field(repr=False)
    rows: Array
    names: tuple[str, ...] = field(repr=False)
    state: State = field(repr=False)
    optimizer: Optimizer | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Rows:
    """The training rows among the rows that the user gave.

    numbers  of the training rows, counted from 0; None where all are
    table    whether they are rows of a table, whose first row people call 1
    """

    numbers: Array | None = None
    table: bool = False

    def of(self, chosen: Array) -> Array:
        """The user's numbers of some training rows."""
        return chosen if self.numbers is None else self.numbers[chosen]

    def name(self, number: int) -> str:
        """What a row is called."""
        return f"row {number + self.table:,}"


EVERY = Rows()


class Past:
    """The steps that a trainer took.

    data     what it was given: ``(inputs, targets)`` or ``(inputs, targets, weights)``
    states   those kept on the way
    history  the rows of the epochs
    steps    how many were taken
    rows     which rows of the user's the data are
    modes    layer path → whether it was in training mode
    check    raises `RunError` where the data are no longer those of the training
    """

    def __init__(
        self,
        trainer: Trainer,
        data: Data,
        states: States,
        history: Sequence[dict[str, Any]],
        steps: int = 0,
        rows: Rows = EVERY,
        modes: dict[str, bool] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.trainer, self.data, self.states, self.history = trainer, data, states, history
        self.steps, self.rows, self.check = steps, rows, check
        self.modes = modes_of(trainer.model) if modes is None else modes
        self._replayed: Replayed | None = None

    def replay(self, step: int | None = None) -> Replayed:
        """A step, taken again; negative ones count from the end, None is the last.

        The trainer and its model are afterwards as they were. The step asked for last is kept, so that
        asking again costs nothing.
        """
        at = self._counted(step)
        if self._replayed is None or self._replayed.step != at:
            self.check()
            with self._borrowed():
                self.go_to(at)
                self._replayed = self._taken(at)
            self.states.remember(at, self._replayed.state)  # the next one asked for may not be far
        return self._replayed

    def _counted(self, step: int | None) -> int:
        if step is not None and not isinstance(step, int | np.integer):
            raise TypeError(f"step={step!r}{at_user_line()}: a step is a whole number, counted from 0")
        at = self.steps - 1 if step is None else step + self.steps if step < 0 else step
        if not 0 <= at < self.steps:
            there = f"steps 0 to {self.steps - 1:,}" if self.steps else "none"
            which = "to replay" if step is None else f"{step:,}"
            raise RunError(f"there is no step {which}: the run has {there}")
        return at

    def go_to(self, step: int) -> None:
        """Bring the trainer to the state before `step`; its telemetry stays as it is."""
        found = self.states.before(step)
        if found is None:
            raise RunError(
                f"no state was kept before step {step:,}: its file was removed from the run's states"
            )
        at, state = found
        told = self.trainer.telemetry
        self.trainer.load_state(state)
        self.trainer.telemetry = Telemetry(self.trainer.rates)
        try:
            self._go_on(at, step)
        finally:
            self.trainer.telemetry = told

    def _go_on(self, at: int, step: int) -> None:
        """Take the steps from `at` on, as training did: after an epoch the learning rate may be scaled."""
        per_epoch = self.trainer.steps_per_epoch(self._count)
        scales = self._scales()
        while True:
            epoch, into = divmod(at, per_epoch)
            if epoch and not into and scales:
                self.trainer.set_scale(scales[epoch - 1])
            if at == step:
                return
            end = min(step, (epoch + 1) * per_epoch)
            self.trainer.run(self.data, end - at)
            at = end

    def _scales(self) -> list[float]:
        """What the learning rate was multiplied by after each epoch; none unless its schedule watches."""
        watch = self.trainer.optimizer.plateau_watch()
        told = [row["validation_loss"] for row in self.history if "validation_loss" in row]
        return [] if watch is None else [watch.scale_after(loss) for loss in told]

    def _taken(self, step: int) -> Replayed:
        """The step at which the trainer stands."""
        leaves, structure = self.trainer.leaves(self.data)
        ((chosen,),) = shuffled(
            lambda epoch: self.trainer.order(self._count, epoch),
            self._count, self.trainer.batch_size, step, 1,
        )  # fmt: skip
        batch = unflatten(structure, batch_of(leaves, chosen))
        state = state_of(self.trainer)
        loss = self.trainer.loss_of(*unflatten(structure, map(asarray, batch_of(leaves, chosen))))
        _forget_line(loss.node, user_line())
        rows = self.rows.of(chosen)
        names = tuple(map(self.rows.name, rows.tolist()))
        return Replayed(step, loss, batch, rows, names, state, self.trainer.optimizer)

    @property
    def _count(self) -> int:
        return len(self.trainer.leaves(self.data)[0][0])

    @contextmanager
    def _borrowed(self) -> Iterator[None]:
        """Inside, the trainer may go anywhere; afterwards it and its model are as before."""
        trainer = self.trainer
        state, norm = state_of(trainer), trainer.gradient_norm
        modes = modes_of(trainer.model)
        set_modes(trainer.model, self.modes)
        try:
            yield
        finally:
            set_modes(trainer.model, modes)
            trainer.load_state(state)
            trainer.gradient_norm = norm


def _forget_line(loss: Node, line: tuple[str, int]) -> None:
    """Take the line that asks for a replay off the origins of what was replayed: it computes nothing."""
    for node in reachable([loss]):
        if any(origin[2:4] == line for origin in node.origins):
            node.origins = tuple(
                origin._replace(file="", line=0) if origin[2:4] == line else origin for origin in node.origins
            )


def modes_of(model: Module) -> dict[str, bool]:
    """Layer path → whether it is in training mode."""
    return {path: module.training for path, module in model.named_modules()}


def set_modes(model: Module, modes: dict[str, bool]) -> None:
    """Put every layer into its mode."""
    for path, module in model.named_modules():
        module.training = modes.get(path, module.training)


def state_of(trainer: Trainer) -> State:
    """As `Trainer.state`, without copies: the values of cells never change, cells take new ones."""
    return {name: cell.numpy() for name, cell in trainer.cells().items()}


def fingerprint(computed: Any) -> str:
    """A short hash of what a Module or a function computes: its source, its structure, its values."""
    kind = type(computed) if isinstance(computed, Module) else computed
    told = repr(computed) if isinstance(computed, Module) else getattr(computed, "__qualname__", "")
    try:
        source = inspect.getsource(kind) + told
    except (OSError, TypeError):
        source = told  # defined interactively: the structure has to do
    values = computed.state_dict() if isinstance(computed, Module) else {}
    initial = hashlib.sha256(b"".join(values[path].numpy().tobytes() for path in sorted(values))).hexdigest()
    return hashlib.sha256((source + initial).encode()).hexdigest()[:16]
