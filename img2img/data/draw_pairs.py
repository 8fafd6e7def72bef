"""Writes synthetic pairs as side-by-side files: `python -m img2img.data.draw_pairs FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from img2img.data.synthetic import Synthetic
from img2img.data.writing import write_picture
from img2img.picture import Picture


def main() -> None:
    """Write drawings and their coloured versions as side-by-side files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="is made where it is not there")
    parser.add_argument("--count", type=int, default=8, help="how many (%(default)s)")
    parser.add_argument(
        "--size", type=int, default=64, help="of each half, in pixels (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="others for each (%(default)s); recipes draw with 0"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    # Held-out pairs are a tenth of the training pairs.
    source = Synthetic(
        "val", count=options.count * 10, size=options.size, drawing_seed=options.seed
    )
    for index in range(options.count):
        both = np.concatenate(source.pair(index), axis=1)
        write_picture(options.folder / f"landscape-{index:03d}.png", Picture(both))
    print(f"{options.count} pairs in {options.folder}")


if __name__ == "__main__":
    main()
