"""Keras' `fit` over one chunk of batches after the other, on the backend that $KERAS_BACKEND names."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks.specs import Array, Order, Spec, windows


class Positions(layers.Layer):
    """Adds a trained vector to every position."""

    def build(self, shape: Any) -> None:
        self.vectors = self.add_weight(shape=shape[-2:], initializer="random_normal", name="positions")

    def call(self, x: Any) -> Any:
        return x + self.vectors


def model_of(spec: Spec) -> Any:
    """The network of a workload, with Keras' initialisers."""
    if spec.kind == "mlp":
        hidden = [layers.Dense(width, activation=spec.act) for width in spec.dims[1:-1]]
        return keras.Sequential([keras.Input(spec.dims[:1]), *hidden, layers.Dense(spec.dims[-1])])
    if spec.kind == "cnn":
        return keras.Sequential([
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, activation="relu"), layers.MaxPool2D(),
            layers.Conv2D(16, 3, activation="relu"), layers.MaxPool2D(),
            layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10),
        ])  # fmt: skip
    tokens = keras.Input((spec.context,), dtype="int32")
    x = Positions()(layers.Embedding(spec.vocab, spec.d_model)(tokens))
    for _ in range(spec.layers):
        normal = layers.LayerNormalization(epsilon=1e-5)(x)
        heads = layers.MultiHeadAttention(spec.heads, spec.d_model // spec.heads)
        x = x + heads(normal, normal, use_causal_mask=True)
        up = layers.Dense(4 * spec.d_model, activation=lambda z: keras.activations.gelu(z, approximate=True))
        x = x + layers.Dense(spec.d_model)(up(layers.LayerNormalization(epsilon=1e-5)(x)))
    return keras.Model(tokens, layers.Dense(spec.vocab)(layers.LayerNormalization(epsilon=1e-5)(x)))


class Training:
    """A compiled Keras model and the rows of one chunk."""

    def __init__(self, spec: Spec, X: Array, y: Array | None) -> None:
        keras.utils.set_random_seed(0)
        rows = spec.chunk * spec.batch
        if y is None:
            starts = Order(spec).block(spec.chunk).ravel()
            self.data = tuple(each.astype(np.int32) for each in windows(spec, X, starts))
        else:
            images = np.ascontiguousarray(X[:rows].transpose(0, 2, 3, 1)) if spec.kind == "cnn" else X[:rows]
            self.data = images, y[:rows]
        loss = {
            "mse": "mse",
            "bce": keras.losses.BinaryCrossentropy(from_logits=True),
            "ce": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        }[spec.loss]
        self.whole, self.batch, self.model = spec.chunk, spec.batch, model_of(spec)
        self.model.compile(optimizer=keras.optimizers.Adam(spec.lr), loss=loss)

    def run(self, steps: int) -> float:
        loss = float("nan")
        for _ in range(steps // self.whole):
            history = self.model.fit(*self.data, batch_size=self.batch, epochs=1, verbose=0)
            loss = history.history["loss"][-1]
        return float(loss)


def make(spec: Spec, X: Array, y: Array | None, variant: str, mode: str) -> Any:
    """The runner of a workload."""
    if mode != "train":
        raise NotImplementedError("Keras is raced in training only")
    return Training(spec, X, y)
