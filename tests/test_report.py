"""The report: what it says, that nothing in the data can break it, and that it needs nothing but itself."""

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.data import Preprocessor, read_table
from chainrule.recipe import Recipe
from chainrule.show import charts
from chainrule.show.facts import Facts, of_folder, of_run
from chainrule.show.figures import value
from chainrule.show.html import element
from chainrule.show.report import page, write
from chainrule.train.comparison import _confusion, compare
from chainrule.train.table import fit_table

ROWS = 240
VOID = {"br", "hr", "meta"}
HOSTILE = "<script>alert('x')</script>\"&"
LARGEST = 1_500_000


class Parsed(HTMLParser):
    """The elements and texts of a page; fails where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


def columns(target: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    area = random.normal(100, 30, ROWS)
    street = np.array(["Elm", "Oak", "Ash"])[random.integers(0, 3, ROWS)]
    return {"area": area, "street": street.tolist(), "target": target(area, random)}


TARGETS = {
    "regression": lambda area, random: np.exp(area / 40 + random.normal(0, 0.1, ROWS)),
    "binary": lambda area, random: (area + random.normal(0, 20, ROWS) > 100).tolist(),
    "multiclass": lambda area, random: [f"class {int(each // 40) % 3}" for each in area],
}


def trained(data: dict[str, Any], tmp_path: Path, target: str = "target", epochs: int = 4) -> Facts:
    recipe = Recipe.from_document(
        {"data": {"target": target}, "network": {"hidden": [8]}, "training": {"epochs": epochs}}
    )
    run = fit_table(recipe, data=data, runs=tmp_path / "runs")
    return of_run(run, compare(run))


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return trained(columns(TARGETS["regression"]), tmp_path_factory.mktemp("report"))


# -- what it says --------------------------------------------------------------------------------------------
def test_the_report_tells_everything(facts: Facts) -> None:
    said = Parsed(page(facts)).text
    for words in (
        "Predicting target",
        "never seen in training",
        "Root mean squared error",
        "gradient boosting",
        "always the mean",
        "95% interval",
        "layers.0",
        "8×4 + 8",
        "standardised",
        "one-hot, 3 levels",
        "its logarithm",
        "[network]",
        facts.recipe.data.hash,
        'cr.fit("',
        "chainrule predict",
    ):
        assert words in said


def test_a_run_on_a_file_can_be_trained_again_from_the_shell(facts: Facts) -> None:
    from_file = replace(facts, recipe=facts.recipe.with_(data={"source": "houses.csv"}))
    assert f"chainrule train --recipe {facts.path}/recipe.toml" in Parsed(page(from_file)).text


@pytest.mark.parametrize("task", TARGETS)
def test_every_task_has_its_picture(task: str, tmp_path: Path) -> None:
    read = Parsed(page(trained(columns(TARGETS[task]), tmp_path)))
    expected = {
        "regression": "Predicted against actual target",
        "binary": "Calibration of the probability of true",
        "multiclass": "Rows by actual class (down) and predicted class (across)",
    }
    assert expected[task] in read.text
    assert sum(attributes.get("role") == "img" for attributes in read.all("svg")) == (
        1 if task == "multiclass" else 2
    )


def test_many_classes_are_counted_together() -> None:
    random = np.random.default_rng(0)
    actual, predicted = random.integers(0, 40, 1000), random.integers(0, 40, 1000)
    agreement = _confusion(actual, predicted, [f"class {k}" for k in range(40)])
    assert len(agreement["classes"]) == len(agreement["counts"]) == 12
    assert agreement["classes"][-1] == "29 other classes"
    frequent = int(np.bincount(actual).argmax())
    assert agreement["classes"][0] == f"class {frequent}"
    assert agreement["counts"][0][0] == np.sum((actual == frequent) & (predicted == frequent))
    assert sum(map(sum, agreement["counts"])) == 1000


def test_from_disk_it_is_the_same(facts: Facts) -> None:
    assert facts.path is not None
    assert page(of_folder(facts.path)) == page(facts)


def test_an_unfinished_run_says_how_to_go_on(facts: Facts) -> None:
    unfinished = replace(facts, result={}, comparison={}, history=facts.history[:2], layers=[])
    said = Parsed(page(unfinished)).text
    assert "Not finished: 2 epochs of 4 are done" in said
    assert f"chainrule train --resume {facts.path}" in said


def test_a_run_before_its_first_epoch(facts: Facts) -> None:
    assert "Not finished: 0 epochs" in Parsed(page(replace(facts, result={}, comparison={}, history=[]))).text


def test_a_network_written_in_python(tmp_path: Path) -> None:
    model = cr.nn.Sequential(cr.nn.Linear(3, 4), cr.nn.Tanh(), cr.nn.Linear(4, 1))
    inputs = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    run = cr.fit(model, (inputs, inputs[:, :1]), epochs=3, runs=tmp_path)
    assert run.folder is not None
    for facts in (of_run(run), of_folder(run.folder.path)):
        said = Parsed(page(facts)).text
        assert "Sequential" in said
        assert "4×3 + 4" in said
        assert "Mean absolute error" in said


def test_a_training_that_went_wrong_is_drawn_as_far_as_it_goes(facts: Facts) -> None:
    history = [
        {"epoch": k, "loss": loss, "gradient_norm": loss}
        for k, loss in enumerate([1.0, 0.0, float("nan")], 1)
    ]
    assert "The curves as numbers" in page(replace(facts, history=history))
    never = [{"epoch": 1, "loss": float("nan"), "gradient_norm": float("nan")}]
    assert "The curves as numbers" in page(replace(facts, history=never))


# -- what the data cannot do to it ---------------------------------------------------------------------------
def test_everything_from_the_data_is_escaped(tmp_path: Path) -> None:
    data = columns(TARGETS["binary"])
    data[f"column {HOSTILE}"] = [f"level {k % 3} {HOSTILE}" for k in range(ROWS)]
    data[f"target {HOSTILE}"] = [f"class {each} {HOSTILE}" for each in data.pop("target")]
    facts = trained(data, tmp_path, target=f"target {HOSTILE}")
    html = page(facts)
    read = Parsed(html)
    assert HOSTILE in read.text
    assert "<script" not in html
    assert not list(read.all("script"))
    handlers = [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert not handlers


def test_it_needs_nothing_but_itself(facts: Facts) -> None:
    html = page(facts)
    read = Parsed(html)
    for _, attributes in read.elements:
        for name in ("src", "srcset", "action", "data", "background", "xlink:href"):
            assert name not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in html
    assert "@import" not in html
    policy = next(each["content"] for each in read.all("meta") if each.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy


def test_wide_tables_and_long_trainings_stay_small(facts: Facts) -> None:
    random = np.random.default_rng(0)
    wide = {f"a column with a long name, number {k}": random.normal(size=ROWS) for k in range(1500)}
    history = [{**facts.history[0], "epoch": k, "loss": 1 / k} for k in range(1, 20_001)]
    large = replace(facts, history=history, preprocessor=Preprocessor.fit(read_table(wide)))
    html = page(large)
    assert len(html.encode()) <= LARGEST
    assert "1,100 more are in preprocessing.json" in Parsed(html).text


def test_no_row_of_the_table_is_in_it(facts: Facts) -> None:
    html = page(facts)
    area = columns(TARGETS["regression"])["area"]
    assert not [each for each in area if f"{each:.6f}"[:-1] in html]


# -- who can read it -----------------------------------------------------------------------------------------
def test_headings_tables_and_pictures_have_names(facts: Facts) -> None:
    read = Parsed(page(facts))
    assert next(read.all("html"))["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert sum(tag == "caption" for tag, _ in read.elements) == sum(
        tag == "table" for tag, _ in read.elements
    )
    assert all(attributes.get("scope") in ("col", "row") for attributes in read.all("th"))
    identifiers = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in read.elements:
        named = (attributes.get("aria-labelledby") or "").split()
        linked = (attributes.get("href") or "").removeprefix("#")
        assert set(named + [linked] * bool(linked)) <= set(identifiers)
    for picture in read.all("svg"):
        assert picture["role"] == "img"


def test_every_curve_has_its_numbers(facts: Facts) -> None:
    said = Parsed(page(facts)).text
    for epoch in facts.history:
        assert value(epoch["loss"]) in said
        assert value(epoch["validation_loss"]) in said


def test_light_and_dark(facts: Facts) -> None:
    html = page(facts)
    assert "prefers-color-scheme: dark" in html
    colours = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]+|rgb[^"]*)"', html))
    assert not colours, "every colour of a chart comes from the page"


def test_it_is_written_whole(facts: Facts, tmp_path: Path) -> None:
    path = write(facts, tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == page(facts)
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


# -- its parts -----------------------------------------------------------------------------------------------
def test_elements_escape_texts_and_attributes() -> None:
    assert element("a", "<b>", title='"x"') == '<a title="&quot;x&quot;">&lt;b&gt;</a>'
    assert element("p", element("b", "&")) == "<p><b>&amp;</b></p>"
    assert element("p", hidden=None) == "<p></p>"


def test_thinning_keeps_the_ends() -> None:
    rows = [{"epoch": k} for k in range(1000)]
    kept = charts.thinned(rows, 60)
    assert len(kept) == 60
    assert (kept[0], kept[-1]) == (rows[0], rows[-1])
    assert charts.thinned(rows[:60], 60) == rows[:60]
