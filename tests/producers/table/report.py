"""The report: findings as a table, for a terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.producers.table.checker import Findings

COUNTED: Final = ("lost", "doubled", "out of order", "missing", "seen twice", "astray")
"""What has a column; what is strange is told in words."""

HEAD: Final = ("platform", "killed", "times", "sent", *COUNTED, "ambiguous", "longest wait")


@dataclass(frozen=True)
class Result:
    """The end of a platform in a world.

    Parameters:
        platform: its name.
        points: where the producer was killed; ``times``: how often.
        findings: of the checker.
        wanted: how often it was to be killed.
    """

    platform: str
    points: str
    times: int
    findings: Findings
    wanted: int = 0

    @property
    def clean(self) -> bool:
        """Whether all promises were kept, under as many kills as were meant."""
        return self.findings.clean and self.times >= self.wanted

    def cells(self) -> list[str]:
        """The row of the table."""
        found = self.findings
        counts = [str(found.counts[column]) for column in COUNTED]
        longest = f"{found.longest_s:.1f} s"
        return [self.platform, self.points, str(self.times), str(found.sent), *counts, str(found.ambiguous), longest]


def as_text(results: Sequence[Result]) -> str:
    """A table of aligned columns."""
    rows = [list(HEAD), *(result.cells() for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(_line(row, widths) for row in rows)


def as_markdown(results: Sequence[Result]) -> str:
    """The same for the documentation."""
    rows = [f"| {' | '.join(HEAD)} |", f"|---|---|{'---:|' * (len(HEAD) - 2)}"]
    for result in results:
        name, point, *counts = result.cells()
        rows.append(f"| {' | '.join([f'`{name}`', f'`{point}`', *counts])} |")
    return "\n".join(rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    return "  ".join([*names, *(cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))])
