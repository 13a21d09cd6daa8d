"""`chainrule train`: from a table to a trained, measured and saved network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli.options import DEFAULT_RUNS, Json, Runs, Verbose, find_run
from chainrule.cli.session import Session
from chainrule.cli.settings import Sections, kinds, recipe_from, widths
from chainrule.errors import RecipeError
from chainrule.recipe import Recipe
from chainrule.train import table
from chainrule.train.result import Run

_DATA = "CSV, Parquet or JSON file, pattern of files, URL, SQL query, or database::table."


def train(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=_DATA)] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict.")] = None,
    task: Annotated[
        str | None, typer.Option(help="regression, binary or multiclass, if not as inferred.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column to leave out; may be repeated.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=KIND", help="What a column is, as zip=category; may be repeated."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Begin with this recipe, TOML or JSON.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any setting: network.normalisation=batch; may be repeated."
        ),
    ] = None,
    hidden: Annotated[
        str | None, typer.Option(metavar="N,N", help="Widths of the hidden layers, as 128,64.")
    ] = None,
    activation: Annotated[str | None, typer.Option(help="relu, gelu, silu, tanh, ...")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of each hidden layer that is dropped.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, adam, sgd, rmsprop, ...")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How often every training row is seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides split, first weights, order, dropout.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run, instead of DATA.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    baselines: Annotated[bool, typer.Option(help="Fit simpler models to compare with.")] = True,
    report: Annotated[bool, typer.Option(help="Write report.html into the run.")] = True,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Train a network on a table, measure it on rows it has not seen, and keep it as a run.

    Everything that decides the result is the run's recipe: what --recipe holds, changed by --set and by the
    other options. Ctrl-C saves, and --resume goes on to the same result.
    """
    options: Sections = {
        "data": {"source": data, "target": target, "task": task, "drop": drop or None},
        "split": {"seed": seed},
        "preprocessing": {"kinds": kinds(kind)},
        "network": {"hidden": widths(hidden), "activation": activation, "dropout": dropout},
        "optimizer": {"name": optimizer, "lr": lr},
        "training": {"epochs": epochs, "batch_size": batch_size, "seed": seed},
    }
    if resume is not None and (recipe is not None or set_ or _given(options)):
        raise RecipeError("--resume goes on with a run by its own recipe: give it without DATA and settings")
    with Session(json, verbose) as session:
        if resume is not None:
            run = _resume(find_run(resume, runs), session)
        else:
            run = _train(recipe_from(recipe, set_ or [], options), runs, session)
        wanted = run.folder.path / "report.html" if report and run.folder is not None else None
        session.finish(run, baselines, wanted)


def _given(options: Sections) -> bool:
    """Whether any option was given."""
    return any(value is not None for section in options.values() for value in section.values())


def _train(recipe: Recipe, runs: Path, session: Session) -> Run:
    if not recipe.data.source:
        raise RecipeError(
            "there is nothing to train on: give a file, as in chainrule train houses.csv --target price"
        )
    return table.fit_table(
        recipe, runs=runs, callbacks=session.callbacks, on_prepared=session.on_prepared(recipe)
    )


def _resume(folder: Path, session: Session) -> Run:
    recipe = Recipe.read(folder / "recipe.toml")
    return table.resume(folder, callbacks=session.callbacks, on_prepared=session.on_prepared(recipe))
