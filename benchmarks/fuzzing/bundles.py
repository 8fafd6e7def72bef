"""Bundles that strangers made, and the safetensors files that they are."""

from __future__ import annotations

import importlib
import json
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch

from fuzzing.mutators import NUMBERS, TEXTS, mutate_bytes, mutate_tree
from fuzzing.texts import registry
from img2img.bundle import BundleInfo, save_bundle
from img2img.rebuild import load_translator

# Whoever names a timm backbone makes us import it, and that loads libraries and writes caches.
importlib.import_module("timm")

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "U64", "F4", "")
WORDS = (
    *(*TEXTS, "width", "depth", "norm", "blocks", "backbone", "pretrained", "palette", "encoding"),
    *("in_channels", "out_channels", "image_size", "activation", "settings", "origin", "format"),
    *("resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "encoder_decoder"),
    *("colorization", "photo2labels", "edges", "maps", "dropout_layers", "statistics", "running"),
)


def split_tensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the values of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header, data[8 + length :]


def joined_tensors(header: Any, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def break_tensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with other names, types, shapes, places and lengths."""
    header, values = split_tensors(data)
    names = [name for name in header if name != "__metadata__"]
    change = rng.randrange(8)
    if change == 0:
        return mutate_bytes(rng, data)
    if change == 1:
        length = rng.choice((*NUMBERS, len(data), len(data) - 8, len(data) - 7))
        return struct.pack("<Q", length % (1 << 64)) + data[8:]
    if change == 2:
        return joined_tensors(mutate_tree(rng, header, WORDS), values)
    if not names:
        return data
    name = rng.choice(names)
    if change == 3:
        header[name]["dtype"] = rng.choice(DTYPES)
    elif change == 4:
        header[name]["shape"] = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 2, 4, 70)))]
    elif change == 5:
        header[name]["data_offsets"] = [rng.choice(NUMBERS), rng.choice((*NUMBERS, len(values)))]
    elif change == 6:
        header[rng.choice(TEXTS)] = header.pop(name) if rng.random() < 0.5 else header[name]
    else:
        begin, end = header[name]["data_offsets"]
        special = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", rng.randbytes(4)))
        values = values[:begin] + (special * (end - begin))[: end - begin] + values[end:]
    return joined_tensors(header, values)


class Bundles:
    """Loads a model as `infer` does: the description, the network, the weights."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.registry = registry()
        self.seeds: list[bytes] = []
        palette = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
        sizes = {"image_size": 16, "activation": "tanh"}
        kinds = (
            ("paired", {}, "unet", {"width": 2}, 3),
            (
                "labels",
                {"palette": palette, "encoding": "onehot"},
                "resnet",
                {"width": 2, "blocks": 1},
                3,
            ),
            ("colorization", {}, "encoder_decoder", {"width": 1, "depth": 2}, 1),
        )
        for task, of_task, name, settings, channels in kinds:
            built = self.registry.get("task", task).build(of_task)
            supplied = {"in_channels": channels, "out_channels": built.target_channels, **sizes}
            network = self.registry.get("generator", name).build(settings, **supplied)
            info = BundleInfo(
                "small",
                {"name": task, "settings": of_task, "origin": "img2img"},
                {"name": name, "settings": settings, **supplied, "origin": "img2img"},
                {"statistics": "image", "dropout": False, "scale": [1.0, 1.0]},
                {"step": 5, "img2img": "0.1.0"},
            )
            self.seeds.append(_bundle(network.state_dict(), info))

    def valid(self) -> list[bytes]:
        return self.seeds

    def make(self, rng: random.Random) -> bytes:
        data = rng.choice(self.seeds)
        if rng.random() < 0.3:
            return break_tensors(rng, data)
        header, values = split_tensors(data)
        text = header["__metadata__"]["img2img"]
        if rng.random() < 0.85:
            about = mutate_tree(rng, json.loads(text), WORDS)
            if rng.random() < 0.3:
                settings = {rng.choice(WORDS): rng.choice((*NUMBERS, *TEXTS)) for _ in range(2)}
                kind = rng.choice(("unet", "resnet", "encoder_decoder"))
                if isinstance(about, dict) and isinstance(about.get("generator"), dict):
                    about["generator"] |= {"name": kind, "settings": settings}
            text = json.dumps(about)
        else:
            text = mutate_bytes(rng, text.encode()).decode("latin-1")
        header["__metadata__"]["img2img"] = text
        return joined_tensors(header, values)

    def prepare(self, content: bytes, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content)

    def run(self, content: bytes, folder: Path) -> None:
        load_translator(folder / "model.safetensors", self.registry, device=torch.device("cpu"))


def _bundle(weights: dict[str, Any], info: BundleInfo) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_bundle(path, weights, info)
        return path.read_bytes()
