"""One account of a run, several places to see it: the terminal and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chainrule.show import facts, inside, report
from chainrule.show.pictures.picture import Picture, curves, dataflow, histograms, strip, waterfall
from chainrule.train.comparison import comparison_of
from chainrule.train.result import Run

__all__ = ["Picture", "curves", "dataflow", "histograms", "strip", "waterfall", "write_report"]


def write_report(run: Run | str | Path, path: str | Path, **given: Any) -> Path:
    """Write the report of a run, or of the run in a folder, as one HTML file; the file's path is returned.

    given  what the folder of a run does not hold, `model=`, `data=`, `loss=`, `optimizer=`, as for
           `cr.train.replay`: without the code of a Python model its steps cannot be opened

    A run in memory is compared with simpler models first, unless that was done before.
    """
    if isinstance(run, Run):
        return report.write(facts.of_run(run, comparison_of(run)), path, inside.of_run(run))
    return report.write(facts.of_folder(run), path, inside.of_folder(run, **given))
