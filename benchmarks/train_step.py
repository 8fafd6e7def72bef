"""Times a training step of this program, and of a checkout of the peer, in turn.

The peer is github.com/junyanz/pytorch-CycleGAN-and-pix2pix; it is imported from where `--peer` says
and driven through its own model. Each contender has a process of its own, set up as its own program
sets it up, and they take turns. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peer import importing_from
from record import add_record_option, check_page, progress, record
from torch import Tensor, nn

from img2img.bench.floor import count_work, matrix_rate
from img2img.bench.hardware import device_name, measure_hardware, wait_for
from img2img.discriminators import PatchGAN70
from img2img.engine.memory import keeping_freed_memory
from img2img.engine.precision import Resolved, make_current, resolve_device, set_precision
from img2img.engine.stepping import EAGER_STEPS, Stepper
from img2img.errors import RequestError
from img2img.generators import UNet
from img2img.losses import L1, Adversarial
from img2img.methods import Pix2Pix, WeightedLoss

# Depth of the U-Net by what the peer calls it, and the decoder layers in which it drops out.
PEER_GENERATORS = {8: ("unet_256", (2, 3, 4)), 7: ("unet_128", (2, 3))}
WARM_UP_STEPS = EAGER_STEPS + 2
WAYS = ("captured", "eager", "compiled", "captured+compiled")

Step = Callable[[], object]
Networks = dict[str, nn.Module]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout; without it only ours")
    parser.add_argument("--size", type=int, default=256, help="height and width, in pixels")
    parser.add_argument("--width", type=int, default=64, help="channels after the first layers")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="pairs a step")
    parser.add_argument("--steps", type=int, help="steps a round: 3, and 300 on a GPU")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each")
    precisions = ("float32", "bfloat16")
    parser.add_argument("--precision", nargs="+", choices=precisions, default=list(precisions))
    parser.add_argument("--way", nargs="+", choices=WAYS, help="captured on a GPU, else eager")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the device's rates")
    parser.add_argument(
        "--threads", type=int, help="torch's, on the CPU; its own choice if left out"
    )
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    add_record_option(parser)
    options = parser.parse_args(arguments)
    for name in ("size", "width", "steps", "rounds", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    if min(options.batch) < 1:
        parser.error(f"--batch must be at least 1, not {min(options.batch)}")
    if options.peer is not None and peer_depth(options.size) is None:
        parser.error("the peer has U-Nets of depth 7 and 8: --size must be a multiple of 128")
    try:
        device = make_current(resolve_device(options.device))
    except RequestError as error:
        parser.error(str(error))
    if options.steps is None:
        # As many as take half a second on a fast one, so that starting and waiting do not count.
        options.steps = 300 if device.type == "cuda" else 3
    if options.way is None:
        options.way = ["captured" if device.type == "cuda" else "eager"]
    if options.contender:
        serve(options, device)
        return
    check_page(options.record, device, name_of(options.size, options.width))
    result = benchmark(options, device)
    print(json.dumps(result, indent=2))
    if options.record is not None:
        keep(options.record, result, device)


def benchmark(options: Namespace, device: torch.device) -> dict[str, Any]:
    """What `main` prints."""
    names = [f"{p} {way}" for p in options.precision for way in options.way]
    if options.peer is not None:
        names.insert(0, "peer")
    batches, parameters = [], {}
    for batch in options.batch:
        with contextlib.ExitStack() as stack:
            running = {
                name: stack.enter_context(Contender(name, options, device, batch)) for name in names
            }
            sizes = {name: contender.parameters for name, contender in running.items()}
            for name, size in sizes.items():
                if size != sizes[names[-1]]:
                    raise SystemExit(f"not the same networks: {size} in {name}, {sizes[names[-1]]}")
            parameters = sizes[names[-1]]
            rounds: dict[str, list[float]] = {name: [] for name in names}
            for number in range(options.rounds):
                for name, contender in running.items():
                    rounds[name].append(contender.round(options.steps))
                progress(f"batch {batch}: round {number + 1} of {options.rounds}")
        batches.append({"batch": batch, **compared(rounds)})
    flops, rates = work_and_rates(options, device)
    for measured in batches:
        for name in names:
            rate = rates["float32" if name == "peer" else name.split()[0]]
            done = flops * measured["batch"] / measured[name]["median_s"]
            measured[name]["of_matrix_rate"] = done / rate
    settings = ("size", "width", "steps", "rounds")
    return {
        "batches": batches,
        "device": str(device),
        "device_name": device_name(device),
        "threads": options.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": parameters,
        "flops_a_pair": flops,
        "matrix_rates": rates,
        "settings": {name: getattr(options, name) for name in settings},
    }


def work_and_rates(options: Namespace, device: torch.device) -> tuple[int, dict[str, float]]:
    """Operations that a pair takes, and how many the device does in a second, by precision."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    hardware = measure_hardware(device, options.seconds)
    source, target = pairs(options, device, 1)
    flops = count_work(our_method(options, "float32", device), source, target).flops
    precisions: tuple[Resolved, ...] = ("float32", "bfloat16")
    return flops, {name: matrix_rate(hardware, name) for name in precisions}


def compared(rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Seconds per step of each contender, and ours over the peer's."""
    result: dict[str, Any] = {
        name: {"median_s": statistics.median(taken), "best_s": min(taken), "rounds_s": taken}
        for name, taken in rounds.items()
    }
    for name in rounds:
        if "peer" in rounds and name != "peer":
            ratios = [a / b for a, b in zip(rounds[name], rounds["peer"], strict=True)]
            result[name]["ratio"] = result[name]["median_s"] / result["peer"]["median_s"]
            result[name]["ratio_of_best"] = result[name]["best_s"] / result["peer"]["best_s"]
            result[name]["ratio_spread"] = [min(ratios), max(ratios)]
    return result


def keep(page: Path, result: dict[str, Any], device: torch.device) -> None:
    """Write the outcome into the page."""
    rows = []
    for measured in result["batches"]:
        for name, taken in measured.items():
            if name == "batch":
                continue
            spread = taken.get("ratio_spread")
            rows.append(
                [
                    f"batch {measured['batch']}, {name}",
                    1000 * taken["median_s"],
                    measured["batch"] / taken["median_s"],
                    f"{taken['of_matrix_rate']:.0%}",
                    f"{taken['ratio']:.2f} ({spread[0]:.2f} to {spread[1]:.2f})" if spread else "",
                ]
            )
    settings = result["settings"]
    note = (
        f"{settings['size']} pixels, width {settings['width']}, {result['threads']} threads, the "
        f"median of {settings['rounds']} rounds of {settings['steps']} steps."
    )
    of_peer = "of the peer's time (spread of rounds)"
    headings = ["step", "ms", "pairs/s", "of the matrix rate", of_peer]
    # Without a peer, the last column is empty.
    columns = 5 if any(row[4] for row in rows) else 4
    name = name_of(settings["size"], settings["width"])
    record(page, name, device, headings[:columns], [row[:columns] for row in rows], note)


def name_of(size: int, width: int) -> str:
    """Under which an outcome is recorded."""
    return "step" if (size, width) == (256, 64) else f"step-{size}-{width}"


class Contender:
    """A process that steps when it is asked to, and says how long it took."""

    def __init__(self, name: str, options: Namespace, device: torch.device, batch: int) -> None:
        command = [sys.executable, __file__, f"--contender={name}", f"--device={device}"]
        command += [f"--batch={batch}", f"--size={options.size}", f"--width={options.width}"]
        if options.threads is not None:
            command.append(f"--threads={options.threads}")
        if options.peer is not None:
            command.append(f"--peer={options.peer}")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name = name
        self.parameters: dict[str, int] = self._answer()

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def round(self, steps: int) -> float:
        """Seconds per step."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        taken: float = self._answer()
        return taken

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}")
        return json.loads(line)


def serve(options: Namespace, device: torch.device) -> None:
    """What a contender's process does: warm up, then step as often as each line asks for."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    source, target = pairs(options, device, options.batch[0])
    with contextlib.ExitStack() as stack:
        stepper = None
        if options.contender == "peer":
            step, networks = peer_step(options, source, target)
        else:
            stack.enter_context(keeping_freed_memory(device))
            stepper, networks = our_step(options, device)
            stack.enter_context(contextlib.closing(stepper))
            step = functools.partial(stepper, source, target, 1)
        for _ in range(WARM_UP_STEPS):
            step()
        # An eager step must not stand in a row of captured ones.
        if stepper is not None and "captured" in options.contender and not stepper.captured:
            way = "compiled" if "compiled" in options.contender else "eager"
            raise SystemExit(
                f"{options.contender}: the step was not recorded as a CUDA graph on {device}; "
                f"--way {way} times it as it is"
            )
        wait_for(device)
        print(json.dumps(sizes_of(networks)), flush=True)
        for line in sys.stdin:
            steps = int(line)
            began = time.perf_counter()
            for _ in range(steps):
                step()
            wait_for(device)
            print((time.perf_counter() - began) / steps, flush=True)


def pairs(options: Namespace, device: torch.device, count: int) -> tuple[Tensor, Tensor]:
    """Sources and targets (count, 3, size, size) of noise."""
    shape = (count, 3, options.size, options.size)
    source, target = (torch.rand(shape, device=device) * 2 - 1 for _ in range(2))
    return source, target


def our_step(options: Namespace, device: torch.device) -> tuple[Stepper, Networks]:
    """One step of ours, as the contender's name says."""
    precision, way = options.contender.split()
    method = our_method(options, precision, device)
    stepper = Stepper(method, device, capture="captured" in way, compile="compiled" in way)
    return stepper, method.networks


def our_method(options: Namespace, precision: Resolved, device: torch.device) -> Pix2Pix:
    """`Pix2Pix` with the U-Net, the 70x70 PatchGAN, dropout, vanilla GAN and L1."""
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
        return set_precision(network.to(device), precision)

    def discriminator(in_channels: int) -> nn.Module:
        network = PatchGAN70(in_channels, width=options.width)
        return set_precision(network.to(device), precision)

    losses = [WeightedLoss("adversarial", 1.0, Adversarial()), WeightedLoss("l1", 100.0, L1())]
    return Pix2Pix(generator, discriminator, losses, 3, 3, True)


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
    # It reports on stdout, which is for the answers.
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
    """Depth of the peer's U-Net for images of this size; None if it has none."""
    return 8 if size % 256 == 0 else 7 if size % 128 == 0 else None


def sizes_of(networks: Networks) -> dict[str, int]:
    """Parameters by network."""
    return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}


if __name__ == "__main__":
    main()
