"""JAX with optax's Adam: "jit" calls one compiled step after the other, "scan" a compiled loop of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.specs import Array, Order, Spec, mlp_params

Parameters = Any


def parameters_of(spec: Spec) -> Parameters:
    """Start weights: the shared ones of an mlp, its own for the others."""
    if spec.kind == "mlp":
        return [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in mlp_params(spec)]
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 0.02) -> Any:
        return jnp.asarray((scale * rng.standard_normal(shape)).astype(np.float32))

    def linear(n: int, m: int) -> tuple[Any, Any]:
        return normal(n, m, scale=n**-0.5), jnp.zeros(m)

    if spec.kind == "cnn":
        kernels = [normal(3, 3, n, m, scale=(2 / (9 * n)) ** 0.5) for n, m in ((1, 8), (8, 16))]
        convolutions = [(kernel, jnp.zeros(kernel.shape[-1])) for kernel in kernels]
        return {"convolutions": convolutions, "hidden": linear(400, 64), "head": linear(64, 10)}
    d = spec.d_model
    blocks = [
        {
            "norm1": (jnp.ones(d), jnp.zeros(d)), "qkv": linear(d, 3 * d), "out": linear(d, d),
            "norm2": (jnp.ones(d), jnp.zeros(d)), "up": linear(d, 4 * d), "down": linear(4 * d, d),
        }
        for _ in range(spec.layers)
    ]  # fmt: skip
    return {
        "tokens": normal(spec.vocab, d), "positions": normal(spec.context, d), "blocks": blocks,
        "norm": (jnp.ones(d), jnp.zeros(d)), "head": linear(d, spec.vocab),
    }  # fmt: skip


def affine(x: Any, layer: tuple[Any, Any]) -> Any:
    """A linear layer."""
    return x @ layer[0] + layer[1]


def mlp(spec: Spec, layers: Parameters, x: Any) -> Any:
    """Linear layers with activations between."""
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[spec.act]
    for layer in layers[:-1]:
        x = activation(affine(x, layer))
    return affine(x, layers[-1])


def cnn(spec: Spec, p: Parameters, x: Any) -> Any:
    """Convolutions on images (batch, height, width, channels), JAX's own layout on CPUs."""
    for kernel, bias in p["convolutions"]:
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        x = jax.nn.relu(x + bias)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return affine(jax.nn.relu(affine(x.reshape(x.shape[0], -1), p["hidden"])), p["head"])


def layer_norm(x: Any, layer: tuple[Any, Any]) -> Any:
    """Rows brought to mean 0 and variance 1, then scaled and shifted."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer[0] + layer[1]


def gpt(spec: Spec, p: Parameters, tokens: Any) -> Any:
    """Logits of every position, (batch · context, vocabulary)."""
    seen = np.tri(spec.context, dtype=bool)
    x = p["tokens"][tokens] + p["positions"]
    batch, length, width = x.shape
    for block in p["blocks"]:
        parts = affine(layer_norm(x, block["norm1"]), block["qkv"])
        parts = parts.reshape(batch, length, 3, spec.heads, width // spec.heads)
        query, key, value = parts.transpose(2, 0, 3, 1, 4)
        scores = query @ key.swapaxes(-1, -2) * (width // spec.heads) ** -0.5
        mixed = jax.nn.softmax(jnp.where(seen, scores, -1e30)) @ value
        x = x + affine(mixed.transpose(0, 2, 1, 3).reshape(batch, length, width), block["out"])
        x = x + affine(jax.nn.gelu(affine(layer_norm(x, block["norm2"]), block["up"])), block["down"])
    return affine(layer_norm(x, p["norm"]), p["head"]).reshape(batch * length, -1)


def objective_of(spec: Spec) -> Any:
    """The loss of a batch as a function of the parameters."""
    network = {"mlp": mlp, "cnn": cnn, "gpt": gpt}[spec.kind]

    def objective(parameters: Parameters, x: Any, y: Any) -> Any:
        outputs = network(spec, parameters, x)
        if spec.loss == "mse":
            return ((outputs - y) ** 2).mean()
        if spec.loss == "bce":
            return optax.sigmoid_binary_cross_entropy(outputs, y).mean()
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

    return objective


class Data:
    """What stays on the device, and how a batch is taken out of it inside a compiled function."""

    def __init__(self, spec: Spec, X: Array, y: Array | None) -> None:
        narrow = X.astype(np.int32) if y is None else X.transpose(0, 2, 3, 1) if spec.kind == "cnn" else X
        self.X = jnp.asarray(narrow)
        self.y = None if y is None else jnp.asarray(y.astype(np.int32) if y.dtype == np.int64 else y)
        self.context = spec.context

    def take(self, X: Any, y: Any, rows: Any) -> tuple[Any, Any]:
        if y is None:
            places = rows[:, None] + jnp.arange(self.context)
            return X[places], X[places + 1].reshape(-1)
        return X[rows], y[rows]


class Training:
    """Compiled steps that own their parameters and Adam's state."""

    def __init__(self, spec: Spec, X: Array, y: Array | None, variant: str) -> None:
        self.data, self.order = Data(spec, X, y), Order(spec)
        self.parameters = parameters_of(spec)
        optimizer, gradient = optax.adam(spec.lr), jax.value_and_grad(objective_of(spec))
        self.state = optimizer.init(self.parameters)

        def step(carried: Any, X: Any, y: Any, rows: Any) -> tuple[Any, Any]:
            parameters, state = carried
            value, gradients = gradient(parameters, *self.data.take(X, y, rows))
            updates, state = optimizer.update(gradients, state, parameters)
            return (optax.apply_updates(parameters, updates), state), value

        def steps(carried: Any, X: Any, y: Any, blocks: Any) -> tuple[Any, Any]:
            carried, values = jax.lax.scan(lambda c, rows: step(c, X, y, rows), carried, blocks)
            return carried, values[-1]

        self.loops = variant == "scan"
        self.whole = spec.chunk if self.loops else 1
        self.compiled = jax.jit(steps if self.loops else step, donate_argnums=0)

    def run(self, steps: int) -> float:
        carried: Any = (self.parameters, self.state)
        value: Any = None
        for _ in range(steps // self.whole):
            rows = self.order.block(self.whole) if self.loops else self.order.next()
            carried, value = self.compiled(carried, self.data.X, self.data.y, rows.astype(np.int32))
        self.parameters, self.state = jax.block_until_ready(carried)
        return float(value)


class Evaluation:
    """One batch again and again: its loss, or the loss and every gradient."""

    def __init__(self, spec: Spec, X: Array, y: Array | None, mode: str) -> None:
        data, objective = Data(spec, X, y), objective_of(spec)
        self.arguments = (parameters_of(spec), *data.take(data.X, data.y, jnp.asarray(Order(spec).next())))
        self.gradients = mode == "grad"
        self.compiled = jax.jit(jax.value_and_grad(objective) if self.gradients else objective)

    def run(self, times: int) -> float:
        result: Any = None
        for _ in range(times):
            result = self.compiled(*self.arguments)
        result = jax.block_until_ready(result)
        return float(result[0] if self.gradients else result)


def make(spec: Spec, X: Array, y: Array | None, variant: str, mode: str) -> Any:
    """The runner of a workload."""
    if mode == "valuegraph":
        raise NotImplementedError("JAX has no tape")
    return Training(spec, X, y, variant) if mode == "train" else Evaluation(spec, X, y, mode)
