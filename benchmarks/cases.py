"""The cases of `measure speed`: the steps, the pieces of CEM, each feature off alone, and how cost grows."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmark.data.augment import augment
from benchmark.training.graph import allowed
from benchmarks import plain, steps
from benchmarks.cells import Process
from benchmarks.measure import Case
from benchmarks.steps import FULL, SMALL, Size

TRAINING, ATTACKS, PIECES, FEATURES, SCALING = "training", "attacks", "pieces", "features", "scaling"
HERE, PLAIN = "here", "plain script"
ALL_OFF = "everything off"
FEATURE = 512  # elements of the feature of a 32 px image


@dataclass(frozen=True)
class Plan:
    """The device, the arithmetic (as for a job there) and the sizes of the measurement."""

    device: torch.device
    precision: str
    size: Size
    images: tuple[int, ...]  # in a batch
    classes: tuple[int, ...]
    components: tuple[int, ...]  # a class
    peak: int  # rows of the matrices for the peak
    stream: int  # MiB of the arrays for the bandwidth
    cell_seconds: float  # that several cells at once are watched

    @property
    def graphs(self) -> bool:
        return self.device.type == "cuda" and allowed()


def plan(device: torch.device, precision: str, quick: bool) -> Plan:
    """The published sizes; `quick`: small ones, which only show that everything runs."""
    if quick:
        return Plan(device, precision, SMALL, (4, 8), (5, 10), (1, 5), 128, 1, 0.1)
    peak, stream = (8192, 1024) if device.type == "cuda" else (2048, 256)
    scales = (16, 32, 64, 128, 256), (10, 50, 100, 200), (1, 3, 5, 10)
    return Plan(device, precision, FULL, *scales, peak, stream, 5.0)


# in the order in which they are measured: (plan, as_delivered(...)) -> its cases
GROUPS: dict[str, Callable[[Plan, Callable], list[Case]]] = {}


def _group(name: str):
    def add(function):
        GROUPS[name] = function
        return function

    return add


def run_script(name: str, size: Size, device: torch.device) -> Callable:
    """A plain script's step, by the script's name in plain.py; `training_cem`: with the term by loops."""
    data = steps.data(size, torch.device("cpu"))
    if name == "training_cem":
        cem = steps.fitted("scalar", replace(size, dims=FEATURE), device)
        return plain.training(data, steps.settings(size, cem="on"), device, cem)
    defense = "noise_arl" if name == "adversarial" else "bottleneck"
    return getattr(plain, name)(data, steps.settings(size, defense), device)


def as_delivered(stack: ExitStack, plan: Plan) -> Callable:
    """(build, *given) -> a function that builds it in a process with default settings of torch and the C library.

    One process for all of them, which starts with the first and ends with `stack`.
    """
    started: list[Process] = []

    def later(build: Callable, *given) -> Callable:
        def make() -> Callable:
            if not started:
                started.append(stack.enter_context(Process(plan.device, settled=False)))
            return partial(started[0].call, started[0].build(build, *given))

        return make

    return later


def _pair(
    plan: Plan, apart: Callable, group: str, what: str, images: int, script: str, build: Callable, *given
) -> list[Case]:
    """A step here, after the plain script that does the same (script: "" for none)."""
    make = partial(build, plan.size, plan.device, plan.precision, *given)
    if not script:
        return [Case(group, what, HERE, images, make, plan.precision)]
    return [
        Case(group, what, PLAIN, images, apart(run_script, script, plan.size, plan.device)),
        Case(group, what, HERE, images, make, plan.precision, PLAIN),
    ]


@_group(TRAINING)
def training_cases(plan: Plan, apart: Callable) -> list[Case]:
    rows = [
        ("training", "training", ()),
        ("training, CEM scalar", "training_cem", ("on",)),
        ("training, CEM diagonal", "", ("diagonal",)),
        ("training, CEM full", "", ("full",)),
        ("training, adversary", "adversarial", ("off", "noise_arl")),
        ("training, adversary, CEM scalar", "", ("on", "noise_arl")),
    ]
    return [
        case
        for what, script, given in rows
        for case in _pair(plan, apart, TRAINING, what, plan.size.batch, script, steps.training_step, *given)
    ]


@_group(ATTACKS)
def attack_cases(plan: Plan, apart: Callable) -> list[Case]:
    size = plan.size
    gan_images = size.gan_batch * steps.settings(size).attacks["gan"].generator_every
    return [
        *_pair(plan, apart, ATTACKS, "decoder attack", size.attack_batch, "decoder", steps.decoder_step),
        *_pair(plan, apart, ATTACKS, "GAN attack", gan_images, "gan", steps.gan_steps),
    ]


@_group(PIECES)
def piece_cases(plan: Plan, apart: Callable) -> list[Case]:
    """Pieces of a step and of an epoch's end."""
    size, device = plan.size, plan.device
    images, draws = steps.data(size, device).train.images[: size.batch], steps.generator(device)
    term, clustering = "CEM term, forward and backward", "clustering, once an epoch"
    fewer = replace(size, components=3)  # Algorithm 1: k = 3 n
    batched = partial(steps.clustering_batched, size, device)

    def piece(what: str, variant: str, images: int, make: Callable, base: str = "") -> Case:
        return Case(PIECES, what, variant, images, make, base=base)

    return [
        piece("augmentation", PLAIN, size.batch, apart(steps.augmentation_one_by_one, size)),
        piece("augmentation", HERE, size.batch, lambda: lambda: augment(images, draws, True), PLAIN),
        piece(f"{term}, scalar", PLAIN, size.batch, apart(steps.cem_term_by_loop, size, device)),
        piece(f"{term}, scalar", HERE, size.batch, lambda: steps.cem_term("scalar", size, device), PLAIN),
        piece(f"{term}, diagonal", HERE, size.batch, lambda: steps.cem_term("diagonal", fewer, device)),
        piece(f"{term}, full", HERE, size.batch, lambda: steps.cem_term("full", fewer, device)),
        piece(clustering, PLAIN, size.clustered, apart(steps.clustering_by_loop, size, device)),
        piece(clustering, HERE, size.clustered, lambda: steps.clustering(size, device), PLAIN),
        *([] if device.type == "cuda" else [piece("clustering, steps not compiled", HERE, size.clustered, batched)]),
        piece("refit, CEM scalar", HERE, size.clustered, lambda: steps.refit("scalar", size, device)),
        piece("refit, CEM diagonal", HERE, size.clustered, lambda: steps.refit("diagonal", fewer, device)),
        piece("refit, CEM full", HERE, size.clustered, lambda: steps.refit("full", fewer, device)),
    ]


@_group(FEATURES)
def feature_cases(plan: Plan, apart: Callable) -> list[Case]:
    """The step with all features, with each off alone, and with all off."""
    size, device, precision = plan.size, plan.device, plan.precision
    training = partial(steps.training_step, size, device)
    decoder = partial(steps.decoder_step, size, device)
    trainings = {
        HERE: partial(training, precision),
        "channels_last off": partial(training, precision, kind=steps.Contiguous),
        "device augmentation off": partial(training, precision, kind=steps.OneByOne, graphs=False),
    }
    decoders = {
        HERE: partial(decoder, precision),
        "channels_last off": partial(decoder, precision, torch.contiguous_format),
        "features kept off": lambda: steps.decoder_step_with_encoder(size, device, precision),
    }
    if precision == "bf16":
        trainings["bf16 off"], decoders["bf16 off"] = partial(training, "fp32"), partial(decoder, "fp32")
    if plan.graphs:
        trainings["graphs off"] = partial(training, precision, graphs=False)
        decoders["graphs off"] = partial(decoder, precision, graphs=False)
    else:
        trainings["convolutions of our own off"] = partial(training, precision, kind=steps.TorchsConvolutions)
        decoders["convolutions of our own off"] = partial(decoder, precision, kinds=plain.CONVOLUTIONS)
        trainings["fused passes off"] = partial(training, precision, kind=steps.TorchsPasses)
        decoders["fused passes off"] = partial(decoder, precision, kinds=plain.NORMS)
        trainings["settings of the process off"] = apart(steps.training_step, size, device, precision)
        decoders["settings of the process off"] = apart(steps.decoder_step, size, device, precision)
    trainings[ALL_OFF] = apart(steps.plain_training_step, size, device)
    found = []
    for what, images, variants in (
        ("training", size.batch, trainings),
        ("decoder attack", size.attack_batch, decoders),
    ):
        for variant, make in variants.items():
            arithmetic = "fp32" if variant in ("bf16 off", ALL_OFF) else precision
            base = "" if variant == HERE else HERE
            found.append(Case(FEATURES, what, variant, images, make, arithmetic, base))
    return found


@_group(SCALING)
def scaling_cases(plan: Plan, apart: Callable) -> list[Case]:
    """Cost against one size at a time; `variant` is the size."""
    device, precision = plan.device, plan.precision

    def at(**change) -> Size:
        return replace(plan.size, **change)

    found = []
    for images in plan.images:
        make = partial(steps.training_step, at(batch=images), device, precision)
        found.append(Case(SCALING, "training step against images", str(images), images, make, precision))
    for axis, values in (("classes", plan.classes), ("components", plan.components)):
        for value in values:
            size = at(**{axis: value})
            term, refit = partial(steps.cem_term, "scalar", size, device), partial(steps.refit, "scalar", size, device)
            found.append(Case(SCALING, f"CEM term, scalar, against {axis}", str(value), size.batch, term))
            found.append(Case(SCALING, f"refit, CEM scalar, against {axis}", str(value), size.clustered, refit))
    return found
