"""Dropout: each element of the feature is zeroed with a fixed probability, without rescaling.

Sources: He et al., IEEE IoT Journal 2020 (mask put on a trained network, on at inference and in the attack);
released code of the CEM paper (mask in training and validation, off in the attack: quirk q3).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.config import Fraction
from benchmark.defenses import DEFENSES, Masking


@DEFENSES.register("dropout")
class Dropout(Masking):
    """z = mask * (z_clean + noise), mask ~ Bernoulli(1 - rate) for each element."""

    title = "Dropout"
    attack_quirks = ("q3",)

    class Params(Masking.Params):
        rate: Annotated[Fraction, Field(lt=1)] = Field(description="probability that an element is zeroed")
        when: Literal["always", "after_training"] = Field(
            description="always (released), or only once the network is trained (He et al.)"
        )

    def transform(self, z: Tensor, generator: torch.Generator, phase) -> Tensor:
        z = super().transform(z, generator, phase)
        unmasked = {
            "train": self.params.when == "after_training",
            "eval": False,
            "attack": self.setting.quirks.q3_attack_without_mask,
        }
        if unmasked[phase]:
            return z
        keep = torch.rand(z.shape, generator=generator, device=z.device) >= self.params.rate
        return z * keep

    def channel(self):
        return "gaussian" if self.setting.quirks.q3_attack_without_mask else "processed"
