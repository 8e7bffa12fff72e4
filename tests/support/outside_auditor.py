"""Audit charges from outside: a client keeps what it received, counts it itself and compares the books with that.

The ledger's own audit compares the books with themselves. This one shares no code with the program: it knows what the
upstream sent and reported, what the client received, and counts tokens with OpenAI's encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support import tiktokens
from tests.support.load import Seen
from tests.support.server import ServerProcess

#: The text of each choice and field.
Texts = dict[tuple[int, str], str]
#: Shares of the true cost that a charge without a reported usage must have: with the engine's tokenizer, and without.
COUNTED, GUESSED = (0.5, 1.0), (0.2, 1.75)
#: Tokens that a template adds, or that appear where a text is cut.
SLACK = 4


@dataclass
class Truth:
    """What the upstream did for one request."""

    #: Tokens of the prompt, and what was sent in response.
    prompt: int
    sent: Texts = field(default_factory=dict)
    #: Prompt and output tokens of an honest report; None if the upstream reported nothing or nonsense.
    told: tuple[int, int] | None = None
    #: The engine's tokenizer is in the catalog, and the engine is read to its end after its client left.
    is_named: bool = True
    is_read_on: bool = False

    @property
    def output(self) -> int:
        return count(self.sent)


def count(texts: Texts) -> int:
    """Return the true tokens of these texts."""
    return sum(map(tiktokens.count, texts.values()))


def add_delta(texts: Texts, choice: int, delta: Mapping[str, Any]) -> None:
    """Add the strings of a delta or a message to the texts of its choice."""
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list):
            for call in value:
                function = call.get("function", {})
                for part in ("name", "arguments"):
                    key = (choice, f"{part} {call.get('index', 0)}")
                    texts[key] = texts.get(key, "") + (function.get(part) or "")
        elif name != "role" and isinstance(value, str):
            texts[choice, name] = texts.get((choice, name), "") + value


def received(seen: Seen) -> Texts:
    """Return the text that a client received."""
    texts: Texts = {}
    if seen.body.startswith(b"{"):
        for choice in json.loads(seen.body).get("choices", ()):
            add_delta(texts, choice["index"], choice["message"])
        return texts
    for event in seen.body.split(b"\n\n")[: None if seen.done else -1]:
        if event.startswith(b"data: {"):
            for choice in json.loads(event[6:]).get("choices", ()):
                add_delta(texts, choice["index"], choice["delta"])
    return texts


class OutsideAuditor:
    """Compare charges with what clients received. `findings` is empty if all of them are right."""

    def __init__(self, price_input: int, price_output: int) -> None:
        self._prices = price_input, price_output
        self.findings: list[str] = []
        self.checked = 0

    def check(self, case: object, seen: Seen, truth: Truth, row: Mapping[str, Any]) -> None:
        """Check one charge: what a client noted, what the upstream did, and the row of the generation."""
        self.checked += 1
        self.findings += [f"{case}: {finding}" for finding in self._check(seen, truth, row)]

    def check_end(self, case: object, seen: Seen, row: Mapping[str, Any]) -> None:
        """Check only that an end which the client saw is a success in the books, with the usage that was shown."""
        self.checked += 1
        units = row["input_units"], row["output_units"]
        self.findings += [f"{case}: {finding}" for finding in self._check_end(seen, row, units)]

    def _check(self, seen: Seen, truth: Truth, row: Mapping[str, Any]) -> list[str]:
        got = received(seen)
        units = row["input_units"], row["output_units"]
        wrong = [
            f"the client noted {text[-40:]!r}, which the upstream did not send as {key}"
            for key, text in got.items()
            if not truth.sent.get(key, "").startswith(text)
        ]
        cost = self._cost(*units)
        if row["cost"] != cost:
            wrong.append(f"{row['cost']} were charged for {units}, which cost {cost}")
        has_ended = seen.done and seen.status == 200
        if has_ended:
            wrong += self._check_end(seen, row, units)
        elif row["state"] == "succeeded" and not seen.left:
            wrong.append("the books say succeeded, but no end was seen")
        if truth.told is not None and (has_ended or truth.is_read_on):
            if units != truth.told or row["estimated"]:
                wrong.append(f"{units} were charged instead of the reported {truth.told}")
            return wrong
        if units == truth.told:
            # The client left when all was said.
            return wrong
        return wrong + self._check_range(got, truth, row)

    def _check_end(self, seen: Seen, row: Mapping[str, Any], units: tuple[int, int]) -> list[str]:
        wrong = [] if row["state"] == "succeeded" else [f"an end was seen, but the books say {row['state']}"]
        usage = seen.usage
        shown = None if usage is None else (usage["prompt_tokens"], usage["completion_tokens"])
        if shown is not None and shown != units:
            wrong.append(f"{units} were charged and {shown} shown")
        return wrong

    def _check_range(self, got: Texts, truth: Truth, row: Mapping[str, Any]) -> list[str]:
        """Check a charge that rests on our own count: a part of the true cost of what was delivered."""
        least, most = COUNTED if truth.is_named else GUESSED
        # What was on its way when the client left was delivered as well, or not.
        low = self._cost(truth.prompt, count(got)) if any(got.values()) else 0
        high = self._cost(truth.prompt + SLACK, truth.output + SLACK) if any(truth.sent.values()) else 0
        if not int(low * least) <= row["cost"] <= high * most:
            return [f"{row['cost']} were charged; the true cost is {low} to {high}"]
        return [] if row["cost"] == 0 or row["estimated"] else [f"{row['cost']} were charged, not marked as estimated"]

    def _cost(self, prompt: int, output: int) -> int:
        return prompt * self._prices[0] + output * self._prices[1]


def audit_ends(server: ServerProcess, answers: Iterable[Seen]) -> list[str]:
    """Check that every end which a client saw is in the books as a success, with the usage that it was shown."""
    auditor = OutsideAuditor(0, 0)
    for seen in answers:
        if seen.done and seen.status == 200 and seen.name:
            auditor.check_end(seen.name, seen, server.generation(seen.name))
    return auditor.findings
