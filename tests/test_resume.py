"""kill -9 at any moment, then resume: the weights are those of the run that was left alone, bit for bit."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from chainrule.errors import RunError
from chainrule.run import RunFolder
from chainrule.train import table

WORKER = Path(__file__).with_name("resume_worker.py")
RECIPE_FILE = Path(__file__).with_name("resume_recipe.toml")
RUNS, KILLS_PER_RUN = 7, 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(700, 5))
    y = np.sin(rows[:, 0]) + rows[:, 1] * rows[:, 2] + 0.1 * generator.normal(size=700)
    path = tmp_path_factory.mktemp("resume") / "data.csv"
    lines = [",".join(f"{each:.6f}" for each in (*row, target)) for row, target in zip(rows, y, strict=True)]
    path.write_text("a,b,c,d,e,y\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def _start(source: Path, runs: Path) -> subprocess.Popen[bytes]:
    """`chainrule train` on the table, or `chainrule train --resume` of the run that is there already."""
    run = _only_run(runs)
    options = ["--recipe", RECIPE_FILE, "--set", f"data.source={source}", "--no-baselines", "--no-report"]
    arguments = ["--resume", run, "--no-baselines", "--no-report"] if run else [*options, "--runs", runs]
    command = [sys.executable, str(WORKER), "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def _only_run(runs: Path) -> Path | None:
    found = sorted(path.parent for path in runs.glob("*/recipe.toml"))
    return found[0] if found else None


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nobody killed, and how long its process took when its code had been compiled before."""
    _finish(_start(source, tmp_path_factory.mktemp("first")))
    runs = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    _finish(_start(source, runs))
    run = _only_run(runs)
    assert run is not None
    return run, time.monotonic() - started


def _same_bits(run: Path, other: Path) -> None:
    ours, _ = RunFolder(run).arrays("weights.safetensors")
    theirs, _ = RunFolder(other).arrays("weights.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name
    assert RunFolder(run).history() == RunFolder(other).history()
    assert RunFolder(run).document("result.json") == RunFolder(other).document("result.json")


@pytest.mark.parametrize("number", range(RUNS))
def test_killed_at_random_times(
    number: int, source: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    reference, seconds = undisturbed
    moments = random.Random(number)
    kills = 0
    while kills < KILLS_PER_RUN:
        process = _start(source, tmp_path)
        time.sleep(moments.uniform(0.2, 1.0) * seconds)
        process.kill()
        process.communicate()
        kills += 1
    _finish(_start(source, tmp_path))
    run = _only_run(tmp_path)
    assert run is not None
    _same_bits(run, reference)


def test_two_runs_with_one_seed_are_the_same(
    source: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    _finish(_start(source, tmp_path))
    run = _only_run(tmp_path)
    assert run is not None
    _same_bits(run, undisturbed[0])


def test_a_run_does_not_go_on_with_other_data(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data.csv"
    copy.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    runs = tmp_path / "runs"
    process = _start(copy, runs)
    while process.poll() is None and not list(runs.glob("*/checkpoint.safetensors")):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    run = _only_run(runs)
    assert run is not None
    (run / "result.json").unlink(missing_ok=True)
    copy.write_text(copy.read_text(encoding="utf-8").replace("0", "1", 1), encoding="utf-8")
    with pytest.raises(RunError, match="has changed since it began"):
        table.resume(run)
