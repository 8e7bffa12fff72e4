"""Parts of the bench: what counts as a stall, a limit and throughput; charts and the document made from results."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from bench import charts, document, guard, load, mock, ours, proxies, raw, report
from bench.__main__ import NAMES, _sections
from bench.gateways import Direct
from bench.measure import Plan, Row, Sample
from bench.sections import keys, memory, streams, tails

from tests.test_bench import bench

ROOT = Path(__file__).parents[1]
RAW = sorted((ROOT / "docs" / "benchmarks").glob("20*.json"))[-1]
PLAN = Plan(rounds=1, seconds=0.3, callers=2, streams=2, gateway_cores=None, load_cores=None)
SVG = "{http://www.w3.org/2000/svg}"


# ── the load generator and the mock ───────────────────────────────────────────────────────────────────────


class Wire(asyncio.Transport):
    """A connection on which everything written is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        pass


async def watched(parts: list[bytes], *, tokens: int, pause_s: float = 0.0, patience_s: float = 1.0) -> load.Tally:
    """Return the tally of a watched stream that arrives in these parts."""
    tally = load.Tally()
    watcher = load.Watcher(lambda: b"", time.perf_counter() + 60, tally)
    watcher.tokens, watcher.patience_s = tokens, patience_s
    watcher.connection_made(Wire())
    for part in parts:
        await asyncio.sleep(pause_s)
        watcher.data_received(part)
    return tally


def stream_of(tokens: int) -> bytes:
    return b"".join(mock._stream(lean=True, usage=True, tokens=tokens))


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_a_watched_stream_counts_each_token_once_however_it_is_cut(size: int) -> None:
    whole = stream_of(5)
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    tally = asyncio.run(watched(parts, tokens=5))
    assert (tally.done, tally.errors, tally.stalled) == (1, 0, 0), tally.samples


def test_a_watched_stream_that_lacks_a_token_is_an_error() -> None:
    tally = asyncio.run(watched([stream_of(4)], tokens=5))
    assert (tally.errors, tally.samples[0][:15]) == (1, "4 of 5 tokens: ")


def test_a_watched_stream_with_a_long_gap_has_stalled() -> None:
    whole = stream_of(2)
    tally = asyncio.run(watched([whole[:400], whole[400:]], tokens=2, pause_s=0.05, patience_s=0.02))
    assert (tally.done, tally.errors, tally.stalled) == (1, 0, 1)
    assert tally.worst_gap_s >= 0.05


def test_the_mock_streams_as_many_tokens_and_as_fast_as_the_prompt_asks() -> None:
    async def exchange() -> list[bytes]:
        upstream, wire = mock.Upstream(lean=True), Wire()
        upstream.connection_made(wire)
        upstream.data_received(
            load.build_request(1, "/v1/chat/completions", "k", model="m", prompt=mock.paced_prompt(3, 10), stream=True,
                               headers=[])
        )  # fmt: skip
        assert len(wire.written) == 1
        await asyncio.sleep(0.1)
        return wire.written

    written = asyncio.run(exchange())
    assert len(written) == 3
    assert b"".join(written).count(b'" token"') == 3


# ── guard, tails, sustained streams ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("gateway", "mocks", "loads", "cores", "limit"),
    [
        (0.5, 0.95, 0.3, 4, "mock"),
        (0.5, 0.3, 0.95, 4, "load"),
        (0.5, 0.5, 0.45, 1, "mock and load"),
        (0.5, 0.5, 0.45, 2, None),
        # The gateway itself had no more to give.
        (0.97, 0.5, 0.5, 1, None),
        (None, 0.95, 0.1, 1, "mock"),
    ],
)
def test_the_guard_names_what_was_at_its_limit(
    gateway: float | None, mocks: float, loads: float, cores: int, limit: str | None
) -> None:
    assert guard.limit_of(guard.Busy(gateway, mocks, loads, cores)) == limit


def test_a_figure_that_the_bench_limited_is_marked() -> None:
    levels = [{"callers": 1, "rate": 5000.0, "p99_ms": 0.5, "errors": 0, "limit": "mock"}]
    assert "≥ 5,000" in tails.table([{"title": "x", "levels": levels}])
    row = Row("nginx", "nginx", "no", plain=[Sample(10, 0, 1.0, 0.1, 0.5, None, None, limit="load")])
    assert "Limited by the mock or the load generator, whose core was full: nginx (load)." in report.table([row])


def test_throughput_within_a_tail_is_the_highest_rate_of_the_levels_that_are_fast_and_without_errors() -> None:
    levels = [
        {"rate": 100.0, "p99_ms": 0.8, "errors": 0, "limit": None},
        {"rate": 300.0, "p99_ms": 4.0, "errors": 0, "limit": None},
        {"rate": 250.0, "p99_ms": 4.5, "errors": 0, "limit": None},
        {"rate": 900.0, "p99_ms": 4.9, "errors": 1, "limit": None},
        {"rate": 400.0, "p99_ms": 90.0, "errors": 0, "limit": None},
    ]
    found = [tails.within(levels, tail) for tail in (0.5, 1, 5, 50, 100)]
    assert [level and level["rate"] for level in found] == [None, 100.0, 300.0, 300.0, 400.0]


def level_of(number: int, **changes: Any) -> dict[str, Any]:
    level = {"streams": number, "done": number, "broken": 0, "stalled": 0, "worst_gap_ms": 60.0, "busy": 0.4}
    return level | {"limit": None} | changes


def test_streams_are_sustained_up_to_the_last_level_without_a_stall_or_a_loss() -> None:
    assert streams.sustained([level_of(100), level_of(200, stalled=1)]) == (100, None)
    assert streams.sustained([level_of(100), level_of(200, broken=3, limit="mock")]) == (100, "mock")
    assert streams.sustained([level_of(100, broken=1)]) == (0, None)
    # No level failed: more was not tried.
    assert streams.sustained([level_of(100), level_of(200)]) == (200, "levels")
    text = streams.table([{"title": "x", "levels": [level_of(100), level_of(200, stalled=1, limit="load")]}])
    assert "≥ 100" in text
    assert "200: 1 stalled of 200 (load at the limit)" in text


# ── options, versions, raw files ──────────────────────────────────────────────────────────────────────────


def test_sections_are_chosen_by_name_or_all_together() -> None:
    assert _sections("all") == list(NAMES)
    assert _sections("tails, keys") == ["tails", "keys"]
    done = bench("--sections", "latency")
    assert done.returncode == 2
    assert "unknown latency; known are table, tails" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/01 - https://haproxy.org/", "2.6.12-1+deb12u4"),
        ("v2.6.2 h1:abc", "2.6.2"),
        ("minitoolai 0.1.0", "0.1.0"),
        ("no number", "no number"),
    ],
)
def test_versions_are_read_from_what_programs_print(said: str, version: str) -> None:
    assert proxies.version_in(said) == version


def test_results_are_added_only_to_a_file_of_the_same_machine_and_versions(tmp_path: Path) -> None:
    path, fresh = tmp_path / "raw.json", raw.new([])
    raw.add(fresh, "table", [{"value": 1.23456789}], {}, 2.0)
    raw.write(path, fresh)
    assert raw.read(path)["sections"]["table"]["results"] == [{"value": 1.2346}]
    assert raw.continued(path, raw.new([]))["sections"].keys() == {"table"}
    for changed in ({"machine": {"cpu": "another"}}, {"versions": fresh["versions"] | {"python": "2.7"}}):
        with pytest.raises(raw.Different):
            raw.continued(path, fresh | changed)
    assert raw.continued(tmp_path / "none.json", fresh) is fresh


# ── charts and document ───────────────────────────────────────────────────────────────────────────────────

GROWTH = {"1000": {"hold and settle, µs": 500.0, "first audit, ms": 3.0},
          "100000": {"hold and settle, µs": 510.0, "first audit, ms": 20.0}}  # fmt: skip
FLEET = [{"engines": engines, "jobs": 400, "idle_cpu": 0.01, "cpu_ms_a_job": 5.0, "wait_ms": 12.0, "wait_p95_ms": 30.0}
         for engines in (1, 300)]  # fmt: skip


def test_every_chart_has_a_title_a_description_and_a_dark_form() -> None:
    results = raw.read(RAW)
    results["sections"] |= {"growth": {"results": GROWTH}, "fleet": {"results": FLEET}}
    drawn = charts.charts(results)
    assert set(drawn) == {"cpu", "tails", "growth", "engines"}
    for name, text in drawn.items():
        image = ET.fromstring(text)
        title, description = image.find(f"{SVG}title"), image.find(f"{SVG}desc")
        assert image.get("role") == "img", name
        assert image.get("aria-labelledby") == "title desc", name
        assert title is not None, name
        assert title.text, name
        assert description is not None, name
        assert len(description.text or "") > 60, name
        assert "prefers-color-scheme: dark" in text, name
        assert image.find(f"{SVG}script") is None, name
        shown = "".join(image.itertext())
        assert (
            "300 engines" if name == "engines" else "hold and settle" if name == "growth" else "MiniToolAI"
        ) in shown


def test_a_chart_names_the_figures_that_it_draws() -> None:
    text = charts.growth_chart(GROWTH)
    assert "first audit 6.67" in text
    assert charts.tails_chart([{"title": "x", "levels": []}]).count("<path") == 0


def test_the_charts_in_the_docs_are_drawn_from_the_committed_results(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.charts", str(RAW), "--out", str(tmp_path)]
    for option in ("growth", "fleet"):
        command += [f"--{option}", str(RAW.with_name(f"{option}.json"))]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert len(list(tmp_path.glob("*.svg"))) == 4
    for path in tmp_path.glob("*.svg"):
        assert (RAW.parent / path.name).read_text("utf-8") == path.read_text("utf-8"), path.name


def test_the_document_is_what_the_generator_writes_from_the_committed_results() -> None:
    written = document.document(RAW)
    assert document.DOCUMENT.read_text("utf-8") == written, f"run: python -m bench.document {RAW.relative_to(ROOT)}"
    assert "{{" not in written
    assert len(written.splitlines()) <= 150


def test_every_image_and_page_that_the_document_links_exists() -> None:
    text = document.DOCUMENT.read_text("utf-8")
    links = {part.split(")")[0].split("#")[0] for part in text.split("](")[1:]}
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_committed_results_name_machine_versions_and_every_section() -> None:
    results = raw.read(RAW)
    assert set(results["sections"]) >= set(NAMES)
    assert {"python", "minitoolai", "smg", "nginx", "haproxy", "litellm"} <= set(results["versions"])
    # A peer that the machine lacked is named.
    assert "caddy" in results["versions"] or "missing: Caddy" in document.DOCUMENT.read_text("utf-8")
    assert results["machine"]["cpu"]
    assert all(section["commit"] for section in results["sections"].values())
    rows = {row["name"]: row for row in results["sections"]["table"]["results"]}
    assert rows["minitoolai"]["books"] == "exact"


# ── tiny real runs ────────────────────────────────────────────────────────────────────────────────────────


def test_our_server_and_the_upstream_alone_are_measured_in_small(tmp_path: Path) -> None:
    path = tmp_path / "raw.json"
    tiny = ("--gateways", "minitoolai", "--rounds", "1", "--seconds", "0.3", "--streams", "4")
    done = bench(*tiny, "--sections", "prompts,keys", "--into", str(path), timeout_s=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text("utf-8"))["sections"]
    assert [row["name"] for row in found["prompts"]["results"]] == ["direct", "minitoolai"]
    assert [sample["errors"] for row in found["prompts"]["results"] for sample in row["samples"]] == [0, 0]
    (flood,) = found["keys"]["results"]
    assert (flood["not_refused"], flood["books"]) == (0, "exact")
    assert flood["refused_a_second"] > 0
    assert "| MiniToolAI " in keys.table([flood])


def test_streams_and_memory_of_our_server_are_measured_in_small() -> None:
    gateways, said = [Direct(), ours.Ours()], list[str]()
    direct, mine = streams.run(gateways, PLAN, said.append, levels=(3,))
    assert (direct["name"], mine["name"], mine["books"]) == ("direct", "minitoolai", "exact")
    assert [level["broken"] for level in (*direct["levels"], *mine["levels"])] == [0, 0]
    assert all(level["done"] >= 3 for level in mine["levels"])
    (row,) = memory.run(gateways, PLAN, said.append, streams=3, rest_s=0.1)
    assert 20 < row["idle_mb"] <= row["load_mb"]
    assert row["after_mb"] > 20
    assert "3 streams: MiniToolAI" in said
