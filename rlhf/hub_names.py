"""Whether a text that is nothing on this machine can be a name on the hub, or was meant as a path."""

import os
import re
from pathlib import Path

from rlhf.errors import InputError

SCHEME = "hf://"
# After a dot a digit is a version (Qwen2.5-0.5B, v0.1) and so is v2; a file's ending begins with another letter.
ENDING = re.compile(r"\.(?!v\d)[A-Za-z][A-Za-z0-9]{0,9}$")
NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def hub_name(name: str, refusal: str = "no such folder or file", most_slashes: int = 1) -> str:
    """A text that names nothing here as a name on the hub, without `hf://`, which makes one of anything.

    most_slashes: those of a data set's name may be two, OWNER/NAME/CONFIGURATION. Raises InputError, with refusal, for
    one that looks like a path.
    """
    if name.startswith(SCHEME):
        return name.removeprefix(SCHEME)
    if looks_like_path(name, most_slashes):
        hint = f"; if the hub has it, write {SCHEME}{name}" if NAME.fullmatch(_without_split(name)) else ""
        raise InputError(f"{name}: {refusal}{hint}")
    return name


def looks_like_path(name: str, most_slashes: int = 1) -> bool:
    """Whether it begins or ends as a path does, has a file's ending or too many slashes, or its first folder is here."""
    name = _without_split(name)
    return bool(
        name.startswith((".", "~"))
        or name.endswith("/")
        or "\\" in name
        or os.path.isabs(name)
        or ENDING.search(name)
        or name.count("/") > most_slashes
        or ("/" in name and Path(name.split("/")[0]).is_dir())
    )


def _without_split(name: str) -> str:
    """Without the `:split@revision` of a data set, in which there may be slashes and dots, too."""
    return re.split("[:@]", name, maxsplit=1)[0]
