"""Opening a number: its parts add up to it, each opens further, and all paths together are the number.

The numbers come from `backward()`; the paths of a small network are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from test_insight_ledger import Residual, attending, images, loss_of, numbers, perceptron, recurrent

import chainrule as cr
from chainrule import nn
from chainrule.errors import GradientError
from chainrule.insight.explain import Explanation

ALL = 10**9
CASES: dict[str, Callable[[], tuple[cr.Tensor, list[nn.Parameter]]]] = {
    "perceptron": lambda: loss_of(perceptron(3, 6, nn.Tanh), 5, 6),
    "rectified": lambda: loss_of(perceptron(3, 6, nn.ReLU), 5, 6),
    "residual": lambda: loss_of(Residual(5, 2), 4, 5),
    "images": lambda: loss_of(images(), 3, 1, 8, 8),
    "attention": attending,
}


def openings(found: Explanation, depth: int) -> Iterator[Explanation]:
    """An explanation, its largest parts, theirs, and so on."""
    yield found
    if depth:
        for part in found.children[:2]:
            yield from openings(part.open(), depth - 1)


@pytest.mark.parametrize("case", CASES)
def test_children_and_remainder_are_the_number(case: str) -> None:
    cr.random.seed(0)
    loss, parameters = CASES[case]()
    random = np.random.default_rng(0)
    chosen = [(each, tuple(int(random.integers(0, extent)) for extent in each.shape)) for each in parameters]
    opened = [cr.explain(loss, parameter.name, index) for parameter, index in chosen]
    loss.backward()
    for (parameter, index), found in zip(chosen, opened, strict=True):
        assert parameter.grad is not None
        gradient = parameter.grad.numpy()
        assert found.value == pytest.approx(gradient[index], abs=1e-12 * np.abs(gradient).max())
        for each in openings(found, 4):
            parts = [part.value for part in each.children]
            if parts:
                count = len(parts) + each.remainder.count
                slack = 4 * count * np.finfo(float).eps * each.magnitude
                assert math.fsum([*parts, each.remainder.value]) == pytest.approx(each.value, abs=slack)
                assert sorted(parts, key=abs, reverse=True) == parts
                assert each.cancellation <= 1 + 1e-12 or each.magnitude == 0
            for part in each.children:
                assert part.open().value == part.value


def test_all_paths_together_are_the_number() -> None:
    """A row, a hidden unit and a hidden unit: 4 · 3 · 2 paths lead from a first weight to the loss."""
    cr.random.seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 2)).double()
    x, y = numbers(4, 2), numbers(4, 2, seed=1)
    loss = nn.MSELoss()(model(cr.asarray(x)), cr.asarray(y))

    def ends(found: Explanation, factor: float) -> Iterator[float]:
        """The products of the local derivatives along all paths."""
        factor *= math.prod(step.factor for step in found.steps)
        if not found.children:
            yield factor
        for part in found.children:
            yield from ends(part.open(ALL), factor * part.derivative)

    found = cr.explain(loss, "0.weight", (1, 0), most=ALL)
    assert sorted(part.label for part in found.children) == [f"0[{row}, 1]" for row in range(4)]
    paths = list(ends(found, 1.0))
    assert len(paths) == 4 * 3 * 2
    loss.backward()
    gradient = model[0].weight.grad
    assert gradient is not None
    assert math.fsum(paths) == pytest.approx(gradient.numpy()[1, 0], rel=1e-12)


def test_rows_inputs_and_derivatives_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()).double()
    x, y = numbers(3, 2), numbers(3, 1, seed=1)
    w, b = (each.numpy() for each in model.parameters())
    output = 1 / (1 + np.exp(-(x @ w.T + b)))
    parts = 2 / 3 * (output - y) * output * (1 - output) * x[:, 1:]
    found = cr.explain(nn.MSELoss()(model(cr.asarray(x)), cr.asarray(y)), "0.weight", (0, 1))
    assert found.label == "0.weight[0, 1]"
    assert found.remainder.count == 0
    for part in found.children:
        row = int(part.label[2])
        assert part.label == f"0[{row}, 0]"
        assert part.value == pytest.approx(parts[row, 0], rel=1e-12)
        assert part.derivative == pytest.approx(x[row, 1])
        opened = part.open()
        assert not opened.children
        labels = {step.label.split()[0]: step.factor for step in opened.steps}
        assert labels["sigmoid"] == pytest.approx((output * (1 - output))[row, 0])
        assert labels["square"] == pytest.approx(2 * (output - y)[row, 0])


def test_a_number_that_nothing_makes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].bias.assign(np.full(4, -100.0, np.float32))
    loss = cr.mean(cr.square(model(numbers(5, 3).astype(np.float32))))
    found = cr.explain(loss, "0.weight", (2, 1))
    assert found.value == 0
    assert all(part.value == 0 for part in found.children)
    assert math.isnan(found.cancellation)


def test_as_text() -> None:
    weight = nn.Parameter(np.array([2.0, 1.0]))
    weight.name = "weight"
    inputs = np.array([[1.0, 0.0], [3.0, 1.0], [10.0, 2.0]])
    with cr.scope("score"):
        output = inputs @ weight
    found = cr.explain(cr.sum(cr.square(output)), "weight", (0,), most=2)
    assert str(found).splitlines() == [
        "weight[0] = 486, the sum of 3 parts; it is 100% of the sum of their sizes",
        "          +440  score[2, 0]  (× 10)",
        "           +42  score[1, 0]  (× 3)",
        "            +4  remaining 1",
    ]
    lines = str(found.children[0].open()).splitlines()
    assert lines[0] == "score[2, 0] = 440"
    assert [line.split()[1:3] for line in lines[1:]] == [["44", "square"], ["1", "sum"]]


def test_what_cannot_be_opened() -> None:
    loss, _ = recurrent(3)
    with pytest.raises(GradientError, match="scan has several outputs"):
        cr.explain(loss, "inward", (0, 0))
    loss, _ = loss_of(perceptron(1, 3, nn.ReLU), 2, 3)
    with pytest.raises(KeyError, match=r"no parameter '0\.wait', but on 0\.weight, 0\.bias"):
        cr.explain(loss, "0.wait", (0, 0))
    for index in ((3, 0), (0,), (0, -1)):
        with pytest.raises(IndexError, match="none of its elements"):
            cr.explain(loss, "0.weight", index)
    with pytest.raises(GradientError, match="scalar"):
        cr.explain(nn.Parameter(np.ones(3)) * 2, "x", (0,))
