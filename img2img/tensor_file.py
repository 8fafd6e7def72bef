"""Writing tensors as a safetensors file, with its checksum on the way."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from img2img.files import whole_file

# The names of https://huggingface.co/docs/safetensors, in the order in which its own library
# lays out tensors: the widest first, which keeps each of them aligned.
_NAMES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Bytes that are hashed and written at a time: they are still in the processor's cache then.
_PIECE = 1 << 20


@dataclass(frozen=True)
class FileSum:
    """What tells whether a file is still what was written.

    Attributes:
        size: in bytes.
        sha256: of its content, in hexadecimal digits.
    """

    size: int
    sha256: str


def has_type(dtype: torch.dtype) -> bool:
    """Whether a safetensors file can hold tensors of this type."""
    return dtype in _NAMES


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> FileSum:
    """Write a safetensors file whole or not at all; tensors may lie anywhere, in any layout.

    One tensor at a time is copied to the host. The library's own writer would copy all of them,
    tell of a full disk without an error number, and have the checksum read the file again.

    Raises:
        OSError: it cannot be written; names `path`.
        ValueError: safetensors has no such type.
    """
    wrong = [name for name, tensor in tensors.items() if tensor.dtype not in _NAMES]
    if wrong:
        raise ValueError(f"safetensors has no type for {wrong[0]} ({tensors[wrong[0]].dtype})")
    ranks = list(_NAMES)
    order = sorted(tensors, key=lambda name: (ranks.index(tensors[name].dtype), name))
    with whole_file(path) as temporary, temporary.open("wb", buffering=0) as file:
        digest, size = hashlib.sha256(), 0

        def write(data: memoryview | bytes) -> None:
            nonlocal size
            view = memoryview(data)
            for start in range(0, len(view), _PIECE):
                piece = view[start : start + _PIECE]
                digest.update(piece)
                while piece:  # an unbuffered file may take less than it is given
                    count = file.write(piece)
                    size, piece = size + count, piece[count:]

        write(_header(order, tensors, metadata))
        for name in order:
            plain = tensors[name].detach().cpu().contiguous().reshape(-1)
            write(plain.view(torch.uint8).numpy().data)
    return FileSum(size, digest.hexdigest())


def _header(order: list[str], tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name in order:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
