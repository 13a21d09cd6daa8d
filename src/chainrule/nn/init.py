"""Initial values: PyTorch's names, fans and gains.

Each function gives a Parameter (or Buffer) new values and returns it. Random numbers come from `key`, or
without one from the place and step that ask (see `chainrule.random.site_key`).
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from chainrule import random
from chainrule.errors import ChainruleError, RecipeError, ShapeError
from chainrule.origin import at_user_line
from chainrule.tensor import Cell, Tensor

CellT = TypeVar("CellT", bound=Cell)
Array = np.ndarray[Any, Any]


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which an activation asks for larger weights; `param` is leaky_relu's negative slope.

    >>> from chainrule.nn.init import calculate_gain
    >>> calculate_gain("tanh"), calculate_gain("leaky_relu", 0.0) == calculate_gain("relu")
    (1.6666666666666667, True)
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2 / (1 + slope**2))
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    if nonlinearity not in gains:
        known = ", ".join([*gains, "leaky_relu"])
        raise RecipeError(f"there is no gain for {nonlinearity!r}; there are gains for {known}")
    return gains[nonlinearity]


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs feed one output, and how many outputs one input feeds.

    For a weight of shape (out, in, ...) each is multiplied by the size of the trailing axes.
    """
    if tensor.ndim < 2:
        raise ShapeError(
            f"fan in and fan out need a weight of at least two axes (out, in, ...), not shape {tensor.shape}"
            f"{at_user_line()}; for a bias use zeros_ or uniform_"
        )
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


# -- constants ---------------------------------------------------------------------------------------------
def constant_(tensor: CellT, val: float) -> CellT:
    """`val` everywhere."""
    return _fill(tensor, np.full(tensor.shape, val))


def zeros_(tensor: CellT) -> CellT:
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: CellT) -> CellT:
    """Ones."""
    return constant_(tensor, 1.0)


# -- plain distributions -----------------------------------------------------------------------------------
def uniform_(tensor: CellT, a: float = 0.0, b: float = 1.0, key: Any = None) -> CellT:
    """Uniform in [a, b)."""
    return _fill(tensor, random.uniform(_key(key), tensor.shape, a, b, tensor.dtype))


def normal_(tensor: CellT, mean: float = 0.0, std: float = 1.0, key: Any = None) -> CellT:
    """Normal with the given mean and standard deviation."""
    return _fill(tensor, random.normal(_key(key), tensor.shape, tensor.dtype) * std + mean)


def trunc_normal_(
    tensor: CellT, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, key: Any = None
) -> CellT:
    """Normal with the given mean and standard deviation, conditional on lying in [a, b]."""
    from scipy.special import ndtr, ndtri

    if not a < b or std <= 0:
        raise RecipeError(f"trunc_normal_ needs a < b and std > 0, not a={a}, b={b}, std={std}")
    low, high = (a - mean) / std, (b - mean) / std
    sign = -1.0 if low > 0 else 1.0  # the left tail has digits to spare, the right one is 1 - tiny
    low, high = (-high, -low) if low > 0 else (low, high)
    unit = random.uniform(_key(key), tensor.shape, dtype=np.float64).numpy()
    drawn = sign * ndtri(ndtr(low) + unit * (ndtr(high) - ndtr(low)))
    return _fill(tensor, np.clip(mean + std * drawn, a, b))


# -- scaled by the fans ------------------------------------------------------------------------------------
def xavier_uniform_(tensor: CellT, gain: float = 1.0, key: Any = None) -> CellT:
    """Uniform with variance 2 gain² / (fan_in + fan_out) (Glorot and Bengio, 2010)."""
    return _uniform_of_std(tensor, gain * math.sqrt(2 / max(sum(fans(tensor)), 1)), key)


def xavier_normal_(tensor: CellT, gain: float = 1.0, key: Any = None) -> CellT:
    """Normal with variance 2 gain² / (fan_in + fan_out) (Glorot and Bengio, 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / max(sum(fans(tensor)), 1)), key)


def kaiming_uniform_(
    tensor: CellT, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", key: Any = None
) -> CellT:
    """Uniform with variance gain² / fan (He et al., 2015); `a` is the negative slope of leaky_relu."""
    return _uniform_of_std(tensor, _kaiming_std(tensor, a, mode, nonlinearity), key)


def kaiming_normal_(
    tensor: CellT, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", key: Any = None
) -> CellT:
    """Normal with variance gain² / fan (He et al., 2015); `a` is the negative slope of leaky_relu."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), key)


def lecun_uniform_(tensor: CellT, key: Any = None) -> CellT:
    """Uniform with variance 1 / fan_in (LeCun et al., "Efficient backprop", 1998)."""
    return _uniform_of_std(tensor, 1 / math.sqrt(max(fans(tensor)[0], 1)), key)


def lecun_normal_(tensor: CellT, key: Any = None) -> CellT:
    """Normal, not truncated, with variance 1 / fan_in (LeCun et al., "Efficient backprop", 1998)."""
    return normal_(tensor, 0.0, 1 / math.sqrt(max(fans(tensor)[0], 1)), key)


def orthogonal_(tensor: CellT, gain: float = 1.0, key: Any = None) -> CellT:
    """`gain` times a random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al., 2013).

    A weight of shape (out, in, ...) is treated as a matrix of `out` rows.
    """
    fans(tensor)  # refuses fewer than two axes
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    tall = (max(rows, columns), min(rows, columns))
    q, r = np.linalg.qr(random.normal(_key(key), tall, np.float64).numpy())
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)  # uniform over all such matrices (Mezzadri, 2007)
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise RecipeError(f"mode = {mode!r} is not known; choose 'fan_in' or 'fan_out'")
    fan = fans(tensor)[0 if mode == "fan_in" else 1]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def _uniform_of_std(tensor: CellT, std: float, key: Any) -> CellT:
    bound = math.sqrt(3) * std  # a uniform variable in ±b has standard deviation b / sqrt(3)
    return uniform_(tensor, -bound, bound, key)


def _key(key: Any) -> Any:
    return random.site_key() if key is None else key


def _fill(tensor: CellT, values: Array | Tensor) -> CellT:
    if not isinstance(tensor, Cell):
        raise ChainruleError(
            f"only a Parameter or Buffer can be given initial values, not a {type(tensor).__name__}"
            f"{at_user_line()}: wrap it in cr.nn.Parameter(...)"
        )
    tensor.assign(values)
    return tensor
