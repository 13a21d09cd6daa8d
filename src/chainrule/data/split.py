"""Cutting rows into training, validation and test parts: the same seed, the same parts, on every machine."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chainrule.errors import DataError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers, each row in exactly one part; `validation` and `test` may be empty."""

    train: Rows
    validation: Rows
    test: Rows


def split_rows(
    rows: int,
    *,
    seed: int,
    test: float = 0.2,
    validation: float = 0.1,
    classes: npt.ArrayLike | None = None,
) -> Split:
    """Shuffle `rows` rows and cut them; `test` and `validation` are shares of all rows, from 0 to less than
    1.

    With `classes`, of shape (rows,), every part has each class in the same proportion; rows of a class too
    rare to be cut go to training. The test rows depend on `seed` and `test` alone, not on `validation`:
    they are those of scikit-learn's `train_test_split(range(rows), test_size=test, random_state=seed)`.

    >>> split = split_rows(10, seed=0, test=0.2, validation=0.1)
    >>> len(split.train), len(split.validation), len(split.test)
    (7, 1, 2)
    """
    if test < 0 or validation < 0 or test + validation >= 1:
        raise DataError(
            f"The shares for testing ({test:g}) and validation ({validation:g}) must be 0 or more and "
            f"leave rows to train on: together less than 1."
        )
    labels = None if classes is None else np.asarray(classes)
    everything = np.arange(rows, dtype=np.int64)
    rest, test_rows = _cut(everything, test, seed, labels)
    train, validation_rows = _cut(rest, validation / (1.0 - test), seed, labels)
    return Split(train, validation_rows, test_rows)


def _cut(rows: Rows, share: float, seed: int, labels: npt.NDArray[np.generic] | None) -> tuple[Rows, Rows]:
    """The rows kept and the rows cut off, which are `share` of them, rounded up as scikit-learn does."""
    from sklearn.model_selection import train_test_split

    cut_count = int(np.ceil(share * len(rows) - 1e-9))  # less a little, lest rounding errors add a row
    if cut_count <= 0:
        return rows, rows[:0]
    if len(rows) - cut_count < 1:
        raise DataError(
            f"{len(rows)} row{'s' if len(rows) != 1 else ''} cannot be cut into parts of which one holds "
            f"{share:.0%}. Give more rows, or smaller shares for testing and validation."
        )
    if labels is None:
        kept, cut = train_test_split(rows, test_size=cut_count, random_state=seed)
        return kept, cut
    # A class needs rows for both sides of the cut; the rows of rarer ones are kept.
    _, inverse, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    common = counts[inverse] >= 2
    sides = min(cut_count, int(common.sum()) - cut_count)
    if sides < np.unique(inverse[common]).size:  # fewer rows on a side than classes: no proportions to keep
        kept, cut = train_test_split(rows, test_size=cut_count, random_state=seed)
        return kept, cut
    kept, cut = train_test_split(
        rows[common], test_size=cut_count, random_state=seed, stratify=labels[rows][common]
    )
    return np.concatenate([kept, rows[~common]]), cut
