"""Object files on disk: kept, found again, removed; whatever happens to the disk, programs run."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_native_engine import EMITTERS, chain, sum_times_weight

from chainrule.backends.native import cache as cache_module
from chainrule.backends.native import engine
from chainrule.backends.native.cache import Cache, Entry, default_folder
from chainrule.backends.native.engine import Program
from chainrule.backends.native.target import restricted
from chainrule.cli import main
from chainrule.schedule.kernels import Schedule

ONES = np.ones(5, np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, which does not exist yet."""
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_module, "_warned", set())
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were compiled."""
    texts: list[str] = []
    real = engine.compile_object

    def noted(text: str, target: Any) -> bytes:
        texts.append(text)
        return real(text, target)

    monkeypatch.setattr(engine, "compile_object", noted)
    return texts


def check(schedule: Schedule | None = None, **options: Any) -> None:
    """Build a program and see that it computes."""
    made, expected = sum_times_weight()
    (result,) = Program(schedule or made, emitters=EMITTERS, **options)((ONES, 2 * ONES))
    np.testing.assert_array_equal(result, expected(ONES, 2 * ONES))


# -- hit or miss ---------------------------------------------------------------------------------------------
def test_the_second_program_compiles_nothing(folder: Path, compiled: list[str]) -> None:
    for _ in range(3):
        check()
    assert len(compiled) == 1
    assert [each.suffix for each in folder.iterdir()] == [".object"]


def test_what_changes_the_code_changes_the_key(
    folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check()
    check(guarded=True)
    check(target=restricted("x86-64"))
    monkeypatch.setattr(engine, "fingerprint", lambda: "another version")
    check()
    assert len(compiled) == 4


def test_the_values_of_constants_are_no_part_of_the_code(folder: Path, compiled: list[str]) -> None:
    check()
    schedule, _ = sum_times_weight()
    (weight,) = (each for each in schedule.buffers if each.role == "constant")
    weight.value = np.full(5, 2, np.float32)
    (result,) = Program(schedule, emitters=EMITTERS)((ONES, ONES))
    np.testing.assert_array_equal(result, 4)
    assert len(compiled) == 1


def test_another_process_finds_it(folder: Path, compiled: list[str]) -> None:
    check()
    program = (
        "import test_native_cache as here\n"
        "def never(*_): raise AssertionError('compiled')\n"
        "here.engine.compile_object = never\n"
        "here.check()\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, check=True)


# -- damage --------------------------------------------------------------------------------------------------
def damaged(content: bytes) -> list[bytes]:
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    return [b"", content[:10], content[:half], content[:-1], content + b"\0", flipped, os.urandom(500)]


@pytest.mark.parametrize("kind", range(7))
def test_a_damaged_file_is_made_anew(folder: Path, compiled: list[str], kind: int) -> None:
    check()
    (path,) = folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(damaged(good)[kind])
    check()
    assert path.read_bytes() == good
    check()
    assert len(compiled) == 2


def test_a_file_of_somebody_else_is_not_run(
    folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    real = os.fstat
    owned = lambda handle: os.stat_result((*real(handle)[:4], 12345, *real(handle)[5:]))  # noqa: E731
    monkeypatch.setattr(os, "fstat", owned)
    check()
    assert len(compiled) == 2


# -- a disk that does not take it ----------------------------------------------------------------------------
def test_where_nothing_can_be_written_there_is_one_warning(folder: Path, compiled: list[str]) -> None:
    folder.parent.joinpath("cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="not kept for the next start: cannot write .*cache"):
        check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check()
    assert len(compiled) == 2


def test_a_full_disk(folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match="the disk is full"):
        check()
    assert not list(folder.iterdir())


def test_a_folder_that_may_only_be_read(
    folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    check()
    (path,) = folder.iterdir()
    os.utime(path, (0, 0))
    monkeypatch.setattr(os, "utime", refuse)
    check()
    assert len(compiled) == 1


# -- size ----------------------------------------------------------------------------------------------------
def test_what_was_not_used_for_the_longest_time_goes_first(folder: Path) -> None:
    cache = Cache(limit=3000)
    for number in range(4):
        cache.store(f"k{number}", number, bytes(600))
        aged = time.time() - 7200 + number
        os.utime(folder / f"k{number}.object", (aged, aged))
    assert cache.usage().files == 4
    assert cache.load("k0") == Entry(0, bytes(600))  # used now, though it is the oldest
    cache.store("k4", 4, bytes(600))
    assert sorted(each.stem for each in folder.iterdir()) == ["k0", "k2", "k3", "k4"]
    assert cache.usage().bytes <= 3000


def test_what_a_killed_process_left_is_removed_later(folder: Path) -> None:
    cache = Cache(limit=3000)
    cache.store("a", 0, b"")
    old, new = folder / ".b.object.xyz.tmp", folder / ".c.object.xyz.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.store("d", 0, bytes(600))  # more than an eighth of the limit: time to look
    assert sorted(each.name for each in folder.iterdir()) == [new.name, "a.object", "d.object"]


# -- several processes ---------------------------------------------------------------------------------------
def hammer(number: int) -> None:
    """Build programs while others build the same, remove them, or break them."""
    random = np.random.default_rng(number)
    cache = Cache(limit=20_000)
    for _ in range(15):
        check()
        action = random.integers(4)
        if action == 0:
            cache.clear()
        elif action == 1:
            for path in cache.folder.glob("*.object"):
                path.write_bytes(b"chainrule object 1\nbroken")
        elif action == 2:
            size = int(random.integers(1, 6))
            Program(chain([("add", 0, 1)] * size, 4, [2]), emitters=EMITTERS)


def test_processes_share_a_folder_in_peace(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=hammer, args=(number,)) for number in range(3)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [0, 0, 0]


# -- where ---------------------------------------------------------------------------------------------------
def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CHAINRULE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", r"C:\local")
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_folder() == tmp_path / "chainrule"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "chainrule"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_folder() == Path.home() / "Library" / "Caches" / "chainrule"
    monkeypatch.setattr(sys, "platform", "win32")
    assert default_folder() == Path(r"C:\local") / "chainrule" / "cache"
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("CHAINRULE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert default_folder().name == "chainrule"


# -- the command ---------------------------------------------------------------------------------------------
def test_the_command_shows_and_clears(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check()
    (path,) = folder.iterdir()
    size = path.stat().st_size
    assert main(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(folder), "files": 1, "bytes": size, "limit": 256_000_000, "cleared": False,
    }  # fmt: skip
    assert main(["cache"]) == 0
    told = capsys.readouterr().out
    assert str(folder) in told
    assert "1 object file" in told
    assert main(["cache", "--clear"]) == 0
    assert "removed 1 object file" in capsys.readouterr().out
    assert not list(folder.iterdir())
    assert main(["cache", "--clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 0


def test_a_process_whose_source_was_changed_meanwhile_shares_with_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it compiled with the old source must not be taken for what the new source makes."""
    fingerprint = cache_module.fingerprint.__wrapped__
    ours, theirs = fingerprint(), fingerprint()
    assert ours == theirs
    monkeypatch.setattr(cache_module, "_BEGUN", 0.0)
    found = {fingerprint() for _ in range(3)}
    assert len(found) == 3
    assert ours not in found
