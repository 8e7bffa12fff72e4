"""Codes of watermarks: what they say, who can read them, and how rarely noise passes for one."""

from __future__ import annotations

import itertools
import random

from minitoolai.core.marks import MarkCodec
from minitoolai.core.signing import SecretKeys

CREATED_MS = 1_790_000_123_456


def test_a_code_says_the_second_and_fits_its_generation() -> None:
    codec = MarkCodec(SecretKeys(b"a" * 32))
    mark = codec.watermark(4711, CREATED_MS)
    assert 0 <= mark.code < 2**48
    read = codec.read(mark.code, mark.key)
    assert read is not None
    assert (read.second, read.is_of(4711)) == (CREATED_MS // 1000, True)
    assert sum(read.is_of(other) for other in range(16_000)) < 1_300


def test_a_mark_stays_readable_after_the_key_was_rotated() -> None:
    mark = MarkCodec(SecretKeys(b"old" * 11)).watermark(4711, CREATED_MS)
    rotated = MarkCodec(SecretKeys(b"new" * 11, [b"old" * 11]))
    assert mark.key in rotated.signal_keys()
    read = rotated.read(mark.code, mark.key)
    assert read is not None
    assert read.is_of(4711)
    assert rotated.watermark(4711, CREATED_MS).key != mark.key
    assert MarkCodec(SecretKeys(b"new" * 11)).read(mark.code, mark.key) is None


def test_at_most_one_random_code_in_ten_thousand_passes_the_check_bits() -> None:
    codec = MarkCodec(SecretKeys(b"a" * 32))
    rng, key = random.Random(1), codec.signal_keys()[0]
    passed = sum(codec.read(rng.getrandbits(48), key) is not None for _ in range(40_000))
    assert 0 < passed <= 8  # 2.4 are expected: one in 16,384


def test_codes_of_neighbouring_seconds_have_nothing_in_common() -> None:
    codec = MarkCodec(SecretKeys(b"a" * 32))
    codes = [codec.watermark(1, CREATED_MS + 1000 * n).code for n in range(50)]
    distances = [(one ^ two).bit_count() for one, two in itertools.pairwise(codes)]
    assert len(set(codes)) == 50
    assert 18 < sum(distances) / len(distances) < 30
