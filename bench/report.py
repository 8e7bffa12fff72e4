"""Render the table of `make bench`: medians over the rounds, ratios to smg, missing peers listed."""

from collections.abc import Iterable
from statistics import median

from bench.guard import SATURATED
from bench.measure import Row, Sample

BASE = "smg"
_HEADS = [
    "gateway",
    "bills",
    "plain req/s, one core",
    "CPU ms plain",
    "CPU ms stream",
    "first token +ms: alone",
    "of many",
    "p99",
    "× smg: plain",
    "stream",
    "MB",
    "errors",
    "accounts",
]
_NOTE = "≥: the gateway was waiting, not working. Limited by the mock or the load generator, whose core was full: "


def table(rows: list[Row]) -> str:
    """Return the table as Markdown, followed by the gateways that could not be measured."""
    by_name = {row.name: row for row in rows}
    measured = [row for row in rows if row.plain]
    notes = []
    if limited := [f"{row.title} ({limit})" for row in measured if (limit := limit_of_row(row))]:
        notes.append(f"{_NOTE}{', '.join(limited)}.")
    notes += [f"missing: {row.title}: {row.missing}" for row in rows if row.missing]
    notes += [f"{row.title}, first error: {row.complaints[0][:120]}" for row in measured if row.complaints]
    # An empty line ends a table in Markdown.
    return "\n".join([markdown(_HEADS, [_cells(row, by_name) for row in measured]), *(["", *notes] if notes else [])])


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    """Return a table with columns of equal width, so that it can be read on a terminal too."""
    widths = [max(len(line[at]) for line in [heads, *lines]) for at in range(len(heads))]
    ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([_line(heads, widths), ruler, *(_line(line, widths) for line in lines)])


def comparison(rows: list[Row]) -> str:
    """Return the CPU of this installation divided by that of the other one: median and range of the rounds."""
    by_name = {row.name: row for row in rows}
    lines = []
    for name, other in (("minitoolai", "other"), ("minitoolai-lean", "other-lean")):
        if name not in by_name or other not in by_name:
            continue
        for kind in ("plain", "stream"):
            pairs = zip(getattr(by_name[name], kind), getattr(by_name[other], kind), strict=True)
            ratios = [ours.cpu_ms / theirs.cpu_ms for ours, theirs in pairs if ours.cpu_ms and theirs.cpu_ms]
            if ratios:
                lines.append(f"{name}, {kind}: {median(ratios):.3f} × ({min(ratios):.2f} to {max(ratios):.2f})")
    return "\n".join(["CPU divided by the other installation's:", *lines]) if lines else ""


def _line(cells: list[str], widths: list[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _cells(row: Row, by_name: dict[str, Row]) -> list[str]:
    direct, base = by_name.get("direct"), by_name.get(BASE)
    return [
        row.title,
        row.bills,
        rate(row),
        number(cpu(row.plain), 3),
        number(cpu(row.stream), 2),
        number(added(row, direct, "alone", "first_median_ms"), 2),
        number(added(row, direct, "stream", "first_median_ms"), 2),
        number(added(row, direct, "stream", "first_p99_ms"), 1),
        number(ratio(row.plain, base.plain if base else []), 2),
        number(ratio(row.stream, base.stream if base else []), 2),
        number(row.rss_mb, 0),
        str(row.failures),
        row.books,
    ]


def rate(row: Row) -> str:
    """Return requests per second, with ≥ if the gateway was not the bottleneck."""
    rates = [sample.rate for sample in row.plain if sample.done]
    if not rates or row.name == "direct":
        return "–"
    busy = _median(sample.busy for sample in row.plain)
    return f"{'≥ ' if busy is not None and busy < SATURATED else ''}{median(rates):,.0f}"


def limit_of_row(row: Row) -> str | None:
    """Return what limited most rounds of plain requests, if it was not the gateway."""
    limits = [sample.limit for sample in row.plain]
    found = [limit for limit in limits if limit]
    return found[0] if row.name != "direct" and len(found) * 2 > len(limits) else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def cpu(samples: list[Sample]) -> float | None:
    """Return the CPU milliseconds of one request: the median over the rounds."""
    return _median(sample.cpu_ms for sample in samples)


def added(row: Row, direct: Row | None, kind: str, name: str) -> float | None:
    """Return the milliseconds added to the upstream without a gateway: the median over the rounds."""
    if direct is None or direct is row:
        return None
    rounds = zip(getattr(row, kind), getattr(direct, kind), strict=False)
    pairs = [(getattr(s, name), getattr(d, name)) for s, d in rounds]
    return _median(ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None)


def ratio(samples: list[Sample], base: list[Sample]) -> float | None:
    """Return the median of the ratios of each round, so that only measurements of one round are compared."""
    pairs = [(s.cpu_ms, b.cpu_ms) for s, b in zip(samples, base, strict=False)]
    return _median(mine / theirs for mine, theirs in pairs if mine is not None and theirs)


def number(value: float | None, digits: int) -> str:
    """Return the number, or a dash if it was not measured."""
    return "–" if value is None else f"{value:.{digits}f}"
