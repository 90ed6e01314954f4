"""HTML in texts of people's files: whether a text holds any, and the text without it."""

import html
import re

BLOCKS = frozenset(
    """address article aside blockquote body br caption center dd details div dl dt figcaption figure footer
    form h1 h2 h3 h4 h5 h6 head header hr html legend li link main meta nav ol option p pre section select
    summary table tbody tfoot thead title tr ul""".split()
)
CELLS = frozenset(("td", "th"))
INLINE = frozenset(
    """a abbr acronym audio b bdi bdo big button canvas cite code col del dfn em font i iframe img input ins
    kbd label mark math object path picture q s samp small source span strike strong sub sup svg textarea time
    tt u var video wbr""".split()
)
NAMES = "|".join(sorted(BLOCKS | CELLS | INLINE))
# Python's own parser takes minutes for a text of `<p <p <p`; and it would drop `List<String>`.
TAG = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<!\[CDATA\["
    r"|<(?P<hidden>script|style|template|noscript)\b[^<>]*>.*?(?:</(?P=hidden)\s*>|\Z)"
    rf"|</?(?P<name>{NAMES})(?:[\s/](?:\"[^\"]*\"|'[^']*'|[^<>\"'])*+)?>"
    r"|<!doctype\b[^<>]*>",
    re.I | re.S,
)
ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{1,6}|#x[\da-f]{1,6});", re.I)


def holds_html(text: str) -> bool:
    """Does a text hold a tag, an entity or a comment of HTML?"""
    return bool(TAG.search(text) or ENTITY.search(text))


def without_html(text: str) -> str:
    """The text of a piece of HTML: no tags, scripts and comments, entities resolved, each block on its lines.

    What looks like a tag but is none of HTML's stays: `List<String>`, `<name@example.org>`, `a < b`.
    """
    if not holds_html(text):
        return text
    if "<![CDATA[" in text:  # of a feed
        text = text.replace("]]>", "")
    lines = (" ".join(line.split()) for line in html.unescape(TAG.sub(_between, text)).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _between(tag: re.Match[str]) -> str:
    """What comes in place of a tag: the end of a line, or a gap between cells."""
    name = (tag["name"] or "").lower()
    return "\n" if name in BLOCKS else " " if name in CELLS else ""
