"""What a run was trained with and on: `environment.json`."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

import torch

from img2img.data.loading import PairDataset
from img2img.engine.run import Run
from img2img.plugins import Plugins


def environment(plugins: Plugins, run: Run, precision: str) -> dict[str, Any]:
    """What `environment.json` records: versions, device, sizes of data and networks."""
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else None
    return {
        "img2img": version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": str(run.device),
        "device_name": device or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": run.processes.world_size,
        "global_batch": run.plan.batch_size * run.processes.world_size,
        "train_pairs": len(run.train_pairs),
        "validation_pairs": len(run.validation_pairs),
        "train_fingerprint": _fingerprint(run.train_pairs),
        "validation_fingerprint": _fingerprint(run.validation_pairs),
        "precision": precision,
        "plugins": plugins.origins,
        "git_commit": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": {
            name: sum(p.numel() for p in network.parameters())
            for name, network in run.method.networks.items()
        },
    }


def version() -> str:
    """This program's version."""
    return importlib.metadata.version("img2img")


def _fingerprint(dataset: PairDataset) -> str | None:
    """What shows that pairs are others, from sources that say it."""
    found = getattr(dataset.pairs, "fingerprint", None)
    return str(found()) if callable(found) else None


def _git_commit() -> str | None:
    try:
        shown = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip() or None
