"""Normalisation layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.errors import DTypeError, ShapeError
from chainrule.graph import Node
from chainrule.nn.module import Module
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Buffer, Cell, Parameter, Tensor
from chainrule.trace import assume


def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Every channel (axis 1) shifted and scaled to mean 0 and variance 1, then by weight and bias.

    In training, or without running statistics, mean and variance are those of the batch; in training the
    running statistics (Buffers) move towards them by `momentum`, the variance with Bessel's correction.
    """
    x = as_node(input)
    along = (0, *range(2, x.ndim))
    column = (x.shape[1],) + (1,) * (x.ndim - 2)  # broadcasts a value per channel against x

    def spread(value: Any) -> Node:
        return ops.reshape(value, column)

    if training or running_mean is None:
        count = math.prod(x.shape[axis] for axis in along)
        if count < 2:
            raise ShapeError(
                f"batch_norm cannot normalise a batch with {count} value per channel (shape "
                f"{x.shape}){at_user_line()}: use batches of at least two rows, or model.eval()"
            )
        mean = ops.mean(x, axis=along)
        centred = ops.subtract(x, spread(mean))
        squares = ops.sum(ops.square(centred), axis=along)
        variance = ops.divide(squares, count)
        if training and running_mean is not None:
            _move(running_mean, mean, momentum)
            _move(running_var, ops.divide(squares, count - 1), momentum)
    else:
        centred, variance = ops.subtract(x, spread(running_mean)), as_node(running_var)
    scale = ops.rsqrt(ops.add(variance, eps))
    if weight is not None:
        scale = ops.multiply(scale, weight)
    y = ops.multiply(centred, spread(scale))
    return Tensor(y if bias is None else ops.add(y, spread(bias)))


def _move(running: Any, statistic: Node, momentum: Any) -> None:
    if not isinstance(running, Cell):
        raise DTypeError("batch_norm: running statistics change in training, so they must be Buffers")
    running.assign(ops.add(running, ops.multiply(ops.subtract(statistic, running), momentum)))


class BatchNorm1d(Module):
    """Batch normalisation of (rows, channels) or (rows, channels, length) (Ioffe and Szegedy, 2015).

    momentum=None keeps the plain mean of all batches seen; affine=False has no weight and bias;
    track_running_stats=False uses the batch's own statistics in evaluation too.

    >>> import chainrule as cr
    >>> layer = cr.nn.BatchNorm1d(1)
    >>> [round(value, 3) for [value] in layer(cr.asarray([[1.0], [3.0]])).tolist()]
    [-1.0, 1.0]
    >>> layer.running_mean.tolist(), layer.num_batches_tracked.item()
    ([0.20000000298023224], 1)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine else None
        self.running_mean = Buffer(np.zeros(num_features, dtype)) if track_running_stats else None
        self.running_var = Buffer(np.ones(num_features, dtype)) if track_running_stats else None
        self.num_batches_tracked = Buffer(np.int64(0)) if track_running_stats else None

    def forward(self, input: Any) -> Tensor:
        x = as_node(input)
        if x.ndim not in (2, 3) or x.shape[1] != self.num_features:
            raise ShapeError(
                f"BatchNorm1d takes shape (rows, {self.num_features}) or (rows, {self.num_features}, "
                f"length), but was given {x.shape}{at_user_line()}"
            )
        training = assume(self, "training")
        return batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            training, self._counted() if training else 0.0, self.eps,
        )  # fmt: skip

    def _counted(self) -> Any:
        """One more batch seen; the share of it in the running statistics."""
        if self.num_batches_tracked is None:
            return 0.0
        count = ops.add(self.num_batches_tracked, 1)
        self.num_batches_tracked.assign(count)
        if self.momentum is not None:
            return self.momentum
        assert self.running_mean is not None
        return ops.divide(1, ops.astype(count, self.running_mean.dtype))

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


def layer_norm(
    input: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """Every row (the last axes, of `normalized_shape`) shifted and scaled to mean 0 and variance 1."""
    x, shape = as_node(input), _as_shape(normalized_shape)
    if x.shape[x.ndim - len(shape) :] != shape or not shape or x.ndim < len(shape):
        raise ShapeError(
            f"layer_norm normalises last axes of shape {shape}, but was given shape {x.shape}{at_user_line()}"
        )
    along = tuple(range(x.ndim - len(shape), x.ndim))
    centred = ops.subtract(x, ops.mean(x, axis=along, keepdims=True))
    variance = ops.mean(ops.square(centred), axis=along, keepdims=True)
    y = ops.multiply(centred, ops.rsqrt(ops.add(variance, eps)))
    y = y if weight is None else ops.multiply(y, weight)
    return Tensor(y if bias is None else ops.add(y, bias))


class LayerNorm(Module):
    """Layer normalisation over the last axes (Ba, Kiros and Hinton, 2016).

    >>> import chainrule as cr
    >>> [round(value, 3) for value in cr.nn.LayerNorm(2)(cr.asarray([1.0, 3.0])).tolist()]
    [-1.0, 1.0]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        self.normalized_shape = _as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, input: Any) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


def _as_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)
