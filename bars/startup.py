"""Bar: how long a fresh process takes to import chainrule, or to print `chainrule --help`.

The median of eleven processes, after one that only warms the file cache. The import is timed inside the
process, up to having the engine in hand: the package's face loads it on first use, and would else measure
nothing. The command is timed from outside, as a user waits for it.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tools.verdict import Verdict

RUNS = 11
IMPORT_SECONDS = 0.25
HELP_SECONDS = 0.4
TIMED_IMPORT = """
import time
start = time.perf_counter()
import chainrule
chainrule.grad, chainrule.asarray
print(time.perf_counter() - start)
"""


def import_seconds() -> float:
    """Seconds that `import chainrule` takes inside one fresh interpreter."""
    return float(subprocess.run([sys.executable, "-c", TIMED_IMPORT], capture_output=True, check=True).stdout)


def help_seconds() -> float:
    """Seconds from starting `chainrule --help` to its end."""
    start = time.perf_counter()
    subprocess.run([Path(sys.executable).parent / "chainrule", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> int:
    """Measures what the argument names and prints the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["import", "help"])
    what = parser.parse_args().what
    measure, limit = (import_seconds, IMPORT_SECONDS) if what == "import" else (help_seconds, HELP_SECONDS)
    measure()
    seconds = sorted(measure() for _ in range(RUNS))
    median = statistics.median(seconds)
    figure = f"{median:.3f} s, median of {RUNS} fresh processes ({seconds[0]:.3f} to {seconds[-1]:.3f})"
    return Verdict(what, figure, f"{limit} s", median <= limit).announce()


if __name__ == "__main__":
    sys.exit(main())
