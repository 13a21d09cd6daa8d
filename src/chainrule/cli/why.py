"""`chainrule why`: why a gradient is as large as it is, and what one number of a network is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from chainrule.cli.options import DEFAULT_RUNS, Json, RunName, Runs, find_run, write_json
from chainrule.errors import RunError
from chainrule.insight.bad_number import BadNumber, first_bad_number
from chainrule.insight.explain import Explanation, explain
from chainrule.insight.ledger import Entry, Ledger, ledger
from chainrule.insight.named import leaves_of, outputs_of
from chainrule.show.terminal import console
from chainrule.train.past import Replayed
from chainrule.train.replaying import replay

_NUMBER = re.compile(r"(?P<name>[^\[\]]+?)\s*(?:\[(?P<index>[\d\s,]*)\])?")
_NEAR = 5  # names that are suggested
Of = Literal["gradient", "activation"]


def why(
    run: RunName,
    number: Annotated[
        str | None,
        typer.Argument(
            metavar="NUMBER",
            help='"layers.0.weight[3,5]" for a number, "layers.0.weight" for a parameter; else all of them.',
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Step of the run, from 0; -1 is the last, as when not given.")
    ] = None,
    of: Annotated[
        Of | None, typer.Option(help="gradient (of a parameter, if not given) or activation (of a layer).")
    ] = None,
    depth: Annotated[
        int, typer.Option(min=0, help="How many layers the largest part is opened further.")
    ] = 2,
    most: Annotated[int, typer.Option(min=1, help="How many parts are listed.")] = 5,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Take a step of a run again and show why its gradients are as large as they are.

    Without NUMBER: every parameter's gradient as a product over the layers, in decades, and the likeliest
    cause, should the network not learn. With a parameter: its factors, one by one. With an element of one, or
    of the output of a layer: the parts that it is the sum of, and those of the largest part.
    """
    folder = find_run(run, runs)
    replayed = replay(folder, step)
    bad = first_bad_number(replayed)
    name, index = _asked(number, replayed)
    found: Ledger | Entry | list[Explanation]
    if name and index is not None:
        found = list(_opened(explain(replayed, name, index, most, of=of), depth, most))
    else:
        whole = ledger(replayed)
        found = whole[name] if name else whole
    if json:
        head = {"run": str(folder), "step": replayed.step, "loss": replayed.loss.item()}
        write_json({**head, **_document(found), **({"bad_number": asdict(bad)} if bad else {})})
    else:
        _print(folder, replayed, found, bad)


def _asked(number: str | None, replayed: Replayed) -> tuple[str, tuple[int, ...] | None]:
    """The name and the index that are meant, both known to be there."""
    if number is None:
        return "", None
    read = _NUMBER.fullmatch(number.strip())
    if read is None:
        raise RunError(f'{number!r} is no number of a network: write it as "layers.0.weight[3,5]", from 0 on')
    loss, name = replayed.loss.node, read["name"]
    parameters = [path for path, _ in _parameters(replayed)]
    known = {**outputs_of(loss), **leaves_of(loss)}
    there: Iterable[str] = known if read["index"] is not None else parameters
    if name not in there:
        near = get_close_matches(name, there, _NEAR, 0.4) or list(there)[:_NEAR]
        what = "nothing" if read["index"] is not None else "no parameter"
        raise RunError(f"this network has {what} called {name!r}; there is {', '.join(near)}, for example")
    if read["index"] is None:
        return name, None
    index = tuple(int(each) for each in re.findall(r"\d+", read["index"]))
    shape = known[name].shape
    if len(index) != len(shape) or any(k >= extent for k, extent in zip(index, shape, strict=True)):
        last = ",".join(str(extent - 1) for extent in shape)
        raise RunError(f"{name} has no element {list(index)}: its last one is {name}[{last}]")
    return name, index


def _parameters(replayed: Replayed) -> Iterator[tuple[str, Any]]:
    for path, node in leaves_of(replayed.loss.node).items():
        if f"model.{path}" in replayed.state:
            yield path, node


def _opened(first: Explanation, depth: int, most: int) -> Iterator[Explanation]:
    """A number, its largest part, the largest part of that, and so on."""
    yield first
    while depth and first.children:
        first, depth = first.children[0].open(most), depth - 1
        yield first


# -- for people ----------------------------------------------------------------------------------------------
def _print(
    folder: Path, replayed: Replayed, found: Ledger | Entry | list[Explanation], bad: BadNumber | None
) -> None:
    out = console()
    rows = len(replayed.rows)
    head = f"Step {replayed.step:,} of {folder}, {rows:,} rows, loss {replayed.loss.item():.6g}"
    out.print(Text(head, style="bold"), soft_wrap=True)
    if bad is not None:
        out.print(Text(f"\n{bad}"), soft_wrap=True)
    for each in found if isinstance(found, list) else [found]:
        out.print(Text(f"\n{each}"), soft_wrap=True)
    if isinstance(found, Ledger) and found.cause is not None:
        out.print(Text(f"\nShould this network not learn: {found.cause.reason}"), soft_wrap=True)


# -- for programs --------------------------------------------------------------------------------------------
def _document(found: Ledger | Entry | list[Explanation]) -> dict[str, Any]:
    if isinstance(found, Entry):
        return {"parameter": _entry(found)}
    if isinstance(found, Ledger):
        cause = found.cause
        told = (
            None if cause is None else {"factor": cause.factor, "layer": cause.layer, "reason": cause.reason}
        )
        return {"parameters": [_entry(each) for each in found.entries], "cause": told}
    return {"opened": [_explanation(each) for each in found]}


def _entry(entry: Entry) -> dict[str, Any]:
    terms = [
        {
            "label": term.label, "kind": term.kind, "layer": term.layer, "decades": term.decades,
            "shares": [share._asdict() for share in term.shares],
        }
        for term in entry.terms
    ]  # fmt: skip
    return {"name": entry.name, "shape": entry.shape, "log10_norm": entry.log10_norm, "terms": terms}


def _explanation(opened: Explanation) -> dict[str, Any]:
    return {
        "label": opened.label,
        "row": opened.row,
        "value": opened.value,
        "steps": [each._asdict() for each in opened.steps],
        "parts": [
            {
                "label": part.label, "row": part.row, "value": part.value, "share": part.share,
                "derivative": part.derivative, "formula": part.formula,
            }
            for part in opened.children
        ],
        "remainder": {"value": opened.remainder.value, "count": opened.remainder.count},
        "cancellation": opened.cancellation,
        "paths": None if opened.paths is None else str(opened.paths),
    }  # fmt: skip
