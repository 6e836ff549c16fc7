"""Classification accuracy."""

from torch import Tensor


def correct_count(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images are classified right: logits [B, classes], labels int64 [B] -> int64, 0-dim.

    An answer with a NaN in it is wrong (its argmax would be the NaN's place, and right now and then).
    """
    return ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).sum()


def accuracy_percent(logits: Tensor, labels: Tensor) -> float:
    """Percent of the images classified right; NaN for none. Waits for the device: not for a training step."""
    return 100 * int(correct_count(logits, labels)) / len(labels) if len(labels) else float("nan")
