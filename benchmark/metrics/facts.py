"""The one table of the printed metrics: titles, directions, decimals, tolerances, scales, margins."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a metric is written, rounded and judged.

    title: in the head of a table; short: in a narrow one; axis: at an axis, with the unit; unit: after a number;
    better: "higher" or "lower" for the defender, or ""; decimals: as printed. tolerance: the largest difference from a
    reference that counts as the same, in its own unit or, if `kind` is "relative", as a fraction of the reference; None
    is not judged. scale: from the smallest to the largest value. margin: the smallest change that matters to a verdict,
    in its own unit, of log MSE for MSE.
    """

    title: str
    better: str
    decimals: int
    short: str = ""
    axis: str = ""
    unit: str = ""
    kind: str = "relative"
    tolerance: float | None = None
    scale: float = math.inf
    margin: float = 0.0

    @property
    def heading(self) -> str:
        return self.title + {"higher": "↑", "lower": "↓", "": ""}[self.better]

    @property
    def raises(self) -> bool:
        """Whether a higher value means a better defence."""
        return self.better == "higher"


METRICS = {
    "accuracy_percent": Metric(
        "Acc.", "higher", 2, "acc. %", "accuracy (%)", "%", kind="absolute", tolerance=1.0, scale=100.0, margin=1.0
    ),
    "mse": Metric(
        "MSE", "higher", 4, "MSE", "MSE (pixels in [0, 1])", tolerance=0.20, scale=1.0, margin=math.log(1.05)
    ),
    "ssim": Metric("SSIM", "lower", 3, "SSIM", "SSIM (1)", kind="absolute", tolerance=0.05, scale=1.0, margin=0.01),
    "psnr_db": Metric("PSNR", "lower", 2, "PSNR dB", "PSNR (dB)", "dB", kind="absolute", tolerance=1.0, margin=0.2),
    "params_m": Metric("Parameters (M)", "", 3, "M par.", "parameters (millions)", tolerance=0.05),
    "mmac": Metric("MMAC", "", 2, "MMAC", "multiply-accumulates (millions)", tolerance=0.05),
    "inference_ms": Metric("Inference time (ms)", "", 2, "ms", "inference time (ms)"),  # its device's: not judged
}


PARTS = ("encoder", "server")  # of a network; `encoder_params_m` is the encoder's `params_m`


def base_metric(name: str) -> str:
    """The printed metric that `name` is a form of (`psnr_db_per_image` -> `psnr_db`), else `name` itself."""
    for part in PARTS:
        name = name.removeprefix(f"{part}_")
    return next((base for base in METRICS if name == base or name.startswith(base + "_")), name)


def metric(name: str) -> Metric:
    """The facts about a metric; a form of a printed one has its direction and decimals, and its own name as title."""
    known = METRICS.get(base_metric(name), Metric(name, "", 4))
    return known if name in METRICS else Metric(name, known.better, known.decimals)
