"""One call of native code: its memory, the table of base pointers, arrays in and arrays out."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from chainrule.backends.native.arena import address, allocate
from chainrule.errors import GraphError
from chainrule.graph import Array
from chainrule.schedule.kernels import Buffer, View
from chainrule.schedule.memory import ARENA, CONSTANTS, GIVEN, LINE, SCRATCH, TEAM, WATCH, Plan, Region


class Frame:
    """What one call at a time works on.

    memory  the array behind each slot of the table (see `schedule.memory`); None for the caller's, between
            calls, and for a window's
    table   the address of the table of base pointers
    """

    def __init__(self, plan: Plan, constants: Array, scratch: Region, watch: int = 0) -> None:
        self._pointers = (ctypes.c_void_p * plan.slots)()
        self.table = ctypes.addressof(self._pointers)
        self.memory: list[Any] = [None] * len(self._pointers)
        self.set(ARENA, allocate(plan.arena))
        self.set(CONSTANTS, constants)
        self.set(SCRATCH, allocate(scratch)[scratch.start :])
        if watch:
            self.set(WATCH, allocate(Region(watch)))

    def set(self, slot: int, array: Array) -> None:
        """Let `array` be the memory behind a slot."""
        self.memory[slot] = array
        self._pointers[slot] = address(array)

    def lend(self, team: int) -> None:
        """Let the team at this address share the work."""
        self._pointers[TEAM] = team

    def release(self) -> None:
        """Forget the caller's arrays."""
        self.memory[GIVEN:] = [None] * (len(self.memory) - GIVEN)


class Input:
    """How one input of a program gets in."""

    def __init__(self, view: View, plan: Plan) -> None:
        self._view = view
        self._dtype, self._shape = view.buffer.dtype, view.shape
        self._slot, self._offset = plan.places[view.buffer]

    def checked(self, value: Any) -> Array:
        """The value as an array that can be handed over; `GraphError` if it is not of the input's type."""
        array = np.asarray(value)
        if array.shape != self._shape or array.dtype != self._dtype:
            wanted = f"{self._dtype}{list(self._shape)}"
            raise GraphError(
                f"input {self._view.buffer.name} is {wanted} but was given {array.dtype}{list(array.shape)}"
            )
        if (
            not array.size
        ):  # it may lie anywhere, yet kernels may read a line before they see that it is empty
            return np.zeros(LINE, self._dtype)[:0].reshape(self._shape)
        flags = array.flags
        return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")

    def hand_over(self, array: Array, frame: Frame) -> None:
        """Make it the memory of the input, or copy it there."""
        if self._slot >= GIVEN:
            frame.set(self._slot, array)
        else:
            array_at(frame.memory[self._slot], self._view, self._offset)[...] = array


class Output:
    """How one output of a program gets out: as the fresh array that kernels wrote, or as a copy."""

    def __init__(self, view: View, plan: Plan) -> None:
        self._view = view
        self._slot, self._offset = plan.places[view.buffer]
        whole = view.offset == 0 and math.prod(view.shape) == view.buffer.size and is_dense(view)
        self._as_it_is = self._slot >= GIVEN and view.buffer.role == "output" and whole

    def taken(self, frame: Frame) -> Array:
        """The value, read-only, in memory that is not ours."""
        memory = frame.memory[self._slot]
        if self._as_it_is:
            array: Array = memory if memory.shape == self._view.shape else memory.reshape(self._view.shape)
        else:
            array = np.array(array_at(memory, self._view, self._offset), order="C")
        array.setflags(write=False)
        return array


def fresh(buffer: Buffer) -> Array:
    """New memory for an array that will be handed to the caller."""
    shape = buffer.shape if math.prod(buffer.shape) == buffer.size else (buffer.size,)
    return np.empty(shape, buffer.dtype)


def array_at(memory: Array, view: View, offset: int) -> Array:
    """The array that `view` is of a buffer which begins at byte `offset` of `memory`."""
    dtype = view.buffer.dtype
    strides = tuple(stride * dtype.itemsize for stride in view.strides)
    if 0 in view.shape:
        return np.empty(view.shape, dtype)
    start = offset + view.offset * dtype.itemsize
    return np.ndarray(view.shape, dtype, memory, start, strides)


def is_dense(view: View) -> bool:
    """True for an array without gaps, in row-major order."""
    expected = 1
    for extent, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True
