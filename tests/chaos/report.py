"""The report: findings as a table, for a terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.checker import COLUMNS, Findings

HEAD: Final = ("scenario", "sent", *COLUMNS, "longest stall")


@dataclass(frozen=True)
class Result:
    """The end of a scenario.

    Parameters:
        name: of the scenario.
        findings: of the checker.
        defects: what the consumers said of themselves that nobody expected.
        longest_s: the longest stall of all sessions but one that floods, which waits for itself.
        seconds: that it took.
    """

    name: str
    findings: Findings
    defects: Sequence[str] = ()
    longest_s: float = 0.0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether all promises were kept."""
        return self.findings.clean and not self.defects

    def cells(self) -> list[str]:
        """The row of the table."""
        found = self.findings
        counts = [str(found.counts[column]) for column in COLUMNS]
        return [self.name, str(found.sent), *counts, f"{self.longest_s:.1f} s"]


def as_text(results: Sequence[Result]) -> str:
    """A table of aligned columns."""
    rows = [list(HEAD), *(result.cells() for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(_line(row, widths) for row in rows)


def as_markdown(results: Sequence[Result]) -> str:
    """The same for the documentation."""
    rows = [f"| {' | '.join(HEAD)} |", f"|---|{'---:|' * (len(HEAD) - 1)}"]
    return "\n".join([*rows, *(f"| {' | '.join(result.cells())} |" for result in results)])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
