"""The first bad number: planted in a layer, a row, a loop, an update; on the way there and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.errors import RunError

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(8)
X = GENERATOR.normal(size=(60, 4)).astype(np.float32)
Y = np.sin(X[:, :1])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """NumPy's own warnings about what is planted here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def parameter(values: Any, name: str = "weight") -> cr.nn.Parameter:
    made = cr.nn.Parameter(np.asarray(values, np.float32))
    made.name = name
    return made


def named(model: cr.nn.Module) -> cr.nn.Module:
    dict(model.named_parameters())
    return model


def perceptron(*hidden: cr.nn.Module) -> cr.nn.Module:
    with cr.random.stream(cr.random.key(2)):
        layers = hidden or (cr.nn.Linear(4, 8), cr.nn.ReLU())
        return named(cr.nn.Sequential(*layers, cr.nn.Linear(8, 1)))


def fitted(*given: Any, **options: Any) -> cr.Run:
    """Quickly: on the reference, unless asked otherwise, and without telemetry."""
    return cr.fit(*given, **{"backend": "numpy", "telemetry": False} | options)


# -- a loss --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("made", "operation", "what", "place", "here"),
    [
        (cr.log, "log", "inf", (1,), 0.0),
        (lambda w: cr.log(w - 1), "log", "nan", (0,), -0.5),
        (lambda w: cr.exp(w * 1000), "exp", "inf", (0,), 500.0),
        (lambda w: cr.square(w * 1e30), "square", "inf", (0,), 5e29),
        (lambda w: w / cr.sum(w * 0), "divide", "nan", (1,), 0.0),
        (
            lambda w: cr.log(w) - cr.log(w),
            "log",
            "inf",
            (1,),
            0.0,
        ),  # not the subtraction, which makes NaN of it
    ],
)
def test_the_operation_that_made_it(
    made: Callable[[Any], Any], operation: str, what: str, place: tuple[int, ...], here: float
) -> None:
    found = cr.first_bad_number(cr.sum(made(parameter([0.5, 0.0, 2.0]))))
    assert found is not None
    if operation == "divide":  # 0.5 / 0 comes first
        what, place, here = "nan and inf", (0,), 0.5
    assert (found.way, found.operation, found.made, found.place) == ("forward", operation, what, place)
    assert found.reads[0].here == pytest.approx(here)
    assert found.step is None
    assert Path(__file__).name in found.line
    assert found.cure.endswith(".")


def test_where_all_is_finite_there_is_nothing_to_tell() -> None:
    assert cr.first_bad_number(cr.sum(cr.exp(parameter([0.5, -200.0])))) is None
    assert cr.first_bad_number(cr.mean(cr.square(perceptron()(cr.asarray(X)) - Y))) is None
    assert cr.first_bad_number(cr.sum(cr.asarray([1.0]))) is None


def test_an_infinity_that_is_selected_away_is_none() -> None:
    """As with the mask of an attention: exp(-inf) is 0, and so is its derivative."""
    scores = parameter([[0.5, 1.0, 2.0]])
    masked = cr.where(np.array([[True, True, False]]), scores, -np.inf)
    assert cr.first_bad_number(cr.sum(cr.square(cr.exp(masked)))) is None


def test_a_branch_not_taken_spoils_the_way_back() -> None:
    """The loss is finite; the derivative of the branch that where did not take is 0 times infinity."""
    weight = parameter([0.5, 0.0])
    loss = cr.sum(cr.where(weight > 0, cr.log(weight), 0.0))
    assert np.isfinite(loss.item())
    found = cr.first_bad_number(loss)
    assert found is not None
    assert found.gradient is not None
    assert (found.way, found.operation, found.made) == ("forward", "log", "inf")
    assert (found.gradient.way, found.gradient.operation, found.gradient.made) == ("backward", "log", "nan")
    assert found.gradient.of == "the gradient with respect to weight"


def test_a_derivative_that_is_infinite_where_the_value_is_not() -> None:
    found = cr.first_bad_number(cr.sum(cr.sqrt(parameter([4.0, 0.0]))))
    assert found is not None
    assert (found.way, found.operation, found.made, found.place) == ("backward", "sqrt", "inf", (1,))
    assert found.gradient is None
    assert [each.here for each in found.reads] == [1.0, 0.0]
    assert "an infinite" not in str(found)
    assert "its derivative at 0 is infinite" in str(found)


def test_the_first_gradient_that_overflows_on_the_way_back() -> None:
    """1e30 · 1e30: each product is in range, their derivative by the first factor is not."""
    weight = parameter([1e-30])
    loss = cr.sum((weight * 1e30) * 1e30)
    assert np.isfinite(loss.item())
    found = cr.first_bad_number(loss)
    assert found is not None
    assert (found.way, found.operation, found.made) == ("backward", "multiply", "inf")
    assert found.of == "the gradient with respect to weight"


def test_the_layer_and_the_line() -> None:
    class Net(cr.nn.Module):
        def __init__(self) -> None:
            self.layers = [cr.nn.Linear(4, 8), cr.nn.Linear(8, 1)]

        def forward(self, x: Any) -> Any:
            return self.layers[1](cr.exp(self.layers[0](x)))

    model = named(Net())
    model.layers[0].bias.assign(np.full(8, 200, np.float32))
    found = cr.first_bad_number(cr.mean(model(cr.asarray(X))))
    assert found is not None
    assert found.operation == "exp"
    line = Net.forward.__code__.co_firstlineno + 1
    assert found.line == f"{Path(__file__).name}:{line}"
    assert found.reads[0].name == "add in layers.0"
    model.layers[0].bias.assign(np.full(8, 1, np.float32))
    model.layers[1].weight.assign(np.full((1, 8), 3e38, np.float32))
    found = cr.first_bad_number(cr.mean(model(cr.asarray(X))))
    assert found is not None
    assert (found.operation, found.layer) == ("matmul", "layers.1")


def test_what_was_given() -> None:
    found = cr.first_bad_number(cr.sum(cr.tanh(parameter([0.5, np.nan, 1.0]))))
    assert found is not None
    assert (found.way, found.of, found.place, found.reads) == ("given", "weight", (1,), ())
    assert str(found).startswith("NaN was given")
    data = X.copy()
    data[17, 2] = np.nan
    found = cr.first_bad_number(cr.mean(perceptron()(cr.asarray(data))))
    assert found is not None
    assert (found.way, found.of, found.row) == ("given", "the data", "row 17 of the batch")


def test_within_a_loop() -> None:
    def body(carry: Any, x: Any) -> Any:
        return cr.square(carry) * x, carry

    loss = cr.sum(cr.scan(body, parameter([10.0, 1.0]), cr.asarray(np.ones(9, np.float32)))[0])
    found = cr.first_bad_number(loss)
    assert found is not None
    assert (found.operation, found.made, found.place) == ("square", "inf", (0,))
    assert "in iteration 5 of the loop" in found.of  # 10 ** 2 ** 6


@given(
    row=st.integers(0, 59),
    model=st.sampled_from(
        [
            perceptron,
            lambda: perceptron(cr.nn.Linear(4, 8), cr.nn.Tanh(), cr.nn.LayerNorm(8)),
            lambda: perceptron(cr.nn.Linear(4, 8), cr.nn.Residual(cr.nn.Linear(8, 8))),
        ]
    ),
)
def test_the_row_of_the_batch(row: int, model: Callable[[], cr.nn.Module]) -> None:
    """A target is so large that the square of its error is not."""
    targets = Y.copy()
    targets[row] = 1e25
    for data in (X, X.astype(np.float64).astype(np.float32)):
        found = cr.first_bad_number(cr.mean(cr.square(model()(cr.asarray(data)) - targets)))
        assert found is not None
        assert (found.operation, found.row) == ("square", f"row {row} of the batch")


@pytest.mark.parametrize("row", [0, 3, 6])
def test_the_row_behind_convolution_flattening_and_transposition(row: int) -> None:
    with cr.random.stream(cr.random.key(2)):
        model = named(
            cr.nn.Sequential(cr.nn.Conv2d(1, 2, 3), cr.nn.ReLU(), cr.nn.Flatten(), cr.nn.Linear(2 * 4 * 4, 3))
        )
    images = GENERATOR.normal(size=(7, 1, 6, 6)).astype(np.float32)
    images[row, 0, 2, 3] = 1e30
    outputs = model(cr.asarray(images))
    for loss in (cr.sum(cr.square(outputs)), cr.sum(cr.square(outputs.T))):
        found = cr.first_bad_number(loss)
        assert found is not None
        assert (found.operation, found.row) == ("square", f"row {row} of the batch")


def test_a_sum_over_rows_belongs_to_none() -> None:
    found = cr.first_bad_number(cr.sum(cr.asarray(X) * 0 + np.float32(3e38)))
    assert found is not None
    assert (found.operation, found.row, found.place) == ("sum", "", ())
    assert "row" not in found.sentence


# -- a training ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_training_that_diverges(backend: str) -> None:
    run = fitted(
        perceptron(), (X, Y), optimizer=cr.optim.SGD(lr=30.0), epochs=20, batch_size=16, backend=backend
    )
    found = cr.first_bad_number(run)
    assert found is not None
    assert found.step == run.result["bad_step"]
    assert f"in step {found.step:,}" in run.result["reason"]
    assert (found.way, found.made) == ("forward", "inf")
    assert found.line == ""  # no line of ours computes it
    assert "smaller learning rate" in str(found)
    assert cr.first_bad_number(run, found.step - 1) is None


def test_the_row_of_the_data() -> None:
    """The largest value has the row; it is known by its number in what was given, not in the batch."""
    data = X.copy()
    data[41, 1] = 1e25
    run = fitted(perceptron(), (data, Y), optimizer=cr.optim.SGD(lr=1e-3), batch_size=8, validation=None)
    found = cr.first_bad_number(run)
    assert found is not None
    assert found.row == "row 41"
    assert "for row 41:" in str(found)


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_an_update_that_goes_out_of_range(backend: str) -> None:
    """Loss and gradient of the step are finite; the next step can only tell that its weights are not."""
    run = fitted(perceptron(), (X, Y), optimizer=cr.optim.SGD(lr=1e39), epochs=3, backend=backend)
    found = cr.first_bad_number(run)
    assert found is not None
    assert run.result["bad_step"] == 1
    assert (found.way, found.operation, found.step, found.of) == ("update", "SGD", 0, "0.weight")
    assert [each.name for each in found.reads] == ["the weight", "its gradient"]


def test_a_gradient_that_is_no_number_ends_the_training_at_its_own_step() -> None:
    class Root(cr.nn.Module):
        def __init__(self) -> None:
            self.scale = cr.nn.Parameter(np.ones(4, np.float32))

        def forward(self, x: Any) -> Any:
            distances = cr.sqrt(cr.square(x * self.scale))  # the derivative at 0 is 0 / 0
            return cr.sum(distances, axis=1, keepdims=True)

    data = X.copy()
    data[30, 2] = 0.0
    run = fitted(Root(), (data, Y), batch_size=60, epochs=4, validation=None)
    assert run.result["reason"] == "the gradient is not a number in step 0, in epoch 1"
    found = cr.first_bad_number(run)
    assert found is not None
    assert (found.way, found.operation, found.row, found.step) == ("backward", "sqrt", "row 30", 0)


def test_a_healthy_training_replays_nothing() -> None:
    run = fitted(perceptron(), (X, Y), epochs=2)
    run.past = None
    assert cr.first_bad_number(run) is None


def test_what_only_compiled_code_meets() -> None:
    run = fitted(perceptron(), (X, Y), epochs=2)
    run.result["bad_step"] = 1
    found = cr.first_bad_number(run)
    assert found is not None
    assert found.way == "rounding"
    assert "compiled code met nan or inf" in str(found)


def test_from_a_folder_and_of_an_older_version(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": cr.optim.SGD(lr=30.0), "epochs": 20, "batch_size": 16}
    run = fitted(perceptron(), (X, Y), runs=tmp_path, **options)
    assert run.folder is not None
    other = cr.first_bad_number(cr.train.replay(run.folder, model=perceptron(), data=(X, Y)))
    assert other == cr.first_bad_number(run)
    result = run.folder.document("result.json")
    del result["bad_step"]
    run.folder.write_document("result.json", result)
    with pytest.raises(RunError, match="did not note in which step"):
        cr.first_bad_number(run.folder.path)
