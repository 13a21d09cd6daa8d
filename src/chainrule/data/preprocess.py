"""Fitted preprocessing: a table in, the arrays a network reads out, the same for every table after the first.

`Preprocessor.fit` sees the training rows alone. What it fitted is one `Treatment` per column, kept in order
and written as JSON, so a prediction a year later is computed from the same numbers, and a reader can check
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.data.fitting import fit_treatment
from chainrule.data.reading import read_table
from chainrule.data.table import Kind, Table
from chainrule.data.treatments import Embedded, LeftOut, Treatment, treatment_from_document
from chainrule.errors import DataError

FORMAT = 1  # of the document; raised when a reader of an older one could misunderstand it


@dataclass(frozen=True)
class EmbeddedColumn:
    """A column of codes 0 … cardinality - 1 for an embedding of `width` dimensions.

    Codes 0 and 1 stand for a missing value and for a level unseen or rare in training. `untrained` lists
    those of the two that no training row has: their embeddings stay as initialised unless something is done
    about them.
    """

    name: str
    cardinality: int
    width: int
    untrained: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Features:
    """What a network reads.

    `numeric` has shape (rows, n); `codes`, there if any column is embedded, has shape (rows, k).
    `names[j]` names numeric feature j and `sources[j]` the column of the table it came from.
    """

    numeric: npt.NDArray[np.floating[Any]]
    codes: npt.NDArray[np.int64] | None
    names: tuple[str, ...]
    sources: tuple[str, ...]
    embedded: tuple[EmbeddedColumn, ...] = ()

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> "Features":
        """The same features for only these rows, in this order."""
        codes = None if self.codes is None else self.codes[rows]
        return replace(self, numeric=self.numeric[rows], codes=codes)


@dataclass(frozen=True)
class Preprocessor:
    """One fitted treatment per column of the training table, target excluded.

    >>> table = read_table({"area": [50.0, 80.0, None, 95.0], "street": ["Elm", "Oak", "Elm", "Elm"]})
    >>> preprocessor = Preprocessor.fit(table)
    >>> features = preprocessor.transform(table)
    >>> features.names
    ('area', 'area is missing', 'street=Elm', 'street=Oak')
    >>> [round(value, 2) for value in features.numeric[2].tolist()]
    [0.27, 1.0, 1.0, 0.0]
    """

    treatments: tuple[Treatment, ...]

    @classmethod
    def fit(cls, table: Table, *, ordinals: Mapping[str, Sequence[str]] | None = None) -> "Preprocessor":
        """Learn from these rows, which should be the training rows without the target.

        `ordinals` gives, for categories with an order, their levels from lowest to highest. Raises
        `DataError` if no column can be used.
        """
        orders = dict(ordinals or {})
        for name in orders:
            table[name]  # an error that suggests the nearest name, where there is no such column
        treatments = tuple(fit_treatment(column, orders.get(column.name)) for column in table.columns)
        if all(isinstance(treatment, LeftOut) for treatment in treatments):
            reasons = "; ".join(f"'{treatment.column}': {treatment.reason}" for treatment in treatments[:8])
            raise DataError(
                f"Not one column of {table.source} can be used to predict from"
                + (f" ({reasons}{'; …' if len(treatments) > 8 else ''})" if reasons else "")
                + ". Add columns that measure something, or say what a column is: kinds={'code': "
                "'category'}, on the command line --kind code=category."
            )
        return cls(treatments)

    @property
    def used(self) -> tuple[Treatment, ...]:
        """The treatments of the columns the network sees."""
        return tuple(treatment for treatment in self.treatments if not isinstance(treatment, LeftOut))

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind each used column must have: what `read_table` is told when new rows are read."""
        return {treatment.column: treatment.kind for treatment in self.used}

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each numeric feature, in order."""
        return tuple(name for treatment in self.used for name in treatment.names)

    @property
    def embedded(self) -> tuple[EmbeddedColumn, ...]:
        """The embedded columns, in the order of `Features.codes`."""
        return tuple(
            EmbeddedColumn(one.column, one.cardinality, one.width, tuple({0, 1} - set(one.trained)))
            for one in self.used
            if isinstance(one, Embedded)
        )

    def transform(self, table: Table, dtype: npt.DTypeLike = np.float32) -> Features:
        """The features of these rows; every used column must be in the table, in any order, among any others.

        Values never seen in training and missing values are treated as each treatment says. Raises
        `DataError` for columns that are not there or cannot be read as the kind they were trained as.
        """
        table = read_table(table, kinds=self.kinds)
        parts = [treatment.features(table[treatment.column]) for treatment in self.used]
        numeric = np.concatenate([np.zeros((table.rows, 0)), *parts], axis=1).astype(dtype)
        codes = [one.codes(table[one.column]) for one in self.used if isinstance(one, Embedded)]
        sources = tuple(treatment.column for treatment in self.used for _ in treatment.names)
        return Features(
            numeric, np.stack(codes, axis=1) if codes else None, self.names, sources, self.embedded
        )

    def to_document(self) -> dict[str, Any]:
        """Plain lists, texts and numbers: what is written to disk as JSON."""
        return {"format": FORMAT, "columns": [treatment.to_document() for treatment in self.treatments]}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Preprocessor":
        """The preprocessor `to_document` wrote, bit for bit; `DataError` if the document is not one."""
        if document.get("format") != FORMAT or not isinstance(document.get("columns"), list):
            raise DataError(
                f"The fitted preprocessing has format {document.get('format', 'none')!r}, and this "
                f"version of chainrule reads format {FORMAT}. Use the version that wrote it, or train again."
            )
        return cls(tuple(treatment_from_document(entry) for entry in document["columns"]))
