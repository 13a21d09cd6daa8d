"""Embeddings: a vector per category."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.errors import BoundsError, DTypeError
from chainrule.graph import Node
from chainrule.nn import init
from chainrule.nn.module import Module
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Parameter, Tensor


def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Tensor:
    """Rows of `weight` (categories, width) by number: input (...), result (..., width).

    No derivative reaches the row `padding_idx`.
    """
    numbers, table = as_node(input), as_node(weight)
    if numbers.dtype.kind not in "iu":
        raise DTypeError(
            f"embedding takes category numbers, but was given {numbers.type}{at_user_line()}; "
            "convert them with .astype('int64')"
        )
    check_range("embedding", numbers, table.shape[0], "categories")
    rows = ops.take(table, numbers, axis=0)
    if padding_idx is None:
        return Tensor(rows)
    padding = ops.expand_dims(ops.equal(numbers, padding_idx % table.shape[0]), axis=-1)
    return Tensor(ops.where(padding, ops.stop_gradient(rows), rows))


def check_range(what: str, numbers: Node, count: int, of: str) -> None:
    """Raise unless all `numbers` are in 0 … count - 1; traced numbers have no value to check yet."""
    if numbers.value is None or not numbers.size:
        return
    low, high = int(numbers.value.min()), int(numbers.value.max())
    if low < 0 or high >= count:
        raise BoundsError(
            f"{what}: there are {count} {of}, numbered 0 to {count - 1}, but the input holds "
            f"{low if low < 0 else high}{at_user_line()}"
        )


class Embedding(Module):
    """A trained vector for each of `num_embeddings` categories; weight (num_embeddings, embedding_dim).

    The vectors start standard normal; that of `padding_idx` starts at 0 and is not trained.

    >>> import chainrule as cr
    >>> cr.nn.Embedding(10, 3)(cr.asarray([[1, 2], [4, 9]])).shape
    (2, 2, 3)
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, dtype: Any = np.float32
    ) -> None:
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise BoundsError(f"Embedding: padding_idx {padding_idx} is none of {num_embeddings} categories")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = Parameter(np.zeros((num_embeddings, embedding_dim), dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            kept = np.arange(self.num_embeddings)[:, None] != self.padding_idx
            self.weight.assign(ops.where(kept, self.weight, 0))

    def forward(self, input: Any) -> Tensor:
        return embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
