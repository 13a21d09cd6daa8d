"""Layers and losses as functions, under PyTorch's names; each lives beside the module that calls it."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.errors import ShapeError
from chainrule.nn.activations import (
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from chainrule.nn.attention import scaled_dot_product_attention
from chainrule.nn.class_losses import cross_entropy, nll_loss
from chainrule.nn.convolution import conv1d, conv2d
from chainrule.nn.dropout import dropout
from chainrule.nn.embedding import check_range, embedding
from chainrule.nn.linear import flatten, linear
from chainrule.nn.losses import (
    binary_cross_entropy_with_logits,
    huber_loss,
    l1_loss,
    mse_loss,
    poisson_nll_loss,
    smooth_l1_loss,
)
from chainrule.nn.norm import batch_norm, layer_norm
from chainrule.nn.pooling import adaptive_avg_pool2d, avg_pool1d, avg_pool2d, max_pool1d, max_pool2d
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Tensor

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "cross_entropy",
    "dropout",
    "elu",
    "embedding",
    "flatten",
    "gelu",
    "huber_loss",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "poisson_nll_loss",
    "relu",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "tanh",
]


def one_hot(tensor: Any, num_classes: int = -1) -> Tensor:
    """1 at the position of each class number, 0 elsewhere: shape (..., num_classes), int64.

    With num_classes=-1 there are as many classes as the largest number asks for.

    >>> import chainrule as cr
    >>> cr.nn.functional.one_hot(cr.asarray([2, 0])).tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    numbers = as_node(tensor)
    if num_classes == -1:
        if numbers.value is None or not numbers.size:
            raise ShapeError(
                f"one_hot: the number of classes is not known here{at_user_line()}; pass num_classes"
            )
        num_classes = int(numbers.value.max()) + 1
    check_range("one_hot", numbers, num_classes, "classes")
    return Tensor(ops.one_hot(numbers, num_classes, np.int64))
