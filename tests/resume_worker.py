"""`chainrule` with many more checkpoints, in a process of its own that `test_resume.py` can kill.

Usage: python resume_worker.py train ...
"""

from __future__ import annotations

import sys

from chainrule.cli import main
from chainrule.train import loop

loop.CHECKPOINT_SECONDS = 0.05  # so that kills fall between, before and inside them
loop.SLICE_SECONDS = 0.01

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
