"""The attackers beyond the paper's: what each knows or does more, against oracles of their own."""

import json
import re

import pandas as pd
import pytest
import torch
from torch.nn.functional import mse_loss

from benchmark.analysis import names
from benchmark.attacks import ATTACKS
from benchmark.attacks.averaged import Averaged
from benchmark.attacks.informed import LinearEstimate
from benchmark.attacks.whitebox import total_variation
from benchmark.config import Quirks
from benchmark.defenses import DEFENSES, Setting
from benchmark.errors import UserError
from benchmark.jobs.reconstruct import rebuild
from benchmark.matrix.expand import expand, jobs
from benchmark.matrix.load import MatrixFile
from benchmark.metrics.reconstruction import mse_per_image
from benchmark.models.decoder import LargeDecoder
from benchmark.store import checksums
from benchmark.training import checkpoint, loop
from tests.attacks.test_attacks import CPU, add_noise, attack, everything, images, shrink  # noqa: F401 (images is a fixture)
from tests.metrics.test_lpips import needs_lpips, random_alexnet
from tests.support.command_line import place  # noqa: F401 (a fixture)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def error(task, images):  # noqa: F811
    """Mean MSE of what an attack rebuilds of the images it received."""
    return mse_per_image(torch.cat(list(task.reconstructions())), images.images.float() / 255).mean().item()


def defense(name, **params):
    quirks = Quirks(**{quirk: False for quirk in Quirks.model_fields})
    cls = DEFENSES.get(name)
    return cls(cls.Params(**params), Setting(3, 32, (3, 8, 8), (64,), 1, quirks, CPU, {}))


# -- query averaging


@pytest.mark.parametrize("count", [4, 16, 64])
def test_averaging_n_queries_divides_the_noise_by_sqrt_n(count):
    cls, z = ATTACKS.get(f"queries{count}"), torch.rand(64, 8, 8, 8, generator=generator())
    values = MatrixFile().matrix.attacks[f"queries{count}"]
    assert values["queries"] == count
    send = defense("bottleneck", noise_std=0.5).transform
    channel = cls.channel(cls.Params(**values), lambda z, g: send(z, g, "attack"), everything)
    residual = channel(z, generator(1)) - z
    assert residual.std().item() == pytest.approx(0.5 / count**0.5, rel=0.02)
    assert abs(residual.mean().item()) < 4 * 0.5 / (count * residual.numel()) ** 0.5


def test_a_masked_element_is_averaged_over_the_times_it_was_kept():
    cls, z = ATTACKS.get("queries4"), 0.5 + torch.rand(50, 8, 8, 8, generator=generator())
    dropout = defense("dropout", noise_std=0.0, rate=0.5, when="always")
    params = cls.Params(**MatrixFile().matrix.attacks["queries4"])
    got = cls.channel(params, lambda z, g: dropout.transform(z, g, "attack"), dropout.kept)(z, generator(1))
    seen = got != 0
    torch.testing.assert_close(got[seen], z[seen])
    assert (~seen).float().mean().item() == pytest.approx(0.5**4, abs=0.01)


def test_many_queries_approach_the_attack_without_noise(images):  # noqa: F811
    def loud(z, g):
        return z + 4 * torch.randn(z.shape, generator=g)

    def fitted(name, send):
        task = attack(name, images, send=send, epochs=20, batch_size=8)
        loop.run(task)
        return error(task, images)

    silent, once, often = fitted("decoder", lambda z, g: z), fitted("decoder", loud), fitted("queries64", loud)
    assert once > 1.8 * silent  # the noise does hinder
    assert often < silent + 0.3 * (once - silent)


# -- the informed and the larger decoder


def gaussian_features(count, size=12):
    """Correlated features [count, 3, 2, 2] of known mean and covariance."""
    root = torch.randn(size, size, generator=generator(3)) / size**0.5
    mean = torch.linspace(1, 2, size)
    clean = mean + torch.randn(count, size, generator=generator(4)) @ root.T
    return clean.view(count, 3, 2, 2), mean, root @ root.T


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_linear_estimate_is_as_good_as_least_squares(rate):
    """Its error on new draws against that of least squares on many pairs, the best linear estimate there is."""
    clean, *_ = gaussian_features(20000)

    def send(seed):
        z = clean + 0.7 * torch.randn(clean.shape, generator=generator(seed))
        return z * (torch.rand(clean.shape, generator=generator(seed + 1)) >= rate)

    sent, new = send(5), send(7)
    estimate = LinearEstimate(clean, sent, sent != 0)(new)
    ones = torch.ones(len(clean), 1)
    solution = torch.linalg.lstsq(torch.cat([sent.flatten(1), ones], 1), clean.flatten(1)).solution
    oracle = torch.cat([new.flatten(1), ones], 1) @ solution
    best = mse_loss(oracle, clean.flatten(1)).item()
    assert mse_loss(estimate, clean).item() == pytest.approx(best, rel=0.01)
    assert best < 0.8 * mse_loss(new, clean).item()


def test_the_linear_estimate_of_few_images_stays_sane():
    clean, mean, covariance = gaussian_features(2000)
    noise = 0.7 * torch.randn(clean.shape, generator=generator(5))
    few = LinearEstimate(clean[:8], (clean + noise)[:8], everything(clean[:8]))  # fewer than the 12 elements
    others, sent = clean[8:], (clean + noise)[8:]
    assert mse_loss(few(sent), others) < mse_loss(sent, others)


def test_the_informed_decoder_is_told_what_there_is_to_tell(images):  # noqa: F811
    def masked(z, g):
        return (z + 0.01) * (torch.rand(z.shape, generator=g) >= 0.5)

    silent = attack("informed", images, send=lambda z, g: z)
    noisy = attack("informed", images)
    dropped = attack("informed", images, send=masked, kept=lambda z: z != 0)
    assert [task.briefing.views for task in (silent, noisy, dropped)] == [1, 2, 3]
    z = dropped.target.received
    told = dropped.briefing(z)
    assert torch.equal(told[:, :3], z) and torch.equal(told[:, 3:6], (z != 0).float())


def test_the_informed_decoder_fits_on_mirror_images_and_their_own_features(images):  # noqa: F811
    task = attack("informed", images)
    features, x01 = task.pairs(torch.arange(16))
    torch.testing.assert_close(features, shrink(x01))
    plain = images.images.float() / 255
    turned = [torch.equal(a, b.flip(-1)) and not torch.equal(a, b) for a, b in zip(x01, plain, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(x01, plain, strict=True)]
    assert all(a or b for a, b in zip(turned, kept, strict=True)) and 0 < sum(turned) < 16
    unturned = attack("informed", images, mirror=False)
    assert torch.equal(unturned.pairs(torch.arange(16))[1], plain)


@pytest.mark.parametrize(("shape", "size"), [((8, 8, 8), 32), ((8, 12, 12), 48), ((128, 8, 8), 32), ((8, 16, 16), 64)])
def test_the_larger_decoder_fits_every_data_set(shape, size):
    network = LargeDecoder(shape, size, blocks=1, width=16, tail=1)
    x01 = network(torch.rand(2, *shape))
    assert x01.shape == (2, 3, size, size) and x01.min() >= 0 and x01.max() <= 1
    with pytest.raises(UserError, match="whole number of doublings"):
        LargeDecoder((8, 7, 7), 32, blocks=1, width=16, tail=1)


# -- through the encoder


def test_the_steps_are_those_of_torchs_adam(images):  # noqa: F811
    task = attack("whitebox", images, iterations=4, batch_size=16, lr=0.05, tv_weight=2.0)
    pixels = task.unknowns.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    expected = []
    for _ in range(4):
        optimizer.zero_grad()
        x01 = pixels.sigmoid()
        objective = task.target.misfit(shrink(x01), task.target.received) + 2 * total_variation(x01)
        expected.append(objective.mean().item())
        objective.sum().backward()
        optimizer.step()
        schedule.step()
    assert [record["loss"] for record in loop.run(task)] == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(task.unknowns, pixels.detach(), rtol=1e-3, atol=1e-4)


def test_descent_lowers_the_objective_and_beats_the_mean_image(images):  # noqa: F811
    task = attack("whitebox", images, iterations=60, batch_size=16, tv_weight=1.0)
    losses = [record["loss"] for record in loop.run(task)]
    assert losses[-1] < 0.05 * losses[0]
    x01 = images.images.float() / 255
    blind = mse_loss(x01.mean(0, keepdim=True).expand_as(x01), x01).item()
    assert error(task, images) < 0.5 * blind


def test_the_batches_of_the_descent_do_not_matter(images):  # noqa: F811
    """5 does not divide 16: the last batch is filled up, and that changes nothing."""
    results = []
    for size in (5, 16):
        task = attack("whitebox", images, iterations=3, batch_size=size)
        history = loop.run(task)
        results.append((history[-1]["loss"], torch.cat(list(task.reconstructions()))))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5) and results[0][1].shape == (16, 3, 32, 32)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


def test_of_several_starts_the_lowest_objective_is_taken(images):  # noqa: F811
    task = attack("whitebox", images, iterations=2, restarts=2)
    loop.run(task)
    objectives = task.objectives[: 3 * 16].view(3, 16)
    assert len({tuple(row.tolist()) for row in objectives}) == 3
    chosen = torch.cat(list(task.reconstructions()))
    for image, column in enumerate(objectives.T):
        assert torch.equal(chosen[image], task.unknowns[int(column.argmin()) * 16 + image].sigmoid())


def test_a_start_at_given_images_begins_there(images):  # noqa: F811
    task = attack("whitebox", images, restarts=1)
    task.start({"images": images.images})
    rebuilt = task.unknowns[:16].sigmoid()
    assert (rebuilt - images.images.float() / 255).abs().max() < 0.021  # pixels of 0 and 1 have no logit
    kept = attack("whitebox", images)
    kept.start(task.fitted())
    assert error(kept, images) < 0.001


def test_total_variation():
    flat = torch.full((2, 3, 8, 8), 0.3)
    assert total_variation(flat).max() < 3 * 49 * 0.0011
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 0.5
    assert total_variation(edge).item() == pytest.approx(7 * 0.5, rel=0.02)


def test_the_misfit_is_minus_the_log_likelihood():
    """Against torch's distributions; of a masked feature the elements that are left count."""
    z_clean = torch.rand(4, 3, 8, 8, generator=generator())
    pairs = [
        (defense("bottleneck", noise_std=0.3), torch.distributions.Normal(z_clean, 0.3)),
        (
            defense("noise_nopeek", noise_std=0.3, weight=0.1, task=1.0, distribution="laplace", when="always"),
            torch.distributions.Laplace(z_clean, 0.3),
        ),
    ]
    for rule, distribution in pairs:
        a, b = (rule.transform(z_clean, generator(seed), "attack") for seed in (1, 2))
        expected = (distribution.log_prob(b) - distribution.log_prob(a)).flatten(1).sum(1)
        torch.testing.assert_close(rule.misfit(z_clean, a) - rule.misfit(z_clean, b), expected, rtol=1e-4, atol=1e-3)
    dropout = defense("dropout", noise_std=0.3, rate=0.5, when="always")
    z = dropout.transform(z_clean, generator(3), "attack")
    expected = torch.where(z != 0, ((z - z_clean) / 0.3) ** 2 / 2, 0.0).flatten(1).sum(1)
    torch.testing.assert_close(dropout.misfit(z_clean, z), expected)
    assert torch.isfinite(defense("none", noise_std=0.0).misfit(z_clean, z_clean + 0.1)).all()


# -- the best of all


def test_the_ensemble_is_at_least_as_good_as_each_member_on_each_image():
    members = {
        name: {"mse": torch.rand(20, generator=generator(seed)), "ssim": torch.rand(20, generator=generator(seed + 9))}
        for seed, name in enumerate("abc")
    }
    members["b"]["mse"][3] = members["b"]["ssim"][4] = torch.nan
    best = ATTACKS.get("ensemble")().select(members)
    for values in members.values():
        assert (best["mse"] <= values["mse"].nan_to_num(1.0)).all()
        assert (best["ssim"] >= values["ssim"].nan_to_num(0.0)).all()
    assert all(best["mse"][i] in [values["mse"][i] for values in members.values()] for i in range(20))


def test_the_ensemble_depends_on_the_others_of_its_row_and_changes_none(matrix, tmp_path):
    def keys(attackers):
        def change(value):
            value["suites"]["smoke"] |= {"attacker": attackers, "defense": ["bottleneck"], "cem": ["off"]}

        cells = expand(matrix(change), "smoke", tmp_path)
        return {(cell.attacker, cell.split): cell.job for cell in cells}, cells

    plain, _ = keys(["decoder", "gan"])
    more, cells = keys(["decoder", "gan", "whitebox", "ensemble"])
    assert all(more[key].key == job.key for key, job in plain.items())
    ensemble = more["ensemble", "infer"]
    assert list(ensemble.parents) == ["train", "decoder", "gan", "whitebox"]
    assert ensemble.parents["gan"].key == more["gan", "infer"].key
    assert len(jobs(cells)) == len({cell.job.key for cell in cells})  # no job that is not a cell
    with pytest.raises(UserError, match="selects among others"):
        keys(["ensemble"])


def test_those_that_see_more_than_one_feature_are_kept_from_the_bounds():
    more = {name for name in ATTACKS.names() if issubclass(ATTACKS.get(name), Averaged)} | {"ensemble"}
    assert {name for name in ATTACKS.names() if not names.one_feature(name)} == more
    assert {name for name in ATTACKS.names() if names.chooses(name)} == {"ensemble", "standard"}
    assert set(names.STRONGER) | set(names.ATTACKERS) == set(ATTACKS.names())


# -- from the command line to the store


def test_the_classifier_need_not_be_among_the_chosen_rows(place):  # noqa: F811
    def change(_, smoke):
        smoke |= {"defense": ["none", "dropout"], "cem": ["off"], "attacker": ["decoder"], "split": ["infer"]}
        smoke["efficiency"] = []

    place.edit(change)
    assert place.call("run").code == 0
    everything = place.call("measure recognise")
    assert everything.code == 0 and everything.out.count(" % recognised (") == 2, everything
    some = place.call("measure recognise", "--where", "defense=dropout")
    assert some.code == 0 and some.out.count("\n") == 1 and some.out in everything.out, some
    place.edit(lambda matrix, smoke: change(matrix, smoke) or smoke.update(defense=["dropout"]))
    assert "skipped: the suite has no row `none`" in place.call("measure recognise").out


@pytest.mark.slow
def test_the_stronger_attackers_run_end_to_end(place, monkeypatch):  # noqa: F811
    needs_lpips()

    def change(value, smoke):
        smoke["attacker"] = ["decoder", "informed", "queries4", "whitebox", "ensemble"]
        smoke |= {"defense": ["none", "dropout"], "cem": ["off"], "protocol": ["corrected"], "split": ["infer"]}
        smoke["efficiency"] = []
        value["attacks"]["whitebox"] |= {"iterations": 2, "start": "decoder"}

    place.edit(change)
    outcome = place.call("run")
    assert outcome.code == 0, outcome.err
    values = {
        cell.attacker: json.loads((place.results / cell.job.folder / "metrics.json").read_text())["values"]
        for cell in place.cells("defense=dropout")
        if cell.kind == "attack"
    }
    assert set(values) == {"decoder", "informed", "queries4", "whitebox", "ensemble"}
    assert all(values["ensemble"]["mse"] <= value["mse"] for value in values.values())
    assert all(values["ensemble"]["ssim"] >= value["ssim"] for value in values.values())
    # two steps from what the decoder rebuilt are still near it
    assert values["whitebox"]["mse"] == pytest.approx(values["decoder"]["mse"], rel=0.5)

    told = place.call("measure recognise")
    assert told.code == 0, told.err
    lines = dict(line.split(": ", 1) for line in told.out.splitlines())
    assert len(lines) == 2 * 5
    for title, text in lines.items():
        if "ensemble" in title:
            assert text == "skipped: it rebuilds no images of its own"
        else:
            assert re.fullmatch(r"\d+\.\d % recognised \(originals \d+\.\d %, chance 16\.7 %\)", text), text
    weights, measured = random_alexnet(place.results.parent / "alexnet.pth"), []
    monkeypatch.setattr("benchmark.jobs.lpips.rebuild", lambda job, _: measured.append(job) or rebuild(job, _))
    for count in (8, 8):  # the second call reads what the first one found
        told = place.call("measure lpips", "--weights", weights)
        assert told.code == 0, told.err
        assert len(re.findall(r": LPIPS 0\.\d{4} \(mean of the best", told.out)) == count == len(measured)
        assert told.out.count(": skipped: it rebuilds no images of its own") == 2
    place.call("measure lpips", "--weights", random_alexnet(weights, seed=1))
    assert len(measured) == 16  # other weights, another number
    assert place.call("report").code == 0
    table = pd.read_csv(place.tables / "smoke" / "attacks.csv")
    assert (table["lpips_worst_1_percent"] <= table["lpips"]).sum() == 2 * 4
    assert len(table) == 2 * 5 and (table["converged"].dropna() == "too short").all()
    fitted = table[table["attacker"] != "ensemble"]
    assert fitted["recognised_percent"].between(0, 100).all()
    assert (table["mse_q01"] <= table["mse_q50"]).all() and (table["mse_worst_1_percent"] <= table["mse_q50"]).all()
    tables = {table["name"] for table in json.loads((place.tables / "smoke" / "tables.json").read_text())}
    assert {"photos-attackers-mse-corrected", "photos-mse-corrected"} <= tables
    assert "not shown to have converged" in (place.tables / "smoke" / "photos-mse-corrected.md").read_text()

    for weights in place.results.glob("photos/none/train-*/*.safetensors"):
        weights.unlink()
    for found in place.results.glob("photos/*/*/recognition.json"):
        found.unlink()
    assert "skipped: the classifier has no" in place.call("measure recognise").out
    for weights in place.results.glob("photos/dropout/decoder-infer-*/checkpoint.safetensors"):
        state = checkpoint.load(weights)
        nothing = {name: torch.zeros_like(value) for name, value in state["decoder"].items()}
        checkpoint.save(weights, {"decoder": nothing})
        (weights.parent / checksums.NAME).unlink()
    told = place.call("measure lpips", "--weights", random_alexnet(place.results.parent / "others.pth", seed=2)).out
    assert told.count("weights are of another run") == 1 and told.count("the training has no") == 4
