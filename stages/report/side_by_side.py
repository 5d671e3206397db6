"""Answers side by side on the page: data as inert JSON, put up, filtered and sorted by a small script of the page's own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.data import as_messages

SCRIPT = Path(__file__).with_name("side_by_side.js")


def side_by_side(results: Mapping[str, Any]) -> str:
    """The HTML of the examples: controls, the data and the script that shows them by textContent only."""
    rows = [
        {
            "prompt": _asked(row["prompt"]),
            "answers": {name: row["answers"][name] for name in row["answers"]},
        }
        for row in results["examples"]
    ]
    # A text that holds </script> must not end the element.
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")  # fmt: skip
    return (
        "<div id=examples class=examples></div><noscript>Answers are shown by a script of this page.</noscript>"
        f'<script type="application/json" id=example-data>{data}</script><script>{SCRIPT.read_text()}</script>'
    )


def _asked(prompt: Any) -> str:
    turns = as_messages(prompt)
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
