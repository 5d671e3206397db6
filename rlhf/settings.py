"""Settings whose values are checked wherever they come from: a command line, a recipe or Python."""

import math
import typing
from collections.abc import Mapping
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
    if (pattern := each.metadata.get("pattern")) and not pattern.fullmatch(value):
        return f"{each.name} is {value!r}; it is {each.metadata['pattern_text']}"
    return None


def hashed_settings(settings: Any) -> dict[str, Any]:
    """The settings that a result depends on: of a dataclass all but the fields whose metadata says `decides` is False."""
    if isinstance(settings, dict):
        return settings
    return {
        each.name: getattr(settings, each.name) for each in fields(settings) if _says(each, "decides", True)
    }


def same_but_for_places(kept: Mapping[str, Any], settings: Any) -> bool:
    """Whether an entry's settings, as its manifest keeps them, give what these would.

    Of a field whose metadata says `place`, which names something that is known by its content, it counts only whether it
    names one. A dictionary has no such fields.
    """
    if isinstance(settings, dict):
        return False
    deciding, known = hashed_settings(settings), {each.name for each in fields(settings)}
    if not deciding.keys() <= kept.keys() <= known:
        return False
    kept = {name: kept[name] for name in deciding}
    return without_places(settings, kept) == without_places(settings, deciding)


def without_places(settings: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of these settings' fields; of one that names a place only whether it names one."""
    places = {each.name for each in fields(settings) if _says(each, "place", False)}
    return {name: value is not None if name in places else value for name, value in values.items()}


def _says(each: "Field[Any]", name: str, default: bool) -> bool:
    return bool(each.metadata.get(name, default))


def is_made_from(
    manifest: Mapping[str, Any], parents: Mapping[str, Any], settings: Any, data: Any, seed: int
) -> bool:
    """Whether these inputs are an entry's by content: the names of its data are places, which come in one order.

    parents: entries of the store, by role.
    """
    hashes = {role: parent["hash"] for role, parent in manifest["parents"].items()}
    return (
        manifest.get("seed") == seed
        and hashes == {role: entry.hash for role, entry in parents.items()}
        and isinstance(manifest["data"], dict)
        and list(manifest["data"].values()) == list(data.values())
        and same_but_for_places(manifest["settings"], settings)
    )
