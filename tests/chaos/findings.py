"""What a proof came to, and how it is printed: a line for each database, and a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Finding:
    """One proof on one database. `what` says in words what was done; the numbers are those that the lines add up."""

    proof: str
    database: str
    what: str
    kills: int = 0
    acknowledged: int = 0
    seeds: int = 0
    mutants: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


def line(database: str, findings: Iterable[Finding]) -> str:
    """`sqlite kills=… acknowledged=… seeds=… mutants=… violations=0`."""
    ours = [one for one in findings if one.database == database]
    kills, acknowledged = sum(one.kills for one in ours), sum(one.acknowledged for one in ours)
    seeds, mutants = sum(one.seeds for one in ours), sum(one.mutants for one in ours)
    violations = sum(len(one.violations) for one in ours)
    return (
        f"{database} kills={kills} acknowledged={acknowledged} seeds={seeds} mutants={mutants} violations={violations}"
    )


HEAD = ("proof", "database", "what was done", "kills", "acknowledged", "seeds", "mutants killed", "violations")


def table(findings: Sequence[Finding]) -> str:
    """The same in Markdown, a row for each proof on each database, as docs/reliability.md carries it."""
    rows = [
        (one.proof, one.database, one.what, *(number or "" for number in (one.kills, one.acknowledged, one.seeds)))
        + (one.mutants or "", len(one.violations))
        for one in sorted(findings, key=lambda one: (one.proof, one.database != "sqlite"))
    ]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (HEAD, *rows)]
    lines.insert(1, "|---|---|---|--:|--:|--:|--:|--:|")
    return "\n".join(lines)


HEADING = "## The last long run\n"


def written(document: str, text: str) -> str:
    """The document with this text under its heading, in the place of what stood there."""
    before, heading, rest = document.partition(HEADING)
    assert heading, f"the document has no heading {HEADING.strip()!r}"
    _, following, after = rest.partition("\n## ")
    return f"{before}{heading}\n{text.strip()}\n{following}{after}"
