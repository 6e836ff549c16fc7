"""Graphs of steps: what is replayed equals what is computed step by step; on CUDA, and on the CPU by a tape."""

import weakref
from dataclasses import replace

import pytest
import torch

from benchmark.defenses import DEFENSES
from benchmark.errors import UserError
from benchmark.training import graph, loop
from benchmark.training.graph import Captured, Order, scalar
from benchmark.training.loop import Silent
from benchmark.training.train import Training
from tests.attacks.test_attacks import attack
from tests.support.tape import Tape
from tests.training.test_training import recipe

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")  # the tape records the operators of one


class Notes(Silent):
    def __init__(self, stop=0):
        self.texts, self.left = [], stop

    def note(self, text):
        self.texts.append(text)

    def stopping(self):
        self.left -= 1
        return self.left == 0


def training(data, defense, cem, device=CPU, *changes):
    """Three epochs of 6 steps; the first steps of each kind are eager, the others replayed."""
    settings = ("train.epochs=3", "train.batch_size=4", "defenses.patrol.prune_at=0.5", *changes)
    data = replace(data, train=data.train.take(torch.arange(24)), test=data.test.take(torch.arange(4)))
    return Training(recipe(defense, cem, "published", *settings), data.to(device), device, "fp32")


def states(task):
    """Every tensor and generator state of a task, but torch's own generators, which all tasks of a process share."""
    return {name: value for name, value in loop._get(task.parts()).items() if name != "global"}


def assert_same(a, b, **tolerance):
    torch.testing.assert_close(a, b, **(tolerance or dict(rtol=0, atol=0)), check_layout=False)


CELLS = [
    ("bottleneck", "on"),
    ("bottleneck", "diagonal"),
    ("bottleneck", "full"),
    ("distcorr", "off"),
    ("dropout", "off"),
    ("noise_arl", "full"),
    ("patrol", "on"),
]


@pytest.mark.parametrize(("defense", "cem"), CELLS)
def test_a_training_on_the_tape_is_the_eager_one(tiny_images, defense, cem):
    """Bit for bit, through changes of the learning rate, the start of CEM, its refits, and pruning."""
    eager, taped = (training(tiny_images, defense, cem) for _ in range(2))
    history = loop.run(eager)
    taped.captured.backend = tape = Tape()
    assert loop.run(taped, None, notes := Notes()) == history
    assert_same(states(taped), states(eager))
    assert notes.texts == [] and taped.captured.used
    assert tape.warmed + tape.played == 18 and tape.played >= 9


@pytest.mark.parametrize("name", ["decoder", "gan"])
def test_an_attack_on_the_tape_is_the_eager_one(tiny_images, name):
    images = tiny_images.train.take(torch.arange(16))
    extra = {"generator_every": 3} if name == "gan" else {}
    eager, taped = (attack(name, images, epochs=5, **extra) for _ in range(2))
    history = loop.run(eager)
    taped.captured.backend = tape = Tape()
    assert loop.run(taped) == history
    assert_same(states(taped), states(eager))
    assert tape.captures == (2 if name == "gan" else 1) and tape.warmed == 3 * tape.captures


def test_a_stopped_run_on_the_tape_goes_on_to_the_same_end(tiny_images, tmp_path):
    """Stopped while steps are replayed, in the middle of an epoch; the states of the generators are the graph's."""
    whole = training(tiny_images, "dropout", "on")
    history = loop.run(whole)
    path = tmp_path / "state.safetensors"
    first, second = (training(tiny_images, "dropout", "on") for _ in range(2))
    first.captured.backend, second.captured.backend = Tape(), Tape()
    with pytest.raises(KeyboardInterrupt):
        loop.run(first, path, Notes(stop=11))
    torch.manual_seed(999)
    assert loop.run(second, path) == history
    assert first.captured.used and second.captured.used
    assert_same(states(second), states(whole))


# -- what cannot be captured


def run_with(defense, data):
    task = training(data, "bottleneck", "off")
    task.defense.__class__ = type("Changed", (defense, type(task.defense)), {})
    task.captured = Captured(CPU, loop.generators(task.parts()), task._obstacle())
    task.captured.backend = Tape()
    notes = Notes()
    return loop.run(task, None, notes), task, notes


class Waiting:
    """Its loss looks at a value, as a capture must not."""

    def loss(self, batch):
        return batch.z.square().mean() if batch.z.mean().item() > 0 else None


class Refusing(Waiting):
    capturable = False


class Numbered:
    """An optimiser whose learning rate is a number."""

    def optimizers(self):
        return {"own": torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)}


@pytest.mark.parametrize(
    ("defense", "reason"),
    [(Waiting, "waits for the device"), (Refusing, "says that its part"), (Numbered, "'own' is a number")],
)
def test_a_defence_that_cannot_be_captured_runs_eagerly(tiny_images, defense, reason):
    history, task, notes = run_with(defense, tiny_images)
    (text,) = notes.texts
    assert text.startswith("no CUDA graphs") and reason in text
    assert not task.captured.used and len(history) == 3
    plain = training(tiny_images, "bottleneck", "off")
    plain.defense.__class__ = type("Changed", (defense, type(plain.defense)), {})
    assert loop.run(plain) == history


def test_what_a_broken_capture_had_taken_is_free_for_the_eager_step():
    class Broken(Tape):
        def capture(self, step, generators):
            self.capturing = True
            try:
                step()
            finally:
                self.capturing = False

    def step():
        alive.append(sum(ref() is not None for ref in taken))
        taken.append(weakref.ref(activation := torch.zeros(9)))
        if backend.capturing:
            raise RuntimeError(f"out of memory after {activation.numel()}")

    taken, alive, notes = [], [], Notes()
    captured = Captured(CPU, [])
    captured.backend = backend = Broken()
    backend.capturing = False
    for _ in range(graph.WARM_UP + 2):
        captured(step, note=notes.note)
    assert alive == [0] * (graph.WARM_UP + 3) and "out of memory after 9" in notes.texts[0]


def test_the_tape_refuses_an_unregistered_generator():
    stray, x = torch.Generator(), torch.zeros(3)
    with pytest.raises(RuntimeError, match="not registered"):
        Tape().capture(lambda: x.add_(torch.rand(3, generator=stray)), [])


def test_the_tape_keeps_what_python_decided():
    """The check has teeth: a number that changes between steps is the old one when the tape is played."""
    total, number = torch.zeros(()), {"value": 1.0}
    play = Tape().capture(lambda: total.add_(number["value"]), [])
    assert total == 0  # a capture computes nothing
    number["value"] = 5.0
    play()
    assert total == 1


def test_no_graphs_on_a_cpu(tiny_images):
    task = training(tiny_images, "bottleneck", "off")
    assert task.captured.backend is None
    loop.run(task)
    assert not task.captured.used


def test_the_environment_variable(monkeypatch):
    assert graph.allowed()
    monkeypatch.setenv("BENCHMARK_GRAPHS", "off")
    assert not graph.allowed()
    monkeypatch.setenv("BENCHMARK_GRAPHS", "no")
    with pytest.raises(UserError, match="BENCHMARK_GRAPHS is 'no'; set it to on or off"):
        graph.allowed()


def test_the_order_of_the_batches():
    order = Order(7, 2, CPU)
    order.begin(torch.tensor([6, 5, 4, 3, 2, 1, 0]))
    rows, batches = order.rows, []
    for index in range(3):
        order.move(index)
        batches.append(order.batch().tolist())
    assert batches == [[6, 5], [4, 3], [2, 1]] and order.rows is rows


def test_a_learning_rate_is_exact_on_a_cpu():
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 9)) for _ in range(4)]
    for make in (torch.optim.SGD, torch.optim.Adam):
        pair = weights[:2] if make is torch.optim.SGD else weights[2:]
        by_number, by_tensor = make([pair[0]], lr=0.1, fused=True), make([pair[1]], lr=scalar(1.0, CPU), fused=True)
        for lr in (0.1, 0.0123456789):
            by_number.param_groups[0]["lr"] = lr
            graph.set_lr(by_tensor, lr)
            for parameter, optimizer in zip(pair, (by_number, by_tensor), strict=True):
                parameter.grad = parameter.detach().square()
                optimizer.step()
        assert torch.equal(*pair)


def test_all_jobs_of_a_process_share_the_side_stream(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or object())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    graph._side_stream.cache_clear()
    first, second, other = (Captured(torch.device(name), []).backend for name in ("cuda:0", "cuda:0", "cuda:1"))
    graph._side_stream.cache_clear()
    assert first.stream is second.stream is not other.stream and first.pool is not second.pool
    assert made == [torch.device("cuda:0"), torch.device("cuda:1")]


# -- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("cem", ["off", "on", "diagonal", "full"])
@pytest.mark.parametrize("defense", DEFENSES.names())
def test_a_training_by_graphs_is_the_eager_one(tiny_images, monkeypatch, defense, cem):
    """The draws are the same to the bit; the rest within what kernels that add in any order make of it."""
    device = torch.device("cuda")
    by_graph = training(tiny_images, defense, cem, device, "train.lr=0.001")
    monkeypatch.setenv("BENCHMARK_GRAPHS", "off")
    eager = training(tiny_images, defense, cem, device, "train.lr=0.001")
    history, expected = loop.run(by_graph, None, notes := Notes()), loop.run(eager)
    assert notes.texts == [] and by_graph.captured.used and not eager.captured.used
    for name in ("noise", "augmentation"):
        assert torch.equal(getattr(by_graph, name).get_state(), getattr(eager, name).get_state())
    for ours, theirs in zip(history, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)
        assert ours["cem"] == pytest.approx(theirs["cem"], rel=0.02, abs=1e-3)
    assert_same(by_graph.model.state_dict(), eager.model.state_dict(), rtol=0.05, atol=0.01)


def attack_on_gpu(name, images):
    from benchmark.attacks import ATTACKS, Target

    small = attack(name, images)
    values = small.target.__dict__ | {
        "features": small.target.features.cuda(),
        "images": images.images.cuda(),
        "send": lambda z, noise: z + 0.01 * torch.randn(z.shape, generator=noise, device="cuda"),
        "device": torch.device("cuda"),
        "autocast": small.target.autocast | {"device_type": "cuda"},
    }
    extra = {"generator_every": 3} if name == "gan" else {}
    return ATTACKS.get(name)(small.params.model_copy(update={"epochs": 5} | extra), Target(**values))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["decoder", "gan"])
def test_an_attack_by_graphs_is_the_eager_one(tiny_images, monkeypatch, name):
    images = tiny_images.train.take(torch.arange(16))
    by_graph = attack_on_gpu(name, images)
    monkeypatch.setenv("BENCHMARK_GRAPHS", "off")
    eager = attack_on_gpu(name, images)
    history, expected = loop.run(by_graph), loop.run(eager)
    assert by_graph.captured.used and not eager.captured.used
    assert torch.equal(by_graph.noise.get_state(), eager.noise.get_state())
    for ours, theirs in zip(history, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)


@pytest.mark.gpu
def test_a_stopped_training_by_graphs_goes_on_to_the_same_end(tiny_images, tmp_path):
    device, path = torch.device("cuda"), tmp_path / "state.safetensors"
    make = lambda: training(tiny_images, "dropout", "on", device, "train.lr=0.001")  # noqa: E731
    whole = make()
    history = loop.run(whole)
    with pytest.raises(KeyboardInterrupt):
        loop.run(make(), path, Notes(stop=11))
    resumed = make()
    after = loop.run(resumed, path)
    for name in ("noise", "augmentation"):
        assert torch.equal(getattr(whole, name).get_state(), getattr(resumed, name).get_state())
    for ours, theirs in zip(after, history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


@pytest.mark.gpu
def test_a_wait_in_a_captured_step_falls_back_to_eager_steps():
    device = torch.device("cuda")
    total, draws = torch.zeros((), device=device), torch.Generator(device).manual_seed(1)
    twin = torch.Generator(device).manual_seed(1)
    captured, texts = Captured(device, [draws]), []

    def step():
        total.add_(torch.rand((), generator=draws, device=device).item())

    for _ in range(6):
        captured(step, note=texts.append)
    assert len(texts) == 1 and not captured.used
    expected = sum(torch.rand((), generator=twin, device=device) for _ in range(6))
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.gpu
def test_the_memory_of_dropped_graphs_is_free_again():
    device = torch.device("cuda")
    x = torch.zeros((), device=device)
    captured = Captured(device, [])
    before = torch.cuda.memory_reserved(device)
    for _ in range(5):
        captured(lambda: x.add_(torch.ones(2**26, device=device).sum()))
    assert captured.used and x == 5 * 2**26
    captured.forget()
    assert torch.cuda.memory_reserved(device) <= before
