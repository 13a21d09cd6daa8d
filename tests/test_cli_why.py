"""`chainrule why`: the numbers of the library, in text and in JSON; what is wrong is named with its cure."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.cli import main
from chainrule.train import replay

Why = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network on a table, in a folder of runs."""
    place = tmp_path_factory.mktemp("why")
    rows = np.random.default_rng(0).normal(size=(90, 3))
    lines = [",".join(f"{each:.6f}" for each in (*row, row[0] - 2 * row[1])) for row in rows]
    (place / "data.csv").write_text("a,b,c,y\n" + "\n".join(lines) + "\n", encoding="utf-8")
    recipe = cr.Recipe.from_document(
        {
            "data": {"source": str(place / "data.csv"), "target": "y"},
            "network": {"hidden": [5, 4], "activation": "tanh"},
            "training": {"epochs": 3, "batch_size": 16},
        }
    )
    trained = cr.fit(recipe, runs=place / "runs")
    assert trained.folder is not None
    return trained.folder.path


@pytest.fixture
def why(run: Path, capsys: pytest.CaptureFixture[str]) -> Why:
    def told(*arguments: str) -> tuple[int, str, str]:
        status = main(["why", str(run), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return told


def test_a_number_and_its_largest_parts(run: Path, why: Why) -> None:
    status, told, error = why("layers.0.weight[3,1]", "--step", "2", "--depth", "3")
    assert (status, error) == (0, "")
    replayed = replay(run, 2)
    opened = cr.explain(replayed, "layers.0.weight", (3, 1))
    assert told.startswith(f"Step 2 of {run}, 16 rows, loss {replayed.loss.item():.6g}\n")
    for _ in range(4):
        assert f"\n{opened}\n" in told
        opened = opened.children[0].open() if opened.children else opened
    assert any(name in told for name in replayed.names)


def test_the_output_of_a_layer(run: Path, why: Why) -> None:
    _, told, _ = why("layers.2[7, 1]", "--depth", "0", "--most", "2")
    assert f"\n{cr.explain(replay(run), 'layers.2', (7, 1), most=2)}\n" in told
    _, told, _ = why("layers.2[7, 1]", "--of", "gradient", "--depth", "0")
    assert str(cr.explain(replay(run), "layers.2", (7, 1), of="gradient")) in told


def test_names_are_those_of_the_library(why: Why) -> None:
    assert why("loss", "--depth", "0")[1].count("\nloss = ") == 1
    assert why("layers.0.weight[-1, -2]")[1] == why("layers.0.weight[4,1]")[1]


def test_a_parameter_and_all_of_them(run: Path, why: Why) -> None:
    found = cr.ledger(run, step=0)
    assert str(found["layers.2.weight"]) in why("layers.2.weight", "--step", "0")[1]
    assert str(found) in why("--step", "0")[1]


def test_json_is_the_same(run: Path, why: Why) -> None:
    document: Any = json.loads(why("--json")[1])
    found = cr.ledger(run)
    assert (document["step"], document["loss"]) == (replay(run).step, found.loss)
    for told, entry in zip(document["parameters"], found.entries, strict=True):
        assert told["name"] == entry.name
        assert sum(term["decades"] for term in told["terms"]) == pytest.approx(entry.log10_norm)
    document = json.loads(why("layers.0.weight[3,1]", "--json", "--depth", "1", "--most", "3")[1])
    first, second = document["opened"]
    assert first["value"] == cr.explain(run, "layers.0.weight", (3, 1)).value
    whole = sum(part["value"] for part in first["parts"]) + first["remainder"]["value"]
    assert whole == pytest.approx(first["value"], rel=1e-5)
    assert second["value"] == first["parts"][0]["value"]
    assert json.loads(why("layers.0.bias", "--json")[1])["parameter"]["name"] == "layers.0.bias"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layers.0.weigth[3,1]"], "nothing called 'layers.0.weigth', but on layers.0.weight,"),
        (["layer.0.weight"], "nothing called 'layer.0.weight', but on layers.0.weight,"),
        (
            ["layers.0.weight[3]"],
            "layers.0.weight has shape (5, 3): (3,) is none of its elements; the last is (4, 2)",
        ),
        (["layers.0.weight[3,5"], "nothing called 'layers.0.weight[3,5', but on layers.0.weight,"),
        (["layers[0].weight"], "nothing called 'layers[0].weight', but on layers.0.weight,"),
        (["layers.2"], "layers.2 is no parameter: ask for one number of it, as in layers.2[14,3], its last"),
        (["--step", "99"], "there is no step 99: the run has steps 0 to"),
    ],
)
def test_what_there_is_not(arguments: list[str], words: str, why: Why) -> None:
    status, told, error = why(*arguments)
    assert (status, told) == (2, "")
    assert words in error
    assert error.count("\n") == 1


def test_a_run_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "nowhere"]) == 2
    assert "There is no run 'nowhere'" in capsys.readouterr().err


def test_a_python_model_is_explained_in_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.ones((20, 2), np.float32)
    trained = cr.fit(cr.nn.Linear(2, 1), (data, data[:, :1]), epochs=1, runs=tmp_path)
    assert trained.folder is not None
    assert main(["why", str(trained.folder.path)]) == 2
    assert "cr.train.replay(" in capsys.readouterr().err


def test_what_is_piped_is_plain(run: Path) -> None:
    command = [sys.executable, "-m", "chainrule.cli", "why", str(run), "layers.0.weight[3,1]"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in printed
    assert all(line == line.rstrip() or line.startswith(" ") for line in printed.splitlines())


def test_a_training_that_fails_names_its_first_bad_number(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--target",
        "y",
        "--runs",
        str(tmp_path),
        "--optimizer",
        "sgd",
        "--lr",
        "1e30",
        "--no-baselines",
    ]
    assert main(["train", str(run.parents[1] / "data.csv"), *options, "--no-report"]) == 0
    told = capsys.readouterr().out
    assert "Failure " in told
    assert "for row " in told or "the update by SGD made" in told
    assert "A smaller learning rate" in told
    assert main(["why", "latest", "--runs", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bad_number"]["step"] == document["step"]
    assert main(["train", str(run.parents[1] / "data.csv"), *options, "--no-report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bad_number"]["cure"]
