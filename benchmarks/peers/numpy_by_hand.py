"""Backpropagation through a perceptron written out in NumPy, Adam on one flat array: no framework at all."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.specs import Array, Order, Spec, mlp_params

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8


class Training:
    """Parameters, gradients and Adam's moments, each one flat array that the layers are views of."""

    def __init__(self, spec: Spec, X: Array, y: Array) -> None:
        self.spec, self.X, self.y, self.order, self.count = spec, X, y, Order(spec), 0
        start = mlp_params(spec)
        size = sum(weight.size + bias.size for weight, bias in start)
        self.flat, self.gradient, self.mean, self.square = np.zeros((4, size), np.float32)
        self.layers, self.of_layers = self._views(self.flat, start), self._views(self.gradient, start)
        for (weight, _), (value, _) in zip(self.layers, start, strict=True):
            weight[...] = value

    @staticmethod
    def _views(flat: Array, layers: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
        views, at = [], 0
        for weight, bias in layers:
            middle, end = at + weight.size, at + weight.size + bias.size
            views.append((flat[at:middle].reshape(weight.shape), flat[middle:end]))
            at = end
        return views

    def run(self, steps: int) -> float:
        loss = float("nan")
        for _ in range(steps):
            rows = self.order.next()
            loss = self.backpropagate(self.X[rows], self.y[rows])
            self.update()
        return loss

    def backpropagate(self, x: Array, y: Array) -> float:
        relu = self.spec.act == "relu"
        inputs = [x]
        for weight, bias in self.layers[:-1]:
            z = inputs[-1] @ weight
            z += bias
            inputs.append(np.maximum(z, 0, out=z) if relu else np.tanh(z, out=z))
        weight, bias = self.layers[-1]
        loss, error = self.loss(inputs[-1] @ weight + bias, y)
        for k in reversed(range(len(self.layers))):
            of_weight, of_bias = self.of_layers[k]
            np.matmul(inputs[k].T, error, out=of_weight)
            error.sum(axis=0, out=of_bias)
            if k:
                error = error @ self.layers[k][0].T
                error *= inputs[k] > 0 if relu else 1 - inputs[k] ** 2
        return loss

    def loss(self, z: Array, y: Array) -> tuple[float, Array]:
        """The loss of outputs z and its derivative with respect to them."""
        if self.spec.loss == "mse":
            difference = z - y
            return float(np.mean(difference**2)), difference * np.float32(2 / z.size)
        rows = len(z)
        if self.spec.loss == "bce":
            value = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
            return float(value.mean()), (1 / (1 + np.exp(-z)) - y) / np.float32(rows)
        z = z - z.max(axis=1, keepdims=True)
        share = np.exp(z)
        total = share.sum(axis=1, keepdims=True)
        chosen = np.arange(rows), y
        value = np.log(total[:, 0]) - z[chosen]
        share /= total
        share[chosen] -= 1
        share /= np.float32(rows)
        return float(value.mean()), share

    def update(self) -> None:
        self.count += 1
        scale = np.sqrt(1 - BETA_2**self.count)
        self.mean += np.float32(1 - BETA_1) * (self.gradient - self.mean)
        self.square += np.float32(1 - BETA_2) * (self.gradient**2 - self.square)
        root = np.sqrt(self.square)
        root += np.float32(EPS * scale)
        self.flat -= np.float32(self.spec.lr * scale / (1 - BETA_1**self.count)) * self.mean / root


class Evaluation(Training):
    """One batch again and again: the loss and every gradient."""

    def run(self, steps: int) -> float:
        rows = Order(self.spec).next()
        x, y = self.X[rows], self.y[rows]
        return [self.backpropagate(x, y) for _ in range(steps)][-1]


def make(spec: Spec, X: Array, y: Array | None, variant: str, mode: str) -> Any:
    """The runner of a workload."""
    if y is None or spec.kind != "mlp" or mode not in ("train", "grad"):
        raise NotImplementedError("written by hand for training perceptrons")
    return Evaluation(spec, X, y) if mode == "grad" else Training(spec, X, y)
