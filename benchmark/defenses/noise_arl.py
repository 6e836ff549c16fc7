"""Noise_ARL: ResSFL's adversary beside stronger Gaussian noise on the path to the server.

Source: released code of the CEM paper, where this row is ResSFL's branch. Jeong et al., UAI 2023, train an attribute
classifier instead of a decoder, which needs a private attribute for each image; that variant is not included.
"""

from benchmark.defenses import DEFENSES
from benchmark.defenses.ressfl import ResSFL


@DEFENSES.register("noise_arl")
class NoiseARL(ResSFL):
    """ResSFL's training under another name; the rows differ by their strengths."""

    title = "Noise_ARL"
