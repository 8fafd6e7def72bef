"""Other projects' weights, which are pickles in zip files, and tar files of pairs."""

from __future__ import annotations

import io
import pickle
import random
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fuzzing.images import PHOTO, saved
from fuzzing.mutators import NUMBERS, TEXTS, mutate_bytes
from img2img.data.shards import Shards
from img2img.generators import UNet
from img2img.importing.architecture import recognise, unet_layers
from img2img.importing.reading import read_tensors


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in files.items():
            packed.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return (os.mkdir, ("harmed",))


def _addressless(data: bytes) -> bytes:
    """A checkpoint of the old form with numbers for the addresses that name its storages."""
    names = dict.fromkeys(re.findall(rb"\d{12,16}", data))
    for number, name in enumerate(names):
        data = data.replace(name, b"%0*d" % (len(name), number))
    return data


class Weights:
    """Reads another project's checkpoint, a pickle in a zip, for `img2img import`."""

    PIECES = (
        *(
            b"cos\nsystem\n(S'true'\ntR.",
            b"c__builtin__\neval\n",
            b"ctorch\nload\n",
            b"cnumpy\nload\n",
        ),
        *(
            b"\x80\x04",
            b"R",
            b"b",
            b"i",
            b"o",
            b"\x93",
            b"\x81",
            b"Q",
            b"P0\n",
            b"h\0",
            b"q\0",
            b"2",
            b"0",
        ),
        *(
            b"X\xff\xff\xff\xff",
            b"\x8a\xff",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"}",
            b"(",
            b"t",
        ),
        *(
            b"ctorch._utils\n_rebuild_parameter\n",
            b"ccollections\nOrderedDict\n",
            b"K\xff",
            b"J\xff\xff\xff\x7f",
        ),
        *(b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_sparse_tensor\n", b"N", b"."),
    )

    def __init__(self) -> None:
        torch.manual_seed(0)
        state = UNet(3, 3, image_size=16, width=2, depth=2).state_dict()
        weights = {}
        for layer in unet_layers(2):
            for theirs, ours in ((layer.conv, layer.our_conv), (layer.norm, layer.our_norm)):
                found = [key for key in state if key.rpartition(".")[0] == ours]
                if layer.normed or theirs == layer.conv:
                    weights |= {f"{theirs}.{key.rpartition('.')[2]}": state[key] for key in found}
        buffer, old = io.BytesIO(), io.BytesIO()
        torch.save(weights, buffer)
        # One, because they lie in the order of their addresses.
        one = dict(list(weights.items())[:1])
        torch.save(one, old, _use_new_zipfile_serialization=False)
        self.seeds = [buffer.getvalue(), _addressless(old.getvalue())]
        with zipfile.ZipFile(buffer) as packed:
            self.files = {name: packed.read(name) for name in packed.namelist()}
        self.main = next(name for name in self.files if name.endswith("data.pkl"))

    def valid(self) -> list[bytes]:
        return self.seeds

    def make(self, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return mutate_bytes(rng, rng.choice(self.seeds), self.PIECES)
        files = dict(self.files)
        change = rng.randrange(6)
        if change < 4:
            files[self.main] = mutate_bytes(rng, files[self.main], self.PIECES)
        elif change == 4:
            files[self.main] = pickle.dumps({"model.1.weight": _Payload()}, rng.randrange(6))
        else:
            name = rng.choice(sorted(files))
            files[name] = mutate_bytes(rng, files[name] or b"0", self.PIECES)
        return zipped(files)

    def prepare(self, content: bytes, folder: Path) -> None:
        (folder / "weights.pth").write_bytes(content)

    def run(self, content: bytes, folder: Path) -> None:
        recognise(read_tensors(folder / "weights.pth"), "weights.pth")


class Tars:
    """Lists the pairs of a tar file, and reads the first of them."""

    def __init__(self) -> None:
        image = saved(Image.fromarray(PHOTO), "PNG")
        self.seeds = []
        for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=kind) as packed:
                long = "n" * (40 if kind == tarfile.USTAR_FORMAT else 150)
                for name in (
                    "000.source.png",
                    "000.target.png",
                    f"{long}.source.png",
                    f"{long}.target.png",
                ):
                    about = tarfile.TarInfo(name)
                    about.size = len(image)
                    packed.addfile(about, io.BytesIO(image))
            self.seeds.append(buffer.getvalue())

    def valid(self) -> list[bytes]:
        return self.seeds

    def make(self, rng: random.Random) -> bytes:
        data = bytearray(rng.choice(self.seeds))
        for _ in range(rng.choice((1, 1, 2))):
            block = 512 * rng.randrange(len(data) // 512)
            # Name, mode, size, sum, type, link, magic, GNU's rest: where they stand in a header.
            at, size = rng.choice(
                ((0, 100), (100, 8), (124, 12), (148, 8), (156, 1), (157, 9), (257, 8), (345, 99))
            )
            octal = f"{rng.choice(NUMBERS) % (1 << 33):o}".encode()
            text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
            kinds = rng.choice(
                (b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"V")
            )
            new = rng.choice((octal, text, kinds, b"\x80" + rng.randbytes(11), b"\xff" * 12))[:size]
            data[block + at : block + at + len(new)] = new
            if rng.random() < 0.9:
                header = data[block : block + 512]
                header[148:156] = b" " * 8
                data[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        found = bytes(data)
        return (
            mutate_bytes(rng, found, [b"path=../x\n", b"size=99\n"])
            if rng.random() < 0.3
            else found
        )

    def prepare(self, content: bytes, folder: Path) -> None:
        (folder / "pairs.tar").write_bytes(content)

    def run(self, content: bytes, folder: Path) -> None:
        shards = Shards(folder / "pairs.tar", "train")
        shards.name(0)
        shards.pair(0)
