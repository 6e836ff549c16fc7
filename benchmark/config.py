"""Settings of a cell: every value that a result depends on, its type, its range and its meaning.

A job's configuration holds these records, so a value is checked once, by one rule, wherever it came from (a matrix
file, a suite's `set`, the command line). Times are in epochs; fractions of an epoch count are in [0, 1].
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# YAML and the command line write 1 where 1.0 is meant; everything else stays strictly typed.
Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[float, Field(strict=False, ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Split = Literal["train", "infer"]  # how an attacker is armed


class Data(Strict):
    """Which images a cell uses; `null` takes all of them, a number the class-balanced first ones."""

    train_images: Count | None = Field(None, description="training images; null = all")
    test_images: Count | None = Field(None, description="test images; null = all")


class Model(Strict):
    """The split network (supplement S6; facts of the released code)."""

    arch: Literal["vgg11", "resnet20"] = Field(description="architecture of encoder and server")
    cut: Literal["c1", "c2", "c3"] = Field("c2", description="where the network is cut")
    bottleneck: Count | None = Field(8, description="channels of the feature after the bottleneck conv")


class Train(Strict):
    """How encoder and server are trained (paper section 5.1; released code where the paper is silent)."""

    epochs: Count = Field(description="passes over the training images")
    batch_size: Count = Field(description="images in a step; an epoch's last batch is filled from a fresh shuffle")
    lr: Positive = Field(description="peak learning rate of SGD")
    momentum: Annotated[Fraction, Field(lt=1)] = Field(description="momentum of SGD")
    weight_decay: NotNegative = Field(description="L2 penalty of SGD")
    warmup_epochs: NotNegative = Field(
        description="epochs of linear warm-up from 0 to lr; by whole epochs, the first at 0, with quirk q7"
    )
    schedule: Literal["milestones", "linear"] = Field(
        description="after the warm-up: lr times `decay` at each milestone, or straight down to 0 at the end"
    )
    milestones: list[Fraction] = Field(description="fractions of `epochs` (counted from 1) from which lr has fallen")
    decay: Annotated[Fraction, Field(gt=0)] = Field(description="factor on lr at each milestone")
    select_after: Fraction = Field(
        description="fraction of `epochs` after which the best epoch is kept as the checkpoint"
    )
    validation_fraction: Annotated[Fraction, Field(gt=0, lt=0.5)] = Field(
        description="share of the training images held out to choose the checkpoint; used with quirk q6 off"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on CUDA; on a CPU whichever a short measurement finds faster"
    )


class CEM(Strict):
    """Conditional entropy maximisation (Eq 5-8, Algorithm 1; `scalar` is the released form)."""

    estimator: Literal["scalar", "diagonal", "full"] = Field(description="form of a component's covariance")
    weight: NotNegative = Field(description="lambda of Eq 8")
    components: Count = Field(description="mixture components a class (Algorithm 1's k = 3 n gives 3)")
    scope: Literal["class", "all"] = Field("class", description="cluster within each class, or all features at once")
    start_epoch: Annotated[int, Field(ge=2)] = Field(2, description="first epoch (from 1) that has the term")
    lr_scaled: bool = Field(
        description="gradient scaled by weight*0.001/lr while lr >= 0.00041, then by weight (released code)"
    )
    threshold: Positive = Field(0.125, description="t of the scalar form's floor t*sigma^2")


class Knowledge(Strict):
    """Which images an attacker has. Part of an attack's key only where it is not the default."""

    share: Annotated[Fraction, Field(gt=0)] = Field(
        1.0, description="of the images of its split, the class-balanced first ones; it goes over them more often"
    )
    dataset: str | None = Field(
        None, description="data set of whose training images it has as many instead; null = its split's own images"
    )


class Quirks(Strict):
    """Behaviours of the released code that are not in the paper; each can be turned on and off alone."""

    q1_first_class_lookup: bool = Field(description="scalar CEM reads mostly the first class's statistics")
    q2_batch_weight_x10: bool = Field(description="a batch moves a component's statistics ten times as far")
    q3_attack_without_mask: bool = Field(description="the dropout mask is off when the attack is run")
    q4_gan_warm_start: bool = Field(
        description="the GAN's generator starts as the decoder that was fitted on 90 % of the test images"
    )
    q5_ordered_split: bool = Field(
        description="`infer` fits on the first 90 % of the test images in stored order, scores on the last 10 %"
    )
    q6_test_selection: bool = Field(description="the checkpoint is chosen by accuracy on the test images")
    q7_idle_first_epoch: bool = Field(
        description="the warm-up goes by whole epochs, so the first is at learning rate 0"
    )
    q8_pretraining_on_test: bool = Field(
        description="a defence's adversary is pre-trained on 90 % of the test images, not on as many training images"
    )
    q9_frozen_after_pruning: bool = Field(description="what PATROL's pruning replaced is not trained any more")
    q10_shifted_statistics: bool = Field(
        description="scalar CEM: after an empty or one-member cluster, statistics belong to the wrong cluster"
    )
    q11_norm_absorbs_test: bool = Field(
        description="the attacker's BatchNorm statistics move on the images it is scored on, after every epoch"
    )
    q12_stored_order: bool = Field(
        description="attacks on data sets in class folders go through the images in stored order, one class at a time"
    )
    q13_penalty_on_sum: bool = Field(
        description="the GAN's gradient penalty is of the sum of the critic's map, which is 9 or 25 times its mean"
    )
    q14_gan_single_fit: bool = Field(
        description="one GAN fit, on the training images: `train` is its error in its own last epoch, `infer` on the "
        "whole test set at the last epoch that was logged"
    )
    q15_best_batch_snapshot: bool = Field(
        description="the GAN starts from the decoder as it was after the best single batch of test images"
    )


class Efficiency(Strict):
    """How Table S6 is measured."""

    batches: Count = Field(description="timed batches; the printed number is for 100, fewer are scaled up")
    batch_size: Count = Field(description="images in a batch")
    warmup: Annotated[int, Field(ge=0)] = Field(description="untimed batches before")


class Resources(Strict):
    """What a job asks of a cluster; never part of its key."""

    gpu: Annotated[Number, Field(gt=0, le=1)] = Field(description="share of a GPU; jobs that time it need 1")
    memory: Positive = Field(description="GiB of main memory")


class Kinds(Strict):
    """The resources of each kind of job."""

    train: Resources
    attack: Resources
    bounds: Resources
    efficiency: Resources


class Bounds(Strict):
    """How the theoretical quantities of a trained cell are estimated (docs/METHODS.md)."""

    components: Count = Field(description="mixture components a class of Eq 7 (Algorithm 1's k = 3 n gives 3)")
    released_components: Count = Field(description="clusters a class of the released objective")
    released_threshold: Positive = Field(description="t of the released objective's t*sigma^2")
    images: Count = Field(description="test images, at most, of the mutual information; its log limits the lower one")
    jacobian_images: Count = Field(description="test images, at most, whose Jacobians the Fisher information is of")
