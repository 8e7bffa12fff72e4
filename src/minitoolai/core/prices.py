"""Price tokens by bucket: input, cached input, cache writes, output, reasoning and so on, with tiers by prompt length.

Providers charge a tenth for a token read from a prompt cache, a quarter more for one written to it, and up to twice as
much for long prompts. Selling and purchase prices have the same buckets, so the margin of a request is exact.

Prices are pico-dollars (10^-12 dollars) per token, which is six decimals of a dollar per million tokens. The ledger
keeps nano-dollars, so a cost is rounded once per request, up.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from minitoolai.core.inference import Usage

PICO_PER_NANO = 1000
#: Buckets of prompt tokens, then of output tokens. A bucket without a price of its own costs as the first of its line.
INPUT_BUCKETS = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
OUTPUT_BUCKETS = ("output", "reasoning", "audio_output")
#: Buckets that need no price.
OPTIONAL_BUCKETS = (*INPUT_BUCKETS[1:], *OUTPUT_BUCKETS[1:])


class PricedUnits(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of one bucket and their price in pico-dollars each. The bucket `request` has one unit."""

    bucket: str
    units: int
    price: int


_encode_parts = msgspec.json.Encoder().encode
decode_parts = msgspec.json.Decoder(list[PricedUnits]).decode


class Tier(msgspec.Struct, frozen=True):
    """Prices of a request with a prompt of more than `above` tokens. They apply to all of its tokens."""

    above: int
    prices: Prices


class Prices(msgspec.Struct, frozen=True):
    """Prices of one model in pico-dollars per token. Make them with `Prices.of`."""

    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    audio_input: int
    image_input: int
    output: int
    reasoning: int
    audio_output: int
    #: Pico-dollars per request that used any tokens.
    request: int = 0
    #: By ascending prompt length.
    tiers: tuple[Tier, ...] = ()
    #: Every prompt token costs `input`, every output token `output`, and both are whole nano-dollars.
    is_flat: bool = True

    @classmethod
    def of(
        cls, input: int, output: int = 0, *, request: int = 0, tiers: tuple[Tier, ...] = (), **buckets: int
    ) -> Prices:
        """Return prices in which a bucket that is not given costs as `input` or `output`."""
        read = {name: buckets.get(name, input) for name in INPUT_BUCKETS}
        written = {name: buckets.get(name, output) for name in OUTPUT_BUCKETS}
        is_flat = (
            not tiers
            and not request
            and set(read.values()) == {input}
            and set(written.values()) == {output}
            and input % PICO_PER_NANO == output % PICO_PER_NANO == 0
        )
        return cls(**read, **written, request=request, tiers=tiers, is_flat=is_flat)

    @classmethod
    def of_nano(cls, input: int, output: int = 0) -> Prices:
        """Return flat prices, given in nano-dollars per unit."""
        return cls.of(input * PICO_PER_NANO, output * PICO_PER_NANO)

    @property
    def input_nano(self) -> int:
        """Return the price of an input token in nano-dollars, rounded up."""
        return to_nano(self.input)

    @property
    def output_nano(self) -> int:
        """Return the price of an output token in nano-dollars, rounded up."""
        return to_nano(self.output)

    def cost(self, usage: Usage) -> int:
        """Return the cost of a request in nano-dollars, rounded up."""
        if self.is_flat:
            return (usage.prompt_tokens * self.input + usage.completion_tokens * self.output) // PICO_PER_NANO
        return _total(self.split(usage))

    def split(self, usage: Usage) -> list[PricedUnits]:
        """Return the tokens of a request by bucket, each token in one. A bucket without tokens is left out."""
        tier = self.at(usage.prompt_tokens)
        parts = [PricedUnits(name, units, getattr(tier, name)) for name, units in _units(usage) if units]
        if parts and tier.request:
            parts.append(PricedUnits("request", 1, tier.request))
        return parts

    def charge(self, usage: Usage) -> tuple[int, str | None]:
        """Return the cost in nano-dollars, and the split as JSON.

        The split is None if the counts and prices of the generation's row say the same.
        """
        if self.is_flat:
            return self.cost(usage), None
        parts = self.split(usage)
        is_whole = self.input % PICO_PER_NANO == self.output % PICO_PER_NANO == 0
        is_plain = is_whole and all(
            part.bucket in ("input", "output") and part.price == getattr(self, part.bucket) for part in parts
        )
        return _total(parts), None if is_plain else _encode_parts(parts).decode()

    def most_per_input(self, prompt_tokens: int) -> int:
        """Return the highest price of one token of a prompt of at most this many, in pico-dollars."""
        return max(max(tier._prices(INPUT_BUCKETS)) for tier in self._reachable(prompt_tokens))

    def most_per_output(self, prompt_tokens: int) -> int:
        """Return the highest price of one output token after a prompt of at most this many, in pico-dollars."""
        return max(max(tier._prices(OUTPUT_BUCKETS)) for tier in self._reachable(prompt_tokens))

    def most_per_request(self, prompt_tokens: int) -> int:
        """Return the highest fee for one request with a prompt of at most this many tokens, in pico-dollars."""
        return max(tier.request for tier in self._reachable(prompt_tokens))

    def _prices(self, buckets: tuple[str, ...]) -> list[int]:
        return [getattr(self, name) for name in buckets]

    def at(self, prompt_tokens: int) -> Prices:
        """Return the prices of a request with a prompt of this many tokens."""
        return next((tier.prices for tier in reversed(self.tiers) if prompt_tokens > tier.above), self)

    def _reachable(self, prompt_tokens: int) -> Iterator[Prices]:
        """Yield the prices of every tier that a prompt of at most this many tokens can be in."""
        yield self
        yield from (tier.prices for tier in self.tiers if prompt_tokens > tier.above)


def _total(parts: list[PricedUnits]) -> int:
    return to_nano(sum(part.units * part.price for part in parts))


def to_nano(pico: int) -> int:
    """Round up to nano-dollars."""
    return -(-pico // PICO_PER_NANO)


def _units(usage: Usage) -> Iterator[tuple[str, int]]:
    """Yield how many tokens of the usage are in each bucket.

    Details that exceed their sum are cut. Cached tokens come first: an upstream that counts the cached tokens of an
    image or a recording as both means one discount, not two charges.
    """
    left = usage.prompt_tokens
    for name, reported in usage.prompt_buckets():
        units = min(reported, left)
        left -= units
        yield name, units
    yield "input", left
    left = usage.completion_tokens
    for name, reported in usage.output_buckets():
        units = min(reported, left)
        left -= units
        yield name, units
    yield "output", left
