"""How well attackers rebuild at each point of a sweep over their knowledge or budget; the encoders stay the same."""

from collections.abc import Mapping

import pandas as pd

from benchmark.analysis.doubts import Doubts
from benchmark.matrix.cells import Point

ROW = ["dataset", "protocol", "defense", "cem", "split", "attacker"]
COLUMNS = [*ROW, "point", "seeds", "mse", "ssim", "doubt"]


def swept(frame: pd.DataFrame, points: Mapping[str, Point]) -> pd.DataFrame:
    """A line for each attack and point, means over its seeds, in the order of the points; the columns are COLUMNS.

    frame: tidy (frame.py); points: suite -> its point. doubt: why the number must not be interpreted, or "".
    """
    doubts, order = Doubts(frame), {suite: number for number, suite in enumerate(points)}
    found = frame[(frame["status"] == "done") & frame["suite"].isin(points) & (frame["kind"] == "attack")]
    found = found[found["metric"].isin(["mse", "ssim"])]
    lines = []
    for (suite, *row), part in found.groupby(["suite", *ROW], sort=False):
        dataset, protocol, defense, cem, split, attacker = row
        mse, ssim = (part[part["metric"] == metric]["value"] for metric in ("mse", "ssim"))
        doubt = doubts.of(suite, protocol, dataset, defense, cem, attacker, split)
        lines.append([*row, str(points[suite]), len(mse), mse.mean(), ssim.mean(), doubt, order[suite]])
    table = pd.DataFrame(lines, columns=[*COLUMNS, "order"])
    return table.sort_values([*ROW, "order"], kind="stable", ignore_index=True)[COLUMNS]
