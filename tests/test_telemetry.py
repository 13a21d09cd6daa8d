"""Telemetry: norms of every parameter at every step, against NumPy; in slices, after a resume, coarsened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from benchmarks import specs, workloads
from chainrule import nn, optim
from chainrule.errors import BoundsError, NumericalError, RunError
from chainrule.train import Trainer, coarsening, loop, stepping
from chainrule.train.coarsening import MAXIMUM, SUM, Coarsened
from chainrule.train.telemetry import ParameterFacts, Telemetry

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(1)
X = GENERATOR.normal(size=(101, 4))
Y = np.sin(X[:, :1]) + 0.5 * X[:, 1:2]
BACKENDS = ["numpy", "native"]
FIELDS = ParameterFacts._fields


def perceptron() -> nn.Module:
    with cr.random.stream(cr.random.key(3)):
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def trainer(backend: str = "native", **options: Any) -> Trainer:
    settings: dict[str, Any] = {"batch_size": 16, "seed": 5, "telemetry": True} | options
    optimizer = settings.pop("optimizer", optim.Adam(lr=0.02))
    model = settings.pop("model", None) or perceptron()
    return Trainer(model, nn.MSELoss(), optimizer, backend=backend, **settings)


def assert_same(one: Telemetry, other: Telemetry) -> None:
    assert list(one) == list(other)
    np.testing.assert_array_equal(one.steps, other.steps)
    np.testing.assert_array_equal(one.spans, other.spans)
    for pair in ((one, other), (one.maxima, other.maxima)):
        for name in one:
            np.testing.assert_array_equal(pair[0][name], pair[1][name], err_msg=name)


# -- what is told ------------------------------------------------------------------------------------------
def by_hand(w1: Array, b1: Array, w2: Array, b2: Array, x: Array, y: Array) -> list[Array]:
    """Gradients of the perceptron's mean squared error: PyTorch's layout, written out in NumPy."""
    hidden = np.tanh(x @ w1.T + b1)
    error = 2 * (hidden @ w2.T + b2 - y) / y.size
    inner = (error @ w2) * (1 - hidden**2)
    return [inner.T @ x, inner.sum(axis=0), error.T @ hidden, error.sum(axis=0)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_norms_are_those_of_numpy(backend: str, clip_norm: float | None) -> None:
    """Plain gradient descent by hand, in float64: a few hundred roundings of 1e-16 in every norm."""
    ours = trainer(backend, optimizer=optim.SGD(lr=0.1), clip_norm=clip_norm)
    weights = [each.numpy() for each in ours.parameters.values()]
    batches = GENERATOR.integers(0, 101, size=(7, 16))
    expected = []
    for rows in batches:
        gradients = by_hand(*weights, X[rows], Y[rows])
        norm = np.sqrt(sum(np.sum(each**2) for each in gradients))
        scale = 0.1 * (1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6)))
        weights = [weight - scale * slope for weight, slope in zip(weights, gradients, strict=True)]
        expected.append(
            [
                (np.linalg.norm(slope), np.linalg.norm(weight), scale * np.linalg.norm(slope), 0)
                for weight, slope in zip(weights, gradients, strict=True)
            ]
        )
    ours.run((X, Y), len(batches), batches)
    assert list(ours.telemetry) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    np.testing.assert_array_equal(ours.telemetry.steps, np.arange(7))
    for number, name in enumerate(ours.telemetry):
        told = np.array(ours.telemetry[name])
        wanted = np.array([step[number] for step in expected]).T
        np.testing.assert_allclose(told, wanted, rtol=1e-11, err_msg=name)
        np.testing.assert_array_equal(ours.telemetry.maxima[name], told)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_is_counted(backend: str) -> None:
    """A bias far out makes one of the three outputs overflow: a row of the weight's gradient is no number."""
    model = nn.Linear(4, 3)
    model.load_state_dict({"weight": np.ones((3, 4), np.float32), "bias": np.float32([0, 3e38, 0])})
    ours = trainer(backend, model=model, optimizer=optim.SGD(lr=1.0))
    ours.run((X.astype(np.float32), -3e38 * np.ones((101, 3), np.float32) * [[0, 1, 0]]), 1)
    assert ours.telemetry["weight"].nonfinite.tolist() == [4.0]
    assert ours.telemetry["bias"].nonfinite.tolist() == [1.0]
    assert not np.isfinite(ours.telemetry["weight"].gradient_norm[0])


def test_backends_tell_the_same_of_many_kinds_of_layer() -> None:
    def make() -> nn.Module:
        with cr.random.stream(cr.random.key(3)):
            convolution = nn.Conv1d(1, 3, 3, bias=False)  # behind it, a bias would have no gradient
            layers = nn.BatchNorm1d(3), nn.GELU(), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 1)
            return nn.Sequential(convolution, *layers).double()

    one, other = (trainer(backend, model=make()) for backend in BACKENDS)
    for ours in (one, other):
        ours.run((X[:, None], Y), 15)
    assert len(one.telemetry) == 7
    for name in one.telemetry:
        np.testing.assert_allclose(one.telemetry[name], other.telemetry[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_telemetry_changes_no_training(backend: str) -> None:
    """Only how sums are fused, and so their last digits."""
    with_, without = trainer(backend), trainer(backend, telemetry=False)
    for ours in (with_, without):
        ours.run((X, Y), 15)
    for name, value in without.state().items():
        np.testing.assert_allclose(with_.state()[name], value, rtol=1e-10, atol=1e-12, err_msg=name)
    assert without.telemetry.state() == {}
    assert len(without.telemetry) == 0
    with pytest.raises(KeyError, match="telemetry is off"):
        without.telemetry["0.weight"]
    with pytest.raises(KeyError, match=r"there is of 0\.weight, 0\.bias"):
        with_.telemetry["weight"]


# -- slices and stops ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
def test_slices_change_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarsening, "ROWS", 8)
    one, other, third = trainer(backend), trainer(backend), trainer(backend)
    one.run((X, Y), 45)
    monkeypatch.setattr(stepping, "SLICE_NUMBERS", 3 * one.telemetry.state()["rows"].shape[2])
    other.run((X, Y), 31)
    other.run((X, Y), 14)
    third.run((X, Y), 45, on_step=lambda *_: None)
    assert one.telemetry.spans.tolist() == [8, 8, 8, 8, 8, 5]
    assert_same(one.telemetry, other.telemetry)
    assert_same(one.telemetry, third.telemetry)


def test_a_slice_that_ended_in_an_error_was_not_seen() -> None:
    ours = trainer(checked=True, model=nn.Linear(4, 1))
    x, y = X.astype(np.float32), Y.astype(np.float32)
    ours.run((x, y), 3)
    with pytest.raises(NumericalError):
        ours.run((x, np.where(np.arange(101)[:, None] < 90, y, 1e30)), 20, np.arange(80).reshape(20, 4) + 16)
    at = int(ours.count.item())
    ours.run((x, y), 2)
    told = ours.telemetry["weight"].gradient_norm
    assert len(told) == at + 2 == int(ours.count.item())
    seen = np.isfinite(told).tolist()
    missed = seen.index(False)
    assert 3 <= missed < at == 3 + 18  # row 90 is in the 19th batch
    assert seen == [k < missed or k >= at for k in range(at + 2)]


def test_going_back_begins_anew() -> None:
    ours = trainer()
    before = ours.state()
    ours.run((X, Y), 4)
    kept = ours.telemetry["0.weight"].gradient_norm
    ours.load_state(before)
    ours.run((X, Y), 3)
    np.testing.assert_array_equal(ours.telemetry["0.weight"].gradient_norm, kept[:3])
    with pytest.raises(BoundsError):
        ours.run((X, Y), 1, np.array([[200]]))
    assert ours.telemetry.steps.tolist() == [0, 1, 2]


# -- coarsening ----------------------------------------------------------------------------------------------
def test_rows_are_means_and_maxima_of_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarsening, "ROWS", 16)
    numbers = GENERATOR.normal(size=(1000, 5)) ** 2
    kept = Coarsened(5)
    for part in np.split(numbers, [1, 2, 40, 41, 700]):
        kept.append(part)
        ends = np.cumsum(kept.spans)
        assert ends[-1] == kept.total
        assert len(ends) <= 16
        for row, span, end in zip(kept.rows, kept.spans, ends, strict=True):
            steps = numbers[end - span : end]
            np.testing.assert_allclose(row[SUM], steps.sum(axis=0), rtol=1e-13)
            np.testing.assert_array_equal(row[MAXIMUM], steps.max(axis=0))
    assert kept.spans.tolist() == [64] * 15 + [40]


@pytest.mark.parametrize("steps", [0, 1, 15, 16, 17, 100, 1000])
def test_what_is_kept_depends_on_the_steps_alone(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarsening, "ROWS", 16)
    numbers = GENERATOR.normal(size=(1200, 4))
    whole, pieces = Coarsened(4), Coarsened(4)
    whole.append(numbers)
    at = 0
    while at < steps:
        size = min(int(GENERATOR.integers(1, 70)), steps - at)
        pieces.append(numbers[at : at + size])
        at += size
    restored = Coarsened.restored(pieces.rows.copy(), steps)
    restored.append(numbers[steps:])
    assert restored.rows.tobytes() == whole.rows.tobytes()
    assert restored.spans.tolist() == whole.spans.tolist()


def test_a_million_steps_stay_small() -> None:
    told = Telemetry([f"{k}.weight" for k in range(402)])  # 200 layers
    numbers = np.ones((10_000, 402 * len(FIELDS)))
    for start in range(0, 1_000_000, len(numbers)):
        told.note(start, numbers)
    assert int(told.spans.sum()) == 1_000_000
    assert sum(each.nbytes for each in told.state().values()) < 50e6
    assert told["0.weight"].gradient_norm.tolist() == [1.0] * len(told.spans)


# -- runs ----------------------------------------------------------------------------------------------------
class Stopping(cr.train.Callback):
    """Presses Ctrl-C, so to speak, after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def on_epoch(self, progress: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def fit(**options: Any) -> cr.train.Run:
    settings: dict[str, Any] = {"epochs": 9, "batch_size": 16, "telemetry": True} | options
    return cr.fit(perceptron(), (X, Y), **settings)


def test_a_run_that_was_stopped_tells_what_one_that_was_not_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarsening, "ROWS", 16)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every slice
    whole = fit()
    with pytest.raises(KeyboardInterrupt):
        fit(runs=tmp_path, callbacks=[Stopping(5)])
    (folder,) = (path.parent for path in tmp_path.glob("*/recipe.toml"))
    resumed = fit(resume=folder)
    assert whole.telemetry.spans.tolist() == [4] * 13 + [2]
    assert_same(resumed.telemetry, whole.telemetry)
    assert_same(cr.train.load_telemetry(folder), whole.telemetry)
    assert len(fit(telemetry=False).telemetry) == 0


def test_telemetry_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = fit(runs=tmp_path, epochs=2)
    assert run.folder is not None
    state = run.telemetry.state()
    for wrong in ({"rows": state["rows"][:, :, 1:]}, {"rows": state["rows"][1:]}, {"steps": np.arange(3)}):
        with pytest.raises(RunError, match="does not fit"):
            Telemetry(list(run.telemetry)).load_state(state | wrong)
    with pytest.raises(RunError, match="does not fit"):
        Telemetry(list(run.telemetry)).load_state({"rows": state["rows"]})
    (run.folder.path / "telemetry.safetensors").unlink()
    with pytest.raises(RunError, match="is missing"):
        cr.train.load_telemetry(run.folder.path)


# -- the race ------------------------------------------------------------------------------------------------
SMALL = specs.Spec("small", "mlp", (5, 6, 6, 3), batch=7, rows=40)
TINY_GPT = specs.Spec("tiny", "gpt", vocab=11, context=6, d_model=8, heads=2, batch=3, rows=100)


@pytest.mark.parametrize(("spec", "last"), [(SMALL, "4.weight"), (TINY_GPT, "head.weight")])
def test_the_race_trains_with_telemetry(spec: specs.Spec, last: str) -> None:
    data = specs.data(spec)

    def made(variant: str) -> Any:
        with cr.random.stream(cr.random.key(3)):
            return workloads.make(spec, *data, variant, "train")

    ours, plain = made("telemetry"), made("")
    assert ours.run(11) == pytest.approx(plain.run(11), rel=1e-5)
    assert len(ours.trainer.telemetry[last].update_norm) == 11
    with pytest.raises(NotImplementedError, match="telemetry"):
        workloads.make(spec, *data, "telemetry", "grad")
