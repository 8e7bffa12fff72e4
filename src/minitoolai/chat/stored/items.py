"""Names of responses and of their items, and the items of a conversation.

The name of an item contains that of its response, so an item needs no row of its own: `msg_0123456789a_1` is in the
output of `resp_0123456789a`, and `msg_0123456789a_i0` is the first item of its input.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from minitoolai.core.clock import generation_name, parse_generation_name

Json = dict[str, Any]
_ITEM = re.compile(r"[a-z]{1,8}_([0-9A-Za-z]{11})_(i?)([0-9]{1,6})")
#: Type of an input item → prefix of its name.
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
REFERENCE = "item_reference"


def response_name(number: int) -> str:
    """Return the public ID of a response."""
    return f"resp_{generation_name(number)[4:]}"


def parse_response_name(name: str) -> int | None:
    """Return the number in `resp_…`, or None for any other text."""
    if not name.startswith("resp_"):
        return None
    return parse_generation_name(f"gen-{name[5:]}")


class ItemPlace(NamedTuple):
    """Where an item is stored."""

    response: int
    is_input: bool
    place: int


def parse_item_name(name: str) -> ItemPlace | None:
    """Return where the item with this ID is stored, or None if this server did not make the ID."""
    match = _ITEM.fullmatch(name)
    number = parse_generation_name(f"gen-{match[1]}") if match else None
    return None if match is None or number is None else ItemPlace(number, bool(match[2]), int(match[3]))


def type_of(item: Json) -> Any:
    """Return the type of an input item. Messages and references may have none."""
    if item.get("type") is not None:
        return item["type"]
    return REFERENCE if {key for key in item if item[key] is not None} == {"id"} else "message"


def references_in(input_: Any) -> list[str]:
    """Return the IDs that the references in the input of a request name. Invalid ones are left out."""
    if not isinstance(input_, list):
        return []
    return [
        item["id"]
        for item in input_
        if isinstance(item, dict) and type_of(item) == REFERENCE and item.get("id") and isinstance(item["id"], str)
    ]


def input_list(input_: Any) -> list[Any]:
    """Return the input of a valid request as a list of items."""
    return [{"type": "message", "role": "user", "content": input_}] if isinstance(input_, str) else list(input_)


def with_names(number: int, input_: Any) -> list[Json]:
    """Return the items of a stored input as they are listed: each with an ID, and messages with a list of parts."""
    suffix = generation_name(number)[4:]
    items = []
    for index, item in enumerate(input_list(input_)):
        kind = type_of(item)
        if kind == REFERENCE:
            items.append({"type": REFERENCE, "id": item["id"]})
            continue
        name = item.get("id")
        if not isinstance(name, str) or not name:
            name = f"{_PREFIXES[kind]}_{suffix}_i{index}"
        named = {**item, "id": name, "type": kind}
        if kind != "reasoning":
            named.setdefault("status", "completed")
        if kind == "message" and isinstance(item.get("content"), str):
            part = "output_text" if item["role"] == "assistant" else "input_text"
            content: Json = {"type": part, "text": item["content"]}
            named["content"] = [content | ({"annotations": []} if part == "output_text" else {})]
        items.append(named)
    return items
