"""From a table and the name of a target to arrays ready for training, in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.data.preprocess import Features, Preprocessor
from chainrule.data.reading import read_table
from chainrule.data.split import Split, split_rows
from chainrule.data.table import Kind, Table
from chainrule.data.target import Bend, TargetTransform, fit_target
from chainrule.data.task import Task, TaskKind, infer_task, target_rows, target_values


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one part of the split, ready for a network.

    `rows` numbers them in `Prepared.table`. `target` is what the network should give: transformed numbers
    of the features' dtype, 0 or 1 of that dtype for a binary task, int64 codes of classes for a multiclass
    one. `original` is the target in its own unit: numbers, or codes of classes.
    """

    rows: npt.NDArray[np.int64]
    features: Features
    target: npt.NDArray[Any]
    original: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A table made ready: what is predicted, how rows were cut, what was fitted to the training rows, and
    the parts.

    `transform` is there for a regression alone. `numbers` says which row of the source each row of `table`
    is, counted from 0: rows without a target are left out.
    """

    table: Table
    task: Task
    split: Split
    preprocessor: Preprocessor
    transform: TargetTransform | None
    train: Part
    validation: Part
    test: Part
    numbers: npt.NDArray[np.int64]

    def in_own_unit(self, predicted: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """A regression network's predictions, in the unit of the target column."""
        values = np.asarray(predicted, dtype=np.float64)
        return values if self.transform is None else self.transform.invert(values)


def prepare(
    source: Any,
    target: str,
    *,
    task: TaskKind | None = None,
    seed: int = 0,
    test: float = 0.2,
    validation: float = 0.1,
    kinds: Mapping[str, Kind] | None = None,
    ordinals: Mapping[str, Sequence[str]] | None = None,
    bend: Bend | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> Prepared:
    """Read a table, decide the task, cut the rows, fit preprocessing to the training rows, apply it to all.

    `source` and `kinds` are those of `read_table`, `ordinals` that of `Preprocessor.fit`, `bend` that of
    `fit_target`; `test` and `validation` are shares of the rows that have a target. Raises `DataError`.

    >>> prepared = prepare("example:ames", "Sale_Price", seed=0)
    >>> prepared.task.kind, prepared.transform.bend, prepared.train.features.numeric.shape
    ('regression', 'log', (2051, 308))
    """
    whole = read_table(source, kinds=kinds)
    chosen = infer_task(whole, target, task)
    numbers = target_rows(whole, chosen)
    table = whole.take(numbers) if chosen.dropped else whole
    original = target_values(table, chosen)
    labels = None if chosen.kind == "regression" else original
    split = split_rows(table.rows, seed=seed, test=test, validation=validation, classes=labels)
    inputs = table.without(target)
    preprocessor = Preprocessor.fit(inputs.take(split.train), ordinals=ordinals)
    transform = fit_target(original[split.train], bend) if chosen.kind == "regression" else None
    given = original.astype(np.int64) if chosen.kind == "multiclass" else original.astype(dtype)
    if transform is not None:
        given = transform.apply(original).astype(dtype)
    features = preprocessor.transform(inputs, dtype)
    train, validated, tested = (
        Part(rows, features.take(rows), given[rows], original[rows])
        for rows in (split.train, split.validation, split.test)
    )
    return Prepared(table, chosen, split, preprocessor, transform, train, validated, tested, numbers)
