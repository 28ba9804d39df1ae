"""Our resampling of maps and tables against `jax.image.resize` as the published model calls it."""

from pathlib import Path

from pixel_llm.core.resize import resize_map, resize_table
from tests.parity.core_components import TOLERANCE, channels_first, channels_last
from tests.parity.golden import read_golden
from tests.parity.report import Report


def check_resize(report: Report, path: Path) -> None:
    golden = read_golden(path)
    for case in golden.outputs:
        values, wanted = golden.inputs(case, "x"), golden.output(case, "y")
        if values.dim() == 2:
            got = resize_table(values, len(wanted))
        elif case.startswith("bicubic"):
            got = channels_last(resize_map(channels_first(values), wanted.shape[1:3]))
        else:
            report.skip(golden.name, f"not built: {case}, no part of the core resizes so")
            continue
        report.check(golden.name, f"{case}/y", got, wanted, TOLERANCE)
