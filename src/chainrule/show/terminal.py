"""What a person at a terminal sees; plain lines where nobody watches.

Colours and live bars are for terminals only (and `NO_COLOR` turns colour off): what is piped into a file or a
program is the same text in aligned columns. Texts from the data are never read as markup.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from chainrule.data.preprocess import Preprocessor
from chainrule.insight.bad_number import BadNumber
from chainrule.recipe import Recipe
from chainrule.show import columns, outcome
from chainrule.show.facts import Facts, layers
from chainrule.show.figures import LABEL, count, counted, label, listed, metric, printable, unit_of, value
from chainrule.show.network import Layer, outline, total
from chainrule.train.table import Prepared

_PLAIN_WIDTH = 100
_WIDEST = 120  # longer lines are hard to read, however wide the window
_METRICS = 3  # so that a result fits 80 columns


def console(file: TextIO | None = None) -> Console:
    """Where to print: as wide as the terminal, at most 120 columns; else `COLUMNS` or 100."""
    stream = file or sys.stdout
    made = Console(file=stream, highlight=False, markup=False, emoji=False)
    fallback = made.width if made.is_terminal else int(os.environ.get("COLUMNS", "") or _PLAIN_WIDTH)
    made.width = min(fallback, _WIDEST)
    return made


class Screen:
    """Tells the story of a training: what was read, what it was made into, what came of it.

    verbose  name every column with its treatment instead of groups
    """

    def __init__(self, out: Console, verbose: bool = False) -> None:
        self.out, self.verbose = out, verbose

    # -- before training -----------------------------------------------------------------------------------
    def prepared(self, recipe: Recipe, prepared: Prepared) -> None:
        """Everything that is decided before the first step."""
        self._section("Data", *_data_lines(prepared))
        self._section("Target", *_target_lines(prepared, unit_of(recipe)))
        self._section("Columns", *self._column_lines(prepared, recipe))
        self._section("Rows", Text(_split_line(prepared.parts, recipe)))
        found = layers(prepared.model, prepared.preprocessor)
        widths = outline(columns.inputs(prepared.preprocessor), found)
        self._section("Network", Text(widths), layer_grid(found))
        self._section("Training", Text(training_line(recipe, len(prepared.parts["train"]))))

    def _column_lines(self, prepared: Prepared, recipe: Recipe) -> Iterable[RenderableType]:
        used, made = len(prepared.preprocessor.used), columns.inputs(prepared.preprocessor)
        yield Text(f"{counted(used, 'column')} used, as {counted(made, 'input')} of the network")
        if self.verbose:
            yield column_grid(prepared)
        else:
            yield group_grid(columns.groups(prepared.preprocessor, recipe.data.drop))

    # -- after training ------------------------------------------------------------------------------------
    def finished(self, facts: Facts) -> None:
        """The result beside the baselines, and what it amounts to."""
        grid = [result_grid(facts)] if outcome.entries(facts) else []
        self._section("Result", *grid, Text(outcome.verdict(facts), style="bold"))

    def bad_number(self, bad: BadNumber) -> None:
        """Why training ended before its time: the first number that was not finite."""
        self._section("Failure", Text(str(bad)))

    def reference(self, results: Mapping[str, Any]) -> None:
        """The committed figures of several models on several splits."""
        unit = results["unit"]

        def middle(found: Mapping[str, float]) -> str:
            """The mean and half the width of its 95% interval, which is as wide to both sides."""
            return f"{value(found['mean'], unit)} ± {value((found['high'] - found['low']) / 2, unit)}"

        grid = _grid("model", ">mean RMSE ± 95%", ">network less it")
        for entry in results["models"]:
            less = entry.get("network_minus_it")
            cells = entry["name"], middle(entry), middle(less) if less else ""
            grid.add_row(*cells, style="" if less else "bold green")
        splits = f"{len(results['splits'])} splits"
        self._section(splits.capitalize(), Text(outcome.reference_note(results), style="dim"), grid, Text())

    def saved(self, facts: Facts, report: Path | None) -> None:
        """Where everything is, and what to do next."""
        lines = [Text(printable(f"run     {facts.path}"))] if facts.path is not None else []
        lines += [Text(printable(f"report  {report}"))] if report is not None else []
        if lines:
            self._section("Saved", *lines)
        if facts.path is not None:
            self._section(
                "Next", Text(printable(facts.command("predict", "NEW.csv", "-o", "predictions.csv")))
            )

    # -- a run on disk -------------------------------------------------------------------------------------
    def shown(self, facts: Facts) -> None:
        """A run: its recipe, network and result."""
        self._section(
            "Run", Text(printable(facts.path)), Text("finished" if facts.finished else "not finished")
        )
        self._section("Recipe", Text(facts.recipe.to_toml().rstrip()))
        if facts.preprocessor is not None:
            self._section("Columns", self._all_columns(facts))
        if facts.layers:
            self._section("Network", layer_grid(facts.layers))
        self.finished(facts)

    def _all_columns(self, facts: Facts) -> RenderableType:
        assert facts.preprocessor is not None
        if self.verbose:
            return _grid_of_columns(facts.preprocessor)
        return group_grid(columns.groups(facts.preprocessor, facts.recipe.data.drop))

    def runs(self, listing: Sequence[Mapping[str, Any]], root: Path) -> None:
        """A list of runs, newest first."""
        if not listing:
            self._print(
                Text(f"There are no runs in {root} yet. Make one: chainrule train DATA --target COLUMN")
            )
            return
        grid = _grid("run", "state", "target", "task", "result")
        for row in listing:
            known = row["metric"] is not None
            result = f"{label(row['metric'])} {metric(row['metric'], row['value'])}" if known else ""
            grid.add_row(
                *(_cell(each) for each in (row["name"], row["state"], row["target"], row["task"], result))
            )
        self._print(grid)

    # -- layout --------------------------------------------------------------------------------------------
    def _section(self, title: str, *contents: RenderableType) -> None:
        layout = Grid.grid(padding=(0, 2, 0, 0))
        layout.add_column(width=LABEL - 2, no_wrap=True)
        layout.add_column(ratio=1)
        layout.add_row(Text(title, style="bold cyan"), Group(*contents))
        self._print(layout)

    def _print(self, content: RenderableType) -> None:
        """On a terminal as it is; else without the blanks that fill lines up."""
        if self.out.is_terminal:
            self.out.print(content)
            return
        with self.out.capture() as captured:
            self.out.print(content)
        self.out.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _data_lines(prepared: Prepared) -> Iterable[Text]:
    table = prepared.table
    source = table.source.strip("'")
    yield Text(printable(f"{source}: {counted(table.rows, 'row')}, {counted(len(table.columns), 'column')}"))
    yield from (Text(printable(note), style="dim") for note in table.notes)


def _target_lines(prepared: Prepared, unit: str) -> Iterable[Text]:
    task = prepared.task
    if task.kind != "regression":
        classes = [str(each) for each in task.classes]
        told = f"{task.target}, {counted(len(classes), 'class', 'classes')}: {listed(classes)}"
        yield Text(printable(told))
        return
    own = prepared.targets["train"]
    low, high = value(float(own.min()), unit), value(float(own.max()), unit)
    yield Text(printable(f"{task.target}, a number from {low} to {high}"))
    note = columns.target_note(prepared.transform)
    if note:
        yield Text(note, style="dim")


def _split_line(parts: Mapping[str, Sized], recipe: Recipe) -> str:
    verbs = {"train": "to train on", "validation": "to validate on", "test": "to test on"}
    held = [f"{count(len(rows))} {verbs[part]}" for part, rows in parts.items() if len(rows)]
    return f"{', '.join(held)} (seed {recipe.split.seed})"


def training_line(recipe: Recipe, rows: int) -> str:
    """Length, batches and optimizer in one line."""
    training, settings = recipe.training, dict(recipe.optimizer)
    name = settings.pop("name", "")
    schedule = settings.pop("schedule", None)
    shown = [
        f"{key} {each:g}" if isinstance(each, float) else f"{key} {each}" for key, each in settings.items()
    ]
    if isinstance(schedule, Mapping):
        values = [f" {key} {each}" for key, each in schedule.items() if key != "name"]
        shown.append(f"{schedule.get('name')} schedule{','.join(values)}")
    steps = -(-rows // training.batch_size)
    return (
        f"{counted(training.epochs, 'epoch')} of {counted(steps, 'step')}, "
        f"{counted(training.batch_size, 'row')} each; {name} ({', '.join(shown)}); seed {training.seed}"
    )


# -- grids -------------------------------------------------------------------------------------------------
def layer_grid(found: Sequence[Layer]) -> RenderableType:
    """The network as a table."""
    grid = _grid("layer", "kind", "output", ">parameters", "")
    for layer in found:
        own = count(layer.parameters) if layer.parameters else ""
        weights = Text(layer.weights_text(), style="dim")
        grid.add_row(_cell(layer.path), _cell(layer.kind), _cell(layer.output_text()), own, weights)
    grid.add_row("", "", "total", Text(count(total(found)), style="bold"), "")
    return grid


def group_grid(groups: Sequence[columns.Group]) -> RenderableType:
    """Columns in groups."""
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right")
    grid.add_column(no_wrap=True)
    grid.add_column()
    for group in groups:
        grid.add_row(count(group.columns), group.what, _cell(group.how))
    return grid


def column_grid(prepared: Prepared) -> RenderableType:
    """Every column with its treatment."""
    return _grid_of_columns(prepared.preprocessor)


def _grid_of_columns(preprocessor: Preprocessor) -> RenderableType:
    grid = _grid("column", "kind", ">missing", "treatment", "because")
    for row in columns.rows(preprocessor):
        grid.add_row(*(_cell(each) for each in row))
    return grid


def result_grid(facts: Facts) -> RenderableType:
    """The network's metrics beside those of the baselines, best first."""
    names = outcome.shown_metrics(facts)[:_METRICS]
    entries = outcome.entries(facts)
    compared = any(entry.ratio is not None for entry in entries)
    last = [f"its {label(names[0])} is"] if compared else []
    grid = _grid(f"on {facts.part} rows", *(f">{label(name)}" for name in names), *last)
    for entry in entries:
        figures = [metric(name, entry.metrics.get(name), facts.unit) for name in names]
        against, interval = outcome.against(entry)
        clear = f"{against} ({interval})" if entry.clear else against
        grid.add_row(
            _cell(entry.name),
            *figures,
            *([clear] if compared else []),
            style="bold green" if entry.ours else "",
        )
    return Padding(grid, (0, 0, 1, 0))


def _grid(*headers: str) -> Grid:
    """Aligned columns without lines; a header that begins with ">" belongs to numbers."""
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for header in headers:
        right = header.startswith(">")
        grid.add_column(header.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return grid


def _cell(text: object) -> Text:
    return Text(printable("" if text is None else text))
