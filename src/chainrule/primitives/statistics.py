"""Products, means, spreads and softmax, put together from the primitives in reduce.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from chainrule.primitive import Composite, Draw, Sample
from chainrule.primitives._define import reduced_shape, sum_dtype
from chainrule.types import Type, normalise_axes


def _prod(ops: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Multiplied pairwise as a tree: right at zeros, in derivatives of every order."""
    node = ops.node(x)
    node = ops.astype(node, sum_dtype(node.dtype))
    axes = normalise_axes(axis, node.ndim)
    kept = tuple(k for k in range(node.ndim) if k not in axes)
    count = int(np.prod([node.shape[k] for k in axes], dtype=np.int64))
    y = ops.reshape(ops.permute_dims(node, kept + axes), (*(node.shape[k] for k in kept), count))
    if count == 0:
        y = ops.full(Type((*y.shape[:-1], 1), y.dtype), 1)
    while y.shape[-1] > 1:
        half = y.shape[-1] // 2
        pairs = ops.multiply(
            ops.getitem(y, (..., slice(0, half))), ops.getitem(y, (..., slice(half, 2 * half)))
        )
        odd = y.shape[-1] % 2
        y = ops.concat([pairs, ops.getitem(y, (..., slice(2 * half, None)))], axis=-1) if odd else pairs
    return ops.reshape(y, reduced_shape(node.shape, axes, keepdims))


def _mean(ops: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    (node,) = ops.promote("mean", [x], "float")
    axes = normalise_axes(axis, node.ndim)
    count = int(np.prod([node.shape[k] for k in axes], dtype=np.int64))
    return ops.divide(ops.sum(node, axis=axes, keepdims=keepdims), count)


def _var(ops: Any, x: Any, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    (node,) = ops.promote("var", [x], "float")
    axes = normalise_axes(axis, node.ndim)
    count = int(np.prod([node.shape[k] for k in axes], dtype=np.int64))
    centred = ops.subtract(node, _mean(ops, node, axes, True))
    return ops.divide(ops.sum(ops.square(centred), axis=axes, keepdims=keepdims), max(count - correction, 0))


def _std(ops: Any, x: Any, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """Its derivative where the variance is 0 is taken as 0, as in PyTorch; the formula would give NaN."""
    variance = _var(ops, x, axis, correction, keepdims)
    constant = ops.equal(variance, 0)
    return ops.where(constant, 0, ops.sqrt(ops.where(constant, 1, variance)))


def _shifted(ops: Any, name: str, x: Any, axis: int) -> Any:
    """x minus its largest along the axis, as a constant: no overflow, no digits lost, the same derivative."""
    (node,) = ops.promote(name, [x], "float")
    return ops.subtract(node, ops.stop_gradient(ops.max(node, axis=axis, keepdims=True)))


def _softmax(ops: Any, x: Any, axis: int = -1) -> Any:
    raised = ops.exp(_shifted(ops, "softmax", x, axis))
    return ops.divide(raised, ops.sum(raised, axis=axis, keepdims=True))


def _log_softmax(ops: Any, x: Any, axis: int = -1) -> Any:
    shifted = _shifted(ops, "log_softmax", x, axis)
    return ops.subtract(shifted, ops.log(ops.sum(ops.exp(shifted), axis=axis, keepdims=True)))


def _sort(ops: Any, x: Any, axis: int = -1) -> Any:
    return ops.take_along_axis(x, ops.argsort(x, axis=axis), axis=axis)


_CALLS = (
    Sample((Draw((2, 3)),), {"axis": 0}),
    Sample((Draw((2, 3, 2)),), {"axis": (0, 2), "keepdims": True}),
    Sample((Draw((3,)),), {}),
    Sample((Draw(()),), {}),
)
_SPREAD = (
    *_CALLS[:3],
    Sample((Draw((2, 3)),), {"axis": 1, "correction": 1}),
    Sample((Draw((0, 3)),), {"axis": 1}),
)
_PRODUCTS = (
    *_CALLS,
    Sample((np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 1.5]]),), {"axis": 1}),
    Sample((Draw((2, 5)),), {"axis": -1}),
    Sample((Draw((0, 2)),), {"axis": 0}),
)
_ALONG = (
    Sample((Draw((4,)),), {}),
    Sample((Draw((2, 3)),), {"axis": 0}),
    Sample((Draw((2, 3, 2)),), {"axis": 1}),
)
_FAR = Sample((np.array([-1000.0, 1000.0, 1000.0]),), {})


RECORDS = (
    Composite("prod", "Product along axes.", _prod, _PRODUCTS, oracle="numpy.prod"),
    Composite("mean", "Arithmetic mean along axes.", _mean, _CALLS, oracle="numpy.mean"),
    Composite("var", "Variance along axes; divides by n - correction.", _var, _SPREAD, oracle="numpy.var"),
    Composite(
        "std", "Standard deviation along axes; divides by n - correction.", _std,
        (*_SPREAD, Sample((np.array([2.0, 2.0]),), {}, value=0.0, convention=([0.0, 0.0],))),
        oracle="numpy.std",
    ),
    Composite(
        "softmax", "exp(x) normalised to sum 1 along an axis.", _softmax,
        (*_ALONG, replace(_FAR, value=[0.0, 0.5, 0.5], convention=([0.0, 0.0, 0.0],))),
        oracle="scipy.special.softmax",
    ),
    Composite(
        "log_softmax", "Logarithm of softmax along an axis.", _log_softmax,
        (
            *_ALONG,
            replace(_FAR, value=np.array([-2000, 0, 0]) - math.log(2), convention=([1.0, -0.5, -0.5],)),
        ),
        oracle=lambda x, axis=-1: x - np.logaddexp.reduce(x, axis=axis, keepdims=True),
    ),
    Composite("sort", "Sorted ascending along an axis.", _sort, _ALONG, analytic=False, oracle="numpy.sort"),
)  # fmt: skip
