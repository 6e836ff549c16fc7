"""The result of a calibration as a file for --set, and all candidates tried as CSV."""

from pathlib import Path

import pandas as pd
import yaml

from benchmark.analysis.frame import csv_text
from benchmark.report.render import write_text

STRENGTHS, LOG = "strengths.yaml", "calibration.csv"


def write_strengths(rows: list[dict], suite: str, out: Path) -> Path:
    """strengths.yaml below `out`: an entry for each calibrated row of the suite."""
    head = f"# Written by `benchmark calibrate {suite}`; use it as --set @{STRENGTHS}. See docs/CALIBRATION.md.\n"
    return write_text(out / STRENGTHS, head + yaml.safe_dump({"strengths": rows}, sort_keys=False, width=110))


def write_candidates(lines: list[dict], out: Path) -> Path:
    """calibration.csv below `out`: a line for each candidate at each budget."""
    return write_text(out / LOG, csv_text(pd.DataFrame(lines)))
