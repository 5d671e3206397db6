"""Scripts and styles of all rooms, at an address that changes with them: a browser keeps them and never asks again."""

import hashlib
import re
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath

ROOMS = Path(__file__).parent.parent
BOARD = "app/components/ranking_board/templates/component"
_IMPORT = re.compile(r'^import .*from "(\.[^"]+)";$', re.MULTILINE)


def static_folders() -> dict[str, Path]:
    """Where files lie, by their place in the address: the app's own at the root, the board's and other rooms' by name."""
    found = {path.parent.name: path for path in sorted(ROOMS.glob("*/static"))}
    board = {"/board": ROOMS / BOARD}
    return board | {f"/{name}": path for name, path in found.items() if name != "app"} | {"": found["app"]}


@cache
def static_address() -> str:
    """/static/ and a digest of every file."""
    digest = hashlib.sha256()
    for place, folder in static_folders().items():
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            digest.update(f"{place}/{path.name}\0".encode() + path.read_bytes())
    return f"/static/{digest.hexdigest()[:16]}"


@cache
def script_modules(entry: str) -> tuple[str, ...]:
    """A script ("main.js", "chat/chat.js") and all that it imports, so that a page can ask for them at once."""
    found = [entry]
    for name in found:
        place, _, file = name.rpartition("/")
        text = (static_folders()[f"/{place}" if place else ""] / file).read_text(encoding="utf-8")
        needed = (normpath(join(dirname(name), target)) for target in _IMPORT.findall(text))
        found += [script for script in needed if script not in found]
    return tuple(found)
