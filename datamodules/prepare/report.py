"""What became of every record and image of a conversion: counts, and the first few of each kind by name."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5


@dataclass
class Skipped:
    """How many were left out for one reason, and the first few of them by name."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, count: int, examples: list[str]) -> None:
        self.count += count
        self.examples += examples[: EXAMPLES - len(self.examples)]


@dataclass
class Report:
    """Counts of one shard or of a whole conversion; adding those of the shards in order gives the whole's.

    counts: `records read`, `records written`, `images read`, `images written`, and what was done on the way.
    skipped: kind (`records` or `images`) -> reason -> how many and which.
    notes: what else a person should know, one line each.
    """

    counts: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, dict[str, Skipped]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def skip(self, kind: str, reason: str, example: str, count: int = 1) -> None:
        """Counts something that was read and left out."""
        # An id may be a string that cannot be written as UTF-8; the report can be, whatever it names.
        self._reason(kind, reason).add(count, [example.encode(errors="backslashreplace").decode()])

    def add(self, other: "Report") -> None:
        """Adds another report's counts to this one's."""
        self.counts.update(other.counts)
        self.notes += other.notes
        for kind, reasons in other.skipped.items():
            for reason, skipped in reasons.items():
                self._reason(kind, reason).add(skipped.count, skipped.examples)

    def total_skipped(self, kind: str) -> int:
        """How many records or images were left out, for all reasons together."""
        return sum(skipped.count for skipped in self.skipped.get(kind, {}).values())

    def to_json(self) -> dict[str, Any]:
        """The report as JSON objects, in an order that depends on nothing but its content."""
        skipped = {
            kind: {reason: vars(skipped) for reason, skipped in sorted(reasons.items())}
            for kind, reasons in sorted(self.skipped.items())
        }
        notes = {"notes": self.notes} if self.notes else {}
        return {"counts": dict(sorted(self.counts.items())), "skipped": skipped, **notes}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Report":
        """Inverse of `to_json`."""
        skipped = {
            kind: {reason: Skipped(**found) for reason, found in reasons.items()}
            for kind, reasons in content["skipped"].items()
        }
        return cls(Counter(content["counts"]), skipped, content.get("notes", []))

    def lines(self) -> list[str]:
        """The report for a person."""
        lines = [*self.notes, *(f"{name}: {count:,}" for name, count in sorted(self.counts.items()))]
        for kind, reasons in sorted(self.skipped.items()):
            lines.append(f"{kind} skipped: {self.total_skipped(kind):,}")
            for reason, skipped in sorted(reasons.items(), key=lambda item: -item[1].count):
                lines.append(f"  {_line(reason, skipped)}")
        return lines

    def reasons(self) -> str:
        """Why anything was left out, and how many of what, in one line."""
        counts: dict[str, list[str]] = {}
        examples: dict[str, str] = {}
        for kind, reasons in sorted(self.skipped.items()):
            for reason, skipped in sorted(reasons.items(), key=lambda item: -item[1].count):
                counts.setdefault(reason, []).append(f"{skipped.count:,} {kind}")
                examples.setdefault(reason, skipped.examples[0])
        said = (f"{reason} ({', '.join(own)}), such as {examples[reason]}" for reason, own in counts.items())
        return "; ".join(said) or "there are no records"

    def _reason(self, kind: str, reason: str) -> Skipped:
        return self.skipped.setdefault(kind, {}).setdefault(reason, Skipped())


def _line(reason: str, skipped: Skipped) -> str:
    return f"{skipped.count:,} x {reason}, such as {skipped.examples[0]}"
