"""Methods: each owns its networks, its optimizers and what one training step does."""

from img2img.methods.base import Method, WeightedLoss
from img2img.methods.pix2pix import Pix2Pix

__all__ = ["Method", "Pix2Pix", "WeightedLoss"]
