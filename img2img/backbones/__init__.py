"""Networks of timm as feature extractors: looked up, built, given weights, and fed as they want.

The only part that knows timm, which is imported inside functions, because that takes seconds.
"""

from img2img.backbones.lookup import Level, backbone_levels
from img2img.backbones.network import Backbone, check_maps
from img2img.backbones.weights import WeightsError

__all__ = ["Backbone", "Level", "WeightsError", "backbone_levels", "check_maps"]
