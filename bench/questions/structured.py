"""Questions for JSON and for tools: whether the result is valid, and whether it is right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jsonschema

Json = dict[str, Any]


def _object(**properties: Any) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer"}


class JsonTask(NamedTuple):
    """A question, the schema of its answer (None: any object), and what holds for a right one."""

    text: str
    schema: Json | None
    holds: Callable[[Any], bool]

    @property
    def response_format(self) -> Json:
        """Return the field of the request."""
        if self.schema is None:
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.schema, "strict": True}}

    def is_valid(self, answer: str) -> bool:
        """Return True if the answer is JSON that conforms to the schema."""
        try:
            jsonschema.validate(json.loads(answer), self.schema or {"type": "object"})
        except (ValueError, jsonschema.ValidationError):
            return False
        return True

    def is_right(self, answer: str) -> bool:
        """Return True if the answer is valid and what it says is right."""
        return self.is_valid(answer) and bool(self.holds(json.loads(answer)))


JSON_TASKS = [
    JsonTask("Extract the person: 'Ann Lee is 33 years old.'", _object(name=_TEXT, age=_WHOLE), lambda v: "Ann" in v["name"] and v["age"] == 33),
    JsonTask("Extract city and country: 'I live in Lyon, France.'", _object(city=_TEXT, country=_TEXT), lambda v: (v["city"], v["country"]) == ("Lyon", "France")),
    JsonTask("Is this review positive or negative? 'I love this phone, it is great!'", _object(sentiment={"enum": ["positive", "negative"]}), lambda v: v["sentiment"] == "positive"),
    JsonTask("Is this review positive or negative? 'Broken after two days, a waste of money.'", _object(sentiment={"enum": ["positive", "negative"]}), lambda v: v["sentiment"] == "negative"),
    JsonTask("List the fruits in this text: 'She bought apples, a hammer and pears.'", _object(fruits={"type": "array", "items": _TEXT, "maxItems": 5}), lambda v: {fruit.lower().rstrip("s") for fruit in v["fruits"]} == {"apple", "pear"}),
    JsonTask("Extract the order: '3 shirts at 20 dollars each'", _object(item=_TEXT, quantity=_WHOLE, price=_WHOLE), lambda v: (v["quantity"], v["price"]) == (3, 20)),
    JsonTask("Extract the date of: 'The meeting is on 5 March 2026.'", _object(date={"type": "string", "format": "date"}), lambda v: v["date"] == "2026-03-05"),
    JsonTask("Is Paris the capital of France?", _object(answer={"type": "boolean"}), lambda v: v["answer"] is True),
    JsonTask("Which color has a ripe banana?", _object(color={"enum": ["red", "yellow", "blue"]}), lambda v: v["color"] == "yellow"),
    JsonTask("Extract the e-mail address, or null if there is none: 'Write to bob@example.com.'", _object(email={"type": ["string", "null"]}), lambda v: v["email"] == "bob@example.com"),
    JsonTask("Extract the phone number, or null if there is none: 'I have no phone.'", _object(phone={"type": ["string", "null"]}), lambda v: v["phone"] is None),
    JsonTask("Extract the product code: 'Please send AB-123 today.'", _object(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}), lambda v: v["code"] == "AB-123"),
    JsonTask("Extract both people: 'Tom (40) and Eva (28) came.'", _object(people={"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1, "maxItems": 4}) | {"$defs": {"person": _object(name=_TEXT, age=_WHOLE)}}, lambda v: {(p["name"], p["age"]) for p in v["people"]} == {("Tom", 40), ("Eva", 28)}),
    JsonTask("Give a JSON object with the keys 'capital' and 'country' for Spain.", None, lambda v: v.get("capital") == "Madrid" and v.get("country") == "Spain"),
    JsonTask("Give a JSON object with the key 'sum' that is the sum of 4 and 5.", None, lambda v: v.get("sum") in (9, "9")),
]  # fmt: skip


# ── tools ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _function(name: str, description: str, **properties: Json) -> Json:
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": _object(**properties)},
    }


TOOLS = [
    _function("get_weather", "Get the current weather in a city", city=_TEXT),
    _function("convert_currency", "Convert an amount of money from one currency to another", amount={"type": "number"}, source=_TEXT, target=_TEXT),
    _function("send_email", "Send an e-mail", to=_TEXT, subject=_TEXT, body=_TEXT),
    _function("set_timer", "Start a timer", minutes=_WHOLE),
]  # fmt: skip


class ToolTask(NamedTuple):
    """A question, the function that answers it (None: it is answered in text), and a pattern of the arguments."""

    text: str
    name: str | None
    arguments: str = ""

    def is_valid(self, message: Any) -> bool:
        """Return True if every call names a function and has arguments that conform to its schema."""
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
        for call in message.tool_calls or []:
            try:
                jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
            except (ValueError, KeyError, jsonschema.ValidationError):
                return False
        return True

    def is_right(self, message: Any) -> bool:
        """Return True if the right function was called with the right arguments, or none at all."""
        calls = message.tool_calls or []
        if self.name is None:
            return not calls and bool(message.content)
        return (
            self.is_valid(message)
            and [call.function.name for call in calls][:1] == [self.name]
            and re.search(self.arguments, calls[0].function.arguments, re.IGNORECASE) is not None
        )


TOOL_TASKS = [
    ToolTask("What is the weather in Paris?", "get_weather", "paris"),
    ToolTask("Do I need an umbrella in London today?", "get_weather", "london"),
    ToolTask("How warm is it in Jakarta now?", "get_weather", "jakarta"),
    ToolTask("Wie ist das Wetter in Berlin?", "get_weather", "berlin"),
    ToolTask("¿Qué tiempo hace en Madrid?", "get_weather", "madrid"),
    ToolTask("How much is 100 US dollars in euros?", "convert_currency", "100"),
    ToolTask("Convert 50 euros to Turkish lira.", "convert_currency", "50"),
    ToolTask("I have 20 pounds. What is that in yen?", "convert_currency", "20"),
    ToolTask("Combien font 30 dollars en euros aujourd'hui ?", "convert_currency", "30"),
    ToolTask("Send an e-mail to bob@example.com with the subject 'Lunch' that asks him to come at noon.", "send_email", "bob@example.com"),
    ToolTask("Write to ann@example.org that I am ill today. Subject: Ill.", "send_email", "ann@example.org"),
    ToolTask("E-mail sales@example.com and ask for a price list.", "send_email", "sales@example.com"),
    ToolTask("Set a timer for 10 minutes.", "set_timer", "10"),
    ToolTask("Remind me in 25 minutes.", "set_timer", "25"),
    ToolTask("Stelle einen Timer auf 5 Minuten.", "set_timer", "5"),
    ToolTask("My eggs need 7 minutes, start the clock.", "set_timer", "7"),
    ToolTask("Hello! How are you?", None),
    ToolTask("What is the capital of Italy?", None),
    ToolTask("Translate 'good night' to Spanish.", None),
    ToolTask("Tell me a short joke.", None),
]  # fmt: skip
