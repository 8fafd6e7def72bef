"""The pairs that a folder holds to score a finished model on, and which way round they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from img2img.assemble.datasets import judge_of
from img2img.data.checks.direction import other_way
from img2img.data.shards import Shards, split_of
from img2img.data.side_by_side import SideBySide
from img2img.data.source import PairSource
from img2img.data.survey import Survey
from img2img.data.two_folders import TwoFolders, UnmatchedError
from img2img.errors import RequestError
from img2img.tasks.base import Task, image_channels_of, plainer_of

Direction = Literal["AtoB", "BtoA"]


def pairs_in(
    root: Path, seen: Survey, task: Task, direction: Direction
) -> tuple[PairSource, Sequence[Path]]:
    """The pairs of a folder that are scored, and its images without a partner.

    Args:
        root: the folder.
        seen: how it is laid out.
        task: says how many channels images have.
        direction: which image of a pair is the source.

    Raises:
        RequestError: it holds no pairs.
        DataError: none of its images has a partner.
    """
    channels = image_channels_of(task)
    if direction == "BtoA":
        channels = channels[1], channels[0]
    if seen.source == "side_by_side":
        return SideBySide(root, "scored", channels), ()
    if seen.source == "derived" or seen.folders is None:
        raise RequestError(
            f"{root} holds single images and no pairs: give the recipe that makes the sources"
        )
    first, second = seen.folders
    if seen.source == "shards":
        return Shards(root, "scored", channels, first=first, second=second), ()
    try:
        return TwoFolders(root, "scored", channels, first=first, second=second), ()
    except UnmatchedError as error:
        if error.matched is None:
            raise
        return error.matched, error.alone


def place_of(root: Path, pairs: PairSource, seen: Survey) -> str:
    """Which split's place the pairs of a folder lie in, such as `train`; empty if in none's."""
    if isinstance(pairs, Shards):
        return split_of(pairs.files[0].relative_to(root))
    folders = Path(pairs.name(0)).relative_to(root).parts[:-1]
    if seen.folders is None:
        return next((name for name in ("val", "test", "train") if folders[:1] == (name,)), "")
    for name in ("val", "test", "train"):
        # The three layouts of two folders.
        if name in folders[:2] or folders[0] == f"{name}{seen.folders[0]}":
            return name
    return ""


def look_round(pairs: PairSource, task: Task, direction: Direction) -> list[str]:
    """One note if some of the pairs look as if their images were the other way round."""
    judge, swap = judge_of(task, direction), direction == "BtoA"
    reason = other_way(pairs, judge, plainer_of(task), swap=swap)
    if reason is None:
        return []
    return [f"{reason}: the other way round it is --direction {exchanged(direction)}"]


def exchanged(direction: Direction) -> Direction:
    """The other one."""
    return "AtoB" if direction == "BtoA" else "BtoA"
