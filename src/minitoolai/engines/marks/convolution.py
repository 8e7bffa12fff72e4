"""A convolutional code: encode few bits as many weak signs, and decode them by their reliability (soft decision).

Rate 1/4 with a memory of 8 bits, tail-biting: the encoder starts in the state in which it ends, so no bits are spent on
its end. The decoder is Viterbi's algorithm, which goes around the code three times and keeps the second lap: by then,
it no longer depends on the states in which it began and ends.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

#: Signs for each bit.
SIGNS_PER_BIT = 4
#: The best known generators of this rate and memory; any two codes differ in at least 24 signs.
_GENERATORS = (0o463, 0o535, 0o733, 0o745)
_MEMORY = 8
_STATES = 1 << _MEMORY
_LAPS = 3


@lru_cache(maxsize=1)
def _outputs() -> Floats:
    """Return the four signs for each register of nine bits: the bits before, and the newest as the lowest."""
    registers = np.arange(2 * _STATES)
    return np.array(
        [[1 - 2 * (int(register & generator).bit_count() & 1) for generator in _GENERATORS] for register in registers],
        np.float32,
    )


def encode(code: int, bits: int) -> Floats:
    """Return the signs (bits, 4) of a code; its highest bit is encoded first."""
    values = [code >> bit & 1 for bit in reversed(range(bits))]
    around = values[-_MEMORY:] + values
    registers = [int("".join(map(str, around[at : at + _MEMORY + 1])), 2) for at in range(bits)]
    signs: Floats = _outputs()[registers]
    return signs


def decode(evidence: Floats) -> tuple[int, float]:
    """Return the code that agrees best with the evidence for its signs (bits, 4), and the sum of the agreement."""
    bits = len(evidence)
    # For each step, the agreement of both predecessors of each state: the oldest bit is 0 in one and 1 in the other.
    branches = (evidence @ _outputs().T).reshape(bits, 2, _STATES // 2, 2)
    totals = np.zeros(_STATES, np.float32)
    choices = np.empty((_LAPS * bits, _STATES), bool)
    for step in range(_LAPS * bits):
        both = totals.reshape(2, _STATES // 2, 1) + branches[step % bits]
        np.greater(both[1], both[0], out=choices[step].reshape(_STATES // 2, 2))
        totals = np.maximum(both[0], both[1]).reshape(-1)
    state = int(totals.argmax())
    code = 0
    for step in reversed(range(bits, _LAPS * bits)):
        if step < 2 * bits:
            code |= (state & 1) << (2 * bits - 1 - step)
        state = state >> 1 | int(choices[step, state]) << (_MEMORY - 1)
    return code, float((encode(code, bits) * evidence).sum())
