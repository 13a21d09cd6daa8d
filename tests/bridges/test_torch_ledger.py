"""The ledger beside PyTorch: its terms are the gains between the gradients that PyTorch keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn

torch = pytest.importorskip("torch")
Layers = Callable[[Any], list[Any]]  # of a library's `nn`


def decades(tensor: Any) -> float:
    return math.log10(float(torch.linalg.vector_norm(tensor)))


def perceptron(depth: int, activation: str) -> Layers:
    def layers(library: Any) -> list[Any]:
        hidden = [
            each for _ in range(depth) for each in (library.Linear(6, 6), getattr(library, activation)())
        ]
        return [*hidden, library.Linear(6, 1)]

    return layers


def images(library: Any) -> list[Any]:
    return [
        library.Conv2d(1, 3, 3, padding=1), library.Tanh(), library.MaxPool2d(2), library.Conv2d(3, 2, 3),
        library.GELU(), library.Flatten(), library.Linear(8, 1),
    ]  # fmt: skip


NETWORKS: dict[str, tuple[Layers, tuple[int, ...]]] = {
    **{
        f"perceptron {depth} {activation}": (perceptron(depth, activation), (7, 6))
        for depth, activation in ((2, "ReLU"), (2, "Sigmoid"), (20, "Tanh"), (200, "Tanh"))
    },
    "images": (images, (5, 1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gains_are_those_between_pytorchs_gradients(name: str) -> None:
    layers, shape = NETWORKS[name]
    ours, theirs = nn.Sequential(*layers(nn)).double(), torch.nn.Sequential(*layers(torch.nn)).double()
    theirs.load_state_dict({key: torch.tensor(value.numpy()) for key, value in ours.state_dict().items()})
    random = np.random.default_rng(0)
    x, y = random.normal(size=shape), random.normal(size=(shape[0], 1))

    values = [torch.tensor(x)]
    for layer in theirs:
        values.append(layer(values[-1]))
        values[-1].retain_grad()
    torch.nn.MSELoss()(values[-1], torch.tensor(y)).backward()
    errors = [decades(value.grad) for value in values[1:]]  # at the output of every layer
    found = cr.ledger(nn.MSELoss()(ours(cr.asarray(x)), cr.asarray(y)))

    for key, parameter in theirs.named_parameters():
        entry, layer = found[key], int(key.split(".")[0])
        assert entry.log10_norm == pytest.approx(decades(parameter.grad), abs=1e-10)
        assert entry.total("error at the loss") == pytest.approx(errors[-1], abs=1e-10)
        gains = dict.fromkeys(range(layer + 1, len(theirs)), 0.0)
        for term in entry.terms:
            if term.kind in ("weight gain", "activation gain") and int(term.layer) > layer:
                gains[int(term.layer)] += term.decades
        for later, gain in gains.items():
            assert gain == pytest.approx(errors[later - 1] - errors[later], abs=1e-10), (key, later)
        if key.endswith("weight"):
            assert entry.total("input norm") == pytest.approx(decades(values[layer].detach()), abs=1e-10)
            assert entry.total("alignment") <= 1e-12 or isinstance(theirs[layer], torch.nn.Conv2d)
