"""Bar: the given tests all pass, at least one runs, and none is skipped or expected to fail.

python -m bars.tests_pass ID PYTEST_ARGUMENT...
"""

import re
import subprocess
import sys

from tools.verdict import Verdict

COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


def main() -> int:
    """Runs pytest, shows its output and prints the verdict."""
    bar, *arguments = sys.argv[1:]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(finished.stdout, end="")
    closing = finished.stdout.strip().rpartition("\n")[2]
    counts = {word: int(count) for count, word in COUNT.findall(closing)}
    passed = finished.returncode == 0 and set(counts) == {"passed"}
    figure = ", ".join(f"{count} {word}" for word, count in counts.items()) or "no test ran"
    return Verdict(bar, figure, "all pass, none skipped", passed).announce()


if __name__ == "__main__":
    sys.exit(main())
