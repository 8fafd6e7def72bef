"""What a network's layers must know of the images that are in it at this moment."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from torch import Tensor


class Moment(threading.local):
    """State of one forward; every thread has its own.

    Attributes:
        seeds: of the images' noise, one each.
        offsets: where in the image each tile of the batch begins, (row, column) in pixels; none
            where whole images are in the network.
        size: height and width of what is in the network, in pixels.
        statistics: mean and variance that the tiles of one image share, by layer; None where each
            image is normalised by its own.
        measuring: the batch is patches of one image, and `statistics` is being filled from it.
    """

    def __init__(self) -> None:
        self.seeds: Sequence[int] = ()
        self.offsets: Sequence[tuple[int, int]] = ()
        self.size: tuple[int, int] = (1, 1)
        self.statistics: dict[int, tuple[Tensor, Tensor]] | None = None
        self.measuring = False
