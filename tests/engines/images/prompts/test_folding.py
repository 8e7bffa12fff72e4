"""Text is folded, so that spellings of the same word are equal."""

from __future__ import annotations

import pytest

from minitoolai.engines.images.prompts.folding import fold


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Äpfel", "apfel"),
        ("A\u0308pfel", "apfel"),
        ("Straße", "strasse"),
        ("IŞIK", "isik"),
        ("İstanbul ılık", "istanbul ilik"),
        ("Smørrebrød", "smorrebrod"),
        ("cœur à l’ail", "coeur a l'ail"),
        ("Łódź", "lodz"),
        ("ﬁsh", "fish"),
        ("  red_apple -\n GREEN\ttree ", "red apple green tree"),
        ("雪国", "雪国"),
        ("", ""),
    ],
)
def test_case_diacritics_and_separators_do_not_count(text: str, folded: str) -> None:
    assert fold(text) == folded
    assert fold(folded) == folded
