"""The report: what it says, that nothing in the data can break it, and that it needs nothing but itself."""

import re
import runpy
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
from chainrule.show import charts, inside
from chainrule.show.blame import verdict
from chainrule.show.facts import Facts, of_folder, of_run
from chainrule.show.figures import value
from chainrule.show.html import element
from chainrule.show.inside import Inside
from chainrule.show.network import total
from chainrule.show.report import page, write
from chainrule.show.sections import health
from chainrule.train.comparison import _confusion, compare
from chainrule.train.facts import EXPONENTS, FACTS, NORMS, PICTURES, Column
from chainrule.train.past import Replayed
from chainrule.train.rates import Rates
from chainrule.train.table import fit_table
from chainrule.train.telemetry import LayerFacts, ParameterFacts, Telemetry
from tools.browser import chromium, visit

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
    check_names(Parsed(page(facts)))


def check_names(read: Parsed) -> None:
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
        assert picture.get("role") == "img" or "x" in picture, "an image, or placed in one"


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


# -- what went on inside -------------------------------------------------------------------------------------
def network(activation: type[cr.nn.Module], depth: int) -> cr.nn.Module:
    with cr.random.stream(cr.random.key(0)):
        hidden = [each for _ in range(depth) for each in (cr.nn.Linear(8, 8), activation())]
        return cr.nn.Sequential(cr.nn.Linear(4, 8), activation(), *hidden, cr.nn.Linear(8, 3))


def fitted(activation: type[cr.nn.Module] = cr.nn.Tanh, depth: int = 1, **options: Any) -> cr.Run:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(200, 4)).astype(np.float32)
    options = {"epochs": 15, "optimizer": cr.optim.Adam(lr=0.02), "telemetry": True, **options}
    return cr.fit(network(activation, depth), (inputs, inputs[:, :3].argmax(axis=1)), **options)


@pytest.fixture(scope="module")
def learned() -> cr.Run:
    return fitted()


@pytest.fixture(scope="module")
def vanished() -> cr.Run:
    return fitted(cr.nn.Sigmoid, 10, epochs=4)


def reported(run: cr.Run, tmp_path: Path) -> tuple[str, Parsed]:
    html = run.report(tmp_path / "report.html").read_text(encoding="utf-8")
    return html, Parsed(html)


def test_it_says_that_a_network_learned(learned: cr.Run, tmp_path: Path) -> None:
    _, read = reported(learned, tmp_path)
    assert "Sequential with 139 parameters" in read.text
    assert "It learned: the training loss went from" in read.text
    assert "likeliest cause" not in read.text
    for heading in ("Where the gradient goes", "Gradients, opened", "Layers over the steps"):
        assert heading in read.text


def test_it_says_which_layers_kill_a_gradient(vanished: cr.Run, tmp_path: Path) -> None:
    """The ledger of the first step says how many decades the sigmoids take, and the verdict repeats it."""
    _, read = reported(vanished, tmp_path)
    assert "It did not learn" in read.text
    assert "always giving the same answer would come to" in read.text
    assert "Before training, the gradient vanishes on its way back" in read.text
    taken = -cr.ledger(vanished, step=0)["0.weight"].total("activation gain")
    assert f"The activations make {taken:.1f} of these decades" in read.text
    assert "the Sigmoid in layers 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 0." in read.text
    assert "The likeliest cause: " in read.text


def test_a_little_better_than_the_same_answer_is_better(learned: cr.Run) -> None:
    """Where there is much noise, no network comes far below it, and yet it ranks rows better than chance."""
    history = [{"epoch": 1, "loss": 0.69}, {"epoch": 2, "loss": 0.64}]
    result = {"metrics": {"validation": {"auroc": 0.7}}}
    facts = replace(of_run(learned), history=history, result=result)
    for loss, said in ((0.66, "It learned"), (0.643, "It did not learn: .* would come to 0.643")):
        assert re.match(said, verdict(facts, Inside(constant=loss))[0])


def test_the_example_says_what_the_howto_quotes(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    example = runpy.run_path(str(root / "examples" / "vanishing_sigmoid.py"))
    _, read = reported(example["train"](), tmp_path)
    howto = (root / "docs" / "howto.md").read_text(encoding="utf-8")
    section = howto.partition("## See why a network does not learn")[2].partition("\n## ")[0]
    quoted = " ".join(line.lstrip("> ") for line in section.splitlines() if line.startswith(">"))
    for sentence in quoted.split("  "):
        assert " ".join(sentence.split()) in read.text


def test_the_constant_answer_is_that_of_counting(vanished: cr.Run) -> None:
    told = inside.of_run(vanished)
    assert vanished.past is not None
    shares = np.bincount(vanished.past.data[1]) / len(vanished.past.data[1])
    assert told.constant == pytest.approx(-np.sum(shares * np.log(shares)), rel=1e-6)
    random = np.random.default_rng(0)
    inputs = random.normal(size=(60, 4)).astype(np.float32)
    for targets, expected in ((inputs[:, :1], inputs[:, 0].var()), (inputs[:, :1] > 9, 0.0)):
        run = cr.fit(cr.nn.Linear(4, 1), (inputs, targets), epochs=1, validation=None)
        assert inside.of_run(run).constant == pytest.approx(expected, rel=1e-5, abs=1e-5)


class Sine(cr.nn.Module):
    """Bounded, with a derivative that is not small anywhere far out: what large weights explode with."""

    def forward(self, x: cr.Tensor) -> cr.Tensor:
        return cr.sin(x)


def test_an_exploding_gradient_and_a_dead_one(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    for scale, words in (
        (60.0, "the gradient explodes on its way back"),
        (0.0, "no gradient reaches 0.weight"),
    ):
        with cr.random.stream(cr.random.key(0)):
            model = cr.nn.Sequential(*(each for _ in range(6) for each in (cr.nn.Linear(4, 4), Sine())))
        for layer in list(model.children())[2::2]:
            layer.weight.assign(layer.weight.numpy() * scale)
        run = cr.fit(model, (inputs, inputs), epochs=1, optimizer=cr.optim.SGD(lr=0.0), validation=None)
        assert words in reported(run, tmp_path)[1].text


def test_a_number_that_ended_the_training_is_named(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    run = cr.fit(cr.nn.Linear(4, 1), (inputs, inputs[:, :1]), optimizer=cr.optim.SGD(lr=1e20), epochs=9)
    _, read = reported(run, tmp_path)
    bad = cr.first_bad_number(run)
    assert bad is not None
    assert bad.sentence[1:] in read.text


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (1.0, "All gradients were finite"),
        (np.inf, "The norm of the gradient of 0.bias was not finite, first around step 5."),
        (np.nan, "The norm of the gradient of 0.bias was not finite, first around step 5."),
    ],
)
def test_a_norm_that_no_sample_of_facts_has_seen(norm: float, words: str) -> None:
    """Facts come from one step of several, norms from every one. What nobody has read counts for nothing."""
    names, fields = ("0.weight", "0.bias"), ParameterFacts._fields
    norms = [Column("parameter", name, "gradient_norm", 1, 1) for name in names]
    facts = [Column("parameter", name, field, 1, 1) for name in names for field in fields]
    told = np.ones((8, 2))
    told[5, 1], told[7] = norm, np.nan
    telemetry = Telemetry(Rates(facts=4))
    columns = {NORMS: norms, FACTS: facts, PICTURES: list[Column]()}
    telemetry.note(0, columns, [told, np.zeros((2, len(facts)))])
    assert words in Parsed("".join(health.layers(Inside((), "", telemetry)))).text


def test_a_run_without_its_code_says_what_is_left_out(tmp_path: Path) -> None:
    run = fitted(epochs=2, runs=tmp_path)
    assert run.folder is not None
    path = cr.show.write_report(run.folder.path, tmp_path / "report.html")
    said = Parsed(path.read_text(encoding="utf-8")).text
    assert "The steps of this run are not opened here." in said
    call = f'cr.show.write_report("{run.folder.path}", "report.html", model=..., data=(X, y))'
    assert call in said
    assert "Layers over the steps" in said
    assert "Gradients, opened" not in said


def test_a_run_with_its_code_is_opened_from_its_folder(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    data, model = (
        (inputs, inputs[:, :1]),
        cr.nn.Sequential(cr.nn.Linear(4, 3), cr.nn.Tanh(), cr.nn.Linear(3, 1)),
    )
    run = cr.fit(model, data, loss=cr.nn.functional.mse_loss, epochs=2, runs=tmp_path)
    assert run.folder is not None
    given = {"model": model, "data": data, "loss": cr.nn.functional.mse_loss}
    path = cr.show.write_report(run.folder.path, tmp_path / "report.html", **given)
    said = Parsed(path.read_text(encoding="utf-8")).text
    assert "Gradients, opened" in said
    assert "not opened here" not in said
    assert inside.of_folder(run.folder.path, **given).looks == inside.of_run(run).looks


def test_buffers_are_no_parameters(tmp_path: Path) -> None:
    """A batch norm keeps a mean, a variance and a count, which nobody trains; its folder says so too."""
    inputs = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    model = cr.nn.Sequential(cr.nn.Linear(4, 3), cr.nn.BatchNorm1d(3), cr.nn.Linear(3, 1))
    run = cr.fit(model, (inputs, inputs[:, :1]), loss=cr.nn.functional.mse_loss, epochs=1, runs=tmp_path)
    assert run.folder is not None
    made = total(of_folder(run.folder.path).layers)
    assert made == total(of_run(run).layers) == sum(each.size for each in model.parameters()) == 25


def test_the_table_of_layers_has_what_is_known(tmp_path: Path) -> None:
    """Of a Python model the kinds of all its layers; of its folder only where the parameters are."""
    run = fitted(epochs=1, runs=tmp_path)
    assert run.folder is not None
    kinds = {type(each).__name__ for _, each in run.model.named_modules()}
    for facts, known in ((of_run(run), True), (of_folder(run.folder.path), False)):
        read = Parsed(page(facts))
        section = read.text.partition("From the inputs to the output")[2].partition("Recipe")[0]
        assert (" kind " in section) == known
        assert " output " not in section
        assert any(kind in section for kind in kinds) == known


def test_from_disk_the_gradients_are_the_same(tmp_path: Path) -> None:
    document = {"data": {"source": "example:ames", "target": "Sale_Price"}, "training": {"epochs": 1}}
    run = cr.fit(cr.Recipe.from_document({**document, "network": {"hidden": [4]}}), runs=tmp_path)
    assert run.folder is not None
    there, here = inside.of_folder(run.folder.path), inside.of_run(run)
    assert (there.looks, there.constant, there.missing) == (here.looks, here.constant, "")


def test_every_picture_has_a_table_and_opens_without_javascript(vanished: cr.Run, tmp_path: Path) -> None:
    html, read = reported(vanished, tmp_path)
    figures = html.split("<figure>")[1:]
    assert len(figures) > 6
    assert all(re.match(r".*?</figure>\s*<details><summary>The", each, re.DOTALL) for each in figures)
    assert not list(read.all("script"))
    assert sum(tag == "summary" for tag, _ in read.elements) == sum(
        tag == "details" for tag, _ in read.elements
    )
    check_names(read)


def test_values_of_the_data_are_not_in_the_gradients(learned: cr.Run, tmp_path: Path) -> None:
    """A part of the first weight's gradient is an error times an input; the input is only named."""
    html, _ = reported(learned, tmp_path)
    factors = re.findall(r'class="label">0\[[^<]*</span> <span class="quiet">([^<]*)<', html)
    assert factors
    assert set(factors) == {"× an input"}
    assert "input[" not in html


def deep_inside(layers: int, samples: int) -> Inside:
    """What a network of that depth would tell: a real look at one step, and telemetry as full as it gets."""
    model = network(cr.nn.Tanh, layers - 1)
    data = cr.asarray(np.ones((8, 4), np.float32)), cr.asarray(np.zeros(8, np.int64))
    loss = cr.nn.CrossEntropyLoss()(model(data[0]), data[1])
    look = inside.look(Replayed(9_999, loss, data, np.arange(8), (), {}), {}, opened=True)
    paths = [path for path, layer in model.named_modules() if isinstance(layer, cr.nn.Linear)]
    facts = [Column("layer", path, name, 1, 1) for path in paths for name in LayerFacts._fields]
    named = [path for path, _ in model.named_parameters()]
    facts += [Column("parameter", path, name, 1, 1) for path in named for name in ParameterFacts._fields]
    pictures = [
        Column("histogram", f"{kind} of {path}", "", len(EXPONENTS), 64)
        for path in paths
        for kind in ("activation", "gradient")
    ]
    random = np.random.default_rng(0)
    at_least = -np.sort(-random.random((10, len(pictures), len(EXPONENTS))))  # elements of a size or more
    norms = [Column("parameter", path, "gradient_norm", 1, 1) for path in named]
    noted = [random.random((samples, len(columns))) for columns in (norms, facts)]
    telemetry = Telemetry()
    columns = {NORMS: norms, FACTS: facts, PICTURES: pictures}
    telemetry.note(0, columns, [*noted, at_least.reshape(10, -1)])
    return Inside((look,), "", telemetry)


def test_two_hundred_layers_and_ten_thousand_steps_stay_small(facts: Facts) -> None:
    history = [{**facts.history[0], "epoch": k, "loss": 1 / k} for k in range(1, 1001)]
    html = page(replace(facts, history=history), deep_inside(200, 10_000 // 16))
    assert len(html.encode()) <= LARGEST
    read = Parsed(html)
    check_names(read)
    assert "398.weight" in read.text


@pytest.mark.skipif(chromium() is None, reason="needs the extra `browser` and a Chromium")
@pytest.mark.parametrize(("scheme", "kind"), [("light", "table"), ("dark", "deep")])
def test_a_visitor_has_nothing_to_complain_of(
    scheme: str, kind: str, facts: Facts, vanished: cr.Run, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    written = write(facts, file) if kind == "table" else vanished.report(file)
    found = visit(written, chromium() or "", scheme)
    assert found.clean, found


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
