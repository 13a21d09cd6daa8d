"""Opened numbers beside PyTorch: the same gradients and activations, made of the same parts.

What a number is made of is asked of PyTorch in its own way: the part of a gradient that goes through one
element of a layer is the error there, as PyTorch keeps it, times the derivative of that element.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn

torch = pytest.importorskip("torch")
ALL = 10**9
Layers = Callable[[Any], list[Any]]  # of a library's `nn`


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


def normalised(library: Any) -> list[Any]:
    return [library.Linear(6, 6), library.LayerNorm(6), library.ReLU(), library.Linear(6, 1)]


NETWORKS: dict[str, tuple[Layers, tuple[int, ...]]] = {
    "sigmoids": (perceptron(3, "Sigmoid"), (7, 6)),
    "GELUs": (perceptron(2, "GELU"), (7, 6)),
    "200 layers": (perceptron(200, "Tanh"), (3, 6)),
    "normalised": (normalised, (7, 6)),
    "images": (images, (5, 1, 8, 8)),
}


class Both:
    """One network in both libraries, with the same weights, and what PyTorch keeps of it."""

    def __init__(self, layers: Layers, shape: tuple[int, ...]) -> None:
        cr.random.seed(0)
        self.ours = nn.Sequential(*layers(nn)).double()
        self.theirs = torch.nn.Sequential(*layers(torch.nn)).double()
        state = {key: torch.tensor(value.numpy()) for key, value in self.ours.state_dict().items()}
        self.theirs.load_state_dict(state)
        random = np.random.default_rng(0)
        x, y = random.normal(size=shape), random.normal(size=(shape[0], 1))
        self.loss = nn.MSELoss()(self.ours(cr.asarray(x)), cr.asarray(y))
        self.inputs = torch.tensor(x, requires_grad=True)
        self.outputs = [self.inputs]
        for layer in self.theirs:
            self.outputs.append(layer(self.outputs[-1]))
            self.outputs[-1].retain_grad()
        torch.nn.MSELoss()(self.outputs[-1], torch.tensor(y)).backward(retain_graph=True)

    def element(self, label: str) -> Any:
        """The element of a layer's output that a label such as "2[3, 1]" names; its error is beside it."""
        layer, place = re.fullmatch(r"(\d+)\[(.*)\]", label).groups()
        index = tuple(map(int, place.split(",")))
        output = self.outputs[int(layer) + 1]
        return output[index], output.grad[index].item()


@pytest.fixture(params=NETWORKS)
def both(request: pytest.FixtureRequest) -> Both:
    return Both(*NETWORKS[request.param])


def test_gradients_errors_and_activations_are_pytorchs(both: Both) -> None:
    random = np.random.default_rng(1)

    def anywhere(shape: Any) -> tuple[int, ...]:
        return tuple(int(random.integers(0, extent)) for extent in shape)

    def close(found: float, theirs: Any, index: tuple[int, ...]) -> None:
        scale = float(theirs.abs().max())
        assert found == pytest.approx(theirs[index].item(), rel=1e-9, abs=1e-12 * scale)

    for name, parameter in list(both.theirs.named_parameters())[:8]:
        index = anywhere(parameter.shape)
        close(cr.explain(both.loss, name, index).value, parameter.grad, index)
    index = anywhere(both.inputs.shape)
    close(cr.explain(both.loss, "input", index).value, both.inputs.grad, index)
    for layer, output in list(enumerate(both.outputs[1:]))[:8]:
        index = anywhere(output.shape)
        close(cr.explain(both.loss, str(layer), index).value, output.detach(), index)
        close(cr.explain(both.loss, str(layer), index, of="gradient").value, output.grad, index)


def test_every_part_is_an_error_times_a_derivative(both: Both) -> None:
    """By PyTorch: d(element) / d(what is opened) of each part, and the error at the element."""
    name, parameter = next(iter(both.theirs.named_parameters()))
    index = tuple(extent // 2 for extent in parameter.shape)
    found = cr.explain(both.loss, name, index, most=ALL)
    for part in found.children[:6]:
        element, error = both.element(part.label)
        (derivative,) = torch.autograd.grad(element, parameter, retain_graph=True)
        assert part.value == pytest.approx(error * derivative[index].item(), rel=1e-8)
    part = found.children[0]
    before = both.outputs[int(part.label.split("[")[0]) + 1]
    where = tuple(map(int, part.label.split("[")[1].rstrip("]").split(",")))
    opened = part.open(ALL)
    for inner in opened.children[:6]:
        element, error = both.element(inner.label)
        (derivative,) = torch.autograd.grad(element, before, retain_graph=True)
        through = derivative[where].item()
        if len({each.label.split("[")[0] for each in opened.children}) == 1:
            assert inner.value == pytest.approx(opened.product * through * error, rel=1e-7)


def test_all_parts_add_up_to_pytorchs_gradient(both: Both) -> None:
    for name, parameter in list(both.theirs.named_parameters())[:4]:
        index = tuple(extent // 2 for extent in parameter.shape)
        found = cr.explain(both.loss, name, index, most=3)
        parts = [part.value for part in found.children]
        slack = 1e-12 * float(parameter.grad.abs().max()) + 1e-14 * found.magnitude
        assert math.fsum([*parts, found.remainder.value]) == pytest.approx(
            parameter.grad[index].item(), abs=slack
        )


def test_a_loop_is_pytorchs_backpropagation_through_time() -> None:
    random = np.random.default_rng(0)
    x, w, u = random.normal(size=(6, 3, 2)), random.normal(size=(2, 4)), 0.5 * random.normal(size=(4, 4))
    inward, onward = nn.Parameter(w), nn.Parameter(u)
    inward.name, onward.name = "inward", "onward"

    def step(h: cr.Tensor, each: cr.Tensor) -> tuple[cr.Tensor, None]:
        with cr.scope("cell"):
            return cr.tanh(each @ inward + h @ onward), None

    last, _ = cr.scan(step, cr.zeros((3, 4), dtype=cr.float64), cr.asarray(x))
    found = cr.explain(cr.sum(cr.square(last)), "onward", (1, 2), most=ALL)

    their_u, states = torch.tensor(u, requires_grad=True), [torch.zeros(3, 4, dtype=torch.float64)]
    sums = []
    for each in torch.tensor(x):
        sums.append(each @ torch.tensor(w) + states[-1] @ their_u)
        sums[-1].retain_grad()
        states.append(torch.tanh(sums[-1]))
    states[-1].square().sum().backward()
    assert found.value == pytest.approx(their_u.grad[1, 2].item(), rel=1e-12)
    parts = {part.label: part.value for part in found.children}
    for t in range(1, 6):
        for row in range(3):
            by_hand = (states[t][row, 1] * sums[t].grad[row, 2]).item()
            through = [value for label, value in parts.items() if label == f"cell@{t}[{row}, 2]"]
            assert math.fsum(through) == pytest.approx(by_hand, rel=1e-10, abs=1e-16)
