"""What embedded models do for models that are not theirs, for each value of MINITOOLAI_STAND_INS, in every product."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from minitoolai.core.catalog.catalog import ChatModel, ImageModel, SpeechModel
from minitoolai.core.catalog.loader import read_catalog
from tests.core.catalog.test_catalog import BUNDLED
from tests.support.ask import check_refusal, get
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

ENV = {"MINITOOLAI_LLAMA_THREADS": "1", "MINITOOLAI_LLAMA_SLOTS": "2", "MINITOOLAI_LLAMA_QUEUE": "4"}
MESSAGES = [{"role": "user", "content": "Say hello."}]
#: Path, body without a model, the model that a stand-in answers for, and the embedded one under its own name.
CASES = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 3}, "gpt-4o", "smollm2-135m-instruct"),
    "stream": ("/api/chat-completions/", {"messages": MESSAGES, "max_tokens": 3}, "gpt-4o", "smollm2-135m-instruct"),
    "image": (
        "/v1/images/generations",
        {"prompt": "a fox", "size": "256x256", "steps": 1},
        "realvision",
        "minitoolai-sketch-1",
    ),
    "speech": ("/v1/audio/speech", {"input": "Hello.", "response_format": "wav"}, "tts-1", "hibari"),
}


def post(account: Account, case: str, *, own: bool) -> requests.Response:
    path, body, asked, embedded = CASES[case]
    sent = body | {"model": embedded if own else asked}
    return requests.post(account.server.url + path, json=sent, headers=account.headers, timeout=120)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServerProcess]]:
    with (
        ServerProcess(tmp_path_factory.mktemp("demo"), env=ENV | {"MINITOOLAI_STAND_INS": "demo"}) as shipped,
        ServerProcess(tmp_path_factory.mktemp("free"), env=ENV | {"MINITOOLAI_STAND_INS": "free"}) as free,
    ):
        yield {"demo": shipped, "free": free}


@pytest.mark.parametrize("case", CASES)
def test_as_shipped_a_model_without_an_engine_is_not_available(shops: dict[str, ServerProcess], case: str) -> None:
    account = shops["demo"].account("0.01")
    answer = post(account, case, own=False)
    message = check_refusal(answer, 503, "overloaded")
    assert message.startswith(f"{CASES[case][2]} is not available at the moment")
    assert "MINITOOLAI" not in answer.text
    assert answer.headers["retry-after"]
    assert account.money().held == 0
    assert get(account, f"/v1/models/{CASES[case][2]}").json()["ready"] is False


@pytest.mark.parametrize("name", ["demo", "free"])
@pytest.mark.parametrize("case", CASES)
def test_embedded_models_are_sold_under_their_own_names(shops: dict[str, ServerProcess], case: str, name: str) -> None:
    account = shops[name].account("1.00")
    assert post(account, case, own=True).status_code == 200
    assert 0 < 10**9 - account.settled() < 1_000_000
    assert get(account, f"/v1/models/{CASES[case][3]}").json()["demo"] is False


@pytest.mark.parametrize("case", CASES)
def test_free_stand_ins_answer_and_cost_exactly_nothing(shops: dict[str, ServerProcess], case: str) -> None:
    account = shops["free"].account(credit=None)
    answer = post(account, case, own=False)
    assert answer.status_code == 200, answer.text
    assert account.settled() == 0
    shown = get(account, f"/v1/generations/{answer.headers['x-generation-id']}").json()
    assert (shown["cost"], shown["demo"], shown["state"]) == ("0.000000000", True, "succeeded")
    told = get(account, f"/v1/models/{CASES[case][2]}").json()
    assert (told["demo"], told["note"].endswith(", free of charge")) == (True, True)
    prices = [value for key, value in told["price"].items() if key != "currency"]
    assert set(prices) == {"0.000000000"}
    if case == "image":
        assert (answer.json()["model"], answer.json()["demo"]) == ("minitoolai-sketch-1", True)


def test_a_poll_names_the_stand_in_while_the_job_waits(shops: dict[str, ServerProcess]) -> None:
    account = shops["free"].account(credit=None)
    body = {"model": "realvision", "prompt": "a fox", "width": 256, "height": 256, "steps": 1}
    url = f"{account.server.url}/api/texttoimage/"
    job = requests.post(url, json=body, headers=account.headers, timeout=20).json()
    seen: set[tuple[str, str, bool]] = set()

    def poll() -> bool:
        sent = {"jobid": job["jobid"], "signature": job["signature"]}
        told = requests.post(f"{url}jobs/", json=sent, timeout=20).json()
        seen.add((told["status"], told["model"], told["demo"]))
        return told["status"] == "success"

    eventually(poll, within_s=60)
    assert {(model, demo) for _, model, demo in seen} == {("minitoolai-sketch-1", True)}


def test_the_operator_learns_why_when_the_server_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("told")
    with ServerProcess(folder, env=ENV | {"MINITOOLAI_STAND_INS": "refuse"}) as server:
        check_refusal(post(server.account(), "chat", own=False), 503, "overloaded")
    line = next(line for line in server.log.read_text().splitlines() if "no engine is ready for model gpt-4o" in line)
    assert "smollm2: MINITOOLAI_STAND_INS=refuse; smollm2-135m-instruct is its own model" in line


def test_under_demo_stand_ins_are_sold_at_the_price_of_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = ServerProcess(tmp_path_factory.mktemp("try"), env=ENV | {"MINITOOLAI_STAND_INS": "demo"})
    try:
        server.start("--demo")
        account = server.account("1.00")
        answer = post(account, "chat", own=False).json()
        used = answer["usage"]
        assert answer["model"] == "smollm2-135m-instruct"
        assert 10**9 - account.settled() == used["prompt_tokens"] * 2500 + used["completion_tokens"] * 10_000
    finally:
        server.stop()


def test_the_catalog_names_each_embedded_model_by_itself() -> None:
    catalog = read_catalog(BUNDLED)
    models = catalog.models()
    kinds = {"smollm2-135m-instruct": ChatModel, "minitoolai-sketch-1": ImageModel, "hibari": SpeechModel}
    assert all(isinstance(models[name], kind) for name, kind in kinds.items())
