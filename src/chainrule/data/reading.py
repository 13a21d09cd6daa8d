"""From anything that holds a table to a `Table`: `read_table`.

This module finds out what it was given (a path, a pattern of paths, a query, a table in a database file, a
DataFrame, a dict of arrays); DuckDB then does the reading.
"""

import datetime as dt
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.data.csvfile import csv_selection
from chainrule.data.duck import (
    HANDED_IN,
    Selection,
    assemble,
    check_names,
    connect,
    fetch,
    quoted_name,
    quoted_text,
    unique_names,
)
from chainrule.data.examples import EXAMPLE_PREFIX, example_path
from chainrule.data.kinds import WISHES
from chainrule.data.table import Column, Kind, Table, suggestion
from chainrule.errors import DataError

_QUERY = re.compile(r"\s*(select|with|from|values|pivot|unpivot)\b.", re.IGNORECASE | re.DOTALL)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_PATTERN = re.compile(r"[*?\[]")
_PARQUET, _JSON = {".parquet", ".pq"}, {".json", ".jsonl", ".ndjson"}
_SPREADSHEETS = {".xlsx", ".xls", ".ods"}
_COMPRESSED = {".gz", ".zst", ".bz2", ".xz"}


def read_table(source: Any, *, kinds: Mapping[str, Kind] | None = None) -> Table:
    """Read a table, deciding for each column what it holds.

    `source` is one of
      - a path to a CSV, Parquet or JSON file, compressed or not, a pattern of paths (`sales/*.parquet`), or
        a URL;
      - a query: text that starts with SELECT, FROM or WITH; `FROM read_csv('odd.csv', skip=3)` reaches every
        option DuckDB has;
      - a DuckDB or SQLite database, with the table's name after two colons: `shop.duckdb::orders`;
      - `example:ames`, the house sales that travel with the package;
      - a pandas or Polars DataFrame, an Arrow table, or a dict of equally long arrays or lists;
      - a `Table`, which is returned as it is.

    `kinds` says what some columns are, overruling what their values suggest: `number`, `boolean`, `category`,
    `time`, or `identifier` (kept in the table, left out of the network). Every column it names must be there.

    Raises `DataError`: one paragraph naming the file, the place, and the cure.

    >>> table = read_table({"rooms": [2, 3, None], "street": ["Elm", "Oak", "Elm"]})
    >>> [(column.name, column.kind, column.missing_share > 0) for column in table.columns]
    [('rooms', 'number', True), ('street', 'category', False)]
    """
    wishes = dict(kinds or {})
    for name, wish in wishes.items():
        if wish not in WISHES:
            raise DataError(f"Column '{name}' cannot be read as '{wish}': choose one of {', '.join(WISHES)}.")
    if isinstance(source, Table):
        return _reread(source, wishes)
    if isinstance(source, Mapping):
        return _from_arrays(source, wishes)
    if isinstance(source, str | Path):
        return _from_text(str(source), wishes)
    if hasattr(source, "__arrow_c_stream__") or hasattr(source, "columns"):
        names = getattr(source, "column_names", None) or list(source.columns)
        header = tuple(unique_names([str(name) for name in names], "the given table"))
        return fetch(
            Selection(f"SELECT * FROM {HANDED_IN}", "the given table", header=header, frame=source), wishes
        )
    raise DataError(
        f"A {type(source).__name__} is not a table chainrule can read. Give a path, a query, a DataFrame, "
        f"or a dict of columns such as {{'rooms': [2, 3], 'price': [100.0, 150.0]}}."
    )


def ames() -> Table:
    """2,930 house sales in Ames, Iowa, with 73 facts about each; `Sale_Price` is in US dollars.

    De Cock (2011), as in R's modeldata (MIT); source and licence stand in `data/files/ames.LICENSE.txt`.

    >>> table = ames()
    >>> table.rows, len(table.names), table["Sale_Price"].values[:2].tolist()
    (2930, 74, [215000.0, 105000.0])
    """
    return read_table("example:ames")


def _from_text(source: str, kinds: Mapping[str, Kind]) -> Table:
    if source.startswith(EXAMPLE_PREFIX):
        file = example_path(source.removeprefix(EXAMPLE_PREFIX))
        return replace(fetch(csv_selection(str(file), file, kinds), kinds), source=f"'{source}'")
    if _QUERY.match(source) and not Path(source).exists():
        query = source.strip().rstrip(";")
        return fetch(Selection(query, "the query's result", (f"query: {query}",), is_query=True), kinds)
    if _REMOTE.match(source):
        return fetch(_by_suffix(source, None, kinds), kinds)
    path, _, table = source.partition("::")
    if _PATTERN.search(path) and not Path(path).exists():
        with closing(connect()) as connection:
            files = connection.execute(f"SELECT file FROM glob({quoted_text(path)}) ORDER BY file").fetchall()
        if not files:
            raise DataError(f"No file matches '{path}', looked up from {Path.cwd()}.")
        selection = _by_suffix(path, Path(files[0][0]), kinds)
        return fetch(replace(selection, notes=(*selection.notes, f"{len(files):,} files")), kinds)
    file = _existing_file(path)
    with file.open("rb") as stream:
        start = stream.read(16)
    if not start:
        raise DataError(
            f"'{path}' is empty. A table has a line of column names and at least one line of values."
        )
    if start.startswith(b"SQLite format 3"):
        return _from_sqlite(file, table, kinds)
    if start[8:12] == b"DUCK":
        return _from_duckdb(file, table, kinds)
    return fetch(_by_suffix(path, file, kinds), kinds)


def _existing_file(path: str) -> Path:
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(
            f"'{path}' is a folder. To read its files as one table, give a pattern: '{path}/*.csv'."
        )
    if not file.exists():
        siblings = [found.name for found in file.parent.iterdir()] if file.parent.is_dir() else []
        where = (
            f"looked up from {Path.cwd()}"
            if file.parent.is_dir()
            else f"there is no folder '{file.parent}' either"
        )
        raise DataError(f"There is no file '{path}', {where}.{suggestion(file.name, siblings)}")
    try:
        file.open("rb").close()
    except PermissionError:
        raise DataError(f"'{path}' may not be read by this user. Allow it: chmod u+r '{path}'.") from None
    return file


def _by_suffix(path: str, first: Path | None, kinds: Mapping[str, Kind]) -> Selection:
    """How to read the files at `path`, judged by the ending of the first; what has no known ending is CSV."""
    suffixes = Path(str(first or path).split("?")[0]).suffixes
    suffix = next((ending.lower() for ending in reversed(suffixes) if ending.lower() not in _COMPRESSED), "")
    if suffix in _SPREADSHEETS:
        raise DataError(f"'{path}' is a spreadsheet. Save the sheet as CSV and give that file.")
    if suffix in _PARQUET:
        return Selection(f"SELECT * FROM read_parquet({quoted_text(path)})", f"'{path}'", ("Parquet",), first)
    if suffix in _JSON:
        return Selection(
            f"SELECT * FROM read_json_auto({quoted_text(path)}, sample_size=-1)",
            f"'{path}'",
            ("JSON",),
            first,
        )
    return csv_selection(path, first, kinds)


def _from_duckdb(file: Path, table: str, kinds: Mapping[str, Kind]) -> Table:
    with closing(connect()) as connection:
        connection.execute(f"ATTACH {quoted_text(str(file))} AS source (READ_ONLY)")
        tables = [
            name if schema == "main" else f"{schema}.{name}"
            for schema, name in connection.execute(
                "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = "
                "'source' ORDER BY ALL"
            ).fetchall()
        ]
    chosen = _choose(file, table, tables)
    path = ".".join(
        quoted_name(part) for part in ("source", *(chosen.split(".") if "." in chosen else ["main", chosen]))
    )
    return fetch(Selection(f"SELECT * FROM {path}", f"'{file}::{chosen}'", ("DuckDB",), database=file), kinds)


def _from_sqlite(file: Path, table: str, kinds: Mapping[str, Kind]) -> Table:
    """Read with the standard library: DuckDB would have to download an extension first."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY name"
        )
        chosen = _choose(file, table, [str(row[0]) for row in found])
        rows = connection.execute(f"SELECT * FROM {quoted_name(chosen)}")
        names = unique_names([str(column[0]) for column in rows.description], f"'{file}::{chosen}'")
        entries = rows.fetchall()
    columns = zip(*entries, strict=True) if entries else [() for _ in names]
    arrays = {name: list(column) for name, column in zip(names, columns, strict=True)}
    return replace(_from_arrays(arrays, kinds, f"'{file}::{chosen}'"), notes=("SQLite",))


def _choose(file: Path, table: str, tables: Sequence[str]) -> str:
    if table in tables:
        return table
    if not table and len(tables) == 1:
        return tables[0]
    wrong = (
        f"'{file}' has no table '{table}'.{suggestion(table, tables)}"
        if table
        else f"'{file}' is a database."
    )
    held = f"It holds {', '.join(tables)}" if tables else "It holds no tables"
    raise DataError(
        f"{wrong} {held}; name one after two colons: '{file}::{tables[0] if tables else 'table'}'."
    )


def _from_arrays(
    arrays: Mapping[Any, Any], kinds: Mapping[str, Kind], source: str = "the given columns"
) -> Table:
    names = unique_names([str(name) for name in arrays], source)
    columns = {name: _plain(name, values) for name, values in zip(names, arrays.values(), strict=True)}
    check_names(kinds, names, source)
    lengths = {name: len(values) for name, (values, _) in columns.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"'{name}' has {length:,}" for name, length in list(lengths.items())[:6])
        raise DataError(
            f"The columns given are not equally long: {counted}. A table needs one entry per row."
        )
    return assemble(columns, kinds, source)


def _plain(name: str, values: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """One given column as (values, missing), values float64, bool, datetime64[us] or texts."""
    array = np.asarray(values) if not isinstance(values, list | tuple) else _object_array(values)
    if array.ndim != 1:
        raise DataError(
            f"Column '{name}' has shape {array.shape}; a column of a table has one value per row."
        )
    masked = (
        np.array(np.ma.getmaskarray(values))
        if np.ma.isMaskedArray(values)
        else np.zeros(len(array), np.bool_)
    )
    if array.dtype.kind == "b":
        return array, masked
    if array.dtype.kind in "iuf":
        numbers = array.astype(np.float64)
        return numbers, masked | np.isnan(numbers)
    if array.dtype.kind == "M":
        return array.astype("datetime64[us]"), masked | np.isnat(array)
    if array.dtype.kind == "m":
        return array / np.timedelta64(1, "s"), masked | np.isnat(array)
    if array.dtype.kind == "c":
        raise DataError(
            f"Column '{name}' holds complex numbers. Give their real and imaginary parts as two columns."
        )
    return _plain_objects(array.astype(object), masked)


def _object_array(values: Sequence[Any]) -> npt.NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _plain_objects(
    array: npt.NDArray[Any], masked: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Python objects as the one plain form that fits them all; text where no other does."""
    missing = masked | np.array([_is_missing(entry) for entry in array.tolist()], dtype=np.bool_)
    present = array[~missing].tolist()
    if present and all(isinstance(entry, bool | np.bool_) for entry in present):
        return np.array([bool(entry) for entry in np.where(missing, False, array)], dtype=np.bool_), missing
    if present and all(isinstance(entry, int | float | np.number) for entry in present):
        numbers = np.full(len(array), np.nan)
        numbers[~missing] = [float(entry) for entry in present]
        return numbers, missing
    if present and all(isinstance(entry, dt.date | np.datetime64) for entry in present):
        times = np.full(len(array), np.datetime64("NaT"), dtype="datetime64[us]")
        times[~missing] = [np.datetime64(_in_utc(entry), "us") for entry in present]
        return times, missing
    texts = np.empty(len(array), dtype=object)
    texts[~missing] = [entry if isinstance(entry, str) else str(entry) for entry in present]
    return texts, missing


def _is_missing(entry: Any) -> bool:
    """None, NaN and NaT, and pandas' NA, whose type is known by name so that pandas need not be imported."""
    if entry is None or type(entry).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(entry, float | np.floating | np.datetime64) and bool(entry != entry)


def _in_utc(entry: Any) -> Any:
    zone = getattr(entry, "tzinfo", None)
    return entry.astimezone(dt.UTC).replace(tzinfo=None) if zone is not None else entry


def _reread(table: Table, kinds: Mapping[str, Kind]) -> Table:
    """The same table with some columns taken as another kind."""
    check_names(kinds, table.names, table.source)
    if all(table[name].kind == wish for name, wish in kinds.items()):
        return table
    raw = {
        column.name: (_raw_values(column), column.missing) for column in table.columns if column.name in kinds
    }
    remade = assemble(raw, kinds, table.source)
    columns = tuple(remade[column.name] if column.name in raw else column for column in table.columns)
    return replace(table, columns=columns)


def _raw_values(column: Column) -> npt.NDArray[Any]:
    return column.values if column.levels is None else _object_array(column.texts())
