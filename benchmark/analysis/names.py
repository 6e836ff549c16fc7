"""Printed names and order of defences, data sets and attackers; metrics: benchmark/metrics/facts.py."""

from collections.abc import Sequence

from benchmark import attacks, defenses
from benchmark.metrics.facts import METRICS as METRICS
from benchmark.metrics.facts import PARTS as PARTS
from benchmark.metrics.facts import base_metric as base_metric
from benchmark.metrics.facts import metric as metric
from benchmark.registry import Registry

# The seven rows of Tables 1-3 and S1-S5, in the printed order; the "Average" rows are over these.
DEFENSES = ("bottleneck", "distcorr", "dropout", "patrol", "ressfl", "noise_nopeek", "noise_arl")
DATASETS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "tinyimagenet": "TinyImageNet",
    "facescrub": "FaceScrub",
}
ATTACKERS = ("decoder", "gan")  # the paper's
STRONGER = (  # ours, in the order in which tables show them
    *("informed", "queries4", "queries16", "queries64", "large", "whitebox", "ensemble"),
    *("ridge", "kernel", "converged", "ssim_decoder", "unet", "unrolled", "whitebox_standard", "standard"),
)
PAPER, FURTHER = "paper", "further"  # families of attackers

# (data set, layout) -> the number under which the paper or its supplement prints that table
PRINTED_TABLES = {
    ("cifar10", "mse"): "1",
    ("tinyimagenet", "mse"): "2",
    ("facescrub", "mse"): "3",
    ("cifar10", "ssim_psnr"): "S1",
    ("cifar100", "ssim_psnr"): "S2",
    ("tinyimagenet", "ssim_psnr"): "S3",
    ("facescrub", "ssim_psnr"): "S4",
    ("cifar100", "mse"): "S5",
    ("cifar10", "efficiency"): "S6",
}


def rank(name, known: Sequence) -> tuple:
    """Sort key that puts what is `known` first, in its order, and the rest after it, by name."""
    return (known.index(name) if name in known else len(known), name)


def form_rank(cem: str) -> tuple:
    """Sort key of the forms of CEM: off, on, then other variants."""
    return rank(cem, ("off", "on"))


def dataset_title(name: str) -> str:
    return DATASETS.get(name, name)


def family(attacker: str) -> str:
    """PAPER for an attacker of the paper's claims (or "", for a training), else FURTHER."""
    return PAPER if attacker in ("", *ATTACKERS) else FURTHER


def attacker_title(name: str) -> str:
    """The title that its class gives; the name itself if the class is unknown."""
    return _title(attacks.ATTACKS, name)


def defense_title(name: str) -> str:
    return "Others" if name == "others" else _title(defenses.DEFENSES, name)


def _title(registry: Registry, name: str) -> str:
    known = vars(registry.get(name)) if name in registry.names() else {}
    return known.get("title") or name  # not inherited: a subclass of the paper's decoder is another attacker


def one_feature(attacker: str) -> bool:
    """Whether it sees only one feature as sent of each image under attack: bounds hold only for such attackers."""
    return attacker not in attacks.ATTACKS.names() or attacks.ATTACKS.get(attacker).one_feature


def chooses(attacker: str) -> bool:
    """Whether it selects among the results of other attackers: it enters no average with them."""
    return attacker in attacks.ATTACKS.names() and issubclass(attacks.ATTACKS.get(attacker), attacks.Selection)


def row_label(defense: str, cem: str) -> str:
    """`Bottleneck`, `Bottleneck+CEM`, and `Bottleneck+CEM (full)` for another variant of CEM."""
    return defense_title(defense) + {"off": "", "on": "+CEM"}.get(cem, f"+CEM ({cem})")


def average_label(cem: str) -> str:
    return {"off": "Average w/o CEM", "on": "Average w/ CEM"}.get(cem, f"Average w/ CEM ({cem})")
