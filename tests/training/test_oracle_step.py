"""One training step of every row, CEM off and on, against the released code's: our real step on the same weights."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.data import DataSet, ImageSet
from benchmark.defenses import DEFENSES
from benchmark.matrix.load import MatrixFile, parse_set
from benchmark.training.train import Recipe, Training
from tests.support.formula import fill, names, oracle, relative, unit

CPU = torch.device("cpu")
ADVERSARIAL = ("ressfl", "noise_arl", "patrol")
ROWS = ("bottleneck", "dropout", "distcorr", "noise_nopeek", *ADVERSARIAL)
# relative to the norm of the encoder's gradient (tests/oracles: what the released code differs by from itself)
GRADIENT = dict.fromkeys(ROWS, 5e-5) | {"distcorr": 3e-3, "noise_nopeek": 3e-3, "ressfl": 5e-3, "patrol": 5e-3}


class Unaugmented(Training):
    def augmented(self, images):
        return (images.float() / 255).contiguous(memory_format=torch.channels_last)


class Step:
    """A row's training after one step on the oracle's batch, and what the step did.

    adversary_steps: None for the row's own number.
    """

    def __init__(self, row: str, cem: str, monkeypatch, adversary_steps: int | None = None):
        self.row, self.numbers = row, oracle(f"step_{row}")
        self.prefix = "" if adversary_steps is None else "onestep_"
        self.task = self._task(cem, adversary_steps)
        self._draws(monkeypatch)
        if cem == "on":
            self._cem(self.task.cem)
        self.task.model.encoder.register_forward_hook(self._note_feature)
        if row in ADVERSARIAL:
            self.adversary = self.task.defense.adversary
            self.before = [parameter.detach().clone() for parameter in self.adversary.parameters()]
        self.task.step(1, 0)  # the second epoch, in which the learning rate is the peak and CEM is on
        self.loss, self.term, self.hits, _ = self.task.totals.tolist()

    def __getitem__(self, name: str):
        found = self.numbers.get(self.prefix + name, self.numbers.get(name))
        return found.item() if found.ndim == 0 else found

    def norm(self, cem: str, name: str) -> float:
        """Of the encoder's stored gradient."""
        whole = self[f"{cem}_grad_{name}"]
        return self.get(f"{cem}_grad_{name}_norm") or float(np.linalg.norm(whole))

    def get(self, name: str) -> float | None:
        return self[name] if name in self.numbers else None

    def difference(self, cem: str, name: str, gradient) -> float:
        """Of our gradient of an encoder's tensor to the stored one, relative to its norm; large ones by a sample."""
        ours, theirs = gradient.contiguous().flatten(), self[f"{cem}_grad_{name}"].ravel()
        norm = self.get(f"{cem}_grad_{name}_norm")
        if norm is None:
            return relative(ours, theirs)
        every = len(ours) // 1024
        every += 1 - every % 2
        assert ours.double().norm().item() == pytest.approx(norm, rel=GRADIENT[self.row])
        return relative(ours[::every], theirs)

    def _task(self, cem: str, adversary_steps: int | None) -> Training:
        numbers, row = self.numbers, self.row
        changes = {"train.lr": 0.05 if cem == "off" else float(numbers["lr_on"]), "train.batch_size": 16}
        changes[f"defenses.{row}.noise_std"] = float(numbers["sigma"])
        if row == "dropout":
            changes["defenses.dropout.rate"] = float(numbers["dropout_rate"])
        if row in ("distcorr", "noise_nopeek"):
            changes[f"defenses.{row}.weight"] = float(numbers["dcor_weight"])
        if row in ADVERSARIAL:
            changes[f"defenses.{row}.weight"] = float(numbers["alpha"])
            changes[f"defenses.{row}.ssim_target"] = float(numbers["ssim_threshold"])
            changes[f"defenses.{row}.adversary_lr"] = float(numbers["lr_adversary"])
            if adversary_steps is not None:
                changes[f"defenses.{row}.adversary_steps"] = adversary_steps
        if cem == "on":
            changes |= {"cem.weight": float(numbers["cem_lambda"]), "cem.threshold": float(numbers["cem_threshold"])}
        texts = [f"{path}={value}" for path, value in changes.items()]
        settings = MatrixFile().settings("cifar10", row, cem, parse_set(texts))
        quirks = MatrixFile().matrix.protocols["published"]
        images = ImageSet(torch.from_numpy(numbers["images"]), torch.from_numpy(numbers["labels"]))
        data = DataSet(
            "cifar10", 10, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261), True, images, images, [], "0" * 64, True
        )
        recipe = Recipe(
            settings.model, settings.train, DEFENSES.get(row), settings.params, settings.cem, quirks, seed=125
        )
        task = Unaugmented(recipe, data, CPU, "fp32")
        fill(task.model.encoder, "encoder_patrol" if row == "patrol" else "encoder")
        fill(task.model.server, "server", "classifier")
        for layer in task.model.server.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        if row in ADVERSARIAL:
            fill(task.defense.adversary, "adversary")
        task.order.begin(torch.arange(16))
        task.defense.begin_epoch(1)
        return task

    def _draws(self, monkeypatch) -> None:
        """The stored draws in the place of random ones."""
        noise = torch.from_numpy(self.numbers["noise_int16"]).float() / 256
        monkeypatch.setattr(torch, "randn", lambda shape, **options: noise.view(shape))
        if self.row == "dropout":
            keep = torch.from_numpy(self.numbers["keep"]).float()
            monkeypatch.setattr(torch, "rand", lambda shape, **options: keep.view(shape))

    def _cem(self, cem) -> None:
        counts = torch.from_numpy(self.numbers["cem_counts"]).float()
        cem.centers.copy_(torch.from_numpy((0.25 + 0.4 * unit(580, 25600)).astype(np.float32)).view(50, 512))
        cem.variance.copy_(torch.from_numpy(self.numbers["cem_variance"]).flatten())
        cem.share.copy_((counts / counts.sum(1, keepdim=True)).flatten())
        cem.counts.fill_(float(self.numbers["cem_class_length"]) / counts.shape[1])
        cem.fitted.fill_(True)

    def _note_feature(self, encoder, inputs, output) -> None:
        if encoder.training:
            self.feature = output.detach()


def steps(monkeypatch, row, cem):
    """The row's step; of PATROL with CEM off also that with a single step of the adversary."""
    found = [Step(row, cem, monkeypatch)]
    if row == "patrol" and cem == "off":
        found.append(Step(row, cem, monkeypatch, adversary_steps=1))
    return found


@pytest.mark.parametrize("cem", ["off", "on"])
@pytest.mark.parametrize("row", ROWS)
def test_losses(row, cem, monkeypatch):
    for step in steps(monkeypatch, row, cem):
        extra = step.loss - step[f"{cem}_loss_ce"]
        assert step.hits == step[f"{cem}_correct"]
        if row in ("distcorr", "noise_nopeek"):
            assert extra == pytest.approx(step["dcor"], abs=1e-4)
        elif row in ADVERSARIAL:
            assert extra == pytest.approx(step["hinge"], abs=step["alpha"] * 5e-4 + 1e-5)
            assert step.loss == pytest.approx(step[f"{cem}_loss_total"], abs=step["alpha"] * 5e-4 + 1e-5)
        else:
            assert step.loss == pytest.approx(step[f"{cem}_loss_total"], rel=1e-5)
        if cem == "on":
            assert step.term == pytest.approx(step["cem_value"], rel=1e-5)
            assert step.task.cem_weight.item() == pytest.approx(step["cem_factor_on"], rel=1e-6)


@pytest.mark.parametrize("cem", ["off", "on"])
@pytest.mark.parametrize("row", ROWS)
def test_gradients_of_encoder_and_server(row, cem, monkeypatch):
    for step in steps(monkeypatch, row, cem):
        model = step.task.model
        network = "encoder_patrol" if row == "patrol" else "encoder"
        for name, parameter in zip(names(network), model.encoder.parameters(), strict=True):
            if np.isnan(step[f"{cem}_encoder_rel64"][names(network).index(name)]) or step.norm(cem, name) < 1e-5:
                continue  # a bias before a BatchNorm: its true gradient is 0
            assert step.difference(cem, name, parameter.grad) < GRADIENT[row], name
        stored = zip(
            names("server", "classifier"),
            step[f"{cem}_server_grad_norm"],
            step[f"{cem}_server_grad_first8"],
            strict=True,
        )
        for parameter, (name, norm, first) in zip(model.server.parameters(), stored, strict=True):
            if norm < 1e-5:
                continue
            ours = parameter.grad.contiguous().flatten()
            assert ours.double().norm().item() == pytest.approx(norm, rel=1e-5), name
            assert relative(ours[:8], first) < 1e-4, name


@pytest.mark.parametrize("row", ROWS)
def test_feature_and_batchnorm_statistics(row, monkeypatch):
    for step in steps(monkeypatch, row, "off"):
        assert step.feature.double().norm().item() == pytest.approx(step["feature_norm"], rel=1e-5)
        assert relative(step.feature.contiguous().flatten()[:64], step["feature_first64"]) < 1e-5
        norms = [layer for layer in step.task.model.encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
        for index, norm in enumerate(norms, start=1):
            for kind in ("mean", "var"):
                ours, theirs = getattr(norm, f"running_{kind}"), step[f"encoder_norm{index}_running_{kind}"]
                assert relative(ours, theirs) < 1e-5, (index, kind)


@pytest.mark.parametrize("row", ADVERSARIAL)
def test_the_adversary_steps_first(row, monkeypatch):
    """-SSIM on the clean feature of the encoder in evaluation mode; the hinge is of the stepped one in that mode."""
    for step in steps(monkeypatch, row, "off"):
        count = step["adversary_steps"]
        defense = step.task.defense
        assert defense.params.adversary_steps == count
        _, miss, encoder = defense.seen.tolist()
        tolerance = 5e-5 if count == 1 else 5e-4
        assert -miss == pytest.approx(step["ssim_adversary"].mean(), abs=tolerance)
        assert encoder == pytest.approx(step["ssim_encoder"], abs=5e-4)
        checked = 0
        for index, (parameter, before) in enumerate(zip(step.adversary.parameters(), step.before, strict=True)):
            if np.isnan(step[f"adversary_step{count}_grad_rel64"][index]):
                continue
            checked += 1
            change = (parameter.detach() - before).contiguous().flatten()
            norm = step[f"adversary_step{count}_change_norm"][index]
            assert change.double().norm().item() == pytest.approx(norm, rel=2e-2)
            if count > 1:
                continue  # further gradients differ by up to 10 % between two float32 implementations
            gradient = parameter.grad.contiguous().flatten()
            size = min(8, gradient.numel())
            first, moved = (step[f"adversary_step1_{kind}_first8"][index][:size] for kind in ("grad", "change"))
            stored = step["adversary_step1_grad_norm"][index]
            assert gradient.double().norm().item() == pytest.approx(stored, rel=1e-2)
            assert relative(gradient[:size], first) < 3e-2 or np.linalg.norm(first) < 1e-3 * stored
            sure = np.abs(first) > 1e-5
            assert np.abs(change[:size].numpy() - moved)[sure].max(initial=0) < 0.01 * step["lr_adversary"]
        assert checked == 54
