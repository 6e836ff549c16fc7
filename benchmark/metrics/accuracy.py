"""Classification accuracy."""

from torch import Tensor


def correct_count(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images are classified correctly: logits [B, classes], labels int64 [B] -> int64, 0-dim.

    Logits with a NaN count as wrong (their argmax would be the NaN's index, which is sometimes correct).
    """
    return ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).sum()


def accuracy_percent(logits: Tensor, labels: Tensor) -> float:
    """Percent of images classified correctly; NaN without images. Waits for the device: not for a training step."""
    return 100 * int(correct_count(logits, labels)) / len(labels) if len(labels) else float("nan")
