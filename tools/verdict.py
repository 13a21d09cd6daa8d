"""The line a bar ends with: `BAR <id>: <figure> (limit <limit>) PASS|FAIL`."""

import re
from dataclasses import dataclass

LINE = re.compile(
    r"^BAR (?P<bar>[\w.-]+): (?P<figure>.*) \(limit (?P<limit>.*)\) (?P<word>PASS|FAIL)$", re.MULTILINE
)


@dataclass(frozen=True)
class Verdict:
    """What a bar measured and what it may be, both in words with units, and whether that holds."""

    bar: str
    figure: str
    limit: str
    passed: bool

    def __str__(self) -> str:
        return f"BAR {self.bar}: {self.figure} (limit {self.limit}) {'PASS' if self.passed else 'FAIL'}"

    def announce(self) -> int:
        """Prints the line; returns the exit status that agrees with it."""
        print(self)
        return 0 if self.passed else 1


def read(output: str) -> Verdict | None:
    """The last verdict in a command's output."""
    lines = list(LINE.finditer(output))
    if not lines:
        return None
    last = lines[-1]
    return Verdict(last["bar"], last["figure"], last["limit"], last["word"] == "PASS")
