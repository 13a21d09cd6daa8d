"""Bad input: exit status 2, one paragraph that names the place and the cure, nothing half-written."""

import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from chainrule.cli import main

ROWS = 300
FAST = ("--no-baselines", "--no-report", "--hidden", "4", "--epochs", "2")


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    error: str

    @property
    def prose(self) -> str:
        """Standard output without line breaks, which fall where the length of a figure puts them."""
        return " ".join(self.output.split())


Command = Callable[..., Ended]


@pytest.fixture
def chainrule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        status = main(arguments)
        return Ended(status, *capsys.readouterr())

    return run


def houses(**replaced: list[object]) -> dict[str, list[object]]:
    """A small table that can be learned from, with some columns replaced."""
    random = np.random.default_rng(0)
    area = random.integers(40, 200, ROWS)
    price = 1000 * area + random.integers(0, 9999, ROWS)
    street = [("Elm", "Oak", "Ash")[k] for k in random.integers(0, 3, ROWS)]
    return {"area": area.tolist(), "street": list(street), "price": price.tolist(), **replaced}


def write(columns: dict[str, list[object]], name: str = "houses.csv", header: str = "") -> str:
    lines = [
        header or ",".join(columns),
        *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
    ]
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def with_entry(column: str, row: int, entry: object) -> dict[str, list[object]]:
    """The table with one entry replaced; rows are counted from 1."""
    table = houses()
    table[column][row - 1] = entry
    return table


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}


def refused(ended: Ended, *told: str) -> None:
    """The command ended as bad use should, and its paragraph says all of `told`."""
    assert ended.status == 2
    assert "Traceback" not in ended.error
    assert ended.error.count("\n") == 1, "one paragraph"
    assert len(ended.error.split()) >= 8, "a sentence that helps, not a code"
    for words in told:
        assert words in ended.error


def refused_training(chainrule: Command, data: str, target: str, *told: str) -> None:
    """Training is refused before anything is written."""
    before = files()
    ended = chainrule("train", data, "--target", target, *FAST)
    refused(ended, *told)
    assert ended.output == ""
    assert files() == before


# -- the table -----------------------------------------------------------------------------------------------
def test_missing_file_suggests_the_nearest(chainrule: Command) -> None:
    write(houses())
    refused_training(chainrule, "house.csv", "price", "no file 'house.csv'", "'houses.csv'")


def test_empty_file(chainrule: Command) -> None:
    Path("houses.csv").touch()
    refused_training(chainrule, "houses.csv", "price", "'houses.csv' is empty", "column names")


def test_target_that_is_not_in_the_table_suggests_the_nearest(chainrule: Command) -> None:
    refused_training(chainrule, write(houses()), "prize", "'prize'", "Did you mean 'price'?", "area, street")


def test_constant_target(chainrule: Command) -> None:
    table = write(houses(price=[5] * ROWS))
    refused_training(chainrule, table, "price", "'price'", "5 in every row", "another target")


def test_all_rows_lack_the_target(chainrule: Command) -> None:
    table = write(houses(price=[""] * ROWS))
    refused_training(chainrule, table, "price", "'price'", "'houses.csv'", "No row", "another target")


@pytest.mark.parametrize("column", ["area", "price"])
def test_text_in_a_column_of_numbers(chainrule: Command, column: str) -> None:
    table = write(with_entry(column, 18, "unknown"))
    refused_training(chainrule, table, "price", f"'{column}'", "row 18", "'unknown'", "leave it empty")


def test_one_class_only(chainrule: Command) -> None:
    table = write(houses(price=["sold"] * ROWS))
    refused_training(chainrule, table, "price", "'price'", "one class only", "'sold'", "Add rows")


def test_a_hundred_thousand_rare_categories(chainrule: Command) -> None:
    levels = 11_200  # in each of nine columns, every level in two rows: too few to learn anything of one
    columns: dict[str, list[object]] = {
        f"code{j}": [f"{'abcdefghi'[j]}{(7919 * k + j) % levels}" for k in range(2 * levels)]
        for j in range(9)
    }
    columns["price"] = [k % 1000 / 7 for k in range(2 * levels)]
    refused_training(
        chainrule, write(columns), "price", "'code0'", "levels", "Add columns that measure something"
    )


def test_a_rare_category_beside_useful_columns_is_left_out_and_said(chainrule: Command) -> None:
    table = write(houses(street=[f"street {k % 150}" for k in range(ROWS)]))
    ended = chainrule("train", table, "--target", "price", *FAST)
    assert ended.status == 0
    assert re.search(r"1 +left out +street \(", ended.output)


def test_more_classes_than_can_be_learned(chainrule: Command) -> None:
    table = write(houses(price=[f"kind {k % 200}" for k in range(ROWS)]))
    refused_training(chainrule, table, "price", "'price'", "200 classes", "300 rows")


@pytest.mark.parametrize(("column", "entry"), [("area", "inf"), ("price", "-inf")])
def test_infinite_value(chainrule: Command, column: str, entry: str) -> None:
    table = write(with_entry(column, 42, entry))
    refused_training(chainrule, table, "price", f"'{column}'", "infinite", "row 42", "missing")


def test_duplicate_column_names(chainrule: Command) -> None:
    table = write(houses(), header="area,area,price")
    refused_training(chainrule, table, "price", "'area'", "1 and 2", "Rename")


def test_bytes_that_are_not_utf8(chainrule: Command) -> None:
    text = Path(write(with_entry("street", 7, "Schloßallee"))).read_text(encoding="utf-8")
    Path("houses.csv").write_bytes(text.encode("latin-1"))
    refused_training(chainrule, "houses.csv", "price", "not UTF-8", "line 8", "0xdf", "iconv")


# -- settings ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("training.batch_size=0", "batch_size = 0"),
        ("training.epochs=-1", "epochs = -1"),
        ("training.clip_norm=0.0", "clip_norm"),
        ("training.backend=abacus", "'abacus'"),
        ("network.activation=rlu", "'rlu'"),
        ("network.hidden=[0]", "without units"),
        ("network.dropout=1.0", "dropout = 1.0"),
        ("split.test=1.5", "1.5"),
        ("data.task=regresion", "'regresion'"),
        ("data.drop=['stret']", "'street'"),
        ("optimizer.name=addam", "'adam'"),
        ("optimizer.learning_rate=1", "'learning_rate'"),
        ("loss.name=msee", "'msee'"),
    ],
)
def test_settings_that_cannot_be(chainrule: Command, setting: str, told: str) -> None:
    before = files() | {write(houses())}
    ended = chainrule("train", "houses.csv", "--target", "price", "--set", setting)
    assert (ended.status, ended.output) == (2, "")
    assert told in ended.error
    assert ended.error.count("\n") == 1
    assert files() == before


def test_a_training_that_diverges_says_so(chainrule: Command) -> None:
    ended = chainrule("train", write(houses()), "--target", "price", "--lr", "1e30", "--optimizer", "sgd")
    assert ended.status == 0
    assert "Training failed: the loss is not finite" in ended.prose
    assert "lower learning rate" in ended.prose


# -- where results go ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["file", "file/runs"])
def test_runs_below_a_file(chainrule: Command, place: str) -> None:
    Path("file").touch()
    before = files() | {write(houses())}
    ended = chainrule("train", "houses.csv", "--target", "price", "--runs", place, *FAST)
    refused(ended, "cannot write", place, "choose another place")
    assert files() == before


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder nobody may write into: by its permissions, or by a refusal that root meets as well."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o555)
    if os.geteuid() != 0:
        return folder
    make = os.mkdir

    def refuse(path: str, *arguments: int) -> None:
        if Path(path).parent == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        make(path, *arguments)

    monkeypatch.setattr(os, "mkdir", refuse)
    return folder


def test_no_permission_to_write(chainrule: Command, unwritable: Path) -> None:
    before = files() | {write(houses())}
    ended = chainrule("train", "houses.csv", "--target", "price", "--runs", str(unwritable), *FAST)
    refused(ended, "no permission", str(unwritable), "choose another folder")
    assert files() == before


class FullDisk:
    """From its `capacity`-th use on, syncing a file to disk fails as it does where no space is left."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used, self.sync = capacity, 0, os.fsync

    def __call__(self, handle: int) -> None:
        if self.used >= self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.used += 1
        self.sync(handle)


def test_disk_full_at_any_write(chainrule: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(houses())
    counting = FullDisk(10**9)
    monkeypatch.setattr(os, "fsync", counting)
    assert chainrule("train", table, "--target", "price", *FAST).status == 0
    for capacity in range(counting.used):
        runs = Path(f"runs-{capacity}")
        monkeypatch.setattr(os, "fsync", FullDisk(capacity))
        ended = chainrule("train", table, "--target", "price", "--runs", str(runs), *FAST)
        refused(ended, "disk is full", str(runs), "free some space")
        assert all_whole(runs)


def test_disk_full_in_the_index(chainrule: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says in its own way that nothing more fits; the run is listed once there is space."""
    table, connect = write(houses()), sqlite3.connect

    def cramped(path: Path, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        if path.name == "index.sqlite":
            connection.execute("PRAGMA max_page_count = 1")  # smaller than any table
        return connection

    with monkeypatch.context() as full:
        full.setattr(sqlite3, "connect", cramped)
        ended = chainrule("train", table, "--target", "price", *FAST)
    refused(ended, "index.sqlite", "disk is full", "free some space")
    assert all_whole(Path("runs"))
    assert len(json.loads(chainrule("runs", "--json").output)) == 1


def all_whole(folder: Path) -> bool:
    """No temporary file was left behind, and every document can be read."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    return not [path for path in folder.rglob(".*.*") if path.is_file() and path.name != ".lock"]


def test_disk_full_while_predicting_leaves_the_old_file(
    chainrule: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(houses())
    assert chainrule("train", table, "--target", "price", *FAST).status == 0
    Path("out.csv").write_text("old\n", encoding="utf-8")
    before = files()
    monkeypatch.setattr(os, "fsync", FullDisk(0))
    refused(chainrule("predict", "latest", table, "-o", "out.csv"), "out.csv", "disk is full")
    assert Path("out.csv").read_text(encoding="utf-8") == "old\n"
    assert files() == before


# -- Ctrl-C --------------------------------------------------------------------------------------------------
def lines_until(process: subprocess.Popen[str], wanted: str) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if wanted in line:
            return


def test_ctrl_c_in_mid_epoch_saves_and_says_how_to_go_on(chainrule: Command) -> None:
    table = write(houses())
    command = [
        sys.executable,
        "-m",
        "chainrule.cli",
        "train",
        table,
        "--target",
        "price",
        "--epochs",
        "100000",
    ]
    with subprocess.Popen(
        [*command, "--batch-size", "1", "--no-baselines"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        list(lines_until(process, "Training"))
        while not list(Path("runs").glob("*/history.jsonl")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    ended = Ended(process.returncode, "", error)
    refused(ended, "stopped in epoch", "saved", "chainrule train --resume runs/")
    (run,) = json.loads(chainrule("runs", "--json").output)
    assert run["state"] == "interrupted"
    assert all_whole(Path("runs"))
    assert f"runs/{run['name']}" in error
    # Resuming works: it goes on, and a second Ctrl-C says the same again.
    with subprocess.Popen(
        [*command[:3], "train", "--resume", f"runs/{run['name']}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        list(lines_until(process, "Training"))
        done = len(json.loads(chainrule("show", run["name"], "--json").output)["history"])
        while (
            len(Path("runs", run["name"], "history.jsonl").read_text(encoding="utf-8").splitlines()) <= done
        ):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    refused(Ended(process.returncode, "", error), "chainrule train --resume runs/")


def test_ctrl_c_and_resume_end_as_without(chainrule: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights, bit for bit, whether or not training was interrupted in mid-epoch."""
    from chainrule.train import stepping

    table = write(houses())
    settings = ("--target", "price", "--no-baselines", "--no-report", "--epochs", "5", "--hidden", "8")
    assert chainrule("train", table, *settings, "--runs", "whole").status == 0
    slices, taken = stepping.Pace.slices, []

    def interrupting(pace: stepping.Pace, block: np.ndarray, numbers: int) -> Iterator[np.ndarray]:
        pace._fixed = pace._steps = 1  # step by step, whatever the machine's speed
        for part in slices(pace, block, numbers):
            yield part
            taken.append(len(part))
            if len(taken) == 7:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(stepping.Pace, "slices", interrupting)
    refused(chainrule("train", table, *settings, "--runs", "cut"), "--resume cut/")
    assert (
        chainrule("train", "--resume", "latest", "--runs", "cut", "--no-baselines", "--no-report").status == 0
    )
    (whole,), (cut,) = (list(Path(name).glob("*/weights.safetensors")) for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
