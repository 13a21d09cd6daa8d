"""States of a run: what training was like before a few of its steps.

A step is exact: from the state before one step, any later one is reached again by taking the steps between.
The first state is always kept, others as they come by; when they become too many, those that stand closest
are given up, so that a replay never has far to go.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.run import Checkpoint, RunFolder

Array = np.ndarray[Any, Any]
State = dict[str, Array]
MOST = 8
"""States that are kept at most."""
BYTES = 1 << 26
"""What all but the first may take together."""


class States:
    """The state before some steps, in memory or in a run folder.

    facts  what a folder keeps beside each state, a plain document
    """

    def __init__(self, folder: RunFolder | None = None, facts: dict[str, Any] | None = None) -> None:
        self._folder = folder
        self._facts = facts or {}
        self._held: dict[int, State] = {}
        self._latest: tuple[int, State] | None = None
        self.steps: list[int] = [] if folder is None else folder.states()

    def note(self, step: int, state: State) -> None:
        """Here is the state before `step`, its arrays nobody changes; it is kept if it is far enough off."""
        room = _room(state)
        self.remember(step, state)
        if step in self.steps or (self.steps and not self._far(step, room)):
            return
        self._keep(step, state)
        if len(self.steps) > room:
            self._give_up(_closest(self.steps))

    def remember(self, step: int, state: State) -> None:
        """Know the state before a step until there is another one to remember; a large one not at all."""
        self._latest = (step, state) if _room(state) > 1 else None

    def suppose(self, step: int, state: State) -> None:
        """Know the state before a step, without writing it."""
        self._held[step] = {name: _light(value) for name, value in state.items()}
        self.steps = sorted({*self.steps, step})

    def _far(self, step: int, room: int) -> bool:
        """Whether the last one kept is further away than states would be that stand evenly."""
        first, last = self.steps[0], self.steps[-1]
        return room > 1 and step - last >= (step - first) / room

    def before(self, step: int) -> tuple[int, State] | None:
        """The last state known that is not after `step`, and the step that it is before."""
        kept = [each for each in self.steps if each <= step]
        if self._latest is not None and (kept or [-1])[-1] < self._latest[0] <= step:
            return self._latest
        return (kept[-1], self._read(kept[-1])) if kept else None

    def _keep(self, step: int, state: State) -> None:
        if self._folder is None:
            self.suppose(step, state)
        else:
            self._folder.write_state(step, Checkpoint(state, self._facts))
            self.steps = sorted([*self.steps, step])

    def _give_up(self, step: int) -> None:
        if self._folder is not None:
            self._folder.drop_state(step)
        self._held.pop(step, None)
        self.steps.remove(step)

    def _read(self, step: int) -> State:
        if step in self._held or self._folder is None:
            return self._held[step]
        return self._folder.state(step).arrays


def _room(state: State) -> int:
    """How many states of this size are kept."""
    return 1 + min(MOST - 1, BYTES // max(1, sum(value.nbytes for value in state.values())))


def _closest(steps: list[int]) -> int:
    """The step, neither first nor last, whose neighbours stand closest together."""
    return min(steps[1:-1], key=lambda step: steps[steps.index(step) + 1] - steps[steps.index(step) - 1])


def _light(value: Array) -> Array:
    """The same numbers; zeros, such as the first moments of an optimizer, take no memory."""
    anything = np.ascontiguousarray(value).view(np.uint8).any()  # -0.0 is something
    return value if anything else np.broadcast_to(np.zeros((), value.dtype), value.shape)
