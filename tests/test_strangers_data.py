"""Training on data that is damaged, or changes while a run reads it: skipped, counted, named."""

import io
import os
import shutil
import tarfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import img2img
from img2img.data.loading import PairDataset, batches
from img2img.data.reading import image_size, read_image
from img2img.data.shards import Shards
from img2img.data.side_by_side import SideBySide
from img2img.data.two_folders import TwoFolders
from img2img.errors import DataError, ImageError
from img2img.tasks.paired import Paired

COUNT, SIZE = 12, 16
WORKERS = pytest.mark.parametrize("workers", [0, 2])
SOURCES = pytest.mark.parametrize("kind", ["side_by_side", "two_folders", "shards"])


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def files_of(kind, split, number, *, broken):
    """Names and contents of a pair, the last of them cut short if it is to be broken."""
    seed = 2 * number + 1000 * (split == "val")
    first, second = noise(seed), noise(seed + 1)
    if kind == "two_folders":
        names = {f"A/{number:02}.png": png(first), f"B/{number:02}.png": png(second)}
    elif kind == "shards":
        names = {
            f"{number:02}.{side}.png": png(i) for side, i in (("source", first), ("target", second))
        }
    else:
        names = {f"{number:02}.png": png(np.concatenate([first, second], axis=1))}
    if broken:
        last, whole = list(names.items())[-1]
        names[last] = whole[: len(whole) // 2]
    return names


def write(root, kind, broken=()):
    """A data root of 12 pairs to train on, of which some are broken, and 2 to validate on."""
    for split, count in (("train", COUNT), ("val", 2)):
        folder = root / split
        files = {}
        for number in range(count):
            files |= files_of(kind, split, number, broken=split == "train" and number in broken)
        folder.mkdir(parents=True)
        if kind == "shards":
            with tarfile.open(folder / "0.tar", "w") as tar:
                for name, data in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
            continue
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    return root


def name_of(root, kind, number):
    return {
        "side_by_side": f"{root}/train/{number:02}.png",
        "two_folders": f"{root}/train/B/{number:02}.png",
        "shards": f"{root}/train/0.tar:{number:02}",
    }[kind]


@pytest.fixture
def recipe(tmp_path):
    def write_recipe(kind, workers, steps=2 * COUNT):
        path = tmp_path / "tiny.toml"
        path.write_text(f"""
name = "tiny"
[data]
source = "{kind}"
root = "{(tmp_path / "data").as_posix()}"
crop_size = {SIZE}
load_size = {SIZE}
workers = {workers}
[generator]
name = "encoder_decoder"
width = 2
depth = 2
[[losses]]
name = "l1"
[train]
steps = {steps}
batch_size = 2
log_every = 4
""")
        return path

    return write_recipe


@SOURCES
@WORKERS
def test_a_run_skips_and_names_what_cannot_be_read(tmp_path, recipe, kind, workers):
    root = write(tmp_path / "data", kind, broken=(2, 7))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        img2img.train(recipe(kind, workers), out=tmp_path / "run", device="cpu")
    skipped = [str(w.message) for w in caught if str(w.message).startswith("skipped ")]
    # Each once, though each epoch meets it.
    assert sorted(message.split(": ")[0] for message in skipped) == [
        f"skipped {name_of(root, kind, number)}" for number in (2, 7)
    ]
    assert all("cannot be read" in message for message in skipped)
    assert (tmp_path / "run" / "model.safetensors").is_file()


@SOURCES
@WORKERS
@pytest.mark.filterwarnings("ignore:skipped:RuntimeWarning")
def test_a_run_stops_past_the_limit(tmp_path, recipe, kind, workers):
    """The limit is a tenth of the pairs, and at least three."""
    write(tmp_path / "data", kind, broken=(2, 5, 7, 9))
    with pytest.raises(DataError, match=r"4 pairs cannot be read.*img2img check.* lists them"):
        img2img.train(recipe(kind, workers), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "model.safetensors").exists()


class Same:
    def __call__(self, source, target, seed):
        return source, target


def dataset(source):
    return PairDataset(source, Paired(), Same(), swap=False, seed=0)


def become_folder(path):
    path.unlink()
    path.mkdir()


def become_pipe(path):
    path.unlink()
    os.mkfifo(path)


def become_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def become_loop(path):
    path.unlink()
    path.symlink_to(path.name)


def be_private(path):
    path.chmod(0)


def be_cut(path):
    os.truncate(path, 40)


posix = pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices")
CHANGES = {
    "vanishes": Path.unlink,
    "folder": become_folder,
    "pipe": become_pipe,
    "device": become_device,
    "loop": become_loop,
    "private": be_private,
    "cut": be_cut,
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.fixture
def in_time():
    """Fails a test that hangs at one of these pipes, by ending the wait for its writer."""
    pipes, waited = [], []

    def rescue():
        for path in pipes:
            waited.append(path)
            os.close(os.open(path, os.O_RDWR))

    timer = threading.Timer(120, rescue)
    timer.daemon = True
    timer.start()
    yield pipes
    timer.cancel()
    assert not waited, "it waited for a pipe"


@posix
@pytest.mark.parametrize("how", CHANGES)
@WORKERS
def test_a_file_that_changes_while_a_run_reads_it(tmp_path, in_time, how, workers):
    if how == "private" and os.geteuid() == 0:
        pytest.skip("root reads whatever it likes")
    root = write(tmp_path / "data", "two_folders")
    source = TwoFolders(root, "train")
    victim = root / "train" / "B" / "03.png"
    CHANGES[how](victim)
    if how == "pipe":
        in_time.append(victim)
    loaded = batches(dataset(source), batch_size=3, start=0, stop=8, workers=workers)
    skipped = [each for batch in loaded for each in batch.skipped]
    # Twelve pairs in four steps, twice.
    assert [(each.pair, each.path) for each in skipped] == [(3, str(victim))] * 2
    assert len({each.reason for each in skipped}) == 1
    with pytest.raises(ImageError):
        read_image(victim)
    if how != "cut":
        with pytest.raises(ImageError):
            image_size(victim)


@posix
@WORKERS
def test_a_folder_that_vanishes_ends_with_a_message(tmp_path, workers):
    root = write(tmp_path / "data", "side_by_side")
    pairs = dataset(SideBySide(root, "train"))
    first = next(iter(batches(pairs, batch_size=3, start=0, stop=1)))
    assert first.skipped == ()
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match=r"none of the 12 pairs can be read.*no such file"):
        list(batches(pairs, batch_size=3, start=1, stop=3, workers=workers))


@posix
def test_a_folder_that_becomes_private(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root reads whatever it likes")
    root = write(tmp_path / "data", "side_by_side")
    source = SideBySide(root, "train")
    (root / "train").chmod(0)
    try:
        with pytest.raises(ImageError, match="Permission denied"):
            source.pair(0)
    finally:
        (root / "train").chmod(0o755)


@posix
@pytest.mark.parametrize("how", ["vanishes", "folder", "pipe", "cut"])
def test_a_shard_that_changes_while_a_run_reads_it(tmp_path, in_time, how):
    root = write(tmp_path / "data", "shards")
    source = Shards(root, "train")
    victim = root / "train" / "0.tar"
    CHANGES[how](victim)
    if how == "pipe":
        in_time.append(victim)
    with pytest.raises(ImageError, match=r"0\.tar:00: cannot be read"):
        source.pair(0)
