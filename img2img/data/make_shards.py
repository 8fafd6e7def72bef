"""Packs a folder of pairs into tar files: `python -m img2img.data.make_shards FOLDER OUT`.

Files go in as they are. The source `shards` reads what comes out.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from img2img.data.images import Split
from img2img.data.side_by_side import SideBySide
from img2img.data.survey import survey
from img2img.data.two_folders import TwoFolders
from img2img.errors import DataError, Img2ImgError
from img2img.files import whole_file

# Enough that one is read from front to back, few enough that several are a window of the sampler.
MEGABYTES = 256
# The names that the source `shards` looks for by default.
SIDES = ("source", "target")
_BLOCK = 512


def make_shards(
    sources: dict[Split, SideBySide | TwoFolders], out: Path, most_bytes: int
) -> dict[Split, int]:
    """Write the files of pairs into `train-000000.tar`, `val-000000.tar` and so on.

    First images become `00000000.source.SUFFIX` and second ones `00000000.target.SUFFIX`; those of
    two halves `00000000.SUFFIX`. The folder appears when all is in it.

    Args:
        sources: by split; one that holds pairs out packs the same ones as held out.
        out: a new folder.
        most_bytes: of a tar file, except that one holds a pair at least.

    Returns:
        How many tar files each split has.

    Raises:
        DataError: `out` is there already, or a file cannot be read or written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already: name a new folder")
    partial = out.with_name(f".partial-{secrets.token_hex(8)}")
    try:
        partial.mkdir(parents=True)
        counts = {
            split: _pack(source, partial, split, most_bytes) for split, source in sources.items()
        }
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _pack(source: SideBySide | TwoFolders, folder: Path, split: str, most_bytes: int) -> int:
    number = index = 0
    while index < len(source):
        with (
            whole_file(folder / f"{split}-{number:06}.tar") as path,
            tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar,
        ):
            begun = index
            while index < len(source):
                files = source.paths(index)
                size = sum(-(-file.stat().st_size // _BLOCK) + 1 for file in files) * _BLOCK
                if index > begun and tar.offset + size > most_bytes:
                    break
                for side, file in zip(SIDES, files, strict=False):
                    middle = f".{side}" if len(files) > 1 else ""
                    _add(tar, f"{index:08}{middle}{file.suffix.lower()}", file)
                index += 1
        number += 1
    return number


def _add(tar: tarfile.TarFile, name: str, file: Path) -> None:
    # Nothing of it but its content: no owner, no time, so that the same files make the same shards.
    with file.open("rb") as opened:
        info = tarfile.TarInfo(name)
        info.size = os.fstat(opened.fileno()).st_size
        tar.addfile(info, opened)


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack a folder of pairs into tar files, which are faster to read from disks and networks."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="laid out for side_by_side or two_folders")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--first", help="with --second: the two folders, if it is not clear")
    parser.add_argument("--second")
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="of a tar file, at most")
    options = parser.parse_args(arguments)
    if options.megabytes < 1:
        parser.error(f"--megabytes must be at least 1, not {options.megabytes}")
    if (options.first is None) != (options.second is None):
        parser.error("--first and --second go together")
    try:
        sources = _sources(options.folder, options.first, options.second)
        counts = make_shards(sources, options.out, options.megabytes * 1_000_000)
    except Img2ImgError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    for split, source in sources.items():
        files = "1 tar file" if counts[split] == 1 else f"{counts[split]:,} tar files"
        pairs = "1 pair" if len(source) == 1 else f"{len(source):,} pairs"
        print(f"{split}: {pairs} in {files}")
    print(f'[data]\nsource = "shards"\nroot = "{options.out.as_posix()}"')
    if isinstance(sources["train"], SideBySide):
        print('first = ""\nsecond = ""')


def _sources(
    folder: Path, first: str | None, second: str | None
) -> dict[Split, SideBySide | TwoFolders]:
    splits: tuple[Split, Split] = ("train", "val")
    if first is None or second is None:
        seen = survey(folder)
        if seen.source == "side_by_side":
            return {split: SideBySide(folder, split) for split in splits}
        if seen.folders is None:
            raise DataError(
                f"{folder}: single images, not pairs; if it has a folder for each side, name the "
                f"two with --first and --second"
            )
        first, second = seen.folders
    return {split: TwoFolders(folder, split, first=first, second=second) for split in splits}


if __name__ == "__main__":
    main()
