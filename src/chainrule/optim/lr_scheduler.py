"""PyTorch's learning-rate schedulers: ``scheduler.step()`` sets the rates of an optimizer with parameters.

Each is a thin shell over a schedule: a rate is a function of the number of steps and the group's first rate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from chainrule.errors import RecipeError
from chainrule.optim import schedules
from chainrule.optim.checks import check_count, check_number
from chainrule.optim.stateful import StatefulOptimizer


class LRScheduler(ABC):
    """Sets ``group["lr"]`` of every parameter group when it is made and at every `step`.

    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.nn.Parameter([1.0])], lr=0.1)
    >>> scheduler = cr.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> round(optimizer.param_groups[0]["lr"], 6)
    0.01
    """

    def __init__(self, optimizer: StatefulOptimizer) -> None:
        if not isinstance(optimizer, StatefulOptimizer):
            raise RecipeError(
                f"{type(self).__name__} sets the rate of an optimizer that holds parameters, such as "
                "Adam(model.parameters()). One without takes a schedule itself: Adam(lr=optim.Cosine(...))"
            )
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._set()

    @abstractmethod
    def rate(self, group: int, count: int) -> float:
        """The rate of a parameter group after `count` steps; its first rate is ``base_lrs[group]``."""

    def step(self) -> None:
        """One more step (an epoch or a batch, as you call it) has passed."""
        self.last_epoch += 1
        self._set()

    def _set(self) -> None:
        for index, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.rate(index, self.last_epoch)

    def get_last_lr(self) -> list[float]:
        """The rate of every group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """How far the schedule has come."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.last_epoch, self.base_lrs = state_dict["last_epoch"], list(state_dict["base_lrs"])
        self._set()


class StepLR(LRScheduler):
    """Times `gamma` every `step_size` steps."""

    def __init__(self, optimizer: StatefulOptimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, group: int, count: int) -> float:
        return float(schedules.Step(self.base_lrs[group], self.step_size, self.gamma)(count))


class MultiStepLR(LRScheduler):
    """Times `gamma` at every milestone."""

    def __init__(self, optimizer: StatefulOptimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = tuple(milestones), gamma
        super().__init__(optimizer)

    def rate(self, group: int, count: int) -> float:
        return float(schedules.MultiStep(self.base_lrs[group], self.milestones, self.gamma)(count))


class ExponentialLR(LRScheduler):
    """Times `gamma` at every step."""

    def __init__(self, optimizer: StatefulOptimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, group: int, count: int) -> float:
        return float(schedules.Exponential(self.base_lrs[group], self.gamma)(count))


class CosineAnnealingLR(LRScheduler):
    """Along a cosine wave with half period `T_max`: down to `eta_min`, and up again if it goes on."""

    def __init__(self, optimizer: StatefulOptimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, group: int, count: int) -> float:
        within = count % (2 * self.T_max)
        down = min(within, 2 * self.T_max - within)
        return float(schedules.Cosine(self.base_lrs[group], self.T_max, self.eta_min)(down))


class LambdaLR(LRScheduler):
    """The first rate times ``lr_lambda(count)``; a list has one function per parameter group."""

    def __init__(
        self,
        optimizer: StatefulOptimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
    ) -> None:
        count = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * count if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != count:
            raise RecipeError(f"LambdaLR: {len(self.lr_lambdas)} functions for {count} parameter groups")
        super().__init__(optimizer)

    def rate(self, group: int, count: int) -> float:
        return self.base_lrs[group] * self.lr_lambdas[group](count)


class LinearLR(LRScheduler):
    """A straight line from `start_factor` to `end_factor` times the first rate over `total_iters` steps."""

    def __init__(
        self,
        optimizer: StatefulOptimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        check_number(self, "start_factor", start_factor, cure="1/3 starts at a third of the rate")
        check_number(self, "end_factor", end_factor, cure="1 ends at the rate itself")
        check_count(self, "total_iters", total_iters, low=1, cure="it counts steps")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def rate(self, group: int, count: int) -> float:
        share = min(count / self.total_iters, 1.0)
        return self.base_lrs[group] * (self.start_factor + (self.end_factor - self.start_factor) * share)


class OneCycleLR(LRScheduler):
    """Up to `max_lr` and down again; the rate alone, PyTorch's ``cycle_momentum=False``."""

    def __init__(
        self,
        optimizer: StatefulOptimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise RecipeError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        count = len(optimizer.param_groups)
        peaks = [max_lr] * count if isinstance(max_lr, int | float) else list(max_lr)
        if len(peaks) != count:
            raise RecipeError(f"OneCycleLR: {len(peaks)} values of max_lr for {count} parameter groups")
        options = (pct_start, div_factor, final_div_factor, anneal_strategy)
        self.cycles = [schedules.OneCycle(peak, total_steps, *options) for peak in peaks]
        super().__init__(optimizer)

    def rate(self, group: int, count: int) -> float:
        return float(self.cycles[group](count))


class SequentialLR(LRScheduler):
    """One scheduler after the other; each counts from 0 at its milestone."""

    def __init__(
        self, optimizer: StatefulOptimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]
    ) -> None:
        if len(schedulers) != len(milestones) + 1:
            raise RecipeError(
                f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} milestones between "
                f"them, not {len(milestones)}"
            )
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def rate(self, group: int, count: int) -> float:
        running = sum(count >= milestone for milestone in self.milestones)
        start = self.milestones[running - 1] if running else 0
        return self.schedulers[running].rate(group, count - start)


class ReduceLROnPlateau:
    """Times `factor` when the value given to `step` has not improved for `patience` steps.

    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.nn.Parameter([1.0])], lr=0.1)
    >>> scheduler = cr.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    >>> for validation_loss in (1.0, 1.0):
    ...     scheduler.step(validation_loss)
    >>> optimizer.param_groups[0]["lr"]
    0.05
    """

    def __init__(
        self,
        optimizer: StatefulOptimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.optimizer = optimizer
        self.watch = schedules.Plateau(
            1.0, factor, patience, threshold, threshold_mode, cooldown, mode=mode
        ).watch()
        count = len(optimizer.param_groups)
        self.min_lrs = [min_lr] * count if isinstance(min_lr, int | float) else list(min_lr)
        self.eps = eps

    def step(self, metrics: Any) -> None:
        """Tell the value that is watched, usually the validation loss of an epoch."""
        drops = self.watch.drops
        self.watch.scale_after(float(metrics))
        if self.watch.drops == drops:
            return
        for group, lowest in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            reduced = max(group["lr"] * self.watch.rule.factor, lowest)
            if group["lr"] - reduced > self.eps:
                group["lr"] = reduced

    def get_last_lr(self) -> list[float]:
        """The rate of every group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What has been seen so far; the rates are in the optimizer's own state_dict."""
        return self.watch.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.watch.load_state(state_dict)
