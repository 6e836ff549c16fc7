"""Attack any encoder from Python."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from benchmark import data as datasets
from benchmark.analysis import baseline, convergence
from benchmark.api.checked import checked
from benchmark.api.stored import changes
from benchmark.attacks import ATTACKS, Attack, Selection, Target
from benchmark.attacks.base import NO_QUIRKS
from benchmark.attacks.held_out import MSE, SSIM
from benchmark.attacks.splits import split as split_images
from benchmark.config import Split
from benchmark.data import DataSet, ImageSet, normalise
from benchmark.defenses import Defense, Setting
from benchmark.errors import UserError, foreign
from benchmark.jobs.pictures import FIRST, pairs
from benchmark.jobs.run_job import encode, encoder_on, mean_image_mse, score_images
from benchmark.matrix.load import DEFAULT, NO_CEM, MatrixFile
from benchmark.matrix.source import suggest
from benchmark.metrics.reconstruction import combine, summarise
from benchmark.models import SplitModel
from benchmark.training import device, loop
from benchmark.training.loop import seeded

STANDARD = "standard"  # the suite of the fixed set, and the entry for the attacker chosen from it
Channel = float | Defense | Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What the attacks on an encoder found.

    frame: a line for each attacker, `attacker` and `split` first, then the numbers that the benchmark's own results
    have (`metrics.reconstruction.summarise`), `mse_of_mean_image` (the mean-image baseline), `final_loss`,
    `converged` (yes, no, too short) and `beats_mean_image`. Images are in [0, 1]; PSNR is in dB. Attackers of the
    standard set have `mse_held_out` and `ssim_held_out`, measured on their held-out images. If the set was asked for,
    the line `standard` has the numbers of the attacker that is best on these, named in `chosen`.
    pictures: attacker -> the first originals above their reconstructions; empty for sets whose pictures must not leave
    the machine. summary: one paragraph for people.
    """

    frame: pd.DataFrame
    pictures: dict[str, Image.Image]
    summary: str


@checked
def evaluate(
    encoder: nn.Module,
    dataset: str,
    channel: Channel = 0.0,
    attackers: str | Sequence[str] = ("decoder",),
    *,
    split: Split = "train",
    settings: Mapping[str, object] | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    seed: int = 125,
    data: Path | str = "data",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    matrix: Path | str | None = None,
) -> Evaluation:
    """Attack any feature extractor. It is not changed, and nothing is written except an embedded data set.

    encoder: normalised images [B, 3, H, W] -> feature [B, C, h, w], with H / h a power of 2 for the decoders; it is
    copied and used in evaluation mode. Images are normalised by the data set's mean and std.
    channel: what happens to a clean feature before it is sent: the standard deviation of Gaussian noise, a defence
    (as `StoredEncoder.channel`), or a function (z, generator) -> z of the same shape, which draws from the generator.
    An attacker may draw from it as often as it likes. 0 sends the clean feature.
    attackers: names in the matrix, or "standard" for the fixed set of the suite `standard` and the best of it, chosen
    on held-out images of the attackers, never on scored ones (hours on a CPU with the matrix's settings). The default
    is the paper's decoder alone, which may not be the strongest attacker. A low error shows a leak; a high one shows
    only that this attacker failed. `ensemble` selects among the results of a row, and does not apply here.
    split: `train` fits on the training images and scores on the test images; `infer` on 90 % and 10 % of the latter.
    settings: as `--set`, for example {"attacks.decoder.epochs": 10}; otherwise the matrix's, without any quirk of
    the released code. train_images, test_images: the class-balanced first ones, None for all.
    data: folder of the prepared data sets; precision: as `train.precision` of the matrix; matrix: a file of your own,
    which declares attackers of your own.

    UserError for unknown names, values out of range, data that is not prepared, and an encoder or channel with wrong
    shapes. Diverged if an attack's loss is no longer finite.
    """
    where, autocast = _machine(device, precision)
    images = datasets.subset(datasets.load(dataset, Path(data)), train_images, test_images).to(where)
    names = [attackers] if isinstance(attackers, str) else list(attackers)
    chosen = _attackers(names, dataset, settings or {}, MatrixFile(Path(matrix or DEFAULT)))
    generators = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=generators):  # keeps the caller's random state
        model = _model(encoder, images, where, autocast)
        sent = _defense(channel, images, model, where, autocast)
        if STANDARD in names and isinstance(sent, _Function):
            raise UserError(
                "some attackers of the standard set need the channel's likelihood; give a standard deviation or a "
                "defence as channel, or name attackers that do without, for example ridge and converged"
            )
        fit, score = split_images(split, images, False, seed)
        target = Target(
            features=encode(model, images, fit, autocast),
            images=fit.images,
            send=lambda z, generator: sent.transform(z, generator, "attack"),
            image_size=images.image_size,
            device=where,
            seed=seed,
            autocast=autocast,
            encode=encoder_on(model, images, autocast),
            kept=sent.kept,
            misfit=sent.misfit,
            split=split,
            tested=(encode(model, images, score, autocast), score.images),
        )
        lines, pictures = [], {}
        for name, params in chosen.items():
            line, rebuilt = _attack(ATTACKS.get(name), params, target, fit, score)
            lines.append({"attacker": name, "split": split} | line)
            if images.publishable:
                pictures[name] = pairs(score.images[:FIRST].cpu(), rebuilt[:FIRST])
    if STANDARD in names:
        lines.append(_choice(lines))
    frame = pd.DataFrame(lines)
    return Evaluation(frame, pictures, _summary(frame, dataset))


def _machine(name: str, precision: str) -> tuple[torch.device, dict[str, Any]]:
    """The device of that name, and the arguments of its autocast."""
    where = device.pick(name)
    device.settle(where)
    return where, device.arithmetic(where, device.precision(where, precision))


def _attackers(names: list[str], dataset: str, settings: Mapping[str, object], file: MatrixFile) -> dict[str, object]:
    """Attacker -> its parameters; for the standard set, each attacker that can be chosen, once."""
    known = [name for name in file.matrix.attacks if not issubclass(ATTACKS.get(name), Selection)]
    members = _standard_set(file, known) if STANDARD in names else []
    names = list(dict.fromkeys(one for name in names for one in (members if name == STANDARD else [name])))
    for name in names:
        if name not in known:
            raise UserError(f"unknown attacker '{name}'; {suggest(name, [*known, STANDARD])}")
    if not names:
        raise UserError(f"no attacker was asked for; known: {', '.join(known)}")
    # a plug-in's data set may not be declared; the row does not matter to an attacker's parameters
    row = (_one(file, "datasets", dataset), _one(file, "defenses", "bottleneck"), _one(file, "cem", NO_CEM))
    every = file.settings(*row, changes(settings)).attacks
    for name in names:
        if ATTACKS.get(name).starts_from(every[name], "train"):
            raise UserError(f"the attacker '{name}' starts from another's result; set its start to what needs none")
    return {name: every[name] for name in names}


def _standard_set(file: MatrixFile, known: list[str]) -> list[str]:
    """The attackers of the standard set that can be chosen. UserError if the matrix does not declare the set."""
    if STANDARD not in file.matrix.suites:
        raise UserError(
            f"{file.where(('suites',))}: there is no suite '{STANDARD}', which names the attackers of that set; "
            f"let the file extend paper, or name attackers: {', '.join(known)}"
        )
    return [name for name in file.matrix.suites[STANDARD].attacker if name in known]


def _one(file: MatrixFile, section: str, usual: str) -> str:
    """The usual name if the matrix declares it, else the first that it does. UserError if it declares none."""
    declared = getattr(file.matrix, section)
    if not declared:
        raise UserError(f"{file.where((section,))}: {section} is empty; declare one")
    return usual if usual in declared else next(iter(declared))


def _model(encoder: Any, images: DataSet, where: torch.device, autocast: dict[str, Any]) -> SplitModel:
    """A frozen copy of the encoder, in evaluation mode. UserError if it does not make a feature map."""
    copied = copy.deepcopy(encoder).to(where).eval().requires_grad_(False)
    x = normalise(datasets.to_unit(images.test.images[:2]), images.mean, images.std)
    with foreign(f"the encoder fails on images {list(x.shape)}"), torch.no_grad(), torch.autocast(**autocast):
        feature = copied(x)
    if not isinstance(feature, Tensor) or feature.dim() != 4 or len(feature) != len(x):
        shape = list(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise UserError(f"the encoder gives {shape} for images {list(x.shape)}; it has to give features [B, C, h, w]")
    if not feature.is_floating_point() or not feature.isfinite().all():
        raise UserError("the encoder's features are not finite numbers; give a trained encoder, in floating point")
    _, channels, height, width = feature.shape
    return SplitModel(copied, nn.Identity(), (channels, height, width))


class _Function(Defense):
    """A user's function as a channel, with unknown likelihood."""

    def __init__(self, function: Callable, setting: Setting):
        super().__init__(Defense.Params(noise_std=0.0), setting)
        self.function = function

    def transform(self, z, generator, phase):
        sent = self.function(z, generator)
        if not isinstance(sent, Tensor) or sent.shape != z.shape:
            raise UserError(f"the channel has to give a tensor of the feature's shape {list(z.shape)}")
        return sent

    def misfit(self, z_clean, z):
        raise UserError(
            "this attacker needs the channel's likelihood; give a standard deviation or a defence as channel"
        )


def _defense(
    channel: Channel, images: DataSet, model: SplitModel, where: torch.device, autocast: dict[str, Any]
) -> Defense:
    if isinstance(channel, Defense):
        return copy.deepcopy(channel).to(where).requires_grad_(False)
    setting = Setting(
        classes=images.classes,
        image_size=images.image_size,
        feature_shape=model.feature_shape,
        widths=(),
        epochs=1,
        quirks=NO_QUIRKS,
        device=where,
        autocast=autocast,
    )
    if callable(channel):
        return _Function(channel, setting)
    if isinstance(channel, bool) or not isinstance(channel, (int, float)) or not 0 <= channel < math.inf:
        raise UserError(f"channel is {channel!r}; give a standard deviation of 0 or more, a defence or a function")
    return Defense(Defense.Params(noise_std=channel), setting).to(where)


def _attack(attack: type[Attack], params: Any, target: Target, fit: ImageSet, score: ImageSet) -> tuple[dict, Tensor]:
    """One attacker's line of the frame, and the rebuilt images, uint8 [N, 3, H, W] on the CPU.

    target: what any attacker has, with what the defence itself sends.
    """
    send = attack.channel(params, target.send, target.kept)
    received = send(target.tested[0], seeded(target.device, "score", target.seed))
    task = attack(params, replace(target, send=send, received=received))
    history = loop.run(task)
    per_image, rebuilt = score_images(task.reconstructions(), score)
    line = summarise(per_image["mse"], per_image["ssim"], attack.psnr_batch)
    blindly = mean_image_mse(fit, score)
    losses = [epoch["loss"] for epoch in history]  # a closed form has no epochs and cannot fail to converge
    line |= task.found(line) | {
        "mse_of_mean_image": blindly,
        "fitted_on": len(fit),
        "scored_on": len(score),
        "final_loss": losses[-1] if losses else None,
        "converged": convergence.verdict(convergence.decrease_percent(losses)) if losses else "yes",
        "beats_mean_image": baseline.beats(line["mse"], blindly),
    }
    return line, rebuilt


def _choice(lines: list[dict]) -> dict:
    """The line `standard`: the attacker that is best on the held-out images, as in a suite."""
    found = {line["attacker"]: line for line in lines}
    chosen = ATTACKS.get(STANDARD)().choose(found)
    same = {"attacker": STANDARD, MSE: found[chosen["mse"]][MSE], SSIM: found[chosen["ssim"]][SSIM]}
    other = "" if chosen["ssim"] == chosen["mse"] else f", for SSIM {chosen['ssim']}"
    line = found[chosen["mse"]] | same | combine(found[chosen["mse"]], found[chosen["ssim"]])
    return line | {"chosen": chosen["mse"] + other}


def _summary(frame: pd.DataFrame, dataset: str) -> str:
    attacks = frame[frame["attacker"] != STANDARD]
    best, count = attacks.loc[attacks["mse"].idxmin()], len(attacks)
    who = f"{'the attacker' if count == 1 else f'the strongest of {count} attackers'}, {best['attacker']},"
    if len(attacks) < len(frame):
        stronger, best = best, frame.iloc[-1]
        who = f"of {count} attackers the one that is best on images held out, {best['chosen']},"
    text = (
        f"{dataset}, {best['fitted_on']} images of the attacker's, {best['scored_on']} scored: {who} rebuilds with "
        f"MSE {best['mse']:.4f} (the mean image: {best['mse_of_mean_image']:.4f}), SSIM {best['ssim']:.3f} and PSNR "
        f"{best['psnr_db']:.2f} dB; the best 1 % of the images have MSE {best['mse_worst_1_percent']:.4f}."
    )
    if len(attacks) < len(frame) and stronger["mse"] < best["mse"]:
        text += f" On the scored images themselves {stronger['attacker']} is stronger: MSE {stronger['mse']:.4f}."
    if not best["beats_mean_image"]:
        text += " That is no better than answering with the mean image: it learnt nothing, which shows no defence."
    if (attacks["converged"] != "yes").any():
        names = ", ".join(attacks[attacks["converged"] != "yes"]["attacker"])
        text += f" Not shown to have converged, so longer attacks may rebuild more: {names}."
    return text + " A stronger attacker than those used may exist."
