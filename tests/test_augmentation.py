"""Augmentation, seen through pixels that say where they came from, and the order of pairs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from img2img.data.augmentation import Augmentation, ColorChange
from img2img.data.loading import PairDataset, StepSampler, batches, steps_per_epoch
from img2img.data.order import Order
from img2img.errors import DataError, ImageError
from img2img.tasks import Paired

SEEDS = range(40)


def places(height=40, width=40, mark=0):
    """Each pixel is (its row, its column, `mark`)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, mark)], axis=-1).astype(np.uint8)


def described(image):
    """What was done to `places`: the offset of the crop, quarters turned, and whether mirrored."""
    rows, columns = image[..., 0].astype(int), image[..., 1].astype(int)
    for turns in range(4):
        for mirrored in (False, True):
            upright_rows, upright_columns = (
                np.fliplr(np.rot90(a, -turns)) if mirrored else np.rot90(a, -turns)
                for a in (rows, columns)
            )
            top, left = upright_rows[0, 0], upright_columns[0, 0]
            grid = np.mgrid[: image.shape[0], : image.shape[1]]
            if (upright_rows == grid[0] + top).all() and (upright_columns == grid[1] + left).all():
                return (top, left), turns, mirrored
    raise AssertionError("not a crop, turned by quarters or mirrored")


# Geometry


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize(
    "kinds", [("smooth", "smooth"), ("nearest", "smooth"), ("smooth", "nearest")]
)
def test_both_images_go_the_same_way(mirror, rotate, kinds):
    augment = Augmentation(
        40,
        32,
        mirror=mirror,
        rotate=rotate,
        source_interpolation=kinds[0],
        target_interpolation=kinds[1],
    )
    done = []
    for seed in SEEDS:
        source, target = augment(places(), places(mark=200), seed)
        assert source.shape == target.shape == (32, 32, 3)
        assert source.dtype == target.dtype == np.uint8
        assert (source[..., :2] == target[..., :2]).all()
        assert (source[..., 2] == 0).all()
        assert (target[..., 2] == 200).all()
        done.append(described(source))
    offsets, turns, mirrored = zip(*done, strict=True)
    # Crops come from all over: 0 to 8 in each direction.
    for axis in (0, 1):
        found = {offset[axis] for offset in offsets}
        assert found <= set(range(9))
        assert len(found) >= 6
    assert set(turns) == ({0, 1, 2, 3} if rotate else {0})
    assert set(mirrored) == ({False, True} if mirror else {False})


def test_mirroring_happens_half_of_the_time():
    augment = Augmentation(16, 16, mirror=True)
    count = sum(described(augment(places(16, 16), places(16, 16), s)[0])[2] for s in range(300))
    # Five standard deviations of a fair coin.
    assert abs(count - 150) < 43


@pytest.mark.parametrize(("load", "crop"), [(48, 32), (32, 32), (20, 16)])
@pytest.mark.parametrize("size", [(40, 40), (24, 60)])
def test_sizes(load, crop, size):
    augment = Augmentation(load, crop)
    source, target = augment(places(*size), places(*size), 0)
    assert source.shape == target.shape == (crop, crop, 3)


def test_no_jitter_is_no_change():
    source, target = Augmentation(40, 40)(places(), places(mark=9), 5)
    assert (source == places()).all()
    assert (target == places(mark=9)).all()


@pytest.mark.parametrize("load", [28, 57, 80])
def test_resizing_keeps_two_kinds_aligned(load):
    """A label map and its photograph are resized differently, but neither is shifted."""
    ramp = np.repeat(np.arange(0, 240, 6, dtype=np.uint8)[None, :, None], 40, axis=0)
    ramp = np.repeat(ramp, 3, axis=2)
    augment = Augmentation(load, load, source_interpolation="nearest")
    for turned in (ramp, ramp.transpose(1, 0, 2)):
        source, target = (i.astype(float) for i in augment(turned, turned.copy(), 0))
        # One pixel is 6 levels: at most a pixel apart anywhere, and not apart on average.
        assert np.abs(source - target).max() <= 6
        assert abs((source - target).mean()) < 0.6


# Sizes at which no centre falls between two pixels.
@pytest.mark.parametrize("load", [24, 56, 80])
def test_nearest_takes_the_pixel_below_the_centre(load):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    nearest = [int((i + 0.5) * 40 / load) for i in range(load)]
    expected = labels[nearest][:, nearest]
    for target_kind in ("nearest", "smooth"):
        augment = Augmentation(
            load, load, source_interpolation="nearest", target_interpolation=target_kind
        )
        assert (augment(labels, labels, 0)[0] == expected).all()


def test_shrinking_takes_the_mean():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    means = image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    for kind in ("smooth", "nearest"):
        _, target = Augmentation(16, 16, source_interpolation=kind)(image, image, 0)
        assert np.abs(target - means).max() <= 1


@pytest.mark.parametrize("load", [30, 56])
@pytest.mark.parametrize(
    "kinds", [("nearest", "smooth"), ("smooth", "nearest"), ("nearest", "nearest")]
)
def test_nearest_makes_no_new_colours(load, kinds):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    labels = palette[rng.integers(0, 5, (40, 40))]
    augment = Augmentation(
        load,
        load - 6,
        mirror=True,
        rotate=True,
        source_interpolation=kinds[0],
        target_interpolation=kinds[1],
    )
    allowed = {tuple(c) for c in palette.tolist()}
    for seed in range(8):
        for kind, image in zip(kinds, augment(labels, labels, seed), strict=True):
            colours = {tuple(c) for c in np.unique(image.reshape(-1, 3), axis=0).tolist()}
            assert (colours <= allowed) is (kind == "nearest")


# Colours


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_in_the_source_alone(change):
    image = np.random.default_rng(0).integers(60, 200, (40, 40, 3), dtype=np.uint8)
    plain = Augmentation(40, 32, mirror=True)
    augment = Augmentation(40, 32, mirror=True, color=ColorChange(**{change: 0.4}))
    changed = 0
    for seed in range(10):
        source, target = augment(image, image, seed)
        still_source, still_target = plain(image, image, seed)
        # The target, and so the geometry, is as without.
        assert (target == still_target).all()
        changed += (source != still_source).any()
        # Another colour, the same picture: what is lightest stays so under every change.
        lightest = source.max(axis=-1).ravel(), still_source.max(axis=-1).ravel()
        assert np.corrcoef(*lightest)[0, 1] > 0.7
    assert changed >= 8


def test_brightness_stays_within_what_was_asked():
    image = np.full((8, 8, 3), 100, np.uint8)
    augment = Augmentation(8, 8, color=ColorChange(brightness=0.3))
    levels = [int(augment(image, image, seed)[0][0, 0, 0]) for seed in range(60)]
    assert min(levels) >= 69
    assert max(levels) <= 131
    assert min(levels) < 80
    assert max(levels) > 120


def test_no_colour_change_is_none():
    assert not ColorChange()
    assert ColorChange(hue=0.1)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    source, _ = Augmentation(8, 8, color=ColorChange())(image, image, 3)
    assert (source == image).all()


# A pure function of the seed


def full(load=48, crop=32):
    return Augmentation(load, crop, mirror=True, rotate=True, color=ColorChange(0.3, 0.3, 0.3, 0.1))


def test_the_same_seed_gives_the_same_pair():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    kept = image.copy()
    one, other = full(), full()
    first = [np.stack(one(image, image[::-1], seed)) for seed in SEEDS]
    # Another object, another order, and other random states around it.
    np.random.seed(3)
    torch.manual_seed(3)
    for seed in reversed(SEEDS):
        assert (np.stack(other(image, image[::-1], seed)) == first[seed]).all()
    assert (image == kept).all()
    assert len({pair.tobytes() for pair in first}) == len(SEEDS)


def test_augmentation_leaves_the_global_random_states_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    full()(places(), places(), 7)
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])


# Pairs to batches


class Numbered:
    """Pairs of flat images: the first has the level of its index, the second 100 more."""

    def __init__(self, count, broken=()):
        self.count, self.broken = count, set(broken)

    def __len__(self):
        return self.count

    def name(self, index):
        return f"pair {index}"

    def pair(self, index):
        if index in self.broken:
            raise ImageError(Path(f"{index}.png"), "broken")
        first = np.full((8, 8, 3), index, np.uint8)
        # One pixel tells crops apart.
        first[3, 3] = 255
        return first, first // 2 + 100


def dataset(count=10, *, seed=0, swap=False, broken=(), transform=lambda a, b, seed: (a, b)):
    return PairDataset(Numbered(count, broken), Paired(), transform, swap=swap, seed=seed)


def level(tensor):
    return round((tensor[0, 0, 0].item() + 1) * 127.5)


def sampled(count, size, seed, start, stop):
    """The keys (epoch, index) of each step."""
    parts = StepSampler(Order(count, seed), size, start, stop)
    return [[(part.epoch, index) for index in part.indices] for part in parts]


@pytest.mark.parametrize(("count", "size"), [(10, 1), (10, 3), (10, 10), (10, 16), (7, 7)])
def test_each_epoch_visits_every_pair_once(count, size):
    per_epoch = steps_per_epoch(count, size)
    found = sampled(count, size, 0, 0, 3 * per_epoch)
    assert len(found) == 3 * per_epoch
    rest = [count % size] if count % size else []
    assert [len(batch) for batch in found] == ([size] * (count // size) + rest) * 3
    for epoch in range(3):
        keys = [k for b in found[epoch * per_epoch : (epoch + 1) * per_epoch] for k in b]
        assert {e for e, _ in keys} == {epoch}
        assert sorted(i for _, i in keys) == list(range(count))


def test_order_depends_on_seed_and_epoch_alone():
    def indices(seed, epoch, size=1):
        per_epoch = steps_per_epoch(20, size)
        steps = sampled(20, size, seed, epoch * per_epoch, (epoch + 1) * per_epoch)
        return [index for step in steps for _, index in step]

    assert indices(0, 0) == indices(0, 0) == indices(0, 0, size=6)
    orders = [tuple(indices(seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert tuple(range(20)) not in orders


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 11])
def test_a_later_start_gives_the_tail(start):
    whole = sampled(10, 3, 5, 0, 12)
    assert sampled(10, 3, 5, start, 12) == whole[start:]
    assert len(StepSampler(Order(10, 5), 3, start, 12)) == 12 - start


def jitter(source, target, seed):
    return full(12, 8)(source, target, seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_any_step_and_for_any_workers(workers):
    pairs = dataset(7, transform=jitter, broken={2})
    whole = list(batches(pairs, batch_size=3, start=0, stop=7))
    assert [len(b.source) for b in whole] == [3, 3, 1, 3, 3, 1, 3]
    state = torch.get_rng_state()
    tail = list(batches(pairs, batch_size=3, start=2, stop=7, workers=workers))
    # Dropout draws from this state; if loading did too, resuming would not repeat a run.
    assert torch.equal(torch.get_rng_state(), state)
    assert len(tail) == 5
    for one, other in zip(whole[2:], tail, strict=True):
        assert torch.equal(one.source, other.source)
        assert torch.equal(one.target, other.target)
        assert one.skipped == other.skipped
    assert any(b.skipped == ((2, "2.png", "broken"),) for b in tail)


def test_augmentation_differs_between_epochs_indices_and_seeds():
    seeds = []
    for seed in range(3):
        pairs = dataset(5, seed=seed, transform=lambda a, b, s: seeds.append(s) or (a, b))
        for epoch in range(3):
            for index in range(5):
                pairs[epoch, index]
    assert len(set(seeds)) == 45
    again = []
    pairs = dataset(5, seed=1, transform=lambda a, b, s: again.append(s) or (a, b))
    pairs[2, 3]
    assert again == [seeds[1 * 15 + 2 * 5 + 3]]


def test_a_batch_holds_the_pairs_it_should():
    for batch, keys in zip(
        batches(dataset(), batch_size=4, start=0, stop=3), sampled(10, 4, 0, 0, 3), strict=True
    ):
        assert [level(s) for s in batch.source] == [index for _, index in keys]
        assert [level(t) for t in batch.target] == [index // 2 + 100 for _, index in keys]
        assert batch.source.shape[1:] == (3, 8, 8)
        assert batch.source.dtype == torch.float32
        assert batch.skipped == ()


def test_the_direction_swaps_source_and_target():
    straight, swapped = dataset()[0, 4], dataset(swap=True)[0, 4]
    assert torch.equal(straight.source, swapped.target)
    assert torch.equal(straight.target, swapped.source)
    assert (level(straight.source[0]), level(swapped.source[0])) == (4, 102)


@pytest.mark.parametrize(
    ("broken", "index", "instead"), [({4}, 4, 5), ({9}, 9, 0), ({8, 9, 0}, 8, 1)]
)
def test_an_unreadable_pair_is_replaced_by_the_next_and_reported(broken, index, instead):
    batch = dataset(broken=broken)[0, index]
    assert level(batch.source[0]) == instead
    skipped = [(index + i) % 10 for i in range(len(broken))]
    assert batch.skipped == tuple((i, f"{i}.png", "broken") for i in skipped)


def test_reports_of_a_batch_are_joined():
    (batch,) = batches(dataset(3, broken={0, 1}), batch_size=3, start=0, stop=1)
    assert len(batch.source) == 3
    assert [level(s) for s in batch.source] == [2, 2, 2]
    assert [skip.pair for skip in sorted(batch.skipped)] == [0, 1, 1]


def test_nothing_readable_is_a_data_error():
    with pytest.raises(DataError, match=r"none of the 3 pairs.*1\.png"):
        dataset(3, broken=range(3))[0, 1]


def test_one_pair_alone_raises_what_is_wrong_with_it():
    """Validation scores each pair by itself, where a replacement would be scored twice."""
    with pytest.raises(ImageError, match="broken"):
        dataset(broken={3}).tensors(3)


def test_importing_asks_the_network_for_nothing_and_hides_no_hub():
    """albumentations looks for a newer version of itself unless it is told not to beforehand.

    The hub's client, which it would import, is there for those who want it.
    """
    code = (
        "import importlib, os, sys, urllib.request as r\n"
        "asked = []\n"
        "def opened(*a, **k):\n"
        "    asked.append(a)\n"
        "    raise OSError('no network here')\n"
        "r.OpenerDirector.open = opened\n"
        "import img2img.data.augmentation\n"
        "print(len(asked))\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "import huggingface_hub\n"
        "assert huggingface_hub.HfApi\n"
        # The library by itself asks, or this test would show nothing.
        "os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)\n"
        "importlib.reload(img2img.data.augmentation.A)\n"
        "print(len(asked))"
    )
    quiet = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=quiet, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    by_us, by_itself = map(int, ran.stdout.split())
    assert by_us == 0
    assert by_itself > 0
