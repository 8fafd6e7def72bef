"""Times a training step of this program, and of a checkout of the peer, in turn in one process.

The peer is github.com/junyanz/pytorch-CycleGAN-and-pix2pix; it is imported from where `--peer` says
and driven through its own model. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import platform
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from img2img.discriminators import PatchGAN70
from img2img.engine.precision import resolve_device, set_precision
from img2img.errors import RequestError
from img2img.generators import UNet
from img2img.losses import L1, Adversarial
from img2img.methods import Pix2Pix, WeightedLoss

# Depth of the U-Net by what the peer calls it, and the decoder layers in which it drops out.
PEER_GENERATORS = {8: ("unet_256", (2, 3, 4)), 7: ("unet_128", (2, 3))}
WARM_UP_STEPS = 2

Step = Callable[[], object]
Networks = dict[str, nn.Module]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout; without it only ours")
    parser.add_argument("--size", type=int, default=256, help="height and width, in pixels")
    parser.add_argument("--width", type=int, default=64, help="channels after the first layers")
    parser.add_argument("--batch", type=int, default=1, help="pairs a step")
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--threads", type=int, help="torch's, on the CPU; its own choice if left out"
    )
    options = parser.parse_args(arguments)
    for name in ("size", "width", "batch", "steps", "rounds", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    if options.peer is not None and peer_depth(options.size) is None:
        parser.error("the peer has U-Nets of depth 7 and 8: --size must be a multiple of 128")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        device = resolve_device(options.device)
    except RequestError as error:
        parser.error(str(error))
    print(json.dumps(benchmark(options, device), indent=2))


def benchmark(options: Namespace, device: torch.device) -> dict[str, Any]:
    """What `main` prints."""
    torch.manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    source, target = (torch.rand(shape, device=device) * 2 - 1 for _ in range(2))
    contenders: dict[str, Step] = {}
    contenders["ours"], networks = our_step(options, source, target)
    if options.peer is not None:
        contenders["peer"], theirs = peer_step(options, source, target)
        if (ours_size := sizes(networks)) != (peer_size := sizes(theirs)):
            raise SystemExit(f"not the same networks: {ours_size} and {peer_size} parameters")
    rounds = measure(contenders, steps=options.steps, rounds=options.rounds, device=device)
    result: dict[str, Any] = {
        name: {"median_s": statistics.median(taken), "best_s": min(taken), "rounds_s": taken}
        for name, taken in rounds.items()
    }
    if "peer" in rounds:
        ratios = [a / b for a, b in zip(rounds["ours"], rounds["peer"], strict=True)]
        result["ratio"] = result["ours"]["median_s"] / result["peer"]["median_s"]
        result["ratio_of_best"] = result["ours"]["best_s"] / result["peer"]["best_s"]
        result["ratio_spread"] = [min(ratios), max(ratios)]
    names = ("size", "width", "batch", "steps", "rounds", "precision")
    return {
        **result,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        # The peer's model turns it on for the whole process.
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "parameters": sizes(networks),
        "settings": {name: getattr(options, name) for name in names},
    }


def measure(
    contenders: dict[str, Step], *, steps: int, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds per step of every round by contender; they alternate, so that noise hits all."""
    for step in contenders.values():
        for _ in range(WARM_UP_STEPS):
            step()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            wait_for(device)
            began = time.perf_counter()
            for _ in range(steps):
                step()
            wait_for(device)
            taken[name].append((time.perf_counter() - began) / steps)
    return taken


def our_step(options: Namespace, source: Tensor, target: Tensor) -> tuple[Step, Networks]:
    """One step of `Pix2Pix` with the U-Net, the 70x70 PatchGAN, dropout, vanilla GAN and L1."""
    depth = peer_depth(options.size)
    dropout_layers = PEER_GENERATORS[depth][1] if depth else (1, 2, 3)

    def generator(in_channels: int, out_channels: int) -> nn.Module:
        network = UNet(
            in_channels,
            out_channels,
            image_size=options.size,
            width=options.width,
            depth=depth,
            dropout_layers=dropout_layers,
        )
        return set_precision(network.to(source.device), options.precision)

    def discriminator(in_channels: int) -> nn.Module:
        network = PatchGAN70(in_channels, width=options.width)
        return set_precision(network.to(source.device), options.precision)

    losses = [WeightedLoss("adversarial", 1.0, Adversarial()), WeightedLoss("l1", 100.0, L1())]
    method = Pix2Pix(generator, discriminator, losses, 3, 3, True)
    return lambda: method.step(source, target), method.networks


def peer_step(options: Namespace, source: Tensor, target: Tensor) -> tuple[Step, Networks]:
    """One step of the peer's own `Pix2PixModel`, always in float32."""
    depth = peer_depth(options.size)
    assert depth is not None
    settings = Namespace(
        isTrain=True,
        device=source.device,
        gpu_ids=[source.device.index or 0] if source.device.type == "cuda" else [],
        input_nc=3,
        output_nc=3,
        ngf=options.width,
        ndf=options.width,
        netG=PEER_GENERATORS[depth][0],
        netD="basic",
        n_layers_D=3,
        norm="batch",
        no_dropout=False,
        init_type="normal",
        init_gain=0.02,
        gan_mode="vanilla",
        lambda_L1=100.0,
        lr=2e-4,
        beta1=0.5,
        lr_policy="linear",
        epoch_count=1,
        n_epochs=100,
        n_epochs_decay=100,
        direction="AtoB",
        preprocess="resize_and_crop",
        continue_train=False,
        checkpoints_dir=".",
        name="benchmark",
        verbose=False,
    )
    # It reports on stdout, which is for the JSON.
    with contextlib.redirect_stdout(sys.stderr), importing_from(options.peer):
        try:
            module = importlib.import_module("models.pix2pix_model")
        except ImportError as error:
            raise SystemExit(f"--peer {options.peer}: cannot be imported ({error})") from error
        model = module.Pix2PixModel(settings)
        model.setup(settings)
    batch = {"A": source, "B": target, "A_paths": "", "B_paths": ""}

    def step() -> None:
        model.set_input(batch)
        model.optimize_parameters()

    return step, {"generator": model.netG, "discriminator": model.netD}


def peer_depth(size: int) -> int | None:
    """Depth of the peer's U-Net for images of that size, None if it has none."""
    return 8 if size % 256 == 0 else 7 if size % 128 == 0 else None


def sizes(networks: Networks) -> dict[str, int]:
    """Parameters by network."""
    return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}


def wait_for(device: torch.device) -> None:
    """Let the device finish what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


if __name__ == "__main__":
    main()
