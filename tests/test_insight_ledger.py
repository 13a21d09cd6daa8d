"""The ledger: its terms add up to the norm of the gradient, on any graph, and mean what they say.

The norms come from `backward()`; what the terms of a perceptron mean is computed by hand with NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn
from chainrule.errors import GradientError
from chainrule.insight.ledger import ACTIVATION, ALIGNMENT, BLOCK, ERROR, INPUT, UNIT, USES, WEIGHT

Array = np.ndarray[Any, Any]
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.LeakyReLU)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def decades(array: Array) -> float:
    return math.log10(np.linalg.norm(array))


# -- networks ------------------------------------------------------------------------------------------------
class Residual(nn.Module):
    """Blocks with a skip, a normalisation and a branch, as in a transformer."""

    def __init__(self, width: int, blocks: int) -> None:
        self.first = nn.Linear(width, width)
        self.norms = nn.Sequential(*(nn.LayerNorm(width) for _ in range(blocks)))
        self.branches = nn.Sequential(*(nn.Linear(width, width) for _ in range(blocks)))
        self.last = nn.Linear(width, 1)

    def forward(self, x: Any) -> cr.Tensor:
        h = self.first(x)
        for norm, branch in zip(self.norms, self.branches, strict=True):
            h = h + cr.tanh(branch(norm(h)))
        return self.last(h)


class Attending(nn.Module):
    """Tokens that look at each other, and an embedding that is also the head."""

    def __init__(self) -> None:
        self.tokens = nn.Embedding(7, 8)
        self.norm = nn.LayerNorm(8)
        self.parts = nn.Linear(8, 24)

    def forward(self, numbers: Any) -> cr.Tensor:
        h = self.tokens(numbers)
        query, key, value = cr.moveaxis(self.parts(self.norm(h)).reshape(*numbers.shape, 3, 8), 2, 0)
        h = h + nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return h @ cr.matrix_transpose(self.tokens.weight)


def perceptron(depth: int, width: int, activation: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 3), nn.Tanh(),
        nn.Flatten(), nn.Linear(8, 1),
    )  # fmt: skip


def recurrent(steps: int) -> tuple[cr.Tensor, list[nn.Parameter]]:
    inward, onward = nn.Parameter(numbers(3, 4)), nn.Parameter(0.5 * numbers(4, 4, seed=1))
    inward.name, onward.name = "inward", "onward"

    def step(h: cr.Tensor, x: cr.Tensor) -> tuple[cr.Tensor, cr.Tensor]:
        h = cr.tanh(x @ inward + h @ onward)
        return h, h

    _, states = cr.scan(step, cr.zeros((2, 4), dtype=cr.float64), cr.asarray(numbers(steps, 2, 3)))
    return cr.mean(cr.square(states)), [inward, onward]


def loss_of(model: nn.Module, *shape: int) -> tuple[cr.Tensor, list[nn.Parameter]]:
    model.double()
    loss = nn.MSELoss()(model(cr.asarray(numbers(*shape))), cr.asarray(numbers(shape[0], 1, seed=1)))
    return loss, list(model.parameters())


def attending() -> tuple[cr.Tensor, list[nn.Parameter]]:
    model = Attending().double()
    tokens = np.random.default_rng(0).integers(0, 7, (3, 5))
    logits = nn.functional.flatten(model(cr.asarray(tokens)), 0, 1)
    return nn.CrossEntropyLoss()(logits, cr.asarray(tokens[::-1].ravel().copy())), list(model.parameters())


CASES: dict[str, Callable[[], tuple[cr.Tensor, list[nn.Parameter]]]] = {
    **{
        f"perceptron {depth} {activation.__name__}": lambda depth=depth, activation=activation: loss_of(
            perceptron(depth, 9, activation), 6, 9
        )
        for depth in (1, 2, 7)
        for activation in ACTIVATIONS
    },
    "perceptron 200": lambda: loss_of(perceptron(200, 8, nn.Tanh), 6, 8),
    "residual": lambda: loss_of(Residual(8, 5), 6, 8),
    "images": lambda: loss_of(images(), 4, 1, 8, 8),
    "recurrent": lambda: recurrent(9),
    "attention, one weight used twice": attending,
}


@pytest.mark.parametrize("case", CASES)
def test_the_terms_add_up_to_the_norm_of_the_gradient(case: str) -> None:
    cr.random.seed(0)
    loss, parameters = CASES[case]()
    found = cr.ledger(loss)
    loss.backward()
    assert found.loss == loss.item()
    assert [each.name for each in found.entries] == [each.name for each in parameters]
    for entry, parameter in zip(found.entries, parameters, strict=True):
        assert parameter.grad is not None
        assert entry.shape == parameter.shape
        assert entry.log10_norm == pytest.approx(decades(parameter.grad.numpy()), abs=1e-12)
        assert sum(each for _, each in entry.terms) == pytest.approx(entry.log10_norm, abs=1e-12)
        assert entry.total() == pytest.approx(entry.log10_norm, abs=1e-12)
        for term in entry.terms:
            assert sum(each.share for each in term.shares) == pytest.approx(1, abs=1e-12) or not term.shares
        for unit, own in zip(found.units(entry.name), parameter.grad.numpy(), strict=True):
            norm = np.linalg.norm(own)
            assert unit.log10_norm == pytest.approx(math.log10(norm) if norm else -math.inf, abs=1e-12)
            assert unit.total() == pytest.approx(unit.log10_norm, abs=1e-12)


@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.Conv1d(3, 4, 2)], ids=["linear", "convolution"])
def test_a_unit_has_its_part_of_the_error(layer: nn.Module) -> None:
    """Of a layer alone under the loss the error is known: 2 (outputs - targets) ÷ their number."""
    layer.double()
    inputs = numbers(5, 3) if isinstance(layer, nn.Linear) else numbers(5, 3, 6)
    outputs = layer(cr.asarray(inputs))
    targets = numbers(*outputs.shape, seed=1)
    found = cr.ledger(nn.MSELoss()(outputs, targets))
    error = 2 * (outputs.numpy() - targets) / targets.size
    for name in ("weight", "bias"):
        for k, unit in enumerate(found.units(name)):
            (mine,) = (term for term in unit.terms if term.kind == UNIT)
            assert unit.name == f"{name}[{k}]"
            assert mine.decades == pytest.approx(decades(error[:, k]) - decades(error), abs=1e-12)
            assert [term.kind for term in unit.terms[-3:]] == [UNIT, INPUT, ALIGNMENT]
            assert unit.terms[-1].decades < 1e-12
    with pytest.raises(KeyError, match="there is no parameter 'wight'"):
        found.units("wight")


def test_in_float32_too() -> None:
    model = Residual(8, 5)
    loss = nn.MSELoss()(model(numbers(6, 8).astype(np.float32)), numbers(6, 1).astype(np.float32))
    found = cr.ledger(loss)
    loss.backward()
    for entry, parameter in zip(found.entries, model.parameters(), strict=True):
        assert parameter.grad is not None
        assert entry.total() == pytest.approx(decades(parameter.grad.numpy()), abs=1e-5)


# -- what the terms mean -------------------------------------------------------------------------------------
def test_the_terms_of_a_perceptron_are_its_factors() -> None:
    """Error, weight gain, activation gain, input and alignment, as the chain rule by hand has them."""
    model = perceptron(1, 5, nn.Tanh).double()
    x, y = numbers(4, 5), numbers(4, 1, seed=1)
    w, b, v, c = (each.numpy() for each in model.parameters())
    hidden = np.tanh(x @ w.T + b)
    error = 2 / 4 * (hidden @ v.T + c - y)
    before = error @ v
    inside = before * (1 - hidden**2)
    found = cr.ledger(nn.MSELoss()(model(cr.asarray(x)), cr.asarray(y)))
    expected = [
        (ERROR, "", decades(error)),
        (WEIGHT, "2", decades(before) - decades(error)),
        (ACTIVATION, "1", decades(inside) - decades(before)),
        (INPUT, "0", decades(x)),
        (ALIGNMENT, "0", decades(inside.T @ x) - decades(x) - decades(inside)),
    ]
    terms = found["0.weight"].terms
    assert [(each.kind, each.layer) for each in terms] == [(kind, layer) for kind, layer, _ in expected]
    np.testing.assert_allclose([each for _, each in terms], [each for *_, each in expected], atol=1e-12)
    assert [label for label, _ in terms][1:] == [
        "2 weight gain",
        "1 activation gain",
        "0 input norm",
        "0 alignment",
    ]
    bias = found["0.bias"]
    assert bias.terms[:3] == terms[:3]
    assert bias.total(INPUT) == pytest.approx(math.log10(2))  # as if a column of four ones came in
    assert all(entry.total(ALIGNMENT) <= 1e-12 for entry in found.entries)


def test_a_block_says_what_came_back_over_each_branch() -> None:
    model = Residual(6, 1).double()
    loss = nn.MSELoss()(model(cr.asarray(numbers(4, 6))), cr.asarray(numbers(4, 1)))
    block = next(term for term in cr.ledger(loss)["first.weight"].terms if term.kind == BLOCK)
    shares = {label: share for label, share, _ in block.shares}
    assert list(shares) == ["directly", "norms.0"]
    assert block.shares[0].decades == 0  # over the skip the error comes back as it is

    h = model.first(cr.asarray(numbers(4, 6))).numpy()
    rest = lambda h: cr.sum(model.last(h) * last)  # noqa: E731 - a function whose gradient is the error
    last = 2 / 4 * (model.last(h + cr.tanh(model.branches[0](model.norms[0](h)))).numpy() - numbers(4, 1))
    directly = cr.grad(rest)(cr.asarray(h)).numpy()
    whole = cr.grad(lambda h: rest(h + cr.tanh(model.branches[0](model.norms[0](h)))))(cr.asarray(h)).numpy()
    assert shares["directly"] == pytest.approx(np.vdot(directly, whole) / np.vdot(whole, whole), rel=1e-9)


def test_a_weight_that_is_used_twice_says_over_which_use() -> None:
    weight = nn.Parameter(numbers(4, 4))
    loss = cr.mean(cr.square(cr.tanh(cr.asarray(numbers(3, 4)) @ weight) @ weight))
    (entry,) = cr.ledger(loss).entries
    (uses,) = [term for term in entry.terms if term.kind == USES]
    assert len(uses.shares) == 2
    assert entry.total() == pytest.approx(entry.log10_norm, abs=1e-12)


def test_a_loop_says_over_which_step() -> None:
    """As if its steps were written one after the other."""
    model = nn.Sequential(nn.Linear(3, 3)).double()
    inputs = numbers(6, 2, 3)

    def step(h: cr.Tensor, x: object) -> tuple[cr.Tensor, None]:
        return cr.tanh(model(h + x)), None

    start = cr.zeros((2, 3), np.float64)
    last, _ = cr.scan(step, start, inputs)
    loss = cr.mean(cr.square(last))
    entry = cr.ledger(loss)["0.weight"]
    written = start
    for x in inputs:
        written, _ = step(written, x)
    apart = cr.ledger(cr.mean(cr.square(written)))["0.weight"]
    assert entry.log10_norm == pytest.approx(apart.log10_norm, abs=1e-12)
    assert entry.total() == pytest.approx(entry.log10_norm, abs=1e-12)
    (uses,) = (term for term in entry.terms if term.kind == "uses together")
    assert {share.label for share in uses.shares} == {f"0@{t}" for t in range(6)}
    assert math.fsum(share.share for share in uses.shares) == pytest.approx(1, abs=1e-12)
    parts = {part.label.partition("[")[0] for part in cr.explain(loss, "0.weight", (0, 0), most=99).children}
    assert parts <= {share.label for share in uses.shares}
    assert cr.ledger(loss).cause == cr.ledger(loss).cause  # judged on the loop as it is


def test_a_dead_layer_is_a_zero_and_what_lies_behind_it_undefined() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].bias.assign(np.full(4, -100.0, np.float32))
    entry = cr.ledger(cr.mean(cr.square(model(numbers(5, 3).astype(np.float32)))))["0.weight"]
    assert entry.log10_norm == entry.total() == -math.inf
    told = dict(entry.terms)
    assert told["1 activation gain"] == -math.inf
    assert math.isnan(told["0 alignment"])
    assert math.isfinite(told["2 weight gain"])
    lines = str(entry).splitlines()
    assert "     zero  1 activation gain" in lines
    assert "undefined  0 alignment" in lines


def test_no_error_at_all_is_a_zero_at_the_loss() -> None:
    model = perceptron(1, 3, nn.Tanh).double()
    inputs = numbers(2, 3)
    found = cr.ledger(cr.mean(cr.square(model(inputs) - model(inputs).numpy())))
    for entry in found.entries:
        assert entry.terms[0][:2] == ("error at the loss", -math.inf)
        assert entry.total() == entry.log10_norm == -math.inf
    rows = str(found).splitlines()[2:]
    assert all(row.split()[1] == "zero" and row.split()[-1] == "zero" for row in rows)
    assert "nan" not in str(found)


def test_a_function_with_a_derivative_of_its_own_is_one_term() -> None:
    doubled = cr.custom_vjp(lambda x: x * 2)
    doubled.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 5,))
    weight = nn.Parameter(np.array([1.0, 2.0]))
    weight.name = "weight"
    found = cr.ledger(cr.sum(doubled(weight) * 3))
    (entry,) = found.entries
    assert [term.kind for term in entry.terms] == ["error at the loss", USES]
    assert entry.total() == pytest.approx(math.log10(15 * math.sqrt(2)), abs=1e-12)
    assert [each.total() for each in found.units("weight")] == pytest.approx([math.log10(15)] * 2, abs=1e-12)


def test_of_many_branches_the_largest_are_told() -> None:
    weight = nn.Parameter(np.ones(1))
    parts = []
    for k in range(7):
        with cr.scope(f"branch{k}"):
            parts.append(cr.sum(weight * float(2**k)))
    told = str(cr.ledger(sum(parts[1:], parts[0])).entries[0])
    assert "(50% over branch6, 25% over branch5, 13% over branch4, 6% over branch3, 6% over 3 others)" in told


def test_tiny_and_huge_gradients_have_decades_too() -> None:
    weight = nn.Parameter(np.ones(3))
    for scale in (1e-200, 1e200):
        (entry,) = cr.ledger(cr.sum(weight * scale)).entries
        assert entry.log10_norm == pytest.approx(math.log10(scale) + 0.5 * math.log10(3))


# -- as text, and what cannot be -----------------------------------------------------------------------------
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_undefined() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    with np.errstate(all="ignore"):
        model[2].weight.assign(np.full((1, 3), np.inf, np.float32))
        loss = nn.MSELoss()(model(cr.asarray(numbers(4, 3).astype(np.float32))), np.zeros((4, 1), np.float32))
    found = cr.ledger(loss)
    assert math.isnan(found["0.weight"].log10_norm)
    assert "undefined" in str(found["0.weight"])


def test_as_text() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1))
    for parameter in model.parameters():
        parameter.assign(np.ones(parameter.shape, np.float32))
    found = cr.ledger(cr.mean(cr.square(model(np.ones((1, 2), np.float32)))))
    assert str(found["0.weight"]).splitlines() == [
        "   +0.764  error at the loss",
        "   +0.151  2 weight gain",
        "   -1.345  1 activation gain",
        "   +0.151  0 input norm",
        "   +0.000  0 alignment",
        "   -0.280  log10 of the norm of the gradient of 0.weight",
    ]
    first, head, *rows = str(found).splitlines()
    assert first == "loss 8.43989; all in decades, log10:"
    assert head.split("  ")[0] == "parameter"
    assert [row.split()[0] for row in rows] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert found["2.bias"].name == "2.bias"
    with pytest.raises(KeyError, match=r"no parameter '3\.bias', but 0\.weight, 0\.bias"):
        found["3.bias"]


def test_parameters_without_a_path_or_a_derivative() -> None:
    one, other, cut = (nn.Parameter(numbers(3)) for _ in range(3))
    cut.name = "cut"
    loss = cr.sum(one * numbers(3)) + cr.sum(other * cr.floor(cut))
    found = cr.ledger(loss)
    assert [each.name for each in found.entries] == ["parameter 0", "parameter 1", "cut"]
    assert found["cut"].total() == found["cut"].log10_norm == -math.inf
    assert cr.explain(loss, "parameter 0", (1,)).value == numbers(3)[1]
    with pytest.raises(GradientError, match="no derivative flows from this loss to cut"):
        cr.explain(loss, "cut", (0,))
    alone = nn.Parameter(2.0)
    assert cr.ledger(cr.sum(alone)).entries[0].total() == 0
    assert cr.explain(cr.sum(alone), "parameter 0", ()).value == 1


def test_what_has_no_ledger() -> None:
    weight = nn.Parameter(np.ones(3))
    with pytest.raises(GradientError, match="scalar"):
        cr.ledger(weight * 2)
    with pytest.raises(GradientError, match="depends on no parameter"):
        cr.ledger(cr.sum(cr.asarray([1.0])))
    with pytest.raises(GradientError, match="plain"):
        cr.ledger(cr.compile(lambda: cr.sum(weight))())


# -- any network ---------------------------------------------------------------------------------------------
class Skip(nn.Module):
    """Something added to what comes in, perhaps scaled."""

    def __init__(self, inside: nn.Module, scale: float) -> None:
        self.inside, self.scale = inside, scale

    def forward(self, x: Any) -> cr.Tensor:
        return x + self.scale * self.inside(x)


class Gated(nn.Module):
    """One branch times another."""

    def __init__(self, width: int) -> None:
        self.value, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Any) -> cr.Tensor:
        return self.value(x) * cr.sigmoid(self.gate(x))


def layers(width: int) -> st.SearchStrategy[nn.Module]:
    """Layers that keep the width, in and beside each other."""
    made = st.sampled_from(
        [
            lambda: nn.Linear(width, width), lambda: nn.LayerNorm(width), lambda: Gated(width),
            *(lambda kind=kind: kind() for kind in ACTIVATIONS),
        ]
    )  # fmt: skip
    single = made.map(lambda make: make())
    return st.recursive(
        single,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=4).map(lambda parts: nn.Sequential(*parts)),
            st.builds(Skip, inner, st.sampled_from([1.0, 0.1, -1.0])),
        ),
        max_leaves=8,
    )


@given(st.integers(2, 6).flatmap(lambda width: st.tuples(st.just(width), layers(width))), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_network_adds_up(network: tuple[int, nn.Module], rows: int) -> None:
    width, inside = network
    model = nn.Sequential(nn.Linear(width, width), inside, nn.Linear(width, 1)).double()
    loss = nn.MSELoss()(model(cr.asarray(numbers(rows, width))), cr.asarray(numbers(rows, 1, seed=1)))
    found = cr.ledger(loss)
    loss.backward()
    gradients = {name: each.grad for name, each in model.named_parameters()}
    for entry in found.entries:
        gradient = gradients[entry.name]
        assert gradient is not None
        norm = float(np.linalg.norm(gradient.numpy()))
        if norm == 0:
            assert entry.total() == -math.inf
            continue
        assert entry.total() == pytest.approx(math.log10(norm), abs=1e-12)
        for term in entry.terms:
            shares = [each.share for each in term.shares]
            slack = 1e-12 * (1 + sum(map(abs, shares)))  # of branches that nearly cancel
            assert not shares or sum(shares) == pytest.approx(1, abs=slack)
        index = np.unravel_index(np.abs(gradient.numpy()).argmax(), entry.shape)
        opened = cr.explain(loss, entry.name, tuple(map(int, index)))
        assert opened.value == pytest.approx(gradient.numpy()[index], rel=1e-12)
        parts = math.fsum([*(part.value for part in opened.children), opened.remainder.value])
        slack = 4 * (opened.remainder.count + 9) * np.finfo(float).eps * opened.magnitude
        assert parts == pytest.approx(opened.value, abs=slack) or not opened.children
