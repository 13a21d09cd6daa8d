"""What an optimizer is: two pure functions, written with `ops`, that become part of the training step.

``init(parameters) -> state`` and ``update(gradients, state, parameters) -> (updates, state)``. Parameters and
gradients are dicts by path, the state is a nested dict of Tensors, and updates are *added* to parameters.
"""

from __future__ import annotations

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from chainrule.errors import GradientError, RecipeError
from chainrule.graph import Node
from chainrule.ops import as_node, ops
from chainrule.optim.checks import check_number
from chainrule.optim.schedules import Plateau, PlateauWatch
from chainrule.optim.stateful import StatefulOptimizer
from chainrule.origin import Origin, because
from chainrule.tensor import Tensor, asarray

Rate = float | Callable[[Any], Any]
"""A learning rate: a number, or a function of the count of updates so far."""
State = dict[str, Any]
Tensors = dict[str, Tensor]


class Transform(ABC):
    """Gradients in; out comes what the next transform takes for gradients."""

    name: ClassVar[str]
    """What recipes call it."""

    def init(self, parameters: Mapping[str, Any]) -> State:
        """The state before the first update; most transforms have none."""
        return {}

    @abstractmethod
    def update(
        self, gradients: Mapping[str, Any], state: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> tuple[Tensors, State]:
        """The transformed gradients of `parameters`, and the new state."""


class TakesParameters(ABCMeta):
    """``Adam(lr=0.1)`` is two pure functions; ``Adam(model.parameters(), lr=0.1)`` wears PyTorch's shell."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        given = arguments[:1] if "params" not in options else (options.pop("params"),)
        if not given or _is_rate(given[0]):
            return super().__call__(*arguments, **options)
        rest = arguments[1:] if arguments else ()
        return StatefulOptimizer(super().__call__(*rest, **options), given[0])


def _is_rate(argument: Any) -> bool:
    return isinstance(argument, str | int | float) or callable(argument)


class Optimizer(Transform):
    """A transform whose result is to be added to the parameters."""

    lr: Rate

    @abstractmethod
    def with_scale(self, state: State, scale: float) -> State:
        """`state` with the learning rate multiplied by `scale` from now on; nothing is traced anew."""

    def plateau_watch(self) -> PlateauWatch | None:
        """Who must be told the validation loss; None unless the schedule is a `Plateau`."""
        return self.lr.watch() if isinstance(self.lr, Plateau) else None


@dataclass(frozen=True)
class Algorithm(Optimizer, metaclass=TakesParameters):
    """An optimizer that keeps `slots` per parameter, each of the parameter's shape and dtype.

    An algorithm says which slots it keeps, which scalars it needs once per step, and its rule for one
    parameter; counting, the learning rate and the walk over parameters are the same for all.
    """

    lr: Rate = 1e-3

    def __post_init__(self) -> None:
        if hasattr(self.lr, "named_parameters"):
            raise RecipeError(
                f"{type(self).__name__} was given a model where its parameters or a learning rate belong; "
                f"write {type(self).__name__}(model.parameters(), lr=0.001)"
            )
        if not callable(self.lr):
            check_number(self, "lr", self.lr, cure="0.001 is a common start")

    # -- the interface ---------------------------------------------------------------------------------------
    def init(self, parameters: Mapping[str, Any]) -> State:
        """Count 0, scale 1, and every slot of every parameter at its first value."""
        moments = {slot: {path: self.first(slot, p) for path, p in parameters.items()} for slot in self.slots}
        return {"count": asarray(np.int64(0)), "scale": asarray(np.float64(1)), **moments}

    def update(
        self, gradients: Mapping[str, Any], state: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> tuple[Tensors, State]:
        """What to add to each parameter, and the state after this update.

        `gradients` may have entries that `parameters` has not (further names of tied weights).
        """
        with because(Origin("update")):
            count = ops.add(state["count"], 1)
            rate = ops.multiply(state["scale"], self.rate(state["count"]))
        updates, moments = self.step(rate, count, gradients, state, parameters)
        return updates, {"count": Tensor(count), "scale": state["scale"], **moments}

    def rate(self, count: Any) -> Node:
        """The learning rate after `count` updates, as a float64 scalar, before `scale`."""
        rate = self.lr(count) if callable(self.lr) else self.lr
        if isinstance(rate, int | float):
            return ops.constant(rate, np.float64)
        return ops.astype(as_node(rate), np.float64)

    def with_scale(self, state: State, scale: float) -> State:
        return {**state, "scale": asarray(np.float64(scale))}

    def step(
        self,
        rate: Any,
        count: Any,
        gradients: Mapping[str, Any],
        moments: Mapping[str, Any],
        parameters: Mapping[str, Any],
    ) -> tuple[Tensors, dict[str, Tensors]]:
        """Updates and new slots of the update number `count` (1 for the first) at a given rate."""
        with because(Origin("update")):
            scalars = self.scalars(as_node(rate), ops.astype(as_node(count), np.float64))
            dtypes = {as_node(parameter).dtype for parameter in parameters.values()}
            cast = {dtype: {k: ops.astype(v, dtype) for k, v in scalars.items()} for dtype in dtypes}
        updates: Tensors = {}
        after: dict[str, Tensors] = {slot: {} for slot in self.slots}
        for path, gradient in of_parameters(gradients, parameters).items():
            parameter = as_node(parameters[path])
            kept = {slot: as_node(moments[slot][path]) for slot in self.slots}
            with because(Origin("update", path)):
                change = self.rule(gradient, parameter, kept, cast[parameter.dtype])
            updates[path] = Tensor(change)
            for slot in self.slots:
                after[slot][path] = Tensor(kept[slot])
        return updates, after

    # -- what an algorithm says ------------------------------------------------------------------------------
    @property
    def slots(self) -> tuple[str, ...]:
        """Names of what is kept per parameter; PyTorch's, so that state_dicts interchange."""
        return ()

    def first(self, slot: str, parameter: Any) -> Tensor:
        """The value of a slot before the first update."""
        return asarray(np.zeros(parameter.shape, parameter.dtype))

    @abstractmethod
    def scalars(self, rate: Node, count: Node) -> dict[str, Node]:
        """Numbers all parameters share, from float64 scalars; `rule` gets them in the parameter's dtype."""

    @abstractmethod
    def rule(self, gradient: Node, parameter: Node, kept: dict[str, Node], scalars: dict[str, Node]) -> Node:
        """What to add to one parameter; puts the new value of each slot into `kept`."""


def of_parameters(gradients: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Node]:
    """The gradient of every parameter, in the order of the parameters."""
    missing = [path for path in parameters if path not in gradients]
    if missing:
        named = ", ".join(map(repr, list(gradients)[:4])) or "nothing"
        raise GradientError(
            f"there is no gradient for parameter {missing[0]!r} (nor for {len(missing) - 1} others): the "
            f"gradients are named {named}. Give both dicts the same paths, as dict(model.named_parameters()) "
            "and cr.grad(loss)(model) do"
        )
    return {path: as_node(gradients[path]) for path in parameters}


def apply_updates(parameters: Mapping[str, Any], updates: Mapping[str, Any]) -> Tensors:
    """The parameters after the updates were added to them.

    >>> from chainrule.optim import apply_updates
    >>> import chainrule as cr
    >>> apply_updates({"w": cr.asarray(1.0)}, {"w": cr.asarray(-0.25)})["w"].item()
    0.75
    """
    after: Tensors = {}
    for path, parameter in parameters.items():
        with because(Origin("update", path)):
            after[path] = Tensor(ops.add(parameter, updates[path]))
    return after
