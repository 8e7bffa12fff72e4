"""The embedded image model: a small latent diffusion model on ONNX Runtime, sampled with the 18 samplers.

Images of different steps, scheduler, guidance and prompt share each model call. It draws single things in the style of
emoji; a scene of several is drawn thing by thing and composed. Every image names this model rather than the requested
one, whose look it has.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minitoolai.core.errors import EngineError
from minitoolai.engines.images.codec import EDITS, encode_result, encode_square, parameters_text
from minitoolai.engines.images.compose.looks import PLAIN, Look, look_of
from minitoolai.engines.images.compose.picture import compose, is_plain, things_of
from minitoolai.engines.images.editing.sketch import (
    MODEL,
    EditedPart,
    is_placed,
    kept,
    part_of,
    placed,
    redrawn,
    to_square,
)
from minitoolai.engines.images.guidance import guided, settled, shown
from minitoolai.engines.images.prompts.captions import STYLE, CaptionEncoder
from minitoolai.engines.images.prompts.reader import PromptReader, Scene
from minitoolai.engines.images.prompts.words import Words
from minitoolai.engines.protocols import FailedImage, GeneratedImage, ImageRequest, OnProgress
from minitoolai.engines.sampling import model_calls, trajectory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from minitoolai.engines.sampling import Trajectory

    Floats = NDArray[np.float32]

FOLDER = Path(__file__).parent / "sketch_model"
FILES = (
    "denoiser.onnx",
    "decoder.onnx",
    "encoder.onnx",
    "words.npz",
    "tokenizer.json",
    "lexicon.json.gz",
    "vocabulary.toml",
)
LATENT = (4, 16, 16)

# Larger calls are not faster on a CPU and take more memory.
ROWS_PER_CALL = 24
IMAGES_PER_DECODE = 2


class SketchEngine:
    """Loads in well under a second. Needs no GPU, no network and about 200 MB of memory."""

    name = "sketch"

    def __init__(self, threads: int = 0) -> None:
        """Create an engine that uses this many threads, 0 for one per core."""
        self._threads = threads
        self._model: SketchModel | None = None

    def why_not_ready(self, model: str = "") -> str | None:
        missing = [file for file in FILES if not (FOLDER / file).exists()]
        return f"{', '.join(missing)} missing from the installation: install minitoolai again" if missing else None

    def lora_names(self, model: str) -> Collection[str]:
        """Return nothing: prompts with tags are refused."""
        return ()

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Return one batch for all images: they are generated at one size and scaled afterwards."""
        return MODEL

    def start(self) -> None:
        """Load the model. Raises EngineError if a file is missing."""
        if self._model is not None:
            return
        if fault := self.why_not_ready():
            raise EngineError(fault)
        self._model = SketchModel(self._threads)

    def stop(self) -> None:
        self._model = None

    def open(self, model: str = "") -> SketchBatch:
        """Return an empty batch, starting the engine if needed."""
        self.start()
        assert self._model is not None
        return SketchBatch(self._model)


class SketchModel:
    """The loaded networks and caption encoder."""

    def __init__(self, threads: int) -> None:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while waiting for the next call would take the CPU from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")

        def load(file: str) -> Any:
            return onnxruntime.InferenceSession(FOLDER / file, options, providers=["CPUExecutionProvider"])

        self._load = load
        #: Loaded with the first edit.
        self._encoder: Any = None
        self.captions: CaptionEncoder = CaptionEncoder(FOLDER)
        self.words = Words(FOLDER, self.captions.names)
        self.reader = PromptReader(self.words)
        self._denoiser, self._decoder = load("denoiser.onnx"), load("decoder.onnx")

    def denoise(self, rows: Sequence[_Row]) -> NDArray[np.float32]:
        """Return x0 (N, 4, 16, 16) for N rows, each with its own sigma and caption."""
        import numpy as np

        outputs = []
        for i in range(0, len(rows), ROWS_PER_CALL):
            x, sigma, caption = zip(*rows[i : i + ROWS_PER_CALL], strict=True)
            inputs = {"x": np.stack(x), "sigma": np.array(sigma), "caption": np.stack(caption)}
            outputs.append(self._denoiser.run(None, {name: v.astype(np.float32) for name, v in inputs.items()})[0])
        return np.concatenate(outputs)

    def encode(self, pixels: Floats) -> Floats:
        """Return the latents (4, 16, 16) of pixels (3, 256, 256) from -1 to 1. Raises FloatingPointError."""
        import numpy as np

        if self._encoder is None:
            self._encoder = self._load("encoder.onnx")
        latents: Floats = self._encoder.run(None, {"pixels": pixels[None]})[0][0]
        if not np.isfinite(latents).all():
            raise FloatingPointError("the model gave values that are not finite for the uploaded image")
        return latents

    def decode(self, latents: Sequence[NDArray[Any]]) -> list[NDArray[np.uint8]]:
        """Return the square pixels (S, S, 3) of each image's latents. Raises FloatingPointError."""
        import numpy as np

        images: list[NDArray[np.uint8]] = []
        for i in range(0, len(latents), IMAGES_PER_DECODE):
            chunk = np.stack(latents[i : i + IMAGES_PER_DECODE]).astype(np.float32)
            decoded = self._decoder.run(None, {"latents": chunk})[0]
            if not np.isfinite(decoded).all():
                raise FloatingPointError("the model gave pixels that are not finite")
            bright = np.clip((decoded.transpose(0, 2, 3, 1) + 1) * 127.5, 0, 255)
            images.extend(np.rint(bright).astype(np.uint8))
        return images


_Row = tuple["NDArray[Any]", float, "NDArray[np.float32]"]


#: The style of the model's training sets that a style of a prompt is drawn in.
_STYLE_WORDS = {"render": "3d style", "flat": "flat style", "painting": "noto style", "drawing": "noto style"}
#: Added to the seed for each further thing of an image, so that two cats are not the same cat.
_SEED_STEP = 7_919


class _Guide(NamedTuple):
    """One thing to draw: the captions that guide it, and the state of its sampler."""

    positive: Floats
    path: Trajectory


class _SketchImage:
    """One image in flight: the scene that its prompt asks for, and a sampler for each thing in it."""

    def __init__(self, model: SketchModel, request: ImageRequest, on_progress: OnProgress | None) -> None:
        from minitoolai.engines.sampling.noise import SeededNoise

        self.request = request
        self._on_progress = on_progress
        self._calls, self._calls_total = 0, model_calls(request.scheduler, request.steps)
        self.scene, self.look = model.reader.read(request.prompt), look_of(request.model)
        self._negative = _negative_of(model, request.negative_prompt)
        #: The part of an upload that is drawn anew, and its latents.
        self.part: EditedPart | None = None
        self.source: Floats | None = None
        captions = _captions_of(model, request, self.scene, self.look)
        if request.task in EDITS and not is_placed(request, self.scene):
            self.part = part_of(request)
            self.source = model.encode(to_square(self.part.image))
            captions = captions[:1]
        self._guides = []
        for i, caption in enumerate(captions):
            noise = SeededNoise((request.seed + i * _SEED_STEP) % 2**64, LATENT)
            path: Trajectory = trajectory(
                request.scheduler,
                request.steps,
                noise.start(),
                noise,
                strength=request.strength if self.part is not None else 1.0,
                original=self.source,
            )
            self._guides.append(_Guide(caption, path))
        self._states = [next(guide.path) for guide in self._guides]
        self._predictions: list[NDArray[Any] | None] = [None] * len(self._guides)

    def rows(self) -> list[_Row]:
        """Return the rows for the next model call. With guidance 1 the negative prompt has no weight: omit its rows."""
        rows = []
        for guide, (x, sigma), last in zip(self._guides, self._states, self._predictions, strict=True):
            seen = shown(x, last, sigma)
            rows.append((seen, sigma, guide.positive))
            if self.request.cfg_scale != 1:
                rows.append((seen, sigma, self._negative))
        return rows

    def advance(self, outputs: NDArray[Any]) -> list[NDArray[Any]] | None:
        """Advance by the model's outputs for `rows`. Return the latents of all things if the image is finished.

        Raises FloatingPointError if an output is not finite.
        """
        import numpy as np

        if not np.isfinite(outputs).all():
            raise FloatingPointError(f"the model gave values that are not finite at call {self._calls + 1}")
        per_thing = len(outputs) // len(self._guides)
        finished = []
        for i, guide in enumerate(self._guides):
            own = outputs[i * per_thing : (i + 1) * per_thing].astype("float64")
            sigma = self._states[i][1]
            request = self.request
            denoised = own[0]
            if per_thing > 1:
                denoised = guided(own[0], own[1], request.cfg_scale, sigma, request.scheduler)
            if self.part is not None and self.source is not None:
                denoised = kept(denoised, self.source, self.part.free)
            self._predictions[i] = denoised
            try:
                self._states[i] = guide.path.send(denoised)
            except StopIteration as end:
                finished.append(settled(end.value, denoised))
        self._calls += 1
        if self._on_progress is not None:
            self._on_progress(self._calls * self.request.steps // self._calls_total, self.request.steps)
        return finished or None


def _captions_of(model: SketchModel, request: ImageRequest, scene: Scene, look: Look) -> list[Floats]:
    """Return a caption for each thing of a scene, or one of the whole prompt if no thing is known."""
    captions, named = model.captions, STYLE.search(request.prompt)
    if not request.prompt.strip():
        # A variation: led by the upload alone.
        return [captions.empty]
    if named:
        style = named[0].lower()
    elif look is PLAIN and scene.style in _STYLE_WORDS:
        style = _STYLE_WORDS[scene.style]
    else:
        style = look.styles[request.seed % len(look.styles)]
    things = things_of(scene)
    if things:
        known = [model.words.styles.get(thing.name, [style]) for thing in things]
        chosen = [style if style in styles else styles[request.seed % len(styles)] for styles in known]
        return [captions.embed_name(thing.name, one) for thing, one in zip(things, chosen, strict=True)]
    return [captions.embed(f"{scene.unknown or STYLE.sub(' ', request.prompt)}, {style}")]


def _negative_of(model: SketchModel, prompt: str) -> Floats:
    """Return the caption of what to avoid. Words such as "blurry" name no thing, so they guide away from nothing."""
    things = things_of(model.reader.read(prompt)) if prompt.strip() else []
    return model.captions.embed_name(things[0].name, "") if things else model.captions.empty


class SketchBatch:
    """Images in flight. The result of one never depends on the others."""

    def __init__(self, model: SketchModel) -> None:
        self._model = model
        self._images: dict[int, _SketchImage] = {}
        self._last_slot = 0

    def __len__(self) -> int:
        return len(self._images)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Add an image. Raises ValueError for an unknown scheduler or zero steps."""
        image = _SketchImage(self._model, request, on_progress)
        self._last_slot += 1
        self._images[self._last_slot] = image
        return self._last_slot

    def remove(self, slot_id: int) -> None:
        self._images.pop(slot_id, None)

    def step(self) -> list[GeneratedImage | FailedImage]:
        """Run one model call for all images (in chunks, if there are many), then decode those that it finished."""
        ended: list[GeneratedImage | FailedImage] = []
        for slot_id, (latents, image) in self._advance(ended).items():
            try:
                ended.append(GeneratedImage(slot_id=slot_id, png=self._png(latents, image), model=MODEL))
            except FloatingPointError as error:
                ended.append(FailedImage(slot_id=slot_id, error=str(error)))
        return ended

    def advance(self) -> dict[int, tuple[NDArray[Any], ImageRequest]]:
        """Run the model call of `step` only, and return each finished image's first latents (4, 16, 16) by slot ID."""
        return {slot_id: (latents[0], image.request) for slot_id, (latents, image) in self._advance([]).items()}

    def _advance(
        self, failed: list[GeneratedImage | FailedImage]
    ) -> dict[int, tuple[list[NDArray[Any]], _SketchImage]]:
        """Run one model call. Return finished images with the latents of their things, and add those that failed."""
        if not self._images:
            return {}
        rows_of = {slot_id: image.rows() for slot_id, image in self._images.items()}
        outputs = self._model.denoise([row for rows in rows_of.values() for row in rows])
        latents, first = {}, 0
        for slot_id, rows in rows_of.items():
            try:
                finished = self._images[slot_id].advance(outputs[first : first + len(rows)])
            except FloatingPointError as error:
                del self._images[slot_id]
                failed.append(FailedImage(slot_id=slot_id, error=str(error)))
            else:
                if finished is not None:
                    latents[slot_id] = finished, self._images.pop(slot_id)
            first += len(rows)
        return latents

    def _png(self, latents: Sequence[NDArray[Any]], image: _SketchImage) -> bytes:
        """Decode the things of an image and compose them."""
        request, scene = image.request, image.scene
        if image.part is not None and image.source is not None:
            drawn, before = self._model.decode([*latents, image.source])
            return redrawn(image.part, drawn, before, request)
        squares = self._model.decode(latents)
        if request.task in EDITS:
            return placed(squares, scene, self._model.words.rgb, request)
        if is_plain(scene, image.look):
            return encode_square(squares[0], request, MODEL)
        from PIL import Image

        things = len(things_of(scene))
        pixels = compose(
            scene,
            squares[:things] if things or scene.background else squares,
            self._model.words.rgb,
            image.look,
            width=request.width,
            height=request.height,
            seed=request.seed,
        )
        return encode_result(Image.fromarray(pixels), request, parameters_text(request, MODEL))


def generate(engine: SketchEngine, request: ImageRequest, on_progress: OnProgress | None = None) -> GeneratedImage:
    """Generate one image from start to end. Raises EngineError."""
    batch = engine.open()
    batch.add(request, on_progress)
    while not (ended := batch.step()):
        pass
    image = ended[0]
    if isinstance(image, FailedImage):
        raise EngineError(image.error)
    return image


def make_batch_engine(config: dict[str, Any]) -> SketchEngine:
    """Return an engine that uses `threads` threads, 0 for one per core."""
    return SketchEngine(config.get("threads", 0))
