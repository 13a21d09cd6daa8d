"""One account of a run, several places to see it: the terminal and the report."""

from __future__ import annotations

from pathlib import Path

from chainrule.show import facts, report
from chainrule.train.comparison import comparison_of
from chainrule.train.result import Run

__all__ = ["write_report"]


def write_report(run: Run | str | Path, path: str | Path) -> Path:
    """Write the report of a run, or of the run in a folder, as one HTML file; the file's path is returned.

    A run in memory is compared with simpler models first, unless that was done before.
    """
    told = facts.of_run(run, comparison_of(run)) if isinstance(run, Run) else facts.of_folder(run)
    return report.write(told, path)
