"""`chainrule demo`: the whole main job on the house prices that travel with the package."""

from __future__ import annotations

import json as documents
from pathlib import Path
from typing import Annotated, Any

import typer

from chainrule.cli.options import DEFAULT_RUNS, Json, Runs, Verbose
from chainrule.cli.session import Session
from chainrule.cli.settings import recipe_from
from chainrule.data.examples import example_path
from chainrule.train.table import fit_table

_RECIPE = example_path("ames").with_name("ames.toml")
_RESULTS = example_path("ames").with_name("ames.results.json")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the report goes.")] = Path(
        "report.html"
    ),
    epochs: Annotated[int | None, typer.Option(help="Fewer are quicker, and worse.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides the split of the houses and the training.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Train a network that predicts house prices, and compare it with other models on the same houses.

    The data are 2,930 sales in Ames, Iowa, from 2006 to 2010 (De Cock, 2011); nothing is downloaded.
    """
    options = {"training": {"epochs": epochs, "seed": seed}, "split": {"seed": seed}}
    recipe = recipe_from(_RECIPE, (), options)
    with Session(json, verbose) as session:
        told = session.on_prepared(recipe)
        run = fit_table(recipe, runs=runs, callbacks=session.callbacks, on_prepared=told)
        session.finish(run, baselines=True, report=output, reference=_committed())


def _committed() -> dict[str, Any] | None:
    """What benchmarks/ames.py measured on five splits, if it is there."""
    if not _RESULTS.exists():
        return None
    results: dict[str, Any] = documents.loads(_RESULTS.read_text(encoding="utf-8"))
    return results
