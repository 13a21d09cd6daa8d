"""Our pictures: what they show is what the numbers are, and nothing in the data can break them."""

import math
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.errors import DataError
from chainrule.insight.ledger import ACTIVATION, ALIGNMENT, ERROR, INPUT, WEIGHT, Entry, Ledger, Term
from chainrule.show.pictures import canvas, curves, heat, histograms, strip, waterfall
from chainrule.show.pictures.curves import Curve, Curves
from chainrule.show.pictures.histograms import Histograms
from chainrule.show.pictures.picture import Picture
from chainrule.show.pictures.strip import Strip
from chainrule.train.telemetry import Histogram, Telemetry

HOSTILE = "<script>alert('x')</script>\"&\x1b[2J"
NAMESPACE = "{http://www.w3.org/2000/svg}"
BYTES_OF_WATERFALL, BYTES_OF_STRIP = 60_000, 150_000


# -- what is looked at ---------------------------------------------------------------------------------------
def network(depth: int, activation: Any = cr.nn.Sigmoid, width: int = 12) -> Any:
    with cr.random.stream(cr.random.key(0)):
        hidden = [
            module
            for k in range(depth - 1)
            for module in (cr.nn.Linear(width if k else 5, width), activation())
        ]
        return cr.nn.Sequential(*hidden, cr.nn.Linear(width, 1)).double()


def ledger_of(model: Any, poison: float = 0.0) -> Ledger:
    numbers = np.random.default_rng(0)
    inputs = numbers.normal(size=(30, 5)) + poison
    with np.errstate(all="ignore"):
        return cr.ledger(cr.nn.MSELoss()(model(cr.asarray(inputs)), cr.asarray(numbers.normal(size=(30, 1)))))


def dead_in_the_middle() -> Any:
    model = network(5, cr.nn.ReLU)
    model.load_state_dict({**model.state_dict(), "4.bias": np.full(12, -1e3)})
    return model


def branching() -> Any:
    with cr.random.stream(cr.random.key(0)):
        inner = cr.nn.Residual(cr.nn.Linear(12, 12), cr.nn.Tanh())
        return cr.nn.Sequential(cr.nn.Linear(5, 12), inner, cr.nn.Linear(12, 1)).double()


MODELS = {
    "sigmoid": lambda: ledger_of(network(3)),
    "vanishing": lambda: ledger_of(network(11)),
    "deep": lambda: ledger_of(network(60, cr.nn.Tanh)),
    "branches": lambda: ledger_of(branching()),
    "dead": lambda: ledger_of(dead_in_the_middle()),
    "NaN": lambda: ledger_of(network(3), math.nan),
    "one step": lambda: Ledger(1.0, (Entry("w", (3,), 0.0, ()),)),
}


@pytest.fixture(scope="module", params=MODELS)
def fall(request: pytest.FixtureRequest) -> waterfall.Waterfall:
    return waterfall.of_ledger(MODELS[request.param]())


def made_ledger(gains: dict[str, float], name: str = "0.weight") -> Ledger:
    """A ledger whose terms are given by layer: names of weights end in a digit, others are activations."""
    kinds = {label: WEIGHT if label[-1].isdigit() else ACTIVATION for label in gains}
    terms = [Term(ERROR, -0.4, ERROR)]
    terms += [Term(f"{label} {kinds[label]}", each, kinds[label], label) for label, each in gains.items()]
    terms += [Term(f"0 {INPUT}", 1.0, INPUT, "0"), Term(f"0 {ALIGNMENT}", -0.25, ALIGNMENT, "0")]
    return Ledger(1.0, (Entry(name, (4, 4), math.fsum(each.decades for each in terms), tuple(terms)),))


def normal_counts(steps: int, rows: int = 4096) -> tuple[Any, np.ndarray]:
    numbers = np.random.default_rng(1)
    values = numbers.normal(size=(steps, rows)) * 2.0 ** -np.linspace(0, 9, steps)[:, None]
    values[:, : rows // 8] = 0.0
    exponents = np.arange(-40, 8)
    counts = [
        np.histogram(np.floor(np.log2(np.abs(row[row != 0]))), np.append(exponents, 8))[0] for row in values
    ]
    zeros = (values == 0).sum(axis=1)
    found = SimpleNamespace(
        steps=np.arange(steps) * 10, exponents=exponents, counts=np.array(counts), zeros=zeros
    )
    return found, values


def history(losses: list[float], held_out: bool = True) -> Any:
    rows = [{"epoch": k, "loss": loss} for k, loss in enumerate(losses, 1)]
    rows = [{**row, "validation_loss": 2 * row["loss"]} for row in rows] if held_out else rows
    return cr.Run(None, None, rows, {}, lambda data: data)  # type: ignore[arg-type]


def random_strip(rows: int, steps: int) -> Strip:
    decades = np.random.default_rng(0).normal(size=(rows, steps))
    return Strip(tuple(f"blocks.{k} block gain" for k in range(rows)), tuple(range(steps)), decades)


def pictures() -> dict[str, tuple[Any, Any]]:
    """Every kind of picture with names as bad as they come."""
    gains = {f"{HOSTILE}{k}": -0.1 * k for k in range(3)}
    found = waterfall.of_ledger(made_ledger(gains, HOSTILE))
    bad = {0: made_ledger(gains), 1: made_ledger({HOSTILE: math.nan, "x": -math.inf})}
    counts, _ = normal_counts(4)
    return {
        "waterfall": (waterfall, found),
        "strip": (strip, strip.of_ledgers(bad)),
        "histograms": (histograms, histograms.of_histogram(HOSTILE, counts)),
        "curves": (curves, curves.of_runs({HOSTILE: [history([1.0, 0.1])], "b": [history([2.0, 1e-3])]})),
    }


PICTURES = pictures()


# -- every picture -------------------------------------------------------------------------------------------
def parsed(svg: str) -> ET.Element:
    """The image as XML; it is well-formed, has a name and a description, and needs nothing but itself."""
    root = ET.fromstring(svg)
    assert root.tag == f"{NAMESPACE}svg"
    assert root.get("role") == "img"
    texts = {each.get("id"): each.text for each in root.iter()}
    named = f"{root.attrib['aria-labelledby']} {root.get('aria-describedby', '')}".split()
    told = [texts[each] for each in named]
    assert len(told) == 2
    assert all(told)
    assert not re.search(r"url\(|<script|<image|<style|href|@import", svg)
    numbers = [value for each in root.iter() for value in each.attrib.values()]
    assert not [value for value in numbers if re.search(r"\b(nan|inf)\b", value)]
    return root


@pytest.mark.parametrize("kind", PICTURES)
def test_names_cannot_break_a_picture(kind: str) -> None:
    form, data = PICTURES[kind]
    svg = form.svg(data)
    parsed(svg)
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "\x1b" not in form.text(data)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("kind", PICTURES)
def test_text_keeps_to_the_width(kind: str, width: int) -> None:
    form, data = PICTURES[kind]
    assert max(len(line) for line in form.text(data, width).splitlines()) <= width


@pytest.mark.parametrize("kind", PICTURES)
def test_tables_have_a_cell_for_every_column(kind: str) -> None:
    form, data = PICTURES[kind]
    header, rows = form.table(data)
    assert rows
    assert {len(row) for row in rows} == {len(header)}
    assert all(isinstance(cell, str) for row in rows for cell in row)


def test_two_pictures_on_a_page_share_no_id() -> None:
    made = [form.svg(data) for form, data in PICTURES.values()] + [strip.svg(random_strip(3, 3))]
    ids = [name for svg in made for name in re.findall(r'\bid="([^"]*)"', svg)]
    assert len(ids) == len(set(ids)) >= 2 * len(made)


def test_a_picture_prints_shows_itself_in_a_notebook_and_makes_a_file(tmp_path: Path) -> None:
    picture = cr.show.waterfall(ledger_of(network(3)))
    assert str(picture) == waterfall.text(picture.data, 100)
    assert picture.table == (("step", "decades", "norm after it"), waterfall.table(picture.data)[1])
    root = parsed(picture.save(tmp_path / "fall.svg").read_text(encoding="utf-8"))
    assert picture._repr_html_() == picture.svg
    # Each colour that is used has a value, wherever the image stands.
    used = set(re.findall(r"var\((--\w+)\)", picture.svg))
    assert used <= set(re.findall(r"(--\w+):", root.attrib["style"]))


def trained() -> cr.Trainer:
    numbers = np.random.default_rng(0)
    data = numbers.normal(size=(40, 5)), numbers.normal(size=(40, 1))
    trainer = cr.Trainer(network(4), cr.nn.MSELoss(), cr.optim.SGD(lr=0.1), backend="numpy", telemetry=True)
    trainer.run(data, steps=40, batches=np.arange(40)[None].repeat(40, 0))
    return trainer


def test_what_is_public_makes_each_kind() -> None:
    ledger, telemetry = ledger_of(network(3)), trained().telemetry
    made = [cr.show.waterfall(ledger), cr.show.strip({0: ledger}), cr.show.strip(telemetry)]
    made += [*cr.show.histograms(telemetry).values(), cr.show.curves(history([2.0, 1.0]))]
    assert len(made) > 4
    assert all(isinstance(each, Picture) for each in made)
    for each in made:
        parsed(each.svg)


def test_telemetry_and_the_ledger_tell_the_same_of_the_first_step() -> None:
    """A layer's factor in telemetry is its weights' and that of the activation before them in the ledger."""
    trainer, ledger = trained(), cr.ledger(first_loss())
    seen, told = strip.of_telemetry(trainer.telemetry), strip.of_ledgers({0: ledger})
    gains = dict(zip(told.rows, told.decades[:, 0], strict=True))
    assert seen.rows == ("6", "4", "2")
    for row, decades in zip(seen.rows, seen.decades[:, 0], strict=True):
        expected = gains[f"{row} weight gain"] + gains[f"{int(row) - 1} activation gain"]
        assert decades == pytest.approx(expected, abs=1e-9)


def first_loss() -> cr.Tensor:
    numbers = np.random.default_rng(0)
    inputs, targets = numbers.normal(size=(40, 5)), numbers.normal(size=(40, 1))
    return cr.nn.MSELoss()(network(4)(cr.asarray(inputs)), cr.asarray(targets))


# -- waterfall -----------------------------------------------------------------------------------------------
def test_a_waterfall_in_every_form(fall: waterfall.Waterfall) -> None:
    parsed(waterfall.svg(fall))
    assert waterfall.described(fall) in waterfall.svg(fall).replace("&#x27;", "'")
    assert "nan" not in waterfall.text(fall)
    assert len(waterfall.table(fall)[1]) == len(fall.steps) + 1 + len(fall.gradients)


@pytest.mark.parametrize("name", ["sigmoid", "vanishing", "deep", "branches"])
def test_steps_lead_from_the_loss_to_the_gradient(name: str) -> None:
    ledger = MODELS[name]()
    fall = waterfall.of_ledger(ledger)
    norms = [0.0, *(step.after for step in fall.steps)]
    for step, (before, after) in zip(fall.steps, pairwise(norms), strict=True):
        assert after - before == pytest.approx(step.decades, abs=1e-12)
    assert norms[-1] == pytest.approx(ledger[fall.name].log10_norm, abs=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "vanishing", "deep"])
def test_other_gradients_leave_the_way_where_their_layer_is(name: str) -> None:
    ledger = MODELS[name]()
    fall = waterfall.of_ledger(ledger)
    assert [each.name for each in fall.gradients] == [
        entry.name
        for entry in reversed(ledger.entries)
        if entry.name.endswith("weight") and entry.name != "0.weight"
    ]
    for each in fall.gradients:
        local = ledger[each.name].total(INPUT, ALIGNMENT)
        assert fall.steps[each.steps - 1].after + local == pytest.approx(each.log10_norm, abs=1e-12)


def boxes(svg: str, colour: str) -> list[list[float]]:
    """x, y, width and height of the bars of one colour."""
    paths = [each for each in parsed(svg).iter(f"{NAMESPACE}path") if each.get("fill") == colour]
    drawn = "".join(each.attrib["d"] for each in paths)
    return [
        [float(number) for number in found]
        for found in re.findall(r"M([-\d.]+) ([-\d.]+)h([-\d.]+)v([-\d.]+)h-[\d.]+z", drawn)
    ]


def test_bars_are_as_long_as_their_decades() -> None:
    gains = {"act": -0.6, "2": 0.3, "other": -1.2}
    svg = waterfall.svg(waterfall.of_ledger(made_ledger(gains)))
    legend = 1  # each colour has a square there
    (grown,) = boxes(svg, canvas.ACCENT)[legend:]
    first, second = boxes(svg, canvas.SECOND)[legend:]
    decade = grown[2] / 0.3
    assert first[2] / decade == pytest.approx(0.6, abs=0.01)
    assert second[2] / decade == pytest.approx(1.2, abs=0.01)
    assert grown[0] == pytest.approx(first[0], abs=0.11)  # it goes on where the first ended, to the right
    assert second[0] + second[2] == pytest.approx(grown[0] + grown[2], abs=0.21)


def test_a_zero_is_shown_as_one_and_what_is_behind_it_as_undefined() -> None:
    fall = waterfall.of_ledger(MODELS["dead"]())
    zero = next(k for k, step in enumerate(fall.steps) if step.decades == -math.inf)
    assert [step.after for step in fall.steps[zero:]] == [-math.inf] * (len(fall.steps) - zero)
    lines = waterfall.text(fall).splitlines()
    row = next(line for line in lines if line.startswith("5 activation gain"))
    assert "zero" in row
    assert "undefined" in waterfall.text(fall)
    assert "exactly zero" in waterfall.described(fall)
    assert waterfall.table(fall)[1][-1][2] != "undefined"


def test_what_is_not_finite_is_undefined_from_there() -> None:
    fall = waterfall.of_ledger(MODELS["NaN"]())
    assert "not finite" in waterfall.described(fall)
    assert boxes(waterfall.svg(fall), canvas.ACCENT)[1:] == []


@pytest.mark.parametrize("count", [45, 90, 399, 1000])
def test_many_steps_are_folded_and_none_is_lost(count: int) -> None:
    rng = np.random.default_rng(count)
    gains = {f"layers.{k}{'' if k % 2 else '.act'}": float(rng.normal(-0.05, 0.02)) for k in range(count)}
    gains["layers.17"] = -3.0
    fall = waterfall.of_ledger(made_ledger(gains))
    rows = waterfall._rows(fall.steps)
    assert len(rows) <= 48
    assert [row.start for row in rows] == [0, *(row.end for row in rows[:-1])]
    assert rows[-1].end == len(fall.steps)
    assert math.fsum(row.decades for row in rows) == pytest.approx(fall.log10_norm)
    for row in rows:
        after = fall.steps[row.end - 1].after
        assert row.parts[-1].after == pytest.approx(after)
        assert row.decades == pytest.approx(math.fsum(part.after - part.before for part in row.parts))
    (alone,) = [row for row in rows if "layers.17 " in row.label]
    assert alone.label == "layers.17 weight gain"


def test_many_undefined_steps_are_folded_too() -> None:
    gains = {f"layers.{k}": -math.inf if k == 40 else math.nan if k > 40 else -0.1 for k in range(400)}
    rows = waterfall._rows(waterfall.of_ledger(made_ledger(gains)).steps)
    assert len(rows) <= 48
    (zero,) = [row for row in rows if row.decades == -math.inf]
    assert (zero.start, zero.end) == (41, 42)


def test_a_network_of_200_layers_fits_in_60_kilobytes() -> None:
    fall = waterfall.of_ledger(ledger_of(network(200, cr.nn.Tanh)))
    assert len(fall.steps) > 390
    assert len(waterfall.svg(fall).encode()) <= BYTES_OF_WATERFALL


def test_branches_are_told_with_their_shares() -> None:
    fall = waterfall.of_ledger(MODELS["branches"]())
    (block,) = [step for step in fall.steps if step.shares]
    assert sum(share.share for share in block.shares) == pytest.approx(1)
    noted = next(row[0] for row in waterfall.table(fall)[1] if row[0].startswith(block.label))
    assert noted.count("% over ") == len(block.shares)


def test_a_weight_that_no_error_reaches_is_not_the_first_choice() -> None:
    first, last = cr.nn.Linear(3, 3), cr.nn.Linear(3, 1)
    steps = cr.floor(first(np.eye(3, dtype=np.float32)))
    ledger = cr.ledger(cr.mean(cr.square(last(steps))))
    assert ledger.entries[0].log10_norm == -math.inf
    assert waterfall.of_ledger(ledger).name == next(
        each.name for each in ledger.entries if len(each.shape) > 1 and each.log10_norm > -math.inf
    )
    asked = waterfall.of_ledger(ledger, ledger.entries[0].name)
    assert "because of this one: no derivative flows to it" in waterfall.described(asked)
    parsed(waterfall.svg(asked))
    assert "zero" in waterfall.text(asked)


def test_a_ledger_without_entries_says_so() -> None:
    with pytest.raises(DataError, match="no entries"):
        waterfall.of_ledger(Ledger(1.0, ()))


def test_the_waterfall_as_text() -> None:
    """Five decades, from 1e-4 to 10, on 45 cells: nine to a decade, with the error's -0.4 from 36 to 32."""
    fall = waterfall.of_ledger(made_ledger({"2": -2.0, "1.act": -1.0}))
    assert waterfall.text(fall, 80).splitlines() == [
        "From the loss back to the gradient of 0.weight",
        "                         decades  10⁻⁴     10⁻³     10⁻²     10⁻¹     1       10",
        "error at the loss          −0.40                                  ░░░░",
        "2 weight gain              −2.00                ██████████████████",
        "1.act activation gain      −1.00       ▒▒▒▒▒▒▒▒▒",
        "0 input norm               +1.00       ░░░░░░░░░",
        "0 alignment                −0.25              ░░",
        "gradient of 0.weight     2.2e-03              ◆",
        "█ weight gain, ▒ activation gain, ░ loss, input and alignment, ◆ gradients of",
        "weights",
    ]


def test_the_words_of_a_waterfall() -> None:
    told = waterfall.described(waterfall.of_ledger(made_ledger({"2": -2.0, "1.act": -1.0, "4": 0.5})))
    assert told == (
        "6 steps back from the loss. Weight gains make −1.50 decades, activation gains make −1.00 decades. "
        "The largest of these steps is 2 weight gain, −2.00. The norm of the gradient is 7.1e-03."
    )


# -- images of cells -----------------------------------------------------------------------------------------
def cells_of(svg: ET.Element, colours: dict[str, int]) -> np.ndarray:
    """The levels of an image, read back from its strokes."""
    columns, rows = (int(number) for number in svg.attrib["viewBox"].split()[2:])
    found = np.zeros((rows, columns), int)
    for path in svg.iter(f"{NAMESPACE}path"):
        x = y = 0
        for kind, first, second in re.findall(r"([Mmh])(\d+)(?: ([\d.]+))?", path.attrib["d"]):
            if kind == "M":
                x, y = int(first), int(float(second))
            elif kind == "m":
                x += int(first)
            else:
                assert not found[y, x : x + int(first)].any()
                found[y, x : x + int(first)] = colours[path.attrib["stroke"]]
                x += int(first)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=6))
def test_an_image_has_the_cells_it_was_given(levels: list[list[int]]) -> None:
    paints = {level: heat.Paint(f"colour{level}") for level in (1, 2, 3)}
    svg = heat.image(np.array(levels), paints, heat.Frame(0, 0, 70, 60))
    image = ET.fromstring(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"'))
    assert cells_of(image, {f"colour{k}": k for k in paints}).tolist() == levels


@given(st.integers(0, 500), st.integers(1, 130), st.booleans())
def test_groups_cover_everything_once(count: int, most: int, even: bool) -> None:
    found = heat.groups(count, most, even)
    assert [k for each in found for k in range(each.start, each.stop)] == list(range(count))
    assert len(found) <= most
    assert not even or all(len(found) == count or (g.stop - g.start) % 2 == 0 for g in found[:-1])


# -- strip ---------------------------------------------------------------------------------------------------
def test_a_strip_has_the_factors_of_the_ledgers() -> None:
    first, second = made_ledger({"4": -0.3, "2": 0.2}), made_ledger({"4": -1.0, "3.act": -0.7, "2": math.nan})
    found = strip.of_ledgers({10: second, 0: first})
    assert found.steps == (0, 10)
    assert found.rows == ("4 weight gain", "3.act activation gain", "2 weight gain")
    # A factor that a ledger leaves out is one that changes nothing.
    assert found.decades[:2].tolist() == [[-0.3, -1.0], [0.0, -0.7]]
    assert found.decades[2, 0] == 0.2
    assert math.isnan(found.decades[2, 1])


def test_rows_of_a_strip_stay_in_the_order_of_the_network() -> None:
    ledgers = {0: made_ledger({"5": 1.0, "1": 1.0}), 1: made_ledger({"5": 1.0, "3": 1.0, "1": 1.0, "0": 2.0})}
    assert strip.of_ledgers(ledgers).rows == tuple(f"{k} weight gain" for k in (5, 3, 1, 0))


def test_fewer_rows_are_sums_and_fewer_columns_means() -> None:
    whole = random_strip(10, 6)
    fewer = strip._fewer(whole, 5, 3)
    expected = whole.decades.reshape(5, 2, 3, 2).sum(axis=1).mean(axis=2)
    assert fewer.decades == pytest.approx(expected)
    assert fewer.steps == (0, 2, 4)
    assert fewer.rows[0] == "blocks.0 to blocks.1"


def test_a_zero_among_merged_cells_is_a_zero_and_nothing_else_is() -> None:
    decades = np.array([[-math.inf, math.nan], [math.nan, 0.5], [1.0, 1.0], [1.0, 2.0]])
    fewer = strip._fewer(Strip(tuple("abcd"), (0, 1), decades), 2, 2).decades
    assert fewer[0, 0] == -math.inf
    assert math.isnan(fewer[0, 1])
    assert fewer[1].tolist() == [2.0, 3.0]


def test_colours_of_a_strip_tell_growing_from_shrinking() -> None:
    decades = np.array([[-1.0, 0.0, 1.0, -math.inf, math.nan]])
    levels = strip._levels(decades, 1.0, 8)
    assert levels.tolist() == [[-8, 0, 8, strip._ZERO, strip._UNDEFINED]]
    found = Strip(("layers.0",), tuple(range(5)), decades)
    assert strip.text(found).splitlines()[1] == "layers.0  █·#0?"
    assert "1 cell exactly zero. 1 cell undefined." in strip.described(found)


def test_a_strip_of_telemetry_divides_the_norms_of_errors() -> None:
    norms = {"0": [0.0, 1e-2, 1.0, 1.0], "1": [2.0, 1e-1, math.nan, 0.0], "2": [4.0, 1.0, 1.0, 1.0]}
    layers = {name: SimpleNamespace(error_norm=np.array(each)) for name, each in norms.items()}
    found = strip.of_telemetry(SimpleNamespace(steps=np.array([0, 5, 9, 12]), layers=layers))  # type: ignore[arg-type]
    assert found.rows == ("2", "1")
    assert found.steps == (0, 5, 9, 12)
    assert found.decades[:, 1] == pytest.approx([-1, -1])
    assert found.decades[:, 0].tolist() == [pytest.approx(math.log10(0.5)), -math.inf]
    assert np.isnan(found.decades[:, 2]).all()
    assert found.decades[0, 3] == -math.inf
    assert math.isnan(found.decades[1, 3])  # behind a zero


def test_telemetry_that_was_off_has_no_rows() -> None:
    found = strip.of_telemetry(Telemetry())
    assert found.rows == found.steps == ()
    parsed(strip.svg(found))
    assert strip.text(found)
    assert cr.show.histograms(Telemetry()) == {}


def test_a_strip_of_200_layers_by_100_steps_fits_in_150_kilobytes() -> None:
    """Noise, in which no neighbours are equal."""
    svg = strip.svg(random_strip(200, 100))
    parsed(svg)
    assert len(svg.encode()) <= BYTES_OF_STRIP


def test_a_strip_of_no_layers_says_so() -> None:
    found = strip.of_ledgers({0: MODELS["one step"]()})
    parsed(strip.svg(found))
    assert "no layers to compare" in strip.text(found)
    with pytest.raises(DataError, match="one step at least"):
        strip.of_ledgers({})


# -- histograms ----------------------------------------------------------------------------------------------
def test_histograms_have_the_shares_of_the_values() -> None:
    counts, values = normal_counts(5)
    found = histograms.of_histogram("activation of 1", counts)
    assert found.zeros == pytest.approx((values == 0).mean(axis=1))
    assert found.shares.sum(axis=0) + found.zeros == pytest.approx(1)
    for exponent, shares in zip(found.exponents, found.shares, strict=True):
        sizes = np.abs(values)
        inside = (sizes >= 2.0**exponent) & (sizes < 2.0 ** (exponent + 1))
        assert shares == pytest.approx(inside.mean(axis=1))
    assert found.shares[0].any()  # bins in which nothing ever was are left out
    assert found.shares[-1].any()


def test_the_quantiles_of_histograms_are_those_of_the_values() -> None:
    counts, values = normal_counts(5)
    row = histograms.table(histograms.of_histogram("activation of 1", counts))[1][-1]
    kept = np.abs(values[-1][values[-1] != 0])
    expected = [
        f"2{canvas.superscript(math.floor(math.log2(np.quantile(kept, q))))}" for q in (0.05, 0.5, 0.95)
    ]
    assert row[1:4] == tuple(expected)
    assert row[4] == "12%"


def test_a_first_bin_without_a_lower_edge_is_named_so() -> None:
    given = Histogram(np.array([0]), np.arange(-32, 15), np.eye(1, 47), np.zeros(1))
    found = histograms.of_histogram("error of 0", given)
    assert histograms.table(found)[1] == [("0", "<2⁻³¹", "<2⁻³¹", "<2⁻³¹", "0%")]
    assert "<2⁻³¹" in histograms.text(found)
    given = given._replace(counts=np.eye(1, 47, 1))
    assert histograms.table(histograms.of_histogram("error of 0", given))[1][0][1] == "2⁻³¹"


def test_rows_that_nobody_read_are_left_out() -> None:
    counts = np.array([[1.0, 3.0], [math.nan, math.nan], [4.0, 0.0]])
    given = Histogram(np.array([0, 5, 10]), np.arange(2), counts, np.array([0.0, math.nan, 4.0]))
    found = histograms.of_histogram("x", given)
    assert found.steps.tolist() == [0, 10]
    assert found.shares.tolist() == [[0.25, 0.5], [0.75, 0.0]]


def test_an_array_of_zeros_and_one_that_nobody_looked_at() -> None:
    nothing = np.zeros((2, 3))
    given = SimpleNamespace(
        steps=np.array([0, 9]), exponents=np.arange(3), counts=nothing, zeros=np.array([4, 4])
    )
    zeros = histograms.of_histogram("gradient of 0.weight", given)
    assert "100% are zero" in histograms.described(zeros)
    assert " zeros  ██" in histograms.text(zeros)
    none = Histograms("x", np.zeros(0, int), np.arange(3), np.zeros((3, 0)), np.zeros(0))
    assert "no step" in histograms.text(none)
    assert histograms.table(none)[1] == []
    for each in (zeros, none):
        parsed(histograms.svg(each))


def test_many_steps_share_columns() -> None:
    counts, _ = normal_counts(500, rows=64)
    root = parsed(histograms.svg(histograms.of_histogram("x", counts)))
    widths = [
        int(image.attrib["viewBox"].split()[2]) for image in root.iter(f"{NAMESPACE}svg") if image is not root
    ]
    assert 60 <= max(widths) <= 120


# -- curves --------------------------------------------------------------------------------------------------
def test_curves_are_means_between_the_lowest_and_the_highest() -> None:
    runs = [history([4.0, 2.0, 1.0]), history([2.0, 1.0]), history([3.0, 1.5, 9.0])]
    found = curves.of_runs(runs)
    training, validation = found.curves
    # Two epochs: as many as all of them reached.
    assert training == Curve("training", 3, (3.0, 1.5), (2.0, 1.0), (4.0, 2.0))
    assert validation == Curve("validation", 3, (6.0, 3.0), (4.0, 2.0), (8.0, 4.0))


def test_the_interval_of_a_mean_is_that_of_students_t() -> None:
    """Of five numbers: 2.776 standard errors, as tables of t with four degrees of freedom have it."""
    losses = [1.0, 2.0, 3.0, 4.0, 10.0]
    (curve,) = curves.of_runs([history([loss], held_out=False) for loss in losses], band="interval").curves
    error = np.std(losses, ddof=1) / math.sqrt(5)
    assert curve.mean == (4.0,)
    assert (curve.low[0], curve.high[0]) == pytest.approx(
        (4 - 2.776 * error, 4 + 2.776 * error), abs=0.0005 * error
    )


def test_groups_are_compared_by_the_loss_that_all_of_them_have() -> None:
    a, b = [history([1.0, 0.5])], [history([2.0, 0.1])]
    found = curves.of_runs({"a": a, "b": b})
    assert found.measure == "validation loss"
    assert [curve.mean for curve in found.curves] == [(2.0, 1.0), (4.0, 0.2)]
    found = curves.of_runs({"a": a, "b": [history([2.0, 0.1], held_out=False)]})
    assert found.measure == "training loss"
    assert [curve.mean for curve in found.curves] == [(1.0, 0.5), (2.0, 0.1)]


def test_one_run_has_no_band_and_several_have_one() -> None:
    def areas(found: Curves) -> int:
        groups = parsed(curves.svg(found)).iter(f"{NAMESPACE}g")
        marks = [each for each in groups if "mark-area" in each.get("class", "").split()]
        return sum(bool(path.get("d")) for each in marks for path in each.iter(f"{NAMESPACE}path"))

    assert areas(curves.of_runs(history([2.0, 1.0, 0.5]))) == 0
    assert areas(curves.of_runs([history([2.0, 1.0, 0.5]), history([3.0, 1.0, 0.2])])) == 2


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    model = cr.nn.Sequential(cr.nn.Linear(3, 1))
    data = numbers.normal(size=(20, 3)), numbers.normal(size=(20, 1))
    run = cr.fit(model, data, epochs=3, batch_size=10, backend="numpy", runs=tmp_path)
    assert run.folder is not None
    in_memory, on_disk = curves.of_runs(run), curves.of_runs(run.folder.path)
    assert in_memory == on_disk
    assert len(in_memory.curves[0].mean) == 3


def test_losses_that_are_not_finite_or_below_zero_are_drawn_as_far_as_they_can_be() -> None:
    for losses in ([1.0, math.inf, math.nan], [-1.0, -2.0, 3.0], [math.nan, math.nan], [1.0], [0.0, 0.0]):
        found = curves.of_runs([history(losses), history(losses)], band="interval")
        parsed(curves.svg(found))
        assert curves.text(found)


def test_small_numbers_on_an_axis_keep_their_digits() -> None:
    svg = curves.svg(curves.of_runs(history([10.0 ** -(k / 4) for k in range(20)])))
    labels = [each.text for each in parsed(svg).iter(f"{NAMESPACE}text")]
    assert {"0.001", "0.0001"} <= set(labels)


@pytest.mark.parametrize(
    ("runs", "complaint"),
    [
        ([], "no run to draw"),
        ({}, "no run to draw"),
        ({"a": []}, "no run to draw"),
        ([history([])], "no epoch yet"),
        ({str(k): [history([1.0])] for k in range(7)}, "7 groups of runs are too many"),
    ],
)
def test_runs_that_cannot_be_drawn(runs: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        curves.of_runs(runs)


def test_an_unknown_band_is_refused() -> None:
    with pytest.raises(DataError, match="'range', 'interval'"):
        curves.of_runs(history([1.0]), band="sd")  # type: ignore[arg-type]


# -- numbers -------------------------------------------------------------------------------------------------
@given(st.floats(-300, 300))
def test_a_size_is_ten_to_the_power_of_its_decades(decades: float) -> None:
    assert float(canvas.size_of(decades).replace(",", "")) == pytest.approx(10**decades, rel=0.051)
