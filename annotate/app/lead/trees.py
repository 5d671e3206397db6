"""What a lead's pages show besides Gradio's own components: trees of known tags (static/tree.js), where a text is a text."""

from collections.abc import Sequence
from typing import Any

from annotate.app.rendering import Node, visible

Tree = list[Any]  # texts and [tag, {attributes}, child, …], the attributes only where there are any


def said(text: str, *more: Node) -> Tree:
    """A note below a form: what was done."""
    return [["p", {"role": "status"}, *visible(text), *more]]


def wrong(reason: str) -> Tree:
    """A note below a form: why nothing was done."""
    return [["p", {"role": "alert", "class": "wrong"}, *visible(reason[:500])]]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Node:
    """A table of texts, which scrolls where it is wider than its place."""
    head = ["thead", ["tr", *(["th", {"scope": "col"}, name] for name in columns)]]
    body = ["tbody", *(["tr", *(["td", *visible(str(value))] for value in row)] for row in rows)]
    return ["div", {"class": "scroll", "tabindex": 0}, ["table", {"class": "figures"}, head, body]]
