"""Two minutes of rightful and wrongful requests for all that /openapi.json describes: no 5xx, no status not described.

For longer, by hand: FUZZ_S=600 .venv/bin/pytest tests/acceptance/test_fuzz.py
"""

from __future__ import annotations

import os
from pathlib import Path

from minitoolai.settings import variables
from tests.acceptance.conftest import Serve
from tests.support.fuzzing import CATALOG, fuzz

SECONDS = int(os.environ.get("FUZZ_S", "120"))


def test_whatever_is_asked_the_answer_is_one_that_is_described(serve: Serve, tmp_path: Path) -> None:
    # Where requests a minute are limited, none of them may be turned away for that.
    unlimited = {name: "0" for name in variables() if name.endswith("_REQUESTS_PER_MINUTE")}
    server = serve(CATALOG, **unlimited)
    account = server.account("1000000.00")
    done = fuzz(account, tmp_path, seconds=SECONDS)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    # It did not stop at the gates: every kind of work was done, and paid for.
    kinds = server.read(lambda c: c.execute("SELECT DISTINCT kind FROM generations WHERE state = 'succeeded'"))
    assert {"chat", "speech", "image"} <= {kind for (kind,) in kinds}, done.stdout[-4_000:]
    assert server.read(lambda c: c.execute("SELECT count(*) FROM generations"))[0][0] > SECONDS
