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
.curves svg { max-width: 100%; height: auto; }
.note, small { color: #666; }
@media (prefers-color-scheme: dark) { .note, small { color: #999; } }
.wide { overflow-x: auto; }
.mistakes td, .example p { white-space: pre-wrap; overflow-wrap: anywhere; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: 1rem 0; }
.controls .columns { display: flex; flex-wrap: wrap; gap: .25rem 1rem; flex-basis: 100%; }
.controls label { white-space: nowrap; }
.controls select, .controls input { font: inherit; max-width: 60vw; }
.example { border-top: 1px solid #8884; padding: .75rem 0; }
.example .prompt { font-weight: 600; margin: 0 0 .5rem; }
.example .answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .75rem 1.25rem; }
.example .answer p { margin: 0; }
summary { cursor: pointer; }
"""
# Nothing is fetched and nothing is sent, whatever stands in a text.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def rate(estimate: float, interval: Sequence[float], pairs: int) -> str:
    """A share with its 95 % interval in per cent, and of how many it is one."""
    low, high = interval
    return f"{estimate:.1%} [{low:.1%}, {high:.1%}] of {pairs}"


def page(title: str, body: list[str]) -> str:
    """A whole HTML page of parts."""
    head = (
        f'<meta charset=utf-8><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name=viewport content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    )
    return f"<!doctype html><html lang=en>{head}{''.join(body)}</html>\n"


def table(rows: list[list[str]]) -> str:
    """An HTML table of texts, the first row its head."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows[1:]]
    return f"<div class=wide><table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table></div>"
