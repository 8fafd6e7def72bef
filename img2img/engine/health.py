"""Watches a run for the ways in which training goes wrong while every number stays finite."""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from img2img.engine.directory import RunDirectory
from img2img.engine.events import Events
from img2img.evaluation.outputs import Outputs

# Steps over which losses are averaged, and before which outputs are not judged: a network that
# has just begun gives much the same for everything, and a residual one gives its source.
SPAN = 500

# Below which the discriminator's losses on real and on generated images, and above which the
# generator's, mean that it tells them apart. On average over SPAN steps the larger of the first two
# never came below 0.23, 0.09 and 0.22 in good runs of these modes. A critic of wgan-gp is meant to
# be ahead, and has no scale to judge it by.
WON = {"vanilla": (0.05, 3.0), "lsgan": (0.03, 0.9), "hinge": (0.05, 0.95)}
# Shares of what targets do: of how they differ from each other, and from their sources. Good runs
# never came below 0.27 and 0.37 after SPAN steps.
COLLAPSED, COPIED = 0.1, 0.1
# How many times as far from their targets as the targets' mean would be; good runs stay below 1.7.
ASTRAY = 2.5
# A warning has passed when a measure is this many times what it was told at.
PASSED = 2.0


@dataclass(frozen=True)
class Game:
    """An adversarial loss whose values say who is ahead.

    Attributes:
        name: the generator's part of it in metrics; the discriminator's are `d_real`, `d_fake`.
        mode: `vanilla`, `lsgan`, `hinge` or `wgan-gp`.
        weight: by which the generator's part was multiplied.
    """

    name: str
    mode: str
    weight: float


class Health:
    """Points out a sick run: once when it begins, and again only after it had passed.

    A warning is a Python warning, a line of `metrics.jsonl` and the event `on_warning`. When it
    has passed is a line as well, so that a run that goes on knows what it has said: all it needs
    is in that file. It changes nothing in training.

    Attributes:
        unreadable: indices of the pairs that earlier sessions skipped.

    Args:
        directory: the run's; its metrics hold no line after the step that the run goes on from.
        events: who is told.
        game: None where the losses say nothing about who is ahead.
    """

    def __init__(self, directory: RunDirectory, events: Events, game: Game | None) -> None:
        self._directory, self._events = directory, events
        self._game = game if game is not None and game.mode in WON and game.weight > 0 else None
        self.unreadable: set[int] = set()
        self._told: set[str] = set()
        self._lines: deque[tuple[int, float, float, float]] = deque()  # steps, then three losses
        self._last_step = 0
        if directory.metrics.is_file():
            # Somebody may have written to it: what is no line of a run tells nothing.
            for text in directory.metrics.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                step = line.get("step") if isinstance(line, dict) else None
                if isinstance(step, int) and step >= 0:
                    self._recall(line)

    def warn(
        self, step: int, kind: str, message: str, *, aloud: bool = True, **more: str | int
    ) -> None:
        """Tell everybody; not aloud where it is said already. The line alone holds what is more."""
        line = {"step": step, "warning": {"kind": kind, "message": message, **more}}
        self._directory.add_metrics(line)
        if aloud:
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        self._events.tell("on_warning", step=step, kind=kind, message=message)

    def see_losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Judge the game by a log line."""
        means = self._window(step, losses)
        if means is None or self._game is None:
            return
        real, fake, adversarial = means
        low, high = WON[self._game.mode]
        ahead = max(real, fake)
        self._judge(
            "discriminator_won",
            step,
            begins=ahead < low and adversarial > high,
            passed=ahead > PASSED * low,
            message=(
                f"the discriminator has won: over the steps up to {step} it told real from "
                f"generated images almost without a mistake (d_real {real:.2g}, d_fake {fake:.2g}, "
                f"the generator's loss {adversarial:.2g}), so that the generator learns little "
                f"from it. What usually helps: a smaller discriminator (discriminator.width, or "
                f'"patchgan16"), another losses.adversarial.mode, more weight on the other losses, '
                f"more or more varied pairs"
            ),
        )

    def see_outputs(self, step: int, outputs: Outputs) -> None:
        """Judge what was made of a sample sheet's or a validation's pairs."""
        if not outputs.count:
            return
        pointless = outputs.pointless
        self._judge(
            "same_images",
            step,
            begins=pointless,
            passed=not pointless,
            message=(
                f"each of the {outputs.count} validation pairs looked at has a target that is its "
                f"source, so that there is nothing to learn. What usually helps: look at data.root "
                f"and the names of its folders (`img2img check`)"
            ),
        )
        if step < SPAN:
            return
        variety, moved, missed = outputs.variety, outputs.moved, outputs.missed
        if variety is not None:
            self._judge(
                "collapsed_output",
                step,
                begins=variety < COLLAPSED,
                passed=variety > PASSED * COLLAPSED,
                message=(
                    f"at step {step} outputs for different sources are nearly the same: from pair "
                    f"to pair they differ {variety:.1%} as much as their targets do. What usually "
                    f"helps: see whether sources and targets belong together (`img2img check`), "
                    f"more weight on l1, a lower method.learning_rate, another train.seed"
                ),
            )
        if moved is not None:
            self._judge(
                "copied_source",
                step,
                begins=moved < COPIED,
                passed=moved > PASSED * COPIED,
                message=(
                    f"at step {step} outputs are nearly their sources: they differ from them "
                    f"{moved:.1%} as much as the targets do. What usually helps: a higher "
                    f"method.learning_rate, generator.residual = false, more weight on l1, and a "
                    f"look at whether targets differ from sources in what matters (`img2img check`)"
                ),
            )
        # Those two say more of why outputs are far off.
        if missed is not None and not self._told & {"collapsed_output", "copied_source"}:
            self._judge(
                "astray",
                step,
                begins=missed > ASTRAY,
                passed=missed < 0.8 * ASTRAY,
                message=(
                    f"at step {step} outputs are {missed:.1f} times as far from their targets as "
                    f"the mean of all targets would be: training has gone astray. What usually "
                    f"helps: start again with a lower method.learning_rate"
                ),
            )

    def _judge(self, kind: str, step: int, *, begins: bool, passed: bool, message: str) -> None:
        if begins and kind not in self._told:
            self._told.add(kind)
            self.warn(step, kind, message)
        elif passed and kind in self._told:
            self._told.remove(kind)
            self._directory.add_metrics({"step": step, "passed": {"kind": kind}})

    def _window(self, step: int, losses: Mapping[str, Any]) -> tuple[float, float, float] | None:
        """Means of the three losses over the last SPAN steps or more; None before there are."""
        steps, self._last_step = step - self._last_step, step
        if self._game is None:
            return None
        found = [losses.get(name) for name in ("d_real", "d_fake", self._game.name)]
        if steps <= 0 or not all(isinstance(value, float) for value in found):
            return None
        real, fake, adversarial = (float(value) for value in found if value is not None)
        self._lines.append((steps, real, fake, adversarial / self._game.weight))
        total = sum(line[0] for line in self._lines)
        while total - self._lines[0][0] >= SPAN:
            total -= self._lines.popleft()[0]
        if total < SPAN:
            return None
        means = [sum(line[0] * line[i] for line in self._lines) / total for i in (1, 2, 3)]
        return means[0], means[1], means[2]

    def _recall(self, line: Any) -> None:
        """Take in a line that an earlier session wrote."""
        if isinstance(line.get("losses"), dict):
            self._window(line["step"], line["losses"])
        if isinstance(warning := line.get("warning"), dict):
            self._told.add(str(warning.get("kind")))
            if isinstance(pair := warning.get("pair"), int):
                self.unreadable.add(pair)
        if isinstance(line.get("passed"), dict):
            self._told.discard(str(line["passed"].get("kind")))
