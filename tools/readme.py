"""Puts the real output of the demo, and pictures of its report, into README.md: `python -m tools.readme`.

The text stands between two marks. The pictures need Chromium, and are left as they are where it is not found.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.architecture import ROOT

BEGIN, END = "<!-- demo: begin -->", "<!-- demo: end -->"
IMAGES = ROOT / "docs" / "images"
COLUMNS = 92
WINDOW = "1000,1660"  # to the end of the picture of predictions beside the truth


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


def photograph(report: Path, browser: str) -> None:
    """The top of the report in light and in dark, as docs/images/report-*.png."""
    IMAGES.mkdir(exist_ok=True)
    for scheme, number in (("light", 1), ("dark", 0)):
        picture = IMAGES / f"report-{scheme}.png"
        options = [f"--screenshot={picture}", f"--window-size={WINDOW}"]
        options += [f"--blink-settings=preferredColorScheme={number}", "--headless", "--no-sandbox"]
        subprocess.run(
            [browser, *options, "--hide-scrollbars", report.as_uri()], check=True, stderr=subprocess.DEVNULL
        )


def main() -> int:
    """Runs the demo and rewrites the page."""
    readme = ROOT / "README.md"
    with tempfile.TemporaryDirectory(prefix="chainrule-readme-") as name:
        folder = Path(name)
        readme.write_text(with_output(readme.read_text(encoding="utf-8"), demo(folder)), encoding="utf-8")
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None:
            print("no Chromium: the pictures are left as they are", file=sys.stderr)
        else:
            photograph(folder / "report.html", browser)
    return 0


if __name__ == "__main__":
    sys.exit(main())
