"""What a model gives for probes, which an exported file must give too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from img2img.exporting.graph import copy_network
from img2img.exporting.probes import Probe
from img2img.inference import Translator
from img2img.inference.tiles import reflect_to_multiple
from img2img.picture import to_depth
from img2img.tasks.base import image_channels_of


@dataclass(frozen=True)
class Expected:
    """What the model gives for a probe.

    Attributes:
        output: of the network, cropped to the images, (B, C', H, W) float32.
        images: the task's images of it, (B, C', H, W) float32 in [0, 1].
        exact: they are not rounded to levels.
    """

    output: Tensor
    images: Tensor
    exact: bool


def expect(translator: Translator, probes: Sequence[Probe]) -> list[Expected]:
    """What a translator gives for probes, by the task's own methods, at the size they have.

    Its network computes in double precision, so that a file is not blamed for rounding that it does
    better. A network that only computes in float32 does so.

    Args:
        translator: the model; its dropout is off.
        probes: the images.
    """
    task = translator.task
    sources = [
        torch.stack([task.encode_source(image) for image in probe.images]) for probe in probes
    ]
    outputs = _outputs(translator, sources)
    channels = image_channels_of(task)[1]
    expected = []
    for source, output in zip(sources, outputs, strict=True):
        decoded = [task.decode_target(o, s) for o, s in zip(output, source, strict=True)]
        exact = all(np.issubdtype(image.dtype, np.floating) for image in decoded)
        floats = np.stack([to_depth(image, np.float32) for image in decoded])
        images = torch.from_numpy(floats).permute(0, 3, 1, 2)
        expected.append(Expected(output, images[:, :channels], exact))
    return expected


@torch.no_grad()
def _outputs(translator: Translator, sources: Sequence[Tensor]) -> list[Tensor]:
    network = copy_network(translator.module).double()
    outputs = []
    try:
        for source in sources:
            height, width = source.shape[-2:]
            padded = reflect_to_multiple(source, translator.size_multiple, translator.size_least)
            # One by one, because results are not to depend on the batch.
            alone = [network(image[None].double()) for image in padded]
            outputs.append(torch.cat(alone)[..., :height, :width].float())
    # Of other types than its weights some layers make tensors of their own.
    except RuntimeError:
        return [translator.translate(source) for source in sources]
    return outputs
