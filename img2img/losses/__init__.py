"""Losses. A reconstruction loss is called with (output, target).

A `JudgedLoss` is given the discriminator instead, and an `AdversarialLoss` also trains it. All are
plain modules, or what a plain function returns.
"""

from img2img.losses.adversarial import Adversarial, AdversarialLoss, JudgedLoss
from img2img.losses.pixel import L1, L2, Charbonnier

__all__ = ["L1", "L2", "Adversarial", "AdversarialLoss", "Charbonnier", "JudgedLoss"]
