"""Losses. A reconstruction loss is called with (output, target); an adversarial one has two sides.

Both are plain modules, or what a plain function returns; `AdversarialLoss` tells the second kind.
"""

from img2img.losses.adversarial import Adversarial, AdversarialLoss
from img2img.losses.pixel import L1, L2, Charbonnier

__all__ = ["L1", "L2", "Adversarial", "AdversarialLoss", "Charbonnier"]
