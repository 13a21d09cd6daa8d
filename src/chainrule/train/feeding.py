"""Batches of rows: shuffled, or those of the caller; and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from chainrule import nn
from chainrule.data.windows import Windows
from chainrule.errors import BoundsError, DataError, ShapeError

Array = np.ndarray[Any, Any]


def batch_of(leaves: Sequence[Array], rows: Array) -> list[Array]:
    """The rows of every array. (`np.take` would first copy the whole of an array whose rows overlap.)"""
    return [leaf[rows] for leaf in leaves]


def shuffled(order: Callable[[int], Array], rows: int, size: int, at: int, steps: int) -> Iterator[Array]:
    """Blocks (steps, batch) from step `at` on, each epoch in its `order`; its last batch may be smaller."""
    per_epoch = -(-rows // size)
    while steps:
        epoch, first = divmod(at, per_epoch)
        chosen = order(epoch)
        whole = min(first + steps, rows // size)
        if first < whole:
            yield chosen[first * size : whole * size].reshape(-1, size)
        if whole < min(first + steps, per_epoch):
            yield chosen[whole * size :][None]
        taken = min(steps, per_epoch - first)
        at, steps = at + taken, steps - taken


def given(batches: Any, steps: int, count: int) -> Iterator[Array]:
    """Batches of the caller's as one block; `count`: how many rows there are."""
    indices = np.asarray(batches)
    fits = indices.ndim == 2 and indices.dtype.kind in "iu" and indices.shape[1] > 0
    if not fits or len(indices) < steps:
        raise ShapeError(
            f"batches must be an integer array of shape (steps, batch) with at least {steps} steps and "
            f"batches of one row or more, not {indices.dtype}{list(indices.shape)}"
        )
    indices = indices[:steps]
    first, last = (indices.min(), indices.max()) if steps else (0, 0)
    if first < 0 or last >= count:
        raise BoundsError(f"batches name rows from {first} to {last}, but the rows are 0 to {count - 1}")
    return iter([indices] if steps else [])


def check_classes(loss: Any, data: Any) -> None:
    """A negative class number would count from the end, as indices do in NumPy, and train in silence."""
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        numbers = np.asarray(data.stream if isinstance(data, Windows) else data[1])
        wrong = (numbers < 0) & (numbers != loss.ignore_index)
        if numbers.dtype.kind in "iu" and wrong.any():
            row = int(np.argwhere(wrong)[0][0])
            raise DataError(
                f"the targets hold the class number {numbers[row]!s}, first in row {row}: classes are "
                "counted from 0. Number them 0, 1, 2, ..."
            )


def check_rows(arrays: Sequence[Array]) -> None:
    """Raise where the arrays of some data have different numbers of rows, or none."""
    lengths = {len(each) if each.ndim else 0 for each in arrays}
    if len(lengths) != 1:
        raise ShapeError(f"inputs and targets need the same number of rows, not {sorted(lengths)}")
    if lengths == {0}:
        raise DataError("there are no rows to train on")
