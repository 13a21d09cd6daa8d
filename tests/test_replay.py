"""Any step of a run taken again: its state bit for bit, its batch, its draws; from memory and from disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.errors import DataError, RunError
from chainrule.run import RunFolder
from chainrule.train import Callback, Replayed, Trainer, loop, replay, states
from chainrule.train.loop import Loop
from chainrule.train.states import MOST, States
from chainrule.train.stepping import Pace

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(4)
X = GENERATOR.normal(size=(203, 4)).astype(np.float32)
Y = (np.sin(X[:, :1]) + 0.5 * X[:, 1:2]).astype(np.float32)
PER_EPOCH = 6  # of 183 training rows, 32 at a time


def network(width: int = 8) -> cr.nn.Module:
    """With all that a step may depend on besides the weights: statistics, and what a layer draws."""
    with cr.random.stream(cr.random.key(3)):
        hidden = (cr.nn.Linear(4, width), cr.nn.BatchNorm1d(width), cr.nn.Tanh(), cr.nn.Dropout(0.3))
        return cr.nn.Sequential(*hidden, cr.nn.Linear(width, 1))


class Watching(Callback):
    """Notes the state of the trainer at the end of every epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Array]] = []

    def on_start(self, trainer: Any, epochs: int, steps: int) -> None:
        self.trainer = trainer

    def on_epoch(self, progress: Any) -> None:
        self.states.append(self.trainer.state())


def fitted(**options: Any) -> tuple[cr.Run, Watching]:
    watching = Watching()
    """Quickly: on the reference, unless asked otherwise, and without telemetry."""
    settings = {"epochs": 5, "batch_size": 32, "seed": 7, "backend": "numpy", "telemetry": False} | options
    model = settings.pop("model", None) or network()
    return cr.fit(model, settings.pop("data", (X, Y)), callbacks=[watching], **settings), watching


@pytest.fixture(scope="module")
def run() -> cr.Run:
    """One that nobody changes."""
    return fitted()[0]


def assert_same(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


def assert_same_step(one: Replayed, other: Replayed) -> None:
    assert_same(one.state, other.state)
    assert (one.step, one.names, one.loss.item()) == (other.step, other.names, other.loss.item())


# -- the state, the batch, the draws -------------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_the_state_before_a_step_is_the_one_that_training_had(backend: str) -> None:
    """The learning rate is lowered on the way, by a schedule that watches the validation loss."""
    plateau = cr.optim.Plateau(lr=0.05, factor=0.5, patience=0)
    run, watching = fitted(backend=backend, optimizer=cr.optim.Adam(lr=plateau), epochs=6)
    assert len({float(each["optimizer.scale"]) for each in watching.states}) > 1
    for epoch in (5, 1, 4, 2):
        assert_same(replay(run, epoch * PER_EPOCH).state, watching.states[epoch - 1])


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_the_losses_of_steps_are_those_that_training_saw(backend: str) -> None:
    """A trainer takes the steps one by one. Tolerance: the order of a float32 sum of 32 squares."""
    options: dict[str, Any] = {"clip_norm": 0.5, "batch_size": 32, "seed": 7, "backend": backend}
    run, _ = fitted(validation=None, optimizer=cr.optim.SGD(lr=0.1), **options)
    trainer = Trainer(network(), cr.nn.MSELoss(), cr.optim.SGD(lr=0.1), **options)
    losses: list[float] = []
    trainer.run((X, Y), 14, on_step=lambda loss, norm, rows: losses.append(loss))
    for step in (0, 3, 6, 13):  # 7 steps an epoch, the last of 11 rows
        found = replay(run, step)
        assert found.loss.item() == pytest.approx(losses[step], rel=32 * 2.0**-24)
        np.testing.assert_array_equal(found.batch[0], X[found.rows])
        np.testing.assert_array_equal(found.batch[1], Y[found.rows])
        assert found.names == tuple(f"row {row}" for row in found.rows)


def test_gradients_of_a_replayed_step_make_its_update() -> None:
    """Plain gradient descent: the next state is this one minus rate times gradient."""
    run, _ = fitted(optimizer=cr.optim.SGD(lr=0.125))
    before, after = replay(run, 8), replay(run, 9)
    before.loss.backward()
    for path, parameter in run.model.named_parameters():
        assert parameter.grad is not None
        step = before.state[f"model.{path}"] - 0.125 * parameter.grad.numpy()
        np.testing.assert_allclose(after.state[f"model.{path}"], step, rtol=1e-5, atol=1e-7)


def test_a_step_with_weighted_rows() -> None:
    def weighted(outputs: Any, targets: Any, weights: Any) -> cr.Tensor:
        return cr.sum(weights * cr.square(outputs - targets)) / cr.sum(weights)

    weights = GENERATOR.uniform(0.5, 2, size=Y.shape).astype(np.float32)
    trainer = Trainer(network(), weighted, cr.optim.SGD(lr=0.1), batch_size=50)
    ended = Loop(trainer, (X, Y, weights), 2, restore_best=False)
    ended.run()
    found = ended.past.replay(-1)
    assert (found.step, len(found.rows)) == (9, 3)  # the last batch of 203 rows
    np.testing.assert_array_equal(found.batch[2], weights[found.rows])
    with cr.random.stream(cr.random.key(0)):
        assert found.loss.item() > 0


def test_rows_are_those_of_the_whole_data_when_some_are_held_out() -> None:
    run, _ = fitted(validation=0.3)
    seen = np.concatenate([replay(run, step).rows for step in range(5)])
    assert len(seen) == len(set(seen.tolist())) == 142  # 70% of the rows, each once
    found = replay(run, 2)
    np.testing.assert_array_equal(found.batch[0], X[found.rows])


def test_the_model_is_afterwards_as_it_was() -> None:
    run, _ = fitted(telemetry=True, restore_best=False)
    other, _ = fitted(telemetry=True, restore_best=False)
    before = {path: value.numpy().tobytes() for path, value in run.model.state_dict().items()}
    noted = {name: value.tobytes() for name, value in run.telemetry.state().items()}
    replay(run, 4)
    assert before == {path: value.numpy().tobytes() for path, value in run.model.state_dict().items()}
    assert noted == {name: value.tobytes() for name, value in run.telemetry.state().items()}
    assert not any(module.training for module in run.model.modules())
    assert run.past is not None
    assert other.past is not None
    run.past.trainer.run((X, Y), 5)
    other.past.trainer.run((X, Y), 5)
    assert_same(run.past.trainer.state(), other.past.trainer.state())


def test_layers_are_in_the_mode_they_were_trained_in() -> None:
    model = network()
    list(model.children())[1].eval()  # its statistics stay as they are
    run, watching = fitted(model=model, restore_best=False)
    assert_same(replay(run, 2 * PER_EPOCH).state, watching.states[1])


def test_asking_again_replays_nothing(run: cr.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = replay(run, 7)
    monkeypatch.setattr(Trainer, "run", None)
    assert replay(run, 7) is found
    assert (
        cr.explain(run, "0.weight", (0, 1), step=7).value == cr.explain(found.loss, "0.weight", (0, 1)).value
    )


def test_the_last_step_and_steps_from_the_end(run: cr.Run) -> None:
    assert replay(run).step == replay(run, -1).step == 5 * PER_EPOCH - 1
    assert replay(run, -5 * PER_EPOCH).step == 0


@pytest.mark.parametrize("step", [5 * PER_EPOCH, -5 * PER_EPOCH - 1])
def test_steps_that_there_are_not(step: int, run: cr.Run) -> None:
    with pytest.raises(RunError, match="the run has steps 0 to 29"):
        replay(run, step)


def test_a_run_without_steps() -> None:
    run, _ = fitted(epochs=0)
    with pytest.raises(RunError, match="no step to replay"):
        replay(run)


def test_arrays_that_were_changed_after_training() -> None:
    data = X.copy(), Y.copy()
    run, _ = fitted(data=data, validation=None)
    replay(run, 3)
    data[0][5, 1] += 1
    with pytest.raises(RunError, match="the data have changed"):
        replay(run, 4)


def test_a_replayed_step_is_no_other(run: cr.Run) -> None:
    taken = replay(run, 7)
    assert cr.ledger(taken, step=7).loss == cr.ledger(taken).loss
    with pytest.raises(ValueError, match=r"this is step 7 .*: for step 3, give the run"):
        cr.ledger(taken, step=3)
    for step in (1.5, "3"):
        with pytest.raises(TypeError, match="a step is a whole number"):
            replay(run, step)  # type: ignore[arg-type]
    assert len(repr(taken)) < 1000


def test_what_is_no_run() -> None:
    with pytest.raises(TypeError, match="not a list"):
        replay([1, 2])  # type: ignore[arg-type]
    run, _ = fitted(epochs=1)
    run.past = None
    with pytest.raises(RunError, match="cannot be replayed"):
        replay(run)


# -- insight reads runs --------------------------------------------------------------------------------------
def test_the_ledger_of_a_step(run: cr.Run) -> None:
    for step in (0, -1):
        found = cr.ledger(run, step=step)
        loss = replay(run, step).loss
        loss.backward()
        assert found.loss == loss.item()
        for path, parameter in run.model.named_parameters():
            assert parameter.grad is not None
            norm = np.linalg.norm(parameter.grad.numpy().astype(np.float64))
            assert 10 ** found[path].log10_norm == pytest.approx(float(norm), rel=1e-4, abs=1e-6)
            parameter.grad = None


# -- from a folder -------------------------------------------------------------------------------------------
def test_a_python_model_from_its_folder(tmp_path: Path) -> None:
    run, _ = fitted(runs=tmp_path, optimizer=cr.optim.Adam(lr=0.01))
    assert run.folder is not None
    other = replay(run.folder.path, 13, model=network(), data=(X, Y))
    assert_same_step(replay(run, 13), other)
    with cr.random.stream(cr.random.key(9)):  # begun otherwise: the first state is kept
        assert_same_step(
            other, replay(run.folder, 13, model=cr.nn.Sequential(*network().children()), data=(X, Y))
        )


def test_what_a_python_model_needs_from_a_folder(tmp_path: Path) -> None:
    run, _ = fitted(runs=tmp_path, loss=lambda outputs, targets: cr.mean(cr.abs(outputs - targets)))
    assert run.folder is not None
    with pytest.raises(RunError, match=r"Sequential, whose code and data it does not hold: give both"):
        cr.ledger(run.folder.path)
    with pytest.raises(RunError, match="with a loss of its own"):
        replay(run.folder, 1, model=network(), data=(X, Y))
    with pytest.raises(RunError, match="the data have changed"):
        replay(run.folder, 1, model=network(), data=(X + 1, Y))
    with pytest.raises(DataError, match="inputs, targets"):
        replay(run.folder, 1, model=network(), data=X)


def test_a_loss_with_options_is_not_taken_for_its_name(tmp_path: Path) -> None:
    run, _ = fitted(runs=tmp_path, loss=cr.nn.HuberLoss(delta=0.25))
    assert run.folder is not None
    with pytest.raises(RunError, match=r"own \(huber\)"):
        replay(run.folder, 1, model=network(), data=(X, Y))
    found = replay(run.folder, 1, model=network(), data=(X, Y), loss=cr.nn.HuberLoss(delta=0.25))
    assert_same_step(replay(run, 1), found)


def test_another_model_is_refused(tmp_path: Path) -> None:
    class Net(cr.nn.Module):
        def __init__(self, power: float) -> None:
            self.layer, self.power = cr.nn.Linear(4, 1), power

        def forward(self, x: Any) -> Any:
            return self.layer(x) ** self.power

        def __repr__(self) -> str:
            return f"Net({self.power})"

    run, _ = fitted(runs=tmp_path, model=Net(1.0))
    assert run.folder is not None
    assert replay(run.folder, 1, model=Net(1.0), data=(X, Y)).step == 1
    with pytest.raises(RunError, match=r"not the one that run .* trained"):
        replay(run.folder, 1, model=Net(3.0), data=(X, Y))
    with pytest.raises(RunError, match="does not fit this trainer"):
        replay(run.folder, 1, model=network(5), data=(X, Y))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """120 rows, of which every seventh has no target."""
    rows = GENERATOR.normal(size=(120, 3))
    lines = ["a,b,c,price"]
    for number, row in enumerate(rows):
        price = "" if number % 7 == 0 else f"{1000 + 10 * number}"
        lines.append(",".join([*(f"{each:.6f}" for each in row), price]))
    path = tmp_path / "houses.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def recipe(source: Path, backend: str = "numpy") -> cr.Recipe:
    return cr.Recipe.from_document(
        {
            "data": {"source": str(source), "target": "price"},
            "network": {"hidden": [6], "dropout": 0.2},
            "training": {"epochs": 4, "batch_size": 16, "backend": backend},
        }
    )


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_table_from_its_folder(backend: str, table: Path, tmp_path: Path) -> None:
    run = cr.fit(recipe(table, backend), runs=tmp_path / "runs")
    assert run.folder is not None
    for step in (0, 9, -1):
        found = replay(run.folder.path, step)
        assert_same_step(replay(run, step), found)
        assert_same_step(found, replay(cr.train.load(run.folder.path), step))


def test_rows_of_a_table_are_those_of_its_file(table: Path) -> None:
    """Row 1 is the line after the names; a row without a target keeps its number."""
    run = cr.fit(recipe(table))
    found = replay(run, 2)
    prices = run.prepared.transform.invert(found.batch[1]).reshape(-1)
    numbers = [int(name.removeprefix("row ").replace(",", "")) for name in found.names]
    np.testing.assert_allclose(prices, [1000 + 10 * (number - 1) for number in numbers], rtol=1e-5)


def test_a_run_of_an_older_version_is_replayed_from_its_beginning(table: Path, tmp_path: Path) -> None:
    run = cr.fit(recipe(table), runs=tmp_path / "runs")
    assert run.folder is not None
    path, found = run.folder.path, replay(run)
    shutil.rmtree(path / "states")
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    del result["steps"]
    (path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert cr.train.load(path).metrics == run.metrics
    assert_same_step(found, replay(path))
    assert not (path / "states").exists()


def test_a_table_that_has_changed(table: Path, tmp_path: Path) -> None:
    run = cr.fit(recipe(table), runs=tmp_path / "runs")
    assert run.folder is not None
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("1010", "1011"), encoding="utf-8")
    with pytest.raises(RunError, match=r"houses\.csv.* has changed since it was trained"):
        replay(run.folder)
    elsewhere = tmp_path / "copy.csv"
    elsewhere.write_text(text, encoding="utf-8")
    assert_same_step(replay(run), replay(run.folder, data=elsewhere))


def test_a_table_that_was_handed_over(tmp_path: Path) -> None:
    columns = {"a": X[:, 0].tolist(), "price": Y[:, 0].tolist()}
    document = {"data": {"target": "price"}, "training": {"epochs": 1, "backend": "numpy"}}
    run = cr.fit(cr.Recipe.from_document(document), columns, runs=tmp_path)
    assert run.folder is not None
    with pytest.raises(RunError, match="handed over in Python"):
        replay(run.folder)
    assert_same_step(replay(run), replay(run.folder, data=columns))


def test_an_interrupted_run_and_the_same_resumed(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_epoch(self, progress: Any) -> None:
            if progress.epoch == 3:
                raise KeyboardInterrupt

    options: dict[str, Any] = {"epochs": 6, "batch_size": 32, "seed": 7, "backend": "numpy", "runs": tmp_path}
    whole, _ = fitted(epochs=6)
    with pytest.raises(KeyboardInterrupt):
        cr.fit(network(), (X, Y), callbacks=[Stop()], **options)
    (path,) = (each.parent for each in tmp_path.glob("*/recipe.toml"))
    del options["runs"]
    resumed = cr.fit(network(), (X, Y), resume=path, **options)
    for step in (0, 17, 20, -1):
        assert_same_step(replay(whole, step), replay(resumed, step))


# -- what is kept --------------------------------------------------------------------------------------------
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_states_are_few_and_evenly_spread(gaps: list[int]) -> None:
    """How far it is back to a kept state: of the n states between first and last, the one given up has
    neighbours at most 2/n of the way apart, and one is kept as soon as it is 1/MOST of the way off.
    """
    kept, at = States(), 0
    kept.note(0, {"a": np.zeros(1)})
    for gap in gaps:
        at += gap
        kept.note(at, {"a": np.full(1, at)})
    assert kept.steps[0] == 0
    assert len(kept.steps) <= MOST
    for step in range(at + 1):
        found = kept.before(step)
        assert found is not None
        assert found[0] <= step
        assert found[1]["a"][0] == found[0]
        assert step - found[0] <= max(at * 2 / (MOST - 1), at / MOST + max(gaps))


def test_the_state_of_a_large_network_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "BYTES", 100)
    kept = States()
    for step in range(9):
        kept.note(step, {"a": np.ones(13)})
    assert kept.steps == [0]


def test_states_in_a_folder_are_given_up_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STATE_SECONDS", 0.0)
    run, watching = fitted(epochs=30, runs=tmp_path)
    assert run.folder is not None
    assert run.past is not None
    assert RunFolder(run.folder.path).states() == run.past.states.steps
    assert 4 <= len(run.past.states.steps) <= MOST
    assert_same(replay(run, 25 * PER_EPOCH).state, watching.states[24])


def test_zeros_are_kept_without_memory() -> None:
    kept = States()
    kept.note(
        0, {"zeros": np.zeros((3, 4)), "other": -np.zeros(3), "none": np.zeros((0, 2)), "one": np.ones(())}
    )
    found = kept.before(0)
    assert found is not None
    assert found[1]["zeros"].strides == (0, 0)
    assert np.signbit(found[1]["other"]).all()
    assert found[1]["none"].shape == (0, 2)
    assert found[1]["one"] == 1


# -- training that goes wrong --------------------------------------------------------------------------------
def diverging(**options: Any) -> tuple[cr.Run, Watching]:
    return fitted(optimizer=cr.optim.SGD(lr=3.0), epochs=40, **options)


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_training_ends_before_the_step_whose_loss_is_not_finite(backend: str) -> None:
    model = cr.nn.Sequential(cr.nn.Linear(4, 8), cr.nn.ReLU(), cr.nn.Linear(8, 1))
    run, _ = diverging(model=model, backend=backend, restore_best=False)
    bad = run.result["bad_step"]
    assert run.result["reason"] == f"the loss is not finite in step {bad:,}, in epoch {len(run.history)}"
    assert run.past is not None
    assert run.past.steps == run.result["steps"] == bad + 1
    found = replay(run)
    assert found.step == bad
    assert not np.isfinite(found.loss.item())
    for path, value in run.model.state_dict().items():
        assert np.isfinite(value.numpy()).all()
        assert value.numpy().tobytes() == found.state[f"model.{path}"].tobytes()
    assert np.isfinite(replay(run, bad - 1).loss.item())


def test_where_slices_end_changes_nothing_about_a_training_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(steps: int) -> cr.Run:
        monkeypatch.setattr("chainrule.train.trainer.Pace", lambda *_: Pace(steps))
        with cr.random.stream(cr.random.key(1)):
            model = cr.nn.Sequential(cr.nn.Linear(4, 8), cr.nn.ReLU(), cr.nn.Linear(8, 1))
        return diverging(model=model, restore_best=False, batch_size=4)[0]

    one, other = trained(1), trained(40)
    assert one.result["steps"] < 40
    assert repr((one.result, one.history)) == repr((other.result, other.history))
    assert one.past is not None
    assert other.past is not None
    assert_same(one.past.trainer.state(), other.past.trainer.state())
