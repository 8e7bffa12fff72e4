"""The table [shop]: every mistake names its line, its key and the remedy, and colours stay readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.catalog.shop import DARK, LANGUAGES, LIGHT, UNNAMED, Shop, contrast, mix
from minitoolai.core.errors import CatalogError
from minitoolai.portal.i18n import LANGUAGES as PORTAL_LANGUAGES
from minitoolai.portal.site import letter_logo, shop_colours

SHOP = """\
[shop]
name = "Acme AI"
accent = "#0b6e4f"
accent_dark = "#5fd4a8"
domain = "ai.acme.example"
support = "help@acme.example"
mail_from = "Acme AI <hello@acme.example>"
terms = { en = "terms.md", de = "agb.md" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "terms.md").write_text("# Terms\n")
    (tmp_path / "agb.md").write_text("# AGB\n")
    (tmp_path / "empty.md").write_text("\n")
    (tmp_path / "latin.md").write_bytes(b"caf\xe9")
    (tmp_path / "fake.png").write_text("no image")
    (tmp_path / "large.svg").write_text("<svg>" + "x" * 300_000)
    return tmp_path


def test_a_shop_is_read(folder: Path) -> None:
    shop = parse_catalog(SHOP, folder).shop
    assert (shop.name, shop.slug, shop.key_variable) == ("Acme AI", "acme-ai", "ACME_AI_API_KEY")
    assert (shop.public_url, shop.user_agent, shop.generator) == ("https://ai.acme.example", "acme-ai", ("Acme AI",))
    assert (shop.page("terms", "de"), shop.page("terms", "fr"), shop.page("imprint", "en")) == (
        "# AGB\n",
        "# Terms\n",
        "",
    )
    assert (shop.page_language("terms", "de"), shop.page_language("terms", "fr")) == ("de", "en")


def test_without_a_shop_everything_has_the_name_of_the_program() -> None:
    assert parse_catalog("").shop == UNNAMED == Shop()
    assert (UNNAMED.name, UNNAMED.is_own, UNNAMED.key_variable) == ("MiniToolAI", False, "MINITOOL_API_KEY")


@pytest.mark.parametrize(
    ("written", "instead", "where", "remedy"),
    [
        ('name = "Acme AI"', "", "line 1: [shop] name", 'a shop needs name = "Acme AI"'),
        ('name = "Acme AI"', 'name = "My minitoolai"', "line 2: [shop] name", "is the name of the program"),
        ('name = "Acme AI"', f'name = "{"a" * 61}"', "line 2: [shop] name", "shorten it to 60"),
        ('name = "Acme AI"', 'name = "a\\nb"', "line 2: [shop] name", "one line"),
        ('name = "Acme AI"', "name = 7", "line 2: [shop] name", "write it in quotes"),
        ("accent =", "acent =", "line 3: [shop] acent", "there is no key acent; the nearest are accent"),
        ("#0b6e4f", "green", "line 3: [shop] accent", "is not a colour"),
        ("#0b6e4f", "#ffd400", "line 3: [shop] accent", 'choose a darker colour, such as "#806a00"'),
        ("#5fd4a8", "#333333", "line 4: [shop] accent_dark", "choose a lighter colour"),
        ('accent_dark = "#5fd4a8"', "", "[shop] accent_dark", "write both or neither"),
        ("ai.acme.example", "https://ai.acme.example/", "line 5: [shop] domain", "without https:// and path"),
        ("help@acme.example", "help", "line 6: [shop] support", "is not an e-mail address"),
        ("<hello@acme.example>", "hello", "line 7: [shop] mail_from", "is not an e-mail address"),
        ("agb.md", "nowhere.md", "line 8: [shop] terms", "cannot be read: No such file"),
        ("agb.md", "empty.md", "line 8: [shop] terms", "is empty"),
        ("agb.md", "latin.md", "line 8: [shop] terms", "is not UTF-8"),
        ("de =", "xx =", "line 8: [shop] terms", "'xx' is not a language"),
        ('en = "terms.md", ', "", "line 8: [shop] terms", "readers of other languages get the file of 'en'"),
        ("terms =", 'logo = "fake.png"\nterms =', "line 8: [shop] logo", "is not what its name says"),
        ("terms =", 'logo = "large.svg"\nterms =', "line 8: [shop] logo", "larger than 256 kB"),
        ("terms =", 'logo = "terms.md"\nterms =', "line 8: [shop] logo", "is not an image"),
        ("terms =", 'language = "it"\nterms =', "line 8: [shop] language", "is not a language"),
    ],
)
def test_a_mistake_names_its_line_its_key_and_the_remedy(
    folder: Path, written: str, instead: str, where: str, remedy: str
) -> None:
    assert written in SHOP
    with pytest.raises(CatalogError) as caught:
        parse_catalog(SHOP.replace(written, instead), folder)
    assert where in str(caught.value)
    assert remedy in str(caught.value)


def test_the_languages_are_those_of_the_portal() -> None:
    assert tuple(PORTAL_LANGUAGES) == LANGUAGES


@pytest.mark.parametrize("accent", ["#000000", "#0b6e4f", "#707070", "#a4133c", "#806a00"])
@pytest.mark.parametrize("accent_dark", ["#ffffff", "#5fd4a8", "#858585", "#ff9d94"])
def test_text_in_accepted_colours_is_readable_on_every_background(accent: str, accent_dark: str) -> None:
    text = SHOP.replace("#0b6e4f", accent).replace("#5fd4a8", accent_dark).partition("terms")[0]
    shop = parse_catalog(text).shop
    wash, wash_dark = mix("#ffffff", accent, 0.08), mix(DARK[0], accent_dark, 0.1)
    strong, strong_dark = mix(accent, "#000000", 0.25), mix(accent_dark, "#ffffff", 0.35)
    assert all(contrast(accent, page) >= 4.5 for page in LIGHT)
    assert all(contrast(accent_dark, page) >= 4.5 for page in DARK)
    assert min(contrast(strong, wash), contrast(strong_dark, wash_dark)) >= 4.5
    assert min(contrast("#1d2026", wash), contrast("#e9eaee", wash_dark)) >= 4.5
    assert contrast("#ffffff", accent) >= 4.5
    assert f"--accent-wash:light-dark({wash},{wash_dark})" in shop_colours(shop)


def test_the_letter_of_a_name_is_escaped_in_its_logo() -> None:
    assert "&lt;</text>" in letter_logo(Shop(name="<b>"))
