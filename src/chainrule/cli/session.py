"""A training as the command line runs it: told on the screen, compared, reported, or written as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chainrule.cli.options import write_json
from chainrule.insight.bad_number import BadNumber, first_bad_number
from chainrule.recipe import Recipe
from chainrule.show import inside
from chainrule.show import report as reports
from chainrule.show.facts import of_run
from chainrule.show.live import LiveDisplay
from chainrule.show.terminal import Screen, console
from chainrule.train.callbacks import Callback
from chainrule.train.comparison import comparison_of
from chainrule.train.result import Run
from chainrule.train.table import Prepared


class Session:
    """What `train` and `demo` share around the one call that trains.

    json     say nothing while training; `finish` writes one JSON document
    verbose  name every column
    """

    def __init__(self, json: bool, verbose: bool = False) -> None:
        self.json = json
        self.out = console()
        self.screen = Screen(self.out, verbose)
        self._live = LiveDisplay(self.out)
        self.callbacks: Sequence[Callback] = () if json else (self._live,)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._live.close()

    def on_prepared(self, recipe: Recipe) -> Callable[[Prepared], None] | None:
        """What tells the user how the table was read and prepared."""
        return None if self.json else lambda prepared: self.screen.prepared(recipe, prepared)

    def finish(
        self, run: Run, baselines: bool, report: Path | None, reference: Mapping[str, Any] | None = None
    ) -> None:
        """Compare, write the report, and tell how it went; beside committed figures, if there are any."""
        with nullcontext() if self.json else self.out.status("fitting simpler models to compare with"):
            comparison = comparison_of(run) if baselines else {}
        facts = of_run(run, comparison)
        written = None
        if report is not None:
            with nullcontext() if self.json else self.out.status("opening gradients for the report"):
                written = reports.write(facts, report, inside.of_run(run), reference)
        bad = first_bad_number(run) if "bad_step" in run.result else None
        if self.json:
            write_json(self._document(run, comparison, written, bad))
            return
        self.screen.finished(facts)
        if bad is not None:
            self.screen.bad_number(bad)
        if reference is not None:
            self.screen.reference(reference)
        self.screen.saved(facts, written)

    @staticmethod
    def _document(
        run: Run, comparison: dict[str, Any], report: Path | None, bad: BadNumber | None
    ) -> dict[str, Any]:
        return {
            "run": str(run.folder.path) if run.folder is not None else None,
            "result": run.result,
            "comparison": {name: value for name, value in comparison.items() if name != "agreement"},
            "report": str(report) if report is not None else None,
            **({} if bad is None else {"bad_number": asdict(bad)}),
        }
