"""How each attack went: whether it converged, and how its reconstructions are distributed over the images."""

import pandas as pd

from benchmark.analysis import convergence
from benchmark.matrix.cells import Cell
from benchmark.metrics.reconstruction import quantile_names
from benchmark.store.store import HISTORY, Store

MEASURED_LATER = ("recognised_percent", "originals_recognised_percent", "lpips", "lpips_worst_1_percent")
QUANTILE_COLUMNS = [name for metric in ("mse", "ssim") for name in quantile_names(metric)]
AXES = ["dataset", "defense", "cem", "strength", "protocol", "seed", "attacker", "split"]


def attacks(cells: list[Cell], store: Store) -> pd.DataFrame:
    """A line for each finished attack of `cells`; an empty frame if there is none.

    Columns: AXES, epochs, final_loss, loss_decrease_percent and converged (analysis/convergence.py), images, mse,
    mse_of_mean_image, mse_worst_1_percent, MEASURED_LATER, QUANTILE_COLUMNS, ssim_worst_1_percent, key.
    """
    found = [cell for cell in cells if cell.kind == "attack" and store.status(cell.job)[0] == "done"]
    return pd.DataFrame([_line(cell, store) for cell in found])


def _line(cell: Cell, store: Store) -> dict:
    """Values that the result lacks stay empty: tensors are not shared, and `ensemble` fits nothing."""
    folder, values = store.path(cell.job), store.metrics(cell.job)["values"]
    losses = convergence.read_losses(folder / HISTORY)
    decrease = convergence.decrease_percent(losses) if losses else None
    line = {axis: getattr(cell, axis) for axis in AXES}
    line |= {
        "epochs": len(losses) if losses else None,
        "final_loss": values.get("final_loss"),
        "loss_decrease_percent": decrease,
        "converged": convergence.verdict(decrease) if losses else "",
        "images": values.get("scored_on"),
    }
    line |= {name: values.get(name) for name in ("mse", "mse_of_mean_image", "mse_worst_1_percent")}
    added = store.recognition(cell.job) | store.lpips(cell.job)
    line |= {name: added.get(name) for name in MEASURED_LATER}
    line |= {name: values.get(name) for name in (*QUANTILE_COLUMNS, "ssim_worst_1_percent")}
    return line | {"key": cell.job.key}
