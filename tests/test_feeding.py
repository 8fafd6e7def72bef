"""Batches on their way to the device: all of them, in order, ahead of time; closed at the end."""

import numpy as np
import pytest
import torch

from img2img.data.loading import Batch
from img2img.engine.feeding import AHEAD, IN_FLIGHT, keep_ahead, on_device

CPU = torch.device("cpu")


def batch(number):
    return Batch(
        torch.full((1, 3, 4, 4), float(number)),
        torch.full((1, 3, 4, 4), -float(number)),
        ((f"{number}.png", "broken"),),
        pairs=number + 1,
        share=0.5,
    )


class Loader:
    """Batches that say what was asked for, and whether they were closed."""

    def __init__(self, count, fails_at=None):
        self.count, self.asked, self.closed = count, 0, False
        self.fails_at = fails_at

    def __iter__(self):
        return self

    def __next__(self):
        if self.asked == self.fails_at:
            raise OSError("no more")
        if self.asked == self.count:
            raise StopIteration
        self.asked += 1
        return batch(self.asked - 1)

    def close(self):
        self.closed = True


class Log:
    """A copier that copies nothing, and writes down what it was asked."""

    def __init__(self):
        self.done = []

    def send(self, batch):
        self.done.append(f"send {int(batch.source.mean())}")
        return batch

    def receive(self):
        self.done.append("receive")

    def launched(self):
        self.done.append("launched")


def numbers(batches):
    return [int(b.source.mean()) for b in batches]


def test_nothing_is_lost_on_the_cpu():
    found = list(on_device(Loader(5), CPU))
    assert numbers(found) == list(range(5))
    for number, one in enumerate(found):
        expected = batch(number)
        assert torch.equal(one.target, expected.target)
        assert (one.skipped, one.pairs, one.share) == (expected.skipped, number + 1, 0.5)


def test_on_the_cpu_nothing_is_asked_for_early():
    loader = Loader(9)
    feeding = on_device(loader, CPU)
    for number in range(4):
        next(feeding)
        assert loader.asked == number + 1


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_whoever_stops_early_closes_the_loader(taken):
    loader = Loader(9)
    feeding = on_device(loader, CPU)
    for _ in range(taken):
        next(feeding)
    feeding.close()
    # A generator that never began has nothing to end; nor has a loader that nobody asked.
    assert loader.closed == (taken > 0)


def test_an_end_and_an_error_close_it_too():
    loader = Loader(2)
    list(on_device(loader, CPU))
    assert loader.closed
    loader = Loader(9, fails_at=2)
    with pytest.raises(OSError, match="no more"):
        list(on_device(loader, CPU))
    assert loader.closed


def test_a_plain_list_will_do():
    assert numbers(on_device([batch(3), batch(1)], CPU)) == [3, 1]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
def test_ahead_is_all_of_it_in_order(count):
    log = Log()
    assert numbers(keep_ahead(iter(Loader(count)), log)) == list(range(count))
    sent = [line for line in log.done if line.startswith("send")]
    assert sent == [f"send {number}" for number in range(count)]
    assert log.done.count("receive") == log.done.count("launched") == count


def test_the_next_ones_are_copied_after_a_step_was_launched():
    loader, log = Loader(9), Log()
    ahead = keep_ahead(loader, log)
    first = next(ahead)
    # The first step waits for nothing but its own batch.
    assert numbers([first]) == [0]
    assert log.done == ["send 0", "receive"]
    next(ahead)
    assert log.done[2:] == ["launched", "send 1", "send 2", "receive"]
    next(ahead)
    assert log.done[6:] == ["launched", "send 3", "receive"]
    assert loader.asked == 2 + AHEAD


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_every_step_sees_its_own_batch():
    device = torch.device("cuda")
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.random((2, 1, 3, 512, 512), np.float32)) for _ in range(40)]

    def pinned():
        for number, (source, target) in enumerate(images):
            # Memory of earlier ones is taken again at once, so that a copy that is read too early
            # or too late shows.
            yield Batch(source.pin_memory(), target.pin_memory(), pairs=number)

    weight = torch.ones(4096, 4096, device=device)
    sums = []
    for number, one in enumerate(on_device(pinned(), device)):
        assert one.source.device.type == "cuda"
        assert one.pairs == number
        busy = weight
        for _ in range(3):
            # The device falls behind the host, as it does in training.
            busy = busy @ weight * 1e-4
        sums.append(torch.stack([one.source.double().sum(), one.target.double().sum()]))
        del one
    for (source, target), found in zip(images, torch.stack(sums).cpu().tolist(), strict=True):
        assert found == pytest.approx([source.double().sum().item(), target.double().sum().item()])


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_the_host_runs_ahead_by_a_few_steps():
    from img2img.engine.feeding import CudaCopier

    copier = CudaCopier(torch.device("cuda"))
    weight = torch.ones(8192, 8192, device="cuda")
    events = []
    for step in range(3 * IN_FLIGHT):
        weight @ weight
        events.append(torch.cuda.Event())
        events[-1].record()
        copier.launched()
        if step >= IN_FLIGHT:
            assert events[step - IN_FLIGHT].query()
