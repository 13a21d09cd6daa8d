"""Text files, compressed or not: their lines, and the place of the first byte that is not UTF-8."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from chainrule.errors import DataError


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked if it ends in .gz."""
    with file.open("rb") as packed:
        yield cast(BinaryIO, gzip.GzipFile(fileobj=packed)) if file.suffix == ".gz" else packed


def lines(file: Path) -> Iterator[str]:
    """The lines of a text file; bytes that are not UTF-8 become replacement characters."""
    with _opened(file) as stream:
        yield from io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")


def is_blank(file: Path) -> bool:
    """Whether a text file holds nothing but blanks and ends of lines; not so if it cannot be unpacked."""
    try:
        return not any(line.strip() for line in lines(file))
    except (EOFError, gzip.BadGzipFile):
        return False


def undecodable(file: Path) -> DataError | None:
    """The error for bytes that are not UTF-8, with their place in the file, or None if all of them are."""
    offset, number = 0, 1
    with _opened(file) as stream:
        for raw in stream:
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                return _not_utf8(file, raw, error.start, offset, number)
            offset, number = offset + len(raw), number + 1
    return None


def _not_utf8(file: Path, raw: bytes, position: int, offset: int, number: int) -> DataError:
    """The paragraph about byte `position` of line `number`, which begins `offset` bytes into the file."""
    wide = number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    encoding, name = ("utf-16", "UTF-16") if wide else ("latin-1", "LATIN1")
    before = raw[max(0, position - 20) : position].decode("latin-1").strip()
    guess = "" if wide else f", which would be '{chr(raw[position])}' in Latin-1 (after '{before}')"
    query = f"; or read it as it is with a query: FROM read_csv('{file}', encoding='{encoding}')"
    return DataError(
        f"'{file}' is not UTF-8: line {number}, byte {offset + position} is 0x{raw[position]:02x}{guess}. "
        f"Convert the file: iconv -f {name} -t UTF-8 '{file}' > 'converted-{file.name}'"
        f"{'' if '.json' in file.name else query}."
    )
