"""Losses over classes: cross-entropy of logits, negative log-likelihood of log-probabilities.

Classes lie along axis 1 (axis 0 of a single row); a target holds class numbers, without that axis, or for
cross_entropy a probability for every class, in the shape of the input.
"""

from __future__ import annotations

import math
from typing import Any

from chainrule.errors import DTypeError, RecipeError, ShapeError
from chainrule.graph import Node
from chainrule.nn.embedding import check_range
from chainrule.nn.losses import Loss, check_reduction, kept_weight, like, reduced
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Tensor


# -- functions ---------------------------------------------------------------------------------------------
def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of classes under probabilities softmax(input).

    weight           one per class; "mean" divides by the sum of the weights of the targets
    ignore_index     rows with this class number count for nothing. None promises that there are none,
                     which saves a few operations where targets are traced
    label_smoothing  share of the target that is spread evenly over all classes

    >>> import chainrule as cr
    >>> round(cr.nn.functional.cross_entropy(cr.zeros((2, 4)), cr.asarray([3, 0])).item(), 6) # log 4
    1.386294
    """
    x, t = as_node(input), as_node(target)
    if not 0 <= label_smoothing <= 1:
        raise RecipeError(f"cross_entropy: label_smoothing = {label_smoothing!r} is not between 0 and 1")
    if t.floating:
        return _of_probabilities(x, t, weight, reduction, label_smoothing)
    rows = Rows("cross_entropy", x, t, weight, ignore_index)
    if not label_smoothing:
        loss = ops.subtract(ops.logsumexp(rows.scores, axis=1), rows.chosen(rows.scores))
        return rows.reduced(rows.weighted(loss), reduction)
    surprise = ops.subtract(ops.logsumexp(rows.scores, axis=1, keepdims=True), rows.scores)
    everywhere = surprise if rows.weight is None else ops.multiply(surprise, rows.weight)
    spread = ops.multiply(ops.sum(everywhere, axis=1), label_smoothing / rows.classes)
    target_share = ops.multiply(rows.weighted(rows.chosen(surprise)), 1 - label_smoothing)
    return rows.reduced(ops.add(target_share, spread), reduction)


def nll_loss(
    input: Any, target: Any, weight: Any = None, ignore_index: int | None = -100, reduction: str = "mean"
) -> Tensor:
    """Minus the log-probability of the target's class; options as for `cross_entropy`."""
    rows = Rows("nll_loss", as_node(input), as_node(target), weight, ignore_index)
    return rows.reduced(rows.weighted(ops.negative(rows.chosen(rows.scores))), reduction)


class Rows:
    """Scores as a matrix (rows, classes), one class number per row, and which rows count how much."""

    def __init__(self, name: str, x: Node, t: Node, weight: Any, ignore_index: int | None) -> None:
        self.shape = _check_target(name, x, t)
        self.classes = x.shape[_class_axis(x)]
        self.scores = _as_matrix(x)
        self.weight = _class_weight(name, weight, x, self.classes)
        numbers = ops.reshape(t, (self.scores.shape[0],))
        self.counted = _counted(numbers, ignore_index)
        self.numbers = numbers if self.counted is None else ops.where(self.counted, numbers, 0)
        check_range(name, self.numbers, self.classes, "classes")
        self.row_weight = None if self.weight is None else ops.take(self.weight, self.numbers)

    def chosen(self, scores: Node) -> Node:
        """The score of each row's own class."""
        return ops.gather(scores, ops.iota((scores.shape[0],)), self.numbers, axis=0)

    def weighted(self, loss: Node) -> Node:
        """Each row times the weight of its class."""
        return loss if self.row_weight is None else ops.multiply(loss, self.row_weight)

    def reduced(self, loss: Node, reduction: str) -> Tensor:
        """The mean over what counts, the sum, or a loss per row; rows that are ignored are 0."""
        check_reduction(reduction)
        if self.counted is not None:
            loss = ops.where(self.counted, loss, 0)
        if reduction == "none":
            return Tensor(ops.reshape(loss, self.shape))
        total = self._total(loss.dtype)
        if reduction == "sum" or total is None:
            return reduced(loss, reduction)
        return Tensor(ops.divide(ops.sum(loss), total))

    def _total(self, dtype: Any) -> Node | None:
        """The weight of all rows together; None when every row counts once."""
        if self.row_weight is None:
            return None if self.counted is None else ops.astype(ops.sum(self.counted), dtype)
        kept = self.row_weight if self.counted is None else ops.where(self.counted, self.row_weight, 0)
        return ops.sum(kept)


def _of_probabilities(x: Node, t: Node, weight: Any, reduction: str, smoothing: float) -> Tensor:
    axis = _class_axis(x)
    if t.shape != x.shape:
        raise ShapeError(
            f"cross_entropy: a floating target holds a probability per class and needs the input's shape "
            f"{x.shape}, not {t.shape}{at_user_line()}. For class numbers use integers: "
            "target.astype('int64')"
        )
    classes = x.shape[axis]
    weights = _class_weight("cross_entropy", weight, x, classes)
    if smoothing:
        t = ops.add(ops.multiply(t, 1 - smoothing), smoothing / classes)
    if weights is not None:
        t = ops.multiply(t, ops.reshape(weights, (classes,) + (1,) * (x.ndim - axis - 1)))
    surprise = ops.subtract(ops.logsumexp(x, axis=axis, keepdims=True), x)
    return reduced(ops.sum(ops.multiply(surprise, t), axis=axis), reduction)


# -- what they check ---------------------------------------------------------------------------------------
def _class_axis(x: Node) -> int:
    return 1 if x.ndim > 1 else 0


def _check_target(name: str, x: Node, t: Node) -> tuple[int, ...]:
    """The shape of a target of class numbers; refuses any other."""
    if x.ndim == 0:
        raise ShapeError(f"{name}: the input needs an axis of classes, but has shape (){at_user_line()}")
    if t.dtype.kind not in "iu":
        raise DTypeError(
            f"{name}: the target holds class numbers, so it must be of an integer dtype, not "
            f"{t.dtype}{at_user_line()}; convert it with .astype('int64')"
        )
    axis = _class_axis(x)
    wanted = x.shape[:axis] + x.shape[axis + 1 :]
    if t.shape != wanted:
        cure = f": write target.reshape{wanted}" if t.size == math.prod(wanted) else ""
        raise ShapeError(
            f"{name}: for an input of shape {x.shape}, with classes along axis {axis}, the target needs "
            f"shape {wanted}, not {t.shape}{at_user_line()}{cure}"
        )
    return wanted


def _as_matrix(x: Node) -> Node:
    axis = _class_axis(x)
    classes = x.shape[axis]
    last = x if axis == x.ndim - 1 else ops.moveaxis(x, axis, x.ndim - 1)
    return ops.reshape(last, (math.prod(last.shape[:-1]), classes))


def _class_weight(name: str, weight: Any, x: Node, classes: int) -> Node | None:
    if weight is None:
        return None
    node = like(weight, x)
    if node.shape != (classes,):
        raise ShapeError(
            f"{name}: there are {classes} classes, so weight needs shape ({classes},), not "
            f"{node.shape}{at_user_line()}"
        )
    return node


def _counted(numbers: Node, ignore_index: int | None) -> Node | None:
    """True where a row counts; None when all do, which is known when the targets have values."""
    if ignore_index is None:
        return None
    if numbers.value is not None and not (numbers.value == ignore_index).any():
        return None
    return ops.not_equal(numbers, ignore_index)


# -- modules -----------------------------------------------------------------------------------------------
class CrossEntropyLoss(Loss):
    """Cross-entropy of logits (rows, classes, ...): no Softmax before it.

    >>> import chainrule as cr
    >>> round(cr.nn.CrossEntropyLoss()(cr.zeros((2, 4)), cr.asarray([3, 0])).item(), 6)
    1.386294
    """

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.weight = kept_weight(weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Any, target: Any) -> Tensor:
        return cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(Loss):
    """Negative log-likelihood of log-probabilities, such as those of LogSoftmax."""

    def __init__(self, weight: Any = None, ignore_index: int | None = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = kept_weight(weight)
        self.ignore_index = ignore_index

    def forward(self, input: Any, target: Any) -> Tensor:
        return nll_loss(input, target, self.weight, self.ignore_index, self.reduction)
