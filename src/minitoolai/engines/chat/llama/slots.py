"""Choose the slot of llama.cpp for each request, so that a conversation finds the tokens that are processed already.

llama.cpp would choose by common tokens alone. Then a new conversation could take the slot of another one with the same
system prompt, and an account could learn from `cached_tokens` what another account has sent.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from minitoolai.core.inference import ChatRequest

#: Bytes of a prompt that are compared.
COMPARED_BYTES = 256 * 1024
#: The owner of a slot that no account may reuse.
NO_ACCOUNT = -1
_encode = msgspec.json.Encoder().encode


class Slot(NamedTuple):
    """A slot for one request. `may_reuse`: what the slot holds was sent by the same account."""

    number: int
    may_reuse: bool


class SlotTable:
    """What each slot of one child process holds: the account and the prompt of its last request."""

    def __init__(self, slots: int) -> None:
        #: Free slots with account and prompt, the one that has been free for longest first.
        self._free: dict[int, tuple[int, bytes]] = dict.fromkeys(range(slots), (NO_ACCOUNT, b""))

    def take(self, account_id: int, prompt: bytes) -> Slot | None:
        """Return the account's slot that holds most of the prompt, or else the slot that has been free for longest.

        None if no slot is free.
        """
        if not self._free:
            return None
        prompt = prompt[:COMPARED_BYTES]
        number, most = next(iter(self._free)), 0
        for candidate, (owner, held) in self._free.items():
            common = common_bytes(held, prompt) if owner == account_id else 0
            if common > most and _is_worth(common, held, prompt):
                number, most = candidate, common
        owner, _ = self._free.pop(number)
        return Slot(number, owner == account_id)

    def give_back(self, slot: Slot, account_id: int, prompt: bytes) -> None:
        """Note what a slot holds after a request."""
        self._free[slot.number] = (account_id, prompt[:COMPARED_BYTES])


def _is_worth(common: int, held: bytes, prompt: bytes) -> bool:
    """Return True if a prompt continues what a slot holds, or if at least half of it is there.

    Otherwise the slot is better kept for the conversation that it holds. A bracket closes what continues.
    """
    return common >= len(held) - 1 or 2 * common >= len(prompt)


def compared_prompt(request: ChatRequest) -> bytes:
    """Return the prompt as bytes. A conversation that continues begins with the bytes of its previous request."""
    tools = request.fields.get("tools")
    if request.prompt is not None:
        return _encode(request.prompt)
    return _encode(tools) + _encode(request.messages)


def common_bytes(a: bytes, b: bytes) -> int:
    """Return the length of the common beginning. A search by halves, because a loop in Python takes milliseconds."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
