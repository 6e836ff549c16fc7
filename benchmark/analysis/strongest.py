"""Which attacks' errors say how strong an attacker is, and which of these exist on every side of a comparison.

The lowest error of whatever attackers happened to be run is no fair comparison: a row that a strong attacker has not
been run on would look protected from it.
"""

import pandas as pd

from benchmark.analysis import columns
from benchmark.analysis.names import chooses, one_feature

CELL = ["suite", "protocol", "dataset", "defense", "cem", "seed", "attacker", "split"]


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """The finished MSE rows of a tidy frame (frame.py) of attackers that can be held against each other.

    Left out: attackers that see more than one feature of an image, choices among attackers, and numbers that are not
    what their split says (quirk q14: an error on the attacker's own batches).
    """
    done = frame[(frame["status"] == "done") & (frame["kind"] == "attack")]
    misnamed = done[(done["metric"] == columns.METRIC) & (done["value"] == 0)]
    alike = done["attacker"].map(lambda name: one_feature(name) and not chooses(name)).astype(bool)
    errors = done[(done["metric"] == "mse") & done["value"].notna() & alike]
    named = ~pd.MultiIndex.from_frame(errors[CELL]).isin(pd.MultiIndex.from_frame(misnamed[CELL]))
    return errors[named]


def shared(errors: pd.DataFrame, place: list[str], sides: list[str]) -> pd.DataFrame:
    """Of errors (as `comparable` gives them), those of attackers that every side in the same place has.

    place, sides: columns; a side is a combination of values of both.
    """
    found = errors.assign(side=errors.groupby(sides, sort=False).ngroup())
    everywhere = found.groupby(place)["side"].transform("nunique")
    here = found.groupby([*place, "attacker"])["side"].transform("nunique")
    return errors[here == everywhere]
