"""Whether checkpoints will hold what a method trains, and what is never trained."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from img2img.methods import Method, WeightedLoss


def lost_parts(method: Method, losses: Sequence[WeightedLoss]) -> list[str]:
    """What would begin anew on --resume though it was trained: a sentence for each."""
    kept = _ids(_kept(method, losses))
    # By their states, because one that wraps another may share that one's.
    states = {id(optimizer.state) for optimizer in method.optimizers.values()}
    told = []
    owners = [("the method", method), *((f"the loss {e.name!r}", e.loss) for e in losses)]
    for owner, item in owners:
        for place, optimizer in _attributes(item):
            if not isinstance(optimizer, Optimizer) or id(optimizer.state) in states:
                continue
            if not any(p.requires_grad for p in _parameters(optimizer)):
                continue
            told.append(
                f"{owner} has an optimizer, self{place}, that is not in the method's `optimizers`: "
                f"checkpoints would lack it, and torchrun would not average its gradients. Put it "
                f"there, and what it trains into `networks`, or leave it out"
            )
    for name, optimizer in method.optimizers.items():
        if lost := [p for p in _parameters(optimizer) if _waits(p, kept)]:
            told.append(
                f"the optimizer {name!r} trains {_some(len(lost))} (the first of shape "
                f"{tuple(lost[0].shape)}) that no entry of `networks` has, so that checkpoints "
                f"would lack them: put their module there"
            )
    # Fixed parts of it come again as they were built. But one that is fixed as a whole is moved by
    # hand, as an average of another's weights is.
    weights, saved = list(method.generator.parameters()), _ids(_kept(method))
    if any(_waits(p, saved) for p in weights) or (weights and not _ids(weights) & saved):
        told.append(
            "the generator is not in `networks`, so that checkpoints would lack it: put it there"
        )
    return told


def warn_of_idle(method: Method, losses: Sequence[WeightedLoss]) -> None:
    """A RuntimeWarning for weights that ask for gradients, and that nothing trains or keeps.

    No error: they may be fixed, and only not say so.
    """
    # A loss may hold a network of the method.
    known = _ids(_trained(method)) | _ids(_kept(method))
    for entry in losses:
        if not isinstance(entry.loss, nn.Module):
            continue
        if names := [n for n, p in entry.loss.named_parameters() if _waits(p, known)]:
            warnings.warn(
                f"the loss {entry.name!r} has parameters that ask for gradients "
                f"({len(names)}, the first is {names[0]!r}), and no optimizer has them: they stay "
                f"as they are. If that is meant, say so with requires_grad_(False), which also "
                f"saves computing; else use a method that trains them",
                RuntimeWarning,
                stacklevel=3,
            )
    kept = _ids(_kept(method, losses))
    for place, module in _attributes(method):
        if isinstance(module, nn.Module) and any(_waits(p, kept) for p in module.parameters()):
            warnings.warn(
                f"the method's self{place} has weights that ask for gradients, and is not in "
                f"`networks`: checkpoints lack it, and with --resume it is as it was built. Put it "
                f"there; or, if it never changes, say so with requires_grad_(False)",
                RuntimeWarning,
                stacklevel=3,
            )


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of an object with their places, also those in lists and dicts; each once."""
    attributes = getattr(owner, "__dict__", {})
    waiting = deque((f".{key}", value) for key, value in attributes.items())
    seen: set[int] = set()
    while waiting:
        place, item = waiting.popleft()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting += [(f"{place}[{key!r}]", value) for key, value in item.items()]
        elif isinstance(item, (list, tuple)):
            waiting += [(f"{place}[{index}]", value) for index, value in enumerate(item)]
        else:
            yield place, item


def _kept(method: Method, losses: Sequence[WeightedLoss] = ()) -> list[Tensor]:
    modules = [*method.networks.values(), *(entry.loss for entry in losses)]
    return [p for one in modules if isinstance(one, nn.Module) for p in one.parameters()]


def _trained(method: Method) -> list[Tensor]:
    return [p for optimizer in method.optimizers.values() for p in _parameters(optimizer)]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _waits(parameter: Tensor, others: set[int]) -> bool:
    return parameter.requires_grad and id(parameter) not in others


def _ids(tensors: Iterable[Tensor]) -> set[int]:
    return {id(tensor) for tensor in tensors}


def _some(count: int) -> str:
    return f"{count} parameter{'' if count == 1 else 's'}"
