"""Sensitivity and what-if: held to finite differences, to gradients, and to running the program again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_insight_ledger import Residual, attending, images, loss_of, numbers, perceptron, recurrent

import chainrule as cr
from chainrule import nn
from chainrule.errors import BoundsError, DTypeError, GradientError

CASES: dict[str, Callable[[], tuple[cr.Tensor, list[nn.Parameter]]]] = {
    "perceptron": lambda: loss_of(perceptron(3, 6, nn.Tanh), 5, 6),
    "residual": lambda: loss_of(Residual(5, 2), 4, 5),
    "images": lambda: loss_of(images(), 3, 1, 8, 8),
    "attention": attending,
    "recurrent": lambda: recurrent(4),
}


def three_layers(activation: Callable[[], nn.Module] = nn.Sigmoid) -> nn.Sequential:
    with cr.random.stream(cr.random.key(0)):
        return nn.Sequential(nn.Linear(2, 3), activation(), nn.Linear(3, 1)).double()


def outputs(model: nn.Sequential, x: Any) -> dict[str, np.ndarray[Any, Any]]:
    """What every layer computes, by running the layers one after the other."""
    found = {}
    for name, layer in enumerate(model):
        x = layer(x)
        found[str(name)] = x.numpy()
    return found


# -- the derivative ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES)
def test_the_loss_moves_as_the_gradient_says(case: str) -> None:
    """Forward and backward are two ways to the same derivative."""
    cr.random.seed(0)
    loss, parameters = CASES[case]()
    random = np.random.default_rng(0)
    chosen = [(each, tuple(int(random.integers(0, extent)) for extent in each.shape)) for each in parameters]
    found = [cr.sensitivity(loss, parameter, index).loss for parameter, index in chosen]
    loss.backward()
    for (parameter, index), derivative in zip(chosen, found, strict=True):
        assert parameter.grad is not None
        gradient = parameter.grad.numpy()
        assert derivative == pytest.approx(gradient[index], abs=1e-12 * np.abs(gradient).max())


@pytest.mark.parametrize("case", CASES)
def test_stages_move_as_finite_differences_say(case: str) -> None:
    """Both sides of a small change: their mean cancels the second order, so the error is of the third."""
    cr.random.seed(0)
    loss, parameters = CASES[case]()
    name, step = parameters[0].name or "parameter 0", 1e-4
    index = (0,) * parameters[0].ndim
    found = cr.sensitivity(loss, name, index)
    up, down = (cr.what_if(loss, name, index, delta=delta) for delta in (step, -step))
    central = (up.loss_after - down.loss_after) / (2 * step)
    assert central == pytest.approx(found.loss, rel=1e-5, abs=1e-7)
    assert [each.layer for each in found.stages] == [each.layer for each in up.stages]
    for reached, above in zip(found.stages, up.stages, strict=True):
        assert above.predicted_norm == pytest.approx(step * reached.norm, rel=1e-9)
        assert above.gap <= 1e-2 * above.actual_norm + 1e-9


def test_by_hand() -> None:
    x, w = cr.asarray(np.array([1.0, 2.0])), cr.asarray(np.array([3.0, 5.0]))
    with cr.scope("product"):
        y = x * w
    with cr.scope("square"):
        z = y**2
    found = cr.sensitivity(cr.sum(z), w, 1)
    assert found.value == 5
    assert [(each.layer, each.norm, each.moved, each.size) for each in found.stages] == [
        ("product", 2, 1, 2),
        ("square", 2 * 10 * 2, 1, 2),
    ]
    assert found.loss == 40


# -- what if -------------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(
    delta=st.floats(-2, 2).filter(lambda delta: abs(delta) > 1e-3),
    at=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    activation=st.sampled_from([nn.Sigmoid, nn.ReLU, nn.Tanh, nn.GELU]),
)
def test_what_happens_is_what_running_the_program_again_gives(
    delta: float, at: tuple[int, int], activation: Callable[[], nn.Module]
) -> None:
    model, x, y = three_layers(activation), numbers(4, 2), numbers(4, 1, seed=1)
    loss = nn.MSELoss()(model(x), y)
    found = cr.what_if(loss, "0.weight", at, delta=delta)
    before = outputs(model, x)
    weight = model[0].weight.numpy().copy()
    weight[at] += delta
    model[0].weight.assign(weight)
    after = outputs(model, x)
    assert found.loss_before == loss.item()
    assert found.loss_after == nn.MSELoss()(model(x), y).item()
    assert [each.layer for each in found.stages] == ["0", "1", "2"]
    for stage in found.stages:
        change = np.linalg.norm(after[stage.layer] - before[stage.layer])
        assert stage.actual_norm == pytest.approx(change, abs=1e-14)
        assert stage.gap >= abs(stage.actual_norm - stage.predicted_norm) - 1e-12


def test_a_linear_stage_is_foreseen_exactly_and_a_curved_one_is_not() -> None:
    model = three_layers()
    loss = nn.MSELoss()(model(numbers(4, 2)), numbers(4, 1))
    linear, curved, last = cr.what_if(loss, "0.weight", (1, 0), delta=2.0).stages
    assert linear.gap <= 1e-15 * linear.actual_norm
    assert curved.gap > 0.01 * curved.actual_norm
    assert last.gap > 0.01 * last.actual_norm


def test_the_gap_shrinks_with_the_square_of_the_change() -> None:
    model = three_layers()
    loss = nn.MSELoss()(model(numbers(4, 2)), numbers(4, 1))
    gaps = [cr.what_if(loss, "0.weight", (1, 0), delta=delta).stages[1].gap for delta in (1e-2, 1e-3)]
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.05)


def test_an_activation_can_be_changed() -> None:
    model, x = three_layers(), numbers(4, 2)
    loss = cr.sum(model(x))
    found = cr.what_if(loss, "1", (2, 1), to=0.0)
    assert [each.layer for each in found.stages] == ["2"]
    unit = outputs(model, x)["1"][2, 1]
    assert found.before == unit
    assert found.loss_after == pytest.approx(loss.item() - unit * model[2].weight.numpy()[0, 1])
    assert found.loss_predicted == pytest.approx(found.loss_after)
    assert cr.what_if(loss, "0", (0, 0), delta=1).stages[0].layer == "1"


def test_inputs_are_named_in_the_order_of_making() -> None:
    model, x, y = three_layers(), numbers(4, 2), numbers(4, 1)
    loss = nn.MSELoss()(model(x), y)
    assert cr.what_if(loss, "input", (1, 0), delta=0).before == x[1, 0]
    of_target = cr.what_if(loss, "input 1", (3, 0), to=model(x).numpy()[3, 0])
    assert of_target.before == y[3, 0]
    residuals = (model(x).numpy() - y)[:, 0]
    assert of_target.loss_after == pytest.approx(np.square(residuals[:3]).sum() / 4)
    assert of_target.stages == ()


def test_a_value_that_is_used_twice() -> None:
    x = cr.asarray(np.array([2.0, -3.0]))
    found = cr.what_if(cr.sum(x * x + x), x, 0, delta=0.5)
    assert found.loss_predicted - found.loss_before == 5 * 0.5
    assert found.loss_after - found.loss_before == 2.5**2 + 2.5 - 6


def test_a_layer_that_is_used_twice_is_a_stage_each_time() -> None:
    layer, x = nn.Linear(2, 2).double(), numbers(3, 2)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    found = cr.sensitivity(cr.sum(model(x)), layer.weight, (0, 0))
    used = [each.layer for each in found.stages]
    assert len(used) == len(set(used)) == 3


def test_a_loop_is_one_stage() -> None:
    inputs, weight = cr.asarray(numbers(3, 2)), nn.Parameter(numbers(2, 2))
    with cr.scope("loop"):
        last, _ = cr.scan(lambda h, x: (cr.tanh(h @ weight + x), None), np.zeros(2), inputs)
    loss = cr.sum(last)
    found = cr.what_if(loss, inputs, (1, 0), delta=1e-6)
    assert [each.layer for each in found.stages] == ["loop"]
    gradient = cr.grad(
        lambda x: cr.sum(cr.scan(lambda h, e: (cr.tanh(h @ weight + e), None), np.zeros(2), x)[0])
    )
    derivative = gradient(inputs).numpy()[1, 0]
    assert found.loss_predicted - found.loss_before == pytest.approx(1e-6 * derivative, rel=1e-6)
    assert found.loss_after - found.loss_before == pytest.approx(1e-6 * derivative, rel=1e-4)


def test_a_derivative_of_ones_own_predicts_and_the_function_decides() -> None:
    @cr.custom_vjp
    def rounded(x: Any) -> Any:
        return cr.round(x)

    rounded.defvjp(lambda x: (cr.round(x), None), lambda residuals, g: (g,))
    x = cr.asarray(np.array(1.2))
    found = cr.what_if(3.0 * rounded(x), x, delta=0.1)
    assert found.loss_predicted - found.loss_before == pytest.approx(0.3)
    assert found.loss_after == found.loss_before == 3


def test_random_numbers_stay_and_it_is_said() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    loss = cr.sum(model(numbers(4, 3)))
    found = cr.what_if(loss, "0.bias", (0,), delta=1.0)
    assert found.loss_after == pytest.approx(found.loss_predicted)
    assert found.held == ("1",)
    assert str(found).endswith("held as they were: numbers without a derivative in 1")


def test_slopes_that_were_chosen_stay_and_it_is_said() -> None:
    """An eager LeakyReLU keeps the slopes that the signs of its input chose, not how they were chosen."""
    with cr.scope("leaky"):
        x = cr.asarray(np.array([2.0, -1.0]))
        y = nn.functional.leaky_relu(x, 0.1)
    found = cr.what_if(cr.sum(y), x, 1, to=1.0)
    assert found.held == ("leaky",)
    assert found.loss_after == pytest.approx(2.0 + 0.1)


def test_integers_have_a_what_if_and_no_derivative() -> None:
    table = nn.Embedding(5, 3).double()
    tokens = np.array([1, 2])
    loss = cr.sum(cr.square(nn.Sequential(table)(tokens)))
    found = cr.what_if(loss, "input", (0,), to=4)
    weight = table.weight.numpy()
    assert found.loss_after == pytest.approx(np.square(weight[[4, 2]]).sum())
    assert math.isnan(found.loss_predicted)
    assert math.isnan(found.stages[0].predicted_norm)
    assert "unknown" in str(found)
    with pytest.raises(GradientError, match=r"input\[0\] is int64.*cr\.what_if"):
        cr.sensitivity(loss, "input", (0,))
    with pytest.raises(DTypeError, match=r"cannot become 0\.5"):
        cr.what_if(loss, "input", (0,), to=0.5)
    with pytest.raises(BoundsError, match=r"gather .*out of bounds"):
        cr.what_if(loss, "input", (0,), to=9)


def test_what_is_given_stays_as_it_was() -> None:
    model = three_layers()
    before = model[0].weight.numpy().copy()
    loss = nn.MSELoss()(model(numbers(4, 2)), numbers(4, 1))
    value = loss.item()
    cr.what_if(loss, "0.weight", (0, 0), delta=3)
    assert loss.item() == value
    assert (model[0].weight.numpy() == before).all()


def test_a_step_of_a_run() -> None:
    x = numbers(40, 2)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    before = model[0].weight.numpy().copy()
    run = cr.fit(model, (x, x[:, :1] * x[:, 1:]), epochs=1, batch_size=10, backend="numpy")
    found = cr.what_if(run, "0.weight", (1, 0), to=0.0, step=0)
    assert found.before == before[1, 0]
    assert [each.layer for each in found.stages] == ["0", "1", "2"]
    assert found.loss_after == pytest.approx(found.loss_predicted, rel=0.5)


def test_empty_values_pass() -> None:
    x, w = cr.asarray(np.zeros((0, 2))), nn.Parameter(np.ones(2))
    with cr.scope("empty"):
        product = x @ w
    found = cr.what_if(cr.sum(product) + cr.sum(w), w, 0, delta=1)
    assert found.stages[0] == ("empty", 0, 0, 0)
    assert found.loss_after == 3
    with pytest.raises(IndexError, match="none of its elements"):
        cr.what_if(cr.sum(x @ w), x, (0, 0), delta=1)


def test_bad_input_names_the_place_and_the_cure() -> None:
    loss = cr.mean(three_layers()(numbers(4, 2)))
    with pytest.raises(KeyError, match=r"nothing called '0\.wait', but on 0\.weight"):
        cr.sensitivity(loss, "0.wait", (0, 0))
    with pytest.raises(IndexError, match=r"0\.weight has shape \(3, 2\): \(3, 0\) is none of its elements"):
        cr.sensitivity(loss, "0.weight", (3, 0))
    with pytest.raises(KeyError, match="not computed from this Tensor"):
        cr.sensitivity(loss, cr.asarray(1.0))
    with pytest.raises(TypeError, match=r"either delta=.* or to="):
        cr.what_if(loss, "0.weight", (0, 0))
    with pytest.raises(TypeError, match=r"either delta=.* or to="):
        cr.what_if(loss, "0.weight", (0, 0), delta=1, to=1)
    with pytest.raises(GradientError, match="scalar"):
        cr.sensitivity(three_layers()(numbers(4, 2)), "0.weight", (0, 0))


def test_as_text() -> None:
    x = cr.asarray(np.array([1.0, 2.0]))
    with cr.scope("double"):
        y = x * 2.0
    loss = cr.sum(cr.square(y))
    assert str(cr.sensitivity(loss, x, 1)).splitlines() == [
        "input[1] = 2; for each unit that it changes, to first order:",
        "stage   moves by  in",
        "double         2  1 of 2 elements",
        "loss +16",
    ]
    assert str(cr.what_if(loss, x, 1, delta=0.5)).splitlines() == [
        "input[1] from 2 to 2.5 (+0.5)",
        "stage   predicted  actual   gap",
        "double          1       1  0.0%",
        "loss from 20 to 29 (+9, predicted +8)",
    ]
    first = x[0]
    bare = cr.sensitivity(cr.square(first), first)  # no stage between it and the loss: no table
    assert repr(bare) == "value = 1; for each unit that it changes, to first order:\nloss +2"
    with cr.scope("<b>"):
        z = y * 2.0
    for found in (cr.sensitivity(cr.sum(z), x, 1), cr.what_if(cr.sum(z), x, 1, delta=0.5)):
        assert found._repr_html_().startswith("<pre>input[1]")
        assert "&lt;b&gt;" in found._repr_html_()
