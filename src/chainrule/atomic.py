"""Files that are either the old ones or the new ones, never half of either."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chainrule.errors import RunError

STALE = ".tmp"
"""The suffix of a file that is being written; one that a killed process left behind can be removed."""


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Replace `path` by `content`: written beside it, synced to disk, then renamed over it.

    Not `durable`: not synced, which takes most of the time. When the machine itself stops, the file may then
    be old or damaged: for what has a checksum and can be made anew.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=STALE, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if durable:
            _sync_directory(path.parent)


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a `RunError` that names the place and the cure."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {_cure(error, path)}. Nothing was half-written") from error


def _cure(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space, or write elsewhere"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write in {path.parent}; choose another folder or change its permissions"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"a part of {path.parent} is a file, not a folder; choose another place"
    return error.strerror or str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(folder: Path) -> None:
    """Make the rename itself durable; Windows neither needs nor allows it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
