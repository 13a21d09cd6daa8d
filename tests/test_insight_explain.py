"""Opening a number: its parts add up to it, each opens further, and all paths together are the number.

The numbers come from `backward()`, or are computed by hand; the paths of small networks are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_insight_ledger import Residual, attending, images, layers, loss_of, numbers, perceptron, recurrent

import chainrule as cr
from chainrule import nn
from chainrule.errors import GradientError
from chainrule.insight import explain as explaining
from chainrule.insight.explain import Explanation
from chainrule.insight.moment import Moment

ALL = 10**9
EPSILON = float(np.finfo(np.float64).eps)
CASES: dict[str, Callable[[], tuple[cr.Tensor, list[nn.Parameter]]]] = {
    "perceptron": lambda: loss_of(perceptron(3, 6, nn.Tanh), 5, 6),
    "rectified": lambda: loss_of(perceptron(3, 6, nn.ReLU), 5, 6),
    "residual": lambda: loss_of(Residual(5, 2), 4, 5),
    "images": lambda: loss_of(images(), 3, 1, 8, 8),
    "attention": attending,
    "recurrent": lambda: recurrent(6),
}


def openings(found: Explanation, depth: int) -> Iterator[Explanation]:
    """An explanation, its largest parts, theirs, and so on."""
    yield found
    if depth:
        for part in found.children[:2]:
            yield from openings(part.open(), depth - 1)


def check(found: Explanation, epsilon: float = EPSILON) -> None:
    """Its parts and the remainder, summed independently, are the number, to rounding: n · ε · Σ|part|.

    n counts the parts, the factors, and a few roundings inside of a layer; what cancels there opens closer.
    """
    parts = [part.value for part in found.children]
    if not parts:
        return
    slack = (found.count + len(found.steps) + 4) * epsilon * found.magnitude
    assert math.fsum([*parts, found.remainder.value]) == pytest.approx(found.value, abs=slack)
    assert sorted(parts, key=abs, reverse=True) == parts
    assert sum(part.share for part in found.children) <= found.magnitude / abs(found.value) + 1e-9
    assert found.cancellation <= 1 + 1e-5


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
            if each.value:
                check(each)
            for part in each.children:
                assert part.open().value == part.value


@pytest.mark.parametrize("case", CASES)
def test_a_loss_opens_down_to_inputs_and_weights(case: str) -> None:
    cr.random.seed(0)
    loss, _ = CASES[case]()
    found = cr.explain(loss)
    assert found.value == loss.item()
    for each in openings(found, 9):
        if each.value:
            check(each)


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
        "weight[0] = 486, the sum of 3 parts; it is 100% of the sum of their sizes, 3 paths to the loss",
        "          +440  91%  score[2]  (× input[2, 0] = 10)",
        "           +42   9%  score[1]  (× input[1, 0] = 3)",
        "            +4   1%  remaining 1",
    ]
    assert str(found.children[0].open()).splitlines() == [
        "score[2] = 440, 1 path to the loss",
        "    × 44           square'(22) = 22 * 2 = 44",
    ]
    assert found.children[0].open().product == 10


# -- rows, layers, loops, paths ------------------------------------------------------------------------------
def test_parts_are_named_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    loss = nn.MSELoss()(model(cr.asarray(numbers(4, 2))), cr.asarray(numbers(4, 1, seed=1)))
    rows = [f"house #{k}" for k in (7, 1204, 3, 9)]
    monkeypatch.setattr(explaining, "moment_of", lambda given, step: Moment(given, step, rows))
    found = cr.explain(loss, "0.weight", (1, 0), most=ALL)
    assert {part.row for part in found.children} == set(rows)
    part = next(part for part in found.children if part.row == "house #1204")
    assert part.label == "0[1, 1]"
    assert part.share == pytest.approx(part.value / found.value)
    assert f"{part.share:.0%}  0[1, 1] of house #1204  (× input[1, 0] = " in str(found)
    assert {each.row for each in openings(part.open(), 3)} == {"house #1204"}


def test_steps_carry_the_formula_with_the_numbers() -> None:
    """tanh' by hand, and every factor named by what it is."""
    model = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    x = numbers(1, 2)
    loss = cr.sum(model(cr.asarray(x)))
    z = (x @ model[0].weight.numpy().T + model[0].bias.numpy()).item()
    found = cr.explain(loss, "0.weight", (0, 1))
    steps = {step.label: step for step in found.steps}
    derivative = 1 - math.tanh(z) ** 2
    assert steps["tanh in 1"].factor == pytest.approx(derivative, rel=1e-12)
    assert steps["tanh in 1"].formula == f"tanh'({z:.4g}) = 1 - tanh({z:.4g})**2 = {derivative:.4g}"
    assert steps["matmul in 0"].formula == f"input[0, 1] = {x[0, 1]:.4g}"
    assert steps["matmul in 2"].formula == f"2.weight[0, 0] = {model[2].weight.item():.4g}"
    assert math.prod(step.factor for step in found.steps) == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Softplus, nn.ELU, nn.Sigmoid, nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("at", [0.83, -0.4])
def test_formulas_compute_what_they_say(activation: Callable[[], nn.Module], at: float) -> None:
    """Read back as Python; the numbers in them have four digits."""
    x = cr.asarray([at], np.float64)
    found = cr.explain(cr.sum(nn.Sequential(activation())(x)), x, 0)
    reading = {
        "erf": math.erf, "exp": math.exp, "tanh": math.tanh, "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
        "where": lambda condition, a, b: a if condition else b,
    }  # fmt: skip
    for step in found.steps:
        *_, text, result = step.formula.split(" = ") if step.formula else ("1", "1")
        computed = eval(text, {"__builtins__": {}}, reading)  # noqa: S307
        assert computed == pytest.approx(step.factor, rel=2e-3, abs=1e-4)
        assert float(result) == pytest.approx(step.factor, rel=1e-3)
    ahead, behind = (activation()(cr.asarray(at + by, np.float64)).item() for by in (1e-6, -1e-6))
    assert math.prod(step.factor for step in found.steps) == pytest.approx((ahead - behind) / 2e-6, abs=1e-8)


def test_a_loop_opens_step_by_step() -> None:
    """h = w · h + x, four times: dh/dw sums up what each step adds."""
    weight = nn.Parameter(2.0, np.float64)
    weight.name = "w"
    with cr.scope("cell"):
        last, _ = cr.scan(
            lambda h, x: (weight * h + x, None),
            cr.asarray(0.0, np.float64),
            cr.asarray([1.0, 2.0, 3.0, 4.0], np.float64),
        )
    found = cr.explain(last, "w")
    values = {part.label: part.value for part in found.children}
    assert values == {"cell@1": 4.0, "cell@2": 8.0, "cell@3": 11.0}
    assert found.value == 23.0  # of x4 + x3·w + x2·w² + x1·w³ by w
    part = next(part for part in found.children if part.label == "cell@1")
    assert [step.label for step in part.open().steps] == ["multiply in cell@2", "multiply in cell@3"]
    assert part.open().steps[0].formula == "w = 2"
    (inside, added) = cr.explain(last, "cell@2").children
    assert (inside.label, inside.value, added.label, added.value) == ("w × cell@1", 8.0, "input 1[2]", 3.0)
    assert cr.explain(last, "cell@2", of="gradient").value == 2.0
    with pytest.raises(KeyError, match=r"called 'cell@4'.*, but cell@0, cell@1"):
        cr.explain(last, "cell@4")


def test_a_layer_in_a_loop_means_what_it_computed_last() -> None:
    """Not the transpose of its weight, which is made once, before the loop."""
    model = nn.Sequential(nn.Linear(2, 2)).double()
    inputs = cr.asarray(numbers(3, 1, 2))
    last, _ = cr.scan(lambda h, x: (model(h + x), None), np.zeros((1, 2)), inputs)
    found = cr.explain(cr.sum(last), "0", (0, 1))
    assert found.value == last.numpy()[0, 1]
    assert str(found) == str(cr.explain(cr.sum(last), "0@2", (0, 1))).replace("0@2[0, 1] =", "0[0, 1] =")
    with pytest.raises(KeyError, match=r"nothing called '0', but on 0\.weight, 0\.bias"):
        cr.sensitivity(cr.sum(last), "0", (0, 1))
    (stage,) = cr.sensitivity(cr.sum(last), "0.weight", (0, 1)).stages
    assert stage.layer.startswith("scan ")


def test_a_layer_that_is_called_twice_has_two_values() -> None:
    layer = nn.Linear(2, 2).double()

    class Twice(nn.Module):
        def __init__(self) -> None:
            self.layer = layer

        def forward(self, x: cr.Tensor) -> cr.Tensor:
            return self.layer(cr.tanh(self.layer(x)))

    x = cr.asarray(numbers(1, 2))
    loss = cr.sum(Twice()(x))
    found = cr.explain(loss, "layer.weight", (1, 0))
    assert {part.label for part in found.children} == {"layer#1[0, 1]", "layer#2[0, 1]"}
    first, second = layer(x), layer(cr.tanh(layer(x)))
    assert cr.explain(loss, "layer#1", (0, 1)).value == first.numpy()[0, 1]
    assert cr.explain(loss, "layer#2", (0, 1)).value == second.numpy()[0, 1]
    labels = {part.label for part in cr.explain(loss, "layer#1", (0, 1)).children}
    assert labels == {"input[0, 0] × layer.weight[1, 0]", "input[0, 1] × layer.weight[1, 1]", "layer.bias[1]"}
    with pytest.raises(KeyError, match=r"called 'layer#3'.*, but layer#1, layer#2"):
        cr.explain(loss, "layer#3", (0, 1))


def test_paths_are_counted() -> None:
    """From a first weight: rows × units of the layer behind × outputs; with a skip, one more per block."""
    cr.random.seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2)).double()
    loss = nn.MSELoss()(model(cr.asarray(numbers(4, 2))), cr.asarray(numbers(4, 2, seed=1)))
    assert cr.explain(loss, "0.weight", (1, 0)).paths == (4 * 5 * 2, True)
    assert cr.explain(loss, "2.bias", 1).paths == (4 * 2, True)
    x = cr.asarray(numbers(3))
    y = x
    for _ in range(70):
        y = y + cr.sin(y)
    assert cr.explain(cr.sum(y), x, 1).paths == (2**70, True)
    assert "about 1.18e+21 paths to the loss" in str(cr.explain(cr.sum(y), x, 1))


def test_windows_that_overlap_are_counted_one_by_one() -> None:
    """Through two convolutions of width 3 without a border: the middle is read nine times, an end once."""
    layers = nn.Sequential(nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 3)).double()
    x = cr.asarray(numbers(1, 1, 9))
    loss = cr.sum(layers(x))
    counted = [cr.explain(loss, x, (0, 0, k)).paths for k in range(9)]
    assert counted == [(each, True) for each in np.convolve(np.ones(5), np.convolve(np.ones(3), np.ones(3)))]


def test_paths_that_cannot_be_counted_are_at_least_so_many() -> None:
    twice = cr.custom_vjp(lambda x: 2.0 * x)
    twice.defvjp(lambda x: (2.0 * x, None), lambda _, g: (2.0 * g,))
    x = cr.asarray(numbers(3))
    found = cr.explain(cr.sum(twice(x) + x), x, 0)
    assert found.value == 3
    assert found.paths == (1, False)
    assert "more than 1 path to the loss" in str(found)
    inside = [part.value for part in cr.explain(cr.sum(twice(x))).children]
    assert inside == sorted(2 * numbers(3), key=abs, reverse=True)


def test_two_hundred_layers_open_to_the_end() -> None:
    loss, _ = loss_of(perceptron(200, 4, nn.Tanh), 3, 4)
    found, layers = cr.explain(loss, "0.weight", (1, 2)), 0
    assert found.paths == (3 * 4**199, True)
    while found.children:
        found, layers = found.children[0].open(), layers + 1
        assert abs(found.product) > 0
    assert layers == 200
    found = cr.explain(loss, "400", (1, 0))
    while found.children:
        computed = [part for part in found.children if "bias" not in part.label]
        found, layers = computed[0].open(), layers + 1
    assert layers == 200 + 401  # the sum and the tanh of each layer, and last an input


# -- activations ---------------------------------------------------------------------------------------------
def test_an_activation_is_the_sum_of_its_products() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x = numbers(4, 2)
    loss = nn.MSELoss()(model(cr.asarray(x)), cr.asarray(numbers(4, 1, seed=1)))
    w, b, v, c = (each.numpy() for each in model.parameters())
    hidden = np.tanh(x @ w.T + b)
    found = cr.explain(loss, "2", (3, 0))
    assert found.label == "2[3, 0]"
    assert found.paths is None
    assert found.value == pytest.approx((hidden @ v.T + c)[3, 0], rel=1e-14)
    expected = {f"1[3, {k}] × 2.weight[0, {k}]": hidden[3, k] * v[0, k] for k in range(3)} | {
        "2.bias[0]": c[0]
    }
    assert {part.label: part.value for part in found.children} == pytest.approx(expected)
    part = next(part for part in found.children if part.label.startswith("1[3, 1]"))
    assert part.derivative == pytest.approx(v[0, 1])
    inside = part.open()
    assert (inside.label, inside.value) == ("1[3, 1]", pytest.approx(hidden[3, 1]))
    z = (x @ w.T + b)[3, 1]
    assert [step.formula for step in inside.steps] == [f"tanh({z:.4g}) = {hidden[3, 1]:.4g}"]
    (before,) = inside.children
    assert (before.label, before.value) == ("0[3, 1]", pytest.approx(hidden[3, 1]))
    assert {each.label for each in before.open().children} == {
        "input[3, 0] × 0.weight[1, 0]", "input[3, 1] × 0.weight[1, 1]", "0.bias[1]",
    }  # fmt: skip
    assert not before.open().children[0].open().children


def test_products_quotients_maxima_and_choices_add_up() -> None:
    x, y = cr.asarray(np.array([3.0, -2.0])), cr.asarray(np.array([4.0, 5.0]))
    a, b = cr.exp(x), cr.sin(y)
    product = cr.explain(a * b, index=0)
    assert [part.label.count("×") for part in product.children] == [1]
    halves = product.children[0].open()
    assert [part.value for part in halves.children] == pytest.approx([product.value / 2] * 2)
    quotient = cr.explain(a / b, index=1)
    assert [part.value for part in quotient.children] == pytest.approx([quotient.value / 2] * 2)
    assert [part.value for part in cr.explain(cr.maximum(a, b), index=0).children] == [a.numpy()[0]]
    assert [part.value for part in cr.explain(cr.max(a)).children] == [a.numpy()[0]]
    assert [part.value for part in cr.explain(cr.where(a > b, a, b), index=1).children] == [a.numpy()[1]]
    added = cr.scatter_add(cr.zeros(2, dtype=cr.float64), [1, 1], cr.exp(x))
    assert sorted(part.value for part in cr.explain(added, index=1).children) == sorted(a.numpy())
    for value in (cr.logaddexp(a, b), a - b, -a, a**b, a / 3.0, cr.clip(a, -1.0, 1.0), a.astype("float32")):
        found = cr.explain(value, index=1)
        assert found.value == value.numpy()[1]
        check(found, float(np.finfo(value.dtype).eps))


def test_an_error_is_the_gradient_of_an_activation() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x = cr.asarray(numbers(4, 2))
    loss = cr.sum(cr.square(model(x)))
    error = 2 * model(x).numpy() @ model[2].weight.numpy()
    found = cr.explain(loss, "1", (2, 1), of="gradient")
    assert found.value == pytest.approx(error[2, 1])
    assert {part.label for part in found.children} == {"2[2, 0]", "2[2, 1]"}
    loss.backward()
    assert x.grad is not None
    for name in (x, "input"):
        assert cr.explain(loss, name, (2, 1)).value == pytest.approx(x.grad.numpy()[2, 1])
    assert cr.explain(loss, "0.weight", (1, 1), of="activation").value == model[0].weight.numpy()[1, 1]


# -- how it reads --------------------------------------------------------------------------------------------
def test_an_index_may_count_from_the_end_be_an_array_or_stand_in_the_name() -> None:
    loss, _ = loss_of(perceptron(1, 3, nn.ReLU), 2, 3)
    found = cr.explain(loss, "0.weight", (1, 2))
    assert found.label == "0.weight[1, 2]"
    for name, index in [("0.weight", (-2, -1)), ("0.weight", np.array([1, 2])), (found.label, ())]:
        assert str(cr.explain(loss, name, index)) == str(found)
    assert str(cr.explain(loss, "0[1,-1]")) == str(cr.explain(loss, "0", (1, 2)))


def test_zeros_have_no_sign_and_what_is_undefined_is_not_told() -> None:
    dead = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    dead[0].bias.assign(np.float32([-99]))
    loss = cr.sum(cr.square(dead(numbers(3, 2).astype(np.float32))))
    for text in (str(cr.explain(loss, "0.weight", (0, 1))), str(cr.explain(loss, "1", (0, 0)))):
        assert "nan" not in text
        assert "-0 " not in text
    assert "the sum of 3 parts, " in str(cr.explain(loss, "0.weight", (0, 1)))


def test_what_is_not_a_number_is_listed_first() -> None:
    inputs = np.array([[1.0], [math.nan], [3.0]])
    found = cr.explain(cr.sum(cr.square(inputs @ nn.Parameter(np.ones(1)))), "parameter 0", 0, most=1)
    assert math.isnan(found.children[0].value)
    assert found.children[0].label.startswith("matmul[1, 0] test_insight_explain.py:")
    assert found.remainder.value == 20


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_an_activation_of_several_operations_is_a_function_of_one_value(
    activation: Callable[[], nn.Module],
) -> None:
    model = nn.Sequential(nn.Linear(2, 3), activation()).double()
    found = cr.explain(cr.sum(model(numbers(4, 2))), "1", (2, 1))
    ((part,), (step,)) = found.children, found.steps
    assert (part.label, part.value, found.remainder.count) == ("0[2, 1]", found.value, 0)
    assert step.factor == found.value
    if step.formula:
        assert float(step.formula.rpartition(" = ")[2]) == pytest.approx(found.value, rel=1e-3)
    opened = part.open()
    assert {each.label.partition(" ")[0] for each in opened.children} == {"0.bias[1]", "input[2,"}


def test_what_is_looked_up_comes_from_the_table() -> None:
    table = nn.Embedding(4, 2)
    found = cr.explain(cr.sum(nn.Sequential(table)(np.array([3, 1]))), "0", (0, 1))
    assert [(each.label, each.value) for each in found.children] == [("0.weight[3, 1]", found.value)]
    assert found.children[0].open().children == ()


# -- what cannot be ------------------------------------------------------------------------------------------
def test_what_cannot_be_opened() -> None:
    loss, _ = loss_of(perceptron(1, 3, nn.ReLU), 2, 3)
    with pytest.raises(KeyError, match=r"nothing called '0\.wait', but on .*0\.weight"):
        cr.explain(loss, "0.wait", (0, 0))
    for index in ((3, 0), (0,), (0, -4), ()):
        with pytest.raises(IndexError, match=r"none of its elements; the last is \(2, 2\)"):
            cr.explain(loss, "0.weight", index)
    for wrong in ((1.0, 2), "1, 2", (slice(None), 2), None):
        with pytest.raises(TypeError, match=r"no element of 0\.weight .*one whole number per axis.* 2"):
            cr.explain(loss, "0.weight", wrong)  # type: ignore[arg-type]
    for most in (-1, 1.5):
        with pytest.raises(ValueError, match=f"most={most}"):
            cr.explain(loss, "0.weight", (0, 0), most=most)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"most={most}"):
            cr.explain(loss, "0.weight", (0, 0)).children[0].open(most)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a ndarray is no name .*: give that of a parameter"):
        cr.explain(loss, np.ones((2, 3)), (0, 0))  # type: ignore[arg-type]
    for nothing in (None, 3.0, nn.Linear(2, 1)):
        with pytest.raises(TypeError, match=r"this is a \w+ .*: what can be looked at is a loss"):
            cr.explain(nothing, "0.weight", (0, 0))  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="nothing called 'w', nor on anything that has a name"):
        cr.explain(cr.sum(cr.stop_gradient(cr.asarray(2.0)) * 3), "w")
    x = cr.asarray([1.5, 2.5])
    with pytest.raises(GradientError, match="scalar"):
        cr.explain(x * 2, x, 0)
    with pytest.raises(KeyError, match="not computed from this Tensor"):
        cr.explain(loss, cr.asarray([1.0]), 0)
    with pytest.raises(ValueError, match="of='error'"):
        cr.explain(loss, "0", (0, 0), of="error")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int64"):
        cr.explain(cr.asarray([1, 2]), index=0)
    with pytest.raises(GradientError, match="no derivative flows"):
        cr.explain(cr.sum(cr.asarray([1.5, 2.5]) + cr.floor(x)), x, 0)


# -- any network ---------------------------------------------------------------------------------------------
@given(
    st.integers(2, 6).flatmap(lambda width: st.tuples(st.just(width), layers(width))),
    st.integers(1, 5),
    st.sampled_from([np.float32, np.float64]),
    st.randoms(),
)
@settings(max_examples=30, deadline=None)
def test_any_network_opens_into_what_adds_up(
    network: tuple[int, nn.Module], rows: int, dtype: type, random: Random
) -> None:
    width, inside = network
    model = nn.Sequential(nn.Linear(width, width), inside, nn.Linear(width, 1)).to(dtype)
    x, y = numbers(rows, width).astype(dtype), numbers(rows, 1, seed=1).astype(dtype)
    loss = nn.MSELoss()(model(x), y)
    name, parameter = random.choice(list(model.named_parameters()))
    index = tuple(random.randrange(extent) for extent in parameter.shape)
    gradient, value = cr.explain(loss, name, index), cr.explain(loss)
    loss.backward()
    assert parameter.grad is not None
    assert gradient.value == parameter.grad.numpy()[index]
    for found in (*openings(gradient, 3), *openings(value, 5)):
        if found.value:
            check(found, float(np.finfo(dtype).eps))
