"""Markdown of the shop is shown as HTML that can do no harm."""

from __future__ import annotations

import pytest

from minitoolai.portal.rendering.prose import render


def test_the_first_heading_is_the_title() -> None:
    page = render("Hello\n\n# About *us* and `you`\n\n## More")
    assert page.title == "About us and you"
    assert "<em>us</em>" in page.html
    assert render("No heading").title == ""


def test_html_of_the_author_is_shown_as_text() -> None:
    html = render("<script>alert(1)</script> <b onclick=x>y</b>").html
    assert "<script" not in html
    assert "<b" not in html
    assert "&lt;script&gt;" in html


def test_images_are_not_loaded() -> None:
    assert "<img" not in render("![x](https://example.com/a.png)").html


@pytest.mark.parametrize(
    "url", ["https://example.com/a", "http://example.com", "mailto:ann@example.com", "/prices", "#here", "about.html"]
)
def test_links_to_the_web_to_mail_and_to_this_site_stay(url: str) -> None:
    assert f'href="{url}"' in render(f"[x]({url})").html


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "//evil.example", "file:///x"],
)
def test_other_links_are_text(url: str) -> None:
    assert "href" not in render(f"[x]({url})").html
