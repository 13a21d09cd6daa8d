"""Learning-rate schedules: pure functions from the count of updates so far to the rate of the next one.

A schedule is called with an integer Tensor inside a traced step, which puts it into the graph, or with a
Python int, for tables and plots. Past its last step it keeps its last value.

>>> from chainrule.optim import Cosine
>>> rate = Cosine(lr=0.1, total_steps=100)
>>> [round(rate(count), 4) for count in (0, 50, 100, 1000)]
[0.1, 0.05, 0.0, 0.0]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.errors import RecipeError
from chainrule.graph import Node
from chainrule.ops import as_node, ops
from chainrule.optim.checks import check_choice, check_count, check_number
from chainrule.tensor import Tensor

_RATE = "0.001 is a common start"


@dataclass(frozen=True)
class Schedule(ABC):
    """``schedule(count)`` is the learning rate of the update that follows `count` others, in float64."""

    def __call__(self, count: Any) -> Any:
        """A float for a Python int, a 0-d float64 Tensor for an integer Tensor."""
        rate = self.at(ops.astype(as_node(count), np.float64))
        return float(rate.value) if isinstance(count, int) else Tensor(rate)

    @abstractmethod
    def at(self, count: Node) -> Node:
        """The rate at a float64 scalar count, written with `ops`."""


def _share(count: Node, steps: float) -> Node:
    """How much of `steps` has passed, held between 0 and 1."""
    return ops.clip(ops.divide(count, steps), 0.0, 1.0)


def _fall(share: Node) -> Node:
    """Half a cosine wave: from 1 at share 0 to 0 at share 1."""
    return ops.multiply(ops.add(ops.cos(ops.multiply(share, math.pi)), 1.0), 0.5)


def _between(start: float, end: float, fallen: Node) -> Node:
    """`end` plus what is left of the way from `start`."""
    return ops.add(ops.multiply(fallen, start - end), end)


@dataclass(frozen=True)
class Constant(Schedule):
    """Always `lr`."""

    lr: float

    def __post_init__(self) -> None:
        check_number(self, "lr", self.lr, cure=_RATE)

    def at(self, count: Node) -> Node:
        return ops.constant(self.lr, np.float64)


@dataclass(frozen=True)
class Step(Schedule):
    """Multiplied by `gamma` every `step_size` updates."""

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_number(self, "lr", self.lr, cure=_RATE)
        check_count(self, "step_size", self.step_size, low=1, cure="it counts updates between two drops")
        check_number(self, "gamma", self.gamma, cure="0.1 divides the rate by ten")

    def at(self, count: Node) -> Node:
        drops = ops.floor_divide(count, float(self.step_size))
        return ops.multiply(ops.pow(ops.constant(self.gamma, np.float64), drops), self.lr)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiplied by `gamma` at every count in `milestones`."""

    lr: float
    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_number(self, "lr", self.lr, cure=_RATE)
        check_number(self, "gamma", self.gamma, cure="0.1 divides the rate by ten")
        for each in self.milestones:
            check_count(self, "milestones", each, low=0, cure="they count updates, such as (1000, 2000)")

    def at(self, count: Node) -> Node:
        reached = ops.greater_equal(count, np.asarray(self.milestones, np.float64))
        drops = ops.sum(ops.astype(reached, np.float64))
        return ops.multiply(ops.pow(ops.constant(self.gamma, np.float64), drops), self.lr)


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiplied by `gamma` after every update."""

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        check_number(self, "lr", self.lr, cure=_RATE)
        check_number(self, "gamma", self.gamma, cure="0.999 falls to a third in 1,000 updates")

    def at(self, count: Node) -> Node:
        return ops.multiply(ops.pow(ops.constant(self.gamma, np.float64), count), self.lr)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from `lr` down to `minimum` over `total_steps` updates (arXiv:1608.03983)."""

    lr: float
    total_steps: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "lr", self.lr, cure=_RATE)
        check_count(self, "total_steps", self.total_steps, low=1, cure="use epochs x steps per epoch")
        check_number(self, "minimum", self.minimum, cure="it is the last rate, usually 0")

    def at(self, count: Node) -> Node:
        return _between(self.lr, self.minimum, _fall(_share(count, self.total_steps)))


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """A straight line from ``start_factor * lr`` up to `lr` over `warmup_steps` updates, then constant.

    The default start is not 0, so that the first update is not wasted.
    """

    lr: float
    warmup_steps: int
    start_factor: float = 0.01

    def __post_init__(self) -> None:
        check_number(self, "lr", self.lr, cure=_RATE)
        check_count(self, "warmup_steps", self.warmup_steps, low=1, cure="a few hundred updates are usual")
        check_number(self, "start_factor", self.start_factor, high=1.0, cure="0.01 is usual")

    def at(self, count: Node) -> Node:
        left = ops.subtract(1.0, _share(count, self.warmup_steps))
        return _between(self.start_factor * self.lr, self.lr, left)


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """`LinearWarmup`, then `Cosine` over the rest of `total_steps`."""

    lr: float
    warmup_steps: int
    total_steps: int
    start_factor: float = 0.01
    minimum: float = 0.0

    def __post_init__(self) -> None:
        warmup = LinearWarmup(self.lr, self.warmup_steps, self.start_factor)
        cure = f"it must be more than warmup_steps = {warmup.warmup_steps}"
        check_count(self, "total_steps", self.total_steps, low=self.warmup_steps + 1, cure=cure)
        check_number(self, "minimum", self.minimum, cure="it is the last rate, usually 0")

    def at(self, count: Node) -> Node:
        warmup = LinearWarmup(self.lr, self.warmup_steps, self.start_factor)
        fall = Cosine(self.lr, self.total_steps - self.warmup_steps, self.minimum)
        after = ops.subtract(count, float(self.warmup_steps))
        return ops.where(ops.less(after, 0.0), warmup.at(count), fall.at(after))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from ``max_lr / div_factor`` to `max_lr`, then down to the start divided by `final_div_factor`.

    The rise takes the share `pct_start` of `total_steps`; both ways are half a cosine wave, or a line with
    ``anneal_strategy="linear"``. PyTorch's OneCycleLR without momentum (Smith and Topin, arXiv:1708.07120).
    """

    max_lr: float
    total_steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal_strategy: str = "cos"

    def __post_init__(self) -> None:
        check_number(self, "max_lr", self.max_lr, cure="3 to 10 times the rate that works without a schedule")
        check_count(self, "total_steps", self.total_steps, low=1, cure="use epochs x steps per epoch")
        if not 0 <= self.pct_start <= 1:
            raise RecipeError(
                f"OneCycle: pct_start = {self.pct_start!r} must lie between 0 and 1, 0.3 is usual"
            )
        check_number(self, "div_factor", self.div_factor, low=1.0, cure="25 is usual")
        check_number(self, "final_div_factor", self.final_div_factor, low=1.0, cure="10000 is usual")
        check_choice(self, "anneal_strategy", self.anneal_strategy, ("cos", "linear"))

    def at(self, count: Node) -> Node:
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        top = self.pct_start * self.total_steps - 1  # the count of the highest rate
        bottom = self.total_steps - 1
        rate = ops.constant(self.max_lr, np.float64)
        if bottom > top:
            rate = _between(self.max_lr, last, self._left(_share(ops.subtract(count, top), bottom - top)))
        if top > 0:  # what the rise has not yet climbed is taken off
            missing = self._left(_share(count, top))
            rate = ops.subtract(rate, ops.multiply(missing, self.max_lr - first))
        return rate

    def _left(self, share: Node) -> Node:
        return _fall(share) if self.anneal_strategy == "cos" else ops.subtract(1.0, share)


@dataclass(frozen=True)
class Plateau(Schedule):
    """`lr`, divided whenever the validation loss stops falling.

    Inside the graph the rate is constant; the program around the graph asks `watch` for a `PlateauWatch`,
    tells it the loss of every epoch, and puts the scale it answers into the optimizer state. Names and
    meanings are those of PyTorch's ReduceLROnPlateau; `min_scale` bounds the scale, not the rate.
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_scale: float = 0.0
    mode: str = "min"

    def __post_init__(self) -> None:
        check_number(self, "lr", self.lr, cure=_RATE)
        check_number(self, "factor", self.factor, high=1.0, cure="0.1 divides the rate by ten")
        check_count(self, "patience", self.patience, low=0, cure="it counts epochs without improvement")
        check_number(self, "threshold", self.threshold, cure="0.0001 is usual")
        check_choice(self, "threshold_mode", self.threshold_mode, ("rel", "abs"))
        check_count(self, "cooldown", self.cooldown, low=0, cure="it counts epochs to wait after a drop")
        check_number(self, "min_scale", self.min_scale, cure="0 lets the rate fall without end")
        check_choice(self, "mode", self.mode, ("min", "max"))

    def at(self, count: Node) -> Node:
        return ops.constant(self.lr, np.float64)

    def watch(self) -> PlateauWatch:
        """A fresh observer of the validation loss."""
        return PlateauWatch(self)


class PlateauWatch:
    """Watches a validation loss and answers with the scale of the learning rate.

    >>> from chainrule.optim import Plateau
    >>> watch = Plateau(lr=0.1, factor=0.5, patience=1).watch()
    >>> [watch.scale_after(loss) for loss in (1.0, 0.9, 0.9, 0.9, 0.9)]
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(self, rule: Plateau) -> None:
        self.rule = rule
        self.best = math.inf if rule.mode == "min" else -math.inf
        self.bad_epochs = 0
        self.cooldown_left = 0
        self.drops = 0

    @property
    def scale(self) -> float:
        """What the learning rate is multiplied by now."""
        return max(self.rule.factor**self.drops, self.rule.min_scale)

    def scale_after(self, value: float) -> float:
        """Note the validation loss of one more epoch and return the scale to use from now on."""
        if self._better(value):
            self.best, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        if self.cooldown_left:
            self.cooldown_left -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.rule.patience:
            self.drops += 1
            self.bad_epochs, self.cooldown_left = 0, self.rule.cooldown
        return self.scale

    def _better(self, value: float) -> bool:
        margin = self.rule.threshold * (abs(self.best) if self.rule.threshold_mode == "rel" else 1.0)
        if math.isinf(self.best):
            return value < self.best if self.rule.mode == "min" else value > self.best
        return value < self.best - margin if self.rule.mode == "min" else value > self.best + margin

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold, as plain numbers."""
        return {
            "best": self.best,
            "bad_epochs": self.bad_epochs,
            "cooldown_left": self.cooldown_left,
            "drops": self.drops,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.best = float(state["best"])
        self.bad_epochs, self.cooldown_left = int(state["bad_epochs"]), int(state["cooldown_left"])
        self.drops = int(state["drops"])
