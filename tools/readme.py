"""Puts the real output of the demo, and pictures of reports, into README.md: `python -m tools.readme`.

The text stands between two marks. The pictures are the top of the demo's report, and where the gradient goes
in the example that does not learn. They need Chromium, and are left as they are where it is not found.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import browser
from tools.architecture import ROOT

BEGIN, END = "<!-- demo: begin -->", "<!-- demo: end -->"
IMAGES = ROOT / "docs" / "images"
COLUMNS = 92


def demo(folder: Path) -> str:
    """What `chainrule demo` prints, run in `folder`."""
    command = Path(sys.executable).parent / "chainrule"
    environment = {**os.environ, "COLUMNS": str(COLUMNS)}
    return subprocess.run(
        [command, "demo"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def with_output(page: str, printed: str) -> str:
    """The page with the output between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n```text\n$ make demo\n{printed}```\n{END}{after}"


def example(folder: Path) -> Path:
    """The report of the network that does not learn."""
    report = folder / "example.html"
    subprocess.run([sys.executable, ROOT / "examples" / "vanishing_sigmoid.py", report], check=True)
    return report


def photograph(report: Path, name: str, first: str, last: str, executable: str) -> None:
    """A part of a report in light and in dark, as docs/images/NAME-*.png."""
    IMAGES.mkdir(exist_ok=True)
    for scheme in ("light", "dark"):
        browser.photograph(report, IMAGES / f"{name}-{scheme}.png", first, last, scheme, executable)


def main() -> int:
    """Runs the demo and rewrites the page."""
    readme = ROOT / "README.md"
    with tempfile.TemporaryDirectory(prefix="chainrule-readme-") as name:
        folder = Path(name)
        readme.write_text(with_output(readme.read_text(encoding="utf-8"), demo(folder)), encoding="utf-8")
        executable = browser.chromium()
        if executable is None:
            print("no Chromium, or no extra `browser`: the pictures are left as they are", file=sys.stderr)
        else:
            photograph(folder / "report.html", "report", "html", "#agreement figure", executable)
            photograph(example(folder), "gradient", "#ledger", "#ledger figure", executable)
    return 0


if __name__ == "__main__":
    sys.exit(main())
