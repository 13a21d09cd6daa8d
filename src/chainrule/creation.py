"""Arrays made from nothing; floats are float32 unless a dtype is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.ops import ops
from chainrule.tensor import Tensor, asarray

Shape = int | tuple[int, ...]


def zeros(shape: Shape, dtype: Any = np.float32) -> Tensor:
    """An array of zeros."""
    return asarray(np.zeros(shape, dtype))


def ones(shape: Shape, dtype: Any = np.float32) -> Tensor:
    """An array of ones."""
    return asarray(np.ones(shape, dtype))


def full(shape: Shape, fill_value: Any, dtype: Any = None) -> Tensor:
    """An array of one value (a number or a Tensor), of its dtype unless another is given."""
    value = asarray(fill_value, dtype)
    if isinstance(fill_value, Tensor):
        return Tensor(ops.broadcast_to(value, shape))
    return asarray(np.full(shape, value.numpy()))


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """Evenly spaced numbers from start up to (not including) stop.

    >>> import chainrule as cr
    >>> cr.arange(3).tolist()
    [0, 1, 2]
    """
    first, last = (0, start) if stop is None else (start, stop)
    floating = any(isinstance(each, float) for each in (first, last, step))
    wanted = np.dtype(dtype or (np.float32 if floating else np.int64))
    return asarray(np.arange(first, last, step, dtype=wanted))


def linspace(start: float, stop: float, num: int, dtype: Any = np.float32) -> Tensor:
    """`num` evenly spaced numbers from start to stop, both included."""
    return asarray(np.linspace(start, stop, num, dtype=dtype))


def eye(rows: int, columns: int | None = None, k: int = 0, dtype: Any = np.float32) -> Tensor:
    """Ones on the k-th diagonal."""
    return asarray(np.eye(rows, columns, k, dtype))


def zeros_like(x: Any, dtype: Any = None) -> Tensor:
    """Zeros with the shape and dtype of x."""
    return zeros(x.shape, dtype or x.dtype)


def ones_like(x: Any, dtype: Any = None) -> Tensor:
    """Ones with the shape and dtype of x."""
    return ones(x.shape, dtype or x.dtype)


def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """One value with the shape and dtype of x."""
    return full(x.shape, fill_value, dtype or x.dtype)
