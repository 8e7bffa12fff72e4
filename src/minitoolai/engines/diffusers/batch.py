"""Pictures under way on one checkpoint: each with its own sampler, steps, guidance and prompt, one call for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from minitoolai.engines.base_images import DrawnImage, FailedImage, ImageRequest, OnProgress
from minitoolai.engines.diffusers.diffusers_painter import Painter, Row
from minitoolai.engines.images.codec import covering, parameters_text, png_with
from minitoolai.engines.sampling import Trajectory, model_calls, trajectory
from minitoolai.engines.sampling.noise import GrownNoise

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

#: What A1111 and its readers call timesteps that trail.
TRAILING = "SGM Uniform"
_CHANNELS, _PIXELS_PER_LATENT = 4, 8
#: PNGs are packed beside the next model call.
_PACKERS = 2


class _Picture:
    """One picture under way: where its sampler stands and what it is told."""

    def __init__(
        self, painter: Painter, request: ImageRequest, on_progress: OnProgress | None, *, trailing: bool
    ) -> None:
        self.request = request
        self._on_progress = on_progress
        self._calls, self._calls_total = 0, model_calls(request.scheduler, request.steps)
        self._wanted = painter.conditioning.of(request.prompt)
        self._unwanted = None
        if request.cfg_scale != 1:
            self._unwanted = painter.conditioning.of(request.negative_prompt, is_negative=True)
        shape = _CHANNELS, -(-request.height // _PIXELS_PER_LATENT), -(-request.width // _PIXELS_PER_LATENT)
        noise = GrownNoise(request.seed % 2**64, shape)

        def on_device(array: NDArray[np.float32]) -> torch.Tensor:
            import torch

            return torch.from_numpy(array).to(painter.device)

        self._path: Trajectory = trajectory(
            request.scheduler,
            request.steps,
            on_device(noise.start()),
            lambda sigma, following: on_device(noise(sigma, following)),
            trailing=trailing,
        )
        self._x, self._sigma = next(self._path)

    def rows(self) -> list[Row]:
        """What the model is asked: with guidance 1 the unwanted has no weight and is not asked for."""
        wanted = Row(self._x, self._sigma, self._wanted)
        return [wanted] if self._unwanted is None else [wanted, Row(self._x, self._sigma, self._unwanted)]

    def advance(self, answers: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Take the model's answers to `rows`; the finished latents, if these were the last."""
        denoised = answers[0]
        if len(answers) > 1:
            denoised = answers[1] + (denoised - answers[1]) * self.request.cfg_scale
        self._calls += 1
        if self._on_progress is not None:
            self._on_progress(self._calls * self.request.steps // self._calls_total, self.request.steps)
        try:
            self._x, self._sigma = self._path.send(denoised)
        except StopIteration as end:
            finished: torch.Tensor = end.value
            return finished
        return None


class DiffusersCanvas:
    """Pictures under way. What one looks like never depends on what is drawn beside it."""

    def __init__(self, load: Callable[[], Painter], *, trailing: bool) -> None:
        self._load, self._trailing = load, trailing
        #: None while nothing is drawn here, so that the weights may leave.
        self.painter: Painter | None = None
        self._pictures: dict[int, _Picture] = {}
        self._packing: dict[int, Future[DrawnImage]] = {}
        self._packers: ThreadPoolExecutor | None = None
        self._next_ticket = 0

    def __len__(self) -> int:
        return len(self._pictures) + len(self._packing)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Begin a picture. ValueError for an unknown scheduler, EngineError where the weights cannot be loaded."""
        if self.painter is None:
            self.painter = self._load()
        picture = _Picture(self.painter, request, on_progress, trailing=self._trailing)
        self._next_ticket += 1
        self._pictures[self._next_ticket] = picture
        return self._next_ticket

    def remove(self, ticket: int) -> None:
        self._pictures.pop(ticket, None)
        self._packing.pop(ticket, None)
        self._rest()

    def step(self) -> list[DrawnImage | FailedImage]:
        """One model call for all (in parts, where memory does not suffice), then decode those that it finished."""
        failed = self._advance()
        ended: list[DrawnImage | FailedImage] = [*failed, *self._packed(may_wait=not self._pictures and not failed)]
        self._rest()
        return ended

    def _advance(self) -> list[FailedImage]:
        if not self._pictures or self.painter is None:
            return []
        asked = {ticket: picture.rows() for ticket, picture in self._pictures.items()}
        answers = iter(self.painter.denoise([row for rows in asked.values() for row in rows]))
        failed = []
        for ticket, rows in asked.items():
            own = [next(answers) for _ in rows]
            there = [answer for answer in own if answer is not None]
            latents = self._pictures[ticket].advance(there) if len(there) == len(own) else None
            if len(there) < len(own) or (latents is not None and not self._finish(ticket, latents)):
                request = self._pictures.pop(ticket).request
                why = f"out of memory for one picture of {request.width} by {request.height}"
                failed.append(FailedImage(ticket=ticket, error=why))
        return failed

    def _finish(self, ticket: int, latents: torch.Tensor) -> bool:
        """Decode, and pack in the background; False where there is no memory to decode."""
        assert self.painter is not None
        pixels = self.painter.decode(latents)
        if pixels is None:
            return False
        if self._packers is None:
            self._packers = ThreadPoolExecutor(_PACKERS, "png")
        request, name = self._pictures.pop(ticket).request, self.painter.networks.name
        self._packing[ticket] = self._packers.submit(_packed, ticket, pixels, request, name, self._schedule(request))
        return True

    def _schedule(self, request: ImageRequest) -> str:
        has_own = request.scheduler.endswith(" Karras") or request.scheduler == "DPM fast"
        return TRAILING if self._trailing and not has_own else ""

    def _packed(self, *, may_wait: bool) -> list[DrawnImage]:
        if may_wait and self._packing:
            wait(self._packing.values(), return_when=FIRST_COMPLETED)
        done = [ticket for ticket, future in self._packing.items() if future.done()]
        return [self._packing.pop(ticket).result() for ticket in done]

    def _rest(self) -> None:
        if len(self) == 0:
            self.painter = None
            if self._packers is not None:
                self._packers.shutdown(wait=False)
                self._packers = None


def _packed(ticket: int, pixels: NDArray[Any], request: ImageRequest, model: str, schedule: str) -> DrawnImage:
    """Cut to the size asked for, which the latents cover to less than eight pixels, and pack."""
    from PIL import Image

    picture = covering(Image.fromarray(pixels), request.width, request.height)
    png = png_with(picture, parameters_text(request, model, schedule=schedule))
    return DrawnImage(ticket=ticket, png=png, model=model)
