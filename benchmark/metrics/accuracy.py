"""Classification accuracy."""

from torch import Tensor


def correct_count(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images are classified correctly: logits [B, classes], labels int64 [B] -> int64, 0-dim.

    Logits with a NaN count as wrong (their argmax would be the NaN's index, which is sometimes correct).
    """
    return ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).sum()
