"""Build transcription for a serving process."""

from __future__ import annotations

from dataclasses import dataclass

from minitoolai.billing.shared import SharedServices
from minitoolai.engines.factory import ConcurrencyLimits, make_transcription_engines
from minitoolai.engines.transcription.pool import RecordingMeter
from minitoolai.http.bodies.bodies import MB
from minitoolai.http.bodies.uploads import FileForms
from minitoolai.settings import Settings
from minitoolai.storage.uploads import UploadFolder
from minitoolai.transcription.service import TranscriptionService


@dataclass(frozen=True)
class Transcriptions:
    """What transcription consists of."""

    service: TranscriptionService
    meter: RecordingMeter
    uploads: UploadFolder
    forms: FileForms


def build(settings: Settings, shared: SharedServices, caps: ConcurrencyLimits) -> Transcriptions:
    """Return the services, not yet started."""
    meter = RecordingMeter()
    service = TranscriptionService(
        shared.catalog,
        make_transcription_engines(shared.catalog, settings, shared.http, caps),
        meter,
        shared.charging,
        shared.clock,
        shared.in_flight,
        stall_timeout_s=settings.total_timeout_s,
        stand_ins=shared.stand_ins,
    )
    uploads = UploadFolder(settings.data_dir / "uploads")
    return Transcriptions(service, meter, uploads, FileForms(uploads, settings.audio_upload_mb * MB))
