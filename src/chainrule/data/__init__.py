"""Tables in, arrays a network can train on out, and the way back to the table's own units.

`read_table` reads anything DuckDB reads; `infer_task` says what is to be predicted; `split_rows` cuts rows
into training, validation and test; a `Preprocessor` fitted on the training rows turns columns into numbers,
and a `TargetTransform` the target; `prepare` does all of it. Importing this package imports NumPy alone:
DuckDB and scikit-learn are loaded when first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainrule.data.examples import example_path
    from chainrule.data.preparation import Part, Prepared, prepare
    from chainrule.data.preprocess import EmbeddedColumn, Features, Preprocessor
    from chainrule.data.reading import ames, read_table
    from chainrule.data.split import Split, split_rows
    from chainrule.data.table import LEARNABLE, Column, Kind, Table
    from chainrule.data.target import TargetTransform, fit_target, target_from_document
    from chainrule.data.task import Task, TaskKind, infer_task, target_rows, target_values
    from chainrule.data.treatments import Treatment
    from chainrule.data.windows import Windows

__all__ = [
    "LEARNABLE",
    "Column",
    "EmbeddedColumn",
    "Features",
    "Kind",
    "Part",
    "Prepared",
    "Preprocessor",
    "Split",
    "Table",
    "TargetTransform",
    "Task",
    "TaskKind",
    "Treatment",
    "Windows",
    "ames",
    "example_path",
    "fit_target",
    "infer_task",
    "prepare",
    "read_table",
    "split_rows",
    "target_from_document",
    "target_rows",
    "target_values",
]

_HOMES = {
    "example_path": "examples",
    "Part": "preparation",
    "Prepared": "preparation",
    "prepare": "preparation",
    "EmbeddedColumn": "preprocess",
    "Features": "preprocess",
    "Preprocessor": "preprocess",
    "ames": "reading",
    "read_table": "reading",
    "Split": "split",
    "split_rows": "split",
    "Column": "table",
    "Kind": "table",
    "LEARNABLE": "table",
    "Table": "table",
    "TargetTransform": "target",
    "fit_target": "target",
    "target_from_document": "target",
    "Task": "task",
    "TaskKind": "task",
    "infer_task": "task",
    "target_rows": "task",
    "target_values": "task",
    "Treatment": "treatments",
    "Windows": "windows",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found
