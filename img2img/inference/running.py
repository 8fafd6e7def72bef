"""Images through the network: whole, or in tiles where they are too large for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from img2img.inference.moment import Moment
from img2img.inference.packing import packed_copy
from img2img.inference.policy import Policy, apply_policy
from img2img.inference.statistics import ImageNorm
from img2img.inference.tiles import (
    Axis,
    Read,
    blend,
    cut,
    read_tile,
    reflect_to_multiple,
    round_up,
    share_out,
    spread,
)

# Bytes that the features of one forward may take before an image is cut into tiles.
BUDGET = 4 << 30
# Sides of a tile, in pixels: 4 strides of a network that strides far, so that few are done twice.
TILE = 512
STRIDES = 4
# Sides of the images that show whether batches agree, and how well outputs in [-1, 1] should.
PROBE = 128
AGREEMENT = 2e-6


class Runner:
    """Runs a network in its test-time form.

    Args:
        network: source to output, (B, C, H, W); it is changed in place.
        channels: C of the source.
        policy: normalisation and dropout.
        device: where the network lies.
        tile: sides of tiles, in pixels; 0 never cuts, None cuts what would take more than the
            budget.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        policy: Policy,
        *,
        device: torch.device,
        tile: int | None,
    ) -> None:
        self.moment: Moment = apply_policy(network, policy)
        self.device = device
        # The layout that convolutions are fastest in.
        fast = device.type in ("cpu", "cuda")
        self.layout = torch.channels_last if fast else torch.contiguous_format
        self.network = network.requires_grad_(False).to(memory_format=self.layout)
        self.multiple = int(getattr(network, "size_multiple", 1))
        self.least = int(getattr(network, "size_least", 1))
        self.channels = channels
        self.tile = tile
        self._shares = any(isinstance(m, ImageNorm) for m in network.modules())
        self._pixels_at_once: int | None = None
        lowered = any(p.dtype == torch.bfloat16 for p in network.parameters())
        self._agree: bool | None = True if lowered else None
        self._lock = threading.Lock()
        # What forwards run on; on a CPU a copy that is made for the first of them, so that
        # `network` stays one that can be copied, saved, traced and differentiated.
        self._fast: nn.Module | None = None if device.type == "cpu" else self.network
        self._packing = threading.Lock()

    def whole(self, sources: Tensor, seeds: Sequence[int]) -> Tensor:
        """(B, C, H, W) to (B, C', H, W) float32; padded to what the network takes, cropped back."""
        height, width = sources.shape[-2:]
        padded = reflect_to_multiple(sources, self.multiple, self.least)
        if len(padded) == 1 or self.batches_agree():
            output = self._forward(padded, seeds)
        else:
            output = self._one_by_one(padded, seeds)
        return output[..., :height, :width]

    def tiled(self, read: Read, size: tuple[int, int], seed: int) -> Iterator[Tensor]:
        """The output of one image of (height, width) in bands of rows, (C', n, width) float32.

        Args:
            read: gives parts of the encoded source.
            size: of the image.
            seed: of the image's noise.
        """
        side = self.tile or max(TILE, STRIDES * self.multiple)
        rows, columns = (cut(length, side, self.multiple, self.least) for length in size)
        statistics = self._measure(read, rows, columns, seed) if self._shares else None

        def translate(row: int, column: int) -> Tensor:
            source = read_tile(read, rows, columns, row, column)[None]
            return self._forward(source, [seed], [(row, column)], statistics)[0]

        return blend(rows, columns, translate)

    def batches_agree(self) -> bool:
        """Whether an image gives the same in a batch as alone, tried once on three of noise.

        Most networks agree to the last bit. Some, with layers that sum in an order that depends on
        the batch before they divide by something small, do not, and are better run image by image.
        In bfloat16 nobody expects more than two digits.
        """
        with self._lock:
            if self._agree is None:
                side = round_up(max(PROBE, self.least), self.multiple)
                noise = torch.Generator().manual_seed(0)
                images = torch.rand(3, self.channels, side, side, generator=noise) * 2 - 1
                seeds = range(3)
                apart = self._forward(images, seeds) - self._one_by_one(images, seeds)
                self._agree = float(apart.abs().max()) < AGREEMENT
            return self._agree

    def _one_by_one(self, sources: Tensor, seeds: Sequence[int]) -> Tensor:
        return torch.cat(
            [self._forward(sources[i : i + 1], [seed]) for i, seed in enumerate(seeds)]
        )

    def cuts(self, size: tuple[int, int]) -> bool:
        """Whether an image of (height, width) goes through in tiles."""
        if self.tile is not None:
            return 0 < self.tile < max(size)
        # What the features are measured on is never cut, and most images are no larger.
        side = self._probe_side()
        return max(size) > side and size[0] * size[1] > self.pixels_at_once()

    def pixels_at_once(self) -> int:
        """How many pixels may be in the network at once, by what its layers give for a small image.

        All of them are counted, though most are gone before the last is there, and memory that
        happens to be free is not: a result must not depend on it.
        """
        side = self._probe_side()
        with self._lock:
            if self._pixels_at_once is None:
                taken = self._features_of(side)
                self._pixels_at_once = int(BUDGET * side * side / max(1, taken))
            return self._pixels_at_once

    def _fast_network(self) -> nn.Module:
        if self._fast is None:
            with self._packing:
                if self._fast is None:
                    self._fast = packed_copy(self.network, self.moment)
        return self._fast

    def _probe_side(self) -> int:
        return round_up(max(256, self.least), self.multiple)

    def _features_of(self, side: int) -> int:
        """Bytes of all that the layers give for one image with sides of so many pixels."""
        thread, taken = threading.get_ident(), 0

        def count(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal taken
            if isinstance(output, Tensor) and threading.get_ident() == thread:
                taken += output.nbytes

        layers = [m for m in self._fast_network().modules() if not any(m.children())]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        try:
            self._forward(torch.zeros(1, self.channels, side, side), [0])
        finally:
            for hook in hooks:
                hook.remove()
        return taken

    def _measure(
        self, read: Read, rows: Axis, columns: Axis, seed: int
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Means and variances that all tiles will share: those of patches from all over the image.

        As many as may be in the network at once, normalised together, layer after layer.
        """
        rows, columns = (share_out(axis, self.multiple) for axis in (rows, columns))
        count = max(1, self.pixels_at_once() // (rows.tile * columns.tile))
        starts = spread(rows, columns, count)
        patches = torch.stack([read_tile(read, rows, columns, *start) for start in starts])
        statistics: dict[int, tuple[Tensor, Tensor]] = {}
        self._forward(patches, [seed] * len(starts), starts, statistics, measuring=True)
        return statistics

    @torch.inference_mode()
    def _forward(
        self,
        sources: Tensor,
        seeds: Sequence[int],
        offsets: Sequence[tuple[int, int]] = (),
        statistics: dict[int, tuple[Tensor, Tensor]] | None = None,
        measuring: bool = False,
    ) -> Tensor:
        network = self._fast_network()
        moment = self.moment
        moment.seeds, moment.offsets = seeds, offsets
        moment.size = (sources.shape[-2], sources.shape[-1])
        moment.statistics, moment.measuring = statistics, measuring
        try:
            ready = sources.to(self.device, torch.float32).contiguous(memory_format=self.layout)
            output: Tensor = network(ready)
        finally:
            moment.seeds, moment.offsets, moment.statistics = (), (), None
        return output.float()
