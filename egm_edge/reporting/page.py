"""One self-contained HTML page: sections of text, tables and SVG. Everything is escaped, and no request leaves the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# The policy forbids every fetch; pictures come as data: addresses inside the page.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: .6rem 0 }} td, th {{ border: 1px solid #ccc; padding: .15rem .6rem; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} svg, img {{ max-width: 100%; height: auto }}
table.words td {{ text-align: left }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem }}
.card {{ border: 1px solid #ccc; padding: .6rem; overflow-wrap: anywhere }} pre {{ white-space: pre-wrap; font-size: 12px }}
</style></head><body>
<h1>{title}</h1>
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page; `parts` are HTML already, made by the functions below or by `svg`."""
    return _HEAD.format(title=escape(title)) + "\n".join(parts) + "\n</body></html>\n"


def heading(words: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(words)}</h2>"


def paragraph(words: str) -> str:
    """Plain words."""
    return f"<p>{escape(words)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of numbers under one header row; without a header, of words."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    top = f"<tr>{top}</tr>" if top else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table{'' if top else ' class=words'}>{top}{body}</table>"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as Markdown, numbers to the right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])
