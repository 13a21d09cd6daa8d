"""Metrics of a task, from scikit-learn, on whole sets of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.errors import DataError

Array = np.ndarray[Any, Any]

HEADLINE = {"regression": "rmse", "binary": "log_loss", "multiclass": "log_loss"}
"""The metric by which runs of a task are listed."""

LABELS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "log_loss": "log loss",
}


def regression(targets: Array, predictions: Array) -> dict[str, float]:
    """RMSE and MAE in the unit of the target, and R² (1 perfect, 0 the mean)."""
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    return {
        "rmse": float(np.sqrt(mean_squared_error(targets, predictions))),
        "mae": float(mean_absolute_error(targets, predictions)),
        "r2": float(r2_score(targets, predictions)) if len(targets) > 1 else float("nan"),
    }


def classification(targets: Array, probabilities: Array) -> dict[str, float]:
    """Accuracy, AUROC (one against the rest, mean over classes), average precision and log loss.

    targets        class numbers, shape (rows,)
    probabilities  shape (rows, classes)
    """
    from sklearn.metrics import accuracy_score, average_precision_score, log_loss, roc_auc_score

    classes = probabilities.shape[1]
    present = np.unique(targets)
    found = {
        "accuracy": float(accuracy_score(targets, probabilities.argmax(axis=1))),
        "log_loss": float(log_loss(targets, probabilities, labels=np.arange(classes))),
    }
    if len(present) < 2:
        return found  # ranking one class against nothing has no value
    if classes == 2:
        found["auroc"] = float(roc_auc_score(targets, probabilities[:, 1]))
        found["average_precision"] = float(average_precision_score(targets, probabilities[:, 1]))
    else:
        one_hot = targets[:, None] == present[None, :]
        found["auroc"] = float(roc_auc_score(one_hot, probabilities[:, present], average="macro"))
        found["average_precision"] = float(
            average_precision_score(one_hot, probabilities[:, present], average="macro")
        )
    return found


def probabilities(outputs: Array) -> Array:
    """Class probabilities (rows, classes) from logits: one column means the log-odds of class 1."""
    logits = np.asarray(outputs, dtype=np.float64)
    if logits.ndim == 1 or logits.shape[1] == 1:
        flat = logits.reshape(-1)
        logits = np.stack([np.zeros_like(flat), flat], axis=1)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def measure(task: str, targets: Array, outputs: Array) -> dict[str, float]:
    """All metrics of `task` for the outputs of a network: logits, or values in the unit of the target."""
    if len(targets) == 0:
        raise DataError("there are no rows to measure on")
    if not np.isfinite(outputs).all():
        return {}  # a network that gives no numbers has no error; the reason for stopping says what happened
    if task == "regression":
        with np.errstate(over="ignore", invalid="ignore"):  # of a training that diverged
            return regression(np.asarray(targets).reshape(-1), np.asarray(outputs).reshape(-1))
    return classification(np.asarray(targets).reshape(-1).astype(np.int64), probabilities(outputs))
