"""Which digits networks compute in, and that nobody else notices."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from img2img.engine.precision import (
    make_current,
    resolve_precision,
    set_full_float32,
    tensor_float32,
)


class Seen(nn.Module):
    """Notes what the program may round to in its forward."""

    def forward(self, images):
        self.seen = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        return images + 1


@pytest.fixture(params=[True, False])
def allowed(request):
    with tensor_float32(request.param):
        yield request.param


def test_a_network_in_full_float32_leaves_others_what_they_had(allowed):
    network = set_full_float32(Seen())
    assert network(torch.zeros(1)).item() == 1
    assert network.seen == (False, False)
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is allowed


def test_what_it_may_round_to_comes_back_after_an_error(allowed):
    with pytest.raises(ValueError, match="mine"), tensor_float32(not allowed):
        raise ValueError("mine")
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is allowed


def test_each_gpu_is_asked_for_itself(monkeypatch):
    """torch asks the current one, whichever is meant."""
    current = [0]

    @contextmanager
    def device(wanted):
        before, current[0] = current[0], wanted.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: current[0] == 1
    )
    assert resolve_precision("auto", torch.device("cuda", 0)) == "float32"
    assert resolve_precision("auto", torch.device("cuda", 1)) == "bfloat16"


def test_the_gpu_that_is_measured_is_the_current_one(monkeypatch):
    """An event notes the time of the current one, whatever runs on another."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert make_current(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert make_current(torch.device("cpu")) == torch.device("cpu")
    assert chosen == [torch.device("cuda", 1)]
