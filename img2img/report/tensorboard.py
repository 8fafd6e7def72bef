"""TensorBoard events, as a plugin that watches the run like any other."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from img2img.files import naming
from img2img.hookspecs import hookimpl
from img2img.report.crc32c import crc32c


class TensorBoardLogger:
    """Writes losses, validation scores and sample sheets below `tensorboard/`.

    Raises:
        OSError: from where an event cannot be written; names the file, which is closed.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._purge = 0
        self._file: EventFile | None = None

    @hookimpl
    def on_run_start(self, run_dir: Path, start_step: int) -> None:
        self.close()  # an earlier run that failed has no end
        self._folder = run_dir / "tensorboard"
        # What a run that was killed wrote past its checkpoint is shown no more; of one that was
        # killed before its first checkpoint, nothing is.
        self._purge = start_step + 1 if start_step else 0

    @hookimpl
    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        values = [
            {"tag": f"{group}/{name}", "simple_value": value}
            for group in ("losses", "validation")
            for name, value in metrics.get(group, {}).items()
            if value is not None
        ]
        if "images_per_s" in metrics:
            speed = metrics["images_per_s"]
            values.append({"tag": "speed/images_per_s", "simple_value": speed})
        if values:
            self._write(metrics["step"], values)

    @hookimpl
    def on_samples(self, step: int, path: Path) -> None:
        with PillowImage.open(path) as sheet:
            width, height = sheet.size
        # The file as it is: to decode it and encode it again would take longer than a hundred
        # steps of a quick device.
        image = {
            "height": height,
            "width": width,
            "colorspace": 3,
            "encoded_image_string": path.read_bytes(),
        }
        self._write(step, [{"tag": "samples", "image": image}])

    @hookimpl
    def on_run_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; nothing is written until the next run starts."""
        if self._file is not None:
            self._file.close()
        self._file = self._folder = None

    def _write(self, step: int, values: list[dict[str, Any]]) -> None:
        if self._folder is None:  # outside a run
            return
        if self._file is None:
            # When something is first to be written: the first step need not wait for the import.
            self._file = EventFile(self._folder)
            self._file.purge(self._purge)
        self._file.add(step=step, summary={"value": values})


class EventFile:
    """A new event file, each event in it as soon as it is added.

    Not TensorBoard's own writer: that writes from a thread, in which a full disk ends as a
    traceback on the terminal and reaches nobody else, and which loses two minutes when killed.

    Args:
        folder: where; made if need be.

    Raises:
        OSError: it cannot be written; names the file.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{number}"
            self.path = folder / f"events.out.tfevents.{name}"
            try:
                self._file = self.path.open("xb")
                break
            except FileExistsError:
                number += 1
        self._event = Event
        self.add(file_version="brain.Event:2")

    def purge(self, step: int) -> None:
        """What other files of the folder hold from this step on comes again, and counts no more."""
        self.add(step=step, file_version="brain.Event:2")
        self.add(step=step, session_log={"status": "START"})

    def add(self, **fields: Any) -> None:
        """Write one event. A file that takes no more is closed."""
        try:
            with naming(self.path):
                event = self._event(wall_time=time.time(), **fields)
                self._file.write(_record(event.SerializeToString()))
                self._file.flush()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        try:
            self._file.close()
        except OSError:
            # What is left in its buffer was told of already. A second time closes without it.
            self._file.close()


def _record(data: bytes) -> bytes:
    """Bytes as TensorFlow's record files have them: length, its checksum, bytes, their checksum."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    # Masked, as that format has it: of data that hold checksums of their own it says little.
    word = crc32c(data)
    return struct.pack("<I", ((word >> 15 | word << 17) + 0xA282EAD8) & 0xFFFFFFFF)
