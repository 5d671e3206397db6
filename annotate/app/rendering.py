"""Hostile text made harmless: Markdown becomes a small tree of known tags that the page builds with createElement.

No string of HTML is ever made, so nothing in a text can become markup: a tag in it stays text, a link shows its
address instead of leading there, an image shows that there was one, and characters that would turn the reading
direction or hide are shown by their number.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

from rlhf.data import Prompt, as_messages

MOST_NESTED = 100
FOLD_AT = 8_000  # characters; a longer text is shown folded, and whole on request
# Characters that turn the direction of the text around them, or that cannot be seen (Unicode 16, general category Cf).
_HIDDEN = re.compile(
    "[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TAGS = {
    "paragraph": "p", "bullet_list": "ul", "ordered_list": "ol", "list_item": "li", "blockquote": "blockquote",
    "em": "em", "strong": "strong", "s": "s", "table": "table", "thead": "thead", "tbody": "tbody", "tr": "tr",
    "th": "th", "td": "td", "hr": "hr", "hardbreak": "br", "softbreak": "br",
}  # fmt: skip
_parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])

Node = str | list[Any]  # text, or [tag, child, child, …]


def rendered(text: str) -> dict[str, Any]:
    """How the page shows a text: `nodes` as Markdown, `raw` as it is, `chars` in all, whether it is `folded`."""
    return {**_rendered(text[:FOLD_AT]), "chars": len(text), "folded": len(text) > FOLD_AT}


def rendered_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The turns of a conversation, each with its role."""
    return [{"role": turn["role"], **rendered(turn["content"])} for turn in as_messages(prompt)]


@lru_cache(maxsize=2048)
def _rendered(text: str) -> dict[str, Any]:
    return {"nodes": markdown_nodes(text), "raw": visible(text)}


def markdown_nodes(text: str) -> list[Node]:
    """The Markdown of a text as nodes of the tags in `_TAGS`, h3 to h6, pre, code, and span for what was neutralised.

    A text whose marks stand in one another more than MOST_NESTED deep comes as it is: nobody reads it as Markdown, and
    neither Python nor a browser walks a tree of any depth.
    """
    try:
        tokens = _parser.parse(text.replace("\x00", "\ufffd"))
        inline = [child for token in tokens for child in token.children or ()]
        if max(_depth(tokens), _depth(inline)) <= MOST_NESTED:
            return _children(SyntaxTreeNode(tokens))
    except RecursionError:
        pass
    return [["pre", ["code", *visible(text)]]]


def _depth(tokens: Sequence[Token]) -> int:
    """How deep marks stand in one another, of those that open and close."""
    return max(accumulate((token.nesting for token in tokens), initial=0))


def visible(text: str) -> list[Node]:
    """A text with its hidden and control characters shown by number: strings and ["mark", "U+202E"]."""
    pieces: list[Node] = []
    end = 0
    for found in re.finditer(f"{_HIDDEN.pattern}|{_CONTROL.pattern}", text):
        if found.start() > end:
            pieces.append(text[end : found.start()])
        pieces.append(["mark", f"U+{ord(found.group()):04X}"])
        end = found.end()
    return pieces + ([text[end:]] if end < len(text) else [])


def visible_text(text: str) -> str:
    """Likewise as one string, for a field of Gradio's that shows nothing else."""
    return "".join(piece if isinstance(piece, str) else piece[1] for piece in visible(text))


def _children(node: SyntaxTreeNode) -> list[Node]:
    return [made for child in node.children for made in _nodes(child)]


def _nodes(node: SyntaxTreeNode) -> list[Node]:
    if node.type == "text":
        return visible(node.content)
    if node.type in ("fence", "code_block"):
        return [["pre", ["code", *visible(node.content)]]]
    if node.type == "code_inline":
        return [["code", *visible(node.content)]]
    if node.type == "image":
        return [["span", "🖼 ", *visible(node.content), f" ({node.attrGet('src')})"]]
    if node.type == "link":
        return [["span", *_children(node), f" ({node.attrGet('href')})"]]
    if node.type == "heading":
        return [[f"h{min(int(node.tag[1]) + 2, 6)}", *_children(node)]]
    if node.type in _TAGS:
        return [[_TAGS[node.type], *_children(node)]]
    return _children(node) if node.children else visible(node.content)
