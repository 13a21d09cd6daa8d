"""The networks of the workloads as a user of chainrule writes them, and what trains and times them."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainrule as cr
from benchmarks.specs import Array, Order, Spec, mlp_params, windows
from chainrule import nn
from chainrule.nn import functional


def mlp(spec: Spec) -> nn.Module:
    """Linear layers with activations between, starting from the weights every peer starts from."""
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[spec.act]
    layers: list[nn.Module] = []
    for weight, bias in mlp_params(spec):
        linear = nn.Linear(*weight.shape)
        linear.load_state_dict({"weight": weight.T, "bias": bias})
        layers += [linear, activation()]
    del layers[-1]
    return Recomputed(layers, spec.segments) if spec.segments else nn.Sequential(*layers)


class Recomputed(nn.Module):
    """Layers in segments, whose inner values are computed again in the backward pass instead of kept."""

    def __init__(self, layers: list[nn.Module], segments: int) -> None:
        length = -(-len(layers) // segments)
        self.segments = [nn.Sequential(*layers[at : at + length]) for at in range(0, len(layers), length)]

    def forward(self, x: Any) -> Any:
        for segment in self.segments:
            x = cr.checkpoint(segment)(x)
        return x


def cnn() -> nn.Module:
    """Two convolutions with pooling, two linear layers: images (batch, 1, 28, 28) to ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class CausalSelfAttention(nn.Module):
    """Every position looks at itself and what came before, with several heads side by side."""

    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: cr.Tensor) -> cr.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = cr.permute_dims(parts, (2, 0, 3, 1, 4))
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(cr.permute_dims(seen, (0, 2, 1, 3)).reshape(batch, length, width))


class Block(nn.Module):
    """A transformer's block, normalised first: attention, then two linear layers with GELU between."""

    def __init__(self, width: int, heads: int) -> None:
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU("tanh")
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: cr.Tensor) -> cr.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A small language model: tokens (batch, context) to logits (batch, context, vocabulary)."""

    def __init__(self, spec: Spec) -> None:
        width = spec.d_model
        self.tokens = nn.Embedding(spec.vocab, width)
        self.positions = nn.Parameter(np.zeros((spec.context, width), np.float32))
        nn.init.normal_(self.positions, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, spec.heads) for _ in range(spec.layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec.vocab)

    def forward(self, tokens: Any) -> cr.Tensor:
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions)))


def token_cross_entropy(logits: cr.Tensor, targets: Any) -> cr.Tensor:
    """Cross-entropy over all positions of all windows."""
    return functional.cross_entropy(functional.flatten(logits, 0, 1), functional.flatten(targets))


def model_of(spec: Spec) -> nn.Module:
    """The network of a workload."""
    if spec.kind == "mlp":
        return mlp(spec)
    return cnn() if spec.kind == "cnn" else GPT(spec)


def loss_of(spec: Spec) -> Any:
    """The loss of a workload."""
    if spec.kind == "gpt":
        return token_cross_entropy
    return {"mse": nn.MSELoss, "bce": nn.BCEWithLogitsLoss, "ce": nn.CrossEntropyLoss}[spec.loss]()


_CHUNKS = 60


class Training:
    """Training steps: minibatch, forward, loss, backward, Adam."""

    def __init__(self, spec: Spec, X: Array, y: Array | None, **options: Any) -> None:
        optimizer = cr.optim.Adam(lr=spec.lr)
        self.trainer = cr.Trainer(model_of(spec), loss_of(spec), optimizer, batch_size=spec.batch, **options)
        self.data = cr.data.Windows(X, spec.context) if y is None else (X, y)
        self.order = Order(spec)
        self.piece = _CHUNKS * spec.chunk  # the rows of hundreds of epochs at once would fill memory

    def run(self, steps: int) -> float:
        """Take the next steps; the last one's loss."""
        loss = float("nan")
        for first in range(0, steps, self.piece):
            some = min(self.piece, steps - first)
            loss = self.trainer.run(self.data, some, batches=self.order.block(some))
        return loss


class Evaluation:
    """The loss of one batch again and again: its value, or the value and every gradient.

    mode  "value" (compiled), "grad" (compiled, with gradients), "valuegraph" (eager, recorded for backward)
    """

    def __init__(self, spec: Spec, X: Array, y: Array | None, mode: str, **backend: str) -> None:
        model, loss = model_of(spec), loss_of(spec)
        rows = Order(spec).next()
        inputs, targets = windows(spec, X, rows) if y is None else (X[rows], y[rows])
        self.batch = cr.asarray(inputs), cr.asarray(targets)

        def value(x: cr.Tensor, y: cr.Tensor) -> Any:
            return loss(model(x), y)

        def gradients(x: cr.Tensor, y: cr.Tensor) -> Any:
            return cr.value_and_grad(lambda network: loss(network(x), y))(model)

        self.mode = mode
        self.function = {
            "value": lambda: cr.compile(value, **backend),
            "grad": lambda: cr.compile(gradients, **backend),
            "valuegraph": lambda: value,
        }[mode]()

    def run(self, times: int) -> float:
        """Evaluate so many times; the loss."""
        result: Any = None
        for _ in range(times):
            result = self.function(*self.batch)
        return float(result[0] if self.mode == "grad" else result)


VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "numpy": {"backend": "numpy"},
    "telemetry": {"telemetry": True},
    "telemetry_every_step": {"telemetry": cr.train.Rates(facts=1)},
}
"""The default backend, the reference, and steps that tell of themselves."""


def make(spec: Spec, X: Array, y: Array | None, variant: str, mode: str) -> Training | Evaluation:
    """What the race runs. variant: a key of `VARIANTS`; those with telemetry are for training steps alone."""
    if variant not in VARIANTS or ("telemetry" in VARIANTS[variant] and mode != "train"):
        raise NotImplementedError(f"chainrule has no variant {variant!r} of {mode!r}")
    options = VARIANTS[variant]
    return Training(spec, X, y, **options) if mode == "train" else Evaluation(spec, X, y, mode, **options)
