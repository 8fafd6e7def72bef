"""A trained generator as something to call."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor, nn

from img2img.data.images import resize_image
from img2img.data.limits import check_claim
from img2img.data.memory import from_array, from_pillow, to_pillow
from img2img.inference.noise import seed_of
from img2img.inference.policy import Policy, has_noise
from img2img.inference.resizing import Mode, resize, resize_rows
from img2img.inference.running import Runner
from img2img.inference.samples import Moments, Samples
from img2img.picture import Picture, Pixels, to_depth
from img2img.tasks.base import Task, image_channels_of

AnyImage = TypeVar("AnyImage", PillowImage.Image, NDArray[Any], Tensor)

# Rows that are encoded together where only their checksum is wanted.
ROWS = 512
# Images of 256 x 256 pixels in a batch, unless the caller says otherwise: what CPUs and GPUs like.
BATCH, GPU_BATCH = 4, 16


class Translator:
    """Translates images with a trained generator; the same image gives the same result each time.

    Results depend neither on the batch nor on the thread: several threads may use one translator.

    Args:
        network: source to output, (B, C, H, W); it is changed to its test-time form in place.
        task: turns images into tensors and back.
        policy: normalisation and dropout at test time.
        device: where the network lies.
        seed: of the dropout noise, where the policy keeps it on.
        tile: sides of the tiles that large images are cut into, in pixels as the network sees them;
            0 never cuts, None cuts what would take more than 4 GiB of features.
        precise: the same network in float32 where `network` computes in less, which would leave
            images of more than 8 bits with no more than these. They go through this one then.

    Attributes:
        module: the network, (B, C, H, W) float32 in [-1, 1].
        task: as given.
        palette: colours (N, 3) of the classes that outputs are, or None where they are images.
        image_channels: channels of the images that go in, and of those that come out.
        noisy: whether samples differ.
        size_multiple: pixels that the network's height and width must be a multiple of.
        size_least: pixels that both must have at least.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        policy: Policy,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        tile: int | None = None,
        precise: nn.Module | None = None,
    ) -> None:
        self.device = torch.device(device)
        run = partial(
            Runner, channels=task.source_channels, policy=policy, device=self.device, tile=tile
        )
        self._runner = run(network)
        self._precise = self._runner if precise is None else run(precise)
        self.module = self._runner.network
        self.size_multiple, self.size_least = self._runner.multiple, self._runner.least
        self.task = task
        self.palette: NDArray[np.uint8] | None = getattr(task, "palette", None)
        self.image_channels = image_channels_of(task)
        self.noisy = has_noise(network)
        self.seed = seed
        self.scale = policy.scale

    @overload
    def __call__(self, image: AnyImage) -> AnyImage: ...

    @overload
    def __call__(self, image: Sequence[AnyImage]) -> list[AnyImage]: ...

    def __call__(self, image: Any) -> Any:
        """Translate one image or several: what goes in is what comes out, at the same depth.

        Where outputs are classes, a PIL image comes back as one of mode P whose values are the
        classes, an array as their colours in uint8, and a tensor as probabilities (N, H, W).

        Args:
            image: a PIL image of any mode, whose alpha is kept; an array (H, W), (H, W, C) or
                (B, H, W, C) of uint8, uint16, or floats in [0, 1]; a tensor of encoded sources,
                (C, H, W) or (B, C, H, W) float32 in [-1, 1], to which no scale is applied; or a
                list or tuple of images of one of these kinds, of any sizes.

        Raises:
            TypeError: it is none of these.
            ValueError: channels, a shape or a type that the model does not take.
        """
        if isinstance(image, Tensor):
            return self._tensors(image)
        if isinstance(image, np.ndarray) and image.ndim == 4:
            return np.stack(self._arrays(list(image))) if len(image) else image
        several = image if isinstance(image, (list, tuple)) else [image]
        kinds = {_kind(one) for one in several}
        if len(kinds) > 1:
            raise TypeError("expected images of one kind in a list, not of several")
        if PillowImage.Image in kinds:
            pictures = [from_pillow(one, self.image_channels[0]) for one in several]
            results: list[Any] = [to_pillow(made, self.palette) for made in self._all(pictures)]
        elif np.ndarray in kinds:
            results = list(self._arrays(several))
        else:
            results = [self._tensors(one) for one in several]
        return results if several is image else results[0]

    def translate_pictures(self, pictures: Sequence[Picture], *, sample: int = 0) -> list[Picture]:
        """Translate pictures of one size and type together; sizes and depths come back unchanged.

        The network sees them at the scale it was trained at; what it gives is resized back. Large
        ones are translated in tiles, one after the other.

        Args:
            pictures: images with as many channels as the task takes.
            sample: another number is other noise.
        """
        parts = self._parts(pictures, [sample] * len(pictures))
        return [self._compose(*both) for both in zip(pictures, parts, strict=True)]

    def sample(self, picture: Picture, count: int) -> Samples:
        """Several results for one image, with different noise; the first is the usual one.

        Args:
            picture: the image.
            count: how many.
        """
        moments = Moments(picture.pixels.shape[0])
        made: list[Picture] = []
        together = 1 if self.is_large(picture.size) else self.batch_size(picture.size)
        for first in range(0, count, together):
            which = range(first, min(first + together, count))
            for parts in self._parts([picture] * len(which), which):
                made.append(self._compose(picture, parts, moments, len(made) + 1))
        mean = self._to_picture(self._shown(moments.mean), picture)
        return Samples(made, mean, moments.deviation(count))

    def translate(self, sources: Tensor, *, sample: int = 0) -> Tensor:
        """Encoded sources (B, C, H, W) to outputs (B, C', H, W) float32, of any height and width.

        They are taken as the network should see them; no scale is applied. Sizes the network does
        not take are padded by reflection, and the output is cropped back.
        """
        size = (sources.shape[-2], sources.shape[-1])
        seeds = [self._seed([source], sample) for source in sources]
        if not self._runner.cuts(size):
            # A copy outside of inference mode, which autograd takes as well.
            return self._runner.whole(sources, seeds).clone()
        results = []
        for source, seed in zip(sources, seeds, strict=True):
            read = partial(_part, source)
            bands = self._runner.tiled(read, size, seed)
            results.append(torch.cat(list(bands), dim=1))
        return torch.stack(results)

    def is_large(self, size: tuple[int, int]) -> bool:
        """Whether an image of this width and height is translated in tiles."""
        width, height = self._seen(size)
        # In less precision it would be more, but whether an image is cut should not depend on it.
        return self._precise.cuts((height, width))

    def batch_size(self, size: tuple[int, int]) -> int:
        """How many images of this width and height go well together; results don't depend on it."""
        width, height = self._seen(size)
        images = BATCH if self.device.type == "cpu" else GPU_BATCH
        return max(1, images * 256 * 256 // (width * height))

    def _seen(self, size: tuple[int, int]) -> tuple[int, int]:
        return round(size[0] * self.scale[0]) or 1, round(size[1] * self.scale[1]) or 1

    def _parts(
        self, pictures: Sequence[Picture], samples: Sequence[int]
    ) -> list[Iterator[tuple[int, Tensor, Tensor]]]:
        """For each picture where rows begin, the outputs (C', n, W), and the sources (C, n, W)."""
        if self.is_large(pictures[0].size):
            return [self._in_bands(*both) for both in zip(pictures, samples, strict=True)]
        return [iter([(0, *both)]) for both in self._together(pictures, samples)]

    def _together(
        self, pictures: Sequence[Picture], samples: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        width, height = pictures[0].size
        sources = [self.task.encode_source(picture.pixels) for picture in pictures]
        seen = [self._resized(picture) for picture in pictures]
        if seen[0] is pictures[0].pixels:
            shown = sources
        else:
            shown = [self.task.encode_source(pixels) for pixels in seen]
        seeds = [self._seed([s], number) for s, number in zip(shown, samples, strict=True)]
        outputs = self._runner_for(pictures[0]).whole(torch.stack(shown), seeds).cpu()
        return zip(resize(outputs, (height, width), self._mode()), sources, strict=True)

    def _in_bands(self, picture: Picture, sample: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        encode, seen = self.task.encode_source, self._resized(picture)
        height, width = seen.shape[:2]
        bands = (encode(seen[row : row + ROWS]) for row in range(0, height, ROWS))
        seed = self._seed(bands, sample)
        outputs = self._runner_for(picture).tiled(
            lambda rows, columns: encode(np.ascontiguousarray(seen[rows, columns])),
            (height, width),
            seed,
        )
        full = (picture.pixels.shape[0], picture.pixels.shape[1])
        outputs = (band.cpu() for band in outputs)
        for row, band in resize_rows(outputs, height, full, self._mode()):
            yield row, band, encode(picture.pixels[row : row + band.shape[1]])

    def _compose(
        self,
        picture: Picture,
        parts: Iterable[tuple[int, Tensor, Tensor]],
        moments: Moments | None = None,
        count: int = 0,
    ) -> Picture:
        """One result out of its parts; `moments` gets the values of this `count`-th one."""
        made: Pixels | None = None
        for row, output, source in parts:
            shown = self.task.decode_target(output, source)
            if moments is not None:
                # Classes have no mean, their probabilities do.
                values = shown if self.palette is None else output.permute(1, 2, 0).numpy()
                moments.add(row, to_depth(values, np.float32), count)
            level = to_depth(shown, picture.pixels.dtype if self.palette is None else np.uint8)
            if made is None:
                made = np.empty((picture.pixels.shape[0], *level.shape[1:]), level.dtype)
            made[row : row + len(level)] = level
        assert made is not None
        return self._to_picture(made, picture)

    def _shown(self, mean: NDArray[np.float32]) -> Pixels:
        if self.palette is None:
            return mean
        probabilities = torch.from_numpy(mean).permute(2, 0, 1)
        return self.task.decode_target(probabilities, probabilities)

    def _to_picture(self, image: Pixels, source: Picture) -> Picture:
        if self.palette is not None:
            return Picture(to_depth(image, np.uint8), profiled=source.profiled)
        pixels = to_depth(image, source.pixels.dtype)
        return Picture(pixels, source.alpha, source.dtype, source.profiled)

    def _runner_for(self, picture: Picture) -> Runner:
        deep = picture.pixels.dtype != np.uint8 and self.palette is None
        return self._precise if deep else self._runner

    def _resized(self, picture: Picture) -> Pixels:
        seen = self._seen(picture.size)
        if seen == picture.size:
            return picture.pixels
        # The scale is the model file's word, which may be a stranger's.
        check_claim(*seen, picture.pixels.shape[2], picture.pixels.itemsize)
        return resize_image(picture.pixels, seen, self.task.source_interpolation)

    def _mode(self) -> Mode:
        if self.palette is not None:
            # Classes cannot be mixed, but their probabilities can; cubic would leave [0, 1].
            return "bilinear"
        return "nearest-exact" if self.task.target_interpolation == "nearest" else "bicubic"

    def _all(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Results for pictures of any sizes, in their order."""
        results: list[Picture] = []
        for _, group in groupby(pictures, key=lambda p: (p.pixels.shape, p.pixels.dtype)):
            alike = list(group)
            count = self.batch_size(alike[0].size)
            for first in range(0, len(alike), count):
                results += self.translate_pictures(alike[first : first + count])
        return results

    def _arrays(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        pictures = [from_array(array, self.image_channels[0]) for array in arrays]
        results = []
        for array, made in zip(arrays, self._all(pictures), strict=True):
            pixels = to_depth(made.pixels, made.dtype)
            flat = array.ndim == 2 and pixels.shape[2] == 1
            results.append(pixels[..., 0] if flat else pixels)
        return results

    def _tensors(self, image: Tensor) -> Tensor:
        if image.ndim not in (3, 4) or image.shape[-3] != self.task.source_channels:
            raise ValueError(
                f"expected a tensor ({self.task.source_channels}, H, W) or with a batch before it, "
                f"not {tuple(image.shape)}"
            )
        if not image.is_floating_point():
            raise ValueError(f"expected a tensor of floats in [-1, 1], not of {image.dtype}")
        batch = image if image.ndim == 4 else image[None]
        output = self.translate(batch).to(image.device)
        return output if image.ndim == 4 else output[0]

    def _seed(self, bands: Iterable[Tensor], sample: int) -> int:
        """Of an image's noise: it belongs to what is in the image, not to its place in a folder."""
        if not self.noisy:
            return 0
        checksum = 0
        for band in bands:
            rows = band.detach().float().cpu().permute(1, 2, 0)
            checksum = zlib.crc32(np.ascontiguousarray(rows.numpy()).tobytes(), checksum)
        return seed_of(checksum, self.seed, sample)


def _part(source: Tensor, rows: slice, columns: slice) -> Tensor:
    return source[:, rows, columns]


def _kind(image: object) -> type:
    for kind in (PillowImage.Image, np.ndarray, Tensor):
        if isinstance(image, kind):
            return kind
    raise TypeError(
        f"expected a PIL image, an array, a tensor, or a list of one of these, not "
        f"{type(image).__name__}"
    )
