"""Choosing among possible matches: a beam search from left to right through the reference."""

from collections.abc import Sequence
from dataclasses import dataclass

from pixel_llm.metrics.meteor_python.matches import EXACT, Match

_BEAM = 40


@dataclass(slots=True)
class Path:
    """Choices up to some word of the reference.

    covered, other_covered: words of reference and caption that are matched, all but exact matches counting half,
    cut to whole numbers after each.  chunks: closed ones.  end: where the open chunk ends in the caption, -1 for
    none.  next: the word after the last match.  used, other_used: words that are taken, as bits.
    """

    covered: int
    other_covered: int
    chunks: int
    distance: int
    next: int
    end: int
    used: int
    other_used: int
    chosen: tuple[Match, ...]

    def rank(self) -> tuple[int, int, int]:
        """Better is smaller."""
        return -(self.covered + self.other_covered), self.chunks, self.distance

    def copy(self) -> "Path":
        numbers = (self.covered, self.other_covered, self.chunks, self.distance, self.next, self.end)
        return Path(*numbers, self.used, self.other_used, self.chosen)

    def take(self, match: Match) -> None:
        weight = 1.0 if match.module == EXACT else 0.5
        self.covered = int(self.covered + weight * match.length)
        self.other_covered = int(self.other_covered + weight * match.other_length)
        if self.end not in (-1, match.other_start):
            self.chunks += 1
        self.next = match.start + match.length
        self.end = match.other_start + match.other_length
        self.used |= match.bits
        self.other_used |= match.other_bits
        self.chosen = (*self.chosen, match)

    def close(self) -> None:
        if self.end != -1:
            self.chunks += 1
            self.end = -1


def align(matches: Sequence[Sequence[Match]]) -> tuple[tuple[Match, ...], int]:
    """matches: the possible ones, by their start in the reference. Returns those chosen, and how many chunks they
    form: stretches that are matched without a gap and in the same order."""
    fixed = _undisputed(matches)
    used = sum(match.bits for match in fixed.values())
    other_used = sum(match.other_bits for match in fixed.values())
    paths = [Path(0, 0, 0, 0, 0, -1, used, other_used, ())]
    for position, possible in enumerate(matches):
        before, paths = _ranked(paths), []
        for path in before:
            _go_on(path, position, possible, fixed.get(position), paths)
    paths = _ranked(paths)
    for path in paths:
        path.close()
    best = min(paths, key=Path.rank)
    return best.chosen, best.chunks


def _ranked(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=Path.rank)[:_BEAM] if len(paths) > 1 else paths


def _go_on(path: Path, position: int, possible: Sequence[Match], fixed: Match | None, paths: list[Path]) -> None:
    """Appends the paths that a path becomes at a word of the reference."""
    if fixed is not None:
        path.distance += abs(fixed.start - fixed.other_start)
        path.take(fixed)
    elif path.next <= position:
        for match in possible:
            if path.used & match.bits or path.other_used & match.other_bits:
                continue
            after = path.copy()
            after.take(match)
            paths.append(after)
            # The program adds the distance to the path that it comes from, not to the one that takes the match.
            path.distance += abs(match.start - match.other_start)
        path.close()
    paths.append(path)


def _undisputed(matches: Sequence[Sequence[Match]]) -> dict[int, Match]:
    """By start, matches that are alone there and whose words no other match covers."""
    covers: dict[int, int] = {}
    other_covers: dict[int, int] = {}
    for match in (match for own in matches for match in own):
        for word in range(match.start, match.start + match.length):
            covers[word] = covers.get(word, 0) + 1
        for word in range(match.other_start, match.other_start + match.other_length):
            other_covers[word] = other_covers.get(word, 0) + 1

    def is_alone(match: Match) -> bool:
        return all(covers[match.start + i] == 1 for i in range(match.length)) and all(
            other_covers[match.other_start + i] == 1 for i in range(match.other_length)
        )

    return {own[0].start: own[0] for own in matches if len(own) == 1 and is_alone(own[0])}
