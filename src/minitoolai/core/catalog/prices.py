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


#: Buckets with sums of their own in `usage_buckets`. All others have the prices of the model's input and output.
APART = (*OPTIONAL_BUCKETS, "request")


class PricedUnits(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of one bucket and their price in pico-dollars each. The bucket `request` has one unit."""

    bucket: str
    units: int
    price: int


def nano_of(part: PricedUnits) -> int:
    """Return the cost of a part in whole nano-dollars, rounded down: the parts of a request never exceed its cost."""
    return part.units * part.price // PICO_PER_NANO


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
    # Computed once, because every request asks for them:
    #: `input` and `output` in nano-dollars, rounded up.
    input_nano: int = 0
    output_nano: int = 0
    #: The highest prices of one prompt token and of one output token, without those of the tiers.
    most_input: int = 0
    most_output: int = 0
    #: A request with input and output tokens only, outside all tiers, costs whole nano-dollars without a fee.
    is_plain: bool = True

    @classmethod
    def of(
        cls, input: int, output: int = 0, *, request: int = 0, tiers: tuple[Tier, ...] = (), **buckets: int
    ) -> Prices:
        """Return prices in which a bucket that is not given costs as `input` or `output`."""
        read = {name: buckets.get(name, input) for name in INPUT_BUCKETS}
        written = {name: buckets.get(name, output) for name in OUTPUT_BUCKETS}
        is_plain = not request and input % PICO_PER_NANO == output % PICO_PER_NANO == 0
        is_flat = is_plain and not tiers and set(read.values()) == {input} and set(written.values()) == {output}
        return cls(
            **read,
            **written,
            request=request,
            tiers=tiers,
            is_flat=is_flat,
            input_nano=to_nano(input),
            output_nano=to_nano(output),
            most_input=max(read.values()),
            most_output=max(written.values()),
            is_plain=is_plain,
        )

    @classmethod
    def of_nano(cls, input: int, output: int = 0) -> Prices:
        """Return flat prices, given in nano-dollars per unit."""
        return cls.of(input * PICO_PER_NANO, output * PICO_PER_NANO)

    def cost(self, usage: Usage) -> int:
        """Return the cost of a request in nano-dollars, rounded up."""
        cost = self._plain_cost(usage)
        return _total(self.split(usage)) if cost is None else cost

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
        cost = self._plain_cost(usage)
        if cost is not None:
            return cost, None
        parts = self.split(usage)
        is_whole = self.input % PICO_PER_NANO == self.output % PICO_PER_NANO == 0
        says_the_same = is_whole and all(
            part.bucket in ("input", "output") and part.price == getattr(self, part.bucket) for part in parts
        )
        return _total(parts), None if says_the_same else _encode_parts(parts).decode()

    def _plain_cost(self, usage: Usage) -> int | None:
        """Return the cost if it is that of input and output tokens alone, as for most requests. Otherwise None."""
        if self.is_flat or (
            self.is_plain and usage.is_plain and (not self.tiers or self.at(usage.prompt_tokens) is self)
        ):
            return (usage.prompt_tokens * self.input + usage.completion_tokens * self.output) // PICO_PER_NANO
        return None

    def most(self, prompt_tokens: int) -> tuple[int, int, int]:
        """Return the highest prices that a request with a prompt of at most this many tokens can have, in pico-dollars.

        Of one prompt token, of one output token, and the fee.
        """
        if not self.tiers:
            return self.most_input, self.most_output, self.request
        reachable = self._reachable(prompt_tokens)
        return (
            max(prices.most_input for prices in reachable),
            max(prices.most_output for prices in reachable),
            max(prices.request for prices in reachable),
        )

    def highest(self, prompt_tokens: int) -> tuple[int, int, int]:
        """Return the highest price of an uncached input token, of an output token, and per request, in pico-dollars.

        For a prompt of at most this many tokens.
        """
        tiers = self._reachable(prompt_tokens)
        return max(t.input for t in tiers), max(t.output for t in tiers), max(t.request for t in tiers)

    def _reachable(self, prompt_tokens: int) -> list[Prices]:
        """Return the prices of every tier that a prompt of at most this many tokens can be in."""
        return [self, *(tier.prices for tier in self.tiers if prompt_tokens > tier.above)]

    def at(self, prompt_tokens: int) -> Prices:
        """Return the prices of a request with a prompt of this many tokens."""
        return next((tier.prices for tier in reversed(self.tiers) if prompt_tokens > tier.above), self)


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
