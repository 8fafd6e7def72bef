"""Shows that the fast ways of training train what float32, step by step, trains.

A few steps from the same weights on the same pairs (ten, and before them those that a step runs
before it is captured), and whole runs of several seeds in float32 and in bfloat16. See README.md
beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import add_record_option, check_page, progress, record
from torch import Tensor

import img2img
from img2img.assemble import build_datasets, build_networks
from img2img.data.loading import batches
from img2img.engine.precision import Resolved, make_current, resolve_device
from img2img.engine.stepping import EAGER_STEPS, Stepper
from img2img.errors import Img2ImgError, Interrupted
from img2img.plugins import load_plugins
from img2img.recipe_files import find_recipe
from img2img.recipe_parser import load_recipe
from img2img.training import to_assignments

RECIPE = "facades"
# As many before the ten as a step runs before it is captured.
STEPS = EAGER_STEPS + 10
LIMIT = 1e-3
# Ways that differ from float32 eager by chance alone: in the order of sums, on a GPU also because
# what its threads add up comes in any order.
NOISE = ("threads", "eager again")
# That is one sample of a distribution, so another may be some times as far away.
TIMES_NOISE = 10.0
TIMES_WEIGHTS = 2.0
# A second trial that went wrong must not let everything else agree: of what threads alone allow.
TIMES_THREADS = 10.0
# What a loss of nothing is measured by: one rounding of 1 in float32.
LEAST = 2.0**-23
WINDOWS = 5


@dataclass(frozen=True)
class Way:
    """How a trial steps."""

    name: str
    device: torch.device
    precision: Resolved = "float32"
    threads: int | None = None
    capture: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Trial:
    """What came of `STEPS` steps: each loss at each of them, and all weights after the last."""

    losses: dict[str, list[float]]
    weights: dict[str, Tensor]
    captured: bool


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="facades")
    parser.add_argument("--size", type=int, default=128, help="of the crops, in pixels")
    parser.add_argument("--width", type=int, default=32, help="channels after the first layers")
    parser.add_argument("--steps", type=int, default=1500, help="of each whole run")
    parser.add_argument("--batch", type=int, default=1, help="pairs a step")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the whole runs; none: no runs"
    )
    parser.add_argument("--compile", action="store_true", help="the few steps compiled, too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the runs here, and go on with those there"
    )
    add_record_option(parser)
    options = parser.parse_args(arguments)
    for name, least in (("size", 1), ("width", 1), ("batch", 1), ("steps", WINDOWS)):
        if (value := getattr(options, name)) < least:
            parser.error(f"--{name} must be at least {least}, not {value}")
    if options.seeds and len(set(options.seeds)) < max(2, len(options.seeds)):
        parser.error("--seeds needs at least two, all of them different, for a spread")
    try:
        device = make_current(resolve_device(options.device))
        check_page(options.record, device, "same", *(["same-runs"] if options.seeds else []))
        steps = ten_steps(options, ways(device, compile=options.compile))
        runs = None
        if options.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                runs = whole_runs(options, device, options.out or Path(scratch))
    except Interrupted:
        # The run saved itself and ended; so does this, which has nothing whole to tell.
        kept = f"; the same command goes on with the runs in {options.out}" if options.out else ""
        print(f"stopped, and nothing is recorded{kept}", file=sys.stderr)
        raise SystemExit(130) from None
    except Img2ImgError as error:
        parser.error(str(error))
    result = {
        "ten_steps": steps,
        "runs": runs,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {n: getattr(options, n) for n in ("size", "width", "steps", "batch", "seeds")},
    }
    print(json.dumps(result, indent=2))
    if options.record is not None:
        keep(options.record, result, device)


def ways(device: torch.device, *, compile: bool) -> list[Way]:
    """What is compared with float32 eager on the device, what differs by chance alone first."""
    other = 1 if torch.get_num_threads() > 1 else 2
    chosen = [Way("threads", torch.device("cpu"), threads=other)]
    if device.type == "cuda":
        chosen += [Way("eager again", device), Way("captured", device, capture=True)]
    if compile:
        chosen.append(Way("compiled", device, compile=True))
        if device.type == "cuda":
            chosen.append(Way("captured+compiled", device, capture=True, compile=True))
    return [*chosen, Way("bfloat16", device, precision="bfloat16")]


def ten_steps(options: argparse.Namespace, ways: list[Way]) -> dict[str, Any]:
    """How far each way is from float32 eager, and whether that is as near as it has to be.

    Dropout is off: its noise is another one in other kernels.
    """
    given = overrides(options) | {"generator.dropout": 0.0}
    registry = load_plugins().registry
    recipe = load_recipe(find_recipe(RECIPE), registry, to_assignments(given))
    torch.manual_seed(0)
    task, first = build_networks(recipe, registry, torch.device("cpu"), "float32")
    start = {name: network.state_dict() for name, network in first.networks.items()}
    train = build_datasets(recipe, registry, task).train
    pairs = [
        (batch.source, batch.target)
        for batch in batches(train, batch_size=options.batch, start=0, stop=STEPS)
    ]

    def trial(way: Way) -> Trial:
        _, method = build_networks(recipe, registry, way.device, way.precision)
        for name, network in method.networks.items():
            network.load_state_dict(start[name])
            network.train()
        stepper = Stepper(method, way.device, capture=way.capture, compile=way.compile)
        losses: dict[str, list[float]] = {}
        with closing(stepper), exactly(way.threads):
            for number, batch in enumerate(pairs, 1):
                source, target = (images.to(way.device) for images in batch)
                # A captured step writes the next losses over these.
                for name, value in stepper(source, target, number).items():
                    losses.setdefault(name, []).append(float(value))
            captured = stepper.captured
        weights = {
            name: torch.cat([p.detach().cpu().double().flatten() for p in network.parameters()])
            for name, network in method.networks.items()
        }
        return Trial(losses, weights, captured)

    # Another thread count is one on the CPU, whatever the device is.
    references = {place: trial(Way("eager", place)) for place in {way.device for way in ways}}
    found = {}
    for way in ways:
        found[way.name] = distance(trial(way), references[way.device])
        progress(f"{STEPS} steps: {way.name}")
    chance = [found[name] for name in NOISE if name in found]
    # Where so little is computed that threads do not matter, they say nothing.
    noise = max((told["largest"] for told in chance), default=0.0)
    allowed = min(LIMIT, TIMES_NOISE * noise) if noise else LIMIT
    # Adam's first steps have the size of the learning rate however small a gradient is, so that
    # weights whose gradients are all rounding go either way, with threads as with anything else.
    limits = {
        way.name: max(LIMIT, TIMES_WEIGHTS * max(found[way.name]["weights"].values()))
        for way in ways
        if way.name in NOISE
    }
    most = TIMES_THREADS * limits.get(NOISE[0], LIMIT)
    for_weights = min(max(limits.values(), default=LIMIT), most)
    for way in ways:
        told = found[way.name]
        if way.name in NOISE:
            # Their weights are what others' are measured by, and nothing measures them.
            near = told["largest"] <= LIMIT
        else:
            near = told["largest"] <= allowed and max(told["weights"].values()) <= for_weights
        # bfloat16 is for information: it has fewer digits than that.
        exact = way.precision == "float32"
        told["agrees"] = (near and told["captured"] == way.capture) if exact else None
    return {
        "steps": STEPS,
        "limit": LIMIT,
        "allowed": allowed,
        "allowed_weights": for_weights,
        "ways": found,
    }


def distance(trial: Trial, reference: Trial) -> dict[str, Any]:
    """Relative differences of each loss at each step, their largest, and that of the weights.

    The last is of each network: the length of the difference, over the length of the reference.
    """
    differences = {
        name: [abs(a - b) / max(abs(b), LEAST) for a, b in zip(trial.losses[name], of, strict=True)]
        for name, of in reference.losses.items()
    }
    # A loss that is no number is not near to any, and no maximum would say so.
    largest = [max(v) if all(map(math.isfinite, v)) else math.inf for v in differences.values()]
    return {
        "captured": trial.captured,
        "losses": differences,
        "largest_of": dict(zip(differences, largest, strict=True)),
        "largest": max(largest),
        "weights": {
            name: float((trial.weights[name] - of).norm() / of.norm())
            for name, of in reference.weights.items()
        },
    }


def whole_runs(options: argparse.Namespace, device: torch.device, out: Path) -> dict[str, Any]:
    """Scores and losses of bfloat16 beside the spread that seeds have in float32."""
    every = options.steps // WINDOWS
    log_every = max(1, every // 10)
    given = overrides(options) | {
        "train.steps": options.steps,
        "train.log_every": log_every,
        "train.sample_every": options.steps,
        "train.validate_every": every,
        "train.checkpoint_every": every,
    }
    measured: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for precision in ("float32", "bfloat16"):
            place = out / f"{precision}-seed{seed}"
            progress(f"{options.steps} steps in {precision}, seed {seed}")
            img2img.train(
                RECIPE,
                overrides=given | {"train.seed": seed},
                out=place,
                resume=True,
                device=str(device),
                precision=precision,
            )
            text = (place / "metrics.jsonl").read_text(encoding="utf-8")
            lines = [json.loads(line) for line in text.splitlines()]
            measured.setdefault(precision, []).append(
                dict([*scores(lines), *windows(lines, options.steps)])
            )
    float32, bfloat16 = measured.values()
    rows = {n: beside([r[n] for r in float32], [r[n] for r in bfloat16]) for n in float32[0]}
    return {
        "rows": rows,
        "within": sum(row["within"] for row in rows.values()),
        "outside_by_chance": outside_by_chance(len(options.seeds)),
    }


def scores(lines: Iterable[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Each validation score at each validation."""
    for line in lines:
        for name in ("l1", "psnr", "ssim"):
            if name in line.get("validation", {}):
                yield f"validation {name}, step {line['step']}", line["validation"][name]


def windows(lines: Iterable[dict[str, Any]], steps: int) -> Iterator[tuple[str, float]]:
    """The mean of each logged loss over each fifth of the run."""
    found: dict[tuple[str, int], list[float]] = {}
    for line in lines:
        for name, value in line.get("losses", {}).items():
            found.setdefault((name, (line["step"] - 1) * WINDOWS // steps), []).append(value)
    for (name, window), values in sorted(found.items()):
        first, last = (at * steps // WINDOWS for at in (window, window + 1))
        yield f"loss {name}, steps {first + 1} to {last}", statistics.fmean(values)


def beside(float32: list[float], bfloat16: list[float]) -> dict[str, Any]:
    """Whether the mean of one lies between the least and the greatest of the other."""
    low, high, mean = min(float32), max(float32), statistics.fmean(bfloat16)
    away, deviation = mean - statistics.fmean(float32), statistics.stdev(float32)
    return {
        "float32": float32,
        "bfloat16": bfloat16,
        "mean": mean,
        "within": low <= mean <= high,
        "distance": away / deviation if deviation else None,
    }


def outside_by_chance(seeds: int) -> float:
    """How often the mean of so many is outside the spread of as many others of the same kind.

    Counted for normal numbers that are independent of one another; runs of the same seed have
    weights, pairs and dropout in common, and are outside less often.
    """
    one, other = np.random.default_rng(0).standard_normal((2, 100_000, seeds))
    mean = other.mean(1)
    return float(((mean < one.min(1)) | (mean > one.max(1))).mean())


def keep(page: Path, result: dict[str, Any], device: torch.device) -> None:
    """Write the outcome into the page of performance."""
    settings, found = result["settings"], result["ten_steps"]
    losses = list(next(iter(found["ways"].values()))["largest_of"])
    answers = {True: "yes", False: "no", None: "for information"}
    rows = [
        [name, *told["largest_of"].values(), max(told["weights"].values()), answers[told["agrees"]]]
        for name, told in found["ways"].items()
    ]
    pairs = f"{settings['size']} pixels, width {settings['width']}, batch {settings['batch']}"
    again = " or a second trial" if NOISE[1] in found["ways"] else ""
    note = (
        f"The largest relative differences to float32 eager within {found['steps']} steps from the "
        f"same weights, and of the weights after them; {pairs}, no dropout, no TensorFloat-32. At "
        f"most {found['allowed']:.2g} agrees for a loss ({TIMES_NOISE:g} times what another "
        f"number of CPU threads{again} gives, and no more than {LIMIT:g}), "
        f"{found['allowed_weights']:.2g} for weights ({TIMES_WEIGHTS:g} times what that "
        f"gives, or {LIMIT:g}, and no more than {TIMES_THREADS:g} times what the threads alone "
        f"allow). What this is measured by agrees by its losses alone, at most {LIMIT:g} away."
    )
    record(page, "same", device, ["", *losses, "weights", "agrees"], rows, note)
    if (runs := result["runs"]) is None:
        return
    rows = []
    for name, row in runs["rows"].items():
        spread = f"{min(row['float32']):.4g} to {max(row['float32']):.4g}"
        away = "" if row["distance"] is None else f"{row['distance']:+.1f}"
        cells = [name, spread, f"{row['mean']:.4g}", away]
        rows.append([*cells, "yes" if row["within"] else "no"])
    seeds = len(settings["seeds"])
    note = (
        f"{seeds} seeds each, {settings['steps']} steps, {pairs}. {runs['within']} of {len(rows)} "
        f"within. Of independent runs that differ in nothing but chance, the mean of {seeds} is "
        f"outside the spread of {seeds} others in {runs['outside_by_chance']:.0%} of cases."
    )
    headings = ["", "float32, spread of seeds", "bfloat16, mean", "standard deviations", "within"]
    record(page, "same-runs", device, headings, rows, note)


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What all of it has in common, as `img2img.train` takes it."""
    return {
        "data.root": str(options.data.absolute()),
        "data.crop_size": options.size,
        "generator.width": options.width,
        "discriminator.width": options.width,
        "train.batch_size": options.batch,
    }


@contextmanager
def exactly(threads: int | None) -> Iterator[None]:
    """Kernels that compute the same twice, in float32 and no less; so many threads on the CPU."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    torch.set_num_threads(threads or before[0])
    cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before[1:]


if __name__ == "__main__":
    main()
