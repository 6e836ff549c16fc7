"""Whether an attack tells anything at all: it has to rebuild better than an answer that does not look at the feature.

That answer is the mean of the attacker's own images, every time. An attack that does not beat it clearly has learnt
nothing: its MSE shows neither that a defence works nor that it does not.
"""

from benchmark.matrix.expand import Cell
from benchmark.store.store import Store

METRIC = "beats_mean_image"  # in the tidy frame: 1 for yes, 0 for no
LIMIT = 0.95  # of the mean image's MSE; beyond it an attack counts as blind
NOTE = "in one seed or more no better than answering every feature with the mean image (attacks.md): it learnt nothing"


def beats(mse: float, of_mean_image: float) -> bool:
    return mse < LIMIT * of_mean_image


def mean_images(cells: list[Cell], store: Store) -> dict[tuple, float]:
    """MSE of answering with the mean image, by `place`, from the finished attacks of `cells` that recorded it.

    It depends on the images alone, so one attack's is good for all of the place.
    """
    found = {}
    for cell in cells:
        if cell.job.kind == "attack" and place(cell) not in found and store.status(cell.job)[0] == "done":
            value = store.metrics(cell.job)["values"].get("mse_of_mean_image")
            if value is not None:
                found[place(cell)] = value
    return found


def place(cell: Cell) -> tuple:
    """Cells of one place are scored on the same images, and their attackers hold the same."""
    return cell.suite, cell.dataset, cell.protocol, cell.split, cell.seed
