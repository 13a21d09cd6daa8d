"""Runs every example in README.md and docs/*.md, so that no page can promise what the code does not do.

What a fenced block's tag means:

`python`   is run. With `>>>` prompts its output is compared too. The blocks of one page share a namespace and
           a temporary working directory, from top to bottom, as a reader would type them. One tagged
           `python needs=torch` is run where that library is installed, as it is in `make check`.
`console`  each line that starts with `$ ` is a command, and must be `chainrule …`; the lines up to the next
           command are what it prints, standard error included. A command that fails says so in its last line:
           `[exit status 2]`. Where output changes from run to run, write `...`.
any other  (`text`, `toml`, `sh`, …) is shown and not run.
"""

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<tag>\w+)(?: needs=(?P<needs>\w+))?[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)")
OUTPUT_RULES = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
COMMAND_SECONDS = 120


@dataclass(frozen=True)
class Block:
    """A fenced block: its tag, its text, the line of the page its text begins on, the library it needs."""

    tag: str
    code: str
    line: int
    needs: str | None = None


def blocks(page: str) -> Iterator[Block]:
    for match in FENCE.finditer(page):
        code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        yield Block(match["tag"], code, page.count("\n", 0, match.start("code")) + 1, match["needs"])


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    if block.code.lstrip().startswith(">>>"):
        run_session(block, page, namespace)
        return
    # Empty lines in front make tracebacks name the line of the page.
    program = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
    exec(program, namespace)


def run_session(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    session = doctest.DocTestParser().get_doctest(block.code, {}, page.name, str(page), block.line - 1)
    session.globs = namespace
    report: list[str] = []
    doctest.DocTestRunner(optionflags=OUTPUT_RULES).run(session, out=report.append, clear_globs=False)
    if report:
        pytest.fail("".join(report), pytrace=False)


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output the page shows for it."""
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        command, _, expected = re.sub(r"\\\n\s*", "", part).partition("\n")
        yield command, expected


def run_console(block: Block, page: Path) -> None:
    for command, expected in commands(block):
        where = f"{page.name}:{block.line}: $ {command}"
        assert command.split()[0] == "chainrule", (
            f"{where}\nonly chainrule's own commands are run; tag others `text`"
        )
        printed = shell(command)
        if not doctest.OutputChecker().check_output(expected, printed, OUTPUT_RULES):
            pytest.fail(f"{where}\nthe page shows:\n{expected}\nit prints:\n{printed}", pytrace=False)


def shell(command: str) -> str:
    """What a command prints, in a plain terminal of 100 columns."""
    beside_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        command,
        shell=True,
        env={**os.environ, "PATH": beside_python, "COLUMNS": "100", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    status = f"[exit status {finished.returncode}]\n" if finished.returncode else ""
    return finished.stdout + status


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run_as_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.needs is not None and find_spec(block.needs) is None:
            continue
        if block.tag == "python":
            run_python(block, page, namespace)
        elif block.tag == "console":
            run_console(block, page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = [target for target in LINK.findall(text) if not (page.parent / target).exists()]
    assert not broken


SMALL_PAGE = r"""
```python
x = 6
```

  ```python
  >>> x * 7
  42
  ```

```console
$ chainrule a \
  b
...
$ ls
```
"""


def test_the_runner_notices_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page, namespace = Path("page.md"), dict[str, Any]()
    program, session, console = blocks(SMALL_PAGE)
    assert (program.line, session.line, console.line) == (3, 7, 12)
    assert list(commands(console)) == [("chainrule a b", "...\n"), ("ls", "")]

    run_python(program, page, namespace)
    run_python(session, page, namespace)
    with pytest.raises(pytest.fail.Exception, match="42"):
        run_python(session, page, {"x": 7})
    with pytest.raises(AssertionError, match="own commands"):
        run_console(Block("console", "$ ls\n", 1), page)
    assert shell("exit 3") == "[exit status 3]\n"
