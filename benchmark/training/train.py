"""Training one cell: encoder and server, a defence, and the CEM term, all in this file.

Algorithm 1 of the paper with the schedule of section 5.1; where the paper is silent, the released code's. One step is
augment -> normalise -> the defence's own networks' steps -> encoder -> transform -> server -> cross-entropy + defence
loss + lambda * L_C (Eq 8). After each epoch a second augmented pass gives the features for CEM's clusters.
The data set is on the device; metrics stay there and are read once an epoch. On CUDA the step is a graph.
"""

import math
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmark import models
from benchmark.cem import ConditionalEntropy
from benchmark.config import CEM, Model, Quirks, Train
from benchmark.data import DataSet, augment, normalise, to_unit
from benchmark.metrics.accuracy import correct_count
from benchmark.training.casts import cast_once
from benchmark.training.defense import Batch, Defense, Setting
from benchmark.training.device import arithmetic, where
from benchmark.training.graph import Captured, Order, scalar, set_lr, steerable
from benchmark.training.loop import Task, epoch_order, generators, seeded
from benchmark.training.optimizers import SGD

VERSION = 2  # raise it when a change here, in models/ or in cem/ alters results: every job's key depends on it
LAST_SCALED_LR = 0.00041  # below it the CEM term's weight is no longer scaled by 0.001 / lr (released code)


@dataclass(frozen=True)
class Recipe:
    """Everything that a training's result depends on, besides the data."""

    model: Model
    train: Train
    defense: type[Defense]
    params: Defense.Params
    cem: CEM | None
    quirks: Quirks
    seed: int


def learning_rate(train: Train, epoch: int, progress: float, idle: bool) -> float:
    """The rate of SGD `progress` (in [0, 1)) into epoch `epoch` (from 0).

    As released (idle, quirk q7) the warm-up goes by whole epochs, so the first is at 0; otherwise by steps. A milestone
    m counts from epoch m * epochs on, counted from 1: 60, 120, 180 and 210 of 240.
    """
    done = epoch + (0.0 if idle else progress)
    warm = min(1.0, done / train.warmup_epochs) if train.warmup_epochs else 1.0
    if train.schedule == "linear":
        left = (train.epochs - epoch - progress) / max(train.epochs - train.warmup_epochs, 1)
        return train.lr * min(warm, left)
    return train.lr * warm * train.decay ** sum(epoch + 1 >= part * train.epochs for part in train.milestones)


class Training(Task):
    """A `Task` whose `best` is the chosen checkpoint at the end: weights, encoder widths, what the defence learned.

    data: the whole data set on `device`; precision: fp32 or bf16 (autocast; the rest of the step stays in fp32).
    """

    def __init__(self, recipe: Recipe, data: DataSet, device: torch.device, precision: str):
        self.recipe, self.data, self.device = recipe, data, device
        self.autocast = arithmetic(device, precision)
        self.where = where(self.autocast)
        train = recipe.train
        torch.manual_seed(recipe.seed)
        self.fit_index, self.select_set = self._selection()
        self.batch_size = min(train.batch_size, len(self.fit_index))
        self.epochs, self.steps = train.epochs, -(-len(self.fit_index) // self.batch_size)
        seen = self.steps * self.batch_size  # an epoch's images, including those repeated from a fresh shuffle

        self.model = build_model(recipe, data, device)
        self.defense = build_defense(recipe, data, self.model, device, self.autocast)
        self.defense.build()
        self.optimizer = SGD(
            self.model.parameters(),
            lr=scalar(train.lr, device),
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            fused=True,
        )
        self.cem: Any = self._cem()  # ConditionalEntropy, or None
        self.noise = seeded(device, "noise", recipe.seed)
        self.augmentation = seeded(device, "augmentation", recipe.seed)
        self.clustering = seeded(device, "clustering", recipe.seed)
        self.order = Order(seen, self.batch_size, device)
        self.cem_weight = torch.zeros((), device=device)
        self.totals = torch.zeros(4, device=device, dtype=torch.float64)  # loss, L_C, hits, images of this epoch
        # accuracy of the best epoch so far (-1: none yet), its number, and its weights
        self.best_accuracy = torch.full((2,), -1.0, dtype=torch.float64)
        self.best = _snapshot(self.model, self.defense)
        self._buffers: list[Tensor] | None = None  # of the pre-training
        self.captured = Captured(device, generators(self.parts()), self._obstacle())

    # -- one step

    def step(self, epoch: int, index: int) -> None:
        self._set_strengths(epoch, index)
        self.order.move(index)
        cem = self.recipe.cem if self.cem is not None else None
        cem_on = cem is not None and epoch + 1 >= cem.start_epoch
        self.captured(self._step, cem_on, note=self.monitor.note)

    def _step(self, cem_on: bool) -> None:
        """All work of the device in a step (see graph.py for what it may read)."""
        chosen = self.order.batch()
        labels = self.data.train.labels[chosen]
        x01 = self.augmented(self.data.train.images[chosen])
        x = normalise(x01, self.data.mean, self.data.std)
        self.defense.before_step(x01, x, self.encode)
        self.optimizer.zero_grad(set_to_none=True)
        loss, term, hits = self.losses(x01, x, labels, cem_on)
        (loss + self.cem_weight * term if cem_on else loss).backward()
        self.optimizer.step()
        self.defense.after_step()
        self.totals += torch.stack([loss.detach(), term.detach(), hits, torch.full_like(loss, len(chosen))])

    def losses(self, x01: Tensor, x: Tensor, labels: Tensor, cem_on: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 3, H, W] in [0, 1] and normalised, labels [B] -> the loss without CEM, L_C, correct predictions.

        All three are 0-dim.
        """
        with torch.autocast(**self.autocast):
            z_clean = cast_once(self.model.encoder, x)
            z = self.defense.transform(z_clean, self.noise, "train")
            logits = cast_once(self.model.server, z)
            extra = self.defense.loss(Batch(x01, x, labels, z_clean, z))
        logits = logits.float()
        loss = self.defense.task_weight() * cross_entropy(logits, labels)
        if extra is not None:
            loss = loss + extra
        term = torch.zeros((), device=self.device)
        if cem_on:
            term = self.cem(z_clean.float().flatten(1), z.float().flatten(1), labels)
        return loss, term, correct_count(logits, labels)

    def encode(self, x: Tensor, gradient: bool = False) -> Tensor:
        """Normalised images [B, 3, H, W] -> clean feature [B, C, h, w], in evaluation mode; with a gradient only on
        request."""
        self.model.encoder.eval()
        with torch.set_grad_enabled(gradient), torch.autocast(**self.autocast):
            z_clean = cast_once(self.model.encoder, x)
        self.model.encoder.train()
        return z_clean

    def augmented(self, images: Tensor) -> Tensor:
        """uint8 images [B, 3, H, W] -> augmented ones in [0, 1], in channels_last."""
        return augment(images, self.augmentation, self.data.crop)

    def _set_strengths(self, epoch: int, index: int) -> None:
        """The learning rate and the CEM term's weight in step `index` of epoch `epoch`, both from 0."""
        cem = self.recipe.cem
        self.lr = learning_rate(self.recipe.train, epoch, index / self.steps, self.recipe.quirks.q7_idle_first_epoch)
        set_lr(self.optimizer, self.lr)
        if cem is not None:
            scaled = cem.lr_scaled and self.lr >= LAST_SCALED_LR
            self.cem_weight.fill_(cem.weight * 0.001 / self.lr if scaled else cem.weight)

    def _obstacle(self) -> str:
        """Why the step cannot be a CUDA graph, or ""."""
        if not self.defense.capturable:
            return f"the defence '{self.recipe.defense.name}' says that its part of the step cannot be captured"
        for name, optimizer in self.defense.optimizers().items():
            if not steerable(optimizer):
                return f"the learning rate of the defence's optimiser '{name}' is a number, not a device scalar"
        return ""

    # -- epochs

    def prepare(self) -> None:
        torch.manual_seed(self.recipe.seed)  # for the server's nn.Dropout, independent of earlier draws
        self.defense.prepare(self.model, self._plain_batches, self.noise)

    def begin_epoch(self, epoch: int) -> None:
        self.order.begin(self._shuffled("fit", epoch))
        self.defense.begin_epoch(epoch)

    def _shuffled(self, *words: object) -> Tensor:
        """The images of an epoch in their order, int64; words: distinguish it from others."""
        places = self.steps * self.batch_size
        return self.fit_index[epoch_order(len(self.fit_index), places, self.device, self.recipe.seed, *words)]

    def end_epoch(self, epoch: int) -> dict[str, float]:
        if self.cem is not None and epoch + 1 < self.epochs:
            self.refit(epoch)
        loss, term, hits, count = self.totals.tolist()
        self.totals.zero_()
        accuracy = self.accuracy(*self.select_set)
        # the last epoch always qualifies, so that a run of few epochs has a checkpoint
        late = epoch + 1 > self.recipe.train.select_after * self.epochs or epoch + 1 == self.epochs
        if late and accuracy > self.best_accuracy[0]:
            self.best_accuracy = torch.tensor([accuracy, epoch + 1], dtype=torch.float64)
            self.best = _snapshot(self.model, self.defense)
        before = list(self.model.parameters())
        more = self.defense.end_epoch(epoch, self.model, self.optimizer)
        if list(map(id, before)) != list(map(id, self.model.parameters())):  # pruned: the graphs train the old ones
            self.captured.forget()
            self._optimise_what_trains()
        return {
            "loss": loss / self.steps,
            "cem": term / self.steps,
            "train_accuracy_percent": 100 * hits / count,
            "selection_accuracy_percent": accuracy,
            "lr": self.lr,
            **more,
        }

    def _optimise_what_trains(self) -> None:
        """Make the optimiser for the model's trainable parameters; its state for others is dropped."""
        training = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer.param_groups[0]["params"] = training
        for gone in set(self.optimizer.state) - set(training):
            del self.optimizer.state[gone]

    def refit(self, epoch: int) -> None:
        """Fit CEM's clusters to the features of a second augmented pass, with the encoder after the epoch."""
        order = self._shuffled("refit", epoch)
        features = torch.empty(len(order), math.prod(self.model.feature_shape), device=self.device)
        for places in torch.arange(len(order), device=self.device).split(self.batch_size):
            x01 = self.augmented(self.data.train.images[order[places]])
            features[places] = self.encode(normalise(x01, self.data.mean, self.data.std)).float().flatten(1)
        self.cem.fit(features, self.data.train.labels[order], self.clustering)

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Percent of uint8 images [N, 3, H, W] that the defended pipeline, with noise and masks, gets right."""
        self.model.eval()
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        for part, wanted in zip(images.split(256), labels.split(256), strict=True):
            x01 = to_unit(part).contiguous(memory_format=torch.channels_last)
            with torch.autocast(**self.autocast):
                z = self.model.encoder(normalise(x01, self.data.mean, self.data.std))
                logits = self.model.server(self.defense.transform(z, self.noise, "eval"))
            hits += correct_count(logits, wanted)
        self.model.train()
        return 100 * hits.item() / len(labels)

    # -- the pieces

    def _selection(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Indices of the images fitted on, and (images, labels) by which the checkpoint is chosen (quirk q6)."""
        train, test = self.data.train, self.data.test
        everything = torch.arange(len(train), device=self.device)
        if self.recipe.quirks.q6_test_selection:
            return everything, (test.images, test.labels)
        generator = seeded(self.device, "holdout", self.recipe.seed)
        shuffled = torch.randperm(len(train), generator=generator, device=self.device)
        held = max(1, round(self.recipe.train.validation_fraction * len(train)))
        chosen = train.take(shuffled[:held])
        return shuffled[held:], (chosen.images, chosen.labels)

    def _cem(self) -> ConditionalEntropy | None:
        cem, noise_std = self.recipe.cem, self.recipe.params.noise_std
        if cem is None or noise_std == 0:  # released: no noise, no CEM; Eq 7 is infinite there
            return None
        return ConditionalEntropy(
            estimator=cem.estimator,
            dims=math.prod(self.model.feature_shape),
            classes=self.data.classes,
            noise_std=noise_std,
            components=cem.components,
            scope=cem.scope,
            first_class_lookup=self.recipe.quirks.q1_first_class_lookup,
            batch_weight_x10=self.recipe.quirks.q2_batch_weight_x10,
            shifted_statistics=self.recipe.quirks.q10_shifted_statistics,
            threshold=cem.threshold,
            device=self.device,
        )

    def _plain_batches(self, epoch: int, size: int):
        """Yields x01 and x, filled with one batch after the other, in the order of a pre-training epoch (from 0)."""
        images = self._pretraining_images()
        size = min(size, len(images))
        if self._buffers is None:
            shape = (size, 3, self.data.image_size, self.data.image_size)
            self._buffers = [
                torch.empty(shape, device=self.device, memory_format=torch.channels_last) for _ in range(2)
            ]
        x01, x = self._buffers
        places = -(-len(images) // size) * size
        order = epoch_order(len(images), places, self.device, self.recipe.seed, "pretraining", epoch)
        for chosen in order.split(size):
            self.monitor.preparing(f"pre-training the adversary, epoch {epoch + 1}")
            if self.monitor.stopping():
                raise KeyboardInterrupt
            x01.copy_(to_unit(images[chosen]))
            x.copy_(normalise(x01, self.data.mean, self.data.std))
            yield x01, x

    def _pretraining_images(self) -> Tensor:
        """uint8 [N, 3, H, W]: as released (quirk q8) the first 90 % of the test images, else as many for training."""
        count = max(1, len(self.data.test) * 9 // 10)
        if self.recipe.quirks.q8_pretraining_on_test:
            return self.data.test.images[:count]
        return self.data.train.images[self.fit_index[:count]]

    # -- saving

    def parts(self) -> dict[str, object]:
        parts = {
            "model": self.model,
            "defense": self.defense,
            "optimizer": self.optimizer,
            "noise": self.noise,
            "augmentation": self.augmentation,
            "clustering": self.clustering,
            "global": GlobalRandom(self.device),  # nn.Dropout of the server draws from it
            "totals": self.totals,
            "best_accuracy": self.best_accuracy,
            # a dictionary that is replaced, never modified
            "best": SimpleNamespace(state_dict=lambda: self.best, load_state_dict=partial(setattr, self, "best")),
        }
        parts |= {f"optimizer.{name}": optimizer for name, optimizer in self.defense.optimizers().items()}
        if self.cem is not None:
            parts["cem"] = self.cem
        return parts

    def shape(self) -> dict:
        frozen = [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad]
        return {"widths": list(self.model.encoder.widths), "frozen": frozen}

    def before_load(self, shape: dict) -> None:
        """Rebuild a pruned encoder at its saved widths, and the optimiser for its trainable parameters."""
        if list(self.model.encoder.widths) != shape["widths"]:
            self.model = build_model(self.recipe, self.data, self.device, shape["widths"])
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name not in shape["frozen"])
            self._optimise_what_trains()


class GlobalRandom:
    """torch's global generators of the CPU and of `device`, as something with a state."""

    def __init__(self, device: torch.device):
        self.device = device

    def state_dict(self) -> dict:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)


def version(arch: str) -> int:
    """The version in the keys of jobs on a network of this architecture: VERSION and the changes of its own module."""
    return VERSION + models.ARCHITECTURES[arch].CHANGES


def build_model(recipe: Recipe, data: DataSet, device: torch.device, widths=None) -> models.SplitModel:
    """The cell's split network on `device`, in channels_last; widths: of a pruned encoder."""
    options = recipe.model.model_dump() | recipe.defense.model_options(recipe.params)
    model = models.build(classes=data.classes, image_size=data.image_size, widths=widths, seed=recipe.seed, **options)
    return model.to(device, memory_format=torch.channels_last)


def build_defense(
    recipe: Recipe, data: DataSet, model: models.SplitModel, device: torch.device, autocast: dict[str, Any]
) -> Defense:
    """The cell's defence on `device`; autocast: arguments of torch.autocast."""
    setting = Setting(
        classes=data.classes,
        image_size=data.image_size,
        feature_shape=model.feature_shape,
        widths=tuple(model.encoder.widths),
        epochs=recipe.train.epochs,
        quirks=recipe.quirks,
        device=device,
        autocast=autocast,
    )
    return recipe.defense(recipe.params, setting).to(device)


def _snapshot(model: models.SplitModel, defense: Defense) -> dict:
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    best = {"weights": weights, "widths": list(model.encoder.widths)}
    learned = defense.learned_state()
    return best | {"defense": learned} if learned else best
