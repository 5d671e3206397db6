"""The texts of the experiments: three public ones from a folder of the reader's, or a built-in one."""

from pathlib import Path

from rlhf.errors import InputError
from rlhf.starter.corpus import corpus

FILES = {"Tiny Shakespeare": "tinyshakespeare.txt", "Nietzsche": "nietzsche.txt", "Aozora": "aozora.txt"}
BUILT_IN_WORDS = 60_000


def texts(folder=None):
    """Texts by name: those of FILES that the folder has, or the starter corpus. Raises InputError where it has none."""
    if folder is None:
        return {"starter corpus": "\n\n".join(corpus(BUILT_IN_WORDS, seed=0))}
    found = {name: Path(folder) / file for name, file in FILES.items() if (Path(folder) / file).exists()}
    if not found:
        raise InputError(f"{folder}: none of {', '.join(FILES.values())} is there; see docs/talk/index.md")
    return {name: path.read_text(encoding="utf-8") for name, path in found.items()}


def divided(text, share=0.1):
    """A text without its end, and the end: the last tenth, by characters, as nanoGPT divides it."""
    border = round((1 - share) * len(text))
    return text[:border], text[border:]
