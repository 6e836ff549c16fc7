"""All theoretical quantities of one trained cell."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmark.bounds import fisher, information
from benchmark.config import Bounds
from benchmark.data import DataSet, normalise, to_unit
from benchmark.defenses import Defense
from benchmark.training.loop import seeded


def bounds_of(
    model: nn.Module,
    defense: Defense,
    images: DataSet,
    train: Tensor,
    test: Tensor,
    params: Bounds,
    seed: int,
    monitor,
) -> tuple[dict[str, float], str]:
    """({name: value}, why some are missing or ""); docs/METHODS.md defines the names.

    model: in evaluation mode; train, test: clean features [N, D] of the whole parts of `images`, un-augmented.
    Diverged for features that are not finite; KeyboardInterrupt if `monitor` says to stop.
    """
    sigma, channel = defense.noise_level(), defense.channel()
    if channel == "other":
        return {}, f"what the attacker is sent by {defense.name} is not the feature with Gaussian noise"
    if sigma == 0:
        return {}, "no noise: the mutual information is infinite and every bound on the error is 0"
    device = train.device
    chosen = torch.randperm(len(test), generator=seeded(torch.device("cpu"), "bounds-images", seed)).to(device)
    generator = seeded(device, "bounds", seed)
    labels = images.train.labels
    found = information.mixture(train, labels, images.classes, params.components, generator)
    values = information.equation_7(train, found, sigma)
    values["released_objective"] = information.released_objective(
        train,
        labels,
        images.classes,
        params.released_components,
        sigma,
        params.released_threshold,
        generator,
    )
    sample = test[chosen[: params.images]]
    upper, half_width = information.upper_estimate(train, found, sample, sigma, generator)
    values |= {"mi_upper_nats": upper, "mi_upper_half_width_nats": half_width, "mi_images": len(sample)}
    reason = ""
    if channel == "gaussian":
        values["mi_lower_nats"] = information.lower_estimate(sample, sigma, generator)
    else:
        reason = f"{defense.name} changes the noisy feature before the attacker sees it, so that it may tell less"

    def jacobians() -> Iterator[Tensor]:
        for index in chosen[: params.jacobian_images]:
            if monitor.stopping():
                raise KeyboardInterrupt
            yield fisher.jacobian(encoder, to_unit(images.test.images[index]))

    def encoder(x01: Tensor) -> Tensor:
        return model.encoder(normalise(x01, images.mean, images.std))

    count = min(params.jacobian_images, len(test))
    values |= fisher.errors(jacobians(), count, fisher.covariance(images.train.images), sigma)
    return values | {"jacobian_images": count, "image_dims": images.train.images[0].numel()}, reason
