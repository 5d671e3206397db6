"""The page of a report: one HTML file without foreign requests."""

import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.curves { display: flex; flex-wrap: wrap; gap: 1rem; }
.note { color: #777; }
small { color: #777; }
"""


def rate(estimate: float, interval: Sequence[float], pairs: int) -> str:
    """A share with its 95 % interval in per cent, and of how many it is one."""
    low, high = interval
    return f"{estimate:.1%} [{low:.1%}, {high:.1%}] of {pairs}"


def page(title: str, body: list[str]) -> str:
    """A whole HTML page of parts."""
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en>{head}{''.join(body)}</html>\n"


def table(rows: list[list[str]]) -> str:
    """An HTML table of texts, the first row its head."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows[1:]]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"
