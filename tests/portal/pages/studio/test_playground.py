"""The playground in a real browser: chat, images and speech, their costs, and the generated code."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import minitoolai
from minitoolai.billing import payments
from minitoolai.core.clock import SystemClock
from minitoolai.portal.i18n import LANGUAGES, translations
from minitoolai.storage.tables import accounts, users
from tests.support.all_kinds import CATALOG
from tests.support.browse import Visitor
from tests.support.chromium import ARGUMENTS
from tests.support.programs import program
from tests.support.recordings import FIVE, tone
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
MARK = "<img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def studio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("studio")
    with ServerProcess(folder, catalog=CATALOG, env={"MINITOOLAI_TRIES_FACTOR": "1000"}) as server:
        yield server


@pytest.fixture(scope="module")
def person(studio_server: ServerProcess) -> Visitor:
    """Somebody with five dollars."""
    member = Visitor(studio_server).sign_up("studio@example.com")
    account_id = account_of(studio_server)
    studio_server.write(lambda c: payments.grant(c, SystemClock(), account_id, 5 * 10**9, reason="test"))
    return member


@pytest.fixture
def page(browser: Browser, person: Visitor) -> Iterator[Page]:
    """A signed-in page; in the end nothing was refused by the policy, and nobody else was asked."""
    context = browser.new_context()
    cookie = {"name": "session", "value": person.cookies["session"], "url": person.server.url}
    other = {"name": "browser", "value": person.cookies["browser"], "url": person.server.url}
    context.add_cookies([cookie, other])  # type: ignore[list-item]
    page = context.new_page()
    wrong: list[str] = []
    own = (person.server.url, "data:", "blob:")
    page.on("request", lambda sent: None if sent.url.startswith(own) else wrong.append(sent.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    assert wrong == []
    context.close()


def account_of(server: ServerProcess) -> int:
    return int(server.read(lambda c: users.find_user(c, "studio@example.com"))[0].account_id)


def cost_shown(page: Page) -> tuple[str, str]:
    """(dollars, generation) as the page says."""
    expect(page.locator("#cost")).to_contain_text("$", timeout=20_000)
    found = re.search(r"\$([\d.]+) · (\S+)", page.locator("#cost").inner_text())
    assert found
    return found[1], found[2]


def assert_charged(page: Page, server: ServerProcess) -> None:
    dollars, generation = cost_shown(page)
    assert server.transfers_of(generation) == [round(float(dollars) * 10**9)]


def test_a_chat_is_streamed_and_costs_what_it_shows(page: Page, studio_server: ServerProcess) -> None:
    page.goto(studio_server.url + "/en/studio")
    page.get_by_label("Instructions").fill("Be kind.")
    page.get_by_label("Message").fill(MARK)
    page.get_by_role("button", name="Send").click()
    assert_charged(page, studio_server)
    page.get_by_label("Message").fill("and then?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#talk .assistant")).to_have_count(2, timeout=20_000)
    assert_charged(page, studio_server)
    expect(page.locator("#talk .user").first).to_contain_text(MARK)
    assert page.locator("#talk img").count() == 0
    assert page.title() != "broken"
    assert "Be kind." in page.locator("#code").text_content()


def test_an_image_can_be_attached(page: Page, studio_server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    path.write_bytes(png())
    page.goto(studio_server.url + "/en/studio")
    page.get_by_text("Parameters and image").click()
    page.get_by_label("Image (optional)").set_input_files(path)
    page.get_by_label("Message").fill("what is it?")
    expect(page.locator("#code")).to_contain_text("data:image/png;base64,…")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#talk .user img")).to_have_count(1)
    expect(page.locator("#talk .assistant, #error:visible")).to_have_count(1, timeout=20_000)


def test_a_chat_can_be_stopped_and_a_refusal_keeps_the_input(page: Page, studio_server: ServerProcess) -> None:
    page.goto(studio_server.url + "/en/studio")
    page.locator("#model").select_option("endless")
    page.get_by_text("Parameters and image").click()
    page.get_by_label("Maximum output tokens").fill("4000")
    page.get_by_label("Message").fill("go on")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#talk .assistant .words")).not_to_be_empty(timeout=20_000)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#error")).to_have_text("Stopped.")
    page.get_by_label("Maximum output tokens").fill("999999")
    page.get_by_label("Message").fill("too long")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#error")).to_contain_text("max_completion_tokens")
    assert page.get_by_label("Message").input_value() == "too long"


def test_two_models_answer_the_same_prompt_side_by_side(page: Page, studio_server: ServerProcess) -> None:
    page.goto(studio_server.url + "/en/studio")
    page.get_by_label("Compare with").select_option("endless")
    page.get_by_text("Parameters and image").click()
    page.get_by_label("Maximum output tokens").fill("40")
    page.get_by_label("Message").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator("#cost")).to_contain_text("$", timeout=20_000)
    sides = page.locator("#talk .answers .assistant")
    expect(sides).to_have_count(2)
    assert sides.locator("strong").first.inner_text() == "quick"
    assert sides.locator("> strong").all_inner_texts() == ["quick", "endless"]
    boxes = [sides.nth(number).bounding_box() for number in (0, 1)]
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]
    measured = page.locator("#talk .measured").all_inner_texts()
    assert all(
        re.search(r"tokens in, \d+ out · first token after [\d.]+ s · [\d.]+ s in all · \$", one) for one in measured
    )
    # What it costs with each model is computed from the tokens of the first answer.
    page.get_by_text("What this costs with each model").click()
    prices = page.locator("#costs tr[data-input] .cost").all_inner_texts()
    assert len(prices) == 2
    assert prices[0] == measured[0].rpartition(" · ")[2]
    # Each goes on with what it has said itself.
    page.get_by_label("Message").fill("And then?")
    page.keyboard.press("Enter")
    expect(page.locator("#talk .measured").nth(3)).to_contain_text("$", timeout=20_000)
    assert page.locator("#talk .user").count() == 2


def test_one_of_two_models_may_fail(page: Page, studio_server: ServerProcess) -> None:
    page.goto(studio_server.url + "/en/studio")
    page.get_by_label("Compare with").select_option("endless")
    page.route(
        "**/v1/chat/completions",
        lambda route: (
            route.fulfill(status=503, json={"error": {"code": "overloaded"}})
            if "endless" in (route.request.post_data or "")
            else route.continue_()
        ),
    )
    page.get_by_label("Message").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator("#talk .measured")).to_contain_text("$", timeout=20_000)
    expect(page.locator("#talk .fault")).to_be_visible()
    expect(page.locator("#error")).to_be_hidden()


def test_a_prompt_is_saved_beside_the_conversation_and_opened_again(page: Page, studio_server: ServerProcess) -> None:
    page.goto(studio_server.url + "/en/studio")
    page.get_by_label("Instructions").fill("Be brief.")
    page.get_by_label("Message").fill("Hello")
    page.get_by_text("Save this prompt").click()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#kept")).to_contain_text("could not be saved")
    page.get_by_label("Name").fill("Short")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#kept")).to_have_text("The prompt is saved.")
    assert page.get_by_label("Message").input_value() == "Hello"
    page.goto(studio_server.url + "/en/studio/prompts")
    page.get_by_role("link", name="Use Short").click()
    assert page.get_by_label("Instructions").input_value() == "Be brief."
    page.get_by_role("button", name="Send").click()
    assert_charged(page, studio_server)


def test_an_image_shows_its_progress(page: Page, studio_server: ServerProcess) -> None:
    page.goto(studio_server.url + "/en/studio/image")
    page.get_by_label("Prompt", exact=True).fill("a red house")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#picture")).to_be_visible(timeout=30_000)
    assert page.evaluate("document.getElementById('picture').decode().then(() => true)")
    assert page.locator("#picture").get_attribute("alt") == "a red house"
    expect(page.locator("#caption")).to_contain_text("Seed 7")
    assert_charged(page, studio_server)


def test_a_cropped_screenshot_of_an_image_is_identified(page: Page, studio_server: ServerProcess) -> None:
    page.goto(studio_server.url + "/en/studio/image")
    page.get_by_label("Prompt", exact=True).fill("a red house")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#picture")).to_be_visible(timeout=30_000)
    page.evaluate("document.getElementById('picture').decode()")
    shot = Image.open(io.BytesIO(page.locator("#picture").screenshot()))
    assert min(shot.size) > 250
    width, height = shot.size
    cropped = shot.crop((width // 9, height // 8, width * 8 // 9, height * 15 // 16))
    file = io.BytesIO()
    cropped.save(file, "PNG")
    page.goto(studio_server.url + "/en/check")
    page.get_by_label("Image").set_input_files(
        {"name": "Screenshot.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    page.get_by_role("button", name="Check").click()
    result = page.get_by_role("status")
    expect(result).to_contain_text("This image was generated by this server.", timeout=60_000)
    expect(result).to_contain_text(studio_server.url.partition("://")[2])
    expect(result).to_contain_text(datetime.now(UTC).strftime("%Y"))
    expect(result).to_contain_text("fake-1")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_images_and_recordings_are_disclosed_as_generated(person: Visitor, lang: str) -> None:
    disclosure = translations(lang).gettext("Generated by AI.")
    for kind, element in (("image", '<img id="picture"'), ("speech", '<audio id="player"')):
        text = person.get(f"{person.server.url}/{lang}/studio/{kind}", timeout=20).text
        beside = text[text.index(element) :].partition("</div>")[0]
        assert disclosure in beside


def test_no_other_page_shows_generated_images_or_sound() -> None:
    templates = Path(minitoolai.__file__).parent / "portal" / "templates"
    shown = {
        path.relative_to(templates).as_posix()
        for path in templates.rglob("*.html")
        if re.search(r"<(img(?! src=\"\{\{ (static|logo))|audio|video)", path.read_text())
    }
    # In the page for transcription, it is the visitor's own recording.
    assert shown == {"studio/image.html", "studio/images.html", "studio/speech.html", "studio/transcribe.html"}


def test_speech_can_be_played(page: Page, studio_server: ServerProcess) -> None:
    page.goto(studio_server.url + "/en/studio/speech")
    page.get_by_label("Text to speak").fill("Good morning.")
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#player")).to_be_visible(timeout=30_000)
    page.wait_for_function("document.getElementById('player').duration > 0")
    assert_charged(page, studio_server)


def test_a_file_is_transcribed(page: Page, studio_server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(tone(5))
    page.goto(studio_server.url + "/en/studio/transcribe")
    page.get_by_label("Audio file").set_input_files(path)
    page.get_by_role("button", name="Transcribe").click()
    expect(page.locator("#text")).to_have_text(FIVE, timeout=30_000)
    assert_charged(page, studio_server)
    expect(page.locator("#code")).to_contain_text("clip.wav")


def test_a_file_that_is_no_recording_is_explained(page: Page, studio_server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    path.write_bytes(b"no recording")
    page.goto(studio_server.url + "/en/studio/transcribe")
    page.get_by_label("Audio file").set_input_files(path)
    page.get_by_role("button", name="Transcribe").click()
    expect(page.locator("#error")).to_contain_text("contains no readable audio")


def test_the_microphone_is_transcribed(browser: Browser, person: Visitor, studio_server: ServerProcess) -> None:
    """Chromium's own microphone for tests beeps."""
    arguments = [*ARGUMENTS, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    other = browser.browser_type.launch(executable_path=program("chromium"), args=arguments)
    context = other.new_context(permissions=["microphone"])
    for name in ("session", "browser"):
        context.add_cookies([{"name": name, "value": person.cookies[name], "url": studio_server.url}])
    page = context.new_page()
    page.goto(studio_server.url + "/en/studio/transcribe")
    page.get_by_role("button", name="Record with the microphone").click()
    page.wait_for_timeout(2_500)
    page.get_by_role("button", name="Stop recording").click()
    expect(page.locator("#own")).to_be_visible()
    page.get_by_role("button", name="Transcribe").click()
    expect(page.locator("#text")).to_contain_text("one two", timeout=30_000)
    other.close()


def test_a_file_is_transcribed_without_javascript(person: Visitor, studio_server: ServerProcess) -> None:
    url = studio_server.url + "/en/studio/transcribe"
    token = re.search(r'name="csrf" value="([^"]+)"', person.get(url, timeout=20).text)
    assert token is not None
    fields = {"csrf": token[1], "model": "hearer", "language": "", "task": "translate"}
    answer = person.post(url, data=fields, files={"file": ("a.wav", tone(5))}, timeout=60)
    assert FIVE in answer.text
    assert "$0.0005" in answer.text
    assert person.post(url, data=fields, files={"file": ("a.wav", b"x")}, timeout=60).status_code == 400
    refused = person.post(
        url, data=fields | {"csrf": "wrong"}, files={"file": ("a.wav", tone(5))}, timeout=60, allow_redirects=False
    )
    assert refused.status_code == 303


@pytest.mark.parametrize("tongue", ["curl", "python", "javascript", "php"])
def test_the_generated_code_for_a_recording_runs(
    page: Page, studio_server: ServerProcess, tongue: str, tmp_path: Path
) -> None:
    path = tmp_path / 'it\'s a "clip".wav'
    path.write_bytes(tone(5))
    page.goto(studio_server.url + "/en/studio/transcribe")
    page.get_by_label("Audio file").set_input_files(path)
    page.locator("#same summary").click()
    page.locator("#tongue").select_option(tongue)
    code = page.locator("#code").text_content() or ""
    command = {
        "curl": [program("bash"), "-c"], "python": [sys.executable, "-c"],
        "javascript": [program("node"), "--input-type=module", "-e"], "php": [program("php")],
    }[tongue]  # fmt: skip
    key = studio_server.command("key", "create", "studio@example.com", "--name", "code").stdout.strip()
    code = code.replace("sk-…", key)
    script = ["-r", code.removeprefix("<?php\n")] if tongue == "php" else [code]
    done = subprocess.run([*command, *script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert FIVE in done.stdout


@pytest.mark.parametrize("tongue", ["curl", "python", "javascript", "php"])
@pytest.mark.parametrize("kind", ["chat", "image", "speech"])
def test_the_generated_code_runs(
    page: Page, person: Visitor, studio_server: ServerProcess, kind: str, tongue: str, tmp_path: Path
) -> None:
    page.goto(studio_server.url + "/en/studio" + ("" if kind == "chat" else f"/{kind}"))
    text = 'It\'s "quoted", $HOME \\ and `ticks`\nJSON;\n%s üñ'
    page.locator({"chat": "#message", "image": "#prompt", "speech": "#input"}[kind]).fill(text)
    page.locator("#same summary").click()
    page.locator("#tongue").select_option(tongue)
    code = page.locator("#code").text_content() or ""
    command = {
        "curl": [program("bash"), "-c"], "python": [sys.executable, "-c"],
        "javascript": [program("node"), "--input-type=module", "-e"], "php": [program("php")],
    }[tongue]  # fmt: skip
    key = studio_server.command("key", "create", "studio@example.com", "--name", "code").stdout.strip()
    code = code.replace("sk-…", key)
    done = subprocess.run(
        command if tongue == "php" else [*command, code], input=code if tongue == "php" else None, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if kind == "chat":
        assert "data: [DONE]" in done.stdout
    elif kind == "image":
        assert "signature" in done.stdout
    else:
        assert (tmp_path / "speech.mp3").stat().st_size > 500


def test_the_playground_key_is_not_listed_and_ends_with_the_sign_out(studio_server: ServerProcess, email: str) -> None:
    member = Visitor(studio_server).sign_up(email)
    member.open("/studio")
    sent = member.fields("/studio/chat")
    headers = {"origin": studio_server.url, "sec-fetch-site": "same-origin"}
    made = member.post(member.url("/studio/key"), data=sent, headers=headers, timeout=20).json()
    assert member.post(member.url("/studio/key"), data={"csrf": "x"}, timeout=20).status_code == 403
    bearer = {"authorization": f"Bearer {made['key']}"}

    def works() -> bool:
        return bool(Visitor(studio_server).get(studio_server.url + "/api/balance", headers=bearer).status_code == 200)

    assert works()
    for path in ("/keys", "/studio", "/usage", "/account", "/docs"):
        assert made["key"][6:18] not in member.open(path).text
    account_id = studio_server.read(lambda c: users.find_user(c, email))[0].account_id
    rules = studio_server.read(lambda c: accounts.keys_of(c, account_id, for_pages=True))[0].rules
    assert 0 < rules.expires_ms - SystemClock().now_ms() <= 15 * 60_000
    member.open("/account")
    member.submit("/signout")
    eventually(lambda: not works(), within_s=5)


def png() -> bytes:
    """One red dot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
