"""`chainrule predict`: the target of new rows, as CSV or Parquet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from chainrule.cli.options import DEFAULT_RUNS, Json, RunName, Runs, find_run, write_json
from chainrule.data.reading import read_table
from chainrule.data.table import Column
from chainrule.data.writing import csv_text, write_table
from chainrule.show.figures import counted
from chainrule.train.table import load


def predict(
    run: RunName,
    data: Annotated[str, typer.Argument(metavar="NEW", help="New rows: anything `train` reads.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .csv or .parquet file; standard output if not given."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A column of NEW to put before the predictions.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Predict the target of new rows, in their order: one line per row.

    The rows may lack the target, hold further columns, and hold values never seen in training. For classes,
    the probability of each stands beside the prediction.
    """
    trained = load(find_run(run, runs))
    given = read_table(data) if keep else None
    predicted = trained.predict(data)
    columns = {name: _entries(given[name]) for name in keep or ()} if given is not None else {}
    for name, values in predicted.columns().items():
        columns[f"predicted {name}" if name in columns else name] = values.tolist()
    if output is not None:
        write_table(columns, output)
        if json:
            write_json({"rows": len(predicted), "columns": list(columns), "output": str(output)})
        else:
            sys.stdout.write(f"{counted(len(predicted), 'prediction')} written to {output}\n")
    elif json:
        write_json({"rows": len(predicted), "columns": columns})
    else:
        sys.stdout.write(csv_text(columns))


def _entries(column: Column) -> list[Any]:
    """The column's numbers, or else its texts; None where missing."""
    if column.kind != "number":
        return column.texts()
    return [
        None if gone else value for value, gone in zip(column.values.tolist(), column.missing, strict=True)
    ]
