"""One training step, in the quickest way the device and the method allow."""

from __future__ import annotations

import torch
from torch import Tensor

from img2img.errors import Img2ImgError
from img2img.methods import Method


class Stepper:
    """Calls a method's step; what a plugin's part raises in it is told with the step it was in.

    Args:
        method: what is trained; its state is loaded before.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def __call__(self, source: Tensor, target: Tensor, number: int) -> dict[str, Tensor]:
        """Step `number` (from 1) on a batch (B, C, H, W): its losses, scalars on the device.

        Raises:
            Img2ImgError: the method, or a part of it, failed.
        """
        name = type(self.method).__name__
        try:
            losses = self.method.step(source, target)
        except (Img2ImgError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if "memory" in str(error):
                raise  # the CPU's allocator has no type of its own
            raise Img2ImgError(
                f"{name} failed in step {number}: {type(error).__name__}: {error}; "
                f"--debug shows where"
            ) from error
        if not isinstance(losses, dict) or not all(isinstance(v, Tensor) for v in losses.values()):
            raise Img2ImgError(f"{name}.step must return its losses as a dict of tensors")
        return losses
