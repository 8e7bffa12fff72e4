"""The GPU engine as it is run: in a child process, of which the server knows plain data only."""

from __future__ import annotations

import asyncio

import pytest

from minitoolai.core.errors import EngineRefused
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.protocols import ImageRequest
from tests.engines.diffusers.conftest import Checkpoints


@pytest.mark.acceptance
def test_a_child_process_draws_several_pictures_of_a_file_together(checkpoints: Checkpoints) -> None:
    from tests.support.diffusion import pixels_of

    models = {name: {"weights": name, "schedule": "discrete"} for name in ("xl.safetensors", "one-folder")}
    config = {"models": models, "folder": str(checkpoints.folder), "device": "cpu", "rows_per_call": 4}

    async def test() -> None:
        engine = EngineProcess("diffusers", "minitoolai.engines.diffusers.engine", config, rows=4, silence_s=60)
        assert engine.why_not_ready("xl.safetensors") is None
        await engine.start()
        try:
            told: list[tuple[int, int]] = []
            asked = [ImageRequest(prompt="a red apple", width=64, height=80, seed=seed, steps=2) for seed in range(3)]
            drawn = await asyncio.gather(
                *(engine.draw("xl.safetensors", request, lambda *step: told.append(step)) for request in asked),
                engine.draw("one-folder", asked[0], lambda *step: None),
            )
            assert [image.model for image in drawn] == ["xl", "xl", "xl", "one-folder"]
            assert {pixels_of(image.png).shape for image in drawn} == {(80, 64, 3)}
            assert len({image.png for image in drawn}) == 4
            assert told[-1] == (2, 2)
            with pytest.raises(EngineRefused, match="UniPC"):
                await engine.draw("one-folder", ImageRequest(prompt="x", scheduler="UniPC"), lambda *step: None)
        finally:
            await engine.stop()

    asyncio.run(test())
