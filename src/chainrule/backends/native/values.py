"""What LLVM assembly is written about: values, their types, numbers as text.

An index is a Python int as long as it is known, a `Value` otherwise.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

INDEX = "i64"
POINTER = "ptr"
SCALARS = {
    "float32": "float", "float64": "double", "bool": "i8",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "i8", "uint16": "i16", "uint32": "i32", "uint64": "i64",
}  # fmt: skip
"""dtype → LLVM's type in memory; in registers a bool is i1."""


class Value(NamedTuple):
    """Something computed: its name or constant text, and its LLVM type."""

    text: str
    type: str

    def __str__(self) -> str:
        return f"{self.type} {self.text}"


Index = int | Value


def vector(scalar: str, lanes: int) -> str:
    """``<lanes x scalar>``; the scalar itself for one lane."""
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def scalar_of(type_: str) -> str:
    """The element type of a vector, a scalar itself."""
    return type_.rpartition(" ")[2].rstrip(">") if type_.startswith("<") else type_


def lanes_of(type_: str) -> int:
    """Elements in a value of this type."""
    return int(type_[1:].split(" ", 1)[0]) if type_.startswith("<") else 1


def register_type(dtype: Any, lanes: int) -> str:
    """The type of `lanes` elements of a dtype in a register."""
    name = np.dtype(dtype).name
    return vector("i1" if name == "bool" else SCALARS[name], lanes)


def literal(value: Any, type_: str) -> str:
    """The text of a number, repeated over the lanes of a vector type."""
    scalar = scalar_of(type_)
    if scalar in ("float", "double"):
        number = np.float32(value) if scalar == "float" else np.float64(value)
        text = "0x" + struct.pack(">d", float(number)).hex().upper()
    elif scalar == "i1":
        text = "true" if value else "false"
    else:
        text = str(int(value))
    return text if scalar == type_ else f"splat ({scalar} {text})"


def constant(value: Any, type_: str) -> Value:
    """A number as a value, repeated over the lanes of a vector type."""
    return Value(literal(value, type_), type_)


def mangled(type_: str) -> str:
    """How intrinsics name a type: ``v16f32``."""
    names = {"float": "f32", "double": "f64"}
    scalar = scalar_of(type_)
    name = names.get(scalar, scalar)
    return name if type_ == scalar else f"v{lanes_of(type_)}{name}"


def size_of(scalar: str) -> int:
    """Bytes of a scalar type in memory."""
    return {"float": 4, "double": 8, "ptr": 8, "i1": 1}.get(scalar) or int(scalar[1:]) // 8
