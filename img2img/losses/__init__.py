"""Losses. A reconstruction loss is called with (output, target); an adversarial one plays two sides.

Both are plain modules or functions factories; `AdversarialLoss` is what tells the second kind.
"""

from img2img.losses.adversarial import Adversarial, AdversarialLoss
from img2img.losses.pixel import L1, L2, Charbonnier

__all__ = ["L1", "L2", "Adversarial", "AdversarialLoss", "Charbonnier"]
