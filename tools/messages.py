"""Collect the texts of the portal from code and templates, update every .po file, and list missing translations.

    python -m tools.messages                  update src/minitoolai/portal/locale/*/LC_MESSAGES/*.po
    python -m tools.messages --fill new.json  the same, with translations {"English": {"de": "Deutsch", …}, …}

A text with plural forms is keyed by its singular and translated as a list. Each part of the portal has a file of
its own, so that two people rarely edit the same one. Exit status 1 if a translation is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from babel.messages.extract import extract_from_file, extract_python
from babel.messages.pofile import normalize, read_po

from minitoolai.portal.i18n import DEFAULT, FOLDER, LANGUAGES

PORTAL = FOLDER.parent
TEMPLATES = PORTAL / "templates"
KEYWORDS = {"_": None, "gettext": None, "N_": None, "n_": (1, 2), "ngettext": (1, 2)}
#: Language → its plural rule in gettext's syntax.
PLURALS = {
    "pt": "nplurals=2; plural=(n > 1)",
    "fr": "nplurals=2; plural=(n > 1)",
    "de": "nplurals=2; plural=(n != 1)",
    "es": "nplurals=2; plural=(n != 1)",
    "id": "nplurals=1; plural=0",
    "tr": "nplurals=1; plural=0",
}
TRANSLATED = [lang for lang in LANGUAGES if lang != DEFAULT]
#: Module of the portal → the folder of templates whose catalog has its texts, where the names differ.
TEMPLATES_OF = {
    "money": "money",
    "papers": "money",
    "notice_mail": "money",
    "auth": "access",
    "letters": "access",
    "security": "account",
    "email": "account",
    "external": "account",
    "request_log": "usage",
    "bodies": "usage",
    "log_export": "usage",
    "passkeys": "account",
    "proofs": "account",
    "recovery": "access",
    "docs": "guide",
    "home": "pages",
    "playground": "studio",
    "transcribe": "studio",
    "corrections": "admin",
    "selling": "admin",
    "insight": "admin",
}
#: A text: its singular, and its plural if it has one.
Text = tuple[str, ...]
Translations = dict[str, tuple[str, ...]]


def domains() -> dict[str, list[Path]]:
    """Part of the portal → its files: a folder of templates and the module of its name; the rest is `frame`."""
    parts = {"frame": []} | {folder.name: [] for folder in sorted(TEMPLATES.iterdir()) if folder.is_dir()}
    for path in sorted(PORTAL.rglob("*.py")):
        name = path.parent.name if path.parent.name in TEMPLATES_OF else path.stem
        part = TEMPLATES_OF.get(name, name)
        parts[part if part in parts else "frame"].append(path)
    for path in sorted(TEMPLATES.rglob("*.html")):
        parts[path.relative_to(TEMPLATES).parts[0]].append(path)
    return parts


def texts() -> dict[str, list[Text]]:
    """Return part → its texts in order of appearance; each text once, in the first part that has it."""
    seen: set[str] = set()
    found: dict[str, list[Text]] = {}
    for part, paths in domains().items():
        found[part] = []
        for text in (text for path in paths for text in _texts_of(path)):
            if text[0] not in seen:
                seen.add(text[0])
                found[part].append(text)
    return found


def _texts_of(path: Path) -> Iterator[Text]:
    if path.suffix == ".html":
        options = {"trimmed": "true", "trim_blocks": "true", "lstrip_blocks": "true", "newstyle_gettext": "true"}
        rows: Iterable[Any] = extract_from_file("jinja2.ext.babel_extract", path, KEYWORDS, options=options)
        messages: Iterable[Any] = (row[1] for row in rows)
    else:
        with path.open("rb") as file:
            messages = [row[2] for row in extract_python(file, list(KEYWORDS), (), {})]
    for message in messages:
        parts = message if isinstance(message, tuple | list) else (message,)
        # A call whose argument is no text has nothing to translate.
        if found := tuple(part for part in parts[:2] if part):
            yield found


def catalog(lang: str) -> Translations:
    """Return singular → its translation, from all files of a language."""
    known: Translations = {}
    for path in sorted((FOLDER / lang / "LC_MESSAGES").glob("*.po")):
        with path.open("rb") as file:
            for message in read_po(file):
                strings = message.string if isinstance(message.string, tuple) else (message.string,)
                if message.id and all(strings):
                    known[message.id if isinstance(message.id, str) else message.id[0]] = tuple(strings)
    return known


def po_text(lang: str, wanted: list[Text], known: Translations) -> str:
    """Return the text of one .po file. It depends on its texts only, so that diffs are small."""
    header = f"Language: {lang}\nContent-Type: text/plain; charset=utf-8\nPlural-Forms: {PLURALS[lang]};\n"
    entries = [f'msgid ""\nmsgstr {normalize(header)}\n']
    forms = 2 if "nplurals=2" in PLURALS[lang] else 1
    for text in wanted:
        strings = known.get(text[0], ())
        entry = f"msgid {normalize(text[0], width=110)}\n"
        if len(text) == 1:
            entry += f"msgstr {normalize(strings[0] if strings else '', width=110)}\n"
        else:
            entry += f"msgid_plural {normalize(text[1], width=110)}\n"
            for form in range(forms):
                string = strings[form] if form < len(strings) else ""
                entry += f"msgstr[{form}] {normalize(string, width=110)}\n"
        if "%(" in text[0]:
            entry = "#, python-format\n" + entry
        entries.append(entry)
    return "\n".join(entries)


def catalogs(more: dict[str, Any] | None = None) -> dict[Path, str]:
    """Return path → text of every .po file as it should be."""
    found, files = texts(), {}
    for lang in TRANSLATED:
        known = catalog(lang)
        for english, translated in (more or {}).items():
            if lang in translated:
                new = translated[lang]
                known[english] = (new,) if isinstance(new, str) else tuple(new)
        for part, wanted in found.items():
            files[FOLDER / lang / "LC_MESSAGES" / f"{part}.po"] = po_text(lang, wanted, known)
    return files


def missing() -> list[tuple[str, str]]:
    """Return (language, English text) of every missing translation."""
    wanted = [text for part in texts().values() for text in part]
    return [
        (lang, text[0]) for lang in TRANSLATED for known in [catalog(lang)] for text in wanted if text[0] not in known
    ]


def main() -> int:
    """Update every .po file and list missing translations."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.messages", description="Update the portal's .po files and list missing translations."
    )
    parser.add_argument("--fill", type=Path, help="a JSON file of translations to add")
    options = parser.parse_args()
    more = json.loads(options.fill.read_text("utf-8")) if options.fill else None
    for path, text in catalogs(more).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    untranslated = missing()
    for lang, text in untranslated:
        sys.stdout.write(f"{lang}: {text}\n")
    return 1 if untranslated else 0


if __name__ == "__main__":
    sys.exit(main())
