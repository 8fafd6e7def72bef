"""Stand-ins for what torch has on a GPU alone."""

import contextlib
from types import SimpleNamespace

import torch


def fake_graphs(monkeypatch, graph, inside=None):
    """Recording runs the step and gives `graph`; what it does with streams is noted.

    Args:
        inside: the context that a step is recorded in.

    Returns:
        the stream to record on (`own`), the `current` one, and those that were `set`.
    """
    own, current = (SimpleNamespace(device=torch.device("cuda", 0)) for _ in range(2))
    streams = SimpleNamespace(own=own, current=current, set=[])
    inside = contextlib.nullcontext() if inside is None else inside
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **options: inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: current)
    monkeypatch.setattr(torch.cuda, "set_stream", streams.set.append)
    return streams
