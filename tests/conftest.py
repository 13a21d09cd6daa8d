"""What every test shares: how Hypothesis searches, a cache for code, and comparison with golden files."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on the machine and its neighbours, so time is no property to test.
settings.register_profile("chainrule", deadline=None, print_blob=True)
settings.load_profile("chainrule")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden from what is printed now"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Compiled code is kept for this session only, so that no test meets what an earlier version left.

    Set CHAINRULE_CACHE to keep it longer. Processes that tests start inherit the folder.
    """
    if "CHAINRULE_CACHE" not in os.environ:
        folder = tempfile.mkdtemp(prefix="chainrule-tests-")
        os.environ["CHAINRULE_CACHE"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares with tests/golden/name; read the diff before you commit an update."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare
