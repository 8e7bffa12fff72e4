"""Catalogs for tests: whole cents for simple arithmetic, odd prices to find rounding errors."""

from __future__ import annotations

#: Fake engines. `quick` sends 16 tokens immediately, `paced` with 50 tokens 20 ms apart, `endless` for a minute.
FAKE = """
[engines.quick]
kind = "fake"
model = "fake-quick-1"
tokens = 16

[engines.paced]
kind = "fake"
model = "fake-paced-1"
tokens = 50
delay_ms = 20

[engines.endless]
kind = "fake"
model = "fake-endless-1"
tokens = 3000
delay_ms = 20

[chat.quick]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
image_tokens = { low = 85, high = 1_445 }
engines = ["quick"]

[chat.paced]
input = "2.007"
output = "8.003"
context = 8192
max_output = 4096
engines = ["paced"]

[chat.endless]
input = "2.007"
output = "8.003"
context = 8192
max_output = 4096
engines = ["endless"]

[chat.exact]
input = "1"
output = "1000"
context = 8192
max_output = 16
engines = ["quick"]

[embedding.vectors]
input = "0.02"
context = 512
engines = ["quick"]

[chat.promptless]
input = "0"
output = "1000"
context = 8192
max_output = 16
engines = ["quick"]
"""


PATIENT = "retries = 0\ncooldown_after = 0\n"


def with_upstream(base_url: str) -> str:
    """Return the fakes and `standin`: a model served by the upstream at `base_url`, with short timeouts.

    No engine here is asked twice or rests, so that one test's failures are not the next one's.

    `billing` is the same server as one that goes on billing after we hang up; `whole` as one whose chunks carry
    every field, `plain` as one that knows less than others; `nowhere` listens to nobody. `gpt-4o-mini` is the
    stand-in, too, for programs that ask for it.
    """
    engines = {
        # Its address is not public, so it would not fetch images otherwise.
        "standin": "first_token_timeout_s = 1.0\ntotal_timeout_s = 2.5\nfetches_images = true",
        "billing": "bills_after_cancel = true\ntotal_timeout_s = 20.0",
        "whole": "complete_chunks = true",
        # It receives images, not their URLs.
        "fetched": "fetches_images = false",
        "plain": 'unsupported = ["reasoning_effort"]\ncompletions = false\nvision = false',
    }
    text = FAKE
    for name, extra in engines.items():
        text += f'\n[engines.{name}]\nkind = "upstream"\nbase_url = "{base_url}"\n{extra}\n{PATIENT}' + _model(name)
    text += '\n[embedding.far]\ninput = "0.02"\ncontext = 8191\nengines = ["standin"]\n'
    text += '\n[engines.nowhere]\nkind = "upstream"\nbase_url = "http://127.0.0.1:9/v1"\n' + PATIENT + _model("nowhere")
    return text + _model("gpt-4o-mini", "standin")


def _model(name: str, engine: str = "") -> str:
    return (
        f'\n[chat."{name}"]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\n'
        f'image_tokens = {{ low = 85, high = 1_445 }}\nengines = ["{engine or name}"]\n'
    )


#: A group and a plan, to be added to a catalog with the models `quick` and `exact`.
SELLING = """
[groups.partner]
factor = 0.9
models = { exact = 0.5 }

[plans.pro]
title = "Pro plan"
price = "2.00"
credit = "3.00"
window_5h = "1.00"

[plans.max]
price = "5.00"
credit = "9.00"

[plans.old]
price = "1.00"
credit = "1.00"
closed = true
"""


def upstream(name: str, base_url: str, extra: str = "") -> str:
    """Return a model and the upstream behind it, both with this name."""
    return f'\n[engines.{name}]\nkind = "upstream"\nbase_url = "{base_url}"\n{extra}\n' + _model(name)


def claude(name: str, base_url: str, extra: str = "", model: str = "") -> str:
    """Return a model, and the server with Anthropic's API behind it."""
    text = f'\n[engines.{name}]\nkind = "anthropic"\nbase_url = "{base_url}"\nfetches_images = true\n{PATIENT}{extra}\n'
    return text + _model(model or name, name)
