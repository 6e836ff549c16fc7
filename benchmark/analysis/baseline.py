"""Whether an attack has learnt anything: it has to beat the mean-image baseline, which does not look at the feature.

The baseline always answers with the mean of the attacker's own images. An attack that does not beat it clearly has
learnt nothing: its MSE shows neither that a defence works nor that it does not.
"""

from benchmark.matrix.cells import Cell
from benchmark.store.store import Store

METRIC = "beats_mean_image"  # in the tidy frame: 1 for yes, 0 for no
LIMIT = 0.95  # share of the mean image's MSE; above it an attack has learnt nothing
NOTE = "in one seed or more no better than answering every feature with the mean image (attacks.md): it learnt nothing"


def beats(mse: float, of_mean_image: float) -> bool:
    return mse < LIMIT * of_mean_image


def mean_images(cells: list[Cell], store: Store) -> dict[tuple, float]:
    """MSE of the mean-image baseline, by `place`, from the finished attacks of `cells` that recorded it.

    It depends only on the images, so one attack's value holds for the whole place.
    """
    found = {}
    for cell in cells:
        if cell.kind == "attack" and place(cell) not in found and store.status(cell.job)[0] == "done":
            value = store.metrics(cell.job)["values"].get("mse_of_mean_image")
            if value is not None:
                found[place(cell)] = value
    return found


def place(cell: Cell) -> tuple:
    """Cells of one place are scored on the same images, and their attackers have the same images."""
    return cell.suite, cell.dataset, cell.protocol, cell.split, cell.seed
