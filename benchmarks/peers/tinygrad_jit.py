"""tinygrad's TinyJit on its CPU device (which needs clang); NumPy takes the batches out of memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from typing import Any

os.environ.setdefault("DEV", "CPU")
os.environ.setdefault("TRAINING", "1")

import numpy as np
from tinygrad import Tensor, TinyJit, nn

from benchmarks.specs import Array, Order, Spec, windows


class Perceptron:
    """Linear layers with activations between."""

    def __init__(self, spec: Spec) -> None:
        self.layers = [nn.Linear(n, m) for n, m in pairwise(spec.dims)]
        self.activation = {"relu": Tensor.relu, "tanh": Tensor.tanh}[spec.act]

    def __call__(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Convolutional:
    """Two convolutions with pooling, two linear layers."""

    def __init__(self, spec: Spec) -> None:
        self.convolutions = [nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3)]
        self.hidden, self.head = nn.Linear(400, 64), nn.Linear(64, 10)

    def __call__(self, x: Any) -> Any:
        for convolution in self.convolutions:
            x = convolution(x).relu().max_pool2d(2)
        return self.head(self.hidden(x.flatten(1)).relu())


class Block:
    """A transformer's block, normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def __call__(self, x: Any) -> Any:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = (part.squeeze(0) for part in parts.permute(2, 0, 3, 1, 4).chunk(3, 0))
        seen = query.scaled_dot_product_attention(key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(self.up(self.norm2(x)).gelu())


class GPT:
    """A small language model."""

    def __init__(self, spec: Spec) -> None:
        width = spec.d_model
        self.tokens = nn.Embedding(spec.vocab, width)
        self.positions = (Tensor.randn(spec.context, width) * 0.02).contiguous().realize()
        self.blocks = [Block(width, spec.heads) for _ in range(spec.layers)]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, spec.vocab)

    def __call__(self, tokens: Any) -> Any:
        x = self.tokens(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).flatten(0, 1)


def loss_of(spec: Spec) -> Callable[[Any, Any], Any]:
    """The loss of a workload."""
    if spec.loss == "mse":
        return lambda outputs, targets: ((outputs - targets) ** 2).mean()
    if spec.loss == "bce":
        return lambda outputs, targets: outputs.binary_crossentropy_logits(targets)
    return lambda outputs, targets: outputs.sparse_categorical_crossentropy(targets)


class Training:
    """One captured step, replayed with new batches."""

    def __init__(self, spec: Spec, X: Array, y: Array | None) -> None:
        self.spec, self.X, self.y, self.order = spec, X, y, Order(spec)
        model = {"mlp": Perceptron, "cnn": Convolutional, "gpt": GPT}[spec.kind](spec)
        optimizer, loss = nn.optim.Adam(nn.state.get_parameters(model), lr=spec.lr), loss_of(spec)

        @TinyJit
        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            value = loss(model(x), y).backward()
            return value.realize(*optimizer.schedule_step())

        self.step = step

    def run(self, steps: int) -> float:
        value: Any = None
        for _ in range(steps):
            rows = self.order.next()
            batch = windows(self.spec, self.X, rows) if self.y is None else (self.X[rows], self.y[rows])
            narrow = [each.astype(np.int32) if each.dtype == np.int64 else each for each in batch]
            if self.y is None:
                narrow[1] = narrow[1].ravel()
            value = self.step(*(Tensor(each).realize() for each in narrow))
        return float(value.item())


def make(spec: Spec, X: Array, y: Array | None, variant: str, mode: str) -> Any:
    """The runner of a workload."""
    if mode != "train":
        raise NotImplementedError("tinygrad is raced in training only")
    if shutil.which("clang") is None:
        raise NotImplementedError("tinygrad's CPU device needs clang")
    return Training(spec, X, y)
