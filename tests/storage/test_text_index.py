"""Find passages by words."""

from __future__ import annotations

import pytest

from minitoolai.storage.text_index import AFTER, BEFORE, Passage, TextIndex

INDEX = TextIndex(
    [
        Passage("/a", "Streaming", "The response is sent as it is generated."),
        Passage("/b", "Errors", "A stream that fails ends with an error; streaming clients see it."),
        Passage("/c", "Größe und Übermaß", "Bilder dürfen höchstens 1344 Pixel breit sein."),
        Passage("/d", "POST /v1/chat/completions", "max_completion_tokens: most tokens of the answer"),
        Passage("/e", "Görüntüler", "Istanbul'da çalışan model"),
    ]
)


def found(text: str) -> list[str]:
    return [hit.address for hit in INDEX.search(text, 10)]


def test_a_word_in_the_title_counts_more_than_one_in_the_text() -> None:
    assert found("streaming") == ["/a", "/b"]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("ubermaß", "/c"),
        ("GRÖSSE PIXEL", "/c"),
        ("gor", "/e"),
        ("chat/completions", "/d"),
        ("max_completion_tok", "/d"),
        ("generated stre", "/a"),
    ],
)
def test_case_accents_and_the_end_of_the_last_word_make_no_difference(text: str, first: str) -> None:
    assert found(text)[0] == first


def test_passages_with_some_of_the_words_are_found_if_none_has_all() -> None:
    assert found("pixel zebra") == ["/c"]


@pytest.mark.parametrize(
    "text", ["", " ", '"', "***", "NEAR(", "a AND OR NOT", "title:x", "x" * 5000, "\0", "' OR 1=1 --", "x " * 5000]
)
def test_any_text_is_a_search_and_no_query_language(text: str) -> None:
    assert isinstance(INDEX.search(text, 10), list)


def test_a_snippet_marks_the_words_that_were_found() -> None:
    assert f"{BEFORE}Pixel{AFTER}" in INDEX.search("pixel", 1)[0].snippet
