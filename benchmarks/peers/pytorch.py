"""PyTorch: eager with its fastest optimizers, and torch.compile around the loss or around the whole step.

"fused" and "foreach" name Adam's implementation; "channels_last" is the fused one with images in that memory
format; "compiled_loss" compiles forward, loss and backward; "compiled_step" one function of gradient and Adam
together. Compilation needs a C++ compiler.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.specs import Array, Order, Spec, mlp_params

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
torch.manual_seed(0)


class CausalSelfAttention(nn.Module):
    """As in benchmarks/workloads.py, with the names of its parameters."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(seen.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """A transformer's block, normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU("tanh")
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A small language model: tokens (batch, context) to logits (batch, context, vocabulary)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width = spec.d_model
        self.tokens = nn.Embedding(spec.vocab, width)
        self.positions = nn.Parameter(0.02 * torch.randn(spec.context, width))
        self.blocks = nn.Sequential(*(Block(width, spec.heads) for _ in range(spec.layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec.vocab)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions))).flatten(0, 1)


def model_of(spec: Spec) -> nn.Module:
    """The network of a workload; an mlp starts from the shared weights."""
    if spec.kind == "gpt":
        return GPT(spec)
    if spec.kind == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[spec.act]
    layers: list[nn.Module] = []
    for weight, bias in mlp_params(spec):
        linear = nn.Linear(*weight.shape)
        linear.load_state_dict({"weight": torch.tensor(weight.T), "bias": torch.tensor(bias)})
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def loss_of(spec: Spec) -> Callable[..., Any]:
    """The loss of a workload, as a function of outputs and targets."""
    return {
        "mse": functional.mse_loss,
        "bce": functional.binary_cross_entropy_with_logits,
        "ce": functional.cross_entropy,
    }[spec.loss]


class Feed:
    """Batches out of memory, the cheapest way there is: rows by index_select."""

    def __init__(self, spec: Spec, X: Array, y: Array | None) -> None:
        self.order = Order(spec)
        self.X = torch.from_numpy(X)
        self.y = None if y is None else torch.from_numpy(y)
        self.window = torch.arange(spec.context)

    def next(self) -> tuple[Any, Any]:
        rows = torch.from_numpy(self.order.next())
        if self.y is None:
            places = rows[:, None] + self.window
            return self.X[places], self.X[places + 1].flatten()
        return self.X.index_select(0, rows), self.y.index_select(0, rows)


class Training:
    """The usual loop; `compiled` wraps the loss of a batch in torch.compile."""

    def __init__(self, spec: Spec, X: Array, y: Array | None, variant: str) -> None:
        model, loss = model_of(spec), loss_of(spec)
        self.model = model
        self.feed = Feed(spec, X, y)
        if variant == "channels_last":
            if spec.kind != "cnn":
                raise NotImplementedError("channels_last is a layout of images")
            model.to(memory_format=torch.channels_last)
            self.feed.X = self.feed.X.contiguous(memory_format=torch.channels_last)
        way = {"foreach": True} if variant == "foreach" else {"fused": True}
        self.optimizer = torch.optim.Adam(model.parameters(), lr=spec.lr, **way)

        def objective(x: Any, y: Any) -> Any:
            return loss(model(x), y)

        self.objective = compiled(objective) if variant == "compiled_loss" else objective

    def run(self, steps: int) -> float:
        value: Any = None
        for _ in range(steps):
            x, y = self.feed.next()
            self.optimizer.zero_grad(set_to_none=True)
            value = self.objective(x, y)
            value.backward()
            self.optimizer.step()
        return float(value.item())


class CompiledStep:
    """Gradient and Adam written out as one function, compiled as one graph."""

    def __init__(self, spec: Spec, X: Array, y: Array | None) -> None:
        model, loss = model_of(spec), loss_of(spec)
        self.feed = Feed(spec, X, y)
        parameters = {name: each.detach().clone() for name, each in model.named_parameters()}
        means = {name: torch.zeros_like(each) for name, each in parameters.items()}
        squares = {name: torch.zeros_like(each) for name, each in parameters.items()}
        self.state = parameters, means, squares, torch.zeros(())
        gradient = torch.func.grad_and_value(
            lambda p, x, y: loss(torch.func.functional_call(model, p, (x,)), y)
        )

        def step(parameters: Any, means: Any, squares: Any, count: Any, x: Any, y: Any) -> Any:
            gradients, value = gradient(parameters, x, y)
            count.add_(1)
            debias_1, debias_2 = 1 - BETA_1**count, 1 - BETA_2**count
            for name, each in gradients.items():
                means[name].mul_(BETA_1).add_(each, alpha=1 - BETA_1)
                squares[name].mul_(BETA_2).addcmul_(each, each, value=1 - BETA_2)
                root = (squares[name] / debias_2).sqrt() + EPS
                parameters[name].sub_(spec.lr * (means[name] / debias_1) / root)
            return value

        self.step = compiled(step)

    @torch.no_grad()
    def run(self, steps: int) -> float:
        value: Any = None
        for _ in range(steps):
            value = self.step(*self.state, *self.feed.next())
        return float(value.item())


class Evaluation:
    """One batch again and again: "value" without a tape, "valuegraph" with one, "grad" with gradients."""

    def __init__(self, spec: Spec, X: Array, y: Array | None, mode: str) -> None:
        self.model, self.loss, self.mode = model_of(spec), loss_of(spec), mode
        self.batch = Feed(spec, X, y).next()

    def run(self, times: int) -> float:
        value: Any = None
        with torch.set_grad_enabled(self.mode != "value"):
            for _ in range(times):
                value = self.loss(self.model(self.batch[0]), self.batch[1])
                if self.mode == "grad":
                    torch.autograd.grad(value, list(self.model.parameters()))
        return float(value.item())


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for fixed shapes, where a compiler is to be had."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise NotImplementedError("torch.compile needs a C++ compiler")
    return torch.compile(function, dynamic=False)


def make(spec: Spec, X: Array, y: Array | None, variant: str, mode: str) -> Any:
    """The runner of a workload."""
    if mode != "train":
        return Evaluation(spec, X, y, mode)
    return CompiledStep(spec, X, y) if variant == "compiled_step" else Training(spec, X, y, variant)
