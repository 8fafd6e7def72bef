"""Where pairs come from, and how they become batches."""

from img2img.data.damaged import Damaged
from img2img.data.derived import Derived
from img2img.data.huggingface import HuggingFace
from img2img.data.shards import Shards
from img2img.data.side_by_side import SideBySide
from img2img.data.source import PairSource
from img2img.data.synthetic import Synthetic
from img2img.data.two_folders import TwoFolders

__all__ = [
    "Damaged",
    "Derived",
    "HuggingFace",
    "PairSource",
    "Shards",
    "SideBySide",
    "Synthetic",
    "TwoFolders",
]
