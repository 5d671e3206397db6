"""The catalogue of interface texts: one TOML file for each language in a room's `text/`, all with the same keys."""

import tomllib
from functools import cache
from pathlib import Path

ROOMS = Path(__file__).parent.parent  # each room (app, chat) has sections of its own
DEFAULT = "en"

Texts = dict[str, dict[str, str]]


@cache
def languages() -> dict[str, str]:
    """Code and own name of each language there is: {"en": "English", "ja": "日本語"}."""
    return {path.stem: texts(path.stem)["language"]["name"] for path in sorted(ROOMS.glob("app/text/*.toml"))}


@cache
def texts(language: str) -> Texts:
    """All texts of a language, by section and name."""
    found: Texts = {}
    for path in sorted(ROOMS.glob(f"*/text/{language}.toml")):
        found |= tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def best_language(chosen: str | None, accepted: str | None) -> str:
    """The language a reader chose before, else the first of the browser's Accept-Language that there is, else English."""
    if chosen in languages():
        return str(chosen)
    for wanted in (accepted or "").split(","):
        code = wanted.split(";")[0].strip().split("-")[0].lower()
        if code in languages():
            return code
    return DEFAULT
