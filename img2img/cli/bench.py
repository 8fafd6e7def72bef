"""`img2img bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from img2img.cli.options import (
    DebugOption,
    DeviceOption,
    JsonOption,
    PluginOption,
    QuietOption,
    SetOption,
    load_plugins_for,
)

if TYPE_CHECKING:
    from rich.console import Console

    from img2img.bench.advice import Advice
    from img2img.bench.hardware import Hardware
    from img2img.bench.measuring import Findings

SHORTEST = 1.0


def bench(
    recipe: Annotated[
        str,
        typer.Argument(metavar="[RECIPE]", help="A recipe file, or the name of a shipped one."),
    ] = "facades",
    set_: SetOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16.", show_default="both")
    ] = None,
    batch_size: Annotated[
        str, typer.Option(metavar="N,...", help="Pairs a step; the recipe's comes on top.")
    ] = "1,4,16",
    seconds: Annotated[
        float,
        typer.Option(
            help="About how long it may take in all. The device's rates, starting loader workers "
            "and the recipe's own step take what they need, even if that is more."
        ),
    ] = 60.0,
    plugin: PluginOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure what this machine does with a recipe: steps, loading, and what holds it back."""
    import json as json_module
    import os
    import sys
    import time

    began = time.perf_counter()

    from rich.console import Console

    from img2img.cli.values import one_of
    from img2img.errors import RequestError
    from img2img.recipe_files import find_recipe

    if precision is not None:
        one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    if not SHORTEST <= seconds < float("inf"):
        raise RequestError(f"--seconds must be at least {SHORTEST:g} and finite, not {seconds:g}")
    sizes = _sizes(batch_size)
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes.isdecimal() and int(processes) > 1:
        raise RequestError(
            f"bench measures in one process, and torchrun started {processes} (WORLD_SIZE) that "
            f"would disturb each other; start it without torchrun, with --device for one GPU"
        )
    plugins = load_plugins_for(plugin)
    path = find_recipe(recipe)
    console = Console(stderr=True, quiet=quiet or json, markup=False)
    with console.status("setting up") as status:
        from img2img.assemble import refuse_broken
        from img2img.bench.advice import advise
        from img2img.bench.measuring import measure
        from img2img.cli.translating import sigterm_as_interrupt
        from img2img.engine.precision import make_current, resolve_device, resolve_precision
        from img2img.recipe_parser import load_recipe

        chosen = make_current(resolve_device(device))
        settings = load_recipe(path, plugins.registry, set_ or ())
        refuse_broken(settings, plugins)
        own = resolve_precision(precision or settings.train.precision, chosen)
        native = resolve_precision("auto", chosen)
        others = [] if precision is not None else [native, "float32"]
        batch = settings.train.batch_size

        def known(hardware: Hardware) -> None:
            # Who reads a pipe sees nothing else until the end.
            if not sys.stdout.isatty():
                left = max(0.0, seconds - (time.perf_counter() - began))
                # What is measured in any case takes more than a few seconds.
                more = f"for about {left:.0f} s more" if left >= 5 else "beyond --seconds"
                text = f"{hardware.name}: {_rates(hardware)}; measuring {more}"
                console.print(text, soft_wrap=True, highlight=False)

        # Pairs that are drawn must not stay behind.
        with sigterm_as_interrupt():
            findings = measure(
                settings,
                plugins.registry,
                chosen,
                # What the recipe has comes first, whatever the time allows.
                precisions=list(dict.fromkeys([own, *others])),
                batch_sizes=[batch, *sorted(sizes - {batch})],
                began=began,
                seconds=seconds,
                tell=lambda text: status.update(f"measuring {text}"),
                show=known,
            )
    advice = advise(findings, settings, own, on_cpu=chosen.type == "cpu")
    if json:
        report = {"recipe": str(path), "device": str(chosen), **_report(findings, advice)}
        print(json_module.dumps(report, indent=2))
    else:
        _show(findings, advice, Console(quiet=quiet, highlight=False, markup=False))


def _sizes(text: str) -> set[int]:
    from img2img.errors import RequestError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 2**20 for part in parts):
        raise RequestError(
            f"--batch-size {text!r}: give whole numbers from 1, apart by commas, such as 1,4,16"
        )
    return {int(part) for part in parts}


def _report(findings: Findings, advice: Advice) -> dict[str, Any]:
    """What `--json` prints; docs/performance.md says what the keys mean."""
    from dataclasses import asdict

    return {
        "hardware": asdict(findings.hardware),
        "work": None if findings.work is None else asdict(findings.work),
        "steps": [
            {
                "precision": step.precision,
                "batch_size": step.batch_size,
                "step_s": step.seconds,
                "images_per_s": step.images_per_s,
                "slow_step_s": step.slow,
                "floor_s": step.floor,
                "note": step.note or None,
            }
            for step in findings.steps
        ],
        "loading": [
            {
                "workers": way.workers,
                "first_epoch_pairs_per_s": way.first,
                "later_pairs_per_s": way.later,
                "spread": way.spread,
            }
            for way in findings.loading
        ],
        "seconds_for_all": findings.all_s,
        "load": findings.load,
        "drawn_pairs_because": findings.drawn,
        "run": {
            "precision": advice.step.precision if advice.step else None,
            "batch_size": advice.step.batch_size if advice.step else None,
            "workers": findings.workers,
            "step_s": advice.step_s,
            "data_s": advice.data_s,
            "run_s": advice.run_s,
            "held_by": advice.held_by,
        },
        "suggestions": [
            {"set": setting.assignment, "reason": setting.reason} for setting in advice.settings
        ],
        "remarks": list(advice.remarks),
    }


def _show(findings: Findings, advice: Advice, console: Console) -> None:
    from math import ceil

    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from img2img.bench.steps import LEFT_OUT

    hardware, work = findings.hardware, findings.work
    console.print(hardware.name)
    console.print(f"  {_rates(hardware)}")
    if work is not None:
        console.print(
            f"  a step: {_short(work.flops / 1e9)} GFLOP a pair, "
            f"{_short(work.update_bytes / 1e9)} GB to update {work.parameters:,} weights"
        )
    if advice.disturbance is not None:
        console.print()
        console.print(Text(advice.disturbance))
    own = advice.step
    # As narrow as it can be: half a terminal should hold it.
    table = Table("", title="A training step in ms, data aside", title_justify="left", box=None)
    for name in ("precision", "batch", "time", "up to", "pairs/s", "floor", "x floor"):
        table.add_column(name, justify="left" if name == "precision" else "right")
    left_out = [step for step in findings.steps if step.note == LEFT_OUT]
    for step in findings.steps:
        if step in left_out:
            continue
        mark = ">" if step is own else ""
        floor = "" if step.floor is None else _short(1000 * step.floor)
        if step.seconds is None:
            table.add_row(mark, step.precision, str(step.batch_size), "", "", "", floor, "")
            continue
        over = "" if step.floor is None else f"{step.seconds / step.floor:.1f}"
        slow = "" if step.slow is None else _short(1000 * step.slow)
        speed = _short(step.batch_size / step.seconds)
        cells = (str(step.batch_size), _short(1000 * step.seconds), slow, speed, floor, over)
        table.add_row(mark, step.precision, *cells)
    console.print()
    console.print(table)
    notes = [
        f"{step.precision}, batch {step.batch_size}: {step.note}"
        for step in findings.steps
        if step.note and step not in left_out
    ]
    if left_out:
        # Rounded up, since it is no more than about right.
        enough = 10 * ceil((findings.all_s or 0.0) / 10)
        notes.append(
            f"{len(left_out)} of {len(findings.steps)} left out: about {enough} seconds would "
            f"measure {'it' if len(left_out) == 1 else 'them'} (--seconds {enough})"
        )
    for note in notes:
        console.print(Padding(Text(note), (0, 0, 0, 2), expand=False))
    table = Table("", title="Loading pairs, training aside", title_justify="left", box=None)
    for name in ("workers", "pairs/s, first epoch", "later epochs"):
        table.add_column(name, justify="right")
    for way in findings.loading:
        later = "" if way.later is None else _short(way.later)
        mark = ">" if way.workers == findings.workers else ""
        table.add_row(mark, str(way.workers), _short(way.first), later)
    console.print()
    console.print(table)
    if findings.drawn is not None:
        console.print("  on drawn pairs, because the recipe's own cannot be used:")
        console.print(Padding(Text(findings.drawn), (0, 0, 0, 2), expand=False))
    console.print()
    if advice.step_s is not None and advice.run_s is not None:
        console.print(
            f"In a run of the line marked >, the {advice.held_by} takes most of the time: "
            f"{_short(1000 * advice.step_s)} ms a step, {_short(1000 * advice.data_s)} ms to load "
            f"its data, {_short(1000 * advice.run_s)} ms with both"
        )
    else:
        console.print("The recipe's own step could not be measured")
    for setting in advice.settings:
        console.print(f"  --set {setting.assignment}", soft_wrap=True)
        console.print(f"      {setting.reason}")
    if not advice.settings and advice.step_s is not None:
        console.print("  no setting measured here would clearly make it faster")
    for remark in advice.remarks:
        if remark == advice.disturbance:
            continue  # it stands above
        console.print(Padding(Text(remark), (0, 0, 0, 2), expand=False))


def _rates(hardware: Hardware) -> str:
    rates = ", ".join(f"{name} {_short(rate / 1e12)}" for name, rate in hardware.flops.items())
    return f"{_short(hardware.bandwidth / 1e9)} GB/s read and written, {rates} TFLOP/s"


def _short(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
