"""The catalogue of interface texts: one TOML file for each language in `text/`, all with the same keys."""

import tomllib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "text"
DEFAULT = "en"

Texts = dict[str, dict[str, str]]


@cache
def languages() -> dict[str, str]:
    """Code and own name of each language there is: {"en": "English", "ja": "日本語"}."""
    return {path.stem: texts(path.stem)["language"]["name"] for path in sorted(FOLDER.glob("*.toml"))}


@cache
def texts(language: str) -> Texts:
    """All texts of a language, by section and name."""
    return tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8"))


def best_language(chosen: str | None, accepted: str | None) -> str:
    """The language a reader chose before, else the first of the browser's Accept-Language that there is, else English."""
    if chosen in languages():
        return str(chosen)
    for wanted in (accepted or "").split(","):
        code = wanted.split(";")[0].strip().split("-")[0].lower()
        if code in languages():
            return code
    return DEFAULT
