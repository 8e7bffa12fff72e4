"""The converter keeps what a page says, and its listings to the letter."""

from __future__ import annotations

import pytest

from minitoolai.portal.rendering.markdown import page_to_markdown


def convert(content: str) -> str:
    page = f"<html><body><nav>Menu</nav><main id='content'>{content}</main><footer>Foot</footer></body></html>"
    return page_to_markdown(page, "https://ai.test/de/docs").rstrip("\n")


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<h1>Guide</h1>\n<h2 id='a'><a href='#a'>Chat &amp; more</a></h2>", "# Guide\n\n## Chat & more"),
        ("<p>One\n two</p><p> </p><p>three</p>", "One two\n\nthree"),
        ("<p>Send <code>max_tokens</code>, <strong>always</strong>.</p>", "Send `max_tokens`, **always**."),
        ("<p><code>a `b` c</code></p>", "`` a `b` c ``"),
        ("<p>See <a href='/de/prices'>prices</a>.</p>", "See [prices](https://ai.test/de/prices)."),
        ("<p>a <a href='?x=1'>b</a></p>", "a [b](https://ai.test/de/docs?x=1)"),
        ("<ul><li>one</li><li>two <code>x</code></li></ul>", "- one\n- two `x`"),
        ("<ol><li><h3>Open</h3><p>Do.</p></li></ol>", "1. ### Open\n\n   Do."),
        ("<dl><dt><code>user</code></dt><dd>asks</dd><dt>b</dt><dd>c</dd></dl>", "- `user`: asks\n- b: c"),
        ("<div>loose <b>text</b><p>block</p>tail</div>", "loose **text**\n\nblock\n\ntail"),
        ("<p>1 * 2 * 3, _x_, snake_case, [a], a &lt; b</p>", r"1 \* 2 \* 3, \_x\_, snake_case, \[a\], a \< b"),
        ("<p># no heading</p><p>1. no list</p>", "\\# no heading\n\n1\\. no list"),
    ],
)
def test_elements(html: str, markdown: str) -> None:
    assert convert(html) == markdown


def test_a_listing_is_kept_to_the_letter() -> None:
    listing = (
        "<pre class=code aria-label=curl><code id=x><b>curl</b> -d '{\n\n  <i>\"a\"</i>: 1 &lt; 2 *\\_\n}'</code></pre>"
    )
    assert convert(listing) == "curl:\n\n```\ncurl -d '{\n\n  \"a\": 1 < 2 *\\_\n}'\n```"


def test_a_listing_with_backticks_gets_a_longer_fence() -> None:
    assert convert("<pre><code>```\nx\n```</code></pre>") == "````\n```\nx\n```\n````"


def test_a_table_has_a_row_of_names_its_alignment_and_no_stray_pipes() -> None:
    table = (
        "<table><caption>Costs</caption><thead><tr><th>Model</th><th class='num'>Price</th></tr></thead>"
        "<tbody><tr><th>a|b</th><td class='num'>$1</td></tr><tr><td><code>c|d</code></td></tr></tbody></table>"
    )
    assert convert(table) == "Costs:\n\n| Model | Price |\n| --- | ---: |\n| a\\|b | $1 |\n| `c\\|d` |  |"


def test_what_only_a_browser_can_use_is_left_out() -> None:
    page = (
        "<nav><a href='#x'>Contents</a></nav><form><p>Field</p><input name=a></form><p>Text<button>Copy</button></p>"
        "<fieldset><legend>All</legend><input type=radio><label>Python</label><pre aria-label=Python>x</pre></fieldset>"
        "<script>alert(1)</script><p hidden>secret</p>"
    )
    assert convert(page) == "Text\n\nPython:\n\n```\nx\n```"
