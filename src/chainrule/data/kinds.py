"""What a column is: number, boolean, category, time, or something a network cannot learn from.

Readers hand over raw values in one of four NumPy forms (float64, bool, datetime64[us], or objects holding
text); `make_column` decides the kind by rules that can be read in a sentence each, says so in the column's
note, and obeys a `wish` of the user's. Every rule looks at the values alone; none looks at the target.
"""

import re
from collections.abc import Sequence
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
    name: str, values: npt.NDArray[Any], missing: Mask, wish: Kind | None = None, source: str = "memory"
) -> Column:
    """The column these raw values make, of the kind the user wishes or else of the kind its values suggest.

    `values` is float64, bool, datetime64 or an object array of texts; entries under `missing` are ignored.
    Raises `DataError` for infinite numbers, for stray texts in a column of numbers, and for a wish that the
    values cannot fulfil.

    >>> import numpy as np
    >>> make_column("zip", np.array(["01234", "99999"], object), np.array([False, False])).kind
    'category'
    """
    if values.dtype.kind == "O":
        values, missing = _strip(values, missing)
    if missing.all() and wish is None:
        return Column(name, "empty", np.full(len(values), np.nan), missing, note="every value is missing")
    if wish is None:
        return _suggested(name, values, missing, source)
    makers = {
        "number": _number,
        "boolean": _boolean,
        "category": _category,
        "time": _time,
        "identifier": _category,
    }
    column = makers[wish](name, values, missing, source)
    return Column(name, wish, column.values, column.missing, column.levels, f"read as {wish}, as asked")


def _suggested(name: str, values: npt.NDArray[Any], missing: Mask, source: str) -> Column:
    if values.dtype.kind == "b":
        return _boolean(name, values, missing, source)
    if values.dtype.kind == "M":
        return _time(name, values, missing, source)
    if values.dtype.kind == "f":
        reason = _identifier_reason(name, values[~missing])
        column = _number(name, values, missing, source)
        return Column(name, "identifier", column.values, missing, note=reason) if reason else column
    return _suggested_from_text(name, values, missing, source)


def _suggested_from_text(name: str, values: npt.NDArray[Any], missing: Mask, source: str) -> Column:
    texts: list[str] = values[~missing].tolist()
    if any(_LEADING_ZERO.match(text) for text in texts):
        codes = _category(name, values, missing, source)
        return _identifier_or_prose(codes, texts, "leading zeros: read as codes, not numbers")
    numeric = [_parse_number(text) is not None for text in texts]
    if all(numeric) or _meant_as_numbers(texts, numeric):
        column = _number(name, values, missing, source)
        return Column(name, "number", column.values, column.missing, note="texts that are all numbers")
    return _identifier_or_prose(_category(name, values, missing, source), texts, "")


def _identifier_or_prose(column: Column, texts: Sequence[str], note: str) -> Column:
    """The same column, turned into an identifier or a text where its values never or hardly ever repeat."""
    kind: Kind = "category"
    distinct = len(column.levels or ())
    if len(texts) >= FEWEST_FOR_IDENTIFIER:
        if 2 * distinct > len(texts) and sum(map(len, texts)) > LONG_TEXT * len(texts):
            kind, note = (
                "text",
                f"prose: {distinct:,} different texts, {sum(map(len, texts)) // len(texts)} letters long",
            )
        elif distinct == len(texts):
            kind, note = "identifier", f"an identifier: all {distinct:,} values are different"
    return Column(column.name, kind, column.values, column.missing, column.levels, note)


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


def _meant_as_numbers(texts: Sequence[str], numeric: Sequence[bool]) -> bool:
    """Whether a few stray texts stand in what is otherwise a column of numbers.

    So it is when more than 95% are numbers; when one text stands among at least four numbers; or when most
    are numbers, of at least twenty values, and at most three different texts stand between them (the mark
    of a home-made "unknown").
    """
    count, strays = len(texts), len(texts) - sum(numeric)
    if strays == count:
        return False
    if strays < 0.05 * count or (strays == 1 and count >= 5):
        return True
    different_strays = {text for text, is_number in zip(texts, numeric, strict=True) if not is_number}
    different_numbers = {text for text, is_number in zip(texts, numeric, strict=True) if is_number}
    return 2 * strays < count and len(different_strays) <= 3 and len(different_numbers) >= 20


def _number(name: str, values: npt.NDArray[Any], missing: Mask, source: str) -> Column:
    if values.dtype.kind == "M":
        raise DataError(f"Column '{name}' of {source} holds dates, so it cannot be read as numbers.")
    numbers = np.full(len(values), np.nan)
    if values.dtype.kind == "O":
        for row in np.flatnonzero(~missing).tolist():
            parsed = _parse_number(values[row])
            if parsed is None:
                raise _stray_text(name, values, missing, row, source)
            numbers[row] = parsed
    else:
        numbers[~missing] = values[~missing]
    infinite = np.flatnonzero(np.isinf(numbers))
    if infinite.size:
        row = int(infinite[0])
        also = f" ({infinite.size:,} rows in all)" if infinite.size > 1 else ""
        raise DataError(
            f"Column '{name}' of {source} holds an infinite value in row {row + 1}{also}; no mean or "
            f"scale can be taken of it. Correct the value, or turn it into a missing one with a query: "
            f'SELECT * REPLACE (CASE WHEN isfinite("{name}") THEN "{name}" END AS "{name}") FROM ...'
        )
    return Column(name, "number", numbers, missing | np.isnan(numbers))


def _stray_text(name: str, values: npt.NDArray[Any], missing: Mask, row: int, source: str) -> DataError:
    strays = sum(_parse_number(text) is None for text in values[~missing].tolist())
    also = f" {strays - 1:,} more rows hold texts too." if strays > 1 else ""
    return DataError(
        f"Column '{name}' of {source} holds numbers, except that row {row + 1} says '{values[row]}'.{also} "
        f"Correct the value; or, if it stands for a missing one, leave it empty or write NA; or, if the "
        f"column holds codes rather than numbers, ask for it as a category: kinds={{'{name}': 'category'}}, "
        f"on the command line --kind '{name}=category'. (Rows are counted from 1, without the header.)"
    )


def _parse_number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # Python reads "1_000" as a number; tables do not mean it
    except ValueError:
        return None


def _boolean(name: str, values: npt.NDArray[Any], missing: Mask, source: str) -> Column:
    if values.dtype.kind == "b":
        return Column(name, "boolean", values & ~missing, missing)
    texts = _as_texts(values, missing)
    booleans = np.zeros(len(values), dtype=np.bool_)
    for row in np.flatnonzero(~missing).tolist():
        word = texts[row].lower()
        if word not in _TRUE | _FALSE:
            raise DataError(
                f"Column '{name}' of {source} cannot be read as true or false: row {row + 1} says "
                f"'{texts[row]}'. Words that can: true, yes, y, t, 1 and false, no, n, f, 0."
            )
        booleans[row] = word in _TRUE
    return Column(name, "boolean", booleans, missing)


def _time(name: str, values: npt.NDArray[Any], missing: Mask, source: str) -> Column:
    if values.dtype.kind == "M":
        times = values.astype("datetime64[us]")
        return Column(name, "time", np.where(missing, np.datetime64("NaT"), times), missing)
    times = np.full(len(values), np.datetime64("NaT"), dtype="datetime64[us]")
    for row in np.flatnonzero(~missing).tolist():
        try:
            times[row] = np.datetime64(str(values[row]).replace(" ", "T"), "us")
        except ValueError:
            raise DataError(
                f"Column '{name}' of {source} cannot be read as a time: row {row + 1} says '{values[row]}'. "
                f"Write times as 2024-12-31 or 2024-12-31 23:59:59, or parse them in a query with strptime."
            ) from None
    return Column(name, "time", times, missing)


def _category(name: str, values: npt.NDArray[Any], missing: Mask, source: str) -> Column:
    """Codes into the sorted levels: sorted, so that equal contents give equal columns and equal hashes."""
    texts = _as_texts(values, missing)
    levels = sorted({text for text, gone in zip(texts, missing.tolist(), strict=True) if not gone})
    code_of = {level: code for code, level in enumerate(levels)}
    codes = [-1 if gone else code_of[text] for text, gone in zip(texts, missing.tolist(), strict=True)]
    return Column(name, "category", np.array(codes, dtype=np.int32), missing, tuple(levels))


def _as_texts(values: npt.NDArray[Any], missing: Mask) -> list[str]:
    """Every entry as text, '' where missing, written as `Column.texts` writes it."""
    if values.dtype.kind == "O":
        return ["" if gone else text for text, gone in zip(values.tolist(), missing.tolist(), strict=True)]
    kind: dict[str, Kind] = {"b": "boolean", "M": "time"}
    return [text or "" for text in Column("", kind.get(values.dtype.kind, "number"), values, missing).texts()]


def _strip(values: npt.NDArray[Any], missing: Mask) -> tuple[npt.NDArray[Any], Mask]:
    """Texts without the blanks around them, and the marks of missing values that appear then."""
    stripped = np.empty(len(values), dtype=object)
    gone = missing.copy()
    for row in np.flatnonzero(~missing).tolist():
        text = str(values[row]).strip()
        stripped[row] = text
        gone[row] = text in MISSING_TEXTS
    return stripped, gone
