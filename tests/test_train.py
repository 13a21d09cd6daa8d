"""The Trainer and fit: one program per batch shape, exact repetition, listeners, early stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import DataError, RunError, ShapeError
from chainrule.train import Callback, Progress, Trainer
from chainrule.train.loop import Interrupted

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(203, 4)).astype(np.float32)
Y = (np.sin(X[:, :1]) + X[:, 1:2] * 0.5).astype(np.float32)
CLASSES = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 1)


def network(outputs: int = 1, dropout: float = 0.0, seed: int = 0) -> cr.nn.Module:
    with cr.random.stream(cr.random.key(seed)):
        hidden = (cr.nn.Linear(4, 16), cr.nn.BatchNorm1d(16), cr.nn.ReLU(), cr.nn.Dropout(dropout))
        return cr.nn.Sequential(*hidden, cr.nn.Linear(16, outputs))


def trainer(**options: Any) -> Trainer:
    settings: dict[str, Any] = {"clip_norm": 1.0, "batch_size": 32} | options
    return Trainer(network(dropout=0.3), cr.nn.MSELoss(), cr.optim.AdamW(lr=1e-2), **settings)


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(first[k].tobytes() == second[k].tobytes() for k in first)


def test_a_step_is_one_pure_program_with_its_state_in_and_out() -> None:
    ours = trainer()
    program = ours.program((X, Y))
    names = {cell.name for cell in program.written}
    assert {id(cell) for cell in program.written} <= {id(cell) for cell in program.read}
    assert {id(cell) for cell in program.written} <= {id(cell) for cell in ours.cells().values()}
    assert "count" in names
    assert any(name.endswith("running_mean") for name in names)
    assert any(name.startswith("optimizer.") for name in names)
    roles = {origin.role for node in program.graph.nodes for origin in node.origins}
    assert {"forward", "pullback", "update"} <= roles


def test_running_in_pieces_is_running_at_once() -> None:
    whole, pieces = trainer(), trainer()
    whole.run((X, Y), 23)
    for steps in (1, 5, 2, 15):
        pieces.run((X, Y), steps)
    assert same(whole.state(), pieces.state())


def test_the_state_of_a_step_is_all_there_is() -> None:
    first, second = trainer(), trainer()
    first.run((X, Y), 9)
    second.load_state(first.state())
    assert first.run((X, Y), 4) == second.run((X, Y), 4)
    assert same(first.state(), second.state())


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_the_compiled_step_is_the_eager_step(backend: str) -> None:
    """In float64: the bias before a batch norm has gradient 0, and in float32 Adam would make its rounding,
    whatever it is, as large as the learning rate.
    """
    compiled, eager = (Trainer(network(dropout=0.3).double(), cr.nn.MSELoss(), cr.optim.AdamW(lr=1e-2),
                               clip_norm=1.0, backend=backend) for _ in range(2))  # fmt: skip
    rows = np.arange(32)[None, :]
    x, y = X.astype(np.float64), Y.astype(np.float64)
    for _ in range(3):
        compiled.run((x, y), 1, batches=rows)
        eager.step(cr.asarray(x[rows[0]]), cr.asarray(y[rows[0]]))
    for name, value in eager.state().items():
        np.testing.assert_allclose(compiled.state()[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


def test_every_epoch_visits_every_row_once() -> None:
    ours = trainer()
    orders = [ours.order(203, epoch) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(203))
    assert not np.array_equal(orders[0], orders[1])


def test_given_batches_are_used() -> None:
    ours = trainer()
    with pytest.raises(ShapeError, match="batches must be an integer array"):
        ours.run((X, Y), 3, batches=np.arange(5))
    ours.run((X, Y), 2, batches=np.array([[0, 1, 2], [3, 4, 5]]))
    assert ours.count.item() == 2


def test_a_callback_in_the_middle_leaves_the_state_of_its_step() -> None:
    ours, stopped = trainer(), trainer()
    stopped.run((X, Y), 20, on_step=lambda loss, norm, rows: stopped_after(stopped, 7))
    ours.run((X, Y), 7)
    assert same(ours.state(), stopped.state())


_seen: dict[int, int] = {}


def stopped_after(owner: Trainer, steps: int) -> bool:
    _seen[id(owner)] = _seen.get(id(owner), 0) + 1
    return _seen[id(owner)] == steps


def test_fit_learns_and_repeats_itself() -> None:
    runs = [cr.fit(network(), (X, Y), optimizer=cr.optim.Adam(lr=0.02), epochs=60, seed=3) for _ in range(2)]
    assert runs[0].metrics["r2"] > 0.8
    assert runs[0].history == runs[1].history
    for name, value in runs[0].model.state_dict().items():
        assert np.asarray(value).tobytes() == np.asarray(runs[1].model.state_dict()[name]).tobytes()


def test_classes_by_name_with_balanced_weights() -> None:
    run = cr.fit(
        network(3), (X, CLASSES), loss="cross_entropy", class_weight="balanced", epochs=40,
        optimizer={"name": "adam", "lr": 0.02},
    )  # fmt: skip
    assert run.metrics["accuracy"] > 0.6
    assert set(run.metrics) >= {"accuracy", "log_loss", "auroc", "average_precision"}


def test_float64_data_are_cast_once() -> None:
    run = cr.fit(network(), (X.astype(np.float64), Y.astype(np.float64)), epochs=1)
    assert run.predict(X.astype(np.float64)).dtype == np.float32


def test_early_stopping_restores_the_best_weights() -> None:
    class Watch(Callback):
        def on_start(self, trainer: Any, epochs: int, steps: int) -> None:
            self.trainer, self.best, self.kept = trainer, np.inf, {}

        def on_epoch(self, progress: Progress) -> None:
            assert progress.validation_loss is not None
            if progress.validation_loss < self.best:
                self.best = progress.validation_loss
                self.kept = {k: v for k, v in self.trainer.state().items() if k.startswith("model.")}

    watch = Watch()
    noise = GENERATOR.normal(size=Y.shape).astype(np.float32)
    optimizer = cr.optim.Adam(lr=0.05)
    run = cr.fit(network(), (X, noise), epochs=300, early_stopping=5, callbacks=[watch], optimizer=optimizer)
    assert run.result["reason"] == "early stopping"
    assert len(run.history) < 300
    for path, value in run.model.state_dict().items():
        assert np.asarray(value).tobytes() == watch.kept[f"model.{path}"].tobytes()


def test_a_callback_can_stop_the_training() -> None:
    class Enough(Callback):
        def on_epoch(self, progress: Progress) -> bool:
            return progress.epoch == 3

    run = cr.fit(network(), (X, Y), epochs=50, callbacks=[Enough()])
    assert run.result["reason"] == "stopped by a callback"
    assert len(run.history) == 3


def test_the_plateau_schedule_lowers_the_rate_without_tracing_again() -> None:
    noise = GENERATOR.normal(size=Y.shape).astype(np.float32)
    optimizer = cr.optim.SGD(lr=cr.optim.Plateau(lr=0.05, factor=0.5, patience=1))
    kept: list[Any] = []

    class Keep(Callback):
        def on_start(self, trainer: Any, epochs: int, steps: int) -> None:
            kept.append(trainer)

    cr.fit(network(), (X, noise), optimizer=optimizer, epochs=30, callbacks=[Keep()])
    assert kept[0].state()["optimizer.scale"] < 1
    assert len(kept[0]._steps) <= 2


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    run = cr.fit(network(), (X, Y * 1e30), optimizer=cr.optim.SGD(lr=1e10), epochs=50)
    assert "not finite" in run.result["reason"]
    assert len(run.history) < 50


def test_a_negative_class_number_is_named() -> None:
    with pytest.raises(DataError, match=r"class number -1, first in row"):
        cr.fit(network(2), (X, np.where(X[:, 0] > 0, 1, -1)), loss=cr.nn.CrossEntropyLoss())


def test_a_loss_given_as_a_module_is_measured_like_one_given_by_name() -> None:
    assert "r2" in cr.fit(network(), (X, Y), loss=cr.nn.MSELoss(), epochs=1).metrics


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((X, Y[:-1]), "different numbers of rows"),
        ((X[:0], Y[:0]), "no rows"),
        ((np.where(X > 2, np.nan, X), Y), "not finite, first in row"),
        (X, "data=\\(inputs, targets\\)"),
    ],
)
def test_bad_data_is_named(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        cr.fit(network(), data)


def test_interrupted_and_resumed_is_not_interrupted(tmp_path: Path) -> None:
    class PressCtrlC(Callback):
        def on_epoch(self, progress: Progress) -> None:
            if progress.epoch == 4:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGINT)

    options: dict[str, Any] = {"epochs": 9, "seed": 1, "early_stopping": 7}
    whole = cr.fit(network(dropout=0.2), (X, Y), **options)
    with pytest.raises(Interrupted, match=r"saved.*--resume"):
        cr.fit(network(dropout=0.2), (X, Y), runs=tmp_path, callbacks=[PressCtrlC()], **options)
    (folder,) = (path.parent for path in tmp_path.glob("*/recipe.toml"))
    with pytest.raises(RunError, match="another recipe"):
        cr.fit(network(dropout=0.1), (X, Y), resume=folder, **options)
    resumed = cr.fit(network(dropout=0.2), (X, Y), resume=folder, **options)
    assert resumed.history == whole.history
    for path, value in whole.model.state_dict().items():
        assert np.asarray(value).tobytes() == np.asarray(resumed.model.state_dict()[path]).tobytes()
