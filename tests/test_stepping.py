"""A step in the quickest way: what may be recorded, what goes on as it is, and the same result."""

import contextlib
import itertools
import json
import random
import subprocess
import sys
import warnings
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_cuda import fake_graphs
from torch import nn

from img2img.discriminators import PatchGAN16
from img2img.engine import stepping
from img2img.engine.capture import Recording, make_capturable
from img2img.engine.optimizers import load_optimizer, plain_groups, set_rate
from img2img.engine.precision import set_precision
from img2img.engine.stepping import EAGER_STEPS, Stepper
from img2img.engine.watching import StillValues
from img2img.errors import Img2ImgError
from img2img.generators import UNet
from img2img.layers import FEW_PIXELS, ConvTranspose2d
from img2img.losses import L1, Adversarial
from img2img.methods import Pix2Pix, WeightedLoss

CPU = torch.device("cpu")
GPU = pytest.mark.gpu


def pix2pix(device=CPU, *, precision="float32", dropout=0.0, extra=()):
    torch.manual_seed(0)

    def generator(inside, outside):
        network = UNet(inside, outside, image_size=32, width=8, dropout=dropout)
        return set_precision(network.to(device), precision)

    def discriminator(inside):
        return set_precision(PatchGAN16(inside, width=8).to(device), precision)

    losses = [WeightedLoss("adversarial", 1.0, Adversarial()), WeightedLoss("l1", 100.0, L1())]
    return Pix2Pix(generator, discriminator, [*losses, *extra], 3, 3, True)


def pairs(count, batch=2, device=CPU):
    noise = torch.Generator().manual_seed(1)
    shape = (count, 2, batch, 3, 32, 32)
    return list((torch.rand(shape, generator=noise) * 2 - 1).to(device))


class Linear:
    """A method with one weight; what `each_step` does is what a test is about."""

    def __init__(self, each_step=lambda method: None):
        # First, so that equal numbers in what comes later are looked at before them.
        self.count, self.history, self.part = 0, [], nn.Module()
        self.part.seen = 0
        self.generator = nn.Conv2d(3, 3, 1)
        self.networks = {"generator": self.generator}
        self.optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=0.1, fused=True)
        }
        self.each_step = each_step

    def step(self, source, target):
        self.each_step(self)
        loss = (self.generator(source) - target).abs().mean()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"l1": loss.detach()}


def changed(method, device=CPU):
    source, target = pairs(1)[0]
    for _ in range(EAGER_STEPS - 1):
        method.step(source, target)
    with StillValues(method, device) as still:
        method.step(source, target)
    return still.changed


def count(method):
    method.count += 1


def count_in_part(method):
    method.part.seen += 1


def remember(method):
    method.history.append(0.5)


def keep(**parts):
    """A method that has these attributes."""

    def make(each_step):
        method = Linear(each_step)
        vars(method).update(parts)
        return method

    return make


def decay(method):
    method.optimizers["generator"].param_groups[0]["betas"] = (0.5, 1 - 1 / (2 + method.count))


@pytest.mark.parametrize(
    ("each_step", "said"),
    [
        (count, "keeps count in Python (Linear.count"),
        (count_in_part, "keeps count in Python (Linear.part.seen"),
        (remember, "keeps count in Python (Linear.history"),
        (lambda method: (count(method), decay(method)), "keeps count in Python"),
        (lambda method: random.random(), "random numbers on the host"),
        (lambda method: np.random.rand(), "random numbers on the host"),
        (lambda method: torch.rand(1), "random numbers on the host"),
    ],
)
def test_what_a_recording_would_freeze_is_found(each_step, said):
    assert said in changed(Linear(each_step))


def test_a_watched_step_s_own_warnings_are_passed_on():
    method = Linear(lambda method: warnings.warn("mind this", UserWarning, stacklevel=1))
    method.step(*pairs(1)[0])
    with pytest.warns(UserWarning, match="mind this") as told:
        with StillValues(method, CPU):
            method.step(*pairs(1)[0])
        assert [Path(warning.filename).name for warning in told] == [Path(__file__).name]


def average(method):
    method.average = method.average * 0.9 + 0.1


def average_in_place(method):
    method.average.mul_(0.9).add_(0.1)


def average_in_list(method):
    method.history[:] = [method.average + 1]


def momentum(method):
    for values in method.optimizers["generator"].state.values():
        values["exp_avg"] = values["exp_avg"].clone()


def normalised(method):
    """As torch.nn.utils.spectral_norm leaves a weight: computed from parameters in each step."""
    method.part.weight = method.generator.weight * 2


@pytest.mark.parametrize(
    ("each_step", "said"),
    [
        (average, "(Linear.average; change it in place)"),
        (average_in_list, "(Linear.history[0]; change it in place)"),
        (momentum, "(Linear.optimizers['generator'].state[1]['exp_avg']; change it in place)"),
        (average_in_place, None),
        (normalised, None),
    ],
)
def test_a_tensor_that_each_step_makes_anew_is_found(each_step, said):
    """A replay would make it from that of the recording, whose memory may be another's by then."""
    method = Linear(each_step)
    method.average = torch.zeros(2)
    found = changed(method)
    if said is None:
        assert found is None
    else:
        assert found == f"keeps a tensor that each step makes anew {said}"


def schedule(method):
    method.part = torch.optim.lr_scheduler.StepLR(method.optimizers["generator"], 1)
    return method


@pytest.mark.parametrize(
    ("part", "use"),
    [
        (np.random.default_rng(0), lambda part: part.random()),
        (random.Random(0), lambda part: part.random()),
        (torch.Generator(), lambda part: torch.rand(1, generator=part)),
        (np.zeros(3), lambda part: part.__setitem__(0, part[0] + 1)),
        (deque([1.0], maxlen=4), lambda part: part.append(2.0)),
        ({0}, lambda part: part.add(len(part))),
        (itertools.count(), next),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parts_that_change_are_found(part, use):
    assert changed(keep(part=part)(lambda method: None)) is None
    assert "Linear.part" in changed(keep(part=part)(lambda method: use(method.part)))


def test_a_schedule_within_the_step_is_found():
    method = schedule(Linear(lambda method: method.part.step()))
    assert "keeps count in Python" in changed(method)


def test_tensors_of_the_host_are_looked_at_where_training_is_elsewhere():
    method = Linear(lambda method: method.tick.add_(1))
    method.tick = torch.zeros(1)
    assert changed(method) is None
    # To a step on a GPU everything of this one is the host's; the first that moved is named.
    assert "keeps count in Python" in changed(method, torch.device("cuda"))


def test_the_papers_step_can_be_recorded():
    assert changed(Linear()) is None
    assert changed(pix2pix()) is None


def test_warnings_of_the_step_are_passed_on():
    method = Linear(lambda method: warnings.warn("look out", UserWarning, stacklevel=2))
    with pytest.warns(UserWarning, match="look out"):
        assert changed(method) is None


class FakeStream:
    device = CPU

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


class FakeRecording:
    """Steps as a recording does, and counts."""

    replays = recorded = restored = 0
    closed = False
    room = True
    reason = None

    def __init__(self, method, source):
        self.method, self.shape = method, source.shape

    @classmethod
    def of(cls, method, source, target, stream):
        if cls.reason:
            return None, cls.reason
        cls.recorded += 1
        return cls(method, source), None

    def leaves_room(self, source, target):
        return self.room

    def restore_gradients(self):
        type(self).restored += 1

    def close(self):
        type(self).closed = True

    def fits(self, source, target):
        return source.shape == self.shape

    def replay(self, source, target):
        type(self).replays += 1
        return self.method.step(source, target)


@pytest.fixture
def recordings(monkeypatch):
    """Stepper as on a GPU, with the GPU's part replaced."""

    class Recordings(FakeRecording):
        pass

    monkeypatch.setattr(stepping, "Recording", Recordings)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(
        stepping, "make_capturable", lambda optimizers, device: make_capturable(optimizers, CPU)
    )
    return Recordings


def test_steps_are_replayed_after_a_few(recordings):
    step = Stepper(Linear(), torch.device("cuda"))
    batches = pairs(EAGER_STEPS + 4)
    for number, (source, target) in enumerate(batches, 1):
        assert step.captured == (number > EAGER_STEPS)
        step(source, target, number)
    assert recordings.replays == 4
    with pytest.warns(RuntimeWarning, match="step 99 has another number of pairs"):
        step(source[:1], target[:1], 99)  # an odd last batch
    assert recordings.replays == 4
    step(source, target, 100)
    assert recordings.replays == 5
    step(source, target, 101, alike=False)  # said once
    assert recordings.replays == 5 and not recordings.closed
    step.close()
    assert recordings.closed and not step.captured


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("room", [True, False])
def test_an_odd_step_takes_the_recording_s_memory_only_where_it_must(recordings, room, alike):
    """Then the next whole step is eager, and what comes after it is replayed again."""
    recordings.room = room
    step = Stepper(Linear(), torch.device("cuda"))
    whole = pairs(EAGER_STEPS + 1)
    source, target = whole[0]
    captured, replays = [], []
    with pytest.warns(RuntimeWarning, match="has another number of pairs") as told:
        for number, (source, target) in enumerate(whole, 1):
            step(source, target, number)
        for _ in range(2):  # epochs
            step(source[:1], target[:1], 5, alike=alike)
            for _ in range(3):
                captured.append(step.captured)
                replays.append(recordings.replays)
                step(source, target, 6)
    assert len(told) == 1
    assert captured == ([True] * 6 if room else [False, True, True] * 2)
    assert replays == ([1, 2, 3, 4, 5, 6] if room else [1, 1, 2, 3, 3, 4])
    assert recordings.recorded == (1 if room else 3)
    assert (recordings.closed, recordings.restored) == (not room, 2 if room else 0)


@pytest.fixture
def memory(monkeypatch):
    """A device's, in bytes that a test sets."""
    bytes_ = SimpleNamespace(free=0, reserved=0, allocated=0)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: bytes_.reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: bytes_.allocated)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (bytes_.free, 1000))
    return bytes_


def recorded_with(monkeypatch, memory, took, batch=2):
    """A recording that takes so many bytes, 30 of them in use after it; before it 50 are."""
    streams = fake_graphs(monkeypatch, SimpleNamespace(reset=lambda: None))

    def take(method):
        memory.reserved, memory.allocated = 50 + took, 50 + 30

    memory.reserved = memory.allocated = 50
    recording, _ = Recording.of(Linear(take), *pairs(1, batch)[0], streams.own)
    return recording


@pytest.mark.parametrize(
    ("free", "reserved", "allocated", "room"),
    [
        (100, 150, 80, True),  # its 100 bytes are all free
        (99, 150, 80, False),
        (60, 190, 80, True),  # 40 more were reserved since, and lie idle
        (60, 190, 81, False),
        (0, 150, 0, False),  # what is idle in the recording's own is none that others can use
    ],
)
def test_a_recording_knows_whether_it_leaves_room(
    monkeypatch, memory, free, reserved, allocated, room
):
    """For a step like it, which takes 100 bytes as well."""
    recording = recorded_with(monkeypatch, memory, 100)
    memory.free, memory.reserved, memory.allocated = free, reserved, allocated
    assert recording.leaves_room(*pairs(1)[0]) is room


@pytest.mark.parametrize(
    ("took", "batch", "needed"),
    [
        (1000, 1, 96 + 226),
        (1000, 3, 96 + 678),
        (1000, 4, 1000),
        (1000, 8, 96 + 1808),
        (60, 1, 60),  # never more than it took with more pairs
    ],
)
def test_a_smaller_batch_needs_less_room(monkeypatch, memory, took, batch, needed):
    """Of what a step of four took, twice the 48 bytes of its 12 weights are there for any batch."""
    recording = recorded_with(monkeypatch, memory, took, batch=4)
    odd = pairs(1, batch)[0]
    memory.free = needed
    assert recording.leaves_room(*odd)
    memory.free = needed - 1
    assert not recording.leaves_room(*odd)


def test_a_recording_that_is_not_made_anew_is_told_once(recordings):
    """As where memory is used up by then; the first one was made, so it says what changed."""
    recordings.room = False
    step = Stepper(Linear(), torch.device("cuda"))
    (source, target), *_ = pairs(1)
    with pytest.warns(RuntimeWarning) as told:
        for number in range(1, 12):
            if number == EAGER_STEPS + 2:
                step(source[:1], target[:1], number)
                recordings.reason = "cannot be recorded (OutOfMemoryError: CUDA out of memory)"
            step(source, target, number)
    said = [str(warning.message) for warning in told if "pairs than" not in str(warning.message)]
    assert not step.captured and len(said) == 1
    assert said[0].startswith("steps are no longer replayed from a CUDA graph")
    assert said[0].endswith("and by now Linear " + recordings.reason)


def test_gradients_are_those_that_a_replay_fills(monkeypatch):
    """Those of an odd step would be kept beside them for nothing."""
    reset = []
    graph = SimpleNamespace(reset=lambda: reset.append(1))
    streams = fake_graphs(monkeypatch, graph)
    method, (first, second) = Linear(), pairs(2)
    recording, _ = Recording.of(method, *first, streams.own)
    parameters = list(method.generator.parameters())
    filled = [parameter.grad for parameter in parameters]
    assert all(gradient is not None for gradient in filled)
    method.step(*second)
    assert not any(p.grad is gradient for p, gradient in zip(parameters, filled, strict=True))
    recording.restore_gradients()
    assert all(p.grad is gradient for p, gradient in zip(parameters, filled, strict=True))
    recording.close()
    assert reset and all(parameter.grad is None for parameter in parameters)


def test_a_recording_that_fails_leaves_no_trace(monkeypatch):
    """Not even of a step that breaks off while the discriminator is held still."""
    streams = fake_graphs(monkeypatch, None)
    first, second = pairs(2)
    calls = []

    class Once(nn.Module):
        def forward(self, output, target):
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("cannot be captured\nand so on")
            return (output - target).square().mean()

    method = pix2pix(extra=[WeightedLoss("once", 1.0, Once())])
    method.step(*first)
    recording, reason = Recording.of(method, *second, streams.own)
    assert (recording, reason) == (None, "cannot be recorded (RuntimeError: cannot be captured)")
    parameters = [p for network in method.networks.values() for p in network.parameters()]
    assert all(p.requires_grad and p.grad is None for p in parameters)
    # torch may have left that of the recording as the current one.
    assert streams.set == [streams.current]
    method.step(*second)


@pytest.mark.parametrize("cleaned_up", [False, True], ids=["torch 2.12", "torch 2.13"])
def test_memory_of_a_recording_that_fails_is_given_back(monkeypatch, cleaned_up):
    """Its pool counts as used until it is released; where torch has done so, not twice."""
    streams = fake_graphs(monkeypatch, None)
    done = []

    def end(device, pool):
        done.append(("end", device, pool))
        if cleaned_up:
            raise RuntimeError("not recording to this pool")

    def release(device, pool):
        done.append(("release", device, pool))

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", release, raising=False)
    recording, _ = Recording.of(Linear(lambda method: 1 / 0), *pairs(1)[0], streams.own)
    assert recording is None
    both = [("end", 0, (0, 1)), ("release", 0, (0, 1))]
    assert done == (both[:1] if cleaned_up else both)


@pytest.mark.parametrize(
    ("method", "reason", "said"),
    [
        (lambda: Linear(count), None, "Linear keeps count in Python"),
        (Linear, "cannot be recorded (RuntimeError: no)", "Linear cannot be recorded"),
        (lambda: with_sgd(Linear()), None, "SGD, which cannot be recorded"),
    ],
)
def test_what_cannot_be_recorded_goes_on_and_is_told_once(recordings, method, reason, said):
    recordings.reason = reason
    method, reference = method(), method()
    reference.generator.load_state_dict(method.generator.state_dict())
    with pytest.warns(RuntimeWarning, match=said.replace("(", r"\(")) as told:
        step = Stepper(method, torch.device("cuda"))
        for number, (source, target) in enumerate(pairs(EAGER_STEPS + 3), 1):
            assert not step.captured
            step(source, target, number)
            reference.step(source, target)
    assert len(told) == 1 and recordings.replays == 0
    for mine, theirs in zip(
        method.generator.parameters(), reference.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def with_sgd(method):
    method.optimizers = {"generator": torch.optim.SGD(method.generator.parameters(), lr=0.1)}
    return method


def test_nothing_is_recorded_unasked(recordings):
    step = Stepper(Linear(), torch.device("cuda"), capture=False)
    for number, (source, target) in enumerate(pairs(EAGER_STEPS + 2), 1):
        step(source, target, number)
    assert recordings.replays == 0


def test_a_failing_step_is_told_with_its_number():
    method = Linear(lambda method: 1 / 0)
    with pytest.raises(Img2ImgError, match="Linear failed in step 7: ZeroDivisionError"):
        Stepper(method, CPU)(*pairs(1)[0], 7)


def test_rates_on_the_device_follow_the_schedule_and_are_saved_as_numbers():
    method = Linear()
    source, target = pairs(1)[0]
    method.step(source, target)
    optimizer = method.optimizers["generator"]
    assert make_capturable([optimizer], CPU) is None
    kept = optimizer.param_groups[0]["lr"]
    set_rate(optimizer.param_groups[0], 0.025)
    assert optimizer.param_groups[0]["lr"] is kept and kept.item() == pytest.approx(0.025)
    (group,) = plain_groups(optimizer)
    assert group["lr"] == pytest.approx(0.025) and "capturable" not in group
    other = Linear().optimizers["generator"]
    load_optimizer(other, optimizer.state_dict()["state"], [group])
    assert other.param_groups[0]["lr"] == group["lr"]
    assert other.param_groups[0]["capturable"] is False


def test_moments_are_loaded_in_the_order_of_the_weights():
    layer = nn.Conv2d(3, 5, 4).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    layer(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    twin = nn.Conv2d(3, 5, 4)
    twin.load_state_dict(layer.state_dict())
    twin.to(memory_format=torch.channels_last)
    resumed = torch.optim.Adam(twin.parameters(), fused=True)
    state = {
        index: {
            key: value.clone(memory_format=torch.contiguous_format) for key, value in values.items()
        }
        for index, values in optimizer.state_dict()["state"].items()
    }
    load_optimizer(resumed, state, plain_groups(optimizer))
    for network, steps in ((layer, optimizer), (twin, resumed)):
        network.zero_grad()
        network(torch.arange(192.0).view(1, 3, 8, 8)).square().sum().backward()
        steps.step()
    assert torch.equal(layer.weight, twin.weight)
    assert resumed.state[twin.weight]["exp_avg"].stride() == twin.weight.stride()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"), [(4, 2, 1, False), (4, 2, 1, True), (3, 1, 0, True)]
)
def test_small_maps_in_bfloat16_are_the_same_transposed_convolution(kernel, stride, padding, bias):
    torch.manual_seed(0)
    ours = ConvTranspose2d(24, 10, kernel, stride, padding, bias=bias)
    plain = nn.ConvTranspose2d(24, 10, kernel, stride, padding, bias=bias)
    plain.load_state_dict(ours.state_dict())
    exact = nn.ConvTranspose2d(24, 10, kernel, stride, padding, bias=bias).double()
    exact.load_state_dict(ours.state_dict())
    images = torch.randn(2, 24, 5, 3)

    def run(layer, images, *, bfloat16):
        images = images.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output = layer(images)
        output.float().square().sum().backward()
        return [output, images.grad, *(p.grad for p in layer.parameters())]

    truth = run(exact, images.double(), bfloat16=False)
    for mine, usual, right in zip(
        run(ours, images, bfloat16=True), run(plain, images, bfloat16=True), truth, strict=True
    ):
        assert mine.shape == right.shape
        error, theirs = ((it - right).norm() / right.norm() for it in (mine, usual))
        assert 0 < error < 2 * theirs  # bfloat16's rounding, and no more
    # In float32 it is torch's own, to the last bit.
    for mine, usual in zip(
        run(ours, images, bfloat16=False), run(plain, images, bfloat16=False), strict=True
    ):
        assert torch.equal(mine, usual)


def test_only_small_maps_in_training_are_products_of_matrices(monkeypatch):
    folded = []
    fold = nn.functional.fold
    monkeypatch.setattr(
        "img2img.layers.F.fold", lambda *args, **kw: folded.append(1) or fold(*args, **kw)
    )
    layer = ConvTranspose2d(4, 4, 4, 2, 1)
    small, large = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 1, FEW_PIXELS + 1)
    with torch.autocast("cpu", torch.bfloat16):
        layer(large)
        with torch.no_grad():
            layer(small)
        assert not folded
        layer(small)
        assert folded


FAULTS = """
import json, resource, torch
from img2img.engine.memory import keeping_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)  # 64 MiB, above what glibc may keep: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = {}
for name in ("meta", "cpu"):
    with keeping_freed_memory(torch.device(name)):
        for _ in range(5):
            faults()  # at first they are new, in one place of the heap after the other
        found[name] = faults()
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_of_a_step_is_used_again():
    # In a process of its own, because what others took and gave back stays in the way.
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert found["meta"] > 50_000
    assert found["cpu"] < 20_000


def test_compiled_networks_train_as_plain_ones(monkeypatch):
    compile = nn.Module.compile
    # The same tracing, without waiting for a C++ compiler.
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: compile(self, backend="aot_eager", **options)
    )
    methods = pix2pix(), pix2pix()
    steps = [Stepper(methods[0], CPU), Stepper(methods[1], CPU, compile=True)]
    for number, (source, target) in enumerate(pairs(3), 1):
        plain, compiled = (step(source, target, number) for step in steps)
        for name, value in plain.items():
            torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)


@GPU
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("precision", "room"), [("float32", True), ("bfloat16", True), ("float32", False)]
)
def test_recorded_steps_train_as_eager_ones(monkeypatch, precision, room):
    """Without room they are recorded twice, the second time after the odd batch."""
    monkeypatch.setattr(Recording, "leaves_room", lambda *_: room)
    device = torch.device("cuda")
    methods = [pix2pix(device, precision=precision) for _ in range(2)]
    steps = [
        Stepper(method, device, capture=capture)
        for method, capture in zip(methods, (0, 1), strict=True)
    ]
    batches = [*pairs(6, device=device), *pairs(1, 1, device), *pairs(6, device=device)]
    tolerance = 1e-3 if precision == "float32" else 2e-2
    for number, (source, target) in enumerate(batches, 1):
        for method in methods:  # a schedule
            for optimizer in method.optimizers.values():
                set_rate(optimizer.param_groups[0], 2e-4 / number)
        eager, recorded = (
            {name: value.item() for name, value in step(source, target, number).items()}
            for step in steps
        )
        assert recorded == pytest.approx(eager, rel=tolerance, abs=tolerance)
    assert [step.captured for step in steps] == [False, True]
    for mine, theirs in zip(*(m.generator.parameters() for m in methods), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=1e-3)


@GPU
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_that_waits_for_the_gpu_is_not_recorded():
    device = torch.device("cuda")
    method = Linear(lambda method: method.generator.weight.sum().item())
    method.generator.to(device)
    with pytest.warns(RuntimeWarning, match="waits for the device"):
        step = Stepper(method, device)
        for number, (source, target) in enumerate(pairs(5, device=device), 1):
            step(source, target, number)
    assert not step.captured


@GPU
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_noise_of_recorded_steps_is_fresh():
    device = torch.device("cuda")
    method = pix2pix(device, dropout=0.5)
    source, target = pairs(1, device=device)[0]
    for optimizer in method.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    step = Stepper(method, device)
    seen = [step(source, target, number)["l1"].item() for number in range(1, 9)]
    assert step.captured and len(set(seen)) == len(seen)
    assert Recording  # the real one


def memory_pools():
    """Those that hold memory of the device; each recording has one of its own."""
    return {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}


@GPU
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_goes_on_after_a_recording_that_cuda_ended():
    """With noise, and tensors that two streams used, whose memory must come back."""
    device = torch.device("cuda")

    class Ended(nn.Module):
        """Waits for the device where nobody may, which the eager steps before do not show."""

        def forward(self, output, target):
            if torch.cuda.is_current_stream_capturing():
                torch.cuda.synchronize()
            return (output - target).square().mean()

    method = pix2pix(device, dropout=0.5, extra=[WeightedLoss("ended", 1.0, Ended())])
    with pytest.warns(RuntimeWarning, match="cannot be recorded"):
        step = Stepper(method, device)
        before = torch.cuda.current_stream(device)
        held, pools = [], memory_pools()
        for number, (source, target) in enumerate(pairs(60, device=device), 1):
            side = torch.cuda.Stream(device)
            copied = source.clone()
            copied.record_stream(side)
            step(copied, target, number)
            del copied
            torch.cuda.synchronize(device)
            # What a stream may still use counts as active, though nobody has it allocated.
            held.append(torch.cuda.memory_stats(device)["active_bytes.all.current"])
    assert not step.captured
    assert torch.cuda.current_stream(device) == before
    assert max(held[-10:]) <= max(held[10:20])
    torch.cuda.empty_cache()
    assert memory_pools() <= pools
