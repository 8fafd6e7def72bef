"""What the loop does beside each step: few operations, and the same numbers as one by one."""

import random
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import fake_graphs
from torch.utils._python_dispatch import TorchDispatchMode

from img2img.engine.capture import Recording, make_capturable
from img2img.engine.finite import FirstBad
from img2img.engine.losses import StepLosses
from img2img.engine.optimizers import set_rate
from img2img.engine.state import LossWindow, TrainState
from img2img.engine.stepping import Stepper
from img2img.errors import Img2ImgError

CPU = torch.device("cpu")
# What only looks at the same memory in another way starts nothing on a device.
VIEWS = ("select", "unbind", "view", "slice", "detach", "alias")


class Started(TorchDispatchMode):
    """Names of the operations that were started inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def losses(**values):
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    return StepLosses.of(tensors, CPU)


# Losses as one vector


def test_losses_by_name():
    one = losses(l1=0.5, d_real=2.0)
    assert list(one) == ["l1", "d_real"] and len(one) == 2
    assert one["d_real"].item() == 2.0 and one["d_real"].shape == ()
    assert {name: value.item() for name, value in one.items()} == {"l1": 0.5, "d_real": 2.0}
    with pytest.raises(KeyError, match="l2"):
        one["l2"]
    assert not losses()


def test_losses_of_any_type_lose_their_gradient():
    weight = torch.ones(1, requires_grad=True)
    found = StepLosses.of({"a": weight * 0.5, "b": torch.tensor(2.0, dtype=torch.bfloat16)}, CPU)
    assert found.vector.tolist() == [0.5, 2.0]
    assert found.vector.dtype == torch.float32 and not found.vector.requires_grad
    assert StepLosses.of({"a": torch.ones(()).double()}, CPU).vector.dtype == torch.float32


def test_a_loss_that_is_no_single_number_is_said():
    method = SimpleNamespace(networks={}, step=lambda *batch: {"l1": torch.zeros(2, 3)})
    with pytest.raises(
        Img2ImgError, match=r"a single number for each loss, and 'l1' is .*\(2, 3\)"
    ):
        Stepper(method, CPU)(torch.zeros(1), torch.zeros(1), 1)


def test_noting_a_step_starts_one_operation_for_the_window_and_one_for_the_guard():
    window, noted = LossWindow(), FirstBad(CPU)
    for step in (1, 2):
        one = losses(a=1.0, b=2.0, c=3.0, d=4.0)
        with Started() as started:
            window.add(one, 0.5)
            noted.note(one, step)
    assert started.names == ["add_", "copy_"]


def test_a_replay_copies_the_batch_and_leaves_the_losses_ready(monkeypatch):
    """What is recorded includes the stacking: the stand-in for a graph repeats what it saw."""
    graph = SimpleNamespace(replay=lambda: None)
    inside = Started()
    streams = fake_graphs(monkeypatch, graph, inside)

    def step(source, target):
        return {"l1": (source - target).abs().mean(), "l2": (source - target).square().mean()}

    method = SimpleNamespace(networks={}, step=step)
    source, target = torch.rand(2, 1, 3, 4, 4)
    recording, reason = Recording.of(method, source, target, streams.own)
    assert reason is None and inside.names[-1] == "stack"
    with Started() as started:
        found = recording.replay(source + 1, target)
    assert started.names == ["add", "copy_", "copy_"]  # the first is this test's own
    assert found.names == ("l1", "l2")
    assert recording.replay(source, target).vector is found.vector


# Sums


class OneByOne:
    """Sums as they are defined: each loss for itself, in float32, in the order of the steps."""

    def __init__(self):
        self.sums, self.steps = {}, 0

    def add(self, losses, share):
        for name, value in losses.items():
            if name in self.sums:
                self.sums[name].add_(value, alpha=share)
            else:
                self.sums[name] = value.float() * share
        self.steps += 1

    def means(self):
        return {name: total.item() / self.steps for name, total in self.sums.items()}


@pytest.mark.parametrize("others", [False, True], ids=["the same losses", "others at times"])
def test_sums_are_those_of_each_loss_to_the_last_bit(others):
    rng = random.Random(0)
    window, reference = LossWindow(), OneByOne()
    for step in range(300):
        names = ["d_real", "d_fake", "adversarial", "l1"]
        if others:
            names = rng.sample([*names, "penalty"], rng.randrange(6))
        values = losses(**{name: rng.uniform(0, 100) for name in names})
        share = rng.choice((1.0, 1.0, 4 / 3, 0.0))
        window.add(values, share)
        reference.add(values, share)
        if step % 70 == 40:  # saved, and gone on from
            saved = {name: total.clone() for name, total in window.sums.items()}
            window = LossWindow(saved, window.steps)
        assert list(window.sums) == list(reference.sums)
        assert {name: total.item() for name, total in window.sums.items()} == {
            name: total.item() for name, total in reference.sums.items()
        }
    assert window.means() == reference.means()
    assert (window.sums, window.steps, window.means()) == ({}, 0, {})


def test_a_window_is_not_the_vector_of_its_first_step():
    """A replay writes the next losses over it."""
    window, one = LossWindow(), losses(a=1.0)
    window.add(one)
    one.vector.fill_(5.0)
    window.add(one)
    assert window.means() == {"a": 3.0}


# Learning rates


@pytest.fixture
def rates():
    """A state whose optimizer has two groups with their rates on the device."""
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    groups = [{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 0.2}]
    optimizer = torch.optim.Adam(groups, fused=True)
    state = TrainState(SimpleNamespace(networks={}, optimizers={"net": optimizer}))
    assert make_capturable([optimizer], CPU) is None
    return state, optimizer.param_groups


def test_rates_on_the_device_are_filled_only_where_they_change(rates):
    state, groups = rates
    started = []
    for factor in (1.0, 1.0, 0.5, 0.5):
        with Started() as inside:
            state.scale_rates(factor)
        started.append(inside.names)
        assert [group["lr"].item() for group in groups] == pytest.approx(
            [0.1 * factor, 0.2 * factor]
        )
    assert started == [["fill_", "fill_"], [], ["fill_", "fill_"], []]


@pytest.mark.parametrize(
    "change",
    [
        lambda group: group["lr"].mul_(3),
        lambda group: set_rate(group, 7.0),
        lambda group: group.update(lr=torch.tensor(0.0).fill_(9.0)),  # of the same version
        lambda group: group.update(lr=9.0),
    ],
    ids=["in place", "set", "another tensor", "a number"],
)
def test_whatever_others_make_of_a_rate_the_schedule_s_comes_back(rates, change):
    state, groups = rates
    state.scale_rates(1.0)
    change(groups[1])
    state.scale_rates(1.0)
    assert [float(group["lr"]) for group in groups] == pytest.approx([0.1, 0.2])


def test_other_base_rates_are_taken_over(rates):
    """As those of a checkpoint are."""
    state, groups = rates
    state.scale_rates(1.0)
    state.base_rates = {"net": [0.3, 0.2]}
    with Started() as started:
        state.scale_rates(1.0)
    assert started.names == ["fill_"]
    assert [group["lr"].item() for group in groups] == pytest.approx([0.3, 0.2])
