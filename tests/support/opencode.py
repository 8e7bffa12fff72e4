"""opencode repairs a file in its command `run`: python -m tests.support.opencode KIND FOLDER

KIND is the kind of engine behind the server. Prints what happened as one JSON object. Must run in a network namespace
of its own, which has only the loopback interface: opencode would otherwise fetch its list of models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from minitoolai.portal.rendering.highlight import AGENT_MODEL, plain_example
from tests.support import catalogs
from tests.support.claude_code import QUESTION, Calls, chat, native, prepare, raise_loopback
from tests.support.programs import NODE
from tests.support.server import ServerProcess
from tests.support.upstream import Upstream

MODEL = "coder"
PROGRAM = NODE / "node_modules" / "opencode-linux-x64" / "bin" / "opencode"
#: Beside the lines of the guide: it changes files and runs commands unasked, and calls nobody else.
OPTIONS = {"autoupdate": False, "share": "disabled", "permission": {"edit": "allow", "bash": "allow"}}


def calls_of(work: Path) -> Calls:
    file = str(work / "sums.py")
    return [
        ("read", {"filePath": file}),
        ("edit", {"filePath": file, "oldString": "a - b", "newString": "a + b"}),
        ("bash", {"command": "python3 test_sums.py", "description": "Run the test"}),
    ]


def configure(home: Path, url: str, key: str) -> None:
    """Write the configuration that the guide shows, with this address, key and model."""
    lines = plain_example("agents.opencode", url, {AGENT_MODEL: MODEL}).splitlines()
    text = "\n".join(line for line in lines if not line.startswith("//"))
    config = json.loads(text)
    (provider,) = config["provider"].values()
    assert provider["options"]["baseURL"] == f"{url}/v1"
    provider["options"]["apiKey"] = key
    config |= OPTIONS
    folder = home / ".config" / "opencode"
    folder.mkdir(parents=True)
    (folder / "opencode.json").write_text(json.dumps(config))


def run(work: Path, home: Path) -> list[Any]:
    """Run opencode in `work`, and return the events that it prints."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    }
    done = subprocess.run(
        # A title, which it would otherwise ask a model for.
        [str(PROGRAM), "run", "--format", "json", "--title", "sums", QUESTION],
        cwd=work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main(kind: str, folder: Path) -> dict[str, Any]:
    """Let opencode work, and return what it printed and what the books say."""
    raise_loopback()
    work, home = folder / "work", folder / "home"
    prepare(work)
    behaviour = native if kind == "anthropic" else chat
    with Upstream(behaviour(calls_of(work))) as upstream:
        catalog = (catalogs.claude if kind == "anthropic" else catalogs.upstream)(MODEL, upstream.base_url)
        # It asks for 32,000 tokens, which the model of the guide can write.
        catalog = catalog.replace("max_output = 4096", "max_output = 32_768")
        with ServerProcess(folder, catalog=catalog) as server:
            account = server.account()
            configure(home, server.url, account.key)
            printed = run(work, home)
            balance = account.settled()
            question = "SELECT state, input_units, cached_units, output_units FROM generations WHERE account_id = ?"
            return {
                "printed": printed,
                "file": (work / "sums.py").read_text(),
                "requests": len(upstream.seen),
                "paths": sorted({exchange.path for exchange in upstream.seen}),
                "balance": balance,
                "rows": server.read(lambda c: c.execute(question, (account.id,))),
            }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
