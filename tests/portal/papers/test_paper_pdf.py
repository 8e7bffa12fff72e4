"""Letters of a PDF that no font has: replaced and told, never a crash and never an empty box."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from minitoolai.core.catalog.shop import Shop
from minitoolai.portal.i18n import LANGUAGES, translations
from minitoolai.portal.papers.paper_pdf import MISSING, render_pdf
from minitoolai.portal.papers.papers import Paper

SHOP = Shop(name="Acme AI")
PLAIN = Paper(
    title="Invoice", number="INV-000001", facts=(("Number", "INV-000001"),), seller=("Acme",), buyer=("Ann",),
    lines=(("Total", "$20.00", True),), notes=(), issued_ms=1_800_000_000_000,
)  # fmt: skip


def paper(buyer: str, *notes: str) -> Paper:
    return msgspec.structs.replace(PLAIN, buyer=(buyer,), notes=notes)


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", ["株式会社", "شركة", "🙂", "한국", "Ann \u200b\U0010fffd"])
def test_letters_without_a_glyph_are_question_marks_and_the_operator_is_told(
    name: str, lang: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = render_pdf(paper(name), SHOP, lang)
        (message,) = caplog.messages
        assert "set MINITOOLAI_PDF_FONT to a TrueType font" in message
        assert "U+" in message
        caplog.clear()
        # The same document with question marks, and the note that explains them.
        marks = "".join(letter if letter in "Ann " else "?" for letter in name)
        assert made == render_pdf(paper(marks, translations(lang).gettext(MISSING)), SHOP, lang)
        assert caplog.messages == []


def test_another_form_of_a_known_letter_is_that_letter() -> None:
    assert render_pdf(paper("ＡＣＭＥ ﬁ １２"), SHOP, "en") == render_pdf(paper("ACME fi 12"), SHOP, "en")


@pytest.fixture
def font(tmp_path: Path) -> Path:
    """A TrueType file that has the letter 中."""
    pen = TTGlyphPen(None)
    for move, point in (("moveTo", (0, 0)), ("lineTo", (500, 0)), ("lineTo", (500, 700)), ("lineTo", (0, 700))):
        getattr(pen, move)(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "middle"])
    builder.setupCharacterMap({ord("中"): "middle"})
    builder.setupGlyf({".notdef": pen.glyph(), "middle": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "middle": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Middle", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    path = tmp_path / "own.ttf"
    builder.save(path)
    return path


def test_the_operators_font_has_the_letters_that_ours_lack(font: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = render_pdf(paper("中 Ann"), SHOP, "en", str(font))
        assert caplog.messages == []
    assert b"Middle" in made
    assert made != render_pdf(paper("? Ann"), SHOP, "en", str(font))


@pytest.mark.parametrize("content", [None, b"", b"not a font"])
def test_a_font_that_cannot_be_used_is_told_and_the_document_is_made(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "broken.ttf"
    if content is not None:
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert render_pdf(paper("Ann"), SHOP, "en", str(path)).startswith(b"%PDF")
    assert "MINITOOLAI_PDF_FONT" in caplog.text
