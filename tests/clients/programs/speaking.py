"""What the Python programs share: abilities by name, one JSON line for each; no import but the standard library."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

BASE_URL, KEY, POOR_KEY = (os.environ[name] for name in ("BASE_URL", "KEY", "POOR_KEY"))
#: Distinguishes one program's requests from another's.
NONCE = os.environ["NONCE"]
QUESTION = [{"role": "user", "content": "Which planet has the most moons?"}]
TEXTS = ["Saturn", "moons", "Saturn"]
BUSY = [{"role": "user", "content": f"busy {NONCE}"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city", "parameters": CITY},
}
PLANET = {
    "type": "object",
    "properties": {"planet": {"type": "string"}},
    "required": ["planet"],
    "additionalProperties": False,
}


def say(ability: str, result: Any) -> None:
    """One line for one ability."""
    print(json.dumps({ability: result}), flush=True)


def main(abilities: dict[str, Callable[[], Any]]) -> None:
    """Show every ability named on the command line; one that fails does not hide the others."""
    for name in sys.argv[1:]:
        try:
            say(name, abilities[name]())
        except Exception as error:  # noqa: BLE001 - whatever a client raises is a result
            traceback.print_exc()
            say(name, {"failed": f"{type(error).__name__}: {error}"})


def refusals(ask: Callable[..., Any]) -> dict[str, str]:
    """The class of exception behind each refusal. `ask(key=…, model=…, temperature=…)` sends one request."""
    cases: dict[str, dict[str, Any]] = {
        "401": {"key": "sk-mt-wrong"},
        "402": {"key": POOR_KEY},
        "404": {"model": "quik"},
        "400": {"temperature": 1.99, "max_tokens": 10**6},
        "429": {"model": "limited"},
    }
    return {status: kind_of_failure(ask, **case) for status, case in cases.items()}


def kind_of_failure(ask: Callable[..., Any], **case: Any) -> str:
    """The name of the exception's class, or that there was none."""
    try:
        ask(**case)
    except Exception as error:  # noqa: BLE001 - its class is what is asked for
        return type(error).__name__
    return "no error"
