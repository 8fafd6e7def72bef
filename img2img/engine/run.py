"""A run, assembled: plain values, modules and data, ready to train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from img2img.bundle import BundleInfo
from img2img.data.loading import PairDataset
from img2img.engine.directory import RunDirectory
from img2img.engine.health import Game
from img2img.engine.processes import Processes
from img2img.engine.schedule import Schedule
from img2img.inference import Policy
from img2img.methods import Method, WeightedLoss
from img2img.metrics import Metric
from img2img.tasks.base import Task


@dataclass(frozen=True)
class Plan:
    """How long to train and how often to look.

    Attributes:
        total_steps: steps in the whole run.
        batch_size: pairs a step, in each process.
        seed: of data order and augmentation.
        log_every, sample_every, checkpoint_every: in steps.
        validate_every: in steps; 0 only at the end.
        sample_count: rows of a sample sheet.
        keep_checkpoints: how many remain.
        schedule: of the learning rate.
        ema_decay: of the averaged weights; 0 averages none.
        workers: processes that load data; 0 loads in this one.
        capture: record the step as a CUDA graph, where there are such.
        compile: let torch.compile work on the networks.
        best_by: the validation score of the best model; None is the first there is.
        game: an adversarial loss that says who is ahead, where there is such.
    """

    total_steps: int
    batch_size: int
    seed: int
    log_every: int
    sample_every: int
    checkpoint_every: int
    validate_every: int
    sample_count: int
    keep_checkpoints: int
    schedule: Schedule
    ema_decay: float
    workers: int
    capture: bool = True
    compile: bool = False
    best_by: str | None = None
    game: Game | None = None


@dataclass(frozen=True)
class Run:
    """Everything that training needs; no recipe, registry or name of a component in it.

    Attributes:
        directory: where it writes.
        method: networks, optimizers and the step.
        task: turns tensors into images for the samples.
        train_pairs: augmented pairs to train on.
        still_pairs: the same pairs as validation sees them, for the mean target.
        validation_pairs: held-out pairs.
        build_metrics: what validation computes, by name; a new set of pairs needs new ones.
        plan: how long, how often.
        policy: how the finished model behaves.
        device: where it trains.
        bundle: what the finished model says of itself.
        recipe: the whole recipe as plain values, for those who watch.
        processes: those that train together; the plan's batch is that of each.
        losses: the recipe's, of which the checkpoints keep what changes.
    """

    directory: RunDirectory
    method: Method
    task: Task
    train_pairs: PairDataset
    still_pairs: PairDataset
    validation_pairs: PairDataset
    build_metrics: Callable[[], dict[str, Metric]]
    plan: Plan
    policy: Policy
    device: torch.device
    bundle: BundleInfo
    recipe: dict[str, Any]
    processes: Processes = field(default_factory=Processes)
    losses: Sequence[WeightedLoss] = ()
