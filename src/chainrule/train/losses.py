"""Losses by name, as recipes and `fit` speak of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from chainrule import nn
from chainrule.errors import RecipeError

Array = np.ndarray[Any, Any]

LOSSES: dict[str, Callable[..., Any]] = {
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "huber": nn.HuberLoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "nll": nn.NLLLoss,
    "poisson": nn.PoissonNLLLoss,
}
FITTING = {"regression": "mse", "binary": "bce_with_logits", "multiclass": "cross_entropy"}
"""The loss "auto" means, by task."""
TASKS = {
    "mse": "regression",
    "l1": "regression",
    "huber": "regression",
    "bce_with_logits": "binary",
    "cross_entropy": "multiclass",
    "nll": "multiclass",
}


def make_loss(name: str, options: Mapping[str, Any] | None = None, weights: Array | None = None) -> Any:
    """The loss Module called `name`; `weights` holds one weight per class."""
    if name not in LOSSES:
        raise RecipeError(f"there is no loss {name!r}; there are {', '.join(LOSSES)}")
    given = dict(options or {})
    if name in ("cross_entropy", "nll"):
        given.setdefault("ignore_index", None)  # class numbers are checked before: fewer nodes in every step
    if weights is not None:
        if name == "bce_with_logits":
            given["pos_weight"] = np.asarray(weights[1] / weights[0], np.float32)
        elif name in ("cross_entropy", "nll"):
            given["weight"] = np.asarray(weights, np.float32)
        else:
            raise RecipeError(f"class weights fit a loss over classes, not {name!r}")
    try:
        return LOSSES[name](**given)
    except TypeError as error:
        raise RecipeError(f"the loss {name!r} does not take these options: {error}") from None


def class_weights(asked: str | Mapping[Any, float] | None, targets: Array, names: list[str]) -> Array | None:
    """One weight per class: "balanced" gives every class the same total weight (as scikit-learn does)."""
    if asked is None or asked == "none":
        return None
    counts = np.bincount(np.asarray(targets).reshape(-1).astype(np.int64), minlength=len(names))
    if asked == "balanced":
        return np.asarray(len(targets) / (len(counts) * np.maximum(counts, 1)))
    if isinstance(asked, str):
        raise RecipeError(f'class_weight = {asked!r} is not "none", "balanced" or a table of class = weight')
    by_name = {str(name): float(weight) for name, weight in asked.items()}
    unknown = sorted(set(by_name) - set(names))
    if unknown:
        raise RecipeError(f"class_weight names the class {unknown[0]!r}; the classes are {', '.join(names)}")
    return np.asarray([by_name.get(name, 1.0) for name in names])
