"""Settings whose values are checked wherever they come from: a command line, a recipe or Python."""

import math
import typing
from dataclasses import Field, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any

from rlhf.errors import InputError


def bounded(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    zero_or_at_least: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """A field of a `Settings` class with the values that it may have; more: further metadata."""
    bounds = {
        "at_least": at_least, "above": above, "at_most": at_most, "below": below, "zero_or_at_least": zero_or_at_least,
    }  # fmt: skip
    return field(default=default, metadata={"bounds": bounds, "choices": choices, **more})


COLDEST = 1e-6  # the lowest temperature above 0: logits by a lower one overflow
LARGEST = 2**31 - 1  # of a whole number that says nothing else: what the libraries below count with


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A dataclass of `bounded` fields. Raises InputError, naming the field, for a value that it may not have."""

    def __post_init__(self) -> None:
        for each in fields(self):
            expected = value_type(type(self), each.name)  # type: ignore[arg-type]
            if wrong := complaint(each, expected, getattr(self, each.name)):
                raise InputError(f"{type(self).__name__}: {wrong}")


@cache
def value_type(kind: type, name: str) -> type:
    """The type of a field's values, None aside."""
    found = typing.get_type_hints(kind)[name]
    if isinstance(found, UnionType):
        found = next(inner for inner in typing.get_args(found) if inner is not NoneType)
    return found  # type: ignore[no-any-return]


def complaint(each: "Field[Any]", expected: type, value: Any) -> str | None:
    """What is wrong with a value of a field and what it may be; None where nothing is."""
    if value is None and each.default is None:
        return None
    choices = each.metadata.get("choices")
    if choices:
        return None if value in choices else f"{each.name} is one of {', '.join(choices)}, not {value!r}"
    if expected is bool:
        return None if isinstance(value, bool) else f"{each.name} is true or false, not {value!r}"
    if expected is str:
        return _wrong_text(each, value)
    is_number = isinstance(value, Integral if expected is int else Real) and not isinstance(value, bool)
    if not is_number:
        return f"{each.name} is a {'whole ' if expected is int else ''}number, not {value!r}"
    bounds = {name: limit for name, limit in each.metadata.get("bounds", {}).items() if limit is not None}
    if expected is int and not bounds.keys() & {"at_most", "below"}:
        bounds["at_most"] = LARGEST
    if _is_finite(value) and all(HOLDS[name](value, limit) for name, limit in bounds.items()):
        return None
    allowed = " and ".join(f"{name.replace('_', ' ')} {limit:,}" for name, limit in bounds.items())
    return f"{each.name} is {_shown(value)}; it is {allowed or 'a finite number'}"


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _shown(value: Any) -> str:
    whole = isinstance(value, Integral) and abs(int(value)) > 10**20
    return "a number of more than 20 digits" if whole else f"{value}"


HOLDS = {
    "at_least": lambda value, limit: value >= limit,
    "above": lambda value, limit: value > limit,
    "zero_or_at_least": lambda value, limit: value == 0 or value >= limit,
    "at_most": lambda value, limit: value <= limit,
    "below": lambda value, limit: value < limit,
}


def _wrong_text(each: "Field[Any]", value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{each.name} is a text, not {value!r}"
    if not value.strip() and each.default != "":
        return f"{each.name} is empty; " + ("leave it out instead" if each.default is None else "name one")
    return None
