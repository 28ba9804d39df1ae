"""One report of a comparison: collects errors per output, prints them as a table, says whether all passed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

HEADER = ("component", "output", "max abs error", "max rel error", "tolerance", "verdict")


@dataclass
class Row:
    """One line of the table; the errors are None where nothing could be compared."""

    component: str
    output: str
    absolute: float | None
    relative: float | None
    tolerance: float | None
    verdict: str

    def cells(self) -> tuple[str, ...]:
        numbers = (self.absolute, self.relative, self.tolerance)
        return self.component, self.output, *("-" if n is None else f"{n:.2e}" for n in numbers), self.verdict


class Report:
    """Collects comparisons. An error is judged relative to the output's scale, the largest |want|
    (in absolute terms where all of `want` is zero); it passes at or below its tolerance.

    tolerance_note: one line printed under the table, saying where the tolerances come from.
    """

    def __init__(self, tolerance_note: str) -> None:
        self.tolerance_note = tolerance_note
        self.rows: list[Row] = []

    def check(self, component: str, output: str, got: Any, want: Any, tolerance: float) -> None:
        """Compares numbers: tensors, arrays, scalars or nested lists. NaN and infinity must match exactly."""
        got, want = _array(got), _array(want)
        if got.shape != want.shape:
            verdict = f"FAIL: shape {got.shape}, wanted {want.shape}"
            self.rows.append(Row(component, output, None, None, tolerance, verdict))
            return
        absolute = _max_error(got, want)
        finite = np.abs(want[np.isfinite(want)])
        scale = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
        verdict = "pass" if absolute / scale <= tolerance else "FAIL"
        self.rows.append(Row(component, output, absolute, absolute / scale, tolerance, verdict))

    def fail(self, component: str, output: str, reason: str) -> None:
        """Notes a failure that has no number: a crash, a text that differs, a missing file."""
        self.rows.append(Row(component, output, None, None, None, f"FAIL: {reason}"))

    def skip(self, component: str, reason: str = "not built yet") -> None:
        """Notes what was not compared; it counts neither as passed nor as failed."""
        self.rows.append(Row(component, "", None, None, None, reason))

    @property
    def passed(self) -> int:
        """Number of comparisons within their tolerance."""
        return sum(row.verdict == "pass" for row in self.rows)

    @property
    def failed(self) -> bool:
        """True when a comparison failed, or when nothing was compared at all."""
        return self.passed == 0 or any(row.verdict.startswith("FAIL") for row in self.rows)

    @property
    def exit_code(self) -> int:
        return int(self.failed)

    def print(self) -> None:
        """Writes the aligned table, the note and the counts to standard output."""
        table = [HEADER, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEADER) - 1)]
        for line in table:
            padded = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)]
            print("  ".join([*padded, line[-1]]))
        failures = sum(row.verdict.startswith("FAIL") for row in self.rows)
        others = len(self.rows) - self.passed - failures
        print(f"\n{self.tolerance_note}\n{self.passed} passed, {failures} failed, {others} not compared")


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _max_error(got: np.ndarray, want: np.ndarray) -> float:
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - want))
    return float(np.nan_to_num(error, nan=np.inf).max(initial=0.0))
