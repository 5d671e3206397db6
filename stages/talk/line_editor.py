"""Lines from a person at a terminal, with editing, history and completion; or from a pipe, as they come."""

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

HISTORY_LINES = 1000
BLOCK = '"""'


def history_file() -> Path:
    """Where earlier lines are kept, for this user only."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "rlhf" / "chat_history"


class LineEditor:
    """Reads lines from `source`; at a terminal Tab completes `words`."""

    def __init__(self, source: TextIO, words: Sequence[str]) -> None:
        self.source = source
        self.words = sorted(set(words))
        self.readline: Any = None
        if source is sys.stdin and source.isatty() and sys.stdout.isatty():
            with suppress(ImportError):  # Windows has none
                import readline

                self.readline = readline
                self._set_up(readline)

    def _set_up(self, readline: Any) -> None:
        path = history_file()
        with suppress(OSError):  # no history then
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            readline.read_history_file(path)
            readline.set_history_length(HISTORY_LINES)
            atexit.register(self._keep_history, path)
        readline.set_completer_delims(" \n")
        readline.set_completer(self._complete)
        readline.parse_and_bind("tab: complete")

    def _keep_history(self, path: Path) -> None:
        with suppress(OSError):
            self.readline.write_history_file(path)

    def _complete(self, begun: str, number: int) -> str | None:
        found = [word for word in self.words if word.startswith(begun)]
        return found[number] + " " if number < len(found) else None

    def read_text(self, prompt: str) -> str | None:
        """The next line, or what stands between two triple quotes, over several lines; None at the end."""
        line = self.read(prompt)
        if line is None or not line.lstrip().startswith(BLOCK):
            return line
        lines = [line.lstrip().removeprefix(BLOCK).rstrip("\n")]
        while not lines[-1].rstrip().endswith(BLOCK):
            line = self.read("… ")
            if line is None:
                return "\n".join(lines)
            lines.append(line.rstrip("\n"))
        return "\n".join(lines).rstrip().removesuffix(BLOCK)

    def read(self, prompt: str, text: str = "") -> str | None:
        """The next line, None at the end; at a terminal after `prompt`, with `text` there to be edited."""
        if self.readline is None:
            return self.source.readline() or None
        self.readline.set_startup_hook(lambda: self.readline.insert_text(text))
        try:
            return input(prompt)
        except EOFError:
            print()
            return None
        finally:
            self.readline.set_startup_hook(None)
