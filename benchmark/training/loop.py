"""The resumable loop. Trainings and attacks are `Task`s; this file steps, saves, resumes and reports them."""

import hashlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import Diverged, Unreadable, UserError
from benchmark.training import checkpoint
from benchmark.training.graph import Captured


class Silent:
    """A monitor that reports nothing."""

    def epoch(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """After each epoch."""

    def step(self, done: float, epochs: int) -> None:
        """From time to time: `done` epochs (a fraction) of `epochs`."""

    def preparing(self, text: str) -> None:
        """From time to time while the task prepares: what it is doing."""

    def stopping(self) -> bool:
        """Asked after each step: whether to save and end with KeyboardInterrupt."""
        return False

    def note(self, text: str) -> None:
        """A sentence worth keeping in the job's log."""


class Task:
    """Something fitted in epochs of steps.

    `parts()` names everything that changes while it runs: modules and optimisers (anything with `state_dict`),
    generators, and tensors that are changed in place. The loop saves and restores exactly these, so a killed and
    resumed run gives the same result as an uninterrupted one, on a CPU bit for bit.
    """

    epochs: int
    steps: int  # a whole epoch's
    monitor = Silent()  # `run` sets its own
    captured: Captured  # through which `step` runs what it does on the device
    earlier = 0.0  # seconds in interrupted runs, up to the state from which this one resumes
    where: dict  # device type and precision (JSON values): a state is resumed only where both are the same

    def prepare(self) -> None:
        """Once, before the first epoch of a fresh run."""

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch alone: learning rates, the order of the images."""

    def step(self, epoch: int, index: int) -> None:
        raise NotImplementedError

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """The epoch's metrics; must contain `loss`."""
        raise NotImplementedError

    def parts(self) -> dict[str, object]:
        raise NotImplementedError

    def before_load(self, shape: dict) -> None:
        """Adapt the parts to a saved state (a pruned encoder), given what `shape` returned when it was saved."""

    def shape(self) -> dict:
        """JSON values from which `before_load` can rebuild the shapes of the parts."""
        return {}


def run(task: Task, path: Path | None = None, monitor=None, every: float = 60.0) -> list[dict[str, float]]:
    """Fit `task` and return its history, one record an epoch.

    path: file of the checkpoint, written every `every` seconds, and read at the start where it exists. A damaged one
    is set aside (`.damaged`) and the task starts over. Raises Diverged when the loss stops being finite.
    """
    task.monitor = monitor = monitor or Silent()
    history: list[dict[str, float]] = []
    epoch = index = 0
    began = time.monotonic()
    state = _read(path, task, monitor)
    if path is not None and state is not None:
        try:
            task.before_load(state["shape"])
            _put(task.parts(), state["parts"])
            history, epoch, index = state["history"], state["epoch"], state["index"]
            task.earlier = state.get("seconds", 0.0)
        except Exception as error:  # the contents are not what this version of the program saves
            aside, why = _set_aside(path), " ".join(str(error).split())[:200]
            text = f"the saved state {path} does not fit this version of the program ({type(error).__name__}: {why}); "
            raise UserError(f"{text}it is set aside as {aside.name}, run again to start this job over") from error
        monitor.note(f"resumed at epoch {epoch + 1}, step {index}")
    else:
        task.prepare()
    saved, pause = time.monotonic(), every

    def save_if_due() -> None:
        nonlocal saved, pause
        stopping = monitor.stopping()
        start = time.monotonic()
        if path is not None and (stopping or start - saved > pause):
            state = {"parts": _get(task.parts()), "shape": task.shape(), "where": task.where}
            state |= {"history": history, "epoch": epoch, "index": index, "seconds": task.earlier + start - began}
            checkpoint.save(path, state)
            saved = time.monotonic()
            pause = max(every, 20 * (saved - start))  # large states: at most 5 % of the time goes into saving
        if stopping:
            raise KeyboardInterrupt

    try:
        while epoch < task.epochs:
            task.begin_epoch(epoch)
            while index < task.steps:
                task.step(epoch, index)
                index += 1
                monitor.step(epoch + index / task.steps, task.epochs)
                if index < task.steps:  # not after the last step: pruning at the epoch's end reads its gradients
                    save_if_due()
            metrics = task.end_epoch(epoch)
            if not math.isfinite(metrics["loss"]):
                raise Diverged(f"the loss is {metrics['loss']} in epoch {epoch + 1} of {task.epochs}")
            history.append({"epoch": epoch + 1, **metrics})
            monitor.epoch(epoch + 1, task.epochs, metrics)
            epoch, index = epoch + 1, 0
            save_if_due()
    finally:
        task.captured.forget()
    return history


def _read(path: Path | None, task: Task, monitor) -> dict | None:
    """The saved state, or None if there is none that fits; one that does not fit is set aside."""
    if path is None or not path.exists():
        return None
    try:
        state = checkpoint.load(path)
        if state["where"] == task.where:
            return state
        reason = f"the saved state is of {state['where']}, this run is on {task.where}"
    except Unreadable:  # it may be intact: the job fails and leaves it alone
        raise
    except (UserError, KeyError, TypeError) as error:
        reason = str(error)
    monitor.note(f"{reason}; set aside as {_set_aside(path).name}, starting this job over")
    return None


def _set_aside(path: Path) -> Path:
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    return aside


def _get(parts: dict[str, object]) -> dict:
    def state(part):
        if isinstance(part, Tensor):
            return part
        return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()

    return {name: state(part) for name, part in parts.items()}


def _put(parts: dict[str, Any], saved: dict) -> None:
    for name, part in parts.items():
        if isinstance(part, Tensor):
            part.copy_(saved[name])
        elif isinstance(part, torch.Generator):
            part.set_state(saved[name])
        elif isinstance(part, torch.optim.Optimizer):
            _put_optimizer(part, saved[name])
        else:
            part.load_state_dict(saved[name])


def _put_optimizer(optimizer: torch.optim.Optimizer, saved: dict) -> None:
    """Load its state in the memory layout of its parameters: fused optimisers treat both as plain memory.

    A learning rate that is a tensor stays the same tensor, on its device, with the saved value.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"] = rate.fill_(group["lr"])
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter).copy_(value)


def generators(parts: dict[str, object]) -> list[torch.Generator]:
    """The generators among a task's parts: all that its steps draw from, besides torch's own."""
    return [part for part in parts.values() if isinstance(part, torch.Generator)]


def seeded(device: torch.device, *words: object) -> torch.Generator:
    """A generator on `device` whose seed is a hash of the words: independent streams from one seed."""
    digest = hashlib.sha256("/".join(str(word) for word in words).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:7], "big"))


def epoch_order(count: int, places: int, device: torch.device, *words: object) -> Tensor:
    """Which of `count` images is at each position of an epoch, int64 [places]; depends only on the arguments.

    Every image once in random order; if there are more places, the rest comes from a fresh shuffle (as released).
    """
    generator = seeded(device, "order", *words)
    turns = -(-places // count)
    return torch.cat([torch.randperm(count, generator=generator, device=device) for _ in range(turns)])[:places]
