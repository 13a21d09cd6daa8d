"""What can stand in front of an optimizer (clipping and weight decay of gradients), and how to chain it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from chainrule.errors import RecipeError
from chainrule.graph import Node
from chainrule.ops import as_node, ops
from chainrule.optim.base import Optimizer, Rate, State, Tensors, Transform, of_parameters
from chainrule.optim.checks import check_number
from chainrule.origin import Origin, because
from chainrule.tensor import Tensor


def global_norm(gradients: Mapping[str, Any]) -> Tensor:
    """The Euclidean norm of all gradients taken as one vector: a float64 scalar.

    >>> import chainrule as cr
    >>> cr.optim.global_norm({"w": cr.asarray([3.0]), "b": cr.asarray([[4.0]])}).item()
    5.0
    """
    total = ops.constant(0, np.float64)
    for path, gradient in gradients.items():
        with because(Origin("update", path)):
            total = ops.add(total, ops.astype(ops.sum(ops.square(as_node(gradient))), np.float64))
    with because(Origin("update")):
        return Tensor(ops.sqrt(total))


@dataclass(frozen=True)
class GradientTransform(Transform):
    """A transform without state that stands in front of an optimizer."""


@dataclass(frozen=True)
class clip_by_global_norm(GradientTransform):  # noqa: N801 - reads as a function in a chain
    """All gradients scaled together so that their `global_norm` is at most `max_norm`: clip_grad_norm_."""

    name: ClassVar[str] = "clip_by_global_norm"

    max_norm: float

    def __post_init__(self) -> None:
        check_number(self, "max_norm", self.max_norm, cure="1.0 is a common start")

    def update(
        self, gradients: Mapping[str, Any], state: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> tuple[Tensors, State]:
        chosen = of_parameters(gradients, parameters)
        norm = global_norm(chosen)
        with because(Origin("update")):
            # PyTorch's 1e-6 keeps the quotient finite when every gradient is 0.
            factor = ops.minimum(ops.divide(self.max_norm, ops.add(norm, 1e-6)), 1.0)
            cast = {dtype: ops.astype(factor, dtype) for dtype in {each.dtype for each in chosen.values()}}
        return _each(chosen, lambda path, gradient: ops.multiply(gradient, cast[gradient.dtype])), {}


@dataclass(frozen=True)
class clip_by_value(GradientTransform):  # noqa: N801 - reads as a function in a chain
    """Every element of every gradient held between -max_value and max_value."""

    name: ClassVar[str] = "clip_by_value"

    max_value: float

    def __post_init__(self) -> None:
        check_number(self, "max_value", self.max_value, cure="0.5 is a common start")

    def update(
        self, gradients: Mapping[str, Any], state: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> tuple[Tensors, State]:
        chosen = of_parameters(gradients, parameters)
        bound = self.max_value
        return _each(chosen, lambda path, gradient: ops.clip(gradient, -bound, bound)), {}


@dataclass(frozen=True)
class add_decayed_weights(GradientTransform):  # noqa: N801 - reads as a function in a chain
    """`weight_decay` times the parameter added to its gradient: the derivative of an L2 penalty."""

    name: ClassVar[str] = "add_decayed_weights"

    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "weight_decay", self.weight_decay, cure="0.0001 is a common start")

    def update(
        self, gradients: Mapping[str, Any], state: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> tuple[Tensors, State]:
        def decayed(path: str, gradient: Node) -> Node:
            return ops.add(gradient, ops.multiply(parameters[path], self.weight_decay))

        return _each(of_parameters(gradients, parameters), decayed), {}


def _each(gradients: Mapping[str, Node], change: Any) -> Tensors:
    changed: Tensors = {}
    for path, gradient in gradients.items():
        with because(Origin("update", path)):
            changed[path] = Tensor(change(path, gradient))
    return changed


@dataclass(frozen=True)
class Chain(Optimizer):
    """Gradient transforms, one after the other, and an optimizer behind them, whose state is the chain's."""

    name: ClassVar[str] = "chain"

    stages: tuple[GradientTransform, ...]
    optimizer: Optimizer

    @property
    def lr(self) -> Rate:  # type: ignore[override]  # read-only here: it is the optimizer's
        return self.optimizer.lr

    def init(self, parameters: Mapping[str, Any]) -> State:
        return self.optimizer.init(parameters)

    def update(
        self, gradients: Mapping[str, Any], state: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> tuple[Tensors, State]:
        for stage in self.stages:
            gradients, _ = stage.update(gradients, {}, parameters)
        return self.optimizer.update(gradients, state, parameters)

    def with_scale(self, state: State, scale: float) -> State:
        return self.optimizer.with_scale(state, scale)


def chain(*stages: Transform) -> Chain:
    """Gradient transforms and, last, an optimizer, as one optimizer.

    >>> import chainrule as cr
    >>> optimizer = cr.optim.chain(cr.optim.clip_by_global_norm(1.0), cr.optim.AdamW(lr=1e-3))
    """
    *first, last = stages or (None,)
    transforms = tuple(each for each in first if isinstance(each, GradientTransform))
    if not isinstance(last, Optimizer) or len(transforms) < len(first):
        listed = ", ".join(type(each).__name__ for each in stages) or "nothing"
        raise RecipeError(
            f"chain was given {listed}: it takes gradient transforms such as clip_by_global_norm(1.0) and, "
            "last, one optimizer without parameters, such as Adam(lr=0.001)"
        )
    return Chain(transforms, last)
