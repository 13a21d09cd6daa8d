"""Opens a page in Chromium, the network blocked, and tells what a visitor would notice.

`python -m tools.browser report.html --pictures FOLDER` also photographs it, light and dark, wide and narrow.
Needs the extra `browser` (Playwright, axe-core) and a Chromium of the system.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WIDE, NARROW = 1000, 390
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


@dataclass(frozen=True)
class Visit:
    """What was noticed.

    messages    of the console, and errors of the page
    requests    for anything but the page itself
    violations  of accessibility, as axe-core tells them
    overflow    pixels by which the page is wider than a narrow window
    """

    messages: tuple[str, ...]
    requests: tuple[str, ...]
    violations: tuple[str, ...]
    overflow: int

    @property
    def clean(self) -> bool:
        """Whether there is nothing to find fault with."""
        return not (self.messages or self.requests or self.violations or self.overflow > 0)


def chromium() -> str | None:
    """Where the system's Chromium is; None if there is none, or nothing to drive it with."""
    if not (find_spec("playwright") and find_spec("axe_playwright_python")):
        return None
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def _browser(executable: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=list(_FLAGS))
        yield browser
        browser.close()


def visit(page: Path, executable: str, scheme: str = "light", pictures: Path | None = None) -> Visit:
    """Open a page narrow and wide, unfold everything, and examine it."""
    from axe_playwright_python.sync_playwright import Axe

    with _browser(executable) as browser:
        context = browser.new_context(color_scheme=scheme, offline=True, reduced_motion="reduce")
        opened = context.new_page()
        messages: list[str] = []
        requests: list[str] = []
        opened.on("console", lambda message: messages.append(message.text))
        opened.on("pageerror", lambda error: messages.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        opened.set_viewport_size({"width": NARROW, "height": 900})
        opened.goto(page.resolve().as_uri())
        overflow = opened.evaluate("document.documentElement.scrollWidth") - NARROW
        _photograph(opened, pictures, f"{page.stem}-{scheme}-narrow")
        opened.set_viewport_size({"width": WIDE, "height": 900})
        _photograph(opened, pictures, f"{page.stem}-{scheme}-wide")
        opened.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        found = Axe().run(opened).response["violations"]
    told = (f"{each['id']}: {each['nodes'][0]['target']} and {len(each['nodes']) - 1} more" for each in found)
    return Visit(tuple(messages), tuple(requests[1:]), tuple(told), overflow)


def photograph(page: Path, picture: Path, first: str, last: str, scheme: str, executable: str) -> None:
    """Photograph what stands between the top of one element and the end of another, named by selectors."""
    with _browser(executable) as browser:
        opened = browser.new_context(color_scheme=scheme, offline=True).new_page()
        opened.set_viewport_size({"width": WIDE, "height": 900})
        opened.goto(page.resolve().as_uri())
        top, end = (opened.locator(each).first.bounding_box() for each in (first, last))
        height = end["y"] + end["height"] - top["y"]
        clip = {"x": 0, "y": top["y"], "width": WIDE, "height": height}
        opened.screenshot(path=picture, full_page=True, clip=clip)


def _photograph(opened: Any, pictures: Path | None, name: str) -> None:
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        opened.screenshot(path=pictures / f"{name}.png", full_page=True)


def main() -> int:
    """Visits the page in light and in dark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--pictures", type=Path, help="where to put photographs of it")
    given = parser.parse_args()
    executable = chromium()
    if executable is None:
        print("needs the extra `browser` (pip install -e '.[browser]') and Chromium", file=sys.stderr)
        return 2
    visits = [visit(given.page, executable, scheme, given.pictures) for scheme in ("light", "dark")]
    for scheme, found in zip(("light", "dark"), visits, strict=True):
        print(scheme, found)
    return 0 if all(found.clean for found in visits) else 1


if __name__ == "__main__":
    sys.exit(main())
