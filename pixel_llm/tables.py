"""Figures of splits: as tables in plain text, and each by a name of its own."""

from collections.abc import Mapping, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line of text for each row of cells, the first column to the left and all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def figures_table(scores: Mapping[str, Mapping[str, float]], note: str) -> str:
    """A line for each split: counts (ints) as they are, shares in percent; below, what they depend on.

    Figures at single thresholds are left out: they are for files.
    """
    columns = [name for name in next(iter(scores.values())) if "_iou" not in name]
    rows = [[split, *(_cell(figures.get(name)) for name in columns)] for split, figures in scores.items()]
    return "\n".join([*aligned([["split", *columns], *rows]), note])


def named_figures(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures of all splits, each called SPLIT/NAME."""
    return {f"{split}/{name}": float(value) for split, row in scores.items() for name, value in row.items()}


def _cell(figure: float | None) -> str:
    if figure is None:
        return ""
    return f"{figure:,}" if isinstance(figure, int) else f"{100 * figure:.1f}"
