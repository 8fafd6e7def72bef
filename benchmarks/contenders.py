"""What translates a folder from files to files: the peer's test loop, and ours in a precision."""

from __future__ import annotations

import importlib
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peer import Peer, checkpoint_in
from torch import nn

if TYPE_CHECKING:
    from img2img.inference import Translator
    from img2img.registry import Registry

# What `img2img infer` imports: late, so that the time it takes can be told.
OURS = ("img2img.inference.folder", "img2img.inference.workers", "img2img.rebuild")
PRECISIONS = ("float32", "auto")
# Decoder layers that drop out, 1 being the innermost, by the depth of the peer's U-Net.
DROPOUT_LAYERS = {8: [2, 3, 4], 7: [2, 3]}


class NetworkClock:
    """Adds up the time that a network's forwards take; on a GPU by events, so that nothing waits.

    Attributes:
        batch: images in the largest batch so far.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.device, self.batch = device, 0
        self._marks: list[Any] = []
        network.register_forward_pre_hook(self._mark)
        network.register_forward_hook(self._mark)

    def read(self) -> float:
        """Seconds in the network since it was last asked."""
        marks, self._marks = self._marks, []
        spans = list(zip(marks[::2], marks[1::2], strict=True))
        if self.device.type != "cuda":
            return float(sum(end - begin for begin, end in spans))
        torch.cuda.synchronize(self.device)
        return float(sum(begin.elapsed_time(end) for begin, end in spans)) / 1000

    def _mark(self, network: nn.Module, inputs: tuple[Any, ...], output: object = None) -> None:
        self.batch = max(self.batch, len(inputs[0]))
        if self.device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch gives it no types
        event.record()
        self._marks.append(event)


@dataclass(frozen=True)
class Switches:
    """What the peer, and float32 here, change in cuDNN for the whole process.

    Attributes:
        benchmark: tries several algorithms, and takes the fastest from then on.
        allow_tf32: convolutions compute in TensorFloat-32.
    """

    benchmark: bool
    allow_tf32: bool

    @classmethod
    def now(cls) -> Switches:
        """As they are."""
        return cls(torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)

    def set(self) -> None:
        """Make them so."""
        torch.backends.cudnn.benchmark = self.benchmark
        torch.backends.cudnn.allow_tf32 = self.allow_tf32


@dataclass(frozen=True)
class Contender:
    """One that translates the folder.

    Attributes:
        translate: all images into a fresh folder.
        clock: of its network.
        startup: seconds of its imports beyond torch's, and of loading the model.
        switches: as it leaves them when it has loaded.
        translator: ours; the peer has none.
    """

    translate: Callable[[Path], None]
    clock: NetworkClock
    startup: dict[str, float]
    switches: Switches
    translator: Translator | None = None


def load_contenders(
    settings: Namespace, images: Path, count: int, folder: Path
) -> dict[str, Contender]:
    """The peer, where `settings.peer` names a checkout, and ours in each precision, as by name.

    All have the same weights, drawn at random.

    Args:
        settings: `size`, `width`, `dropout`, `device` and `peer`.
        images: the folder that they translate.
        count: images in it.
        folder: where the peer's checkpoint and our bundle go.
    """
    depth = 8 if settings.size % 256 == 0 else 7
    untouched = Switches.now()
    contenders = {}
    torch.manual_seed(0)
    if settings.peer is not None:
        contenders["peer"] = _load_peer(settings, images, count, folder, depth)
    began = time.perf_counter()
    for name in OURS:
        importlib.import_module(name)
    from img2img.plugins import load_plugins

    registry = load_plugins(entry_points=False).registry
    imports = time.perf_counter() - began
    bundle = folder / "model.safetensors"
    if settings.peer is not None:
        from img2img.importing import import_checkpoint

        import_checkpoint(checkpoint_in(folder), bundle, registry, dropout=settings.dropout)
    else:
        _draw_bundle(bundle, settings, depth)
    for precision in PRECISIONS:
        untouched.set()
        ours = _load_ours(bundle, registry, precision, settings.device, images, count)
        contenders[precision] = replace(ours, startup={"imports": imports, **ours.startup})
    return contenders


def file_threads() -> int:
    """How many threads of ours read files, and as many write them."""
    from img2img.inference.workers import Place

    return Place().threads


def _load_peer(
    settings: Namespace, images: Path, count: int, folder: Path, depth: int
) -> Contender:
    began = time.perf_counter()
    peer = Peer(settings.peer)
    startup = {"imports": time.perf_counter() - began}
    checkpoint_in(folder).parent.mkdir()
    torch.save(peer.generator(depth, settings.width).state_dict(), checkpoint_in(folder))
    began = time.perf_counter()
    peer.load(images, folder, settings, depth=depth, count=count)
    startup["model"] = time.perf_counter() - began
    clock = NetworkClock(peer.network, settings.device)
    return Contender(peer.translate, clock, startup, Switches.now())


def _load_ours(
    bundle: Path,
    registry: Registry,
    precision: str,
    device: torch.device,
    images: Path,
    count: int,
) -> Contender:
    """As `img2img infer --precision PRECISION --format png` goes about it, without its display."""
    from img2img.inference.folder import translate_files
    from img2img.inference.naming import Naming
    from img2img.inference.planning import Plan
    from img2img.rebuild import load_translator

    began = time.perf_counter()
    translator = load_translator(bundle, registry, device=device, precision=precision)
    startup = {"model": time.perf_counter() - began}

    def translate(results: Path) -> None:
        plan = Plan(images, results, Naming(".png"))
        plan.survey(overwrite=False)
        outcome = translate_files(translator, plan, threads=file_threads())
        if outcome.written != count:
            raise SystemExit(f"ours wrote {outcome.written} pictures of {count}")

    # What is run is not the module itself on a CPU, but a copy with its weights packed.
    clock = NetworkClock(translator._runner._fast_network(), device)
    return Contender(translate, clock, startup, Switches.now(), translator)


def _draw_bundle(path: Path, settings: Namespace, depth: int) -> None:
    """A bundle of the peer's U-Net where there is no peer to make one."""
    from img2img.bundle import BundleInfo, save_bundle
    from img2img.generators import UNet

    chosen = {
        "width": settings.width,
        "depth": depth,
        "dropout": 0.5 if settings.dropout else 0.0,
        "dropout_layers": DROPOUT_LAYERS[depth],
    }
    supplied = {"in_channels": 3, "out_channels": 3, "image_size": settings.size}
    network = UNet(3, 3, image_size=settings.size, **chosen)
    generator = {"name": "unet", "settings": chosen, "origin": "img2img", **supplied}
    generator["activation"] = "tanh"
    info = BundleInfo("random", {"name": "paired", "settings": {}}, generator, {}, {})
    save_bundle(path, network.state_dict(), info)
