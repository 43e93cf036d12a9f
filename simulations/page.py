"""The frame of a report: HTML pieces with everything escaped, and the one style sheet. It knows nothing of results."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --panel: #f5f7f9;
  --rule: #d5dae0; --ours: #0b6e8f; --untrained: #a8438f; --third: #8a6100; --fourth: #5a6572; --other: #b3bcc6;
  --good: #1a6b34; --bad: #a62b1f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3acb6; --paper: #14181c; --panel: #1d2329;
  --rule: #3a434d; --ours: #4cc3e6; --untrained: #e58bcf; --third: #e0b04a; --fourth: #a7b2be; --other: #65717e;
  --good: #6fd08c; --bad: #ff9384; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, li { max-width: 46rem; } p { margin: .5rem 0; } ul { padding-left: 1.2rem; margin: .4rem 0; }
.soft { color: var(--soft); } .small { font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.2rem 0; }
.tile { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3; } .tile span { display: block; }
.alert b, .alert { color: var(--bad); }
.scroll { overflow-x: auto; margin: .6rem 0; border: 1px solid var(--rule); border-radius: 8px; }
.scroll:focus-visible { outline: 2px solid var(--ours); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .875rem; }
th:first-child { padding-left: .8rem; } td:last-child, th:last-child { padding-right: .8rem; }
th, td { padding: .4rem .35rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule); }
tr:last-child > * { border-bottom: 0; }
thead th { background: var(--panel); vertical-align: bottom;
  font-weight: 600; font-size: .8125rem; }
th[scope=row] { text-align: left; font-weight: 500; white-space: nowrap; position: sticky; left: 0;
  background: var(--paper); } thead th:first-child { text-align: left; position: sticky; left: 0; }
table.text td, table.text th { text-align: left; overflow-wrap: anywhere; min-width: 9rem; }
td small, th small { display: block; color: var(--soft); font-weight: 400; white-space: nowrap; }
tr.ours th[scope=row] { color: var(--ours); font-weight: 700; } tr.ours td, tr.ours th { background: var(--panel); }
tr.untrained th[scope=row] { color: var(--untrained); font-weight: 700; }
.above { color: var(--good); font-weight: 600; } .below { color: var(--bad); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .7rem; border: 1px solid var(--rule); border-radius: 8px; }
figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; height: auto; display: block; stroke-linejoin: round; } svg text { font-family: inherit; }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; padding: .7rem .9rem;
  overflow-x: auto; }
code { font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 40rem) { th[scope=row] { white-space: normal; } th small { white-space: normal; } }
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""


@dataclass(frozen=True)
class Markup:
    """HTML that is safe to insert as it is; every other value is escaped."""

    text: str


Content = Markup | str


def markup(content: Content) -> str:
    """HTML of a piece: escaped, unless it is markup already."""
    return content.text if isinstance(content, Markup) else html.escape(content)


def element(tag: str, *content: Content, **attributes: str) -> Markup:
    """One element; `class_` stands for class."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items() if value
    )
    return Markup(f"<{tag}{named}>{''.join(map(markup, content))}</{tag}>")


def join(pieces: Iterable[Content], between: str = "\n") -> Markup:
    """Pieces one after the other."""
    return Markup(between.join(map(markup, pieces)))


def bullets(lines: Iterable[Content]) -> Markup:
    """A list."""
    return element("ul", join(element("li", line) for line in lines))


@dataclass(frozen=True)
class Row:
    """One row of a table: its head, its cells and its class."""

    head: Content
    cells: Sequence[Content]
    class_: str = ""


def table(label: str, heads: Sequence[Content], rows: Iterable[Row], class_: str = "") -> Markup:
    """A table that scrolls by itself where the page is narrow; the scrolling part can be reached by keyboard."""
    top = element("thead", element("tr", *(element("th", head, scope="col") for head in heads)))
    body = [
        element(
            "tr", element("th", row.head, scope="row"), *(element("td", cell) for cell in row.cells), class_=row.class_
        )
        for row in rows
    ]
    parts = [top] if any(markup(head) for head in heads) else []
    inner = element("table", *parts, element("tbody", join(body)), class_=class_)
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=label)


def page(title: str, body: Iterable[Content]) -> str:
    """The whole document: no script, nothing loaded from elsewhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"{markup(join(body))}\n</body>\n</html>\n"
    )
