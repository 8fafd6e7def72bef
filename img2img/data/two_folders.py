"""Pairs in two folders, matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from img2img.data.images import SUFFIXES, Part, hold_out
from img2img.data.listing import FileList, list_files
from img2img.data.reading import read_picture
from img2img.data.sequences import Zipped
from img2img.errors import DataError, ImageError
from img2img.picture import Pixels


class UnmatchedError(DataError):
    """Some images of two folders have no partner of the same name in the other.

    Attributes:
        alone: these images.
        matched: the pairs that there are; None where there are none.
    """

    def __init__(
        self, folders: tuple[Path, Path], alone: Sequence[Path], matched: TwoFolders | None
    ) -> None:
        self.alone, self.matched = alone, matched
        more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
        super().__init__(
            f"data.root: no partner of the same name for {', '.join(map(str, alone[:3]))}{more}; "
            f"each image in {folders[0]} needs one in {folders[1]}: add it, or move these away"
        )


class TwoFolders:
    """Images of the same name in two folders are a pair; suffixes may differ.

    For the folders A and B, `root` holds `train/A` and `train/B`, or `A/train` and `B/train`, or
    `trainA` and `trainB`, and the same for `val` (or `test`). With `A` and `B` alone, or without
    validation folders, every tenth pair is held out. Those that are `scored` are the pairs held out
    where they have folders, else all there are.

    Args:
        first: the folder of the first images.
        second: the folder of the second images.

    Raises:
        DataError: a folder is missing or empty.
        UnmatchedError: some images have no partner.
    """

    def __init__(
        self,
        root: Path,
        split: Part,
        channels: tuple[int, int] = (3, 3),
        *,
        first: str = "A",
        second: str = "B",
    ) -> None:
        if not root.is_dir():
            raise DataError(
                f"data.root: there is no folder {str(root)!r}; paths start at the working directory"
            )
        held_out = _folders(root, ("val", "test"), first, second)
        train = _folders(root, ("train", ""), first, second)
        if train is None and (held_out is None or split != "scored"):
            raise DataError(
                f"data.root: found neither {str(root / 'train' / first)!r} with "
                f"{str(root / 'train' / second)!r} nor {str(root / first)!r} with "
                f"{str(root / second)!r}; name the two folders with data.first and data.second"
            )
        beside = train if split != "scored" else None
        if held_out and beside and held_out[0].is_relative_to(beside[0]):
            raise DataError(
                f"data.root: {str(held_out[0])!r} is there, but no {str(beside[0] / 'train')!r}; "
                f"put the images to train on there"
            )
        folders = (held_out if split != "train" else None) or train
        assert folders is not None, "one of the two is there"
        unmatched: _Unmatched | None = None
        try:
            first_images, second_images = _match(*folders)
        except _Unmatched as found:
            unmatched = found
            first_images, second_images = map(FileList, folders, found.columns)
        pairs: Sequence[tuple[Path, Path]] = Zipped(first_images, second_images)
        self.files = pairs if held_out is not None else hold_out(pairs, split)
        self.channels = channels
        if unmatched is not None:
            raise UnmatchedError(folders, unmatched.alone, self if len(pairs) else None)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return str(self.files[index][0])

    def paths(self, index: int) -> tuple[Path, ...]:
        return self.files[index]

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        first, second = self.files[index]
        images = (
            read_picture(first, self.channels[0]).pixels,
            read_picture(second, self.channels[1]).pixels,
        )
        (height, width), (height2, width2) = images[0].shape[:2], images[1].shape[:2]
        if (height, width) != (height2, width2):
            reason = f"{width}x{height} pixels, but its partner {second} has {width2}x{height2}"
            raise ImageError(first, reason, "size")
        return images


def _folders(
    root: Path, splits: tuple[str, ...], first: str, second: str
) -> tuple[Path, Path] | None:
    for split in splits:
        for form in ("{split}/{name}", "{name}/{split}", "{split}{name}"):
            pair = [
                root / form.format(split=split, name=name).strip("/") for name in (first, second)
            ]
            if pair[0].is_dir() and pair[1].is_dir():
                return pair[0], pair[1]
    return None


def _match(first: Path, second: Path) -> list[FileList]:
    """The images of the first folder that have partners, and their partners, in one order."""

    def arrange(found: Sequence[list[str]]) -> list[list[str]]:
        sides = []
        for folder, names in zip((first, second), found, strict=True):
            by_key: dict[str, str] = {}
            for name in names:
                key = name.rpartition(".")[0]
                if key in by_key:
                    raise DataError(
                        f"data.root: {folder / by_key[key]} and {folder / name} differ in their "
                        f"suffix only"
                    )
                by_key[key] = name
            if not by_key:
                raise DataError(f"data.root: no images below {str(folder)!r}")
            sides.append(by_key)
        keys = sorted(sides[0].keys() & sides[1].keys())
        columns = [[side[key] for key in keys] for side in sides]
        alone = [first / sides[0][key] for key in sorted(sides[0].keys() - sides[1].keys())]
        alone += [second / sides[1][key] for key in sorted(sides[1].keys() - sides[0].keys())]
        if alone:
            # Raised, so that no list is kept that lacks some.
            raise _Unmatched(alone, columns)
        return columns

    return list_files([first, second], SUFFIXES, arrange, "partners")


class _Unmatched(Exception):
    """What has no partner, and the columns of names of what has one."""

    def __init__(self, alone: list[Path], columns: list[list[str]]) -> None:
        super().__init__()
        self.alone, self.columns = alone, columns
