"""What a column is: number, boolean, category, time, or something a network cannot learn from.

Readers hand over raw values in one of four NumPy forms (float64, bool, datetime64[us], or objects holding
text); `make_column` decides the kind by rules that can be read in a sentence each, says so in the column's
note, and obeys a `wish` of the user's. Every rule looks at the values alone; none looks at the target.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.data.table import Column, Kind, number_text
from chainrule.errors import DataError

#: What a user may ask a column to be. `identifier` means: keep it in the table, leave it out of the network.
WISHES: tuple[Kind, ...] = ("number", "boolean", "category", "time", "identifier")

#: Texts that stand for "no value", compared after stripping blanks. "None" is not among them: in many tables
#: (the Ames houses, for one) it is a category like any other.
MISSING_TEXTS = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "?")

LARGEST_EXACT = 2.0**53  # beyond it doubles skip whole numbers, so neighbouring identifiers become equal
FEWEST_FOR_IDENTIFIER = 20  # in fewer rows, all values being different says little
LONG_TEXT = 30  # mean length, in characters, above which mostly different texts are prose rather than labels

_LEADING_ZERO = re.compile(r"[+-]?0\d+$")
_NAMED_IDENTIFIER = re.compile(r"(?i:(^|[\W_])(id|uuid|guid|index|key|rownames?|row_?number)$)|[a-z](Id|ID)$")
_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}

Mask = npt.NDArray[np.bool_]


def make_column(
    name: str,
    values: npt.NDArray[Any],
    missing: Mask,
    wish: Kind | None = None,
    source: str = "memory",
) -> Column:
    """The column these raw values make, of the kind the user wishes or else of the kind its values suggest.

    `values` is float64, bool, datetime64 or an object array of texts; entries under `missing` are ignored.
    Raises `DataError` for infinite numbers, for stray texts in a column of numbers, and for a wish that the
    values cannot fulfil.

    >>> import numpy as np
    >>> make_column("zip", np.array(["01234", "99999"], object), np.array([False, False])).kind
    'category'
    """
    column = _as_it_came(name, values, missing)
    if wish is not None:
        return replace(_granted(column, wish, source), note=f"read as {wish}, as asked")
    if column.missing.all():
        return Column(
            name, "empty", np.full(len(values), np.nan), column.missing, note="every value is missing"
        )
    if column.kind == "category":
        return _suggested_from_text(column, source)
    if column.kind != "number":
        return column
    reason = _identifier_reason(name, column.values[~column.missing])
    return replace(column, kind="identifier", note=reason) if reason else _checked(column, source)


def _as_it_came(name: str, values: npt.NDArray[Any], missing: Mask) -> Column:
    """The raw values as a number, boolean, time or, if they are texts, category."""
    if values.dtype.kind == "O":
        return _from_texts(name, values.tolist(), missing)
    if values.dtype.kind == "b":
        return Column(name, "boolean", values & ~missing, missing)
    if values.dtype.kind == "M":
        times = np.where(missing, np.datetime64("NaT"), values.astype("datetime64[us]"))
        return Column(name, "time", times, missing)
    return Column(name, "number", np.where(missing, np.nan, values), missing | np.isnan(values))


def _from_texts(name: str, texts: list[Any], missing: Mask) -> Column:
    """Codes into the sorted levels, blanks around texts removed; a sorted order gives equal data equal
    hashes.

    Whatever is done to a text is done once for each different one: columns are long and levels are few.
    """
    place: dict[Any, int] = {}
    found = np.fromiter((place.setdefault(text, len(place)) for text in texts), np.int64, len(texts))
    stripped = [str(text).strip() for text in place]
    levels = sorted({stripped[code] for code in np.unique(found[~missing]).tolist()} - set(MISSING_TEXTS))
    code_of = {level: code for code, level in enumerate(levels)}
    codes = np.array([code_of.get(text, -1) for text in stripped], dtype=np.int32)[found]
    codes[missing] = -1
    return Column(name, "category", codes, codes < 0, tuple(levels))


def _suggested_from_text(column: Column, source: str) -> Column:
    levels = column.levels or ()
    counts = np.bincount(column.values[~column.missing], minlength=len(levels))
    if any(_LEADING_ZERO.match(level) for level in levels):
        return _identifier_or_prose(replace(column, note="leading zeros: read as codes, not numbers"), counts)
    numeric = np.array([_parse_number(level) is not None for level in levels])
    if _meant_as_numbers(numeric, counts):
        return replace(_number(column, source), note="texts that are all numbers")
    return _identifier_or_prose(column, counts)


def _meant_as_numbers(numeric: Mask, counts: npt.NDArray[np.int64]) -> bool:
    """Whether these levels, of which some are `numeric`, stand for a column of numbers.

    So it is when all of its texts are numbers, or more than 95%; when one text stands among at least four
    numbers; or when most are numbers, of at least twenty values, and at most three different texts stand
    between them (the mark of a home-made "unknown").
    """
    rows, strays = int(counts.sum()), int(counts[~numeric].sum())
    if strays == rows:
        return False
    if strays < 0.05 * rows or (strays == 1 and rows >= 5):
        return True
    return 2 * strays < rows and int((~numeric).sum()) <= 3 and int(numeric.sum()) >= 20


def _identifier_or_prose(column: Column, counts: npt.NDArray[np.int64]) -> Column:
    """The same column, turned into an identifier or a text where its values never or hardly ever repeat."""
    rows, levels = int(counts.sum()), column.levels or ()
    if rows < FEWEST_FOR_IDENTIFIER:
        return column
    letters = sum(len(level) * count for level, count in zip(levels, counts.tolist(), strict=True))
    if 2 * len(levels) > rows and letters > LONG_TEXT * rows:
        note = f"prose: {len(levels):,} different texts, {letters // rows} letters long"
        return replace(column, kind="text", note=note)
    if len(levels) == rows:
        return replace(column, kind="identifier", note=f"an identifier: all {rows:,} values are different")
    return column


def _identifier_reason(name: str, numbers: npt.NDArray[np.float64]) -> str:
    """Why these whole numbers name rows rather than measure them, or ''."""
    if not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
        return ""
    if np.abs(numbers).max() > LARGEST_EXACT:
        return "an identifier: whole numbers beyond 2^53, which doubles cannot tell apart"
    if len(numbers) < FEWEST_FOR_IDENTIFIER:
        return ""
    if numbers[0] in (0, 1) and (np.diff(numbers) == 1).all():
        return f"a row number: counts up from {number_text(float(numbers[0]))}"
    if _NAMED_IDENTIFIER.search(name) and len(np.unique(numbers)) == len(numbers):
        return f"an identifier by its name: all {len(numbers):,} values are different"
    return ""


def _granted(column: Column, wish: Kind, source: str) -> Column:
    """The column as the kind the user asked for."""
    if wish in ("category", "identifier"):
        as_text = (
            column if column.kind == "category" else _from_texts(column.name, column.texts(), column.missing)
        )
        return replace(as_text, kind=wish)
    granting: dict[str, Callable[[Column, str], Column]] = {
        "number": _number,
        "boolean": _boolean,
        "time": _time,
    }
    return granting[wish](column, source)


def _number(column: Column, source: str) -> Column:
    if column.kind == "time":
        raise DataError(f"Column '{column.name}' of {source} holds dates, so it cannot be read as numbers.")
    if column.levels is None:
        numbers = np.where(column.missing, np.nan, column.values.astype(np.float64))
    else:
        parsed = [_parse_number(level) for level in column.levels]
        if None in parsed:
            raise _stray_text(column, np.array([number is None for number in parsed]), source)
        numbers = np.array([*parsed, np.nan], dtype=np.float64)[column.values]
    return _checked(Column(column.name, "number", numbers, np.isnan(numbers)), source)


def _checked(column: Column, source: str) -> Column:
    """The same numbers; `DataError` if one is infinite."""
    infinite = np.flatnonzero(np.isinf(column.values))
    if not infinite.size:
        return column
    also = f" ({infinite.size:,} rows in all)" if infinite.size > 1 else ""
    name = column.name
    raise DataError(
        f"Column '{name}' of {source} holds an infinite value in row {infinite[0] + 1}{also}; no mean or "
        f"scale can be taken of it. Correct the value, or turn it into a missing one with a query: "
        f'SELECT * REPLACE (CASE WHEN isfinite("{name}") THEN "{name}" END AS "{name}") FROM ...'
    )


def _stray_text(column: Column, stray: Mask, source: str) -> DataError:
    rows = np.flatnonzero(np.append(stray, False)[column.values])
    also = f" {rows.size - 1:,} more rows hold texts too." if rows.size > 1 else ""
    name, text = column.name, column.take(rows[:1]).texts()[0]
    return DataError(
        f"Column '{name}' of {source} holds numbers, except that row {rows[0] + 1} says '{text}'.{also} "
        f"Correct the value; or, if it stands for a missing one, leave it empty or write NA; or, if the "
        f"column holds codes rather than numbers, ask for it as a category: kinds={{'{name}': 'category'}}, "
        f"on the command line --kind '{name}=category'. (Rows are counted from 1, without the header.)"
    )


def _parse_number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # Python reads "1_000" as a number; tables do not mean it
    except ValueError:
        return None


def _boolean(column: Column, source: str) -> Column:
    if column.kind == "boolean":
        return column
    texts = column if column.levels is not None else _from_texts(column.name, column.texts(), column.missing)
    words = [level.lower() for level in texts.levels or ()]
    unclear = np.array([word not in _TRUE | _FALSE for word in words], dtype=np.bool_)
    if unclear.any():
        row = int(np.flatnonzero(np.append(unclear, False)[texts.values])[0])
        raise DataError(
            f"Column '{column.name}' of {source} cannot be read as true or false: row {row + 1} says "
            f"'{texts.take(np.array([row])).texts()[0]}'. Words that can: true, yes, y, t, 1 and false, "
            f"no, n, f, 0."
        )
    true = np.array([word in _TRUE for word in words] + [False], dtype=np.bool_)
    return Column(column.name, "boolean", true[texts.values], texts.missing)


def _time(column: Column, source: str) -> Column:
    if column.kind == "time":
        return column
    texts = column if column.levels is not None else _from_texts(column.name, column.texts(), column.missing)
    times = np.full(len(texts.levels or ()) + 1, np.datetime64("NaT"), dtype="datetime64[us]")
    for code, level in enumerate(texts.levels or ()):
        try:
            times[code] = np.datetime64(level.replace(" ", "T"), "us")
        except ValueError:
            row = int(np.flatnonzero(texts.values == code)[0])
            raise DataError(
                f"Column '{column.name}' of {source} cannot be read as a time: row {row + 1} says '{level}'. "
                f"Write times as 2024-12-31 or 2024-12-31 23:59:59, or parse them in a query with strptime."
            ) from None
    return Column(column.name, "time", times[texts.values], texts.missing)
