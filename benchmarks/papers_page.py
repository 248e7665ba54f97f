"""The page of the papers' table. Pure: rows and JSON values in, text out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.papers_row import Figures, Row, Verdict, spread
from benchmarks.tables import table

_SYSTEMS = 13
_HEAD = """# The thirteen systems beside their papers

Written by `python -m benchmarks.papers` (`make papers`); not edited by hand.

Each row asks, at small scale, for the direction of its paper's claim; the papers' own figures are of models thousands
of times as large and are not reproduced here. A figure is the mean over seeds, its range behind it; *holds* means on
every seed. What does not hold is left standing, with what was tried.
"""


def markdown(rows: Sequence[Row], measured: Mapping[str, Any]) -> str:
    """The whole page."""
    head = ("", "system", "the paper", "asked here", "seeds", "came", "verdict")
    lines = [_HEAD, table(head, [_cells(row, measured.get(row.name)) for row in rows])]
    missing = sorted(set(range(1, _SYSTEMS + 1)) - {row.system for row in rows})
    if missing:
        lines += ["", f"Without a row yet: {', '.join(map(str, missing))}."]
    for row in rows:
        lines += ["", *_section(row, measured.get(row.name))]
    return "\n".join(lines) + "\n"


def verdicts(row: Row, entry: Mapping[str, Any] | None) -> tuple[Verdict, ...]:
    """One a check; none where nothing was measured."""
    seeds = figures_of(entry)
    try:
        return tuple(check.verdict(seeds) for check in row.checks) if seeds else ()
    except KeyError:
        # Measured before the checks asked for what they ask for now: that is no answer to them.
        return ()


def figures_of(entry: Mapping[str, Any] | None) -> list[Figures]:
    """The figures of each seed, in the order of the seeds."""
    seeds = {} if entry is None else entry["seeds"]
    return [seeds[name]["figures"] for name in sorted(seeds, key=int)]


def _cells(row: Row, entry: Mapping[str, Any] | None) -> list[str]:
    found = verdicts(row, entry)
    words = [f"({at}) {check.words}" if len(row.checks) > 1 else check.words for at, check in enumerate(row.checks, 1)]
    came = [f"({at}) {one.figure}" if len(found) > 1 else one.figure for at, one in enumerate(found, 1)]
    return [
        str(row.system),
        f"`{row.name}`: {row.paper}",
        f"{row.headline} [{row.source}]",
        "; ".join(words),
        str(len(figures_of(entry))),
        "; ".join(came),
        _verdict(found),
    ]


def _verdict(found: Sequence[Verdict]) -> str:
    if not found:
        return "not measured"
    failing = [str(at) for at, one in enumerate(found, 1) if not one.holds]
    if not failing:
        return "holds"
    which = f": ({'), ('.join(failing)})" if len(found) > 1 else ""
    return f"**does not hold here**{which}"


def _section(row: Row, entry: Mapping[str, Any] | None) -> list[str]:
    lines = [f"## {row.system}. {row.name}"]
    if row.remarks:
        lines += ["", row.remarks]
    if entry is None:
        return lines
    seeds = entry["seeds"]
    names = list(dict.fromkeys(name for one in seeds.values() for name in one["figures"]))
    order = sorted(seeds, key=int)
    body = [
        [name, *(_number(seeds[seed]["figures"].get(name)) for seed in order), _mean(entry, name)] for name in names
    ]
    body.append(["CPU seconds", *(f"{seeds[seed]['cpu_seconds']:.0f}" for seed in order), ""])
    host = entry["machine"]
    return [
        *lines, "", table(("figure", *(f"seed {seed}" for seed in order), "mean and range"), body), "",
        f"{host['cpu']}, one thread; {json.dumps(host['versions'])[1:-1]}.".replace('"', ""),
    ]  # fmt: skip


def _mean(entry: Mapping[str, Any], name: str) -> str:
    found = figures_of(entry)
    return spread(found, name) if all(name in one for one in found) else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
