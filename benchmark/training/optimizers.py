"""torch's SGD and Adam without torch's compiler.

torch's own import the compiler (torch._dynamo, with sympy) as soon as one is made, for programs that are compiled. Ours
are not, and the import takes half of the time that a process needs to start (docs/SPEED.md). The numbers are the same.
"""

import inspect

import torch
from torch.optim import Optimizer


class _Uncompiled:
    """The methods without the wrappers that import the compiler."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class SGD(_Uncompiled, torch.optim.SGD):
    """torch.optim.SGD."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class Adam(_Uncompiled, torch.optim.Adam):
    """torch.optim.Adam."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
