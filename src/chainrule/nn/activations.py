"""Activations: each a function, and the module that calls it.

Where a function has two branches, the branch that is not taken is given harmless values: an infinity there
would turn into a NaN in the backward pass (0 · ∞).
"""

from __future__ import annotations

import math
from typing import Any

from chainrule.errors import RecipeError
from chainrule.graph import Node
from chainrule.nn.module import Module
from chainrule.ops import as_node, ops
from chainrule.tensor import Tensor


def relu(input: Any) -> Tensor:
    """max(x, 0); its derivative at 0 is 0."""
    return Tensor(ops.relu(input))


def leaky_relu(input: Any, negative_slope: float = 0.01) -> Tensor:
    """x where it is positive, negative_slope · x elsewhere."""
    x = _floating(input)
    slope = ops.where(ops.greater(x, 0), ops.constant(1, x.dtype), ops.constant(negative_slope, x.dtype))
    return Tensor(ops.multiply(x, slope))


def elu(input: Any, alpha: float = 1.0) -> Tensor:
    """x where it is positive, alpha · (exp(x) - 1) elsewhere."""
    x = _floating(input)
    positive = ops.greater(x, 0)
    curve = ops.expm1(ops.where(positive, 0, x))
    return Tensor(ops.where(positive, x, curve if alpha == 1 else ops.multiply(curve, alpha)))


def gelu(input: Any, approximate: str = "none") -> Tensor:
    """x · Φ(x) with the normal distribution function Φ, or with its "tanh" approximation.

    Hendrycks and Gimpel, "Gaussian error linear units", 2016.
    """
    x = _floating(input)
    _check_approximation(approximate)
    if approximate == "none":
        doubled = ops.add(ops.erf(ops.multiply(x, math.sqrt(0.5))), 1)
        return Tensor(ops.multiply(ops.multiply(x, 0.5), doubled))
    # (1 + tanh u) / 2 = sigmoid(2u), with u = sqrt(2/π) (x + 0.044715 x³)
    c = 2 * math.sqrt(2 / math.pi)
    doubled = ops.multiply(x, ops.add(ops.multiply(ops.square(x), 0.044715 * c), c))
    return Tensor(ops.multiply(x, ops.sigmoid(doubled)))


def silu(input: Any) -> Tensor:
    """x · sigmoid(x), also called swish."""
    x = _floating(input)
    return Tensor(ops.multiply(x, ops.sigmoid(x)))


def tanh(input: Any) -> Tensor:
    """Hyperbolic tangent."""
    return Tensor(ops.tanh(input))


def sigmoid(input: Any) -> Tensor:
    """1 / (1 + exp(-x))."""
    return Tensor(ops.sigmoid(input))


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta · x)) / beta, and x itself where beta · x exceeds `threshold`."""
    x = _floating(input)
    scaled = x if beta == 1 else ops.multiply(x, beta)
    curve = ops.softplus(scaled)
    smooth = curve if beta == 1 else ops.divide(curve, beta)
    return Tensor(ops.where(ops.greater(scaled, threshold), x, smooth))


def softmax(input: Any, dim: int = -1) -> Tensor:
    """exp(x), normalised to sum 1 along `dim`."""
    return Tensor(ops.softmax(input, axis=dim))


def log_softmax(input: Any, dim: int = -1) -> Tensor:
    """Logarithm of softmax along `dim`, without overflow."""
    return Tensor(ops.log_softmax(input, axis=dim))


def _floating(input: Any) -> Node:
    x = as_node(input)
    return x if x.floating else ops.astype(x, "float64")  # as NumPy's functions convert integers


def _check_approximation(approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise RecipeError(f"gelu: approximate = {approximate!r} is not known; choose 'none' or 'tanh'")


class ReLU(Module):
    """max(x, 0).

    >>> import chainrule as cr
    >>> cr.nn.ReLU()(cr.asarray([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def forward(self, input: Any) -> Tensor:
        return relu(input)


class LeakyReLU(Module):
    """x where it is positive, negative_slope · x elsewhere."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, input: Any) -> Tensor:
        return leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """x where it is positive, alpha · (exp(x) - 1) elsewhere (Clevert et al., 2015)."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, input: Any) -> Tensor:
        return elu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class GELU(Module):
    """x · Φ(x); approximate is "none" (exact) or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        _check_approximation(approximate)
        self.approximate = approximate

    def forward(self, input: Any) -> Tensor:
        return gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x · sigmoid(x), also called swish."""

    def forward(self, input: Any) -> Tensor:
        return silu(input)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Any) -> Tensor:
        return tanh(input)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Any) -> Tensor:
        return sigmoid(input)


class Softplus(Module):
    """log(1 + exp(beta · x)) / beta, and x itself where beta · x exceeds `threshold`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Any) -> Tensor:
        return softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softmax(Module):
    """exp(x), normalised to sum 1 along `dim`. A cross-entropy loss takes logits: no Softmax before it."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, input: Any) -> Tensor:
        return softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """Logarithm of softmax along `dim`."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, input: Any) -> Tensor:
        return log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
