"""Using a trained generator: on tensors, on images, on folders."""

from img2img.inference.policy import Policy
from img2img.inference.translator import Translator

__all__ = ["Policy", "Translator"]
