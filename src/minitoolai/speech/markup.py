"""Leave out markup before a text is spoken: HTML, SSML, Markdown and code.

Markup is replaced by as many fill characters, so that positions do not change: the charge counts characters.
"""

from __future__ import annotations

import html
import re

#: Stands for a character that is not spoken. A zero-width space, which is silent anyway.
FILL = "\u200b"

_SUSPICIOUS = re.compile(r"[<>&*_`~#|\[\]\\]|^[ \t]*[-+=]|:-", re.M)
#: Code is left out with its content. An open fence reaches to the end of the text.
_CODE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n(?:.*?^[ \t]*\1[`~]*[ \t]*$|.*)", re.M | re.S)
#: Elements with content that is not text.
_HIDDEN = re.compile(r"<(script|style|head|svg)\b[^<>]{0,600}>", re.I)
_DECLARATION = re.compile(r"<[!?][a-zA-Z][^<>]{0,300}>")
_INLINE = """
a abbr b bdi bdo big center cite code del dfn em font i ins kbd label mark nobr q ruby rt s samp small span strike strong sub sup time tt u
var wbr audio emphasis lang metadata phoneme prosody say-as seq speak sub token voice w lexicon mstts:express-as amazon:effect img input
button video source picture canvas iframe object embed link meta script style"""
_BLOCK = """
address article aside blockquote body br caption dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 head header
hr html legend li main nav ol option p pre section select summary table tbody td textarea tfoot th thead title tr ul break s par paragraph
sentence"""
_BLOCKS = frozenset(_BLOCK.split())
_TAGS = _BLOCKS | frozenset(_INLINE.split())
_TAG = re.compile(r"<\s?/?\s?([a-zA-Z][\w:-]{0,30})(\s[^<>]{0,600})?/?>")
#: Attributes without a value; other words after the name mean that "a <b and c> d" is no tag.
_FLAGS = frozenset("disabled checked hidden async defer controls autoplay loop muted required selected open".split())
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,20});")
_LINK = re.compile(
    r"(!?\[)([^\[\]\n]{0,500})(\](?:\([^()\s]{0,2000}(?:\([^()\s]{0,200}\)[^()\s]{0,200})?(?:[ \t]+[\"'(][^\n)]{0,300}[\"')])?[ \t]?\)|\[[^\[\]\n]{0,100}\]))"
)
_FOOTNOTE = re.compile(r"\[\^[^\[\]\n]{1,50}\]:?")
_DEFINITION = re.compile(r"^[ \t]{0,3}\[(?!\^)[^\[\]\n]{1,100}\]:[ \t]+\S+[^\n]*$", re.M)
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]{1,2000}|[\w.+-]{1,64}@[\w.-]{1,200})>")
_LINE_START = re.compile(r"^[ \t]*(?:>[ \t]?)*(?:#{1,6}[ \t]+|[-*+][ \t]+(?:\[[ xX]\][ \t]+)?)?", re.M)
_RULE = re.compile(r"^[ \t]*(?:(?:[-*_=][ \t]*){3,}|\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)*)$", re.M)
_TABLE_LINE = re.compile(r"^[^\n|]*\|[^\n]*\|[^\n]*$", re.M)
_EMPHASIS = re.compile(
    r"\*+(?=[^\s*\d])|(?<=[^\s*\d])\*+|\*{2,}(?=\S)|(?<=\S)\*{2,}|(?<!\w)_+(?=\w)|(?<=[^\W_])_+(?!\w)|~~|`+|\\(?=[*_`~#\[\](){}.!+-])"
)


def blank_markup(text: str) -> str:
    """Return the text, as long as before, with markup replaced by FILL. Takes linear time."""
    if _SUSPICIOUS.search(text) is None:
        return text
    if "```" in text or "~~~" in text:
        text = _CODE.sub(_hide, text)
    if "<" in text:
        text = _hide_elements(text)
        text = _DECLARATION.sub(_hide, text)
        text = _AUTOLINK.sub(lambda m: FILL + m[1] + FILL, text)
        text = _TAG.sub(_tag, text)
    text = _DEFINITION.sub(_hide, text)
    text = _RULE.sub(_hide, text)
    text = _TABLE_LINE.sub(_table_line, text)
    if "[" in text:
        text = _FOOTNOTE.sub(_hide, text)
        # Twice: an image may be the text of a link.
        text = _LINK.sub(_link, _LINK.sub(_link, text))
    text = _LINE_START.sub(_hide, text)
    text = _EMPHASIS.sub(_hide, text)
    return _ENTITY.sub(_entity, text) if "&" in text else text


def _hide(match: re.Match[str]) -> str:
    """Keep line breaks, because they end a sentence."""
    return "".join("\n" if character == "\n" else FILL for character in match[0])


def _hide_elements(text: str) -> str:
    """Hide comments, scripts and style sheets with their content. One without its end hides its tag only."""
    parts, done = [], 0
    starts = [(m.start(), "-->") for m in re.finditer("<!--", text)]
    starts += [(m.start(), f"</{m[1].lower()}") for m in _HIDDEN.finditer(text)]
    missing: set[str] = set()
    for start, close in sorted(starts):
        if start < done or close in missing:
            continue
        found = re.compile(re.escape(close), re.I).search(text, start)
        if found is None:
            missing.add(close)
            continue
        end = text.find(">", found.end() - 1) + 1 or len(text)
        parts += [text[done:start], "".join("\n" if c == "\n" else FILL for c in text[start:end])]
        done = end
    return "".join([*parts, text[done:]])


def _tag(match: re.Match[str]) -> str:
    attributes = (match[2] or "").strip(" /\t\n").lower()
    if match[1].lower() not in _TAGS or (attributes and "=" not in attributes and attributes not in _FLAGS):
        return match[0]
    size = len(match[0])
    name = match[1].lower()
    if name in ("td", "th") and "/" in match[0][:3]:
        return ("," + FILL * size)[:size]
    return (("\n" if name in _BLOCKS and name not in ("td", "th", "s") else FILL) + FILL * size)[:size]


def _link(match: re.Match[str]) -> str:
    return FILL * len(match[1]) + match[2] + FILL * len(match[3])


def _table_line(match: re.Match[str]) -> str:
    line = match[0]
    first, last = len(line) - len(line.lstrip(" \t|")), len(line.rstrip(" \t|"))
    return FILL * first + line[first:last].replace("|", ",") + FILL * (len(line) - max(first, last))


def _entity(match: re.Match[str]) -> str:
    character = html.unescape(match[0])
    return character + FILL * (len(match[0]) - len(character)) if len(character) < len(match[0]) else match[0]
