"""Trains 20,000 small steps and looks at memory, open files and threads on the way.

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from record import add_record_option, check_page, record
from run_compare import events, faults, report_data
from torture_recipe import make_recipe

from img2img import hookimpl
from img2img.engine.directory import RunDirectory
from img2img.plugins import load_plugins
from img2img.report.page import write_report
from img2img.training import to_assignments, train_recipe

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
WARM = 1000  # steps after which nothing is to grow
ALLOWED = 0.02


class Watcher:
    """Notes every `every` steps what this process holds."""

    def __init__(self, every: int) -> None:
        self.every, self.rows = every, list[dict[str, float]]()
        self.began = time.monotonic()

    @hookimpl
    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        if "losses" in metrics and metrics["step"] % self.every == 0:
            self.rows.append(
                {
                    "step": metrics["step"],
                    **resident(),
                    "handles": len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208  # names, not paths
                    "threads": threading.active_count(),
                    "objects": len(gc.get_objects()),
                    "elapsed_s": time.monotonic() - self.began,
                }
            )


def resident() -> dict[str, float]:
    """Memory of this process in MiB: all that is resident, and what of it is no file's."""
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, size = line.split()[:2]
        found[name] = int(size) / 1024
    return {"resident_mib": found["Rss:"], "anonymous_mib": found["Anonymous:"]}


def growth(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """By what share the largest value after the first `WARM` steps lies above the one there."""
    after = [row[key] for row in rows if row["step"] >= WARM] or [rows[-1][key]]
    return max(after) / after[0] - 1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--sample-every", type=int, default=2)
    parser.add_argument("--checkpoint-every", type=int, default=100)
    parser.add_argument("--every", type=int, default=500, help="steps between two looks")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the run here")
    add_record_option(parser, PAGE)
    chosen = parser.parse_args(arguments)
    check_page(chosen.record, torch.device("cpu"), "long")
    work = Path(tempfile.mkdtemp(prefix="long-"))
    try:
        outcome = measure(chosen, work)
    finally:
        shutil.rmtree(work)
    print(json.dumps(outcome, indent=1))
    if chosen.record is not None:
        record(
            chosen.record,
            "long",
            torch.device("cpu"),
            ("step", "resident MiB", "anonymous MiB", "handles", "threads"),
            [
                [
                    f"{int(row['step']):,}",
                    *(f"{row[key]:.1f}" for key in MEMORY),
                    *(int(row[key]) for key in ("handles", "threads")),
                ]
                for row in outcome["rows"]
                if row["step"] in (chosen.every, WARM) or row["step"] % (chosen.steps // 5) == 0
            ],
            note=f"After step {WARM:,}: resident memory at most {outcome['growth']:.1%} above what "
            f"it was there, handles between {outcome['handles'][0]} and {outcome['handles'][1]}. "
            f"{outcome['lines']:,} log lines, {outcome['samples']:,} samples, a report of "
            f"{outcome['report_mb']:.1f} MB that took {outcome['report_s']:.2f} s to write; "
            f"{outcome['wall_s']:.0f} s in all.",
        )
    sys.exit(1 if outcome["wrong"] else 0)


MEMORY = ("resident_mib", "anonymous_mib")


def measure(chosen: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train, and look at what is there then."""
    run = chosen.out or work / "run"
    plugins = load_plugins(entry_points=False)
    watcher = Watcher(chosen.every)
    plugins.manager.register(watcher)
    settings = {
        "train.log_every": chosen.log_every,
        "train.sample_every": chosen.sample_every,
        "train.checkpoint_every": chosen.checkpoint_every,
        "train.validate_every": chosen.checkpoint_every,
        "train.sample_count": 1,
        "data.workers": chosen.workers,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        train_recipe(
            str(make_recipe(work, chosen.steps, 16)),
            plugins,
            overrides=to_assignments(settings),
            out=run,
            device="cpu",
        )
    wall_s = time.monotonic() - watcher.began
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line["step"] for line in lines if "losses" in line]
    due = list(range(chosen.log_every, chosen.steps + 1, chosen.log_every))
    scalars = events(run / "tensorboard")
    began = time.monotonic()
    write_report(run)
    report_s = time.monotonic() - began
    began = time.monotonic()
    RunDirectory(run).drop_metrics_after(chosen.steps)
    drop_s = time.monotonic() - began
    handles = [int(row["handles"]) for row in watcher.rows[min(2, len(watcher.rows) - 1) :]]
    page = report_data(run / "report.html")
    wrong = faults(run)
    wrong += ["metrics.jsonl lacks steps"] * (logged != due)
    wrong += ["TensorBoard lacks steps"] * ([step for step, _ in scalars["losses/l1"]] != due)
    sheets = list(range(0, chosen.steps + 1, chosen.sample_every))
    there = sorted(int(path.stem[5:]) for path in (run / "samples").iterdir())
    wrong += ["sample sheets are missing"] * (there != sheets)
    wrong += ["TensorBoard lacks samples"] * ([s for s, _ in scalars["samples"]] != sheets)
    wrong += ["memory grows"] * (growth(watcher.rows, "resident_mib") > ALLOWED)
    wrong += ["handles grow"] * (max(handles) > handles[0])
    return {
        "wrong": wrong,
        "growth": growth(watcher.rows, "resident_mib"),
        "growth_anonymous": growth(watcher.rows, "anonymous_mib"),
        "handles": [min(handles), max(handles)],
        "lines": len(logged),
        "samples": len(there),
        "samples_shown": len(page["samples"]),
        "report_mb": (run / "report.html").stat().st_size / 1e6,
        "report_s": report_s,
        "drop_metrics_s": drop_s,
        "metrics_mb": (run / "metrics.jsonl").stat().st_size / 1e6,
        "tensorboard_mb": sum(p.stat().st_size for p in (run / "tensorboard").iterdir()) / 1e6,
        "wall_s": wall_s,
        "rows": watcher.rows,
    }


if __name__ == "__main__":
    main()
