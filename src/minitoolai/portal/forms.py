"""What a form sent: read with limits, values kept for showing again, errors next to their fields."""

from __future__ import annotations

from urllib.parse import parse_qsl

from minitoolai.core.errors import BodyTooLarge, InvalidRequest

LARGEST_FORM = 64 * 1024
LARGEST_FIELD = 10_000
MOST_FIELDS = 300


class Form:
    """Fields by name, each a string without surrounding space, and what is wrong with them."""

    def __init__(self, values: dict[str, str] | None = None) -> None:
        self.values = values or {}
        #: Every value of a field that may come several times, such as boxes to tick.
        self.lists: dict[str, list[str]] = {}
        self.errors: dict[str, str] = {}
        #: Whether it shows what was typed before a sign-in.
        self.is_refilled = False

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    def all(self, name: str) -> list[str]:
        """Every value of this name, in their order."""
        return self.lists.get(name, [])

    def clear(self) -> None:
        """Forget what was typed: it has been done."""
        self.values.clear()
        self.lists.clear()

    def secret(self, name: str) -> str:
        """A password: taken out, so that no template can show it again."""
        return self.values.pop(name, "")

    def refuse(self, name: str, why: str) -> None:
        """Say what is wrong with a field (the first fault of a field counts); "" means the form as a whole."""
        self.errors.setdefault(name, why)

    @property
    def is_good(self) -> bool:
        return not self.errors


def parse_form(body: bytes) -> Form:
    """`application/x-www-form-urlencoded`. BodyTooLarge, InvalidRequest."""
    if len(body) > LARGEST_FORM:
        raise BodyTooLarge(f"the form is larger than {LARGEST_FORM // 1024} kB")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidRequest("the form cannot be read") from error
    form = Form()
    for name, value in pairs:
        # A NUL is no character for PostgreSQL, nor for people.
        text = value.replace("\0", "")[:LARGEST_FIELD]
        text = text if name.startswith("password") else text.strip()
        form.values.setdefault(name, text)
        if not name.startswith("password"):
            form.lists.setdefault(name, []).append(text)
    return form
