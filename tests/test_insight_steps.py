"""Steps by hand: every formula is computed again as Python, and the derivatives are those of `backward()`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_insight_ledger import Residual, attending, loss_of, numbers, perceptron, recurrent

import chainrule as cr
from chainrule import nn
from chainrule.errors import ChainruleError, GradientError
from chainrule.insight import formula
from chainrule.insight.steps import Step, Steps
from chainrule.primitive import Primitive
from chainrule.primitives import REGISTRY

DERIVATIVE = re.compile(r"dL/d(\w+)")
CHAIN = re.compile(r"d(?!L/)\w+/d")  # the chain rule in words: dz/dw is no number


DTYPES = {"float32": np.float32, "float64": np.float64}


class Scope(dict[str, Any]):
    """The names in formulas: values first, then functions on arrays, or else what primitives mean."""

    def __missing__(self, name: str) -> Any:
        if name in ("concat", "place"):  # in public a list of arrays, and no name
            return partial(REGISTRY[name].meaning, np)
        if name not in REGISTRY:
            raise KeyError(name)
        return lambda *operands, **attributes: getattr(cr, name)(*operands, **attributes).numpy()


def check_formulas(found: Steps, leaves: dict[str, cr.Tensor]) -> int:
    """Compute what the formulas say with names in them, by Python itself; the number of those checked."""
    known, derivatives = {name: tensor.numpy() for name, tensor in leaves.items()}, dict[str, Any]()
    checked = 0
    for step in found:
        target, *others = step.formula.split(" = ")
        text = next(each for each in others if not CHAIN.search(each))
        if "pulled back" not in text and step.operation not in ("start", "sum of uses"):
            python = DERIVATIVE.sub(r"derivatives['\1']", text)
            scope = Scope(known | DTYPES | {"derivatives": derivatives})
            value = np.reshape(eval(python, {"__builtins__": {}}, scope), step.value.shape)  # noqa: S307
            np.testing.assert_allclose(value, step.value, rtol=1e-10, atol=1e-12, err_msg=step.formula)
            checked += 1
        if step.phase == "forward":
            known[target] = step.value
        elif " via " not in target:
            derivatives[target.removeprefix("dL/d")] = step.value
    return checked


def derivative_in(found: Steps, name: str) -> Any:
    """What the steps say that the derivative by a leaf is."""
    (value,) = [step.value for step in found if step.formula.split(" = ")[0] == f"dL/d{name}"]
    return value


# -- formulas ------------------------------------------------------------------------------------------------
def test_one_multiplication() -> None:
    a, w = cr.asarray(2.0), cr.asarray(4.0)
    z = a * w
    L = z * 2.0
    assert [step.formula for step in cr.steps(L)] == [
        "z = a * w = 2 * 4 = 8",
        "L = z * 2 = 8 * 2 = 16",
        "dL/dL = 1",
        "dL/dz = dL/dL * 2 = 1 * 2 = 2",
        "dL/da = dL/dz * dz/da = dL/dz * w = 2 * 4 = 8",
        "dL/dw = dL/dz * dz/dw = dL/dz * a = 2 * 2 = 4",
    ]


def test_a_fan_out_is_added_up() -> None:
    x = cr.asarray(np.array(3.0))
    y = x**2
    z = x * 5.0
    L = y + z
    found = cr.steps(L)
    assert [step.formula for step in found.backward[-3:]] == [
        "dL/dx via z = dL/dz * dz/dx = dL/dz * 5 = 1 * 5 = 5",
        "dL/dx via y = dL/dy * dy/dx = dL/dy * 2 * x = 1 * 2 * 3 = 6",
        "dL/dx = 5 + 6 = 11, over 2 uses",
    ]
    assert found[-1].operation == "sum of uses"
    assert found[-1].value == 11


def test_both_operands_may_be_one_value() -> None:
    x = cr.asarray(3.0)
    assert [step.formula for step in cr.steps(x * x)][-3:] == [
        "dL/dx via L, operand 0 = dL/dL * x = 1 * 3 = 3",
        "dL/dx via L, operand 1 = dL/dL * x = 1 * 3 = 3",
        "dL/dx = 3 + 3 = 6, over 2 uses",
    ]


def test_a_matrix_product_has_the_rule_of_the_books() -> None:
    a, w = cr.asarray(numbers(3, 2)), cr.asarray(numbers(2, 1, seed=1))
    z = a @ w
    found = cr.steps(cr.sum(z))
    pieces = [step.formula.split(" = ")[:2] for step in found.backward[-2:]]
    assert pieces == [["dL/da", "dL/dz @ w.T"], ["dL/dw", "a.T @ dL/dz"]]
    assert found.backward[-1].formula.count("[[1], [1], [1]]") == 1


def test_vectors_parts_and_pooling_compute_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formula, "DIGITS", 17)
    leaves = {"W": cr.asarray(numbers(3, 2)), "x": cr.asarray(numbers(2, seed=1))}
    scores = cr.exp(leaves["W"] @ leaves["x"])
    scores = scores / cr.sum(scores)
    found = cr.steps(scores[1] - cr.sum(cr.concat([scores[::2], leaves["x"]]) ** 2), names=leaves)
    assert check_formulas(found, leaves) > 20
    texts = [step.formula.split(" = ")[1] for step in found.forward]
    assert "reshape(x, shape=(2, 1))" in texts
    assert any(text.endswith("[0:3:2]") for text in texts)


ARITHMETIC = {"x": 2.0, "y": -3.0, "z": 0.5}
TERMS = st.recursive(
    st.sampled_from(list(ARITHMETIC)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"(-{t})"),
        st.tuples(inner, st.sampled_from(["**2", "*3.0", " - 1.0"])).map(lambda t: f"({t[0]}){t[1]}"),
        inner.map(lambda t: f"cr.tanh({t})"),
        inner.map(lambda t: f"cr.exp(cr.sin({t}))"),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(TERMS)
def test_formulas_of_random_programs_compute_what_they_say(term: str) -> None:
    leaves = {name: cr.asarray(np.array(value)) for name, value in ARITHMETIC.items()}
    with np.errstate(all="ignore"):
        loss = eval(term, {"cr": cr, **leaves})  # noqa: S307
        if not isinstance(loss, cr.Tensor) or not np.isfinite(loss.item()) or loss.node.primitive is None:
            return
        found = cr.steps(loss, names=leaves)
        if all(np.isfinite(step.value) for step in found):
            assert check_formulas(found, leaves) > 0
            loss.backward()
            for name, leaf in leaves.items():
                if leaf.grad is not None:
                    np.testing.assert_allclose(derivative_in(found, name), leaf.grad.numpy(), rtol=1e-12)


SMOOTH = [
    name
    for name, record in REGISTRY.items()
    if isinstance(record, Primitive) and record.elementwise and record.differentiable and hasattr(cr, name)
]


@pytest.mark.parametrize("name", SMOOTH)
def test_the_local_derivative_of_every_primitive_is_written_from_its_record(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formula, "DIGITS", 17)  # numbers in formulas, such as log(10), to the last bit
    record = REGISTRY[name]
    sample = next(each for each in record.samples if each.arrays()[0].size > 1)
    leaves = {f"x{k}": cr.asarray(each) for k, each in enumerate(sample.arrays())}
    loss = cr.sum(getattr(cr, name)(*leaves.values(), **sample.attributes))
    assert check_formulas(cr.steps(loss, names=leaves), leaves) >= 2


# -- values --------------------------------------------------------------------------------------------------
CASES: dict[str, Callable[[], tuple[cr.Tensor, list[nn.Parameter]]]] = {
    "perceptron": lambda: loss_of(perceptron(2, 3, nn.Sigmoid), 2, 3),
    "residual": lambda: loss_of(Residual(3, 2), 2, 3),
    "attention": attending,
    "recurrent": lambda: recurrent(3),
}


@pytest.mark.parametrize("case", CASES)
def test_the_derivatives_are_those_of_backward(case: str) -> None:
    cr.random.seed(0)
    loss, parameters = CASES[case]()
    found = cr.steps(loss, names={})
    loss.backward()
    assert [step.number for step in found] == list(range(1, len(found) + 1))
    assert found.forward[-1].value == loss.numpy()
    by_target = {step.formula.split(" = ")[0]: step.value for step in found.backward}
    for parameter in parameters:
        assert parameter.grad is not None
        value = by_target.get(f"dL/d({parameter.name})", by_target.get(f"dL/d{parameter.name}"))
        np.testing.assert_allclose(value, parameter.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_a_loop_is_one_step() -> None:
    w = nn.Parameter(numbers(2, 2))
    last, _ = cr.scan(lambda h, x: (cr.tanh(h @ w + x), None), np.zeros(2), numbers(3, 2))
    found = cr.steps(cr.sum(last))
    assert [step.operation for step in found] == ["scan", "item", "sum", "start", "sum", "item", "scan"]
    assert "scan(input, input 1, w, length=3)" in found[0].formula
    assert found[-1].formula.startswith("dL/dw = scan pulled back = [[")


def test_a_derivative_of_ones_own_is_one_step() -> None:
    @cr.custom_vjp
    def clipped(x: Any) -> Any:
        return x

    clipped.defvjp(lambda x: (x, None), lambda residuals, g: (cr.clip(g, -1.0, 1.0),))
    x = cr.asarray(np.array([1.0, -2.0]))
    found = cr.steps(cr.sum(clipped(x) * 5.0))
    assert found[-1].formula == "dL/dx = call pulled back = [1, 1]"


def test_integers_empty_arrays_and_flags_are_no_trouble() -> None:
    w = nn.Parameter(numbers(4))
    w.name = "w"
    found = cr.steps(cr.sum(cr.take(w, np.array([1, 1, 3]))))
    assert derivative_in(found, "w").tolist() == [0, 2, 0, 1]
    empty = cr.asarray(np.zeros((0, 3)))
    assert cr.steps(cr.sum(empty * 2.0))[0].formula == "v1 = empty * 2 = [] * 2 = []"
    x = cr.asarray(np.array([1.0, -1.0]))
    found = cr.steps(cr.sum(cr.where(np.array([True, False]), x, 0.0)))
    assert found[0].formula == "v1 = where(input 1, x, 0) = where([True, False], [1, -1], 0) = [1, 0]"


def test_a_value_that_is_the_loss() -> None:
    x = cr.asarray(2.0)
    assert [step.formula for step in cr.steps(x)] == ["dL/dL = 1"]


# -- names ---------------------------------------------------------------------------------------------------
def test_parameters_have_their_path_variables_their_name_and_the_rest_a_number() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Tanh()).double()
    x, y = cr.asarray(numbers(1, 2)), numbers(1, 1)
    predicted = model(x)
    found = cr.steps(nn.MSELoss()(predicted, y))
    names = [step.formula.split(" = ")[:2] for step in found.forward]
    assert names[:4] == [
        ["v1", "0.weight.T"],
        ["v2", "x @ v1"],
        ["v3", "v2 + 0.bias"],
        ["predicted", "tanh(v3)"],
    ]
    assert found.forward[4].formula.startswith("v4 = predicted - input 1 = ")
    assert [step.layer for step in found.forward[:5]] == ["0", "0", "0", "1", ""]
    assert re.fullmatch(r"test_insight_steps\.py:\d+", found[4].line)


def test_names_can_be_given_and_never_clash() -> None:
    x, v1 = cr.asarray(2.0), cr.asarray(3.0)
    found = cr.steps(x * v1 + 1.0, names={"time": x, "v1": v1, "L": v1})
    assert found[0].formula == "v2 = time * v1 = 2 * 3 = 6"


# -- as text -------------------------------------------------------------------------------------------------
def test_the_table() -> None:
    x, y = cr.asarray(np.arange(8.0).reshape(4, 2)), cr.asarray(np.array(0.5))
    with cr.scope("scale"):
        z = x * y
    text = str(cr.steps(cr.sum(z)))
    assert re.sub(r"  # test_insight_steps\.py:\d+", "", text).splitlines() == [
        "forward",
        "   1  multiply  z = x * y  # in scale",
        "                  = [[0, 1], [2, 3], [4, 5], [6, 7]] * 0.5",
        "                  = [[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5]]",
        "   2  sum       L = sum(z) = sum([[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5]]) = 14",
        "backward",
        "   3  start     dL/dL = 1",
        "   4  sum       dL/dz = broadcast_to(dL/dL, shape=(4, 2))",
        "                      = broadcast_to(1, shape=(4, 2))",
        "                      = [[1, 1], [1, 1], [1, 1], [1, 1]]",
        "   5  multiply  dL/dx = dL/dz * dz/dx  # in scale",
        "                      = dL/dz * y",
        "                      = [[1, 1], [1, 1], [1, 1], [1, 1]] * 0.5",
        "                      = [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]",
        "   6  multiply  dL/dy = sum(dL/dz * x)",
        "                      = sum([[1, 1], [1, 1], [1, 1], [1, 1]] * [[0, 1], [2, 3], [4, 5], [6, 7]])",
        "                      = 28",
    ]


def test_a_large_array_is_its_first_numbers_and_its_shape() -> None:
    x = cr.asarray(np.arange(200.0).reshape(10, 20))
    found = cr.steps(cr.sum(x))
    assert found[0].formula == "L = sum(x) = sum([0, 1, 2, … 10 × 20]) = 1.99e+04"


def test_steps_are_a_sequence() -> None:
    x = cr.asarray(2.0)
    found = cr.steps(x * 3.0)
    assert len(found) == 3
    assert isinstance(found[0], Step)
    assert str(found[-1]) == "3. dL/dx = dL/dL * 3 = 1 * 3 = 3"
    assert [step.phase for step in found[:2]] == ["forward", "backward"]
    assert repr(found) == "<1 steps forward, 2 back>"


def test_in_a_notebook_names_are_escaped() -> None:
    x = cr.asarray(2.0)
    with cr.scope("<b>"):
        y = x * 3.0
    shown = cr.steps(y, names={"<script>": x})._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "in &lt;b&gt;" in shown
    assert shown.count("<table>") == 2


def test_what_is_too_large_says_what_shows_it_better() -> None:
    x = cr.asarray(1.0)
    y = x
    for _ in range(300):
        y = y + x
    with pytest.raises(ChainruleError, match=r"300 operations .*cr\.ledger\(loss\).*cr\.explain"):
        cr.steps(y)
    assert len(cr.steps(y, most=300)) > 600
    with pytest.raises(GradientError, match="scalar"):
        cr.steps(cr.asarray([1.0, 2.0]) * 2.0)
