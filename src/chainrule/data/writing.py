"""Tables out: named columns to a CSV or Parquet file that is whole or not there."""

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from chainrule import atomic
from chainrule.data.duck import connect, quoted_text
from chainrule.errors import DataError

Columns = Mapping[str, Sequence[Any]]


def write_table(columns: Columns, path: str | Path) -> None:
    """Write equally long columns of numbers and texts (None where missing) to a .csv or .parquet file.

    The file is replaced as a whole. Raises `DataError` for another ending, `RunError` if that fails.
    """
    file = Path(path)
    if file.exists() and not file.is_file():
        raise DataError(
            f"'{file}' is a {'folder' if file.is_dir() else 'device'}, not a file that can be replaced."
        )
    suffix = file.suffix.lower()
    if suffix == ".csv":
        atomic.write_text(file, csv_text(columns))
    elif suffix in (".parquet", ".pq"):
        atomic.write_bytes(file, _parquet(columns))
    else:
        raise DataError(f"'{file}': predictions are written as .csv or .parquet; give a name that ends so.")


def csv_text(columns: Columns) -> str:
    r"""The columns as CSV with a header; numbers are written so that they read back exactly.

    >>> csv_text({"price": [1.5, 2.0], "street": ["Elm, old", None]})
    'price,street\n1.5,"Elm, old"\n2.0,\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _parquet(columns: Columns) -> bytes:
    """DuckDB writes Parquet; it reads the columns from CSV, with types that leave it nothing to guess."""
    with tempfile.TemporaryDirectory(prefix="chainrule-") as folder, closing(connect()) as connection:
        table, packed = Path(folder) / "table.csv", Path(folder) / "table.parquet"
        table.write_text(csv_text(columns), encoding="utf-8")
        types = ", ".join(f"{quoted_text(name)}: '{_type(values)}'" for name, values in columns.items())
        read = f"read_csv({quoted_text(str(table))}, header=true, delim=',', quote='\"', columns={{{types}}})"
        connection.execute(f"COPY (SELECT * FROM {read}) TO {quoted_text(str(packed))} (FORMAT parquet)")
        return packed.read_bytes()


def _type(values: Sequence[Any]) -> str:
    return "DOUBLE" if all(each is None or isinstance(each, float) for each in values) else "VARCHAR"
