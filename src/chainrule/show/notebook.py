"""What a notebook shows of tensors, modules, runs, ledgers and opened numbers, when a cell ends with one.

It stands in a page that is not ours, light or dark: the ink is that of the text around. Nothing is loaded and
nothing runs; what is more than a screenful opens by click or key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from chainrule.graph import Array
from chainrule.insight.departures import signed
from chainrule.insight.explanation import Explanation
from chainrule.insight.ledger import Ledger
from chainrule.nn import Module
from chainrule.show.figures import count, counted, full_label, metric, printable, unit_of, value
from chainrule.show.html import Html, details, element, heads, joined, number
from chainrule.show.pictures import tree
from chainrule.show.pictures.picture import waterfall
from chainrule.tensor import Tensor
from chainrule.train.result import Run

_MOST_ROWS = 40  # of a table; behind them, the others open on demand
_RULES = (
    "{--accent:#3384d6;--second:#d9702a;--rule:color-mix(in srgb,currentColor 18%,transparent)}",
    "{font-variant-numeric:tabular-nums;overflow-x:auto}",
    " table{border-collapse:collapse;margin:.5em 0}",
    " caption{text-align:left;padding:.2em 0}",
    " :is(th,td){text-align:left;vertical-align:top;padding:.15em 1em .15em 0;background:none}",
    " th{font-weight:600}",
    " .number{text-align:right;white-space:nowrap}",
    " :is(pre,code){color:inherit;background:none;white-space:pre-wrap}",
    " svg{display:block}",
    " summary{cursor:pointer}",
    " :is(.quiet,.note,.share){opacity:.75}",
    " .note{margin:.1em 0 .3em 1.2em}",
    " ul{margin:0 0 .3em .4em;padding:0 0 0 1.1em;border-left:1px solid var(--rule);list-style:none}",
    " .leaf{padding-left:1.1em}",
    " .value{display:inline-block;min-width:7.4em;margin-right:.6em;text-align:right;font-weight:600}",
    " .bar{display:inline-block;width:5em;height:.5em;margin-right:.5em;vertical-align:middle}",
    " .bar{border-radius:3px;background:var(--rule)}",
    " .bar.none{visibility:hidden}",
    " .fill{display:block;height:100%;min-width:1px;border-radius:3px;background:var(--accent)}",
    " .fill.minus{background:var(--second)}",
    " .share{display:inline-block;min-width:3em}",
    " .label{font-family:monospace}",
)
_STYLE = element("style", Html("".join(f".chainrule{rule}" for rule in _RULES)))


def tensor(shown: Tensor) -> Html:
    """Type, where it was computed, its range, and its elements."""
    node = shown.node
    shape = " × ".join(map(str, shown.shape)) or "scalar"
    facts = [f"{shape} {shown.dtype}"]
    if node.layer:
        facts.append(f"in {node.layer}")
    if node.value is not None and shown.size > 1:
        facts += _range(node.value)
    return _framed(element("small", ", ".join(facts)), element("pre", repr(shown)))


def module(shown: Module) -> Html:
    """The layers with their own parameters."""
    rows, total = list[Html](), 0
    for path, layer in shown.named_modules():
        own = [(name, each) for name, each in layer.named_parameters() if "." not in name]
        size = sum(each.size for _, each in own)
        total += size
        shapes = ", ".join(f"{name} {'×'.join(map(str, each.shape)) or 'scalar'}" for name, each in own)
        kind = type(layer).__name__
        said = "" if list(layer.named_children()) else layer.extra_repr()
        cells = (
            element("td", element("code", path or "model")),
            element("td", f"{kind}({said})" if said else kind),
        )
        rows.append(element("tr", *cells, element("td", shapes), number(count(size) if size else "")))
    title = f"{type(shown).__name__}, {counted(total, 'parameter')}"
    return _framed(_table(title, ("path", "layer", "parameters", ">count"), rows))


def run(shown: Run) -> Html:
    """What came of a run: its figures, why it ended, its last epochs."""
    unit, result = unit_of(shown.recipe), shown.result
    parts = [(part, figures) for part, figures in result.get("metrics", {}).items() if figures]
    names = list(dict.fromkeys(name for _, figures in parts for name in figures))
    rows = [
        element(
            "tr",
            element("th", full_label(name), scope="row"),
            *(number(metric(name, figures.get(name), unit)) for _, figures in parts),
        )
        for name in names
    ]
    told = [f"{counted(len(shown.history), 'epoch')}"]
    told += [f"ended by: {result['reason']}"] if result.get("reason") else []
    told += [f"kept in {shown.folder.path}"] if shown.folder else []
    contents = [element("small", ", ".join(told))]
    if rows:
        contents.append(_table("Figures", ("", *(f">{part}" for part, _ in parts)), rows))
    if shown.history:
        contents.append(details("Epochs", _epochs(shown.history)))
    return _framed(*contents)


def ledger(shown: Ledger) -> Html:
    """The waterfall of the first weight, and the table of all parameters."""
    rows = [
        element(
            "tr",
            element("td", element("code", entry.name)),
            *(number(signed(entry.total(kind))) for kind in shown.kinds),
            number(signed(entry.log10_norm)),
        )
        for entry in shown.entries
    ]
    contents = [element("div", element("small", f"loss {value(shown.loss)}; gradients in decades, log10"))]
    if shown.entries:
        contents.append(waterfall(shown).svg)
    head = ("parameter", *(f">{kind}" for kind in shown.kinds), ">gradient norm")
    return _framed(*contents, _table("Every gradient as a sum of decades", head, rows))


def explanation(shown: Explanation) -> Html:
    """The factor tree: some levels of the largest parts, which open by click or key."""
    return _framed(tree.html(tree.of_explanation(shown)))


# -- parts of them -------------------------------------------------------------------------------------------
def _framed(*contents: Html) -> Html:
    return element("div", _STYLE, *contents, class_="chainrule")


def _table(caption: str, head: Sequence[str], rows: Sequence[Html]) -> Html:
    """A table; of a long one, what is behind the first rows opens on demand."""
    first = element(
        "table",
        element("caption", caption),
        element("thead", heads(*head)),
        element("tbody", *rows[:_MOST_ROWS]),
    )
    if len(rows) <= _MOST_ROWS:
        return first
    rest = element("table", element("thead", heads(*head)), element("tbody", *rows[_MOST_ROWS:]))
    return joined([first, details(f"{count(len(rows) - _MOST_ROWS)} more", rest)])


def _range(array: Array) -> Iterable[str]:
    """From where to where the numbers go, and how many are none."""
    finite = array[np.isfinite(array)]
    if finite.size and array.dtype.kind == "f":
        low, high, mean = (value(float(each)) for each in (finite.min(), finite.max(), finite.mean()))
        yield f"{low} to {high}, mean {mean}"
    if finite.size < array.size:
        yield f"{count(array.size - finite.size)} not finite"


def _epochs(history: Sequence[dict[str, object]]) -> Html:
    names = list(dict.fromkeys(name for row in history for name in row))
    rows = [element("tr", *(number(_cell(row.get(name))) for name in names)) for row in history[-_MOST_ROWS:]]
    return _table(f"The last {counted(len(rows), 'epoch')}", [f">{printable(name)}" for name in names], rows)


def _cell(found: object) -> str:
    return value(found) if isinstance(found, float) else "" if found is None else str(found)
