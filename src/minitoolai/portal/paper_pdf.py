"""Render a `Paper` as PDF with fpdf2. Runs in a thread: fonts take a tenth of a second."""

from __future__ import annotations

import io
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitoolai.core.catalog.shop import Logo, Shop
from minitoolai.portal.papers import Paper

if TYPE_CHECKING:
    from fpdf import FPDF

log = logging.getLogger(__name__)
FONTS = Path(__file__).parent / "fonts"
MARGIN, WIDTH, LINE = 20, 170, 5.5
#: Millimetres of the logo and of the column of amounts.
LOGO_HEIGHT, AMOUNTS = 16, 45
GREY = (90, 95, 105)


def render_pdf(paper: Paper, shop: Shop, lang: str, font: str = "") -> bytes:
    """Return the document as PDF/1.x on A4, with embedded fonts. The same paper gives the same bytes.

    `font`: a TrueType file for letters that ours lack.
    """
    pdf = _new_document(paper, lang, font)
    _header(pdf, paper, shop)
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
        pdf.add_font("own", "", font)
        pdf.set_fallback_fonts(["own"], exact_match=False)
    pdf.add_page()
    document: FPDF = pdf
    return document


def _header(pdf: FPDF, paper: Paper, shop: Shop) -> None:
    has_logo = shop.logo is not None and _draw_logo(pdf, shop.logo)
    if not has_logo:
        pdf.set_font("sans", "B", 15)
        pdf.cell(WIDTH, LOGO_HEIGHT, shop.name)
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
