"""The ledger beside PyTorch: its terms are the gains between the gradients that PyTorch keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
from bridges.test_torch_explain import Both, Layers, images, perceptron

import chainrule as cr

torch = pytest.importorskip("torch")


def decades(tensor: Any) -> float:
    return math.log10(float(torch.linalg.vector_norm(tensor)))


NETWORKS: dict[str, tuple[Layers, tuple[int, ...]]] = {
    **{
        f"perceptron {depth} {activation}": (perceptron(depth, activation), (7, 6))
        for depth, activation in ((2, "ReLU"), (2, "Sigmoid"), (20, "Tanh"), (200, "Tanh"))
    },
    "images": (images, (5, 1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gains_are_those_between_pytorchs_gradients(name: str) -> None:
    both = Both(*NETWORKS[name])
    values, theirs = both.outputs, both.theirs
    errors = [decades(value.grad) for value in values[1:]]  # at the output of every layer
    found = cr.ledger(both.loss)

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
