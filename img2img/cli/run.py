"""`img2img run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img2img import signals
from img2img.cli.options import (
    DebugOption,
    DeviceOption,
    PluginOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    load_plugins_for,
)

if TYPE_CHECKING:
    from rich.console import Console

    from img2img.training import FinishedRun


def run(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None, typer.Option(help="The run directory.", show_default="runs/NAME")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the directory stands.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace a run that is there.")] = False,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16.", show_default="the recipe's")
    ] = None,
    plugin: PluginOption = None,
    end_with_stdin: Annotated[bool, typer.Option("--end-with-stdin", hidden=True)] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train what a recipe says and leave a finished run directory."""
    import contextlib
    import gc
    import io

    # Of what imports and setting up make nothing is garbage, and looking for some takes a fifth of
    # the time until the first step.
    gc.disable()

    from rich.console import Console

    from img2img.cli.values import one_of
    from img2img.engine.joining import joined
    from img2img.errors import Interrupted
    from img2img.report.progress import ProgressDisplay

    if end_with_stdin:  # for `img2img compare`, whose runs end with it
        signals.end_with_stdin()
    if precision is not None:
        one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    with joined(device) as processes:
        quiet = quiet or not processes.main
        console = Console(stderr=True, quiet=quiet, markup=False)
        display = ProgressDisplay(console, processes.world_size)
        with contextlib.ExitStack() as silence:
            if not processes.main:
                silence.enter_context(contextlib.redirect_stderr(io.StringIO()))
            plugins = load_plugins_for(plugin)
        if processes.main:
            plugins.manager.register(display, name="progress display")
        display.start()

        def on_step(step: int) -> None:
            if not gc.isenabled():
                gc.freeze()
                gc.enable()
            display.advance(step)

        try:
            from img2img.training import train_recipe

            finished = train_recipe(
                recipe,
                plugins,
                overrides=set_ or (),
                out=out,
                resume=resume,
                fresh=fresh,
                device=device,
                precision=precision,
                on_step=on_step,
                processes=processes,
            )
        except (KeyboardInterrupt, Interrupted) as asked:
            said = str(asked) or "interrupted before training began; nothing was changed"
            if fresh:
                said = said.replace("--resume", "--resume instead of --fresh")
            raise Interrupted(said) from None
        finally:
            gc.enable()
            gc.unfreeze()  # or what libraries take down at the very end is told as leaked
            display.stop()
    if processes.main:
        _report(console, finished, plugin, quiet=quiet)


def _report(
    console: Console, finished: FinishedRun, plugin: list[Path] | None, *, quiet: bool
) -> None:
    """Say how good the model is, and what to do with it."""
    import shlex

    from img2img.cli.scores import print_validation
    from img2img.engine.best import describe_best
    from img2img.engine.health import SPAN

    scores = finished.validation
    if scores and not quiet:
        good = print_validation(console, scores)
        far = scores.get("l1", 0) > 2 * scores.get("l1_mean_target", 1)
        # Networks that have just begun are far from everything.
        if good is False and far and finished.steps >= SPAN:
            console.print(
                "far from that: training has gone astray, which a lower method.learning_rate "
                "usually helps; look at the samples"
            )
        elif good is False:
            console.print("not better than that yet: train longer, or look at the samples")
    path = finished.path
    if best := describe_best(path / "best.safetensors"):
        console.print(f"best: {best} -> best.safetensors", highlight=False, soft_wrap=True)
    console.print(f"\nfinished: {path}", highlight=False, soft_wrap=True)
    console.print(f"  look at   {path / 'report.html'}", highlight=False, soft_wrap=True)
    files = [part for file in plugin or () for part in ("--plugin", str(file))]
    command = shlex.join(["img2img", "infer", str(path), "INPUT", "OUTPUT", *files])
    console.print(f"  use it    {command}", highlight=False, soft_wrap=True)
