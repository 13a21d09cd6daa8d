"""Losses that compare a prediction with a target of the same shape, element by element.

Each is a function and a Module that keeps its options. `reduction` says what becomes of the elements:
"mean", "sum" or "none".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chainrule.errors import RecipeError, ShapeError
from chainrule.graph import Node
from chainrule.nn.module import Module
from chainrule.ops import as_array, as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Buffer, Tensor


# -- functions ---------------------------------------------------------------------------------------------
def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """(x - y)².

    >>> import chainrule as cr
    >>> cr.nn.functional.mse_loss(cr.asarray([1.0, 4.0]), cr.asarray([1.0, 2.0])).item()
    2.0
    """
    return reduced(ops.square(_difference("mse_loss", input, target)), reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """|x - y|."""
    return reduced(ops.abs(_difference("l1_loss", input, target)), reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """(x - y)² / 2 up to a difference of `delta`, beyond it delta · (|x - y| - delta / 2) (Huber, 1964)."""
    if delta <= 0:
        raise RecipeError(f"huber_loss: delta = {delta!r} must be positive")
    return reduced(_huber(_difference("huber_loss", input, target), delta), reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """(x - y)² / (2 beta) up to a difference of `beta`, beyond it |x - y| - beta / 2."""
    if beta < 0:
        raise RecipeError(f"smooth_l1_loss: beta = {beta!r} must not be negative")
    difference = _difference("smooth_l1_loss", input, target)
    return reduced(ops.divide(_huber(difference, beta), beta) if beta else ops.abs(difference), reduction)


def _huber(difference: Node, delta: float) -> Node:
    """One formula for both pieces: with c the difference held in ±delta, c · (difference - c / 2)."""
    held = ops.clip(difference, -delta, delta)
    return ops.multiply(held, ops.subtract(difference, ops.multiply(held, 0.5)))


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """Negative log-likelihood of labels (0 to 1) under probabilities sigmoid(input).

    `weight` multiplies each element, `pos_weight` the share of the positive label; both broadcast.

    >>> import chainrule as cr
    >>> loss = cr.nn.functional.binary_cross_entropy_with_logits(cr.zeros(2), cr.asarray([0.0, 1.0]))
    >>> round(loss.item(), 6)  # log 2
    0.693147
    """
    x, y = _pair("binary_cross_entropy_with_logits", input, target)
    # -y log σ(x) - (1 - y) log(1 - σ(x)), with -log σ(x) = softplus(-x) and -log(1 - σ(x)) = x + softplus(-x)
    positive = ops.softplus(ops.negative(x))
    if pos_weight is not None:
        extra = ops.multiply(y, ops.subtract(like(pos_weight, x), 1))
        positive = ops.multiply(positive, ops.add(extra, 1))
    loss = ops.add(ops.multiply(ops.subtract(1, y), x), positive)
    return reduced(loss if weight is None else ops.multiply(loss, like(weight, x)), reduction)


def poisson_nll_loss(
    input: Any,
    target: Any,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of counts under a Poisson distribution with rate exp(input).

    With log_input=False the input is the rate itself, and `eps` keeps its logarithm finite. `full` adds
    Stirling's approximation of log(count!) for counts above 1.
    """
    x, count = _pair("poisson_nll_loss", input, target)
    if log_input:
        loss = ops.subtract(ops.exp(x), ops.multiply(count, x))
    else:
        loss = ops.subtract(x, ops.multiply(count, ops.log(ops.add(x, eps))))
    if full:
        loss = ops.add(loss, _log_factorial(count))
    return reduced(loss, reduction)


def _log_factorial(count: Node) -> Node:
    large = ops.greater(count, 1)
    safe = ops.where(large, count, 1)
    stirling = ops.add(
        ops.subtract(ops.multiply(safe, ops.log(safe)), safe),
        ops.multiply(ops.log(ops.multiply(safe, 2 * math.pi)), 0.5),
    )
    return ops.where(large, stirling, 0)


# -- what losses share -------------------------------------------------------------------------------------
def reduced(loss: Node, reduction: str) -> Tensor:
    """The mean, the sum, or each element of a loss."""
    check_reduction(reduction)
    return Tensor(loss if reduction == "none" else getattr(ops, reduction)(loss))


def check_reduction(reduction: str) -> None:
    """Raise unless `reduction` is one of the three."""
    if reduction not in ("mean", "sum", "none"):
        raise RecipeError(f"reduction = {reduction!r} is not known; choose 'mean', 'sum' or 'none'")


def like(value: Any, x: Node) -> Node:
    """Labels, counts or weights in the dtype of the prediction `x`, so that integers and booleans will do."""
    node = as_node(value if hasattr(value, "dtype") else np.asarray(value))
    return ops.astype(node, x.dtype)


def _difference(name: str, input: Any, target: Any) -> Node:
    return ops.subtract(*_pair(name, input, target))


def _pair(name: str, input: Any, target: Any) -> tuple[Node, Node]:
    """Prediction and target, refused when their shapes differ: broadcasting here is nearly always a bug."""
    x, y = as_node(input), as_node(target)
    if x.shape != y.shape:
        raise ShapeError(
            f"{name}: the prediction has shape {x.shape} and the target {y.shape}{at_user_line()}; "
            f"{_cure(x, y)}"
        )
    return x, y if y.floating else like(y, x)


def _cure(x: Node, y: Node) -> str:
    if x.size == y.size:
        return (
            "broadcasting would compare every prediction with every target. Write "
            f"target.reshape{x.shape}, or prediction.reshape{y.shape}"
        )
    return "a loss compares them element by element, so the shapes must be equal"


def kept_weight(value: Any) -> Buffer | None:
    """A weight that a loss keeps: state, moved by `double()` and listed in `state_dict` as in PyTorch."""
    return None if value is None else Buffer(as_array(value))


# -- modules -----------------------------------------------------------------------------------------------
class Loss(Module):
    """Base class of losses: called with (input, target)."""

    def __init__(self, reduction: str = "mean") -> None:
        check_reduction(reduction)
        self.reduction = reduction

    def extra_repr(self) -> str:
        """The options that are no fields of the tree."""
        options = {name: value for name, value in vars(self).items() if not isinstance(value, Buffer)}
        return ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)


class MSELoss(Loss):
    """Mean squared error.

    >>> import chainrule as cr
    >>> cr.nn.MSELoss()(cr.asarray([1.0, 4.0]), cr.asarray([1.0, 2.0])).item()
    2.0
    """

    def forward(self, input: Any, target: Any) -> Tensor:
        return mse_loss(input, target, self.reduction)


class L1Loss(Loss):
    """Mean absolute error."""

    def forward(self, input: Any, target: Any) -> Tensor:
        return l1_loss(input, target, self.reduction)


class HuberLoss(Loss):
    """Squared for differences up to `delta`, linear beyond: outliers pull with a bounded force."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, input: Any, target: Any) -> Tensor:
        return huber_loss(input, target, self.reduction, self.delta)


class SmoothL1Loss(Loss):
    """Huber's loss divided by beta."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, input: Any, target: Any) -> Tensor:
        return smooth_l1_loss(input, target, self.reduction, self.beta)


class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy of logits: no Sigmoid before it."""

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self.weight = kept_weight(weight)
        self.pos_weight = kept_weight(pos_weight)

    def forward(self, input: Any, target: Any) -> Tensor:
        return binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)


class PoissonNLLLoss(Loss):
    """Negative log-likelihood of counts; the input is the logarithm of the rate unless log_input=False."""

    def __init__(
        self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, input: Any, target: Any) -> Tensor:
        return poisson_nll_loss(input, target, self.log_input, self.full, self.eps, self.reduction)
