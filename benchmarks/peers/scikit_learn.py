"""scikit-learn's MLP, an epoch per call of `partial_fit`, without weight decay."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.specs import Array, Spec


class Training:
    """Epochs over all rows, the last batch of each smaller where they do not divide."""

    def __init__(self, spec: Spec, X: Array, y: Array) -> None:
        kind = MLPRegressor if spec.loss == "mse" else MLPClassifier
        self.model = kind(
            hidden_layer_sizes=spec.dims[1:-1], activation=spec.act, alpha=0.0, batch_size=spec.batch,
            learning_rate_init=spec.lr, random_state=0,
        )  # fmt: skip
        self.data = X, y.ravel() if spec.loss == "mse" else y.ravel().astype(np.int64)
        self.classes = {} if spec.loss == "mse" else {"classes": np.unique(self.data[1])}
        self.whole = -(-spec.rows // spec.batch)

    def run(self, steps: int) -> float:
        for _ in range(steps // self.whole):
            self.model.partial_fit(*self.data, **self.classes)
        return float(self.model.loss_)


def make(spec: Spec, X: Array, y: Array | None, variant: str, mode: str) -> Any:
    """The runner of a workload."""
    if y is None or mode != "train" or spec.kind != "mlp":
        raise NotImplementedError("scikit-learn trains perceptrons")
    return Training(spec, X, y)
