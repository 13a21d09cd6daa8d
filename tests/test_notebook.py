"""What a notebook shows: everything escaped, nothing loaded, nothing that runs, and the numbers are there."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from test_insight_ledger import numbers

import chainrule as cr
from chainrule import nn

EVIL = "<img src=x onerror=alert(1)>&\"'"


class Page(HTMLParser):
    """The tags of a page, checked to be nested, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        self.tags.append(tag)
        if tag not in ("br", "hr", "meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(value: Any) -> Page:
    page = value._repr_html_()
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\(", page)
    found = Page(page)
    assert not {"script", "img", "iframe", "link", "object"} & set(found.tags)
    return found


class Named(nn.Module):
    """Layers under a name that means something in HTML."""

    def __init__(self) -> None:
        self.layers = {EVIL: nn.Linear(2, 3), "b": nn.Linear(3, 1)}

    def forward(self, x: Any) -> cr.Tensor:
        first, last = self.layers.values()
        return last(cr.tanh(first(x)))


@pytest.fixture
def loss() -> cr.Tensor:
    return nn.MSELoss()(Named().double()(cr.asarray(numbers(4, 2))), cr.asarray(numbers(4, 1, seed=1)))


def test_a_tensor_with_its_type_range_and_layer() -> None:
    with cr.scope(EVIL):
        page = shown(cr.exp(cr.asarray([[0.0, np.inf, np.nan]])))
    assert "1 × 3 float32" in page.text
    assert f"in {EVIL}" in page.text
    assert "1 to 1, mean 1, 2 not finite" in " ".join(page.text.split()).replace("1.000", "1")
    assert "scalar int64" in shown(cr.asarray(3)).text
    assert "2 bool" in shown(cr.asarray([True, False])).text
    assert "Parameter([1.]" in shown(nn.Parameter([1.0])).text
    shown(cr.asarray(np.zeros((0, 3))))


def test_a_module_layer_by_layer() -> None:
    page = shown(Named())
    assert "Named, 13 parameters" in page.text
    assert f"layers.{EVIL}" in page.text
    assert "weight 3×2, bias 3" in page.text
    deep = shown(nn.Sequential(*(nn.Tanh() for _ in range(100))))
    assert "61 more" in deep.text
    assert shown(nn.ReLU()).text.count("ReLU") == 2


def test_a_ledger_as_waterfall_and_table(loss: cr.Tensor) -> None:
    page = shown(cr.ledger(loss))
    assert {"svg", "table", "caption"} <= set(page.tags)
    assert f"layers.{EVIL}.weight" in page.text
    assert "weight gain" in page.text


def test_an_opened_number_as_a_tree(loss: cr.Tensor) -> None:
    page = shown(cr.explain(loss, f"layers.{EVIL}.weight", (1, 0)))
    assert page.tags.count("details") > 3
    assert f"layers.{EVIL}[" in page.text
    assert "tanh'(" in page.text
    assert shown(cr.explain(loss)).tags.count("details") > 3


def test_a_run_with_its_figures() -> None:
    x = numbers(60, 2).astype(np.float32)
    run = cr.fit(
        nn.Sequential(nn.Linear(2, 1)), (x, x[:, :1]), loss=nn.MSELoss(), optimizer=cr.optim.SGD(lr=0.1),
        epochs=3, batch_size=20, seed=0, backend="numpy",
    )  # fmt: skip
    page = shown(run)
    assert "3 epochs" in page.text
    assert "gradient_norm" in page.text
