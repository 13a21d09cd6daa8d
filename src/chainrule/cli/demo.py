"""`chainrule demo`: the whole main job on the house prices that travel with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli.options import DEFAULT_RUNS, Json, Runs, Verbose
from chainrule.cli.session import Session
from chainrule.recipe import Recipe
from chainrule.train.table import fit_table

_FILES = Path(__file__).parent.parent / "data" / "files"


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the report goes.")] = Path(
        "report.html"
    ),
    epochs: Annotated[int | None, typer.Option(help="Fewer make it quicker and worse.")] = None,
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
    session = Session(json, verbose)
    recipe = demo_recipe(epochs, seed)
    run = fit_table(recipe, runs=runs, callbacks=session.callbacks, on_prepared=session.on_prepared(recipe))
    session.finish(run, baselines=True, report=output)


def demo_recipe(epochs: int | None = None, seed: int | None = None) -> Recipe:
    """The recipe the package ships for these data."""
    file = _FILES / "ames.toml"
    recipe = (
        Recipe.read(file)
        if file.exists()
        else Recipe.from_document({"data": {"source": "example:ames", "target": "Sale_Price"}})
    )
    training = {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    return recipe.with_(training=training, split={} if seed is None else {"seed": seed})
