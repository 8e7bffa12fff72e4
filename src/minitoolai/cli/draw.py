"""`minitoolai draw`: one picture by the embedded model on this machine; no server, no account, no charge."""

from __future__ import annotations

import argparse
import math
import sys

from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import InvalidRequest
from minitoolai.engines.protocols import ImageRequest
from minitoolai.engines.sampling import SCHEDULERS

LARGEST_STEPS, LARGEST_CFG = 8, 7.0
SMALLEST_PX, LARGEST_PX = 256, 1344
BAR = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `draw`; their defaults are the API's."""
    parser.add_argument("prompt", help="what to draw, in English")
    parser.add_argument("-o", "--output", default="picture.png", help="the PNG to write, - for standard output")
    parser.add_argument("--negative", default="", help="what to stay away from (nothing happens with --cfg 1)")
    parser.add_argument("--scheduler", default="DPM++ SDE", help=f"one of: {', '.join(SCHEDULERS)}")
    parser.add_argument("--steps", type=int, default=4, help="1 to 8 (4)")
    parser.add_argument("--cfg", type=float, default=2.0, help="guidance, 1 to 7 (2)")
    parser.add_argument("--seed", type=int, help="the same seed draws the same picture (drawn by lot)")
    parser.add_argument("--size", default="1024x1024", help="WIDTHxHEIGHT, each 256 to 1344 (1024x1024)")


def draw(options: argparse.Namespace) -> None:
    """Draw, showing progress on a terminal, and say where the picture lies. InvalidRequest names a wrong option."""
    request = request_of(options)
    from minitoolai.engines.images.sketch import SketchEngine, generate

    image = generate(SketchEngine(), request, _show if sys.stderr.isatty() else None)
    if options.output == "-":
        sys.stdout.buffer.write(image.png)
        return
    try:
        with open(options.output, "wb") as file:
            file.write(image.png)
    except OSError as error:
        raise InvalidRequest(f"cannot write {options.output}: {error.strerror}", param="--output") from error
    sys.stdout.write(f"{options.output}: {options.size}, seed {request.seed}, drawn by {image.model}\n")


def request_of(options: argparse.Namespace) -> ImageRequest:
    """The options, checked. InvalidRequest names the one that is wrong."""
    width, separator, height = options.size.partition("x")
    if not (separator and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise InvalidRequest(f"--size {options.size} is not like 1024x1024", param="--size")
    pixels = int(width), int(height)
    if not all(SMALLEST_PX <= side <= LARGEST_PX for side in pixels):
        raise InvalidRequest(f"--size: each side is {SMALLEST_PX} to {LARGEST_PX}", param="--size")
    if options.scheduler not in SCHEDULERS:
        raise InvalidRequest(f"--scheduler is one of: {', '.join(SCHEDULERS)}", param="--scheduler")
    if not 1 <= options.steps <= LARGEST_STEPS:
        raise InvalidRequest(f"--steps is 1 to {LARGEST_STEPS}", param="--steps")
    if not (math.isfinite(options.cfg) and 1 <= options.cfg <= LARGEST_CFG):
        raise InvalidRequest(f"--cfg is 1 to {LARGEST_CFG:g}", param="--cfg")
    if not options.prompt.strip():
        raise InvalidRequest("the prompt is empty", param="prompt")
    return ImageRequest(
        prompt=options.prompt,
        negative_prompt=options.negative,
        scheduler=options.scheduler,
        steps=options.steps,
        cfg_scale=options.cfg,
        width=pixels[0],
        height=pixels[1],
        seed=options.seed if options.seed is not None else int.from_bytes(random_bytes(4)),
    )


def _show(done: int, total: int) -> None:
    full = BAR * done // total
    sys.stderr.write(f"\r[{'#' * full}{'.' * (BAR - full)}] step {done} of {total}" + ("\n" if done == total else ""))
    sys.stderr.flush()
