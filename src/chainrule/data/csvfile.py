"""CSV files: which delimiter, which names, which lines do not fit.

DuckDB sniffs the dialect from the whole file. Where a line has too many or too few fields its sniffer looks
for another reading of the file and often finds an absurd one (one wide column, or a table that starts at
the last line); those are recognised here and turned into an error that names the line.
"""

import csv
import itertools
import re
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.data.duck import Selection, connect, explained, quoted_name, quoted_text, unique_names
from chainrule.data.kinds import MISSING_TEXTS
from chainrule.data.table import Kind
from chainrule.data.textfile import is_blank, lines, undecodable
from chainrule.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_DELIMITERS = (",", ";", "\t", "|")
_SHOWN = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_NULLS = "nullstr=[" + ", ".join(quoted_text(text) for text in MISSING_TEXTS) + "]"


def csv_selection(path: str, first: Path | None, kinds: Mapping[str, Kind]) -> Selection:
    """How to read the CSV file, pattern of files or URL `path`; `first` is the file whose header counts.

    Raises `DataError` for a file that is empty, not UTF-8, has lines that do not fit, or two columns of one
    name.
    """
    import duckdb

    name = f"'{path}'"
    sniffed_path = str(first) if first is not None else path
    explain = partial(_explain, first)
    if first is not None and is_blank(first):
        raise DataError(
            f"{name} is empty. A table has a line of column names and at least one line of values."
        )
    with closing(connect()) as connection:
        try:
            sniffed = _sniff(connection, sniffed_path)
            header = _header(connection, sniffed_path, sniffed)
            if _implausible(first, sniffed, header):
                raise _odd_lines(first) or DataError(
                    f"{name} has no regular columns: no delimiter fits its lines."
                )
            names = unique_names(header, name)
            options = _options(sniffed, names, kinds, _worded(connection, path, sniffed))
            options += _decimal_comma(connection, path, options, sniffed)
        except duckdb.Error as error:
            raise explained(error, Selection("", name, file=first, explain=explain)) from error
    sql = f"SELECT * FROM read_csv({quoted_text(path)}, {options})"
    return Selection(sql, name, (_note(sniffed, options),), first, tuple(names), explain=explain)


def _note(sniffed: Mapping[str, Any], options: str) -> str:
    """What was found out about the file, for the user to check."""
    note = f"CSV: {_SHOWN.get(sniffed['Delimiter'], repr(sniffed['Delimiter']))} between fields"
    if not sniffed["HasHeader"]:
        note += "; the first line holds values, so the columns are called column0, column1, …"
    if sniffed["SkipRows"]:
        note += f"; the first {sniffed['SkipRows']} lines are not part of the table"
    if "decimal_separator" in options:
        note += "; a comma before decimals"
    return note


def _sniff(connection: "DuckDBPyConnection", path: str) -> dict[str, Any]:
    rows = connection.execute(f"FROM sniff_csv({quoted_text(path)}, sample_size=-1, {_NULLS})")
    fields = [column[0] for column in rows.description or ()]
    found = dict(zip(fields, rows.fetchall()[0], strict=True))
    return {key: "" if value == "(empty)" else value for key, value in found.items()}


def _dialect(sniffed: Mapping[str, Any]) -> str:
    parts = [
        f"{option}={quoted_text(sniffed[field])}"
        for option, field in (("delim", "Delimiter"), ("quote", "Quote"), ("escape", "Escape"))
    ]
    return ", ".join([*parts, f"skip={sniffed['SkipRows']}"])


def _header(connection: "DuckDBPyConnection", path: str, sniffed: Mapping[str, Any]) -> list[str]:
    """The names as the file spells them: DuckDB's own are made unique, which would hide two equal ones."""
    made_unique = [column["name"] for column in sniffed["Columns"]]
    if not sniffed["HasHeader"]:
        return made_unique
    first_line = connection.execute(
        f"SELECT * FROM read_csv({quoted_text(path)}, {_dialect(sniffed)}, header=false, "
        f"all_varchar=true) LIMIT 1"
    ).fetchall()[0]
    if len(first_line) != len(made_unique):
        return made_unique
    return [written or given for written, given in zip(first_line, made_unique, strict=True)]


def _worded(connection: "DuckDBPyConnection", path: str, sniffed: Mapping[str, Any]) -> set[str]:
    """Columns that say yes and no rather than true and false, so that predictions can use their words."""
    booleans = [column["name"] for column in sniffed["Columns"] if column["type"] == "BOOLEAN"]
    if not booleans:
        return set()
    checks = ", ".join(
        f"bool_and(lower(trim({quoted_name(name)})) IN ('true', 'false'))" for name in booleans
    )
    header = str(bool(sniffed["HasHeader"])).lower()
    plain = connection.execute(
        f"SELECT {checks} FROM read_csv({quoted_text(path)}, {_dialect(sniffed)}, header={header}, "
        f"all_varchar=true, {_NULLS})"
    ).fetchall()[0]
    return {name for name, is_plain in zip(booleans, plain, strict=True) if not is_plain}


def _options(
    sniffed: Mapping[str, Any], names: list[str], kinds: Mapping[str, Kind], worded: set[str]
) -> str:
    """What `read_csv` is told: the dialect found, and which columns are read as text.

    Columns wished to be categories are, because a number would lose the leading zeros that distinguish codes;
    and the `worded` ones.
    """
    made_unique = [column["name"] for column in sniffed["Columns"]]
    texts = [
        f"{quoted_text(given)}: 'VARCHAR'"
        for name, given in zip(names, made_unique, strict=True)
        if kinds.get(name) in ("category", "identifier") or given in worded
    ]
    types = f", types={{{', '.join(texts)}}}" if texts else ""
    header = str(bool(sniffed["HasHeader"])).lower()
    return f"{_dialect(sniffed)}, header={header}, sample_size=-1, {_NULLS}{types}"


def _decimal_comma(
    connection: "DuckDBPyConnection", path: str, options: str, sniffed: Mapping[str, Any]
) -> str:
    """The option for numbers written 1,5, where the comma delimits nothing and a column is full of them."""
    texts = [column["name"] for column in sniffed["Columns"] if column["type"] == "VARCHAR"]
    if sniffed["Delimiter"] == "," or not texts:
        return ""
    checks = ", ".join(
        rf"bool_and(regexp_full_match({quoted_name(text)}, '[-+]?\d+(,\d+)?')) "
        f"AND bool_or(contains({quoted_name(text)}, ','))"
        for text in texts
    )
    found = connection.execute(f"SELECT {checks} FROM read_csv({quoted_text(path)}, {options})").fetchall()[0]
    return ", decimal_separator=','" if any(found) else ""


def _implausible(first: Path | None, sniffed: Mapping[str, Any], header: list[str]) -> bool:
    """Whether the sniffer gave up on lines of unequal length and settled for another reading of the file."""
    if first is None:
        return False
    if len(header) == 1 and any(delimiter in header[0] for delimiter in _DELIMITERS):
        return True
    skipped = list(itertools.islice(lines(first), int(sniffed["SkipRows"])))
    return any(sniffed["Delimiter"] in line for line in skipped)


def _odd_lines(file: Path | None) -> DataError | None:
    """The error that names the first line with more or fewer fields than the header, if there is one."""
    if file is None:
        return None
    first_line = next(lines(file), "")
    delimiter = max(_DELIMITERS, key=first_line.count)
    reader = csv.reader(lines(file), delimiter=delimiter)
    expected = len(next(reader, []))
    for fields in reader:
        if fields and len(fields) != expected:
            return DataError(
                f"'{file}', line {reader.line_num}: {len(fields)} field{'s' if len(fields) != 1 else ''} "
                f"where the header has {expected}, with {_SHOWN[delimiter]} between fields. Correct the "
                f"line (a field that holds the delimiter must stand in double quotes), or leave such "
                f"lines out with a query: FROM read_csv('{file}', delim='{delimiter}', header=true, "
                f"ignore_errors=true)."
            )
    return None


def _explain(file: Path | None, error: Exception) -> DataError | None:
    if (
        file is None
        or file.suffix in (".zst", ".bz2", ".xz")
        or re.search("GZIP|unexpected end", str(error), re.I)
    ):
        return None
    return undecodable(file) or _odd_lines(file)
