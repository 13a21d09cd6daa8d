"""What is raced: workloads A to H, families that grow in one direction; their data, order and arithmetic.

NumPy alone: every peer reads this file in a process of its own, which must not load anybody else's library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Spec:
    """One workload: a network, the rows it learns from, and how they are cut into steps.

    kind   "mlp", "cnn" (28 × 28 images of one channel) or "gpt" (a stream of token numbers)
    dims   widths of an mlp, from inputs to outputs
    loss   "mse", "bce" (of logits) or "ce" (softmax cross-entropy over class numbers)
    chunk  steps in one call of a peer that loops inside its compiled code
    """

    name: str
    kind: str
    dims: tuple[int, ...] = ()
    act: str = "relu"
    loss: str = "ce"
    batch: int = 64
    rows: int = 16384
    chunk: int = 100
    lr: float = 1e-3
    vocab: int = 96
    context: int = 64
    d_model: int = 64
    heads: int = 4
    layers: int = 2
    segments: int = 0  # chainrule recomputes the layers' values in so many segments; 0: it keeps them

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the rows; a stream has no epochs, a hundred steps stand for one."""
        return 100 if self.kind == "gpt" else self.rows // self.batch

    @property
    def title(self) -> str:
        """The network in a few words."""
        if self.kind == "cnn":
            return f"small CNN, 28 × 28 images, batch {self.batch}"
        if self.kind == "gpt":
            return f"small GPT, {self.layers} blocks of {self.d_model}, batch {self.batch} × {self.context}"
        hidden = self.dims[1:-1]
        same = len(hidden) > 3 and len(set(hidden)) == 1
        middle = f"{len(hidden)} × {hidden[0]}" if same else "-".join(map(str, hidden))
        return f"{self.dims[0]}-{middle}-{self.dims[-1]} {self.act}, {self.loss}, batch {self.batch}"


_IMAGE_SIDE, _CLASSES = 28, 10
WORKLOADS = {
    spec.name: spec
    for spec in (
        Spec("A", "mlp", (8, 64, 64, 1), loss="mse", batch=64, rows=16512, chunk=258),
        Spec("B", "mlp", (30, 256, 128, 1), loss="bce", batch=256, rows=200_000, chunk=200),
        Spec("C", "mlp", (784, 256, 128, 10), batch=128, rows=60_000, chunk=200),
        Spec("D", "mlp", (784, 1024, 1024, 10), batch=256, rows=60_000, chunk=30),
        Spec("E", "mlp", (8, 16, 16, 1), loss="mse", batch=32, rows=16512, chunk=516),
        Spec("F", "mlp", (*[64] * 21, 10), act="tanh", batch=64, rows=16384, chunk=256),
        Spec("G", "cnn", batch=64, rows=12_800, chunk=50),
        Spec("H", "gpt", act="gelu", batch=16, rows=200_000, chunk=20),
    )
}
FAMILIES = {
    "width": (32, 64, 128, 256, 512, 1024, 2048),
    "depth": (2, 5, 10, 20, 50, 100, 200),
    "batch": (8, 32, 128, 512, 2048, 4096),
}


def find(name: str) -> Spec:
    """A workload by its letter, or a member of a family by its size, such as "width=256".

    Beside the families, "checkpointed=1000" is a perceptron of so many layers that recomputes. It is narrow
    and its batches are large, so that activations, two megabytes a layer, outweigh its parameters.
    """
    if name in WORKLOADS:
        return WORKLOADS[name]
    family, _, size = name.partition("=")
    if family not in (*FAMILIES, "checkpointed") or not size.isdigit():
        raise KeyError(f"there is no workload {name!r}: A to H, or {', '.join(FAMILIES)} as in width=256")
    n = int(size)
    if family == "width":
        chunk = min(64, max(4, 16384 // n))
        return Spec(name, "mlp", (784, n, n, 10), batch=128, rows=128 * 64, chunk=chunk)
    if family == "depth":
        chunk = min(128, max(16, 1024 // n))
        return Spec(name, "mlp", (*[64] * (n + 1), 10), batch=64, rows=64 * 128, chunk=chunk)
    if family == "checkpointed":
        dims = (*[16] * (n + 1), 10)
        return Spec(name, "mlp", dims, "tanh", batch=32768, rows=65536, chunk=2, segments=math.isqrt(n))
    chunk = min(128, max(4, 32768 // n))
    return Spec(name, "mlp", (784, 256, 128, 10), batch=n, rows=max(4 * n, 16384), chunk=chunk)


# -- data --------------------------------------------------------------------------------------------------
def data(spec: Spec, seed: int = 0) -> tuple[Array, Array | None]:
    """Inputs and targets that can be learned; for a gpt the stream of tokens, which is its own target."""
    rng = np.random.default_rng(seed)
    if spec.kind == "gpt":
        return _stream(spec, rng), None
    inputs = _IMAGE_SIDE**2 if spec.kind == "cnn" else spec.dims[0]
    outputs = _CLASSES if spec.kind == "cnn" else spec.dims[-1]
    X = rng.standard_normal((spec.rows, inputs), dtype=np.float32)
    teacher = rng.standard_normal((inputs, outputs), dtype=np.float32) / np.sqrt(inputs).astype(np.float32)
    scores = X @ teacher
    if spec.kind == "cnn":
        X = X.reshape(-1, 1, _IMAGE_SIDE, _IMAGE_SIDE)
    if spec.loss == "mse":
        return X, np.tanh(scores)
    if spec.loss == "bce":
        return X, (scores > 0).astype(np.float32)
    return X, scores.argmax(axis=1).astype(np.int64)


def _stream(spec: Spec, rng: np.random.Generator) -> Array:
    """Tokens of a Markov chain: four equally likely successors to each."""
    successors = rng.integers(0, spec.vocab, size=(spec.vocab, 4)).tolist()
    tokens, now = [], 0
    for choice in rng.integers(0, 4, size=spec.rows).tolist():
        now = successors[now][choice]
        tokens.append(now)
    return np.array(tokens, dtype=np.int64)


class Order:
    """The batches every peer sees: endless rows of indices, the same for the same seed.

    Rows are shuffled anew every epoch and what does not fill a batch is left out; a gpt's windows start
    anywhere.
    """

    def __init__(self, spec: Spec, seed: int = 1) -> None:
        self._spec = spec
        self._rng = np.random.default_rng(seed)
        self._epoch = np.empty((0, spec.batch), np.int64)

    def next(self) -> Array:
        """The next batch, shape (batch,)."""
        if not len(self._epoch):
            self._epoch = self._draw(1)
        batch, self._epoch = self._epoch[0], self._epoch[1:]
        return batch

    def block(self, steps: int) -> Array:
        """The next batches, shape (steps, batch)."""
        return np.concatenate(list(self._pieces(steps)))

    def _pieces(self, steps: int) -> Iterator[Array]:
        while steps > 0:
            if not len(self._epoch):
                self._epoch = self._draw(steps)
            piece, self._epoch = self._epoch[:steps], self._epoch[steps:]
            steps -= len(piece)
            yield piece

    def _draw(self, steps: int) -> Array:
        spec = self._spec
        if spec.kind == "gpt":
            return self._rng.integers(0, spec.rows - spec.context - 1, size=(steps, spec.batch))
        whole = spec.steps_per_epoch * spec.batch
        return self._rng.permutation(spec.rows)[:whole].reshape(-1, spec.batch)


def windows(spec: Spec, stream: Array, starts: Array) -> tuple[Array, Array]:
    """The token windows that begin at `starts` and the tokens that follow each, both (batch, context)."""
    places = starts[:, None] + np.arange(spec.context)
    return stream[places], stream[places + 1]


def mlp_params(spec: Spec, seed: int = 2) -> list[tuple[Array, Array]]:
    """Start weights (in, out) and zero biases of an mlp, the same for every peer that takes weights."""
    rng = np.random.default_rng(seed)
    gain = 2.0 if spec.act == "relu" else 1.0
    return [
        (
            (rng.standard_normal((n, m)) * np.sqrt(gain / n)).astype(np.float32),
            np.zeros(m, np.float32),
        )
        for n, m in pairwise(spec.dims)
    ]


# -- arithmetic --------------------------------------------------------------------------------------------
def flops(spec: Spec) -> tuple[int, int]:
    """Multiplications and additions of one batch's products: (forward alone, the whole training step).

    Only what cannot be left out: products, not activations, losses or Adam; no gradient with respect to
    the data; of a convolution the outputs that the pooling after it reads; of causal attention the triangle
    that is seen.
    """
    layers = {"mlp": _mlp_products, "cnn": _cnn_products, "gpt": _gpt_products}[spec.kind](spec)
    forward = [2 * math.prod(sizes) for sizes in layers]
    if spec.kind == "gpt":  # an embedding, not the data, is the first layer's input
        return sum(forward), 3 * sum(forward)
    return sum(forward), 3 * sum(forward) - forward[0]


def _mlp_products(spec: Spec) -> list[tuple[int, ...]]:
    return [(spec.batch, n, m) for n, m in pairwise(spec.dims)]


def _cnn_products(spec: Spec) -> list[tuple[int, ...]]:
    convolutions = [(26 * 26, 9 * 1, 8), (10 * 10, 9 * 8, 16)]
    return [(spec.batch, *each) for each in (*convolutions, (400, 64), (64, 10))]


def _gpt_products(spec: Spec) -> list[tuple[int, ...]]:
    d, tokens = spec.d_model, spec.batch * spec.context
    seen = spec.batch * spec.context * (spec.context + 1) // 2
    block = [(tokens, d, 3 * d), (seen, d), (seen, d), (tokens, d, d), (tokens, d, 8 * d)]
    return [*block * spec.layers, (tokens, d, spec.vocab)]
