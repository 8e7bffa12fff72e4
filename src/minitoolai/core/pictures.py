"""A picture from request to end, in words that fit every edge and every engine."""

from __future__ import annotations

import msgspec

from minitoolai.core.models import GenerationState


class ImageAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for, already checked: sizes in pixels, scheduler one of the eighteen names."""

    model: str
    prompt: str
    negative_prompt: str = ""
    scheduler: str = "DPM++ SDE"
    steps: int = 4
    cfg_scale: float = 2.0
    width: int = 1024
    height: int = 1024
    #: None: drawn by lot, and told in the job.
    seed: int | None = None
    webhook_url: str | None = None
    #: W3C `traceparent` of the request, where traces are wanted: whoever draws it tells of it there.
    trace: str | None = None


class Submitted(msgspec.Struct, frozen=True):
    """The job's number, below 2^53 and not guessable, and what proves the right to look at it."""

    job_id: int
    signature: str


class ImageJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stands."""

    job_id: int
    #: As in the header `x-generation-id`.
    generation: str
    account_id: int
    state: GenerationState
    #: Jobs that are drawn before this one; 0 unless it is queued.
    ahead: int = 0
    step: int = 0
    steps: int
    seed: int
    #: The catalog's name, and what really drew it.
    model: str
    served_model: str | None = None
    #: The picture's key in the object store; None before its end, after a failure, and once retention removed it.
    object: str | None = None
    error_code: str | None = None
    error: str | None = None
    width: int
    height: int
    created_ms: int
    finished_ms: int | None = None

    @property
    def is_over(self) -> bool:
        """Nothing will change any more but the object, when retention removes it."""
        return self.state not in ("queued", "running")

    @property
    def progress(self) -> float:
        """0 to 1."""
        return 1.0 if self.state == "succeeded" else self.step / self.steps


decode_ask = msgspec.json.Decoder(ImageAsk).decode
