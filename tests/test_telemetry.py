"""Telemetry: what steps tell of their arrays, against NumPy; in slices, after a resume, coarsened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from benchmarks import specs, workloads
from chainrule import nn, optim
from chainrule.errors import BoundsError, NumericalError, RunError
from chainrule.schedule.kernels import Repeat
from chainrule.schedule.structure import structure
from chainrule.trace import trace_program
from chainrule.train import Trainer, coarsening, loop, stepping
from chainrule.train.coarsening import MAXIMUM, SUM, Coarsened
from chainrule.train.facts import EXPONENTS, Column
from chainrule.train.rates import FACTS, NORMS, PICTURES, Rates, work
from chainrule.train.telemetry import LayerFacts, ParameterFacts, Telemetry
from chainrule.types import Type

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(1)
X = GENERATOR.normal(size=(101, 4))
Y = np.sin(X[:, :1]) + 0.5 * X[:, 1:2]
BACKENDS = ["numpy", "native"]
EVERY_STEP = Rates(facts=1, pictures=4)
SMALL = specs.Spec("small", "mlp", (5, 6, 6, 3), batch=7, rows=40)
TINY_GPT = specs.Spec("tiny", "gpt", vocab=11, context=6, d_model=8, heads=2, batch=3, rows=100)


def perceptron() -> nn.Module:
    with cr.random.stream(cr.random.key(3)):
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def trainer(backend: str = "native", **options: Any) -> Trainer:
    settings: dict[str, Any] = {"batch_size": 16, "seed": 5, "telemetry": EVERY_STEP} | options
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
    assert list(one.layers) == list(other.layers)
    for name, facts in one.layers.items():
        np.testing.assert_array_equal(facts, other.layers[name], err_msg=name)
    for pair in zip(one.gradient_norms, other.gradient_norms, strict=True):
        np.testing.assert_equal(*pair)
    for name, histogram in one.histograms.items():
        for each, wanted in zip(histogram, other.histograms[name], strict=True):
            np.testing.assert_array_equal(each, wanted, err_msg=name)


# -- what is told ------------------------------------------------------------------------------------------
def by_hand(weights: list[Array], x: Array, y: Array) -> tuple[list[Array], dict[str, tuple[Array, Array]]]:
    """The perceptron's mean squared error, written out in NumPy: gradients; activation and error by layer."""
    w1, b1, w2, b2 = weights
    hidden = np.tanh(x @ w1.T + b1)
    outputs = hidden @ w2.T + b2
    error = 2 * (outputs - y) / y.size
    inner = (error @ w2) * (1 - hidden**2)
    gradients = [inner.T @ x, inner.sum(axis=0), error.T @ hidden, error.sum(axis=0)]
    return gradients, {"0": (hidden, inner), "2": (outputs, error)}


def told_of(array: Array) -> list[float]:
    """Norm, mean, largest size, share of zeros, count of what is not finite."""
    sizes = np.abs(array)
    return [
        np.linalg.norm(array),
        array.mean(),
        sizes.max(),
        (array == 0).mean(),
        (~np.isfinite(array)).sum(),
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_facts_are_those_of_numpy(backend: str, clip_norm: float | None) -> None:
    """Plain gradient descent by hand, in float64: a few hundred roundings of 1e-16 in every fact."""
    ours = trainer(backend, optimizer=optim.SGD(lr=0.1), clip_norm=clip_norm)
    weights = [each.numpy() for each in ours.parameters.values()]
    batches = GENERATOR.integers(0, 101, size=(7, 16))
    of_parameters: list[list[list[float]]] = [[] for _ in weights]
    of_layers: dict[str, list[list[float]]] = {"0": [], "2": []}
    for rows in batches:
        gradients, layers = by_hand(weights, X[rows], Y[rows])
        norm = np.sqrt(sum(np.sum(each**2) for each in gradients))
        scale = 0.1 * (1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6)))
        weights = [weight - scale * slope for weight, slope in zip(weights, gradients, strict=True)]
        for told, weight, slope in zip(of_parameters, weights, gradients, strict=True):
            told.append([*told_of(slope), *told_of(weight), *told_of(-scale * slope)])
        for name, (activation, error) in layers.items():
            saturated = (np.abs(activation) > 0.98).mean() if name == "0" else np.nan
            facts = told_of(activation)
            of_layers[name].append([*facts[:4], saturated, facts[4], *told_of(error)])
    ours.run((X, Y), len(batches), batches)
    assert list(ours.telemetry) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(ours.telemetry.layers) == ["0", "2"]
    np.testing.assert_array_equal(ours.telemetry.steps, np.arange(7))
    for told, (name, facts) in zip(of_parameters, ours.telemetry.items(), strict=True):
        np.testing.assert_allclose(np.array(facts), np.array(told).T, rtol=1e-11, atol=1e-15, err_msg=name)
        np.testing.assert_array_equal(ours.telemetry.maxima[name], facts)
    for name, facts in ours.telemetry.layers.items():
        wanted = np.array(of_layers[name]).T
        np.testing.assert_allclose(np.array(facts), wanted, rtol=1e-11, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pictures_are_those_of_numpy(backend: str) -> None:
    with cr.random.stream(cr.random.key(3)):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    model[0].bias.assign(np.float32([0, 0, 0, -100, 0, 0, 0, 0]))  # the fourth unit is dead
    ours = trainer(backend, model=model, optimizer=optim.SGD(lr=0.0))
    batches = GENERATOR.integers(0, 101, size=(9, 16))
    weights = [each.numpy().astype(np.float64) for each in ours.parameters.values()]
    ours.run((X.astype(np.float32), Y.astype(np.float32)), len(batches), batches)
    assert list(ours.telemetry.liveness) == ["0", "2"]
    liveness = ours.telemetry.liveness["0"]
    assert liveness.steps.tolist() == [0, 4, 8]
    for row, step in enumerate(liveness.steps):
        x = X[batches[step]].astype(np.float32)
        active = x @ weights[0].T + weights[1] > 0
        np.testing.assert_allclose(liveness.shares[row], active.mean(axis=0), atol=1e-6)
        hidden = np.maximum(x @ weights[0].T + weights[1], 0)
        found = ours.telemetry.histograms["activation of 0"]
        edges = 2.0 ** np.array([*EXPONENTS, 200])
        np.testing.assert_array_equal(found.counts[row], np.histogram(hidden[hidden > 0], edges)[0])
        assert found.zeros[row] == (hidden == 0).sum()
    assert liveness.shares[:, 3].tolist() == [0.0] * 3
    names = [f"{what} of {layer}" for layer in "02" for what in ("activation", "error")]
    names += [f"{what} of {path}" for path in ours.telemetry for what in ("gradient", "weight")]
    assert set(ours.telemetry.histograms) == set(names)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_is_counted(backend: str) -> None:
    """A bias far out makes one of the three outputs overflow: a row of the weight's gradient is no number."""
    model = nn.Linear(4, 3)
    model.load_state_dict({"weight": np.ones((3, 4), np.float32), "bias": np.float32([0, 3e38, 0])})
    ours = trainer(backend, model=model, optimizer=optim.SGD(lr=1.0))
    ours.run((X.astype(np.float32), -3e38 * np.ones((101, 3), np.float32) * [[0, 1, 0]]), 1)
    assert ours.telemetry["weight"].gradient_nonfinite.tolist() == [4.0]
    assert ours.telemetry["bias"].gradient_nonfinite.tolist() == [1.0]
    assert not np.isfinite(ours.telemetry["weight"].gradient_norm[0])
    (layer,) = ours.telemetry.layers.values()
    assert layer.error_nonfinite.tolist() == [16.0]


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
    assert list(one.telemetry.layers) == ["0", "1", "4", "5"]  # GELU belongs to the layer before it
    for mine, theirs in ((one.telemetry, other.telemetry), (one.telemetry.layers, other.telemetry.layers)):
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-9, atol=1e-12)


class Twice(nn.Module):
    """A layer that is used twice, a function outside of it, an activation after a sum, a checkpoint."""

    def __init__(self) -> None:
        self.shared, self.inside, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Any) -> Any:
        first = self.shared(x)
        second = self.shared(cr.tanh(first))
        joined = self.relu(first + second)
        return cr.sum(cr.checkpoint(self.inside)(joined), axis=1, keepdims=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_have_rows_wherever_they_are_used(backend: str) -> None:
    ours = trainer(backend, model=Twice().double())
    ours.run((X, Y), 3)
    assert list(ours.telemetry.layers) == ["shared", "shared (2)", "relu"]
    assert all(np.isfinite(facts.error_norm).all() for facts in ours.telemetry.layers.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.01}, {"optimizer": optim.AdamW(lr=0.1)}])
def test_telemetry_changes_no_bit(backend: str, options: dict[str, Any]) -> None:
    """Steps that tell, and those that do not: the kernels that learn are the same."""
    with_, without = (
        trainer(backend, telemetry=telemetry, **options) for telemetry in (Rates(facts=3, pictures=6), False)
    )
    for ours in (with_, without):
        ours.run((X, Y), 15)
    for name, value in without.state().items():
        np.testing.assert_array_equal(with_.state()[name], value, err_msg=name)
    assert with_.telemetry.steps.tolist() == [0, 3, 6, 9, 12]
    assert without.telemetry.state() == {}
    assert len(without.telemetry) == 0
    with pytest.raises(KeyError, match="no step has told anything"):
        without.telemetry["0.weight"]
    with pytest.raises(KeyError, match=r"there is of 0\.weight, 0\.bias"):
        with_.telemetry["weight"]


@pytest.mark.parametrize("spec", [SMALL, TINY_GPT, specs.find("G")], ids=lambda spec: spec.name)
def test_steps_that_tell_nothing_run_the_kernels_they_would_run_anyway(spec: specs.Spec) -> None:
    inputs, targets = specs.data(spec)
    data = cr.data.Windows(inputs, spec.context) if targets is None else (inputs, targets)
    kernels = []
    for rates in (False, True):
        model, loss = workloads.model_of(spec), workloads.loss_of(spec)
        ours = Trainer(model, loss, optim.Adam(), batch_size=spec.batch, telemetry=rates)
        step = ours._example_step(*ours.leaves(data), None).stepper
        assert isinstance(step, stepping.NativeSteps)
        always = [kernel for kernel, (least, _) in step.code.schedule.timed if not least]
        kernels.append([structure(kernel) for kernel in always if not isinstance(kernel, Repeat)])
    assert kernels[0] == kernels[1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.01}])
def test_norms_of_gradients_come_from_every_step(backend: str, options: dict[str, Any]) -> None:
    seldom, always = (trainer(backend, telemetry=Rates(facts=each, pictures=6), **options) for each in (3, 1))
    norms = []
    for ours in (seldom, always):
        norms.append([])
        ours.run((X, Y), 14, on_step=lambda _, norm, __: norms[-1].append(norm))
    told = seldom.telemetry.gradient_norms
    assert told.steps.tolist() == list(range(14))
    assert told.spans.tolist() == [1] * 14
    assert list(told.norms) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for name, norm in told.norms.items():
        np.testing.assert_allclose(norm, always.telemetry[name].gradient_norm, rtol=1e-12)
        np.testing.assert_array_equal(told.largest[name], norm)
    np.testing.assert_allclose(np.sqrt(sum(each**2 for each in told.norms.values())), norms[0], rtol=1e-12)
    assert norms[0] == norms[1]


# -- how often -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_step_decides_how_often_it_tells(backend: str) -> None:
    """Work grows with the rows of a batch, what is told of weights does not."""
    x, y = np.zeros((4096, 64), np.float32), np.zeros((4096, 64), np.float32)
    found = []
    for batch in (8, 256, 4096):
        model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 64))
        ours = Trainer(model, nn.MSELoss(), optim.SGD(0.1), batch_size=batch, telemetry=True, backend=backend)
        assert ours.rates == Rates()
        ours.run((x, y), 3)
        assert ours.rates == ours.telemetry.rates
        assert ours.telemetry.every == ours.rates.facts
        found.append(ours.telemetry.every)
    assert found == [32, 4, 2]


def test_rates_that_do_not_fit_together_are_refused() -> None:
    for facts, pictures in ((3, 1024), (0, 1024), (4, 2), (None, 0)):
        with pytest.raises(ValueError, match="a multiple of facts"):
            Rates(facts, pictures)
    step = trainer(model=nn.Linear(4, 1)).program((X.astype(np.float32), Y.astype(np.float32)))
    assert Rates(facts=3, pictures=6).fitted(step.graph, []) == Rates(3, 6)
    tiny = trainer(telemetry=Rates(pictures=12))
    tiny.run((X, Y), 1)
    assert tiny.rates == Rates(4, 12)  # of the powers of two those that pictures are a multiple of


def test_work_is_the_points_of_all_loops() -> None:
    def looped(x: Any) -> Any:
        return cr.scan(lambda carry, each: (carry @ each, None), x[0], x)[0]

    made = [
        trace_program(function, [Type((6, 8, 8), np.dtype(np.float32))]).graph
        for function in (looped, lambda x: cr.exp(x) * x)
    ]
    assert 6 * 8**3 <= work(made[0]) <= 6 * 8**3 + 3 * 6 * 8**2  # and the slices of x
    assert work(made[1]) == 2 * 6 * 8**2


# -- slices and stops ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
def test_slices_change_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarsening, "ROWS", 8)
    one, other, third = trainer(backend), trainer(backend), trainer(backend)
    one.run((X, Y), 45)
    monkeypatch.setattr(stepping, "SLICE_NUMBERS", 3 * stepping.NOTED)
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


@pytest.mark.parametrize("width", [4, 1])  # a lone column NumPy adds in another order
@pytest.mark.parametrize("steps", [0, 1, 15, 16, 17, 100, 1000])
def test_what_is_kept_depends_on_the_steps_alone(
    steps: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarsening, "ROWS", 16)
    numbers = GENERATOR.normal(size=(1200, width))
    whole, pieces = Coarsened(width), Coarsened(width)
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
    facts = [Column("layer", f"{k}", each, 1, 4) for k in range(200) for each in LayerFacts._fields]
    for k in range(400):
        facts += [Column("parameter", f"{k}.weight", each, 1, 4) for each in ParameterFacts._fields]
    pictures = [Column("histogram", f"activation of {k}", "", 48, 4) for k in range(1200)]
    pictures += [Column("liveness", f"{k}", "", 256, 1) for k in range(200)]
    norms = [each for each in facts if each.field == "gradient_norm"]
    columns = {NORMS: norms, FACTS: facts, PICTURES: pictures}
    rates = Rates(facts=4)
    told = Telemetry(rates)
    slice_ = 8 * rates.pictures
    numbers = [
        np.ones((slice_, 400)),
        np.ones((slice_ // 4, len(facts))),
        np.ones((8, 1200 * 48 + 200 * 256)),
    ]
    for start in range(0, 1_000_000, slice_):
        told.note(start, columns, numbers)
    assert int(told.spans.sum()) * 4 >= 1_000_000
    assert sum(each.nbytes for each in told.state().values()) < 50e6
    assert told["0.weight"].gradient_norm.tolist() == [0.5] * len(told.spans)
    assert int(told.gradient_norms.spans.sum()) >= 1_000_000
    assert told["0.weight"].gradient_mean.tolist() == [0.25] * len(told.spans)


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
    settings: dict[str, Any] = {"epochs": 9, "batch_size": 16, "telemetry": EVERY_STEP} | options
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
    rows = state["facts.rows"]
    for wrong in (
        {"facts.rows": rows[:, :, 1:]},
        {"facts.rows": rows[1:]},
        {"facts.samples": np.arange(2)},
        {"facts.columns": state["facts.columns"][:-9]},
        {"pictures.samples": np.array([0, 0, 0])},
    ):
        with pytest.raises(RunError, match="cannot be read"):
            Telemetry().load_state(state | wrong)
    with pytest.raises(RunError, match="cannot be read"):
        Telemetry().load_state({"facts.rows": rows})
    (run.folder.path / "telemetry.safetensors").unlink()
    with pytest.raises(RunError, match="is missing"):
        cr.train.load_telemetry(run.folder.path)


# -- the race ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("spec", "last"), [(SMALL, "4.weight"), (TINY_GPT, "head.weight")])
def test_the_race_trains_with_telemetry(spec: specs.Spec, last: str) -> None:
    data = specs.data(spec)

    def made(variant: str) -> Any:
        with cr.random.stream(cr.random.key(3)):
            return workloads.make(spec, *data, variant, "train")

    ours, plain = made("telemetry"), made("")
    assert ours.run(11) == pytest.approx(plain.run(11), rel=1e-5)
    assert ours.trainer.telemetry.steps.tolist() == list(range(0, 11, ours.trainer.rates.facts))
    assert np.isfinite(ours.trainer.telemetry[last].update_norm).all()
    with pytest.raises(NotImplementedError, match="telemetry"):
        workloads.make(spec, *data, "telemetry", "grad")
