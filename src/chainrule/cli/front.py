"""The front of the command line: which verb is meant, and what its end means to the shell.

Only the module of the verb that was asked for is loaded, so that `chainrule --help` is there at once.
"""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module, metadata
from typing import NamedTuple

from chainrule.errors import ChainruleError

BAD_USE = 2
"""Exit status of everything the user can put right: a wrong option, a table that cannot be read, Ctrl-C."""
DEFECT = 70
"""Exit status of a mistake in chainrule itself (EX_SOFTWARE of sysexits.h)."""


class Verb(NamedTuple):
    """A verb's module, which holds a function of its name, and what it does."""

    module: str
    summary: str


VERBS = {
    "train": Verb("chainrule.cli.train", "train a network on a table and measure it; or resume a run"),
    "predict": Verb("chainrule.cli.predict", "predict the target of new rows with a trained run"),
    "runs": Verb("chainrule.cli.runs", "list the runs, newest first"),
    "show": Verb("chainrule.cli.show", "show a run: its recipe, network and result"),
    "why": Verb(
        "chainrule.cli.why", "show why a run's gradients are as they are, and what a number is made of"
    ),
    "report": Verb("chainrule.cli.report", "write a run's report, one HTML file"),
    "cache": Verb("chainrule.cli.cache", "show or clear the compiled code that is kept"),
    "demo": Verb("chainrule.cli.demo", "predict house prices, compare with other models, write report.html"),
}
_WIDEST = 100  # columns of a paragraph
_HELP = """\
Usage: chainrule VERB ...

A backpropagation engine you can see through.

{verbs}

chainrule VERB --help   what a verb takes
chainrule --version     the version
chainrule ... --debug   with a full traceback where something fails

Begin with: chainrule demo
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's own) and return its exit status.

    0 if all went well, 2 for what the user can put right, with one paragraph about it on standard error, and
    70 for a defect of chainrule.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a mark is better than a crash where an encoding lacks a letter
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")  # of NumPy and others, about lines that are not the user's
            status = _run([each for each in given if each != "--debug"])
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_USE
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        return _explained(error)


def _run(given: list[str]) -> int:
    if not given or given[0] in ("--help", "-h", "help"):
        width = max(map(len, VERBS))
        sys.stdout.write(
            _HELP.format(
                verbs="\n".join(f"  {name:{width}}   {verb.summary}" for name, verb in VERBS.items())
            )
        )
        return 0 if given else BAD_USE
    if given[0] in ("--version", "-V"):
        sys.stdout.write(f"chainrule {metadata.version('chainrule')}\n")
        return 0
    if given[0] not in VERBS:
        near = difflib.get_close_matches(given[0], VERBS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(VERBS)}."
        return _complain(f"There is no verb {given[0]!r}. {hint} chainrule --help says what each does.")
    return _verb(given[0], given[1:])


def _verb(name: str, arguments: list[str]) -> int:
    import typer

    # Before NumPy is loaded. OpenBLAS's threads wait by spinning, and most layers are too small to share:
    # on two busy cores the demo trained in 4.2 s with one thread, in 13 to 164 s with two. One thread also
    # rounds alike on every number of cores. Whoever trains wide layers on a quiet machine can set it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    command = typer.Typer(add_completion=False, rich_markup_mode=None)
    command.command(name)(_interruptible(getattr(import_module(VERBS[name].module), name)))
    try:
        typer.main.get_command(command)(args=arguments, prog_name=f"chainrule {name}")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


class _Stopped(Exception):
    """Ctrl-C on its way past Typer, which would end the process without the message."""


def _interruptible(function: Callable[..., None]) -> Callable[..., None]:
    @wraps(function)
    def guarded(*arguments: object, **options: object) -> None:
        try:
            function(*arguments, **options)
        except KeyboardInterrupt as stopped:
            raise _Stopped(str(stopped)) from stopped

    return guarded


def _explained(error: BaseException) -> int:
    """Tell the user about an error in one paragraph."""
    if isinstance(error, KeyboardInterrupt | _Stopped):
        return _complain(str(error) or "stopped with Ctrl-C")
    if isinstance(error, ChainruleError):
        return _complain(str(error))
    if isinstance(error, OSError):
        return _complain(
            f"cannot read or write {error.filename or 'standard output'}: {error.strerror or error}"
        )
    if isinstance(error, MemoryError):
        return _complain(
            "The memory of this machine does not suffice. Give fewer rows or columns, or smaller layers."
        )
    _complain(
        f"chainrule failed, and should not have: {type(error).__name__}: {error}. This is a defect; please "
        "report it to its maintainers, together with the command and what it prints when you add --debug."
    )
    return DEFECT


def _complain(paragraph: str) -> int:
    """One paragraph on standard error; broken between words where a person reads it in a window."""
    told = f"chainrule: {paragraph.strip()}"
    if sys.stderr.isatty():
        width = min(shutil.get_terminal_size().columns, _WIDEST)
        told = textwrap.fill(told, width, break_long_words=False, break_on_hyphens=False)
    sys.stderr.write(f"{told}\n")
    return BAD_USE
