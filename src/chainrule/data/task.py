"""What is to be predicted: a number, one of two classes, or one of several."""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from chainrule.data.table import Column, Table, number_text
from chainrule.errors import DataError

TaskKind = Literal["regression", "binary", "multiclass"]

FEW_CLASSES = (
    10  # whole numbers counted from 0 or 1 without gaps, up to this many, are classes rather than amounts
)

_WRITTEN_NUMBER = re.compile(r"[-+]?\s*[$€£¥]?\s*\d[\d,.' ]*\s*[%$€£¥]?$")


@dataclass(frozen=True)
class Task:
    """What is predicted from a table.

    `classes` are the texts of the classes in the order of their codes (none for regression); for a binary
    task `classes[1]` is the positive one. `dropped` counts rows without a target; `reason` says in a clause
    how the kind was decided.
    """

    kind: TaskKind
    target: str
    classes: tuple[str, ...] = ()
    dropped: int = 0
    reason: str = ""

    @property
    def outputs(self) -> int:
        """The width of the network's last layer: one logit per class, a single one for two classes."""
        return len(self.classes) if self.kind == "multiclass" else 1

    def to_document(self) -> dict[str, Any]:
        """Plain lists, numbers and texts; `Task.from_document` reads them."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Task":
        """The task `to_document` wrote; `DataError` if the document is not one."""
        try:
            return cls(**{**document, "classes": tuple(document["classes"])})
        except (KeyError, TypeError) as error:
            raise DataError(
                f"The task of this run is damaged ({error}). Restore the file, or train again."
            ) from None


def infer_task(table: Table, target: str, kind: TaskKind | None = None) -> Task:
    """The task of predicting column `target`, of the kind asked for or else suggested by its values.

    Texts and booleans are classes; so are two different numbers, and whole numbers counted from 0 or 1
    without gaps, if they are at most `FEW_CLASSES`; other numbers make a regression. Raises `DataError` for
    a target that is not there, never has a value, never varies, or cannot be predicted as asked.

    >>> from chainrule.data import read_table
    >>> infer_task(read_table({"price": [1.5, 2.5, 2.0], "sold": ["yes", "no", "yes"]}), "sold").classes
    ('no', 'yes')
    """
    column = table[target]
    dropped = int(column.missing.sum())
    if dropped == table.rows:
        raise DataError(
            f"No row of {table.source} has a value in the target column '{target}'. Choose another "
            f"target, or rows for which it is known."
        )
    if len(table.columns) == 1:
        raise DataError(
            f"'{target}' is the only column of {table.source}; there is nothing to predict it from."
        )
    suggested, reason = _suggest(table, column)
    chosen = kind or suggested
    if kind is not None and kind != suggested:
        reason = "as asked"
    if chosen == "regression":
        _check_regression(table, column)
        return Task("regression", target, (), dropped, reason)
    classes = _classes(column)
    _check_classes(table, column, classes, chosen)
    return Task(chosen, target, classes, dropped, reason)


def target_rows(table: Table, task: Task) -> npt.NDArray[np.int64]:
    """The rows that have a target, in order: all the others say nothing about the task."""
    return np.flatnonzero(~table[task.target].missing)


def target_values(table: Table, task: Task) -> npt.NDArray[np.float64] | npt.NDArray[np.int64]:
    """The target of every row, of shape (rows,): numbers as float64, classes as int64 codes into
    `task.classes`.

    Raises `DataError` where a row has no target, or a class that the task does not know.
    """
    column = table[task.target]
    if column.missing.any():
        row = int(np.flatnonzero(column.missing)[0])
        raise DataError(f"Row {row + 1} of {table.source} has no value in the target column '{task.target}'.")
    if task.kind == "regression":
        return column.values.astype(np.float64)
    code_of = {text: code for code, text in enumerate(task.classes)}
    texts = column.texts()
    for row, text in enumerate(texts):
        if text not in code_of:
            raise DataError(
                f"Row {row + 1} of {table.source} has the class '{text}' in '{task.target}', which the "
                f"task does not know: its classes are {', '.join(task.classes[:10])}."
            )
    return np.array([code_of[text or ""] for text in texts], dtype=np.int64)


def _suggest(table: Table, column: Column) -> tuple[TaskKind, str]:
    if column.kind not in ("number", "boolean", "category", "identifier"):
        raise DataError(
            f"The target '{column.name}' of {table.source} is of kind {column.kind} "
            f"({column.note or 'a date'}), which cannot be predicted. Turn it into a number or a class "
            f"with a query, or choose another target."
        )
    if column.kind in ("boolean", "category") or column.levels is not None:
        count = len(_classes(column))
        return ("binary" if count == 2 else "multiclass"), f"{count} classes"
    numbers = np.unique(column.values[~column.missing])
    if numbers.size == 2:
        return "binary", "two different numbers"
    counted = numbers[0] in (0.0, 1.0) and bool((np.diff(numbers) == 1.0).all())
    if counted and 2 < numbers.size <= FEW_CLASSES:
        return "multiclass", f"whole numbers from {numbers[0]:g} to {numbers[-1]:g}"
    return "regression", f"{numbers.size:,} different numbers"


def _classes(column: Column) -> tuple[str, ...]:
    present = column.values[~column.missing]
    if column.levels is not None:
        return tuple(column.levels[code] for code in np.unique(present).tolist())
    if column.kind == "boolean":
        return tuple("true" if value else "false" for value in np.unique(present).tolist())
    return tuple(number_text(value) for value in np.unique(present).tolist())


def _check_regression(table: Table, column: Column) -> None:
    if column.kind not in ("number", "boolean", "identifier") or column.levels is not None:
        raise DataError(
            f"The target '{column.name}' of {table.source} holds texts, so it cannot be a number to "
            f"predict. Turn it into numbers with a query, or leave the task to be classification."
        )
    present = column.values[~column.missing].astype(np.float64)
    if bool((present == present[0]).all()):
        raise DataError(
            f"The target '{column.name}' of {table.source} is {number_text(float(present[0]))} in every "
            f"row: there is nothing to learn. Choose another target, or rows among which it differs."
        )


def _check_classes(table: Table, column: Column, classes: tuple[str, ...], kind: TaskKind) -> None:
    rows = int((~column.missing).sum())
    if len(classes) == 1:
        raise DataError(
            f"The target '{column.name}' of {table.source} has one class only: all {rows:,} rows are "
            f"'{classes[0]}'. Add rows of another class, or choose another target."
        )
    if kind == "binary" and len(classes) != 2:
        raise DataError(
            f"The target '{column.name}' of {table.source} has {len(classes):,} classes, so the task "
            f"cannot be binary. Ask for multiclass, or join classes with a query."
        )
    if len(classes) > 2 and 2 * len(classes) > rows:
        texts = [text for text in classes if _WRITTEN_NUMBER.match(text)]
        query = f"regexp_replace(\"{column.name}\", '[^0-9.-]', '', 'g')::DOUBLE"
        cure = (
            f"They look like numbers ('{texts[0]}'); make them numbers with a query: "
            f'SELECT * REPLACE ({query} AS "{column.name}") FROM …'
            if 2 * len(texts) > len(classes)
            else "Choose a target that repeats, or ask for regression if it is an amount."
        )
        raise DataError(
            f"The target '{column.name}' of {table.source} has {len(classes):,} classes in {rows:,} rows, "
            f"too few rows of each to learn from. {cure}"
        )
