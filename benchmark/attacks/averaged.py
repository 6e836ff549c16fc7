"""Query averaging: the same image is sent several times, and the attacker averages what it gets.

Averaging n independent observations divides the standard deviation of zero-mean noise by sqrt(n). Each element of a
masked feature is averaged over the draws that kept it; an element that was never kept stays 0. An attacker can do this
if a device sends a still scene, retries, or can be queried again. n = 1 is the plain decoder.
"""

import torch
from pydantic import Field
from torch import Tensor

from benchmark.attacks.base import ATTACKS, SCORE_BATCH
from benchmark.attacks.decoder import DecoderAttack
from benchmark.config import Count


class Averaged(DecoderAttack):
    """The plain decoder, fitted and scored on averages of `queries` features, each with fresh noise and mask."""

    printed = one_feature = False
    quirks = ()  # the released code does not have it
    psnr_batch = SCORE_BATCH

    class Params(DecoderAttack.Params):
        queries: Count = Field(description="times that the same image is sent")

    @classmethod
    def channel(cls, params, send, kept):
        def average(z_clean: Tensor, generator: torch.Generator) -> Tensor:
            total, times = torch.zeros_like(z_clean), torch.zeros_like(z_clean)
            for _ in range(params.queries):
                z = send(z_clean, generator)
                there = kept(z)
                total += z * there
                times += there
            return total / times.clamp_min(1)

        return average


for count in (4, 16, 64):  # a half, a quarter and an eighth of the noise
    ATTACKS.register(f"queries{count}")(type(f"Averaged{count}", (Averaged,), {"title": f"{count} queries"}))
