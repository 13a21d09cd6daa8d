"""The one place that talks to DuckDB: select rows, fetch columns as plain arrays, explain what failed."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule.data.kinds import make_column
from chainrule.data.table import Column, Kind, Table, listing, suggestion
from chainrule.data.textfile import undecodable
from chainrule.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

HANDED_IN = "handed_in"  # the name under which SQL sees a DataFrame or Arrow table given from Python

_NUMERIC = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?$|FLOAT|DOUBLE|DECIMAL")
_TEXT = re.compile(r"VARCHAR|ENUM|UUID")


@dataclass(frozen=True)
class Selection:
    """Rows DuckDB can select: the SQL, what to call it in messages, and what was decided to get there."""

    sql: str
    name: str
    notes: tuple[str, ...] = ()
    file: Path | None = None
    header: tuple[str, ...] | None = (
        None  # the names as the file spells them; DuckDB alters some to make them unique
    )
    frame: Any = field(default=None, repr=False)  # a DataFrame or Arrow table
    database: Path | None = None  # attached as "source" before the SQL runs
    explain: Callable[[Exception], DataError | None] | None = (
        None  # what the file's format knows about a failure
    )
    is_query: bool = False


def connect() -> "DuckDBPyConnection":
    """A DuckDB in memory, whose answers depend on nothing but the data.

    Times with a zone are told in UTC, and SQL does not look into Python's variables.
    """
    import duckdb

    connection = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def fetch(selection: Selection, kinds: Mapping[str, Kind]) -> Table:
    """Run the selection and make a typed table of what it returns."""
    import duckdb

    with closing(connect()) as connection:
        try:
            if selection.frame is not None:
                connection.register(HANDED_IN, selection.frame)
            if selection.database is not None:
                connection.execute(f"ATTACH {quoted_text(str(selection.database))} AS source (READ_ONLY)")
            if selection.is_query:
                connection.execute(
                    "SET threads = 1"
                )  # so that a query without ORDER BY keeps one order of rows
            described = connection.execute(f"DESCRIBE {selection.sql}").fetchall()
            names = unique_names(selection.header or [str(row[0]) for row in described], selection.name)
            check_names(kinds, names, selection.name)
            columns = _fetch_columns(connection, selection.sql, [str(row[1]) for row in described])
        except duckdb.Error as error:
            raise explained(error, selection) from error
    return assemble(dict(zip(names, columns, strict=True)), kinds, selection.name, selection.notes)


def _fetch_columns(
    connection: "DuckDBPyConnection", sql: str, types: Sequence[str]
) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | str]:
    """Each column as (values, missing); or the name of its type, where that is of no use to a network."""
    # Columns are addressed by position: DuckDB's names ignore case and may have been altered to be unique.
    aliases = ", ".join(f"c{index}" for index in range(len(types)))
    plain = [_plain_form(f"c{index}", kind) for index, kind in enumerate(types)]
    wanted = ", ".join(f"{form} AS c{index}" for index, form in enumerate(plain) if form is not None)
    fetched = connection.execute(f"SELECT {wanted or 'NULL'} FROM ({sql}) AS rows({aliases})").fetchnumpy()
    columns: list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | str] = []
    for index, form in enumerate(plain):
        if form is None:
            columns.append(types[index])
            continue
        values = fetched[f"c{index}"]
        missing = np.array(np.ma.getmaskarray(values)) if np.ma.isMaskedArray(values) else _gone(values)
        columns.append((np.ma.getdata(values), missing))
    return columns


def _gone(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    missing = np.zeros(len(values), dtype=np.bool_)
    if values.dtype.kind == "O":
        missing[:] = [value is None for value in values.tolist()]
    elif values.dtype.kind in "fM":
        missing[:] = values != values  # only NaN and NaT differ from themselves
    return missing


def _plain_form(column: str, type_name: str) -> str | None:
    """SQL for this column as double, boolean, text or timestamp; None for lists, structs and bytes."""
    name = type_name.upper()
    if name.endswith("]"):
        return None
    if name == "BOOLEAN":
        return column
    if name in ("TIME", "INTERVAL", "TIME_NS"):
        return f"epoch({column})"  # seconds since midnight, or of duration
    if name.startswith(("DATE", "TIMESTAMP")):
        # Not a CAST: DuckDB would push that down into its CSV reader, which then forgets the date's format.
        return f"make_timestamp(epoch_us({column}))"
    if _NUMERIC.match(name) or name == '"NULL"':
        return f"CAST({column} AS DOUBLE)"
    return f"CAST({column} AS VARCHAR)" if _TEXT.match(name) else None


def assemble(
    raw: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | str],
    kinds: Mapping[str, Kind],
    source: str,
    notes: Sequence[str] = (),
) -> Table:
    """A typed table from raw columns; `DataError` where there are no columns or no rows."""
    rows = max((len(column[0]) for column in raw.values() if not isinstance(column, str)), default=0)
    if not raw:
        raise DataError(
            f"There are no columns in {source}. Give a table with at least a target and one other column."
        )
    if rows == 0:
        raise DataError(
            f"There are no rows in {source}, only {listing(list(raw))}. Was it written by a job that "
            f"stopped early, or filtered too hard?"
        )
    columns = [
        _unsupported(name, column, rows)
        if isinstance(column, str)
        else make_column(name, *column, wish=kinds.get(name), source=source)
        for name, column in raw.items()
    ]
    return Table(tuple(columns), rows, source, tuple(notes))


def _unsupported(name: str, type_name: str, rows: int) -> Column:
    note = f"a {type_name} in every row: take it apart with a query to use it"
    return Column(name, "unsupported", np.full(rows, np.nan), np.ones(rows, dtype=np.bool_), note=note)


def unique_names(names: Sequence[str], source: str) -> list[str]:
    """The names without blanks around them; `DataError` if two columns share one."""
    stripped = [name.strip() for name in names]
    for position, name in enumerate(stripped):
        first = stripped.index(name)
        if first != position:
            raise DataError(
                f"Two columns of {source} have the name '{name}': numbers {first + 1} and {position + 1}, "
                f"counted from the left. Rename one in the header, or name the columns you want in a query."
            )
    return stripped


def check_names(wanted: Mapping[str, object], names: Sequence[str], source: str) -> None:
    """`DataError`, with the nearest names, for every wanted column that is not there."""
    absent = [name for name in wanted if name not in names]
    if absent:
        raise DataError(
            f"{source[0].upper() + source[1:]} has no column "
            + ", ".join(f"'{name}'" for name in absent)
            + f".{suggestion(absent[0], names)} It has {listing(names)}."
        )


def quoted_text(text: str) -> str:
    """A SQL text literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def explained(error: Exception, selection: Selection) -> DataError:
    """What DuckDB said, as one paragraph about the user's file or query."""
    said = " ".join(str(error).split()).split(" LINE ")[0]  # what follows points into SQL, mostly ours
    if selection.is_query:
        return DataError(f"The query cannot run: {said}")
    if selection.explain is not None and (known := selection.explain(error)) is not None:
        return known
    if selection.file is not None and re.search(r"utf-?8|unicode|byte sequence", said, re.IGNORECASE):
        return undecodable(selection.file) or DataError(f"{selection.name} cannot be read: {said}")
    if re.search(
        r"magic bytes|unexpected end|GZIP|corrupt|too small|footer|decompress|Snappy|ZSTD",
        said,
        re.IGNORECASE,
    ):
        return DataError(
            f"{selection.name} is cut short or damaged: {said} Download or write it again; a copy that was "
            f"interrupted is the usual reason."
        )
    return DataError(f"{selection.name} cannot be read: {said[:600]}")
