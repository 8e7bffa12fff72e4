"""A text into sentences, one at a time: what is spoken first is known before the end has been looked at.

Never breaks inside a number, an abbreviation or a name's initials; breaks a sentence without end where it breathes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Characters of the first piece and of every other: the first is kept short, so that the voice begins soon.
FIRST_LONGEST = 160
LONGEST = 400

# Every alternative begins at the only place where it can match: no text makes the search slow.
_END = re.compile(r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+\s+|[。！？]++["'”’»」』）]*+\s*|\n\s*""")
_BREATH = re.compile(r"[,;:—–]\s+|[、，；：]")
_WORD = re.compile(r"""[^\s"'“”‘’«»()\[\]]*\Z""")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")
_LIST_NUMBER = re.compile(r"\s*[(\[]?(?:\d{1,3}|[ivxIVX]{1,4})\Z")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Words whose full stop ends no sentence, whatever follows.
_ABBREVIATIONS = _words(
    """adm asst attn ave blvd brig capt cf cmdr col comdr dept dr drs ed eds eg esp est al fr gen gov hon ie lt maj
    messrs mlle mme mr mrs ms mt mx prof pvt rep rev rt sen sgt sr st ste supt univ vs viz approx ca hrs mins ext"""
)
#: Words whose full stop ends no sentence if a number follows: `No. 5`, but `He said no. 5 came.` reads as well.
_BEFORE_A_NUMBER = _words(
    """jan feb mar apr jun jul aug sep sept oct nov dec no nos nr op p pp pg fig figs vol vols ch sec sect art min max
    mon tue tues wed thu thur thurs fri sat sun"""
)
#: Words whose full stop ends a sentence only if a capital follows.
_OFTEN_LAST = _words("etc inc ltd co corp jr bros llc plc")


def sentences(text: str) -> Iterator[tuple[str, int]]:
    """(sentence without the blanks around it, where it ends in the text), lazily and in order."""
    start, longest = 0, FIRST_LONGEST
    while start < len(text):
        end = _end_of_sentence(text, start, longest)
        sentence = text[start:end].strip()
        start = end
        if sentence:
            yield sentence, end
            longest = LONGEST


def _end_of_sentence(text: str, start: int, longest: int) -> int:
    """Where the sentence that begins at `start` ends, with the blanks behind it."""
    start += len(text[start : start + longest]) - len(text[start : start + longest].lstrip())
    stop = min(len(text), start + longest)
    for match in _END.finditer(text, start, min(len(text), stop + 8)):
        if match.start() > stop:
            break
        if _ends(text, start, match):
            return match.end()
    return len(text) if stop == len(text) else _breath(text, start, stop)


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether this full stop is one."""
    mark = match[0]
    if "\n" in mark or mark[0] not in ".…":
        return True
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return False
    if mark.startswith(".."):
        return True
    before = text[start : match.start()]
    if _LIST_NUMBER.fullmatch(before):
        return False
    found = _WORD.search(before)
    word = found[0] if found else ""
    if _INITIALS.match(word) or word.lower().replace(".", "") in _ABBREVIATIONS:
        return False
    if word.lower() in _BEFORE_A_NUMBER:
        return not following.isdigit()
    return word.lower() not in _OFTEN_LAST or following.isupper()


def _breath(text: str, start: int, stop: int) -> int:
    """Where to break a sentence too long to speak at once: at a clause, at a blank, or nowhere in particular."""
    clauses = [match.end() for match in _BREATH.finditer(text, start + (stop - start) // 4, stop)]
    if clauses:
        return clauses[-1]
    blank = max(text.rfind(mark, start + 1, stop) for mark in (" ", "\t", "\u3000"))
    return blank + 1 if blank > start else stop
