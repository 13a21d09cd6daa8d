"""A table in memory: ordered, typed columns with their missing values marked, and a hash of what they hold.

A `Table` is what every reader returns and what preprocessing, task inference and splitting take. It is small
on purpose: columns are NumPy arrays, texts are stored once each as `levels` with integer codes into them, and
nothing in it knows where the rows came from except the one-line `source`.
"""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from chainrule.errors import DataError

Kind = Literal["number", "boolean", "category", "time", "identifier", "text", "empty", "unsupported"]

#: The kinds a network can learn from; columns of every other kind are left out, with the reason in their
#: note.
LEARNABLE: tuple[Kind, ...] = ("number", "boolean", "category", "time")


@dataclass(frozen=True, eq=False)
class Column:
    """One column of `rows` entries.

    `values` holds float64 for numbers (NaN where missing), bool for booleans, datetime64[us] in UTC for times
    (NaT where missing), and for categories, identifiers and texts int32 codes into `levels` (-1 where
    missing). Whole-number identifiers keep their float64 values and have no levels. `note` says, in a
    sentence, anything the reader decided that the user may want to know.
    """

    name: str
    kind: Kind
    values: npt.NDArray[Any]
    missing: npt.NDArray[np.bool_]
    levels: tuple[str, ...] | None = None
    note: str = ""

    @property
    def missing_share(self) -> float:
        """The fraction of rows, from 0 to 1, that hold no value."""
        return float(self.missing.mean()) if self.missing.size else 0.0

    def take(self, rows: npt.NDArray[np.int64]) -> "Column":
        """The same column with only these rows, in this order; `levels` keeps every level of the whole."""
        return replace(self, values=self.values[rows], missing=self.missing[rows])

    def texts(self) -> list[str | None]:
        """Every entry as text, None where missing: whole numbers without a decimal point, times as ISO 8601.

        >>> import numpy as np
        >>> Column("size", "number", np.array([1.0, 2.5]), np.array([False, False])).texts()
        ['1', '2.5']
        """
        if self.levels is not None:
            return [self.levels[code] if code >= 0 else None for code in self.values.tolist()]
        if self.kind == "boolean":
            written: Iterable[str] = ("true" if value else "false" for value in self.values.tolist())
        elif self.kind == "time":
            written = np.datetime_as_string(self.values).tolist()
        else:
            written = (number_text(value) for value in self.values.tolist())
        return [None if gone else text for text, gone in zip(written, self.missing.tolist(), strict=True)]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length, in the order they were read.

    `source` names where the rows came from, `notes` lists what the reader decided on the way (the delimiter
    it sniffed, files it joined). `data_hash` is a fingerprint of the contents alone: the same rows give the
    same hash whether they came from a CSV file, from Parquet, or from a DataFrame.

    >>> import chainrule.data
    >>> table = chainrule.data.read_table({"rooms": [2, 3], "street": ["Elm", "Oak"]})
    >>> table.rows, table.names, table["rooms"].kind
    (2, ('rooms', 'street'), 'number')
    """

    columns: tuple[Column, ...]
    rows: int
    source: str = "memory"
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)

    def __len__(self) -> int:
        return self.rows

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Column:
        """The column of this name; a `DataError` that suggests the nearest names where there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise DataError(
            f"There is no column '{name}' in {self.source}.{suggestion(name, self.names)} "
            f"It has {listing(self.names)}."
        )

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> "Table":
        """The same table with only these rows, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return replace(self, columns=tuple(column.take(index) for column in self.columns), rows=len(index))

    def without(self, *names: str) -> "Table":
        """The same table without these columns."""
        return replace(self, columns=tuple(column for column in self.columns if column.name not in names))

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of names, kinds, values and missing marks, as 64 hexadecimal digits.

        Equal for equal contents in equal order, on every platform: numbers enter as little-endian bytes,
        categories as codes into their sorted levels, and whatever lies under a missing mark does not count.
        """
        digest = hashlib.sha256(f"chainrule table 1 {self.rows}".encode())
        for column in self.columns:
            for part in (column.name, column.kind, *(column.levels or ())):
                encoded = part.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
            if column.kind == "unsupported":
                continue
            present = np.where(column.missing, np.zeros_like(column.values), column.values)
            digest.update(np.ascontiguousarray(present.astype(present.dtype.newbyteorder("<"))).tobytes())
            digest.update(np.packbits(column.missing).tobytes())
        return digest.hexdigest()


def number_text(value: float) -> str:
    """A number as a person writes it: `3` for 3.0, `2.5` for 2.5.

    >>> number_text(3.0), number_text(2.5)
    ('3', '2.5')
    """
    return str(int(value)) if value.is_integer() and abs(value) < 2.0**53 else repr(value)


def suggestion(name: str, names: Sequence[str]) -> str:
    """' Did you mean ...?' naming up to three close names, or nothing; leading blank included.

    >>> suggestion("SalePrice", ["Sale_Price", "Lot_Area"])
    " Did you mean 'Sale_Price'?"
    """
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = [
        by_lower[match] for match in difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)
    ]
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def listing(names: Sequence[str], limit: int = 12) -> str:
    """'the columns a, b, c', cut short after `limit` names."""
    shown = ", ".join(names[:limit])
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"the column{'s' if len(names) != 1 else ''} {shown}{rest}"
