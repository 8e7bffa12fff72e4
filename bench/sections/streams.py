"""Streams sustained: how many streams at once arrive whole, each token within ten times its pace.

Each level has more streams of 40 tokens, 50 ms apart, and each of its connections begins the next stream when one ends.
A level is sustained if every token of every stream came and no two were further apart than 500 ms; the wait for the
first token counts too. A level that fails is tried once more, and after two levels
that failed in a row the next gateway is measured.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.gateways import Gateway
from bench.guard import at_least
from bench.measure import Plan, Sample, Say, lab_of, load, warm_up
from bench.report import markdown

LEVELS = (25, 50, 100, 200, 400, 600, 800, 1200, 1600, 2400)
TOKENS, EVERY_MS = 40, 50


@dataclass(frozen=True)
class Level:
    """Hold how so many streams went."""

    streams: int
    done: int
    #: Streams that were not whole.
    broken: int
    #: Whole streams with a gap of more than ten times the pace.
    stalled: int
    worst_gap_ms: float
    busy: float | None
    limit: str | None

    @property
    def is_sustained(self) -> bool:
        """Whether every stream came whole and without a stall."""
        return not self.broken and not self.stalled


def run(gateways: list[Gateway], plan: Plan, say: Say, levels: tuple[int, ...] = LEVELS) -> list[dict[str, Any]]:
    """Raise the number of streams of each gateway until a level is not sustained."""
    # Every connection begins two streams: one while connections are opened, and one with all of them open.
    timed = replace(plan, seconds=1.5 * TOKENS * EVERY_MS / 1000)
    with lab_of(gateways, timed, say) as lab:
        found = []
        for gateway, row, running in lab.up:
            warm_up(row, running, replace(lab.plan, seconds=0.5))
            reached: list[Level] = []
            for streams in levels:
                say(f"{streams} streams: {row.title}")
                options = ("--watch", "--tokens", str(TOKENS), "--every-ms", str(EVERY_MS))
                level = _level(streams, load(row, running, lab.plan, *options, callers=streams))
                if not level.is_sustained:
                    # Once more: another program may have disturbed it.
                    level = _level(streams, load(row, running, lab.plan, *options, callers=streams))
                reached.append(level)
                if len(reached) > 1 and not any(one.is_sustained for one in reached[-2:]):
                    break
            found.append({"name": gateway.name, "title": row.title, "levels": [asdict(level) for level in reached]})
        lab.check_books()
        return [one | {"books": row.books} for one, (_, row, _) in zip(found, lab.up, strict=True)]


def _level(streams: int, sample: Sample) -> Level:
    return Level(streams, sample.done, sample.errors, sample.stalled, sample.worst_gap_ms, sample.busy, sample.limit)


def sustained(levels: list[dict[str, Any]]) -> tuple[int, str | None]:
    """Return the most streams that were sustained, and what stopped the bench there if it was not the gateway."""
    good = [level for level in levels if not level["broken"] and not level["stalled"]]
    most = good[-1]["streams"] if good else 0
    above = next((level for level in levels if level["streams"] > most), None)
    return most, above["limit"] if above else "levels"


def table(found: list[dict[str, Any]]) -> str:
    """Return the table: streams sustained, and what the first level above them looked like."""
    heads = ["", "streams sustained", "part of the core", "longest gap, ms", "at the next level"]
    lines = []
    for row in found:
        most, limit = sustained(row["levels"])
        last = next((level for level in row["levels"] if level["streams"] == most), None)
        cells = ["–", "–"]
        if last:
            cells = ["–" if last["busy"] is None else f"{last['busy']:.2f}", f"{last['worst_gap_ms']:,.0f}"]
        lines.append([row["title"], at_least(f"{most:,}", limit), *cells, _next(row["levels"], most)])
    return markdown(heads, lines)


def _next(levels: list[dict[str, Any]], most: int) -> str:
    level = next((level for level in levels if level["streams"] > most), None)
    if level is None:
        return "not tried"
    words = [
        f"{level['stalled']:,} stalled" if level["stalled"] else "",
        f"{level['broken']:,} broken" if level["broken"] else "",
    ]
    text = f"{level['streams']:,}: {', '.join(word for word in words if word)} of {level['done'] + level['broken']:,}"
    return f"{text} ({level['limit']} at the limit)" if level["limit"] else text
