"""Random networks that learn, and faults to plant in them: what `benchmarks.causes` experiments on.

A network is drawn with its data from a seed. Faults change weights, data or activations of a network that is
otherwise the same, so that its outcome can be compared with that of its twin without the fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import chainrule as cr
from chainrule import nn

Array = np.ndarray[Any, Any]
Random = np.random.Generator
Activation = Callable[[], nn.Module]

ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.ReLU,
    "leaky": partial(nn.LeakyReLU, 0.1),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}
SWAPPED: dict[str, Activation] = {"sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "tanh": nn.Tanh}
GAINS = {"relu": math.sqrt(2), "leaky": math.sqrt(2), "gelu": 1.46, "tanh": 1.2, "sigmoid": 1.0}
FAMILIES = ("mlp", "cnn", "residual", "transformer")
MOST_PRODUCTS = 2**23  # of a pass: a network that is deep and wide has fewer rows, so that it takes seconds
PRODUCTS = {"mlp": 1, "cnn": 9 * 64, "residual": 2, "transformer": 8 * 6}  # by depth, width squared and rows
RATES = {"sgd": (0.1, 0.03, 0.01, 0.003), "adam": (0.01, 0.003, 0.001)}


# -- networks ------------------------------------------------------------------------------------------------
class Residual(nn.Module):
    """Blocks that add what a branch of two layers makes of the normalised stream."""

    def __init__(self, features: int, width: int, blocks: int, outputs: int, activation: Activation) -> None:
        self.first = nn.Linear(features, width)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.LayerNorm(width), nn.Linear(width, width), activation(), nn.Linear(width, width)
                )
                for _ in range(blocks)
            )
        )
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Any) -> cr.Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)


class Attention(nn.Module):
    """Self-attention of one head, whose queries, keys and values one product makes."""

    def __init__(self, width: int) -> None:
        self.width, self.parts, self.out = width, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h: Any) -> cr.Tensor:
        parts = self.parts(h).reshape(h.shape[0], h.shape[1], 3, self.width)
        query, key, value = cr.moveaxis(parts, 2, 0)
        return self.out(nn.functional.scaled_dot_product_attention(query, key, value))


class Transformer(nn.Module):
    """Blocks of attention and two layers, both on the normalised stream; the mean over positions decides."""

    def __init__(self, features: int, width: int, blocks: int, outputs: int, activation: Activation) -> None:
        self.first = nn.Linear(features, width)
        self.attention = nn.Sequential(
            *(nn.Sequential(nn.LayerNorm(width), Attention(width)) for _ in range(blocks))
        )
        self.thinking = nn.Sequential(
            *(
                nn.Sequential(
                    nn.LayerNorm(width),
                    nn.Linear(width, 2 * width),
                    activation(),
                    nn.Linear(2 * width, width),
                )
                for _ in range(blocks)
            )
        )
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Any) -> cr.Tensor:
        h = self.first(x)
        for attention, thinking in zip(self.attention, self.thinking, strict=True):
            h = h + attention(h)
            h = h + thinking(h)
        return self.last(cr.mean(self.norm(h), axis=1))


@dataclass(frozen=True)
class Design:
    """The shape of a network and of its task; weights and data come from seeds of their own."""

    family: str
    depth: int
    width: int
    features: int
    classes: int  # 0: a regression
    rows: int
    activation: str
    initialisation: str  # "recommended" or "default", that of the layers themselves
    optimizer: str

    @property
    def outputs(self) -> int:
        return max(1, self.classes)


def designed(random: Random, family: str = "mlp") -> Design:
    """A random design."""
    activation = str(random.choice(list(ACTIVATIONS)))
    deepest = {"mlp": 29, "cnn": 4, "residual": 8, "transformer": 3}[family]
    widest = {"mlp": 128, "cnn": 16, "residual": 64, "transformer": 32}[family]
    depth = int(np.exp(random.uniform(0, math.log(deepest + 1))))
    width = int(random.choice([each for each in (8, 16, 32, 64, 128) if each <= widest]))
    features = int(random.choice([4, 8, 16, 32]))
    classes = int(random.choice([0, 0, 2, 5]))
    rows = int(random.choice([16, 32, 64, 128, 256]))
    most = MOST_PRODUCTS / (PRODUCTS[family] * depth * width**2)
    return Design(
        family=family,
        depth=depth,
        width=width,
        features=features,
        classes=classes,
        rows=max(16, min(rows, 2 ** int(math.log2(most)))),
        activation=activation,
        initialisation=initialisation(random),
        optimizer="sgd" if random.random() < 0.6 else "adam",
    )


def initialisation(random: Random) -> str:
    """Mostly what is recommended for the activation."""
    return "recommended" if random.random() < 0.75 else "default"


def built(design: Design, name: str) -> nn.Module:
    """The module of a design with a named activation, its weights still those of its layers' own making."""
    activation = (ACTIVATIONS | SWAPPED)[name]
    if design.family == "residual":
        return Residual(design.features, design.width, design.depth, design.outputs, activation)
    if design.family == "transformer":
        return Transformer(design.features, design.width, design.depth, design.outputs, activation)
    layers: list[nn.Module] = []
    width = 1 if design.family == "cnn" else design.features
    for _ in range(design.depth):
        if design.family == "cnn":
            layers += [nn.Conv2d(width, design.width, 3, padding=1), activation()]
        else:
            layers += [nn.Linear(width, design.width), activation()]
        width = design.width
    if design.family == "cnn":
        layers += [nn.MaxPool2d(2), nn.Flatten()]
        width *= 16
    return nn.Sequential(*layers, nn.Linear(width, design.outputs))


def weighted(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have a weight matrix, by path, in forward order."""
    return {path: each for path, each in model.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)}


def answered(model: nn.Module) -> list[str]:
    """Paths of those that an activation follows."""
    paths = []
    for _, parent in model.named_modules():
        if isinstance(parent, nn.Sequential):
            children = list(parent)
            for layer, following in pairwise(children):
                if isinstance(layer, nn.Linear | nn.Conv2d) and isinstance(following, tuple(_KINDS)):
                    paths += [path for path, each in model.named_modules() if each is layer]
    return paths


_KINDS = {nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus}


def initialise(model: nn.Module, design: Design, random: Random) -> None:
    """Draw the weights anew: zero biases, or those of the layers' default."""
    followed = set(answered(model))
    for path, layer in weighted(model).items():
        shape = layer.weight.shape
        fan_in = math.prod(shape[1:])
        if design.initialisation == "default":
            draw_default(layer, random)
            continue
        gain = GAINS[design.activation] if path in followed else 1.0
        spread = gain / math.sqrt(fan_in)
        if random.random() < 0.5:
            values = random.normal(0, spread, shape)
        else:
            values = random.uniform(-spread * math.sqrt(3), spread * math.sqrt(3), shape)
        layer.weight.assign(values.astype(np.float32))
        layer.bias.assign(np.zeros(layer.bias.shape, np.float32))


def draw_default(layer: nn.Module, random: Random) -> None:
    """As PyTorch's layers do: uniform in ±1/√fan_in."""
    bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
    for parameter in (layer.weight, layer.bias):
        parameter.assign(random.uniform(-bound, bound, parameter.shape).astype(np.float32))


# -- data ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Data:
    """A task: inputs, targets, and how the loss counts; a fault may have changed each."""

    inputs: Array
    targets: Array
    loss_scale: float = 1.0
    target_scale: float = 1.0
    outlier: int | None = None

    @property
    def fair(self) -> Array:
        """The rows on which the outcome is measured."""
        return np.delete(np.arange(len(self.inputs)), [] if self.outlier is None else [self.outlier])


def data_of(design: Design, random: Random) -> Data:
    """Standardised, partly correlated inputs, and what a small random network with noise makes of them."""
    rows = design.rows
    shape = {"cnn": (64,), "transformer": (6, design.features)}.get(design.family, (design.features,))
    size = math.prod(shape)
    mixed = random.normal(size=(size, size)) * random.uniform(0, 1) / math.sqrt(size) + np.eye(size)
    flat = _standardised(random.normal(size=(rows, size)) @ mixed)
    hidden = np.tanh(flat @ random.normal(size=(size, 8)) / math.sqrt(size))
    scores = hidden @ random.normal(size=(8, design.outputs)) + 0.1 * random.normal(
        size=(rows, design.outputs)
    )
    inputs = flat.reshape(rows, *((1, 8, 8) if design.family == "cnn" else shape)).astype(np.float32)
    if design.classes:
        return Data(inputs, np.argmax(_standardised(scores), axis=1))
    return Data(inputs, _standardised(scores).astype(np.float32))


def _standardised(values: Array) -> Array:
    return (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)


# -- faults --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Plant:
    """A fault, and the name that a cause should give it.

    change      changes the weights of a model in place
    data        changes the task
    activation  replaces the one that was drawn
    """

    kind: str
    factor: str
    layer: str | None = None
    size: float = 1.0
    change: Callable[[nn.Module], None] | None = None
    data: Callable[[Data], Data] | None = None
    activation: str | None = None


def plants(design: Design, model: nn.Module, random: Random) -> Iterator[Plant]:
    """Random faults of every kind."""
    layers, followed = list(weighted(model)), answered(model)
    for sign in (1, -1, 1, -1, 1, 1):
        path, size = str(random.choice(layers)), 10 ** (sign * random.uniform(0.7, 2))
        yield Plant("one weight", "weight", path, size, partial(scale_weights, paths=[path], by=size))
    for sign in (1, -1):
        size = 10 ** (sign * random.uniform(0.3, 1))
        yield Plant("all weights", "weights", "", size, partial(scale_weights, paths=layers, by=size))
    if design.initialisation == "recommended":
        seed = int(random.integers(2**31))
        yield Plant("default weights", "weights", "", 1, partial(default_weights, seed=seed))
    for kind in ("saturating bias", "killing bias"):
        path, size = str(random.choice(followed)), float(random.uniform(5, 30))
        seed = None if kind == "killing bias" else int(random.integers(2**31))
        yield Plant(kind, "bias", path, size, partial(shift_bias, path=path, by=size, seed=seed))
    yield from _of_data(design, random)
    swaps = [each for each in SWAPPED if each != design.activation]
    yield Plant("activation swap", "activations", "", activation=str(random.choice(swaps, p=_odds(swaps))))


def _odds(swaps: list[str]) -> Array:
    odds = np.array([3.0 if each == "sigmoid" else 1.0 for each in swaps])
    return odds / odds.sum()


def _of_data(design: Design, random: Random) -> Iterator[Plant]:
    for sign in (1, -1):
        by = 10 ** (sign * random.uniform(1, 3))
        yield Plant("input scale", "input", None, by, data=partial(scale_inputs, by=by))
    by = 10 ** random.uniform(1, 2.5)
    yield Plant("input shift", "input", None, by, data=partial(shift_inputs, by=by))
    by, row = 10 ** random.uniform(1.5, 3), int(random.integers(design.rows))
    yield Plant("outlier row", "input", None, by, data=partial(outlying_row, row=row, by=by))
    for sign in (1, -1):
        by = 10 ** (sign * random.uniform(1, 3))
        yield Plant("loss scale", "loss", "", by, data=partial(scale_loss, by=by))
    if not design.classes:
        for sign in (1, -1):
            by = 10 ** (sign * random.uniform(1, 2.5))
            yield Plant("target scale", "targets", "", by, data=partial(scale_targets, by=by))


def scale_weights(model: nn.Module, paths: list[str], by: float) -> None:
    """Multiply the weights of some layers."""
    layers = weighted(model)
    for path in paths:
        layers[path].weight.assign(layers[path].weight.numpy() * np.float32(by))


def default_weights(model: nn.Module, seed: int) -> None:
    """Weights by the layers' default instead of what is recommended."""
    random = np.random.default_rng(seed)
    for layer in weighted(model).values():
        draw_default(layer, random)


def shift_bias(model: nn.Module, path: str, by: float, seed: int | None) -> None:
    """A bias that is far from zero: everywhere below it, or with a seed on random sides."""
    bias = weighted(model)[path].bias
    signs = -np.ones(bias.shape) if seed is None else np.random.default_rng(seed).choice([-1, 1], bias.shape)
    bias.assign((bias.numpy() + by * signs).astype(np.float32))


def scale_inputs(data: Data, by: float) -> Data:
    """All inputs multiplied."""
    return replace(data, inputs=data.inputs * np.float32(by))


def shift_inputs(data: Data, by: float) -> Data:
    """A number added to all inputs."""
    return replace(data, inputs=data.inputs + np.float32(by))


def outlying_row(data: Data, row: int, by: float) -> Data:
    """One row of the inputs multiplied."""
    inputs = data.inputs.copy()
    inputs[row] *= np.float32(by)
    return replace(data, inputs=inputs, outlier=row)


def scale_targets(data: Data, by: float) -> Data:
    """All targets multiplied."""
    return replace(data, targets=data.targets * np.float32(by), target_scale=by)


def scale_loss(data: Data, by: float) -> Data:
    """The loss multiplied."""
    return replace(data, loss_scale=by)
