"""Logs runs to Weights & Biases, a plugin for img2img."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import img2img
from img2img.files import whole_file

TRUE = ("1", "true", "yes", "on")


class WandbLogger:
    """Sends losses, validation scores, sample sheets and warnings of a run to Weights & Biases.

    Its own files lie in `wandb/` in the run directory, W&B's id among them, so that a run that is
    resumed goes on as the same one there. `WANDB_MODE`, `WANDB_PROJECT` and the other variables of
    W&B count; without an API key, or where W&B cannot be reached, nothing is asked, and the run is
    logged offline. `IMG2IMG_WANDB_CHECKPOINTS=1` also sends checkpoints.
    """

    def __init__(self) -> None:
        self._run: Any = None

    @img2img.hookimpl
    def on_run_start(
        self, run_dir: Path, recipe: Mapping[str, Any], start_step: int, total_steps: int
    ) -> None:
        if os.environ.get("WANDB_MODE") == "":
            del os.environ["WANDB_MODE"]  # W&B refuses to start with an empty one

        # Here and not above: it takes seconds, and every command loads this module.
        import wandb

        folder = run_dir / "wandb"
        folder.mkdir(exist_ok=True)
        run_id = os.environ.get("WANDB_RUN_ID") or _known_id(folder, start_step)
        run_id = run_id or secrets.token_hex(4)
        with whole_file(folder / "img2img.json") as file:
            file.write_text(json.dumps({"id": run_id}) + "\n", encoding="utf-8")
        init = partial(
            wandb.init,
            project=os.environ.get("WANDB_PROJECT", "img2img"),
            name=os.environ.get("WANDB_NAME", run_dir.resolve().name),
            dir=str(run_dir),
            id=run_id,
            resume="allow",
            config={**recipe, "total_steps": total_steps},
            # A run that goes on may do so for more steps.
            allow_val_change=True,
            # What is on the terminal belongs to the program: W&B would take it over.
            settings=wandb.Settings(console=os.environ.get("WANDB_CONSOLE", "off")),
        )
        try:
            self._run = init(mode=_mode(wandb))
        except wandb.errors.Error as error:
            if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
                raise
            # A run of days should not go unlogged for an hour without network at its start.
            _tell(f"W&B cannot be reached or refuses the key ({error}), so")
            self._run = init(mode="offline")
        # By a number of our own: W&B's only grows, and a run that was killed repeats some steps.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    @img2img.hookimpl
    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        values = {
            f"{group}/{name}": value
            for group in ("losses", "validation")
            for name, value in metrics.get(group, {}).items()
            if value is not None
        }
        if metrics.get("images_per_s") is not None:
            values["speed/images_per_s"] = metrics["images_per_s"]
        if values:
            self._log(metrics["step"], values)

    @img2img.hookimpl
    def on_samples(self, step: int, path: Path) -> None:
        if self._run is not None:
            import wandb

            self._log(step, {"samples": wandb.Image(str(path))})

    @img2img.hookimpl
    def on_warning(self, step: int, kind: str, message: str) -> None:
        if self._run is not None:
            self._run.alert(title=kind, text=f"step {step}: {message}", level="WARN")
            self._log(step, {f"warnings/{kind}": 1})

    @img2img.hookimpl
    def on_checkpoint(self, step: int, path: Path) -> None:
        if os.environ.get("IMG2IMG_WANDB_CHECKPOINTS", "").lower() not in TRUE:
            return
        if self._run is not None:
            import wandb

            artifact = wandb.Artifact(
                f"checkpoint-{self._run.id}", "model", metadata={"step": step}
            )
            # Copied first: the run removes its older checkpoints.
            artifact.add_dir(str(path), policy="mutable")
            self._run.log_artifact(artifact)

    @img2img.hookimpl
    def on_run_end(self, step: int, finished: bool) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.summary["finished"] = finished
            run.finish(exit_code=0 if finished else 1)

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if self._run is not None:  # outside a run
            self._run.log({"step": step, **values})


def _known_id(folder: Path, start_step: int) -> str | None:
    """The id of a run that goes on; one that starts over is another."""
    if not start_step:
        return None
    try:
        known = json.loads((folder / "img2img.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if isinstance(known, str) else None


def _mode(wandb: Any) -> Literal["offline"] | None:
    """`offline` where W&B would otherwise ask for a key, which nobody may be there to give."""
    if os.environ.get("WANDB_MODE"):
        return None
    if wandb.login(prompt=False):
        return None
    _tell("there is no API key, which `wandb login` gives, so")
    return "offline"


def _tell(why: str) -> None:
    print(
        f"img2img-wandb: {why} the run is logged offline; `wandb sync` sends what is there, and "
        f"WANDB_MODE=offline or disabled keeps this quiet",
        file=sys.stderr,
    )


LOGGER = WandbLogger()
