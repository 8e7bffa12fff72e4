"""The GPU engine in its child process, configured with plain data."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minitoolai.core.errors import EngineRefused
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.protocols import ImageRequest
from tests.engines.diffusers.conftest import Checkpoints


@pytest.mark.acceptance
def test_a_child_process_generates_several_images_in_one_batch(checkpoints: Checkpoints, tmp_path: Path) -> None:
    from tests.support.diffusion import pixels_of

    loras = {"pencil": str(tmp_path / "half.safetensors")}
    (tmp_path / "half.safetensors").write_bytes(b"")
    models = {
        name: {"weights": name, "schedule": "discrete", "loras": loras} for name in ("xl.safetensors", "one-folder")
    }
    config = {"models": models, "folder": str(checkpoints.folder), "device": "cpu", "rows_per_call": 4}

    async def test() -> None:
        engine = EngineProcess(
            "diffusers", "minitoolai.engines.diffusers.engine", config, max_concurrency=4, silence_s=60
        )
        assert engine.why_not_ready("xl.safetensors") is None
        await engine.start()
        try:
            reported: list[tuple[int, int]] = []
            requests = [
                ImageRequest(prompt="a red apple", width=64, height=80, seed=seed, steps=2) for seed in range(3)
            ]
            images = await asyncio.gather(
                *(
                    engine.generate("xl.safetensors", request, lambda *step: reported.append(step))
                    for request in requests
                ),
                engine.generate("one-folder", requests[0], lambda *step: None),
            )
            assert [image.model for image in images] == ["xl", "xl", "xl", "one-folder"]
            assert {pixels_of(image.png).shape for image in images} == {(80, 64, 3)}
            assert len({image.png for image in images}) == 4
            assert reported[-1] == (2, 2)
            tagged = ImageRequest(prompt="x<lora:pencil:1>", width=64, height=64)
            with pytest.raises(EngineRefused) as refusal:
                await engine.generate("one-folder", tagged, lambda *step: None)
            assert refusal.value.message == "the LoRA 'pencil' cannot be used at the moment: its file is faulty"
            with pytest.raises(EngineRefused, match="UniPC"):
                await engine.generate("one-folder", ImageRequest(prompt="x", scheduler="UniPC"), lambda *step: None)
        finally:
            await engine.stop()

    asyncio.run(test())
