"""Whether a text that is nothing on this machine can be a name on the hub, or was meant as a path."""

import os
import re

from rlhf.errors import InputError

SCHEME = "hf://"
# After a dot a digit is a version (Qwen2.5-0.5B, v0.1) and so is v2; a file's ending begins with another letter.
ENDING = re.compile(r"\.(?!v\d)[A-Za-z][A-Za-z0-9]{0,9}$")
LONGEST = 96  # signs of an owner or a repository, as the hub has it
NAME = re.compile(rf"[\w.-]{{1,{LONGEST}}}(?:/[\w.-]{{1,{LONGEST}}})?")
MOST_SHOWN = 200


def hub_name(name: str, refusal: str = "no such folder or file", most_slashes: int = 1) -> str:
    """A text that names nothing here as a name on the hub, without `hf://`, which makes one of anything.

    most_slashes: those of a data set's name may be two, OWNER/NAME/CONFIGURATION. Raises InputError, with refusal, for
    one that looks like a path.
    """
    if name.startswith(SCHEME):
        return name.removeprefix(SCHEME)
    if looks_like_path(name, most_slashes):
        hint = f"; if the hub has it, write {SCHEME}{name}" if NAME.fullmatch(_without_split(name)) else ""
        raise InputError(f"{shown(name)}: {refusal}{hint}")
    return name


def shown(name: str) -> str:
    """A name as an error calls it: one line, of which a text that was no name at all is cut short."""
    line = " ".join(name.split())
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}…"


def looks_like_path(name: str, most_slashes: int = 1) -> bool:
    """Whether it begins or ends as a path does, has a file's ending or too many slashes, or its first folder is here.

    So does what is too long for a name on the hub.
    """
    name = _without_split(name)
    return bool(
        name.startswith((".", "~"))
        or name.endswith("/")
        or "\\" in name
        or os.path.isabs(name)
        or ENDING.search(name)
        or name.count("/") > most_slashes
        or max(map(len, name.split("/"))) > LONGEST
        or ("/" in name and os.path.isdir(name.split("/")[0]))
    )


def _without_split(name: str) -> str:
    """Without the `:split@revision` of a data set, in which there may be slashes and dots, too."""
    return re.split("[:@]", name, maxsplit=1)[0]
