"""Fields of a lead's own page: what a labeler says besides the answer, checked before it is stored."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.errors import LabelError, first_line

MAX_CHARACTERS = 50_000  # of all fields of an answer together


@dataclass(frozen=True)
class Field:
    """takes: raises for a value that the field cannot have, such as one that is not among its choices."""

    name: str
    label: str
    required: bool
    takes: Callable[[Any], None]

    def checked(self, value: Any) -> Any:
        """A value as it may be stored. Raises LabelError for one that is missing or that the field cannot have."""
        if value in (None, "", []) or (isinstance(value, str) and not value.strip()):
            if self.required:
                raise LabelError(f"{self.label}: an answer to this is needed")
            return None
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | bool | int | float) for item in items):
            raise LabelError(f"{self.label}: neither text, number, yes or no, nor a list of them")
        try:
            self.takes(value)
        except Exception as error:
            raise LabelError(
                f"{self.label}: {value!r} is not among what it takes ({first_line(error)})"
            ) from None
        return value


class Fields:
    """The fields of a page, in the order they stand there."""

    def __init__(self, fields: tuple[Field, ...] = ()) -> None:
        self.by_name = {field.name: field for field in fields}

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values that were given, by name. Raises LabelError."""
        unknown = set(values) - set(self.by_name)
        if unknown:
            raise LabelError(f"this page has no field named {', '.join(sorted(unknown))}")
        if len(json.dumps(values)) > MAX_CHARACTERS:
            raise LabelError(f"the fields hold more than {MAX_CHARACTERS} characters")
        found = {name: field.checked(values.get(name)) for name, field in self.by_name.items()}
        return {name: value for name, value in found.items() if value is not None}
