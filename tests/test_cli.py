"""The command line: what each verb does, prints and returns; errors in the table are in test_bad_input.py."""

import csv
import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pytest

import chainrule as cr
from chainrule.cli import front, main
from chainrule.cli.settings import kinds, recipe_from, widths
from chainrule.errors import RecipeError
from chainrule.recipe import Recipe
from chainrule.run import RunFolder
from chainrule.train.table import load

FAST = ("--hidden", "8", "--epochs", "3", "--no-baselines", "--no-report")
ESCAPE = "\x1b"


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    error: str

    @property
    def prose(self) -> str:
        """Standard output without line breaks, which fall where the length of a figure puts them."""
        return " ".join(self.output.split())

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document it should be."""
        assert (self.status, self.error) == (0, "")
        return json.loads(self.output)


Command = Callable[..., Ended]


@pytest.fixture
def chainrule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in a folder that holds houses.csv and flowers.csv."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    area, street = random.integers(40, 200, 200), random.integers(0, 3, 200)
    write(
        "houses.csv",
        area=area,
        street=np.array(["Elm", "Oak", "Ash"])[street],
        price=1000 * area + 50 * street,
    )
    kind = np.array(["iris", "rose", "lily"])[street]
    write("flowers.csv", length=street + random.normal(0, 0.1, 200), kind=kind)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        status = main(arguments)
        return Ended(status, *capsys.readouterr())

    return run


def write(name: str, **columns: np.ndarray) -> None:
    with Path(name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


@pytest.fixture
def trained(chainrule: Command) -> Path:
    """The folder of a run on houses.csv."""
    return Path(chainrule("train", "houses.csv", "--target", "price", *FAST, "--json").document["run"])


# -- the front -----------------------------------------------------------------------------------------------
def test_help_names_every_verb_with_what_it_does(chainrule: Command) -> None:
    ended = chainrule("--help")
    assert (ended.status, ended.error) == (0, "")
    for name, verb in front.VERBS.items():
        assert f"{name:8}  {verb.summary}" in ended.output
        help_ = chainrule(name, "--help")
        assert help_.status == 0
        assert "--json" in help_.output
        assert ESCAPE not in help_.output


def test_no_verb_prints_the_help_and_is_bad_use(chainrule: Command) -> None:
    ended = chainrule()
    assert ended.status == 2
    assert ended.output == chainrule("--help").output


def test_version(chainrule: Command) -> None:
    assert chainrule("--version").output.startswith("chainrule 0.")


def test_a_mistyped_verb_gets_the_nearest(chainrule: Command) -> None:
    ended = chainrule("trian", "houses.csv")
    assert ended.status == 2
    assert "'train'" in ended.error


@pytest.mark.parametrize(
    "arguments", [("train", "--epochs", "many"), ("predict",), ("runs", "--frobnicate"), ("train", "a", "b")]
)
def test_bad_options_are_bad_use(chainrule: Command, arguments: tuple[str, ...]) -> None:
    ended = chainrule(*arguments)
    assert ended.status == 2
    assert ended.output == ""
    assert f"chainrule {arguments[0]} --help" in ended.error


def test_help_loads_neither_numpy_nor_typer() -> None:
    program = (
        "import sys, chainrule.cli\n"
        "assert chainrule.cli.main(['--help']) == 0\n"
        "print(*sorted({'numpy', 'typer', 'rich', 'duckdb', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr.split() == []


def test_a_defect_says_what_to_do_and_shows_its_traceback_on_demand(
    chainrule: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("chainrule.run.listing", broken)
    ended = chainrule("runs")
    assert ended.status == 70
    assert "report it" in ended.error
    assert "ZeroDivisionError: by zero" in ended.error
    assert "Traceback" not in ended.error
    assert "Traceback" in chainrule("runs", "--debug").error


def test_a_reader_that_has_seen_enough_gets_no_complaint(trained: Path) -> None:
    command = f"{sys.executable} -m chainrule.cli predict {trained} houses.csv | head -c 1"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("p", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_standard_output_on_a_full_disk(trained: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "chainrule.cli", "predict", trained, "houses.csv"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 2
    assert "standard output: No space left" in ended.stderr


# -- train ---------------------------------------------------------------------------------------------------
def test_train_tells_what_it_did(chainrule: Command) -> None:
    ended = chainrule("train", "houses.csv", "--target", "price", "--hidden", "8,4", "--epochs", "3")
    assert ended.status == 0
    for words in (
        "houses.csv: 200 rows, 3 columns",
        "a comma between fields",
        "price, a number from",
        "2 columns used",
        "standardised",
        "one-hot, 3 levels",
        "140 to train on, 20 to validate on, 40 to test on",
        "layers.0  Linear  rows × 8",
        "epoch 3 of 3: loss",
        "gradient norm",
        "rows/s",
        "gradient boosting",
        "ridge regression",
        "always the mean",
        "this network",
        "On 40 rows never seen in training",
        "chainrule predict runs/",
    ):
        assert words in ended.output
    assert ESCAPE not in ended.output
    assert all(line == line.rstrip() for line in ended.output.splitlines())


def test_verbose_names_every_column(chainrule: Command) -> None:
    ended = chainrule("train", "houses.csv", "--target", "price", *FAST, "--verbose")
    assert "one-hot, 3 levels" in ended.prose
    assert "because" in ended.output


def test_train_writes_one_json_document(chainrule: Command) -> None:
    settings = ("--hidden", "8", "--epochs", "3", "--json")
    document = chainrule("train", "houses.csv", "--target", "price", *settings).document
    run = load(document["run"])
    assert document["result"] == run.result
    assert document["comparison"]["network"] == pytest.approx(run.metrics)
    assert {each["name"] for each in document["comparison"]["baselines"]} >= {
        "gradient boosting",
        "ridge regression",
    }
    assert Path(document["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_options_become_the_recipe(chainrule: Command) -> None:
    document = chainrule(
        "train", "houses.csv", "--target", "price", "--task", "regression", "--drop", "street",
        "--hidden", "8,4", "--activation", "tanh", "--dropout", "0.1", "--optimizer", "sgd", "--lr", "0.01",
        "--epochs", "2", "--batch-size", "16", "--seed", "5", "--set", "network.normalisation=batch",
        "--set", "split.test=0.3", "--no-baselines", "--json",
    ).document  # fmt: skip
    recipe = RunFolder(document["run"]).recipe()
    assert (recipe.data.source, recipe.data.target, recipe.data.task) == ("houses.csv", "price", "regression")
    assert recipe.data.drop == ("street",)
    assert (recipe.network.hidden, recipe.network.activation, recipe.network.dropout) == ((8, 4), "tanh", 0.1)
    assert recipe.network.normalisation == "batch"
    assert recipe.optimizer == {"name": "sgd", "lr": 0.01}
    assert (recipe.training.epochs, recipe.training.batch_size) == (2, 16)
    assert (recipe.training.seed, recipe.split.seed, recipe.split.test) == (5, 5, 0.3)


def test_a_recipe_is_enough(chainrule: Command, trained: Path) -> None:
    again = chainrule("train", "--recipe", str(trained / "recipe.toml"), "--no-baselines", "--json").document
    assert (Path(again["run"]) / "weights.safetensors").read_bytes() == (
        trained / "weights.safetensors"
    ).read_bytes()


def test_resume_takes_no_settings(chainrule: Command, trained: Path) -> None:
    ended = chainrule("train", "--resume", str(trained), "--epochs", "9")
    assert ended.status == 2
    assert "own recipe" in ended.error


def test_resuming_a_finished_run_shows_its_result(chainrule: Command, trained: Path) -> None:
    before = (trained / "weights.safetensors").read_bytes()
    ended = chainrule("train", "--resume", trained.name, "--no-baselines")
    assert ended.status == 0
    assert "this network" in ended.prose
    assert (trained / "weights.safetensors").read_bytes() == before


def test_classes(chainrule: Command) -> None:
    ended = chainrule("train", "flowers.csv", "--target", "kind", "--hidden", "8", "--epochs", "60")
    assert ended.status == 0
    assert "kind, 3 classes: iris, lily, rose" in ended.prose
    assert "log loss" in ended.prose
    assert "logistic regression" in ended.prose
    assert "names the right class in" in ended.prose


# -- settings ------------------------------------------------------------------------------------------------
def test_assignments_read_values_as_toml_does() -> None:
    recipe = recipe_from(
        None,
        [
            "network.hidden=[3, 2]",
            "network.residual=true",
            "optimizer.schedule.name=cosine",
            "data.target=the price",
        ],
        {},
    )
    assert recipe.network.hidden == (3, 2)
    assert recipe.network.residual is True
    assert recipe.optimizer["schedule"] == {"name": "cosine"}
    assert recipe.data.target == "the price"


@pytest.mark.parametrize("assignment", ["network", "hidden=3", "network.hidden.width=3", ".x=1"])
def test_a_wrong_assignment_says_how_to_write_one(assignment: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        recipe_from(None, [assignment], {})


def test_an_unknown_setting_gets_the_nearest() -> None:
    with pytest.raises(RecipeError, match="'activation'"):
        recipe_from(None, ["network.activations=tanh"], {})


def test_another_optimizer_begins_with_its_own_defaults() -> None:
    adamw, sgd = (
        Recipe().optimizer,
        recipe_from(None, [], {"optimizer": {"name": "sgd", "lr": 0.1}}).optimizer,
    )
    assert "weight_decay" in adamw
    assert sgd == {"name": "sgd", "lr": 0.1}
    assert recipe_from(None, [], {"optimizer": {"lr": 0.1}}).optimizer == {**adamw, "lr": 0.1}


def test_other_data_make_the_hash_of_a_recipe_void(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        Recipe.from_document({"data": {"source": "a.csv", "hash": "abc"}}).to_toml(), encoding="utf-8"
    )
    assert recipe_from(file, [], {}).data.hash == "abc"
    assert recipe_from(file, [], {"data": {"source": "b.csv"}}).data.hash == ""


def test_kinds() -> None:
    assert kinds(None) is None
    assert kinds(["zip=category", "a=b=number"]) == {"zip": "category", "a=b": "number"}
    with pytest.raises(RecipeError, match="COLUMN=KIND"):
        kinds(["zip"])


def test_a_column_is_read_as_asked(chainrule: Command) -> None:
    ended = chainrule("train", "houses.csv", "--target", "price", "--kind", "area=category", *FAST, "-v")
    assert re.search(r"^ +area +category ", ended.output, re.MULTILINE)
    assert chainrule("predict", "latest", "houses.csv").status == 0


def test_an_unknown_preprocessing_gets_the_nearest(chainrule: Command) -> None:
    ended = chainrule("train", "houses.csv", "--target", "price", "--set", "preprocessing.kind.area=category")
    assert ended.status == 2
    assert "Did you mean 'kinds'?" in ended.error


def test_widths() -> None:
    assert widths(None) is None
    assert widths("") == []
    assert widths("128, 64") == [128, 64]
    with pytest.raises(RecipeError, match="whole numbers"):
        widths("128x64")


# -- predict -------------------------------------------------------------------------------------------------
def test_predict_to_standard_output_to_csv_and_to_parquet(chainrule: Command, trained: Path) -> None:
    expected = load(trained).predict("houses.csv").values
    printed = chainrule("predict", str(trained), "houses.csv").output
    assert printed.splitlines()[0] == "price"
    assert [float(line) for line in printed.splitlines()[1:]] == expected.tolist()
    assert (
        chainrule("predict", "latest", "houses.csv", "-o", "out.csv").output
        == "200 predictions written to out.csv\n"
    )
    assert Path("out.csv").read_text(encoding="utf-8") == printed
    ended = chainrule(
        "predict", trained.name, "houses.csv", "-o", "out.parquet", "--keep", "street", "--json"
    )
    assert ended.document == {"rows": 200, "columns": ["street", "price"], "output": "out.parquet"}
    read = duckdb.sql("SELECT * FROM 'out.parquet'").fetchnumpy()
    assert read["price"].tolist() == expected.tolist()
    assert set(read["street"]) == {"Elm", "Oak", "Ash"}


def test_predicted_and_actual_side_by_side(chainrule: Command, trained: Path) -> None:
    ended = chainrule("predict", str(trained), "houses.csv", "--keep", "price", "--json")
    columns = ended.document["columns"]
    assert list(columns) == ["price", "predicted price"]
    _, *lines = Path("houses.csv").read_text(encoding="utf-8").splitlines()
    assert columns["price"] == [float(line.split(",")[2]) for line in lines]


def test_predicting_classes_gives_probabilities(chainrule: Command) -> None:
    chainrule("train", "flowers.csv", "--target", "kind", *FAST)
    header, first = chainrule("predict", "latest", "flowers.csv").output.splitlines()[:2]
    assert header == "kind,probability of iris,probability of lily,probability of rose"
    assert sum(map(float, first.split(",")[1:])) == pytest.approx(1)


def test_predictions_use_the_words_of_the_table(chainrule: Command) -> None:
    sold = np.array(["no", "yes"])[np.arange(200) % 2]
    write("sales.csv", area=np.arange(200) % 2 + np.random.default_rng(0).normal(0, 0.1, 200), sold=sold)
    chainrule("train", "sales.csv", "--target", "sold", *FAST)
    header, *lines = chainrule("predict", "latest", "sales.csv").output.splitlines()
    assert header == "sold,probability of no,probability of yes"
    assert {line.split(",")[0] for line in lines} <= {"no", "yes"}


def test_new_rows_may_hold_what_training_never_saw(chainrule: Command, trained: Path) -> None:
    Path("new.csv").write_text("street,area\nBroadway,80\n,\n", encoding="utf-8")
    assert len(chainrule("predict", str(trained), "new.csv").output.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere", "houses.csv"), "no run 'nowhere'"),
        (("latest", "absent.csv"), "absent.csv"),
        (("latest", "flowers.csv"), "area"),
        (("latest", "houses.csv", "-o", "out.xlsx"), ".csv or .parquet"),
        (("latest", "houses.csv", "-o", "runs"), "folder"),
        (("latest", "houses.csv", "--keep", "streat"), "Did you mean 'street'"),
    ],
)
def test_predictions_that_cannot_be(
    chainrule: Command, trained: Path, arguments: tuple[str, ...], told: str
) -> None:
    before = set(Path().rglob("*"))
    ended = chainrule("predict", *arguments)
    assert (ended.status, ended.output) == (2, "")
    assert told in ended.error
    assert set(Path().rglob("*")) == before


# -- runs, show, report, demo --------------------------------------------------------------------------------
def test_runs_are_listed_newest_first(chainrule: Command, trained: Path) -> None:
    chainrule("train", "flowers.csv", "--target", "kind", *FAST)
    printed = chainrule("runs").output.splitlines()
    assert printed[0].split() == ["run", "state", "target", "task", "result"]
    assert "kind" in printed[1]
    assert trained.name in printed[2]
    assert "RMSE" in printed[2]
    assert [row["target"] for row in chainrule("runs", "--json").document] == ["kind", "price"]


def test_no_runs_yet(chainrule: Command) -> None:
    assert "chainrule train" in chainrule("runs").output
    assert chainrule("runs", "--json").document == []


def test_show(chainrule: Command, trained: Path) -> None:
    printed = chainrule("show", "latest").output
    for words in (trained.name, "finished", "[network]", "layers.0", "one-hot", "this network"):
        assert words in printed
    document = chainrule("show", str(trained), "--json").document
    assert Recipe.from_document(document["recipe"]) == RunFolder(trained).recipe()
    assert [epoch["epoch"] for epoch in document["history"]] == [1, 2, 3]
    assert sum(layer["parameters"] for layer in document["layers"]) == sum(
        parameter.size for parameter in load(trained).model.parameters()
    )


def test_a_report_of_a_run_on_disk(chainrule: Command, trained: Path) -> None:
    assert chainrule("report", "latest").output.strip() == str(trained / "report.html")
    assert chainrule("report", "latest", "-o", "here.html", "--json").document["report"] == "here.html"
    assert Path("here.html").read_text(encoding="utf-8") == (trained / "report.html").read_text(
        encoding="utf-8"
    )


def test_demo(chainrule: Command) -> None:
    ended = chainrule("demo", "--epochs", "2")
    assert ended.status == 0
    for words in (
        "example:ames: 2,930 rows, 74 columns",
        "Sale_Price",
        "$",
        "gradient boosting",
        "report.html",
    ):
        assert words in ended.output
    assert "Predicting Sale_Price" in Path("report.html").read_text(encoding="utf-8")
    assert len(list(Path("runs").glob("*/weights.safetensors"))) == 1


def test_the_demo_shows_the_committed_splits(
    chainrule: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [
        {"name": "chainrule network", "mean": 20_600.0, "low": 19_000.0, "high": 22_200.0},
        {
            "name": "Ridge", "mean": 28_200.0, "low": 26_000.0, "high": 30_400.0,
            "network_minus_it": {"mean": -7600.0, "low": -9000.0, "high": -6200.0},
        },
    ]  # fmt: skip
    results = {"splits": [0, 1, 2, 3, 4], "unit": "$", "trials": 24, "models": models}
    committed = tmp_path / "results.json"
    committed.write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.setattr("chainrule.cli.demo._RESULTS", committed)
    printed = chainrule("demo", "--epochs", "1").output
    assert re.search(r"Ridge +\$28,200 ± \$2,200 +−\$7,600 ± \$1,400", printed)
    assert "24 trials each" in printed
    assert "−$9,000 to −$6,200" in Path("report.html").read_text(encoding="utf-8")


# -- terminals -----------------------------------------------------------------------------------------------
def in_a_terminal(command: list[str], **environment: str) -> str:
    """What a command writes when it speaks to a terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "chainrule.cli", *command],
        stdout=follower, stderr=follower, stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    ):  # fmt: skip
        os.close(follower)
        parts = []
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # how Linux says that the other side has closed
                break
            if not part:
                break
            parts.append(part)
    os.close(leader)
    return b"".join(parts).decode()


def test_a_terminal_gets_colour_and_a_live_bar(chainrule: Command) -> None:
    printed = in_a_terminal(["train", "houses.csv", "--target", "price", *FAST])
    assert f"{ESCAPE}[1;36mData" in printed
    assert "━" in printed
    assert f"{ESCAPE}[?25h" in printed, "the cursor is shown again"


def test_no_color(chainrule: Command) -> None:
    printed = in_a_terminal(["train", "houses.csv", "--target", "price", *FAST], NO_COLOR="1")
    assert "━" in printed
    assert f"{ESCAPE}[36m" not in printed
    assert f"{ESCAPE}[1;36m" not in printed


def test_texts_from_the_data_cannot_move_the_cursor_or_be_markup(chainrule: Command) -> None:
    table = Path("houses.csv").read_text(encoding="utf-8")
    Path("odd.csv").write_text(table.replace("area,street", f"[red]area,{ESCAPE}[2Jstreet"), encoding="utf-8")
    printed = chainrule("train", "odd.csv", "--target", "price", *FAST, "--verbose").output
    assert "[red]area" in printed
    assert ESCAPE not in printed


# -- documentation -------------------------------------------------------------------------------------------
REFERENCE = (Path(__file__).parent.parent / "docs" / "reference.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", front.VERBS)
def test_every_option_is_in_the_reference(verb: str, chainrule: Command) -> None:
    section = re.split(r"^##+ ", REFERENCE, flags=re.MULTILINE)
    told = next(part for part in section if part.startswith(f"{verb}\n"))
    options = set(re.findall(r"(--[a-z][a-z-]*)", chainrule(verb, "--help").output)) - {"--help"}
    options -= {f"--{name}" for name in ("baselines", "report") if f"--no-{name}" in options}
    assert options
    assert not [option for option in options if not re.search(rf"{option}[ `\]]", told)]


def test_every_setting_is_in_the_reference() -> None:
    shown = REFERENCE.split("```toml\n")[1].split("```")[0]
    document = tomllib.loads(shown)
    assert Recipe.from_document(document)
    everything = {name: asdict(section) for name, section in vars(Recipe()).items() if is_dataclass(section)}
    for name, settings in everything.items():
        assert set(settings) == set(document[name])
    for option in ("kinds", "ordinals", "target"):
        assert option in document["preprocessing"]


def test_every_public_name_is_in_the_reference() -> None:
    primitives = (Path(__file__).parent.parent / "docs" / "primitives.md").read_text(encoding="utf-8")
    missing = [
        name for name in dir(cr) if f"cr.{name}`" not in REFERENCE and f"`cr.{name}(" not in primitives
    ]
    assert missing == ["__version__"]
