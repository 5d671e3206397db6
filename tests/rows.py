"""Rows in a file of JSON lines, as most tests of readers and stages need them."""

import json


def write(path, *rows):
    """The path, where the rows were written, one a line; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
