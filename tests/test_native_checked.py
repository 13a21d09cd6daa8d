"""Checked programs: the operation that made NaN or infinity is named, with line, layer, element, operands."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn, optim
from chainrule.backends.finding import INFINITE, NAN, kinds
from chainrule.errors import NumericalError

GENERATOR = np.random.default_rng(8)
BOTH = pytest.mark.parametrize("backend", ["native", "numpy"])
Array = np.ndarray[Any, Any]


def message(function: Callable[..., Any], *arguments: Any, backend: str = "native") -> str:
    """What a checked function complains of."""
    with pytest.raises(NumericalError) as caught:
        cr.compile(function, backend=backend, checked=True)(*arguments)
    return str(caught.value)


def positive(*shape: int, dtype: str = "float32") -> Array:
    return GENERATOR.uniform(0.5, 2.0, shape).astype(dtype)


def line_within(function: Callable[..., Any], number: int) -> str:
    """``file.py:12`` for a line of a function, the first one after `def` being 1."""
    return f"{__file__}:{function.__code__.co_firstlineno + number}"


# -- what is told --------------------------------------------------------------------------------------------
def logarithms(x: Any) -> Any:
    doubled = x * 2.0
    with cr.scope("head"):
        return cr.sum(cr.tanh(cr.log(doubled) + 1.0))


@BOTH
def test_the_operation_in_the_midst_of_a_fused_kernel_is_named(backend: str) -> None:
    x = positive(3, 5)
    x[1, 4] = -0.125
    told = message(logarithms, x, backend=backend)
    assert told.startswith(f"log made nan at {line_within(logarithms, 3)}, in layer head: element (1, 4) of ")
    assert (
        "float32[3,5], where it reads -0.25. None of that is nan. A logarithm needs numbers above 0" in told
    )


@BOTH
def test_a_derivative_is_named_as_the_pullback_of_the_line_it_derives(backend: str) -> None:
    def root(x: Any) -> Any:
        return cr.sum(cr.sqrt(x))

    x = positive(4)
    x[2] = 0.0
    told = message(cr.grad(root), x, backend=backend)
    assert re.match(r"\w+ made inf at ", told)
    assert f"at {line_within(root, 1)}, in the pullback of sqrt: element (2,) of float32[4]" in told


@BOTH
def test_an_overflow_of_a_product_tells_the_range_of_what_it_reads(backend: str) -> None:
    x = positive(6, 4)
    x[5, 0] = 1e38
    told = message(cr.matmul, x, np.full((4, 3), 10.0, np.float32), backend=backend)
    assert told.startswith("matmul made inf at ")
    assert "element (5, 0) of float32[6,3]" in told
    assert re.search(r"numbers from 0\.\d+ to 1e\+38 and numbers from 10 to 10\. None of that is inf", told)


@BOTH
def test_in_a_loop_the_iteration_is_told(backend: str) -> None:
    def growing(start: Any, rows: Any) -> Any:
        return cr.scan(lambda carry, row: (carry * row, carry), start, rows)[0]

    rows = np.full((6, 3), 1e10, np.float32)
    told = message(growing, np.ones(3, np.float32), rows, backend=backend)
    assert told.startswith("multiply made inf at ")
    assert "in iteration 3 of the loop, where it reads 1e+30 and 1e+10" in told


def test_what_a_kernel_without_a_nest_reads_is_looked_at_as_well() -> None:
    table = positive(5, 3)
    table[4] = 3e38
    told = message(lambda table, rows: cr.take(table, rows, axis=0) * 4.0, table, np.array([1, 4, 0]))
    assert told.startswith("multiply made inf")
    assert "element (1, 0) of float32[3,3], where it reads 3e+38 and 4.0" in told
    cumulated = message(cr.cumulative_sum, np.full(3, 2e38, np.float32))
    assert cumulated.startswith("cumulative_sum made inf")
    assert "element (1,) of float32[3]" in cumulated


@settings(max_examples=30)
@given(st.data())
def test_the_element_is_found_wherever_it_lies(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)))
    where = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    turned = data.draw(st.permutations(range(len(shape))))
    part = data.draw(st.booleans())

    def function(x: Any) -> Any:
        y = cr.permute_dims(x, tuple(turned))
        z = cr.log(y[::-1] if part else y)
        return z, cr.exp(y)

    x = positive(*shape, dtype=dtype)
    x[where] = -1.0
    seen = tuple(where[axis] for axis in turned)
    if part:
        seen = (shape[turned[0]] - 1 - seen[0], *seen[1:])
    assert f"log made nan at {line_within(function, 2)}: element {seen} of " in message(function, x)


# -- what is not an error ------------------------------------------------------------------------------------
@BOTH
def test_what_comes_in_is_nobodys_fault(backend: str) -> None:
    checked = cr.compile(lambda x: (cr.exp(x) @ cr.exp(x), cr.sum(x)), backend=backend, checked=True)
    for given_, there in ((np.nan, NAN), (np.inf, INFINITE)):
        x = positive(4, 4)
        x[2, 1] = given_
        product, total = checked(x)
        assert kinds(product.numpy()) & there
        assert kinds(total.numpy()) == there
    assert not kinds([np.array([1, 2]), np.array([True]), np.zeros((0, 3)), 1.0])
    assert kinds((1.0, [np.inf, np.nan])) == NAN | INFINITE


@BOTH
def test_infinities_of_a_mask_are_meant(backend: str) -> None:
    mask = np.tril(np.ones((5, 5), bool))

    def attention(x: Any) -> Any:
        scores = cr.where(mask, x @ x, -np.inf)
        weights = cr.exp(scores - cr.max(scores, axis=1, keepdims=True))
        return cr.sum((weights / cr.sum(weights, axis=1, keepdims=True)) @ x)

    x = GENERATOR.normal(size=(5, 5)).astype(np.float32)
    value, gradient = cr.compile(cr.value_and_grad(attention), backend=backend, checked=True)(x)
    assert np.isfinite(value.numpy())
    assert np.isfinite(gradient.numpy()).all()


@BOTH
def test_nan_out_of_infinities_is_an_error(backend: str) -> None:
    told = message(lambda x: x - x, np.array([1.0, np.inf], np.float32), backend=backend)
    assert told.startswith("subtract made nan")
    assert "element (1,) of float32[2], where it reads inf and inf" in told


def test_what_a_kernel_selects_away_again_is_not_seen() -> None:
    x = GENERATOR.normal(size=40).astype(np.float32)
    checked = cr.compile(lambda x: cr.where(x > 0, cr.log(x), 0.0), checked=True)
    assert np.isfinite(checked(x).numpy()).all()


def test_infinities_among_constants_are_told_apart_from_none() -> None:
    """The code is the same but for what is known of the constants: the cache must not mix it up."""
    x = np.full((3, 2), 3e38, np.float32)
    for constant, fails in (([1.0, 3e38], True), ([1.0, np.inf], False), ([1.0, 2e38], True)):
        row = np.array(constant, np.float32)
        checked = cr.compile(lambda x, row=row: x + cr.asarray(row), checked=True)
        if fails:
            with pytest.raises(NumericalError, match="add made inf"):
                checked(x)
        else:
            assert np.isinf(checked(x).numpy()[:, 1]).all()


# -- what does not change ------------------------------------------------------------------------------------
def test_results_are_the_same_bits_and_unchecked_code_is_as_it_was() -> None:
    x = GENERATOR.normal(size=(17, 9)).astype(np.float32)

    def function(x: Any) -> Any:
        return cr.value_and_grad(lambda x: cr.mean(cr.tanh(x @ x.T) ** 2))(x)

    plain, checked = cr.compile(function), cr.compile(function, checked=True)
    for one, other in zip(plain(x), checked(x), strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()
    assert "look_" not in plain.show("llvm")
    assert "look_" in checked.show("llvm")


def test_the_environment_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CHECKED", "1")
    zero = np.zeros(2, np.float32)
    with pytest.raises(NumericalError, match="log made inf"):
        cr.compile(cr.log)(zero)
    assert np.isinf(cr.compile(cr.log, checked=False)(zero).numpy()).all()
    assert trainer().checked


def test_shared_work_is_looked_at_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_THREADS", "2")
    x = positive(400, 300)
    x[399, 299] = 3e38
    told = message(lambda x: cr.exp(cr.tanh(x)) * x * 4.0, x)
    assert "made inf" in told
    assert "element (399, 299) of float32[400,300]" in told


def test_an_error_leaves_the_program_usable() -> None:
    checked = cr.compile(logarithms, checked=True)
    good, bad = positive(3, 5), -positive(3, 5)
    before = checked(good).item()
    for _ in range(3):
        with pytest.raises(NumericalError):
            checked(bad)
        assert checked(good).item() == before


# -- training ------------------------------------------------------------------------------------------------
X = GENERATOR.normal(size=(60, 4)).astype(np.float32)
Y = np.sin(X[:, :1])


def trainer(backend: str = "native", checked: bool | None = None, **options: Any) -> cr.Trainer:
    with cr.random.stream(cr.random.key(1)):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    settings_: dict[str, Any] = {"batch_size": 12, "seed": 2, "optimizer": optim.Adam(lr=0.02)} | options
    optimizer = settings_.pop("optimizer")
    return cr.Trainer(model, nn.MSELoss(), optimizer, backend=backend, checked=checked, **settings_)


def same(one: cr.Trainer, other: cr.Trainer) -> bool:
    first, second = one.state(), other.state()
    return all(value.tobytes() == second[name].tobytes() for name, value in first.items())


@BOTH
def test_checked_steps_are_the_same_steps(backend: str) -> None:
    plain, checked = trainer(backend), trainer(backend, checked=True)
    assert plain.run((X, Y), 23) == checked.run((X, Y), 23)
    assert same(plain, checked)
    np.testing.assert_array_equal(plain.predict(X), checked.predict(X))


@BOTH
def test_the_step_that_fails_is_named_and_undone(backend: str) -> None:
    """Targets that overflow come at step 7: the cells stay what they were after step 6."""
    targets = Y.copy()
    targets[59] = 1e30
    rows = np.arange(48).reshape(-1, 12)[np.arange(10) % 4]
    rows[7, 3] = 59
    ours, other = trainer(backend, checked=True), trainer(backend)
    with pytest.raises(NumericalError) as caught:
        ours.run((X, targets), 10, batches=rows)
    other.run((X, targets), 7, batches=rows)
    assert str(caught.value).startswith("square made inf at ")
    assert "element (3, 0) of float32[12,1], where it reads -1e+30" in str(caught.value)
    assert same(ours, other)
    ours.run((X, Y), 3, batches=rows)
    assert np.isfinite(ours.predict(X)).all()


@BOTH
def test_gaps_in_the_data_are_named_with_their_row(backend: str) -> None:
    gaps = X.copy()
    gaps[31, 2] = np.nan
    ours = trainer(backend, checked=True)
    before = ours.state()
    rows = np.array([[0, 1], [2, 3], [30, 31]])
    with pytest.raises(NumericalError, match=r"given: nan in array 0 of the data, in row 31 at \(2,\)"):
        ours.run((gaps, Y), 3, batches=rows)
    assert ours.state()["count"] == before["count"] + 2


@BOTH
def test_parameters_that_are_no_numbers_are_named(backend: str) -> None:
    ours = trainer(backend, checked=True)
    state = ours.state()
    state["model.2.weight"][0, 5] = np.inf
    ours.load_state(state)
    with pytest.raises(NumericalError, match=r"inf in 2\.weight, at \(0, 5\)|made nan"):
        ours.run((X, Y), 1)


def test_a_deep_step_names_the_layer_where_it_begins() -> None:
    """exp in the second layer overflows; what follows it is not blamed, neither forward nor backward."""

    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.second = nn.Linear(6, 6)

        def forward(self, x: Any) -> Any:
            with cr.scope("growth"):
                grown = cr.exp(self.second(self.first(x)) * 1e4)
            return cr.sum(grown, axis=1, keepdims=True)

    with cr.random.stream(cr.random.key(1)):
        model = Exponential()
    ours = cr.Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1), checked=True)
    with pytest.raises(NumericalError) as caught:
        ours.run((X, Y), 1)
    told = str(caught.value)
    assert told.startswith(f"exp made inf at {line_within(Exponential.forward, 2)}, in layer growth: element")
    assert "subtract the largest first" in told
