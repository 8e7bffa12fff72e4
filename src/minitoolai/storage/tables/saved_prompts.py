"""Rows of the prompts that members save in the playground. Each belongs to one member of one account."""

from __future__ import annotations

import msgspec

from minitoolai.storage.database import Connection, Row

_COLUMNS = "id, name, model, instructions, message, settings, changed_ms"


class SavedPrompt(msgspec.Struct, frozen=True):
    """A prompt with its model and settings. `settings` are the other fields of the form as text, by name."""

    id: int
    name: str
    model: str
    instructions: str
    message: str
    settings: dict[str, str]
    changed_ms: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


def _of_row(row: Row) -> SavedPrompt:
    prompt_id, name, model, instructions, message, settings, changed_ms = row
    return SavedPrompt(prompt_id, name, model, instructions, message, _decode(settings), changed_ms)


def of_member(connection: Connection, account_id: int, user_id: int) -> list[SavedPrompt]:
    """Return the prompts of a member, the one changed last first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM saved_prompts WHERE user_id = ? AND account_id = ? ORDER BY changed_ms DESC, id DESC",
        (user_id, account_id),
    )
    return [_of_row(row) for row in rows]


def find(connection: Connection, account_id: int, user_id: int, prompt_id: int) -> SavedPrompt | None:
    """Return a prompt of this member, or None."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM saved_prompts WHERE id = ? AND user_id = ? AND account_id = ?",
        (prompt_id, user_id, account_id),
    )
    return _of_row(rows[0]) if rows else None


def insert(connection: Connection, account_id: int, user_id: int, prompt: SavedPrompt, most: int) -> bool:
    """Add a prompt. Return False if the member has `most` already."""
    # Lock the account, so that two requests at the same time cannot both add the last one.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    number = connection.execute(
        "SELECT count(*) FROM saved_prompts WHERE user_id = ? AND account_id = ?", (user_id, account_id)
    )
    if number[0][0] >= most:
        return False
    connection.execute(
        "INSERT INTO saved_prompts (id, account_id, user_id, name, model, instructions, message, settings, changed_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (prompt.id, account_id, user_id, prompt.name, prompt.model, prompt.instructions, prompt.message,
         _encode(prompt.settings).decode(), prompt.changed_ms),
    )  # fmt: skip
    return True


def update(connection: Connection, account_id: int, user_id: int, prompt: SavedPrompt) -> bool:
    """Replace the contents of a prompt. Return False if this member has no such prompt."""
    values = (
        prompt.name, prompt.model, prompt.instructions, prompt.message, _encode(prompt.settings).decode(),
        prompt.changed_ms, prompt.id, user_id, account_id,
    )  # fmt: skip
    changed = connection.execute_many(
        "UPDATE saved_prompts SET name = ?, model = ?, instructions = ?, message = ?, settings = ?, changed_ms = ?"
        " WHERE id = ? AND user_id = ? AND account_id = ?",
        [values],
    )
    return bool(changed)


def delete(connection: Connection, account_id: int, user_id: int, prompt_id: int) -> bool:
    """Delete a prompt. Return False if this member has no such prompt."""
    deleted = connection.execute_many(
        "DELETE FROM saved_prompts WHERE id = ? AND user_id = ? AND account_id = ?", [(prompt_id, user_id, account_id)]
    )
    return bool(deleted)
