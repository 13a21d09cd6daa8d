"""The cause: a fault that is planted is named, with its layer, and a network without one is left alone.

A handful of each; `python -m benchmarks.causes` has the figures over many random networks.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from benchmarks import causes, causes_nets
from chainrule import nn
from chainrule.insight.adjoint import Adjoint, parameters_of
from chainrule.insight.cause import Cause, causes_of, evens_out
from chainrule.insight.departures import Departures
from chainrule.insight.ledger import Ledger
from chainrule.insight.stages import Chain

Array = np.ndarray[Any, Any]
ROWS, FEATURES, WIDTH = 64, 8, 32
GAINS = {nn.ReLU: math.sqrt(2), nn.Tanh: 1.2, nn.Sigmoid: 1.0, nn.GELU: 1.46, nn.LeakyReLU: math.sqrt(2)}


def data(seed: int = 0, rows: int = ROWS) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, FEATURES)), generator.normal(size=(rows, 1))


def perceptron(hidden: int = 5, activation: Callable[[], nn.Module] = nn.Tanh, seed: int = 0) -> nn.Module:
    """Layers 0, 2, 4 ... with the weights that are recommended for the activation, and zero biases."""
    generator = np.random.default_rng(seed)
    layers: list[nn.Module] = []
    for k in range(hidden):
        layers += [nn.Linear(FEATURES if k == 0 else WIDTH, WIDTH), activation()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH if hidden else FEATURES, 1)).double()
    for layer in linear(model).values():
        gain = GAINS[activation] if layer.weight.shape[0] == WIDTH else 1.0
        spread = gain / math.sqrt(layer.weight.shape[1])
        layer.weight.assign(generator.normal(0, spread, layer.weight.shape))
        layer.bias.assign(np.zeros(layer.bias.shape))
    return model


def linear(model: nn.Module) -> dict[str, Any]:
    return {path: each for path, each in model.named_modules() if isinstance(each, nn.Linear)}


def scaled(model: nn.Module, by: float, *paths: str) -> nn.Module:
    for path, layer in linear(model).items():
        if path in paths or not paths:
            layer.weight.assign(layer.weight.numpy() * by)
    return model


def shifted(model: nn.Module, by: float, path: str) -> nn.Module:
    bias = linear(model)[path].bias
    bias.assign(bias.numpy() + by)
    return model


def diagnosed(model: nn.Module, x: Array, y: Array, step: int | None = 0, scale: float = 1.0) -> Ledger:
    return cr.ledger(nn.MSELoss()(model(cr.asarray(x)), cr.asarray(y)) * scale, step=step)


def named(found: Ledger) -> tuple[str, str] | None:
    return (found.cause.factor, found.cause.layer) if found.cause else None


# -- healthy networks ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("activation", "hidden"),
    [(each, hidden) for each in GAINS for hidden in (0, 1, 2, 8) if each is not nn.Sigmoid or hidden <= 2],
)
def test_a_healthy_network_has_no_cause(activation: Callable[[], nn.Module], hidden: int) -> None:
    """Of sigmoids, a deep stack is none."""
    found = diagnosed(perceptron(hidden, activation), *data())
    assert found.causes == ()
    assert found.cause is None


@given(
    st.integers(0, 2**31),
    st.integers(0, 4),
    st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU]),
    st.integers(16, 99),
)
@settings(max_examples=30, deadline=None)
def test_random_healthy_networks_have_none_either(
    seed: int, hidden: int, activation: Callable[[], nn.Module], rows: int
) -> None:
    x, y = data(seed, rows)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    assert diagnosed(perceptron(hidden, activation, seed), x, y).causes == ()


class Residual(nn.Module):
    """Branches of two layers, added to a stream."""

    def __init__(self, blocks: int) -> None:
        self.first = nn.Linear(FEATURES, WIDTH)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)
                )
                for _ in range(blocks)
            )
        )
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, x: Any) -> cr.Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip


def test_branches_do_not_add_up() -> None:
    """Small weights in ten branches: were they in series, they would shrink what passes by seven decades."""
    cr.random.seed(0)
    model = Residual(10).double()
    assert diagnosed(model, *data()).cause is None
    weight = model.blocks[4][1].weight
    weight.assign(weight.numpy() * 100)
    assert named(diagnosed(model, *data())) == ("weight", "blocks.4.1")


def test_images_and_classes() -> None:
    cr.random.seed(0)
    model = images()
    pixels = np.random.default_rng(0).normal(size=(32, 1, 8, 8)).astype(np.float32)
    classes = cr.asarray(np.random.default_rng(1).integers(0, 3, 32))
    loss = nn.CrossEntropyLoss()(model(cr.asarray(pixels)), classes)
    assert cr.ledger(loss, step=0).cause is None
    assert named(cr.ledger(loss * 100, step=0)) == ("loss", "")
    model[3].bias.assign(np.full(8, -20, np.float32))
    loss = nn.CrossEntropyLoss()(model(cr.asarray(pixels)), classes)
    assert named(cr.ledger(loss, step=0)) == ("bias", "3")


# -- faults --------------------------------------------------------------------------------------------------
PLANTS: dict[str, tuple[Callable[[], Ledger], tuple[str, str]]] = {
    "one weight too large": (lambda: diagnosed(scaled(perceptron(), 20, "4"), *data()), ("weight", "4")),
    "one weight too small": (lambda: diagnosed(scaled(perceptron(), 0.05, "6"), *data()), ("weight", "6")),
    "a zero weight": (lambda: diagnosed(scaled(perceptron(), 0, "2"), *data()), ("weight", "2")),
    "all weights too large": (lambda: diagnosed(scaled(perceptron(), 3), *data()), ("weights", "")),
    "all weights too small": (lambda: diagnosed(scaled(perceptron(), 0.2), *data()), ("weights", "")),
    "a bias that saturates": (lambda: diagnosed(shifted(perceptron(), 9, "4"), *data()), ("bias", "4")),
    "a bias that kills": (
        lambda: diagnosed(shifted(perceptron(5, nn.ReLU), -20, "2"), *data()),
        ("bias", "2"),
    ),
    "inputs scaled": (lambda: diagnosed(perceptron(), data()[0] * 100, data()[1]), ("input", "0")),
    "inputs shifted": (lambda: diagnosed(perceptron(), data()[0] + 30, data()[1]), ("input", "0")),
    "an outlier": (
        lambda: diagnosed(
            perceptron(), data()[0] * np.where(np.arange(ROWS) == 7, 200, 1)[:, None], data()[1]
        ),
        ("input", "0"),
    ),
    "targets scaled": (lambda: diagnosed(perceptron(), data()[0], data()[1] * 1000), ("targets", "")),
    "loss scaled": (lambda: diagnosed(perceptron(), *data(), scale=0.001), ("loss", "")),
    "sigmoid everywhere": (lambda: diagnosed(perceptron(9, nn.Sigmoid), *data()), ("activations", "")),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_fault_is_named_first(plant: str) -> None:
    make, expected = PLANTS[plant]
    assert named(make()) == expected


def test_of_two_faults_the_earlier_comes_first_and_the_other_next() -> None:
    model = shifted(scaled(perceptron(), 50, "2"), 30, "6")
    assert [(each.factor, each.layer) for each in diagnosed(model, *data()).causes][:2] == [
        ("weight", "2"),
        ("bias", "6"),
    ]


def test_weights_of_one_direction_are_a_fault_only_before_training() -> None:
    model = perceptron(3)
    layer = model[2].weight
    layer.assign(np.full(layer.shape, layer.numpy().std()))
    cause = diagnosed(model, *data(), step=0).cause
    assert cause is not None
    assert (cause.factor, cause.layer) == ("weight", "2")
    assert "nearly of one direction" in cause.reason
    for step in (None, 500):
        assert "weight" not in [each.factor for each in diagnosed(model, *data(), step=step).causes]


def test_weights_may_grow_in_training() -> None:
    model = scaled(perceptron(), 4, "10")
    assert named(diagnosed(model, *data(), step=0)) == ("weight", "10")
    assert diagnosed(model, *data(), step=1000).cause is None


# -- what is known of the rest -------------------------------------------------------------------------------
def named_by(
    model: nn.Module, x: Array, y: Array, step: int = 0, optimizer: Any = None
) -> list[tuple[str, str]]:
    node = nn.MSELoss()(model(cr.asarray(x)), cr.asarray(y)).node
    found = causes_of(Adjoint(node, list(parameters_of(node).values())), step, optimizer)
    return [(each.factor, each.layer) for each in found]


def default(hidden: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Module:
    cr.random.seed(0)
    layers: list[nn.Module] = []
    for k in range(hidden):
        layers += [nn.Linear(FEATURES if k == 0 else WIDTH, WIDTH), activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1)).double()


@pytest.mark.parametrize(
    ("optimizer", "evens"),
    [
        (cr.optim.SGD(lr=0.1, momentum=0.9), False),
        (cr.optim.chain(cr.optim.clip_by_global_norm(1.0), cr.optim.SGD(lr=0.1)), False),
        (cr.optim.RMSprop(lr=0.1), True),
        (cr.optim.Adam(lr=0.1), True),
        (cr.optim.AdamW(lr=0.1), True),
        (cr.optim.chain(cr.optim.clip_by_global_norm(1.0), cr.optim.Adam(lr=0.1)), True),
    ],
    ids=["SGD", "clipped SGD", "RMSprop", "Adam", "AdamW", "clipped Adam"],
)
def test_an_optimizer_is_tried(optimizer: Any, evens: bool) -> None:
    assert evens_out(optimizer) == evens


def test_small_gradients_do_no_harm_where_the_optimizer_evens_them_out() -> None:
    sgd, adam = cr.optim.SGD(lr=0.1), cr.optim.Adam(lr=0.01)
    x, y = data()
    assert named_by(default(15), x, y, optimizer=sgd) == named_by(default(15), x, y) == [("weights", "")]
    assert named_by(default(15), x, y, optimizer=adam) == []
    assert named_by(default(40), x, y, optimizer=adam) == [("weights", "")]
    assert named_by(perceptron(6, nn.Sigmoid), x, y, optimizer=sgd) == [("activations", "")]
    assert named_by(perceptron(6, nn.Sigmoid), x, y, optimizer=adam) == []


def test_a_ledger_knows_the_optimizer_of_its_run_or_is_told() -> None:
    x, y = data()
    for optimizer, factors in ((cr.optim.SGD(lr=0.01), ["weights"]), (cr.optim.Adam(lr=0.01), [])):
        run = cr.fit(default(15), (x, y), loss=nn.MSELoss(), optimizer=optimizer, epochs=1, batch_size=ROWS)
        assert [each.factor for each in cr.ledger(run, step=0).causes] == factors
        loss = nn.MSELoss()(default(15)(cr.asarray(x)), cr.asarray(y))
        assert [each.factor for each in cr.ledger(loss, step=0, optimizer=optimizer).causes] == factors
        assert [each.factor for each in cr.ledger(loss, step=0).causes] == ["weights"]


def test_one_small_weight_does_not_make_all_small() -> None:
    """All are small, but not by enough; a tenth in one layer is another matter."""
    x, y = data()
    assert named_by(scaled(default(7), 0.1, "6"), x, y) == [("weight", "6")]


def test_a_deep_stack_of_small_weights_has_one_cause() -> None:
    """Of tanh, nothing is lost where sums are small; weights are not expected to make up for it."""
    assert named_by(default(100), *data()) == [("weights", "")]


def test_rows_that_activations_make_alike() -> None:
    """Adam evens out how small gradients are, but not that the mean of softplus outweighs all differences."""
    x, y = data()
    tanh = scaled(perceptron(15, nn.Tanh), 0.6)
    assert named_by(tanh, x, y, optimizer=cr.optim.Adam()) == []
    softplus = nn.Sequential(*(nn.Softplus() if isinstance(each, nn.Tanh) else each for each in tanh))
    node = nn.MSELoss()(softplus(cr.asarray(x)), cr.asarray(y)).node
    (cause,) = causes_of(Adjoint(node, list(parameters_of(node).values())), 0, cr.optim.Adam())
    assert cause.factor == "activations"
    assert "make all rows alike" in cause.reason
    assert abs(cause.evidence["together"]) < 5 < cause.evidence["alike"]


def test_a_bias_is_judged_without_the_small_weights_before_it() -> None:
    x, y = data()
    model = scaled(perceptron(4), 0.35, "0", "2", "4")
    model[6].bias.assign(np.random.default_rng(2).normal(0, 0.15, WIDTH))
    assert ("bias", "6") not in named_by(model, x, y)
    assert named_by(shifted(perceptron(4), 9, "6"), x, y)[0] == ("bias", "6")


def test_a_trained_bias_may_undo_the_mean_that_comes_in() -> None:
    x, y = data()
    model = perceptron(1, nn.Sigmoid)
    model[2].weight.assign(np.full((1, WIDTH), 1.5))
    model[2].bias.assign(-model(cr.asarray(x)).numpy().mean(axis=0))
    assert named_by(model, x, y, step=500) == []


def test_dead_units_of_the_one_row_that_is_wrong_are_chance() -> None:
    """Eight units reach it, and all are dead for it; the same for all rows is no chance."""
    x = np.random.default_rng(0).normal(size=(ROWS, FEATURES))
    x[5] = -6 * np.ones(FEATURES)
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, 1)).double()
    model[0].weight.assign(np.eye(FEATURES) + 0.05)
    model[0].bias.assign(np.zeros(FEATURES))
    y = model(cr.asarray(x)).numpy() + (np.arange(ROWS) == 5)[:, None]
    assert ("activation", "1") not in named_by(model, x, y, step=500)
    assert ("activation", "1") in named_by(model, x - 9, y, step=500)


def test_stages_that_respond_alike_are_tried_once() -> None:
    x, y = data()
    chain = stages(perceptron(6), x, y)
    tried = [chain.gains(stage, 1.0) for stage in chain.stages]
    assert len(set(map(id, tried[:-1]))) == 1
    assert tried[0] == chain.stages[0].gains(1.0)
    masked = stages(perceptron(2, nn.LeakyReLU), x, y)  # whose masks are their own
    assert masked.stages[0].form != masked.stages[1].form


# -- what is told --------------------------------------------------------------------------------------------
def test_the_sentence_and_the_evidence() -> None:
    model = perceptron(2)
    layer = model[2].weight
    layer.assign(layer.numpy() / np.sqrt(np.mean(layer.numpy() ** 2)) * 3)
    x, y = data()
    cause = diagnosed(model, x, y).cause
    assert isinstance(cause, Cause)
    expected = Departures(stages(model, x, y).stages[1], stages(model, x, y)).expected
    assert cause.evidence["scale"] == pytest.approx(math.log10(3 / expected))
    assert str(cause) == cause.reason
    assert cause.reason == (
        f"The weights of 2 are {3 / expected:.2g} times what 32 inputs ask for: their root mean square is 3, "
        f"not {expected:.3g}."
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        cause.layer = "0"


@pytest.mark.parametrize("plant", PLANTS)
def test_every_reason_is_one_sentence_with_a_number(plant: str) -> None:
    for cause in PLANTS[plant][0]().causes:
        assert cause.reason.endswith(".")
        assert any(each.isdigit() for each in cause.reason)
        assert all(math.isfinite(each) for each in cause.evidence.values())


def test_it_is_computed_when_asked() -> None:
    found = diagnosed(perceptron(), *data())
    assert "causes" not in vars(found)
    assert found.causes is found.causes
    assert Ledger(1.0, ()).causes == ()


# -- what stages are made of ---------------------------------------------------------------------------------
def stages(model: nn.Module, x: Array, y: Array) -> Chain:
    loss = nn.MSELoss()(model(cr.asarray(x)), cr.asarray(y)).node
    return Chain(Adjoint(loss, list(parameters_of(loss).values())))


def test_the_stages_of_a_perceptron() -> None:
    x, y = data()
    model = perceptron(2, nn.GELU)
    model[0].bias.assign(np.full(WIDTH, 0.5))
    found = stages(model, x, y).stages
    assert [(each.layer, each.responder, each.fan_in) for each in found] == [
        ("0", "1", FEATURES),
        ("2", "3", WIDTH),
        ("4", "4", WIDTH),
    ]
    first, second, last = found
    np.testing.assert_allclose(first.total.value, x @ model[0].weight.numpy().T + 0.5, rtol=1e-12)
    np.testing.assert_array_equal(first.answer.value, second.incoming.value)
    assert not last.response
    assert last.answer is last.total


@pytest.mark.parametrize(("activation", "gain"), [(nn.ReLU, 0.5), (nn.LeakyReLU, 0.50005), (nn.Tanh, 0.4644)])
def test_gains_are_those_of_normal_numbers(activation: Callable[[], nn.Module], gain: float) -> None:
    """The mean square of the derivative at normal numbers: by hand, and for tanh by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    if activation is nn.Tanh:
        gain = float((weights * (1 - np.tanh(nodes) ** 2) ** 2).sum() / weights.sum())
    x, y = data(rows=2048)
    first = stages(perceptron(1, activation), x, y).stages[0]
    _, backward = first.gains(1.0)
    # leaky_relu keeps the mask of the numbers that came in: half of 65,536 are positive, but for chance
    assert 10 ** (2 * backward) == pytest.approx(gain, rel=0.03)


def test_stages_in_series_and_beside_each_other() -> None:
    x, y = data()
    chain = stages(Residual(2).double(), x, y)
    by_layer = {each.layer: each for each in chain.stages}
    assert [each.layer for each in chain.in_series(by_layer["blocks.0.1"])] == [
        "blocks.0.1",
        "blocks.0.3",
        "last",
    ]
    assert [each.layer for each in chain.in_series(by_layer["first"])] == ["first", "last"]


# -- where numbers end ---------------------------------------------------------------------------------------
def test_not_a_number() -> None:
    x, y = data()
    spoilt = x.copy()
    spoilt[3, 1] = np.nan
    with np.errstate(all="ignore"):
        cause = diagnosed(perceptron(), spoilt, y).cause
        assert cause is not None
        assert cause.factor == "input"
        assert cause.reason == "The input of 0 holds a value that is infinite or not a number."
        model = perceptron()
        weight = model[4].weight
        weight.assign(np.where(np.arange(WIDTH) == 3, np.inf, weight.numpy()))
        assert named(diagnosed(model, x, y)) == ("weight", "4")


def test_zeros_everywhere() -> None:
    model = scaled(perceptron(), 0)
    assert named(diagnosed(model, *data())) == ("weights", "")
    assert named(diagnosed(perceptron(), np.zeros((ROWS, FEATURES)), data()[1])) == ("input", "0")


def test_one_row() -> None:
    """Of one row no mean is known, and the loss of one example is its mean."""
    x, y = np.ones((1, FEATURES)), np.ones((1, 1))
    assert diagnosed(perceptron(2), x, y).cause is None
    assert named(diagnosed(perceptron(2), x * 1000, y)) == ("input", "0")
    assert named(diagnosed(perceptron(2), x, y, scale=1000)) == ("loss", "")


def test_a_sum_counts_its_examples() -> None:
    x, y = data()
    model = perceptron(1)
    squares = cr.square(model(cr.asarray(x)) - cr.asarray(y))
    cause = cr.ledger(cr.sum(squares), step=0).cause
    assert cause is not None
    assert cause.reason == "The loss counts its examples 64 times, where a mean counts them once."
    assert cr.ledger(cr.mean(squares) + 0.01 * cr.sum(cr.square(model[0].weight)), step=0).cause is None


def test_losses_without_layers_or_data() -> None:
    weight = nn.Parameter(np.ones(3))
    assert cr.ledger(cr.sum(cr.square(weight)), step=0).causes == ()
    assert cr.ledger(cr.sum(weight * 1e9), step=0).causes == ()


# -- the experiment ------------------------------------------------------------------------------------------
def test_the_promise_needs_all_its_figures() -> None:
    design = causes_nets.designed(np.random.default_rng(0))

    def found(kind: str, count: int, place: int = 0, *named: Any, harm: float = 1.0) -> list[causes.Found]:
        return [causes.Found(k % 120, design, kind, 1.0, harm, 0.0, place, list(named)) for k in range(count)]

    healthy = found(causes.HEALTHY, 500) + found(causes.TRAINED, 500)
    alarm = ("weight", "0", {"scale": 1.0})
    kept = found("one weight", 1900, 1) + found("one weight", 70, 2) + found("one weight", 30, 0)
    assert causes.verdict(kept + healthy).passed
    assert causes.verdict(
        kept + healthy + found("one weight", 900, 0, harm=0.1)
    ).passed  # harmless: not asked
    assert not causes.verdict(kept + healthy + found("one weight", 20, 0)).passed  # in the first two
    assert not causes.verdict(kept + healthy + found("one weight", 50, 2)).passed  # first
    assert not causes.verdict(kept + healthy + found(causes.HEALTHY, 20, 0, alarm)).passed
    assert not causes.verdict(kept + healthy[:-1]).passed
    assert not causes.verdict(kept[:900] + healthy).passed


def test_what_is_published_is_strict_json() -> None:
    """A loss that overflowed has no number."""
    design = causes_nets.designed(np.random.default_rng(0))
    lost = causes.Found(
        0, design, "one weight", 1.0, math.inf, 0.0, 0, [("weight", "0", {"scale": math.nan})]
    )
    told = causes.strict(causes.published("development", {"mlp": [lost]}))
    text = json.dumps(told, allow_nan=False)
    assert json.loads(text)["families"]["mlp"]["missed"][0]["harm"] == "inf"


def test_slow_networks_are_healthy_and_counted_apart() -> None:
    design = causes_nets.designed(np.random.default_rng(0))
    alarm = [("weights", "", {"median": -0.4})]
    slow = causes.Found(0, design, causes.HEALTHY, 1.0, 0.0, 0.9, 0, alarm)
    quick = causes.Found(0, design, causes.HEALTHY, 1.0, 0.0, 0.1, 0, [])
    assert causes.silent([slow, quick], causes.HEALTHY) == (2, 0.5)
    assert causes.silent([slow, quick], causes.HEALTHY, causes.HARM) == (1, 1.0)
    assert causes.lost(1.0, 4.0) == 0.75
    assert causes.lost(1.0, -4.0) == 0.0


def test_a_plant_is_named_by_factor_and_layer() -> None:
    plant = causes_nets.Plant("one weight", "weight", "2")
    named = [("bias", "2", {}), ("weight", "0", {}), ("weight", "2", {})]
    assert causes.place_of(plant, named) == 3
    assert causes.place_of(plant, named[:2]) == 0
    assert causes.place_of(causes_nets.Plant("input scale", "input"), [("input", "0", {})]) == 1


def test_twins_differ_in_the_fault_alone() -> None:
    """What is trained again from the same weights on the same data comes to the same loss, to the bit."""
    random = np.random.default_rng(1)
    design = dataclasses.replace(causes_nets.designed(random), depth=1, width=8, rows=16, activation="tanh")
    twins = causes.Twins(design, design.activation)
    task = causes_nets.data_of(design, random)
    weights = twins.weights
    first = causes.gained(twins, weights, task, 0.003)
    twins.restart(weights)
    twins.train(task, 0.1, 5)
    assert causes.gained(twins, weights, task, 0.003) == first
