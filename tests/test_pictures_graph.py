"""The pictures of graphs: the data flow of a network and the tree of an opened number."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.show.html import Html
from chainrule.show.pictures import dataflow, folding, tree
from chainrule.show.pictures.dataflow import Arrow, Box, Dataflow
from chainrule.show.pictures.tree import Branch

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(12, 5))
TARGETS = INPUTS[:, :1] * INPUTS[:, 1:2]
HOSTILE = "<script>alert('x')</script>\"&\x1b[2J"


class Block(cr.nn.Module):
    """A residual block: what comes in, and a branch beside it."""

    def __init__(self, width: int) -> None:
        self.norm, self.branch = cr.nn.LayerNorm(width), cr.nn.Linear(width, width)

    def forward(self, x: cr.Tensor) -> cr.Tensor:
        return x + cr.tanh(self.branch(self.norm(x)))


def loss_of(*modules: cr.nn.Module) -> cr.Tensor:
    model = cr.nn.Sequential(*modules).double()
    return cr.nn.MSELoss()(model(cr.asarray(INPUTS)), cr.asarray(TARGETS))


def plain(depth: int) -> cr.Tensor:
    with cr.random.stream(cr.random.key(0)):
        hidden = [each for _ in range(depth) for each in (cr.nn.Linear(8, 8), cr.nn.Tanh())]
        return loss_of(cr.nn.Linear(5, 8), *hidden, cr.nn.Linear(8, 1))


def residual(depth: int) -> cr.Tensor:
    with cr.random.stream(cr.random.key(0)):
        return loss_of(cr.nn.Linear(5, 8), *(Block(8) for _ in range(depth)), cr.nn.Linear(8, 1))


def names(flow: Dataflow) -> list[str]:
    return [box.name for box in flow.boxes]


# -- the data flow: what it says -----------------------------------------------------------------------------
def test_layers_are_boxes_in_the_order_of_computation() -> None:
    flow = dataflow.of_loss(residual(1), {"0": "Linear"})
    assert names(flow) == ["input", "0", "1.norm", "1.branch", "1", "2", "targets", "loss"]
    assert [flow.boxes[k].kind for k in (1, 3)] == ["Linear", "matmul, add"]
    pairs = {(flow.boxes[arrow.source].name, flow.boxes[arrow.target].name) for arrow in flow.arrows}
    assert {("0", "1.norm"), ("0", "1"), ("1.branch", "1"), ("targets", "loss")} <= pairs
    assert all(arrow.source < arrow.target for arrow in flow.arrows)


def test_its_numbers_are_those_of_numpy_and_of_backward() -> None:
    first, second = cr.nn.Linear(5, 4).double(), cr.nn.Linear(4, 1).double()
    hidden = first(cr.asarray(INPUTS))
    loss = cr.nn.MSELoss()(second(cr.tanh(hidden)), cr.asarray(TARGETS))
    loss.backward()
    flow = dataflow.of_loss(cr.nn.MSELoss()(_two(first, second), cr.asarray(TARGETS)))
    boxes = {box.name: box for box in flow.boxes}
    values = INPUTS @ first.weight.numpy().T + first.bias.numpy()
    activation = np.tanh(values)
    error = 2 * (activation @ second.weight.numpy().T + second.bias.numpy() - TARGETS) / len(INPUTS)
    back = (error @ second.weight.numpy()) * (1 - activation**2)
    assert boxes["0"].activation == pytest.approx(np.sqrt(np.mean(values**2)), rel=1e-12)
    assert boxes["2"].error == pytest.approx(np.linalg.norm(error), rel=1e-12)
    assert boxes["0"].error == pytest.approx(np.linalg.norm(back), rel=1e-12)
    squares = [
        sum(np.sum(each.grad.numpy() ** 2) for each in layer.parameters()) for layer in (first, second)
    ]
    assert boxes["0"].gradient == pytest.approx(np.sqrt(squares[0]), rel=1e-12)
    assert boxes["2"].share == pytest.approx(squares[1] / sum(squares), rel=1e-12)


def _two(first: cr.nn.Module, second: cr.nn.Module) -> cr.Tensor:
    return cr.nn.Sequential(first, cr.nn.Tanh(), second)(cr.asarray(INPUTS))


def test_shares_at_a_branch_add_up_to_one_and_are_projections() -> None:
    flow = dataflow.of_loss(residual(3))
    known = [arrow for arrow in flow.arrows if arrow.share is not None]
    for source in {arrow.source for arrow in known}:
        shares = [arrow.share for arrow in known if arrow.source == source]
        assert sum(filter(None, shares)) == pytest.approx(1.0, abs=1e-12)
    weight = cr.nn.Parameter(np.array([3.0, 4.0]))
    with cr.scope("once"):
        x = weight * 1.0
    with cr.scope("double"):
        doubled = x * 2.0
    flow = dataflow.of_loss(cr.sum(doubled) + cr.sum(x))
    shares = {flow.boxes[arrow.target].name: arrow.share for arrow in flow.arrows if arrow.source == 0}
    assert shares == {"double": pytest.approx(2 / 3), "loss": pytest.approx(1 / 3)}


def test_a_loss_without_layers_has_a_box_too() -> None:
    weight = cr.nn.Parameter(np.array([2.0, 1.0]))
    flow = dataflow.of_loss(cr.sum(cr.square(INPUTS[:, :2] @ weight)))
    assert names(flow)[-1] == "loss"
    assert "matmul, square, sum" in dataflow.text(flow) or flow.boxes[-1].kind == "matmul, square, sum"
    dataflow.svg(flow)


def test_dead_and_broken_networks_are_drawn() -> None:
    dead = cr.nn.Linear(5, 8)
    dead.bias.assign(np.full(8, -1e6, np.float32))
    flow = dataflow.of_loss(loss_of(dead, cr.nn.ReLU(), cr.nn.Linear(8, 1)))
    assert next(box for box in flow.boxes if box.name == "0").error == 0.0
    broken = cr.nn.Linear(5, 1)
    broken.bias.assign(np.full(1, np.nan, np.float32))
    told = dataflow.text(dataflow.of_loss(loss_of(broken)))
    assert "not finite" in told
    dataflow.svg(dataflow.of_loss(loss_of(broken)))


def test_depth_makes_one_box_of_a_block() -> None:
    assert names(dataflow.of_loss(residual(2), depth=1)) == ["input", "0", "1", "2", "3", "targets", "loss"]


class Wide(cr.nn.Module):
    """Blocks that are all different, so that nothing folds."""

    def __init__(self) -> None:
        self.blocks = [cr.nn.Sequential(cr.nn.Linear(5 + k, 6 + k), cr.nn.Tanh()) for k in range(40)]

    def forward(self, x: cr.Tensor) -> cr.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_what_does_not_fold_is_shown_block_by_block() -> None:
    loss = cr.sum(Wide()(cr.asarray(INPUTS.astype(np.float32))))
    assert names(dataflow.of_loss(loss))[1:3] == ["blocks.0.0", "blocks.0.1"]
    assert names(dataflow.readable(loss))[1:3] == ["blocks.0", "blocks.1"]
    assert names(dataflow.readable(plain(100))) == names(dataflow.of_loss(plain(100)))


# -- folding -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("loss", "expected"), [(plain(200), 7), (residual(100), 8)], ids=["plain", "residual"]
)
def test_two_hundred_layers_are_a_few_rows(loss: cr.Tensor, expected: int) -> None:
    flow = dataflow.of_loss(loss)
    assert len(flow.boxes) > 200
    assert len(dataflow.table(flow)[1]) <= expected
    assert len(dataflow.svg(flow)) < 40_000


def test_few_layers_are_not_folded() -> None:
    flow = dataflow.of_loss(plain(8))
    assert len(dataflow.table(flow)[1]) == len(flow.boxes)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(1, 20))
def test_every_box_is_in_one_row(kinds: list[str], most: int) -> None:
    boxes = [Box(f"{kind}.{k}", kind, (1,), 1.0, 1.0) for k, kind in enumerate(kinds)]
    flow = Dataflow(tuple(boxes), tuple(Arrow(k, k + 1, 1.0) for k in range(len(boxes) - 1)))
    found = folding.rows(flow, most)
    assert sorted(box for row in found for box in row.boxes) == list(range(len(boxes)))
    for row in found:
        assert len({kinds[box] for box in row.boxes}) == 1
    ways = folding.arrows(flow, found)
    assert all(way.source < way.target for way in ways)
    assert {way.target for way in ways} == set(range(1, len(found)))


def test_shares_of_repeats_are_told_from_least_to_most() -> None:
    flow = dataflow.of_loss(residual(40))
    row = next(row for row in dataflow.table(flow)[1] if row[0].startswith("1…40 "))
    assert re.search(r"0 \(\d+% to \d+% back\), 1…40.branch", row[6])


# -- how it is drawn -----------------------------------------------------------------------------------------
def parsed(svg: Html) -> ET.Element:
    return ET.fromstring(svg)


def texts(root: ET.Element) -> Iterator[str]:
    return (each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text"))


def test_the_picture_has_a_name_and_nothing_from_outside() -> None:
    svg = dataflow.svg(dataflow.of_loss(residual(2)))
    root = parsed(svg)
    assert root.get("role") == "img"
    described = {root.get("aria-labelledby"), root.get("aria-describedby")}
    assert described <= {each.get("id") for each in root.iter()}
    assert not re.findall(r"href|url\(|<script|<image", svg)
    assert not re.findall(r'"#[0-9a-f]{3,6}"', svg), "colours come from the page"
    assert any("66%" in text or "%" in text for text in texts(root))


def test_names_from_users_are_escaped() -> None:
    box = Box(HOSTILE, HOSTILE, (2,), 1.0, 1.0, 1.0, 1.0)
    flow = Dataflow((box, Box("loss", "sum", (), 1.0, 1.0)), (Arrow(0, 1, 1.0),))
    svg = dataflow.svg(flow)
    assert "<script" not in svg
    assert any("<script>" in text for text in texts(parsed(svg)))
    assert "\x1b" not in dataflow.text(flow)
    branch = Branch(HOSTILE, 1.0, parts=(Branch(HOSTILE, 1.0, 1.0, HOSTILE),), rest=(0.0, 3))
    assert "<script" not in tree.html(branch)
    assert "\x1b" not in tree.text(branch)


def test_text_is_as_wide_as_asked() -> None:
    lines = dataflow.text(dataflow.of_loss(residual(40)), width=70).splitlines()
    assert max(map(len, lines)) <= 70
    assert lines[0].split() == ["layer", "activation", "error", "gradient²", "reads"]


# -- the tree ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def opened() -> Branch:
    return tree.of_explanation(cr.explain(plain(4), "0.weight", (3, 2)))


def test_parts_and_the_rest_are_the_number(opened: Branch) -> None:
    def check(branch: Branch) -> int:
        if not branch.parts:
            return 1
        whole = sum(part.value for part in branch.parts) + branch.rest[0]
        sizes = sum(abs(part.value) for part in branch.parts) + abs(branch.rest[0])
        assert whole == pytest.approx(branch.value, abs=1e-13 * sizes * 100)
        assert all(0 <= part.share <= 1 for part in branch.parts)
        return 1 + max(map(check, branch.parts))

    assert check(opened) == 5
    assert [abs(part.value) for part in opened.parts] == sorted(
        (abs(part.value) for part in opened.parts), reverse=True
    )


def test_fewer_parts_leave_more_to_the_rest() -> None:
    found = cr.explain(plain(2), "0.weight", (3, 2), most=8)
    few, many = tree.of_explanation(found, (), most=2), tree.of_explanation(found, (), most=8)
    assert len(few.parts) + few.rest[1] == len(many.parts) + many.rest[1]
    assert sum(part.value for part in few.parts) + few.rest[0] == pytest.approx(found.value)


def test_the_tree_opens_without_javascript(opened: Branch) -> None:
    html = tree.html(opened)
    assert html.count("<details") == html.count("<summary>") == 1 + 3 + 3 * 2 + 3 * 2
    assert "<script" not in html
    assert "onclick" not in html
    assert "the remaining" in html
    assert html.startswith('<div class="tree"><details open="open">')


def test_a_sign_is_more_than_a_colour(opened: Branch) -> None:
    root = ET.fromstring(tree.html(opened))
    for line in root.iter():
        bar = line.find("span[@class='bar']/span")
        if bar is not None:
            value = line.find("span[@class='value']")
            assert value is not None
            assert ("−" in (value.text or "")) >= (bar.get("class") == "fill minus")
            assert (value.text or "")[0] in "+−0"


def test_the_tree_as_text_and_table(opened: Branch) -> None:
    lines = tree.text(opened, width=80).splitlines()
    assert lines[0].startswith("0.weight[3, 2] = ")
    assert max(map(len, lines)) <= 80
    head, rows = tree.table(opened)
    assert {len(row) for row in rows} == {len(head)}
    assert [row[0] for row in rows[:3]] == ["0", "1", "1.1"]
    assert rows[-1][0] == "rest"
