"""Convert a rendered page to Markdown, so that programs read the same text as people, from the same templates.

What only a browser can use is left out: forms, buttons, the contents. Links become absolute. A listing gets its label
as a line before it, because the tabs that name it are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from html.parser import HTMLParser
from urllib.parse import urljoin

#: As many as there are pages in all languages, and a few more.
CACHED_PAGES = 32
#: Elements without content.
_VOID = frozenset(("br", "hr", "img", "input", "link", "meta", "wbr"))
#: What only a browser can use.
_LEFT_OUT = frozenset(("button", "form", "input", "label", "legend", "nav", "script", "style", "svg"))
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_BLOCKS = frozenset(
    (
        "article",
        "details",
        "div",
        "dl",
        "fieldset",
        "hr",
        "main",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "ul",
        *_HEADINGS,
    )
)


class Element:
    """An element of the page: its tag, attributes and content."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Element | str] = []

    @property
    def elements(self) -> Iterator[Element]:
        """The elements among the children."""
        return (child for child in self.children if isinstance(child, Element))

    @property
    def text(self) -> str:
        """All text inside, as it stands there."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def find_all(self, *tags: str) -> Iterator[Element]:
        """Yield the descendants with one of these tags, in their order."""
        for child in self.elements:
            if child.tag in tags:
                yield child
            yield from child.find_all(*tags)


class _TreeBuilder(HTMLParser):
    """Builds the elements of a page. All its elements must be closed, as those of the templates are."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self._open[-1].tag == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def page_to_markdown(html: str, url: str) -> str:
    """Return the main part of a page at this URL as Markdown."""
    end = "</main>"
    return _convert(html[html.index("<main") : html.index(end) + len(end)], url)


@lru_cache(CACHED_PAGES)
def _convert(html: str, url: str) -> str:
    """Return an element as Markdown. The guide takes 16 ms, so the last results are kept."""
    builder = _TreeBuilder()
    builder.feed(html)
    builder.close()
    return "\n\n".join(_Converter(url).blocks(builder.root.children)) + "\n"


class _Converter:
    def __init__(self, url: str) -> None:
        self._url = url
        self._special: dict[str, Callable[[Element], list[str]]] = {
            "pre": self._listing,
            "table": self._table,
            "ul": self._list,
            "ol": self._list,
            "dl": self._definitions,
            "p": lambda element: self._paragraph(element.children),
        }

    def blocks(self, children: Sequence[Element | str]) -> list[str]:
        """Return the blocks of some content. What stands between blocks is a paragraph."""
        found: list[str] = []
        between: list[Element | str] = []
        for child in children:
            if isinstance(child, str) or not _is_block(child):
                between.append(child)
                continue
            found += self._paragraph(between)
            between = []
            found += self._block(child)
        return found + self._paragraph(between)

    def _block(self, element: Element) -> list[str]:
        if _is_left_out(element):
            return []
        if element.tag in _HEADINGS:
            title = self._inline(element.children).strip()
            return [f"{_HEADINGS[element.tag]} {title}"] if title else []
        special = self._special.get(element.tag)
        return special(element) if special else self.blocks(element.children)

    def _paragraph(self, children: Sequence[Element | str]) -> list[str]:
        text = self._inline(children).strip()
        # A text that begins like a heading, quotation or list is none.
        text = re.sub(r"^(#{1,6}|[-+>]|\d+[.)])(?=\s)", lambda match: match[1][:-1] + "\\" + match[1][-1], text)
        return [text] if text else []

    def _listing(self, element: Element) -> list[str]:
        code = element.text
        longest = max((len(ticks) for ticks in re.findall("`{3,}", code)), default=2)
        fence = "`" * (longest + 1)
        label = element.attributes.get("aria-label")
        return [*([f"{_escape(label)}:"] if label else []), f"{fence}\n{code}\n{fence}"]

    def _list(self, element: Element) -> list[str]:
        items = []
        for number, item in enumerate((child for child in element.elements if child.tag == "li"), 1):
            marker = f"{number}. " if element.tag == "ol" else "- "
            text = "\n\n".join(self.blocks(item.children))
            items.append(marker + text.replace("\n", "\n" + " " * len(marker)))
        return [_without_blank_indents("\n".join(items))] if items else []

    def _definitions(self, element: Element) -> list[str]:
        lines = []
        for child in element.elements:
            text = self._inline(child.children).strip()
            lines.append(f"- {text}:" if child.tag == "dt" else f" {text}")
        joined = "".join(line if line.startswith(" ") else "\n" + line for line in lines)
        return [joined.strip()] if lines else []

    def _table(self, element: Element) -> list[str]:
        rows = [[cell for cell in row.elements if cell.tag in ("th", "td")] for row in element.find_all("tr")]
        if not rows:
            return []
        width = max(map(len, rows))
        lines = [self._row(row, width) for row in rows]
        numbers = ["num" in (cell.attributes.get("class") or "").split() for cell in rows[0]]
        numbers += [False] * (width - len(numbers))
        lines.insert(1, "|" + "|".join(" ---: " if is_number else " --- " for is_number in numbers) + "|")
        caption = [f"{self._inline(found.children).strip()}:" for found in element.find_all("caption")]
        return [*caption, "\n".join(lines)]

    def _row(self, cells: list[Element], width: int) -> str:
        texts = [self._inline(cell.children).strip().replace("|", "\\|") for cell in cells]
        return "| " + " | ".join(texts + [""] * (width - len(texts))) + " |"

    def _inline(self, children: Sequence[Element | str]) -> str:
        text = "".join(_escape(child) if isinstance(child, str) else self._phrase(child) for child in children)
        return re.sub(r"[ \n\t]+", " ", text)

    def _phrase(self, element: Element) -> str:
        if _is_left_out(element):
            return ""
        if element.tag == "br":
            return " "
        if element.tag == "img":
            return _escape(element.attributes.get("alt") or "")
        if element.tag == "code":
            return _code(element.text)
        text = self._inline(element.children)
        marker = {"strong": "**", "b": "**", "em": "*", "i": "*"}.get(element.tag)
        if marker and text.strip():
            return f"{marker}{text.strip()}{marker}"
        href = element.attributes.get("href") or ""
        # A link within the page leads nowhere in Markdown, where headings have no IDs.
        if element.tag == "a" and href and not href.startswith("#") and text.strip():
            return f"[{text.strip()}]({urljoin(self._url, href)})"
        return text


def _is_block(element: Element) -> bool:
    return element.tag in _BLOCKS


def _is_left_out(element: Element) -> bool:
    return element.tag in _LEFT_OUT or "hidden" in element.attributes


def _code(text: str) -> str:
    """Return a code span with more backticks around it than it has inside."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def _escape(text: str) -> str:
    """Escape what Markdown would read as markup. An underscore within a word is none."""
    return re.sub(r"[\\`*\[\]<]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _without_blank_indents(text: str) -> str:
    return re.sub(r"^ +$", "", text, flags=re.MULTILINE)
