"""The optimisers: torch's own numbers, without torch's compiler."""

import sys

import pytest
import torch

from benchmark.training import optimizers
from tests.support.command_line import FORKS, place  # noqa: F401


@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"momentum": 0.9, "weight_decay": 5e-4}), ("Adam", {"weight_decay": 1e-4})]
)
def test_they_step_as_torchs_own(name, options):
    weights = [torch.randn(8, 3, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    found = []
    for module in (optimizers, torch.optim):
        tensors = [weight.clone().requires_grad_() for weight in weights]
        optimizer = getattr(module, name)(tensors[:1], lr=0.1, fused=True, **options)
        optimizer.add_param_group({"params": tensors[1:], "lr": 0.2})
        for step in range(5):
            optimizer.zero_grad()
            sum((tensor**2).sum() for tensor in tensors).backward()
            assert optimizer.step() is None
            if step == 2:
                optimizer.load_state_dict(optimizer.state_dict())
        found.append(
            [
                *tensors,
                *(value["momentum_buffer" if name == "SGD" else "exp_avg_sq"] for value in optimizer.state.values()),
            ]
        )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
    with torch.enable_grad():
        assert optimizers.SGD(tensors, lr=0.1).step(lambda: torch.tensor(3.0)) == 3


def _train(place, link) -> None:  # noqa: F811
    outcome = place.call("run", "--where", "attacker=decoder,cem=on,defense=bottleneck")
    link.send((outcome.code, outcome.err, "torch._dynamo" in sys.modules, "sympy" in sys.modules))


def test_a_run_does_without_the_compiler(place):  # noqa: F811
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=_train, args=(place, theirs))
    process.start()
    theirs.close()  # so that a child that dies ends the wait
    code, err, compiler, sympy = ours.recv()
    process.join()
    assert code == 0, err
    assert not compiler and not sympy
