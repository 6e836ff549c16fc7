"""Bottleneck: a narrow conv and a Sigmoid at the end of the encoder, plus the feature noise. ResSFL's ablation.

Source: released code of the CEM paper (cut layer 4, 8 channels, stride 1); Li et al., CVPR 2022.
"""

from benchmark.defenses import DEFENSES, Defense


@DEFENSES.register("bottleneck")
class Bottleneck(Defense):
    """The 8-channel bottleneck, which all but `none` have, and noise: the base class does it all."""

    title = "Bottleneck"
