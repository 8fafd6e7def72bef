"""Discriminators: images (B, in_channels, H, W) to one logit per patch, pixel or image.

What they see (source and image joined, or the image alone) is the method's business: the recipe's
`discriminator.conditional`.
"""

from img2img.discriminators.imagegan import ImageGAN
from img2img.discriminators.patchgan import PatchGAN, PatchGAN16, PatchGAN70, PatchGAN286
from img2img.discriminators.pixelgan import PixelGAN

__all__ = ["ImageGAN", "PatchGAN", "PatchGAN16", "PatchGAN70", "PatchGAN286", "PixelGAN"]
