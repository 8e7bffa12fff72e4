"""Cutting a thing out of its white paper."""

from __future__ import annotations

import numpy as np

from minitoolai.engines.images.compose.layers import cut_out


def test_a_smudge_on_the_paper_is_not_cut_out_and_a_second_part_of_a_thing_is():
    square = np.full((256, 256, 3), 255, np.uint8)
    square[60:160, 60:160] = (200, 40, 30)
    alone = cut_out(square).alpha.shape
    square[200:215, 200:215] = (225, 225, 240)
    assert cut_out(square).alpha.shape == alone
    square[200:215, 200:215] = (90, 90, 200)
    assert cut_out(square).alpha.shape[0] > alone[0] + 40
    pale = np.full((256, 256, 3), 255, np.uint8)
    pale[60:160, 60:160] = (232, 232, 236)
    assert min(cut_out(pale).alpha.shape) >= 96
