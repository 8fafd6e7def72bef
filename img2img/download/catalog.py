"""The data sets of the pix2pix authors, as facts.

Where the figures come from: counts of training pairs, origins, citations and day2night's direction
are in the README of the authors' code (github.com/phillipi/pix2pix, commit 89ff2a8). Download sizes
to the byte are what people's logs of wget show; the rounded ones are the server's own listing.
Counts that neither gives were counted by others in the unpacked archives; those of cityscapes' and
edges2handbags' validation folders are recalled.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from img2img.errors import RequestError

SERVER = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets"
GIB = 1 << 30


@dataclass(frozen=True)
class DataSet:
    """One data set of pairs that share a file, side by side.

    Attributes:
        name: what the command line calls it.
        summary: what is in it, in one sentence.
        url: where the authors keep it, a `.tar.gz`.
        pairs: how many there are in each folder below the root, at least.
        left: what the left half of a file shows.
        right: what the right half shows.
        direction: `data.direction` for the authors' task, which `task` names.
        task: that task in words.
        terms: what may be done with it, as far as it is known.
        cite: whom to cite.
        recipes: recipes that ship with the package and train on it, from `data/NAME`.
        download_bytes: how large the archive is, or None.
        exact: whether that is to the byte; otherwise it is rounded.
        file_size: width and height of every file in pixels, or None where it is not established;
            then files must only be twice as wide as high.
    """

    name: str
    summary: str
    url: str
    pairs: Mapping[str, int]
    left: str
    right: str
    direction: Literal["AtoB", "BtoA"]
    task: str
    terms: str
    cite: str
    recipes: tuple[str, ...]
    download_bytes: int | None = None
    exact: bool = False
    file_size: tuple[int, int] | None = None

    @property
    def max_bytes(self) -> int:
        """More than this is not this data set, packed or unpacked: a mistake, or an attack.

        JPEG files hardly shrink in an archive. Another copy may hold them in another format, so the
        bound is wide.
        """
        return max(GIB, 4 * (self.download_bytes or 0))

    @property
    def max_files(self) -> int:
        """More files and folders than this are not this data set either."""
        return 2 * sum(self.pairs.values()) + 1000


_SETS = (
    DataSet(
        name="facades",
        summary="Facades of houses, and maps of their parts in twelve colours.",
        url=f"{SERVER}/facades.tar.gz",
        pairs={"train": 400, "val": 100, "test": 106},
        left="photo",
        right="label map",
        direction="BtoA",
        task="labels to photo",
        terms="CMP Facade Database, for research",
        cite="Tyleček and Šára 2013 (Spatial Pattern Templates)",
        recipes=("facades",),
        download_bytes=30_168_306,
        exact=True,
        file_size=(512, 256),
    ),
    DataSet(
        name="cityscapes",
        summary="Streets seen from a car, and maps of what is in them.",
        url=f"{SERVER}/cityscapes.tar.gz",
        pairs={"train": 2975, "val": 500},
        left="photo",
        right="label map",
        direction="BtoA",
        task="labels to photo",
        terms="Cityscapes: non-commercial use only, see www.cityscapes-dataset.com/license",
        cite="Cordts et al. 2016 (Cityscapes)",
        recipes=("cityscapes_labels2photo", "cityscapes_photo2labels"),
        download_bytes=103_441_232,
        exact=True,
    ),
    DataSet(
        name="maps",
        summary="New York from above, and the same places as a street map.",
        url=f"{SERVER}/maps.tar.gz",
        pairs={"train": 1096, "val": 1098},
        left="aerial photo",
        right="map",
        direction="BtoA",
        task="map to aerial photo",
        terms="taken from Google Maps by the authors; Google's terms apply",
        cite="Isola et al. 2017 (pix2pix)",
        recipes=("maps_map2aerial", "maps_aerial2map"),
        download_bytes=250_242_400,
        exact=True,
        file_size=(1200, 600),
    ),
    DataSet(
        name="edges2shoes",
        summary="Shoes, and drawings made from the photographs.",
        url=f"{SERVER}/edges2shoes.tar.gz",
        pairs={"train": 49_825, "val": 200},
        left="edges",
        right="photo",
        direction="AtoB",
        task="edges to photo",
        terms="UT Zappos50K, for research",
        cite="Yu and Grauman 2014 (UT Zappos50K); Xie and Tu 2015 (HED)",
        recipes=("edges2shoes",),
        download_bytes=2 * GIB,
        file_size=(512, 256),
    ),
    DataSet(
        name="edges2handbags",
        summary="Handbags, and drawings made from the photographs.",
        url=f"{SERVER}/edges2handbags.tar.gz",
        pairs={"train": 138_567, "val": 200},
        left="edges",
        right="photo",
        direction="AtoB",
        task="edges to photo",
        terms="product photos from Amazon, collected for iGAN; no licence is named",
        cite="Zhu et al. 2016 (iGAN); Xie and Tu 2015 (HED)",
        recipes=("edges2handbags",),
        download_bytes=8 * GIB,
        file_size=(512, 256),
    ),
    DataSet(
        name="day2night",
        summary="Webcam views by day, and the same views at night.",
        # The authors name the archive the other way round, and so lie its halves: night, day.
        url=f"{SERVER}/night2day.tar.gz",
        pairs={"train": 17_823, "val": 10, "test": 2287},
        left="night",
        right="day",
        direction="BtoA",
        task="day to night",
        terms="Transient Attributes; no licence is named",
        cite="Laffont et al. 2014 (Transient Attributes)",
        recipes=("day2night",),
        download_bytes=round(1.9 * GIB),
    ),
)

CATALOG: Mapping[str, DataSet] = MappingProxyType({data.name: data for data in _SETS})


def find_data_set(name: str) -> DataSet:
    """A data set by its name.

    Raises:
        RequestError: there is none; it names the nearest, and all.
    """
    # Whoever knows the authors' archive may ask for it by that name.
    name = {"night2day": "day2night"}.get(name, name)
    if name in CATALOG:
        return CATALOG[name]
    near = difflib.get_close_matches(name, CATALOG, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    raise RequestError(f"{name!r} is not a known data set{guess}; known: {', '.join(CATALOG)}")
