"""The code that corrects errors: what it survives, and that it is decoded as well as possible."""

from __future__ import annotations

import numpy as np
import pytest

from minitoolai.engines.marks.convolution import SIGNS_PER_BIT, decode, encode

BITS = 48
CODES = [0, 1, 2**48 - 1, 2**47, 0x123456789ABC]


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_decoded(code: int) -> None:
    signs = encode(code, BITS)
    assert signs.shape == (BITS, SIGNS_PER_BIT)
    assert decode(signs) == (code, BITS * SIGNS_PER_BIT)


@pytest.mark.parametrize("code", CODES)
def test_an_eighth_of_the_signs_may_be_wrong_and_another_lost(code: int) -> None:
    rng = np.random.default_rng(code % 1000)
    for _ in range(5):
        evidence = encode(code, BITS).copy()
        wrong = rng.choice(evidence.size, evidence.size // 8, replace=False)
        lost = rng.choice(evidence.size, evidence.size // 8, replace=False)
        evidence.reshape(-1)[wrong] *= -0.5
        evidence.reshape(-1)[lost] = 0
        assert decode(evidence)[0] == code


def test_any_two_codes_differ_in_24_signs() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        code = int(rng.integers(2**48))
        others = [code ^ 1 << int(bit) for bit in rng.integers(0, 48, 3)] + [int(rng.integers(2**48))]
        for other in others:
            assert (encode(code, BITS) != encode(other, BITS)).sum() >= 24


def test_noise_fits_no_code_well() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        evidence = rng.normal(size=(BITS, SIGNS_PER_BIT)).astype(np.float32)
        assert decode(evidence)[1] < 8.1 * np.sqrt((evidence**2).sum())
