"""Render a `Paper` as PDF with fpdf2. Runs in a thread: fonts take a tenth of a second."""

from __future__ import annotations

import io
import logging
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from minitoolai.core.catalog.shop import Logo, Shop
from minitoolai.portal.i18n import N_, translations
from minitoolai.portal.papers.papers import Paper

if TYPE_CHECKING:
    from fpdf import FPDF

log = logging.getLogger(__name__)
FONTS = Path(__file__).parent.parent / "fonts"
MARGIN, WIDTH, LINE = 20, 170, 5.5
#: Millimetres of the logo and of the column of amounts.
LOGO_HEIGHT, AMOUNTS = 16, 45
GREY = (90, 95, 105)
#: The operator's font.
OWN = "own"
#: How TrueType and OpenType files begin.
SIGNATURES = (b"\0\1\0\0", b"true", b"OTTO")
MISSING = N_(
    "Letters that cannot be printed are shown as “?”. The page of this document on the site shows all of them."
)


def render_pdf(paper: Paper, shop: Shop, lang: str, font: str = "") -> bytes:
    """Return the document as PDF/1.x on A4, with embedded fonts. The same paper gives the same bytes.

    `font`: a TrueType file for letters that ours lack.
    """
    pdf = _new_document(paper, lang, font)
    paper, shop_name = _printable(pdf, paper, shop.name, lang)
    _header(pdf, paper, shop, shop_name)
    _parties(pdf, paper)
    _table(pdf, paper)
    pdf.set_font("sans", size=8)
    pdf.set_text_color(*GREY)
    for note in paper.notes:
        pdf.ln(2)
        pdf.multi_cell(WIDTH, 4, note, new_x="LMARGIN", new_y="NEXT")
    return bytes(pdf.output())


def _new_document(paper: Paper, lang: str, font: str) -> FPDF:
    # Imported here: fpdf2 and its font library take 0.3 s, and most processes never make a PDF.
    from fpdf import FPDF

    pdf: Any = FPDF(format="A4")
    pdf.set_margin(MARGIN)
    pdf.set_auto_page_break(True, MARGIN)
    pdf.set_creation_date(datetime.fromtimestamp(paper.issued_ms / 1000, UTC))
    pdf.set_title(f"{paper.title} {paper.number}")
    pdf.set_lang(lang)
    pdf.add_font("sans", "", FONTS / "DejaVuSans.ttf")
    pdf.add_font("sans", "B", FONTS / "DejaVuSans-Bold.ttf")
    if font:
        _add_own_font(pdf, font)
    pdf.add_page()
    document: FPDF = pdf
    return document


def _add_own_font(pdf: Any, font: str) -> None:
    """Add the operator's font for letters that ours lack. Without it, the document is still made."""
    try:
        _check_signature(font)
        pdf.add_font(OWN, "", font)
    except Exception as error:  # noqa: BLE001 - a damaged font fails anywhere in the font library
        log.error("MINITOOLAI_PDF_FONT: %s cannot be used, so its letters are missing in invoices: %s", font, error)
        return
    pdf.set_fallback_fonts([OWN], exact_match=False)


def _check_signature(font: str) -> None:
    """Raise ValueError for a file that is no font. The font library would leave it open."""
    with open(font, "rb") as file:
        if file.read(4) not in SIGNATURES:
            raise ValueError("it is not a TrueType file")


def _printable(pdf: Any, paper: Paper, shop_name: str, lang: str) -> tuple[Paper, str]:
    """Return the document and the name of the shop with "?" for letters that no font has, and a note that says so.

    A letter that is another form of one that the fonts have, such as a full-width digit, becomes that one.
    """
    known = {code for name in ("sans", OWN) if name in pdf.fonts for code in pdf.fonts[name].cmap}
    missing: set[str] = set()

    def text(given: str) -> str:
        return "".join(letter if ord(letter) in known else substitute(letter) for letter in given)

    def substitute(letter: str) -> str:
        plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if ord(part) in known)
        if not plain:
            missing.add(letter)
        return plain or "?"

    shown = msgspec.structs.replace(
        paper,
        facts=tuple((text(name), text(value)) for name, value in paper.facts),
        seller=tuple(map(text, paper.seller)),
        buyer=tuple(map(text, paper.buyer)),
        lines=tuple((text(line), text(amount), is_sum) for line, amount, is_sum in paper.lines),
    )
    shop_name = text(shop_name)
    if missing:
        letters = " ".join(f"U+{ord(letter):04X}" for letter in sorted(missing)[:5])
        log.warning(
            "%d letters of %s have no glyph and are printed as “?” (%s); set MINITOOLAI_PDF_FONT to a TrueType font",
            len(missing), paper.number, letters,
        )  # fmt: skip
        note = translations(lang).gettext(MISSING)
        shown = msgspec.structs.replace(shown, notes=(*shown.notes, note))
    return shown, shop_name


def _header(pdf: FPDF, paper: Paper, shop: Shop, shop_name: str) -> None:
    has_logo = shop.logo is not None and _draw_logo(pdf, shop.logo)
    if not has_logo:
        pdf.set_font("sans", "B", 15)
        pdf.cell(WIDTH, LOGO_HEIGHT, shop_name)
    pdf.set_xy(MARGIN, MARGIN + LOGO_HEIGHT + 8)
    pdf.set_font("sans", "B", 20)
    pdf.cell(WIDTH, 10, paper.title, new_x="LMARGIN", new_y="NEXT")
    pdf.ln(2)
    for name, value in paper.facts:
        pdf.set_font("sans", size=9)
        pdf.set_text_color(*GREY)
        pdf.cell(40, LINE, name)
        pdf.set_text_color(0)
        pdf.cell(WIDTH - 40, LINE, value, new_x="LMARGIN", new_y="NEXT")
    pdf.ln(6)


def _draw_logo(pdf: FPDF, logo: Logo) -> bool:
    """Draw the logo and return True; False for an image that cannot be drawn, such as a complex SVG."""
    try:
        pdf.image(io.BytesIO(logo.body), x=MARGIN, y=MARGIN, h=LOGO_HEIGHT)
    except (ValueError, KeyError, SyntaxError, OSError, NotImplementedError) as error:
        log.warning("the logo cannot be drawn in a PDF, so the name of the shop is: %s", error)
        return False
    return True


def _parties(pdf: FPDF, paper: Paper) -> None:
    top = pdf.get_y()
    ends = []
    for left, party in ((MARGIN, paper.seller), (MARGIN + WIDTH / 2, paper.buyer)):
        pdf.set_xy(left, top)
        for number, line in enumerate(party):
            pdf.set_font("sans", "B" if number == 0 else "", 9)
            pdf.set_x(left)
            pdf.multi_cell(WIDTH / 2 - 5, LINE, line, align="L", new_x="LMARGIN", new_y="NEXT")
        ends.append(pdf.get_y())
    pdf.set_xy(MARGIN, max(ends) + 8)


def _table(pdf: FPDF, paper: Paper) -> None:
    pdf.set_draw_color(200, 203, 210)
    for text, amount, is_sum in paper.lines:
        pdf.set_font("sans", "B" if is_sum else "", 10)
        top = pdf.get_y()
        pdf.multi_cell(WIDTH - AMOUNTS, 7, text, align="L", new_x="RIGHT", new_y="TOP", max_line_height=7)
        pdf.set_xy(MARGIN + WIDTH - AMOUNTS, top)
        pdf.cell(AMOUNTS, 7, amount, align="R", new_x="LMARGIN", new_y="NEXT")
        pdf.line(MARGIN, pdf.get_y(), MARGIN + WIDTH, pdf.get_y())
    pdf.ln(4)
