"""Every model works with every sampler through the API; links expire and images are deleted after retention."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from minitoolai.engines.sampling import SCHEDULERS
from tests.support.buckets import REGION, S3Server
from tests.support.length import length
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG, CREDIT, PRICE, check_image_refusal, job, poll, wait

pytestmark = pytest.mark.acceptance

MODELS = [
    "realvision",
    "juggernaut",
    "autismmix",
    "dreamshaper",
    "valhalla",
    "mixrealistic",
    "campursari",
    "reality",
    "extrarealistic",
    "realism",
    "realgirls",
    "realityreborn",
    "amigo",
    "simplemix",
    "beautifulrealistic",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serve the shipped catalog, without marks, which differ by image. Stopping the server audits its accounts."""
    env = {"MINITOOLAI_IMAGE_QUEUE": "300", "MINITOOLAI_LLAMA_THREADS": "1", "MINITOOLAI_MARKS": "off"}
    with ServerProcess(tmp_path_factory.mktemp("pictures"), env=env) as server:
        yield server


def test_all_fifteen_models_record_their_parameters_with_all_eighteen_samplers(server: ServerProcess) -> None:
    """The short form has a third of the pairs: five models with each sampler, and six samplers with each model."""
    account, every = server.account(), length(3, 1)
    pairs = [(m + s, model, scheduler) for m, model in enumerate(MODELS) for s, scheduler in enumerate(SCHEDULERS)]
    asked = [(model, scheduler) for number, model, scheduler in pairs if number % every == 0]
    jobs = [job(account, model=m, scheduler=s, prompt="a red apple", steps=4, seed=11) for m, s in asked]

    def picture(one: dict[str, Any]) -> tuple[str, str]:
        state = wait(account, one, within_s=600)
        assert (state["status"], state["model"]) == ("success", "minitoolai-sketch-1"), state
        image: Any = Image.open(io.BytesIO(requests.get(state["image_url"], timeout=60).content))
        assert image.size == (256, 256)
        return image.text["parameters"], hashlib.sha256(image.tobytes()).hexdigest()

    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(picture, jobs))
    pixels: dict[str, set[str]] = {}
    for (_, scheduler), (parameters, digest) in zip(asked, drawn, strict=True):
        assert parameters.startswith(
            f"a red apple\nSteps: 4, Sampler: {scheduler}, CFG scale: 2, Seed: 11, Size: 256x256, "
            "Model: minitoolai-sketch-1, Version: minitoolai "
        )
        pixels.setdefault(scheduler, set()).add(digest)
    # Each model draws in a look of its own, with every sampler.
    assert len(pixels) == len(SCHEDULERS)
    assert all(len(digests) == len(MODELS) // every for digests in pixels.values())
    assert account.settled() == CREDIT - len(asked) * PRICE
    assert server.command("audit").returncode == 0


class Brief:
    """A server whose links and images live for two seconds."""

    def __init__(self, folder: Path, **env: str) -> None:
        days = str(2 / 86_400)
        self.server = ServerProcess(
            folder,
            catalog=CATALOG,
            env={"MINITOOLAI_IMAGE_LINK_TTL_S": "2", "MINITOOLAI_IMAGE_RETENTION_DAYS": days, **env},
        )

    def check(self, count_objects: Any) -> None:
        """Check that a link expires, a poll renews it, and after retention both report that the image is gone."""
        with self.server as server:
            account = server.account()
            one = job(account)
            state = wait(account, one)
            assert requests.get(state["image_url"], timeout=30).status_code == 200
            assert count_objects() == 1
            time.sleep(2.1)
            check_image_refusal(requests.get(state["image_url"], timeout=30), 410, "link_expired", "poll the job again")
            fresh = poll(account, one).json()["image_url"]
            assert requests.get(fresh, timeout=30).status_code == 200
            server.stop()
            server.start()
            self.check_gone(account, one)
            assert count_objects() == 0
            assert account.settled() == CREDIT - PRICE

    def check_gone(self, account: Account, one: dict[str, Any]) -> None:
        give_up_s = time.monotonic() + 30
        while (state := poll(account, one).json())["status"] == "success":
            assert time.monotonic() < give_up_s
            answer = requests.get(state["image_url"], timeout=30)
            assert answer.status_code in (200, 410), "a fresh link must never lead nowhere"
            time.sleep(0.1)
        assert (state["status"], state["code"], state["image_url"]) == ("error", "picture_removed", None)
        time.sleep(0.5)


@pytest.mark.timing  # Links and images that live for two seconds.
def test_links_expire_and_images_are_deleted_after_retention(tmp_path: Path) -> None:
    brief = Brief(tmp_path)
    brief.check(lambda: len(list(brief.server.data_dir.rglob("objects/*/*.png"))))


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("pictures")
        yield server


def in_bucket(s3: S3Server) -> dict[str, str]:
    return {
        "MINITOOLAI_OBJECT_STORE": "s3://pictures/a",
        "MINITOOLAI_S3_ENDPOINT": s3.endpoint,
        "MINITOOLAI_S3_REGION": REGION,
        "MINITOOLAI_S3_ACCESS_KEY_ID": "test",
        "MINITOOLAI_S3_SECRET_ACCESS_KEY": "test",
    }


@pytest.mark.timing  # Links and images that live for two seconds.
def test_images_in_a_bucket_expire_in_the_same_way(s3: S3Server, tmp_path: Path) -> None:
    Brief(tmp_path, **in_bucket(s3)).check(lambda: s3.count_objects("pictures"))


def test_an_outage_of_the_bucket_loses_no_job_and_no_money(s3: S3Server, tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=CATALOG, env=in_bucket(s3)) as server:
        account = server.account()
        link = wait(account, job(account))["image_url"]
        s3.stop()
        check_image_refusal(requests.get(link, timeout=90), 503, "overloaded", "does not respond")
        new = job(account)
        time.sleep(3)
        assert poll(account, new).json()["status"] in ("queued", "processing")
        assert account.money().held == PRICE
        # The restarted S3 server has lost its buckets and their content.
        s3.start()
        s3.make_bucket("pictures")
        state = wait(account, new, within_s=90)
        assert requests.get(state["image_url"], timeout=30).status_code == 200
        assert account.settled() == CREDIT - 2 * PRICE
        check_image_refusal(requests.get(link, timeout=30), 500, "internal_error", "the operator has been notified")
