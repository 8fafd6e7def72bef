"""Weights are read once, and fetched from servers that may stall; no device needs float64."""

import os
import socket
import threading

import pytest
import torch
import torchvision
from torch import Tensor, nn

from img2img.errors import MetricError
from img2img.metrics import (
    FID,
    KID,
    L1,
    LPIPS,
    MSSSIM,
    PSNR,
    SSIM,
    Accuracy,
    FCNScore,
    LabHistogram,
    inception,
    weights,
)


class OnMps(torch.Tensor):
    """A tensor of a device without float64, as far as its type goes; `cpu()` brings it home."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].as_subclass(Tensor)
        result = super().__torch_function__(function, types, args, kwargs or {})
        if isinstance(result, OnMps) and result.dtype == torch.float64:
            raise TypeError("MPS has no float64")
        return result


class Colours(nn.Module):
    """Mean colours."""

    num_features = 3

    def forward(self, images):
        return images.float().mean((2, 3))


@pytest.mark.parametrize(
    "make",
    [L1, PSNR, SSIM, MSSSIM, LabHistogram, lambda: FID(least=4), KID],
    ids=["l1", "psnr", "ssim", "ms-ssim", "lab-histogram", "fid", "kid"],
)
def test_images_on_a_device_without_float64(make, monkeypatch):
    monkeypatch.setattr(inception, "load_inception", lambda weights, features: Colours())
    torch.manual_seed(0)
    images = torch.rand(2, 5, 3, 176, 176)
    here, there = make(), make()
    expected = here.update(*images)
    found = there.update(*(part.as_subclass(OnMps) for part in images))
    for score, values in expected.items():
        assert values.tolist() == pytest.approx(found[score].tolist())
    assert there.compute() == pytest.approx(here.compute())


@pytest.mark.parametrize("make", [Accuracy, lambda: FCNScore(3)])
def test_classes_on_a_device_without_float64(make):
    classes = torch.randint(0, 3, (2, 4, 9, 7), generator=torch.Generator().manual_seed(0))
    here, there = make(), make()
    expected = here.update(*classes)
    found = there.update(*(part.as_subclass(OnMps) for part in classes))
    for score, values in expected.items():
        assert values.tolist() == pytest.approx(found[score].tolist())
    assert there.compute() == here.compute()


def test_the_device_without_float64_is_one():
    with pytest.raises(TypeError, match="no float64"):
        torch.rand(2).as_subclass(OnMps).double()


# Kept networks


@pytest.fixture
def squeezenet(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files of weights that were read."""
    seen = []
    read = weights._read
    monkeypatch.setattr(
        weights, "_read", lambda file, what: (seen.append(file), read(file, what))[1]
    )
    weights._made.cache_clear()
    yield seen
    weights._made.cache_clear()


def test_a_file_is_read_again_only_when_it_changed(squeezenet, reads):
    images = torch.rand(2, 1, 3, 32, 32)
    one, other = (LPIPS(net="squeeze", weights=str(squeezenet)) for _ in range(2))
    before = one.update(*images)["lpips"]
    assert other.update(*images)["lpips"] == before
    assert len(reads) == 1
    torch.manual_seed(1)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), squeezenet)
    os.utime(squeezenet, ns=(1, 1))
    assert LPIPS(net="squeeze", weights=str(squeezenet)).update(*images)["lpips"] != before
    assert len(reads) == 2
    squeezenet.unlink()
    with pytest.raises(MetricError, match="there is no file"):
        LPIPS(net="squeeze", weights=str(squeezenet))


def test_each_moves_its_own_network(squeezenet, reads):
    """To other numbers here instead of another device, which is the same to a module's `to`."""
    images = torch.rand(2, 1, 3, 32, 32)
    one, other = (LPIPS(net="squeeze", weights=str(squeezenet)) for _ in range(2))
    before = other.update(*images)["lpips"]
    one._network.to(torch.float64)
    moved = [*one._network.parameters(), *one._network.buffers()]
    assert {tensor.dtype for tensor in moved} == {torch.float64}
    kept = [*other._network.parameters(), *other._network.buffers()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert other.update(*images)["lpips"] == before
    assert LPIPS(net="squeeze", weights=str(squeezenet)).update(*images)["lpips"] == before
    assert not any(p.requires_grad for p in other._network.parameters())
    pairs = zip(
        other._network.parameters(),
        LPIPS(net="squeeze", weights=str(squeezenet))._network.parameters(),
        strict=True,
    )
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs), "the values are there once"


# Downloads


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    """A server that answers one connection with given bytes, or never."""
    listening = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve(answer):
        def run():
            connection, _ = listening.accept()
            held.append(connection)
            connection.recv(65536)
            if answer:
                connection.sendall(answer)
                connection.close()

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/net-00000000.pth"

    yield serve
    for connection in (listening, *held):
        connection.close()


def test_a_server_that_stalls_is_given_up(server, cache, monkeypatch):
    monkeypatch.setattr(weights, "PATIENCE_S", 0.2)
    found = []

    def fetch(url):
        with pytest.raises(MetricError) as caught:
            weights.find_weights(None, url, "a network")
        found.append(str(caught.value))

    # In a thread, so that one that waits for ever fails the test instead of holding it.
    thread = threading.Thread(target=fetch, args=(server(b""),), daemon=True)
    thread.start()
    thread.join(10)
    assert found, "it still waits"
    assert "a network cannot be fetched from http" in found[0]
    assert "timed out" in found[0]
    assert socket.getdefaulttimeout() is None


def test_an_answer_that_is_no_http(server, cache):
    with pytest.raises(MetricError, match=r"cannot be fetched .*BadStatusLine"):
        weights.find_weights(None, server(b"nonsense\r\n\r\n"), "a network")
