"""MINITOOLAI_* variables: each documented, none misread, none ignored, and no secret in a log."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest

from minitoolai.core.errors import SettingsError
from minitoolai.settings import PREFIX, Secret, Settings, load_settings, variables

SECRET = "sk-very-secret"


def test_nothing_set_gives_the_documented_defaults() -> None:
    assert load_settings({}) == Settings()
    assert load_settings({"PATH": "/bin", "minitoolai_port": "1"}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", "9000", 9000),
        ("DATA_DIR", "/srv/x", Path("/srv/x")),
        ("ACCESS_LOG", "1", True),
        ("ACCESS_LOG", "TRUE", True),
        ("ACCESS_LOG", "no", False),
        ("ACCESS_LOG", "", False),
        ("TOTAL_TIMEOUT_S", "1.5", 1.5),
        ("LOG_LEVEL", "debug", "debug"),
        ("LLAMA_SLOTS", "8", 8),
        ("HOST", "0.0.0.0", "0.0.0.0"),
    ],
)
def test_a_variable_is_read_in_the_type_of_its_default(name: str, text: str, value: object) -> None:
    read = getattr(load_settings({PREFIX + name: text}), name.lower())
    assert read == value
    assert type(read) is type(value) or isinstance(read, Path)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PORT", "eight", "a number like 8000"),
        ("PORT", "", "a number like 8000"),
        ("PORT", "8000.5", "a number like 8000"),
        ("PORT", "70000", "0 to 65535"),
        ("PORT", "-1", "0 to 65535"),
        ("TOTAL_TIMEOUT_S", "soon", "a number like 600"),
        ("TOTAL_TIMEOUT_S", "nan", "a number like 600"),
        ("TOTAL_TIMEOUT_S", "inf", "a number like 600"),
        ("TOTAL_TIMEOUT_S", "-1", "at least 1"),
        ("TOTAL_TIMEOUT_S", "0", "at least 1"),
        ("FIRST_TOKEN_TIMEOUT_S", "0", "at least 1"),
        ("LLAMA_SLOTS", "-1", "at least 0"),
        ("SPEECH_PROCESSES", "0", "at least 1"),
        ("ACCESS_LOG", "maybe", "1 or 0"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variable_and_what_is_expected(name: str, text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings({PREFIX + name: text})
    message = str(refusal.value)
    assert message.startswith(f"{PREFIX}{name}={text!r} is invalid")
    assert expected in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [("PROT", "PORT"), ("DATADIR", "DATA_DIR"), ("OPENAI_APIKEY", "<ENGINE>_API_KEY"), ("LLAMA_MPROJ", "LLAMA_MMPROJ")],
)
def test_an_unknown_variable_is_refused_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"{PREFIX}{name} is not a setting; did you mean .*{meant}") as no:
        load_settings({PREFIX + name: "9000"})
    assert len(str(no.value)) < 200


def test_an_unknown_variable_like_no_other_is_refused_with_the_list_of_all() -> None:
    with pytest.raises(
        SettingsError, match="MINITOOLAI_XYZZY is not a setting; the settings are MINITOOLAI_DATA_DIR, "
    ) as no:
        load_settings({"MINITOOLAI_XYZZY": "9000"})
    assert all(name in str(no.value) for name in variables())


def test_engines_are_configured_by_their_name() -> None:
    settings = load_settings(
        {"MINITOOLAI_OPENAI_API_KEY": SECRET, "MINITOOLAI_MY_VLLM_BASE_URL": "http://127.0.0.1:8001/v1/"}
    )
    assert settings.engine_keys == {"openai": SECRET}
    assert settings.engine_urls == {"my_vllm": "http://127.0.0.1:8001/v1"}


def test_the_command_line_wins_over_the_environment_where_it_says_something() -> None:
    environment = {"MINITOOLAI_PORT": "9000", "MINITOOLAI_HOST": "0.0.0.0"}
    settings = load_settings(environment, port=0, host=None)
    assert (settings.port, settings.host) == (0, "0.0.0.0")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_wrong_port_on_the_command_line_is_refused_too(port: int) -> None:
    with pytest.raises(SettingsError, match=rf"--port={port} is invalid: it must be 0 to 65535"):
        load_settings({}, port=port)


def test_secrets_do_not_print(caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(
        {
            "MINITOOLAI_SECRET_KEY": SECRET,
            "MINITOOLAI_DATABASE_URL": f"postgresql://ann:{SECRET}@host/db",
            "MINITOOLAI_OPENAI_API_KEY": SECRET,
        }
    )
    logging.getLogger("test").warning("%r %s", settings, settings)
    assert SECRET not in repr(settings) + str(settings) + caplog.text
    assert repr(settings.secret_key) == "Secret(…)"
    with pytest.raises(ZeroDivisionError) as error:
        _fail(settings)
    assert SECRET not in "".join(traceback.format_exception(error.value))
    assert SECRET not in str(error.getrepr(showlocals=True))


def _fail(settings: Settings) -> float:
    return settings.port / 0


def test_a_secret_is_still_the_text_that_it_hides() -> None:
    assert Secret(SECRET) == SECRET
    assert f"Bearer {Secret(SECRET)}" == f"Bearer {SECRET}"


def test_a_wrong_value_beside_a_secret_does_not_print_the_secret() -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings({"MINITOOLAI_OPENAI_API_KEY": SECRET, "MINITOOLAI_PROT": "1", "MINITOOLAI_SECRET_KEY": SECRET})
    assert SECRET not in str(refusal.value)


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(AttributeError):
        load_settings({}).port = 1  # type: ignore[misc]


def test_no_engine_can_take_the_name_of_a_setting() -> None:
    # MINITOOLAI_<ENGINE>_API_KEY must never be read as something else.
    assert not any(name.lower().endswith(("_api_key", "_base_url")) for name in variables()[:-2])
