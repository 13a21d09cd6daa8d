"""`chainrule why`: why a gradient is as large as it is, and what one number of a network is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from chainrule.cli.options import DEFAULT_RUNS, Json, RunName, Runs, find_run, write_json
from chainrule.errors import RunError
from chainrule.insight.bad_number import BadNumber, first_bad_number
from chainrule.insight.explain import Explanation, explain
from chainrule.insight.ledger import Entry, Ledger, ledger
from chainrule.insight.named import number_named, value_named
from chainrule.insight.sensitivity import LOSS
from chainrule.origin import at_user_line
from chainrule.show.terminal import console
from chainrule.tensor import Parameter
from chainrule.train.past import Replayed
from chainrule.train.replaying import replay

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
    found: Ledger | Entry | list[Explanation]
    try:
        found = _found(replayed, number, of, depth, most)
    except (KeyError, IndexError) as error:  # their messages are ours, but for the line of a program
        raise RunError(error.args[0].replace(at_user_line(), "")) from None
    if json:
        head = {"run": str(folder), "step": replayed.step, "loss": replayed.loss.item()}
        write_json({**head, **_document(found), **({"bad_number": asdict(bad)} if bad else {})})
    else:
        _print(folder, replayed, found, bad)


def _found(
    replayed: Replayed, number: str | None, of: Of | None, depth: int, most: int
) -> Ledger | Entry | list[Explanation]:
    """What was asked for: all parameters, one, or one number, opened."""
    if number is None:
        return ledger(replayed)
    name, index = number_named(number.strip())
    if index is not None or number == LOSS:
        first = explain(replayed, None if number == LOSS else name, index or (), most, of=of)
        return list(_opened(first, depth, most))
    value = value_named(replayed.loss.node, name)[1]
    if not isinstance(value.cell, Parameter):
        last = ",".join(str(extent - 1) for extent in value.shape)
        raise RunError(f"{name} is no parameter: ask for one number of it, as in {name}[{last}], its last")
    return ledger(replayed)[name]


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
