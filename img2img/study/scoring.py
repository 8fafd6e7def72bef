"""The share of trials in which people were fooled, with a bootstrap interval."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from img2img.errors import RequestError
from img2img.study.answers import Answers

CONFIDENCE = 0.95
RESAMPLES = 10_000
# Two frames at 60 per second, a little more: one is lost now and then on any machine.
OFF_MS = 40.0


@dataclass(frozen=True)
class Participant:
    """What one participant said.

    Attributes:
        participant: who.
        file: of the answers.
        trials: answered, without practice.
        fooled: in how many of them the real image was taken for the generated one.
        share: the one over the other.
        mistimed: trials in which an image was on the screen more than 40 ms too long or too short.
        median_response_ms: how long an answer took.
    """

    participant: str
    file: str
    trials: int
    fooled: int
    share: float
    mistimed: int
    median_response_ms: float


@dataclass(frozen=True)
class Score:
    """The outcome of a study.

    Attributes:
        study: its id.
        about: what is said of the model.
        planned: trials that each participant should have answered.
        trials: answered by all together.
        fooled: of them.
        share: fooled over trials, in [0, 1].
        low, high: the interval of 95%.
        resampled: `participants`, or `trials` where there is one participant.
        participants: one by one.
    """

    study: str
    about: dict[str, object]
    planned: int
    trials: int
    fooled: int
    share: float
    low: float
    high: float
    resampled: Literal["participants", "trials"]
    seed: int
    participants: list[Participant]
    confidence: float = CONFIDENCE
    resamples: int = RESAMPLES


def score(answers: Sequence[Answers], files: Sequence[Path], *, seed: int = 0) -> Score:
    """The share of trials in which participants took the real image for the generated one.

    Args:
        answers: of one study, as `read_all` gives them.
        files: which they were read from.
        seed: of the bootstrap.

    Raises:
        RequestError: one of them answers nothing but practice.
    """
    people = []
    for one, file in zip(answers, files, strict=True):
        fooled, counted = one.fooled(), one.counted()
        if not counted:
            raise RequestError(f"{file} answers none of the trials that count: leave it out")
        people.append(
            Participant(
                one.participant,
                str(file),
                len(counted),
                sum(fooled),
                sum(fooled) / len(counted),
                sum(
                    any(abs(shown - 1000 * one.seconds) > OFF_MS for shown in answer.shown_ms)
                    for answer in counted
                ),
                statistics.median(answer.response_ms for answer in counted),
            )
        )
    # One participant cannot stand for others: then it is the trials that might have been others.
    alone = len(people) == 1
    if alone:
        fooled_in = [int(one) for one in answers[0].fooled()]
        counts = [1] * len(fooled_in)
    else:
        fooled_in, counts = [one.fooled for one in people], [one.trials for one in people]
    low, high = bootstrap(np.array(fooled_in), np.array(counts), seed=seed)
    total = sum(one.trials for one in people)
    return Score(
        study=answers[0].study,
        about=answers[0].about,
        planned=answers[0].trials,
        trials=total,
        fooled=sum(one.fooled for one in people),
        share=sum(one.fooled for one in people) / total,
        low=low,
        high=high,
        resampled="trials" if alone else "participants",
        seed=seed,
        participants=people,
    )


def bootstrap(
    fooled: NDArray[np.int_], counts: NDArray[np.int_], *, seed: int
) -> tuple[float, float]:
    """The percentile interval of sum(fooled) / sum(counts), entries drawn with replacement.

    Args:
        fooled: (N,) of each participant, or of each trial.
        counts: (N,) trials of each.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed)
    shares = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        chosen = draw.integers(0, len(fooled), len(fooled))
        shares[number] = fooled[chosen].sum() / counts[chosen].sum()
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(shares, [tail, 100 - tail])
    return float(low), float(high)
