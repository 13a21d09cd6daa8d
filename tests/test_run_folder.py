"""Run folders: atomic files, readable errors, an index that can be lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainrule import atomic, run
from chainrule.errors import RunError
from chainrule.recipe import Recipe
from chainrule.run import Checkpoint, RunFolder

RECIPE = Recipe.from_document({"data": {"source": "a.csv", "target": "price"}})


def test_arrays_come_back_with_their_bits(tmp_path: Path) -> None:
    folder = run.create(tmp_path, "Price ü", RECIPE)
    arrays: dict[str, Any] = {
        "a": np.array([[0.1, np.nan], [np.inf, -0.0]]),
        "b": np.float32(1) / np.arange(1, 7, dtype=np.float32)[::2],
        "c": np.int64(3) * np.ones((), np.int64),
        "d": np.zeros((0, 2), bool),
        "e": np.arange(6.0).reshape(2, 3).T,
    }
    folder.write_checkpoint(Checkpoint(arrays, {"epoch": 3, "best": float("inf"), "loss": 0.1}))
    found = folder.checkpoint()
    assert found is not None
    assert found.progress == {"epoch": 3, "best": float("inf"), "loss": 0.1}
    for name, value in arrays.items():
        assert found.arrays[name].shape == value.shape
        assert found.arrays[name].tobytes() == np.ascontiguousarray(value).tobytes()


@pytest.mark.parametrize("cut", [0, 4, 40, -1])
def test_a_cut_off_checkpoint_is_named(tmp_path: Path, cut: int) -> None:
    folder = run.create(tmp_path, "x", RECIPE)
    folder.write_checkpoint(Checkpoint({"a": np.zeros(50)}, {}))
    path = folder.path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RunError, match=r"checkpoint\.safetensors cannot be read"):
        folder.checkpoint()


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = run.create(tmp_path, "x", RECIPE)
    save_file({"a": np.zeros(3)}, folder.path / "weights.safetensors")
    with pytest.raises(RunError, match=r"weights\.safetensors cannot be read"):
        folder.arrays("weights.safetensors")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic.write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(RunError, match="cannot write"):
        run.create(tmp_path / "runs", "x", RECIPE)


def test_two_runs_in_one_second_have_two_folders(tmp_path: Path) -> None:
    names = {run.create(tmp_path, "same", RECIPE).name for _ in range(5)}
    assert len(names) == 5


def test_the_history_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    folder = run.create(tmp_path, "x", RECIPE)
    for epoch in range(5):
        folder.append_history({"epoch": epoch})
    with (folder.path / "history.jsonl").open("a") as file:
        file.write('{"epo')
    assert [row["epoch"] for row in folder.history()] == [0, 1, 2, 3, 4]
    folder.cut_history(2)
    assert [row["epoch"] for row in folder.history()] == [0, 1]


def test_the_index_lists_and_can_be_lost(tmp_path: Path) -> None:
    first, second = run.create(tmp_path, "a", RECIPE), run.create(tmp_path, "b", RECIPE)
    run.record(first, "training")
    run.record(first, "finished", {"task": "regression", "headline": {"metric": "rmse", "value": 2.5}})
    run.record(second, "training")
    listed = {row["name"]: row for row in run.listing(tmp_path)}
    assert listed[first.name]["value"] == 2.5
    assert listed[second.name]["state"] == "training"
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    first.write_document("result.json", {"task": "regression", "headline": {"metric": "rmse", "value": 2.5}})
    listed = {row["name"]: row for row in run.listing(tmp_path)}
    assert listed[first.name]["state"] == "finished"
    assert listed[second.name]["state"] == "interrupted"


def test_an_unreadable_index_is_put_aside(tmp_path: Path) -> None:
    folder = run.create(tmp_path, "a", RECIPE)
    (tmp_path / "index.sqlite").write_bytes(b"this is no database" * 100)
    assert [row["name"] for row in run.listing(tmp_path)] == [folder.name]


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        RunFolder(tmp_path).recipe()


def test_only_one_process_trains_a_run(tmp_path: Path) -> None:
    folder = run.create(tmp_path, "a", RECIPE)
    with folder.locked(), pytest.raises(RunError, match="another process"), RunFolder(folder.path).locked():
        pass
    with folder.locked():
        pass
