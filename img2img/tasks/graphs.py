"""What tasks do to images, as torch modules that can be exported with a network.

A source graph takes images (B, C, H, W) float32 in [0, 1] and gives what the network takes; a
target graph takes the network's output and those images, and gives images in [0, 1]. They do what
the task's `encode_source` and `decode_target` do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.tasks.classes import REACH, SURE
from img2img.tasks.palettes import Colours

# CIE 1976 as OpenCV has it: luminance of linear sRGB, and where its cube root becomes a line.
LUMINANCE = (0.212671, 0.715160, 0.072169)
KNEE, SLOPE, STEEP, OFFSET = 0.008856, 7.787, 903.3, 16 / 116
# White point D65, and XYZ to linear sRGB (IEC 61966-2-1).
WHITE = (0.950456, 1.0, 1.088754)
XYZ_TO_RGB = (
    (3.240479, -1.53715, -0.498535),
    (-0.969256, 1.875991, 0.041556),
    (0.055648, -0.204043, 1.057311),
)


class SignedSource(nn.Module):
    """Images as they are, scaled. Shape: (B, C, H, W) in [0, 1] -> the same in [-1, 1]."""

    def forward(self, image: Tensor) -> Tensor:
        return image * 2 - 1


class GreySource(nn.Module):
    """Luma of 8 bits (ITU-R BT.601). Shape: (B, 3 or 1, H, W) in [0, 1] -> (B, 1, H, W) in [-1, 1].

    Args:
        threshold: unless 0, levels from this one up become white and all others black.
        invert: black becomes white, before the threshold.
    """

    def __init__(self, *, threshold: int = 0, invert: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.invert = invert

    def forward(self, image: Tensor) -> Tensor:
        grey = to_levels(image)
        if image.shape[1] == 3:
            # Thousandths: whole numbers, which float32 adds up without error.
            red, green, blue = grey[:, :1], grey[:, 1:2], grey[:, 2:]
            grey = ((299 * red + 587 * green + 114 * blue) / 1000).round()
        if self.invert:
            grey = 255 - grey
        if self.threshold:
            grey = (grey >= self.threshold).to(image.dtype) * 255
        return grey / 127.5 - 1


class ClassSource(nn.Module):
    """The class of each pixel of a label map, by the rule of `classes.to_classes`.

    Shape: (B, 3, H, W) in [0, 1] -> its colours (B, 3, H, W) in [-1, 1], or one-hot (B, N, H, W).

    Args:
        palette: colours of the classes, (N, 3).
        one_hot: a channel for each class.
    """

    colours: Tensor
    squares: Tensor
    shown: Tensor

    def __init__(self, palette: Colours, *, one_hot: bool) -> None:
        super().__init__()
        self.one_hot = one_hot
        colours = torch.from_numpy(palette.astype("float32"))
        self.register_buffer("colours", -2 * colours[:, :, None, None])
        self.register_buffer("squares", colours.square().sum(dim=1))
        self.register_buffer("shown", colours / 127.5 - 1)

    def forward(self, image: Tensor) -> Tensor:
        classes = self._classes(to_levels(image))
        if self.one_hot:
            return self._is_class(classes).to(image.dtype)
        return self.shown[classes].permute(0, 3, 1, 2)

    def _classes(self, levels: Tensor) -> Tensor:
        # |p - c|^2 without its |p|^2; whole numbers that float32 holds exactly.
        rest = F.conv2d(levels, self.colours, self.squares)
        nearest = rest.argmin(dim=1)
        distance = rest.amin(dim=1) + levels.square().sum(dim=1)
        sure = distance <= SURE * SURE
        here = (self._is_class(nearest) & sure[:, None]).to(levels.dtype)
        reached = F.max_pool2d(here, 2 * REACH + 1, stride=1, padding=REACH) > 0
        # Larger than any distance, so that a class out of reach is not chosen.
        among = torch.where(reached, rest, torch.full_like(rest, 2.0**20)).argmin(dim=1)
        return torch.where(sure | ~reached.any(dim=1), nearest, among)

    def _is_class(self, classes: Tensor) -> Tensor:
        count = torch.arange(self.squares.shape[0], device=classes.device)
        return classes[:, None] == count[:, None, None]


class LightnessSource(nn.Module):
    """CIE lightness L of sRGB. Shape: (B, 3, H, W) in [0, 1] -> (B, 1, H, W), L / 50 - 1."""

    def forward(self, image: Tensor) -> Tensor:
        return lightness(image) / 50 - 1


class SignedTarget(nn.Module):
    """Outputs in [-1, 1] as images. Shape: (B, C, H, W) -> the same in [0, 1]."""

    def forward(self, output: Tensor, image: Tensor) -> Tensor:
        return ((output + 1) * 0.5).clamp(0, 1)


class ClassTarget(nn.Module):
    """The likeliest class's colour. Shape: (B, N, H, W) probabilities -> (B, 3, H, W) in [0, 1].

    Args:
        palette: colours of the classes, (N, 3).
    """

    colours: Tensor

    def __init__(self, palette: Colours) -> None:
        super().__init__()
        self.register_buffer("colours", torch.from_numpy(palette.astype("float32")) / 255)

    def forward(self, output: Tensor, image: Tensor) -> Tensor:
        return self.colours[output.argmax(dim=1)].permute(0, 3, 1, 2)


class LabTarget(nn.Module):
    """The image's lightness with other colours. Shape: (B, 2, H, W), a and b / 110 -> (B, 3, H, W).

    Values are sRGB in [0, 1]; colours that sRGB lacks are clipped in linear light, as OpenCV does.
    """

    white: Tensor
    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("white", torch.tensor(WHITE).view(3, 1, 1))
        self.register_buffer("matrix", torch.tensor(XYZ_TO_RGB)[:, :, None, None])

    def forward(self, output: Tensor, image: Tensor) -> Tensor:
        level = lightness(image)
        a, b = output[:, :1] * 110, output[:, 1:] * 110
        dark = level <= KNEE * STEEP
        of_y = torch.where(dark, level * (SLOPE / STEEP) + OFFSET, (level + 16) / 116)
        of_xyz = torch.cat([a / 500 + of_y, of_y, of_y - b / 200], dim=1)
        line = (of_xyz - OFFSET) / SLOPE
        xyz = torch.where(of_xyz <= SLOPE * KNEE + OFFSET, line, of_xyz * of_xyz * of_xyz)
        light = F.conv2d(xyz * self.white, self.matrix).clamp(0, 1)
        curve = 1.055 * light.pow(1 / 2.4) - 0.055
        return torch.where(light <= 0.0031308, light * 12.92, curve)


def to_levels(image: Tensor) -> Tensor:
    """[0, 1] to the nearest of 256 levels, as whole numbers of the same type."""
    return (image * 255).round().clamp(0, 255)


def lightness(image: Tensor) -> Tensor:
    """CIE lightness L (D65), 0 to 100, of sRGB. Shape: (B, 3, H, W) in [0, 1] -> (B, 1, H, W)."""
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055).pow(2.4))
    red, green, blue = linear[:, :1], linear[:, 1:2], linear[:, 2:]
    y = LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue
    return torch.where(y > KNEE, 116 * y.pow(1 / 3) - 16, STEEP * y)
