"""``python -m chainrule.cli`` is ``chainrule``."""

from __future__ import annotations

import sys

from chainrule.cli.front import main

sys.exit(main())
