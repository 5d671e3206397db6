"""HTML fragments of the lead's pages: every text escaped here, and no character left that a template would take."""

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from annotate.app.charts import CHARTS
from annotate.app.computed import Result
from annotate.app.tables import Table, shown
from annotate.app.texts import Texts
from annotate.batches import BatchOverview

# Gradio's templates read ${…} and {{…}} as code: as entities they are only characters.
_TEMPLATE = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;"})
ROWS_SHOWN = 200


def escaped(text: Any) -> str:
    """A text that is nothing but a text, wherever in a page it stands."""
    return html.escape(str(text)).translate(_TEMPLATE)


def table_html(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of plain texts."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escaped(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def batches_html(rows: Sequence[BatchOverview], queues: Mapping[str, Mapping[str, int]], words: Texts) -> str:
    """Every batch with a bar of its progress and the way to its disagreements; queues: the prompts of live ones."""
    lead = words["lead"]
    if not rows:
        return f"<p>{escaped(lead['nothing'])}</p>"
    names = ("name", "kind", "finished", "answers", "state", "review")
    head = "".join(f'<th scope="col">{escaped(lead[name])}</th>' for name in names)
    body = "".join(_batch_row(row, queues.get(row.name), words) for row in rows)
    return f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _batch_row(row: BatchOverview, queue: Mapping[str, int] | None, words: Texts) -> str:
    lead = words["lead"]
    kind = words["kinds"].get(row.kind, row.kind)
    bar = (
        f'<progress max="{max(row.tasks, 1)}" value="{row.finished}"></progress> {row.finished} / {row.tasks}'
    )
    review = f'<a href="/adjudicate?{escaped(urlencode({"batch": row.name}))}">{escaped(lead["review"])}</a>'
    coming = sum(queue[state] for state in ("waiting", "wanted", "claimed")) if queue else 0
    live = "" if queue is None else " · " + lead["live"].format(coming=coming, failed=queue["failed"])
    cells = (
        f"<th scope='row'>{escaped(row.name)}</th>",
        f"<td>{escaped(kind)}</td>",
        f"<td>{bar}</td>",
        f"<td>{row.answers} / {row.wanted}</td>",
        f"<td>{escaped(lead['open' if row.open else 'closed'])}{escaped(live)}</td>",
        f"<td>{review if row.kind in ('rank', 'compare') else ''}</td>",
    )
    return "<tr>" + "".join(cells) + "</tr>"


def figures_html(found: Result, query: Mapping[str, Any], words: Texts) -> str:
    """All figures with the time (UTC) they are of, or that they are still being computed."""
    lead = words["lead"]
    if found.value is None:
        return f"<p>{escaped(lead['computing'])}</p>"
    at = datetime.fromtimestamp(found.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    said = lead["as_of"].format(time=at) + ("" if found.current else f" {lead['newer_coming']}")
    figures = "".join(figure_html(name, table, query, words) for name, table in found.value.items())
    return f'<p class="as-of">{escaped(said)}</p><div class="figure-grid">{figures}</div>'


def figure_html(name: str, table: Table, query: Mapping[str, Any], words: Texts) -> str:
    """A figure: its picture where there is one, its rows, the CSV behind it, the reason where it is undefined."""
    address = escaped(urlencode(query, doseq=True))
    title = escaped(words["figures"][name])
    parts = [f'<h3>{title} <a class="csv" href="/api/lead/tables/{name}.csv?{address}">CSV</a></h3>']
    if table.note:
        parts.append(f'<p class="undefined">{escaped(table.note)}</p>')
    elif not table.rows:
        parts.append(f"<p>{escaped(words['lead']['nothing'])}</p>")
    parts += [
        f'<p class="big">{escaped(sentence)}</p>' for sentence in _sentences(name, table, words["figures"])
    ]
    if table.rows and name in CHARTS:
        parts.append(f'<img alt="{title}" src="/api/lead/plots/{name}.svg?{address}">')
    if table.rows and name not in SENTENCES:
        columns = [words["columns"][column] for column in table.columns]
        rows = table_html(columns, shown(table)[:ROWS_SHOWN])
        parts.append(
            f"<details><summary>{escaped(words['lead']['rows'].format(count=len(table.rows)))}</summary>{rows}</details>"
        )
    return f'<section class="figure">{"".join(parts)}</section>'


SENTENCES = {"agreement": ("agreement_is", "alpha_is"), "position": ("position_is",)}


def _sentences(name: str, table: Table, figures: Mapping[str, str]) -> list[str]:
    """One row of numbers in words, those left out that are undefined."""
    if name not in SENTENCES or not table.rows:
        return []
    values = dict(zip(table.columns, shown(table)[0], strict=True))
    said = [figures[key].format(**values) for key in SENTENCES[name]]
    known = {"agreement_is": "agreement", "alpha_is": "alpha", "position_is": "earlier_won"}
    return [text for key, text in zip(SENTENCES[name], said, strict=True) if values[known[key]] != "–"]
