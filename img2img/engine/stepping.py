"""One training step, in the quickest way that the device and the method allow."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from img2img.engine.capture import Recording, make_capturable
from img2img.engine.losses import StepLosses
from img2img.engine.memory import is_memory
from img2img.engine.watching import StillValues
from img2img.errors import Img2ImgError
from img2img.methods import Method

# As many as PyTorch's own notes on CUDA graphs run before they capture: by then cuDNN has chosen
# its algorithms, and optimizers have made their state.
EAGER_STEPS = 3


class Stepper:
    """Calls a method's step; on a GPU it is recorded once and then replayed as a whole.

    A recorded step launches hundreds of kernels in one call, so that a small batch does not wait
    for Python. What cannot be recorded is stepped as it is, which is slower and nothing else: on
    other devices, batches of another size than the first, and methods that ask the device for a
    number or count in Python. Where such a batch finds too little memory beside the recording,
    that is given back, and made anew two whole batches later.

    Args:
        method: what is trained; its state is loaded before, because recording changes how
            optimizers keep it.
        device: where its networks are.
        capture: record the step where that is possible.
        compile: let torch.compile fuse what the networks do; its first step takes a minute.
    """

    def __init__(
        self,
        method: Method,
        device: torch.device,
        *,
        capture: bool = True,
        compile: bool = False,
    ) -> None:
        self.method = method
        if compile:
            for network in method.networks.values():
                network.compile(dynamic=False)
        self._recording: Recording | None = None
        self._stream: torch.cuda.Stream | None = None
        self._eager_left = EAGER_STEPS
        self._odd_told = self._recorded_before = False
        self._benchmark = torch.backends.cudnn.benchmark
        if device.type == "cuda":
            # All steps have the same shapes, so that trying all algorithms once is worth it.
            torch.backends.cudnn.benchmark = True
        if capture and device.type == "cuda":
            reason = make_capturable(method.optimizers.values(), device)
            if reason is None:
                self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch carries no types here
            else:
                _say_eager(method, reason)

    @property
    def captured(self) -> bool:
        """Whether steps are replayed by now."""
        return self._recording is not None

    def close(self) -> None:
        """Let go of what was recorded, and of what was set for all of the process."""
        torch.backends.cudnn.benchmark = self._benchmark
        if self._recording is not None:
            self._recording.close()
        self._recording = self._stream = None

    def __call__(
        self, source: Tensor, target: Tensor, number: int, *, alike: bool = True
    ) -> StepLosses:
        """Step `number` (from 1) on a batch (B, C, H, W): its losses, on the device.

        They are overwritten by the next step. A step that differs from the others in more than its
        images (not `alike`) is none to record or to replay.

        Raises:
            Img2ImgError: the method, or a part of it, failed.
        """
        if self._recording is not None:
            if alike and self._recording.fits(source, target):
                return self._recording.replay(source, target)
            if not self._odd_told:
                self._odd_told = True
                warnings.warn(
                    f"step {number} has another number of pairs than the ones before, and runs "
                    f"without the CUDA graph, as all of its kind will: that is slower, and nothing "
                    f"else",
                    RuntimeWarning,
                    stacklevel=2,
                )
            if self._recording.leaves_room(source, target):
                losses = self._eager(source, target, number)
                self._recording.restore_gradients()
                return losses
            self._recording.close()
            self._recording, self._eager_left, self._recorded_before = None, 1, True
            return self._eager(source, target, number)
        if self._stream is None or not alike:
            return self._eager(source, target, number)
        return self._before_recording(self._stream, source, target, number)

    def _before_recording(
        self, stream: torch.cuda.Stream, source: Tensor, target: Tensor, number: int
    ) -> StepLosses:
        """An eager step on the stream that will be recorded; records the next after the last."""
        last = self._eager_left == 1
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        with (
            torch.cuda.stream(stream),
            StillValues(self.method, stream.device, watch=last) as still,
        ):
            losses = self._eager(source, target, number)
        current.wait_stream(stream)
        for tensor in (source, target):
            tensor.record_stream(stream)
        self._eager_left -= 1
        if last:
            reason = still.changed
            if reason is None:
                self._recording, reason = Recording.of(self.method, source, target, stream)
            if reason is not None:
                self._stream = None
                _say_eager(self.method, reason, no_longer=self._recorded_before)
        return losses

    def _eager(self, source: Tensor, target: Tensor, number: int) -> StepLosses:
        name = type(self.method).__name__
        try:
            losses = self.method.step(source, target)
        except Exception as error:
            if isinstance(error, Img2ImgError) or is_memory(error):
                raise
            raise Img2ImgError(
                f"{name} failed in step {number}: {type(error).__name__}: {error}; "
                f"--debug shows where"
            ) from error
        if not isinstance(losses, dict) or not all(isinstance(v, Tensor) for v in losses.values()):
            raise Img2ImgError(f"{name}.step must return its losses as a dict of tensors")
        for loss, value in losses.items():
            if value.numel() != 1:
                raise Img2ImgError(
                    f"{name}.step must return a single number for each loss, and {loss!r} is of "
                    f"shape {tuple(value.shape)}"
                )
        return StepLosses.of(losses, source.device)


def _say_eager(method: Method, reason: str, *, no_longer: bool = False) -> None:
    said = "steps are not recorded as a CUDA graph, so small batches are slower:"
    if no_longer:
        said = (
            "steps are no longer replayed from a CUDA graph, and small batches are slower from "
            "here on: what was recorded was given back for a batch of another size, and by now"
        )
    warnings.warn(f"{said} {type(method).__name__} {reason}", RuntimeWarning, stacklevel=3)
