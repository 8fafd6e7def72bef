"""Learning rate over a run, as a factor of what it begins with."""

from __future__ import annotations


def rate_factor(schedule: str, step: int, total_steps: int, decay_from: float) -> float:
    """The factor for step `step` (from 0) of `total_steps`.

    `constant` is the paper's; `linear` keeps 1 until the share `decay_from` of the run, then falls
    to 0, which is what the common PyTorch port does by the epoch.
    """
    if schedule == "constant":
        return 1.0
    start = decay_from * total_steps
    return 1.0 if step < start else (total_steps - step) / (total_steps - start)
