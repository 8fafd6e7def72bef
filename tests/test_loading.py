"""Batches for one process or many, loaded here or by workers, and what is kept of pairs."""

import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

import img2img
from img2img.assemble import build_datasets, worker_count
from img2img.data import kept_pairs, resources
from img2img.data import workers as loading_workers
from img2img.data.augmentation import Augmentation, ColorChange
from img2img.data.kept_pairs import KeptPairs, keep_pairs
from img2img.data.loading import PairDataset, batches
from img2img.data.slots import Slots
from img2img.errors import DataError, ImageError, Img2ImgError
from img2img.recipe_parser import load_recipe
from img2img.tasks import Paired

forking = pytest.mark.skipif(not kept_pairs.can_share(), reason="processes are not forked here")


class Noise:
    """Pairs of noise that say how often each was read; some cannot be."""

    def __init__(self, count, size=12, broken=(), shards=None):
        self.count, self.size, self.broken = count, size, set(broken)
        self.read = []
        if shards is not None:
            self.shards = shards

    def __len__(self):
        return self.count

    def name(self, index):
        return f"pair {index}"

    def pair(self, index):
        self.read.append(index)
        if index in self.broken:
            raise ImageError(Path(f"{index}.png"), "broken")
        rng = np.random.default_rng(index)
        first, second = rng.integers(0, 256, (2, self.size, self.size + 4, 3), dtype=np.uint8)
        return first, second


def jitter(**options):
    options = {"mirror": True, "color": ColorChange(0.2, 0.2), **options}
    return Augmentation(14, 8, **options)


def dataset(count=10, *, transform=None, kept=None, seed=0, source=None, swap=False):
    source = Noise(count) if source is None else source
    transform = jitter() if transform is None else transform
    return PairDataset(source, Paired(), transform, swap=swap, seed=seed, kept=kept)


def same(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one.source, other.source)
        assert torch.equal(one.target, other.target)
        assert (one.skipped, one.pairs, one.share) == (other.skipped, other.pairs, other.share)


# Many processes


@pytest.mark.parametrize("shards", [None, [4, 9, 1, 9]])
@pytest.mark.parametrize(("world", "size"), [(2, 1), (2, 3), (3, 2), (4, 5)])
def test_many_processes_see_what_one_does_with_a_larger_batch(world, size, shards):
    pairs = dataset(source=Noise(23, shards=shards))
    whole = list(batches(pairs, batch_size=size * world, start=0, stop=40))
    parts = [
        list(batches(pairs, batch_size=size, start=0, stop=40, rank=rank, world_size=world))
        for rank in range(world)
    ]
    for step, one in enumerate(whole):
        seen = [part[step] for part in parts]
        assert {batch.pairs for batch in seen} == {one.pairs} == {len(one.source)}
        assert sum(batch.share for batch in seen) == pytest.approx(world)
        own = [round(batch.share * one.pairs / world) for batch in seen]
        # As even as can be, the first more.
        assert max(own) - min(own) <= 1
        assert own == sorted(own, reverse=True)
        assert [len(batch.source) for batch in seen] == [max(1, count) for count in own]
        real = [batch.source for batch in seen if batch.share]
        assert torch.equal(torch.cat(real), one.source)
        assert torch.equal(torch.cat([b.target for b in seen if b.share]), one.target)
        for batch in seen:
            if not batch.share:
                assert torch.equal(batch.source[0], one.source[-1])


def test_shares_of_a_last_batch():
    # 11 pairs are a step of 8, and one of 3.
    found = [
        next(batches(dataset(11), batch_size=2, start=1, stop=2, rank=r, world_size=4))
        for r in range(4)
    ]
    assert [(b.pairs, b.share, len(b.source)) for b in found] == [
        (3, 4 / 3, 1),
        (3, 4 / 3, 1),
        (3, 4 / 3, 1),
        (3, 0.0, 1),
    ]


# Workers


@forking
@pytest.mark.parametrize(
    ("workers", "size", "start"), [(1, 1, 0), (2, 1, 5), (2, 2, 11), (2, 40, 1)]
)
def test_workers_change_nothing(workers, size, start):
    pairs = dataset(23, source=Noise(23, broken={3, 4}))
    stop = 150 // size
    expected = list(batches(pairs, batch_size=size, start=0, stop=stop))
    assert len(expected) == stop
    got = list(batches(pairs, batch_size=size, start=start, stop=stop, workers=workers))
    same(got, expected[start:])
    assert any(batch.skipped for batch in got)


def test_workers_without_forking(monkeypatch):
    """As on systems where tensors must come in torch's own way."""
    monkeypatch.setattr(loading_workers, "can_share", lambda: False)
    pairs = dataset(9)
    got = list(batches(pairs, batch_size=2, start=1, stop=20, workers=2))
    same(got, list(batches(pairs, batch_size=2, start=1, stop=20)))


def test_a_data_set_can_be_sent_to_a_fresh_process():
    pairs = dataset(4, kept=keep_pairs(4, 1))
    again = pickle.loads(pickle.dumps(pairs))
    assert again.kept is None
    assert torch.equal(again.tensors(2)[0], pairs.tensors(2)[0])


@forking
def test_a_message_holds_many_small_steps(monkeypatch):
    sizes = []
    real = loading_workers._next

    def counted(messages):
        message = real(messages)
        sizes.append(len(message.steps) if message else 0)
        return message

    monkeypatch.setattr(loading_workers, "_next", counted)
    list(batches(dataset(7), batch_size=1, start=3, stop=103, workers=2))
    # They grow, so that the first steps do not wait for sixteen pairs.
    assert sizes == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 16, 16, 6, 0]
    sizes.clear()
    list(batches(dataset(40), batch_size=12, start=0, stop=8, workers=1))
    assert sizes == [1, 2, 2, 2, 1, 0]
    sizes.clear()
    monkeypatch.setattr("img2img.data.loading.MESSAGE_BYTES", 4 * 2 * 3 * 8 * 8 * 4)
    list(batches(dataset(7), batch_size=1, start=0, stop=12, workers=1))
    assert max(sizes) <= 4


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forking)])
def test_loading_draws_from_no_global_state(workers):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    list(batches(dataset(5, kept=keep_pairs(5, 1)), batch_size=2, start=0, stop=9, workers=workers))
    assert states() == before


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forking)])
def test_what_is_wrong_with_the_data_is_said_alike(workers):
    class Later(Noise):
        def pair(self, index):
            if len(self.read) > 2:
                self.broken = set(range(4))
            return super().pair(index)

    loader = batches(dataset(source=Later(4)), batch_size=1, start=0, stop=50, workers=workers)
    with pytest.raises(
        DataError, match=r"^none of the 4 pairs can be read; the first, \d\.png: br"
    ):
        list(loader)


def workers_now():
    """The pids of loading processes. Of all children of this process, others are helpers of
    Python's and torch's own, which stay, and pids start anew at some number."""
    return {child.pid for child in multiprocessing.active_children()}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Slow(Noise):
    def pair(self, index):
        time.sleep(0.05)
        return super().pair(index)


@forking
def test_closing_ends_the_workers_soon():
    before = workers_now()
    loader = batches(dataset(source=Slow(50)), batch_size=1, start=0, stop=400, workers=2)
    for _ in range(40):
        next(loader)
    began = time.perf_counter()
    started = workers_now() - before
    assert len(started) == 2
    loader.close()
    # Two whole messages of sixteen pairs, as each worker has waiting, would take 1.6 s.
    assert time.perf_counter() - began < 1.5
    assert not any(alive(pid) for pid in started)


@forking
def test_closing_before_the_first_batch_ends_the_workers():
    """They would wait for ever, and this process for them at its end."""
    before = workers_now()
    loader = batches(dataset(20), batch_size=1, start=0, stop=40, workers=2)
    started = workers_now() - before
    assert len(started) == 2
    loader.close()
    assert loader._slots.closed  # so that they do not make what they were asked for first
    assert not any(alive(pid) for pid in started)


@forking
def test_a_run_that_fails_before_its_first_batch_ends_its_workers(
    tmp_path, pairs_folder, tiny_tables, monkeypatch
):
    recipe = tmp_path / "tiny.toml"
    text = tiny_tables.replace('"pairs"', f'"{pairs_folder}"\nworkers = 1')
    recipe.write_text(text + "\nsteps = 20\n")
    before, started = workers_now(), []

    def fail(*given):
        started.extend(workers_now() - before)
        raise ValueError("no records")

    monkeypatch.setattr("img2img.engine.loop.Records", fail)
    with pytest.raises(ValueError, match="no records") as kept:
        img2img.train(recipe, out=tmp_path / "run", device="cpu")
    assert len(started) == 1
    assert not alive(started[0])
    assert kept.traceback  # which knows all that was there


@forking
def test_a_killed_worker_is_said_readably(monkeypatch):
    # How often the loader looks whether its workers are alive: every five seconds.
    look = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(look, "__defaults__", (0.3,))
    before = workers_now()
    loader = batches(dataset(source=Slow(50)), batch_size=1, start=0, stop=400, workers=1)
    next(loader)
    (worker,) = workers_now() - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(Img2ImgError, match=rf"pid {worker}.*data\.workers.*data\.keep_mb"):
        list(loader)


SCRIPT = """
    import os, signal, sys, time
    import numpy as np
    from img2img.data.loading import PairDataset, batches
    from img2img.tasks import Paired

    class Pairs:
        def __len__(self): return 100
        def name(self, index): return str(index)
        def pair(self, index):
            time.sleep(0.02)
            return np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)

    if __name__ == "__main__":
        asked = []
        handle = lambda number, frame: asked.append(int(number))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handle)
        data = PairDataset(Pairs(), Paired(), lambda a, b, seed: (a, b), swap=False, seed=0)
        for step, batch in enumerate(batches(data, batch_size=1, start=0, stop=400, workers=2)):
            if step == 30:
                print("ready", flush=True)
            if len(asked) == 2 and step >= 120:
                break
        print("steps", step, asked, flush=True)
"""


@forking
def test_signals_to_the_whole_group_are_the_main_process_s(tmp_path):
    script = tmp_path / "loads.py"
    script.write_text(textwrap.dedent(SCRIPT))
    ran = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert ran.stdout.readline() == "ready\n"
    os.killpg(ran.pid, signal.SIGINT)
    time.sleep(0.1)
    os.killpg(ran.pid, signal.SIGTERM)
    out, err = ran.communicate(timeout=60)
    # It went on for as long as it liked, and nobody else had anything to say.
    assert re.fullmatch(r"steps \d{3} \[2, 15\]\n", out) and err == ""
    assert ran.returncode == 0


@forking
def test_slots_are_not_overwritten_before_they_were_read():
    slots = Slots(1, 2, 1000)
    first, second, third = (torch.full((2, 5), float(i)) for i in range(3))
    one, two = slots.put(0, [first]), slots.put(0, [second, second[0]])
    assert torch.equal(slots.get(two, 1, pin_memory=False), second[0])
    assert one.slot != two.slot
    begun, begins = os.pipe()
    child = os.fork()
    if not child:
        os.write(begins, b"1")
        slots.put(0, [third])
        os._exit(0)
    os.read(begun, 1)
    time.sleep(0.1)
    assert torch.equal(slots.get(one, 0, pin_memory=False), first)
    slots.free(one)
    os.waitpid(child, 0)
    assert torch.equal(slots.get(one, 0, pin_memory=False), third)
    assert torch.equal(slots.get(two, 0, pin_memory=False), second)


@forking
def test_nobody_waits_for_one_who_reads_no_more():
    slots = Slots(1, 1, 1000)
    slots.close()
    child = os.fork()
    if not child:
        slots.put(0, [torch.zeros(3)])
        slots.put(0, [torch.zeros(3)])
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_what_does_not_fit_in_a_slot_is_sent_itself():
    slots = Slots(1, 1, 1024)
    tensors = [torch.full((count,), float(count)) for count in (200, 49, 48, 1)]
    placed = slots.put(0, tensors)
    assert [isinstance(place, torch.Tensor) for place in placed.tensors] == [0, 1, 0, 1]
    for number, tensor in enumerate(tensors):
        assert torch.equal(slots.get(placed, number, pin_memory=False), tensor)


def test_a_tensor_lies_in_its_slot_before_the_next_is_made():
    """So its memory is free again, and all of a message need not be there at once."""
    slots = Slots(1, 1, 1000)
    memory = torch.empty(5)

    def made():
        for number in range(3):
            yield memory.fill_(number)

    placed = slots.put(0, made())
    for number in range(3):
        found = slots.get(placed, number, pin_memory=False)
        assert torch.equal(found, torch.full((5,), float(number)))


class OfManySizes(Noise):
    """The first pair is the smallest, by which slots are measured."""

    def pair(self, index):
        rng = np.random.default_rng(index)
        side = 8 + 8 * (index % 3) if index else 4
        return tuple(rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8))


@forking
def test_workers_change_nothing_about_pairs_of_many_sizes():
    def data():
        return dataset(
            source=OfManySizes(7), transform=lambda source, target, seed: (source, target)
        )

    got = list(batches(data(), batch_size=1, start=0, stop=40, workers=2))
    same(got, list(batches(data(), batch_size=1, start=0, stop=40)))


# Two parts of augmentation


def all_in_one(load, crop, seed, source, target, *, mirror, rotate, center, kinds):
    """The whole pipeline as one of albumentations', as it was written at first."""
    leads, alike = kinds[0] == "smooth", kinds[0] == kinds[1]
    nearest = alike and not leads
    if load is None:
        steps = [A.PadIfNeeded(crop, crop, border_mode=cv2.BORDER_REFLECT_101)]
    else:
        steps = [
            A.Resize(
                load,
                load,
                interpolation=cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_CUBIC,
                mask_interpolation=cv2.INTER_NEAREST_EXACT,
                area_for_downscale=None if nearest else "image",
            )
        ]
    if load is None or crop < load:
        steps.append((A.CenterCrop if center else A.RandomCrop)(crop, crop))
    if mirror:
        steps.append(A.HorizontalFlip(p=0.5))
    if rotate:
        steps.append(A.RandomRotate90(p=1.0))
    compose = A.Compose(steps, additional_targets={"other": "image" if alike else "mask"}, seed=0)
    compose.set_random_seed(seed)
    images = (source, target) if leads else (target, source)
    done = compose(image=images[0], other=images[1])
    done = (done["image"], done["other"])
    done = [np.clip(image, 0, 1) if image.dtype.kind == "f" else image for image in done]
    return done if leads else done[::-1]


@pytest.mark.parametrize("kinds", [(a, b) for a in ("smooth", "nearest") for b in (a, "smooth")])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("load", "crop"), [(48, 32), (32, 32), (None, 40)])
def test_two_parts_give_what_one_pipeline_would(load, crop, dtype, kinds):
    rng = np.random.default_rng(0)
    for mirror, rotate, center in ((True, True, False), (False, False, True), (True, False, False)):
        options = {"mirror": mirror, "rotate": rotate, "center": center}
        augment = Augmentation(
            load, crop, source_interpolation=kinds[0], target_interpolation=kinds[1], **options
        )
        pair = rng.random((2, 36, 60, 3)).astype(np.float32)
        source, target = np.rint(pair * 255).astype(np.uint8) if dtype == np.uint8 else pair
        prepared = augment.prepare(source, target)
        for image in prepared:
            image.flags.writeable = False
        for seed in range(6):
            expected = all_in_one(load, crop, seed, source, target, kinds=kinds, **options)
            done = augment.vary(*prepared, seed)
            for ours, other, theirs in zip(
                done, augment(source, target, seed), expected, strict=True
            ):
                assert ours.dtype == dtype
                assert ours.flags.writeable
                assert (ours == theirs).all()
                assert (other == theirs).all()


# What is kept


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_kept_pairs_come_back_as_they_were(dtype):
    store = KeptPairs(5, 10**6)
    rng = np.random.default_rng(0)
    pairs = {}
    for index, shapes in {3: ((7, 9, 3), (7, 9, 1)), 0: ((1, 1, 2), (50, 3, 8))}.items():
        pairs[index] = [(rng.random(shape) * 200).astype(dtype) for shape in shapes]
        assert store.get(index) is None
        store.put(index, *pairs[index])
    for index, pair in pairs.items():
        for image, other in zip(store.get(index), pair, strict=True):
            assert image.dtype == dtype
            assert image.shape == other.shape
            assert (image == other).all()
            with pytest.raises(ValueError, match="read-only"):
                image[0] = 1
    assert [index in store for index in range(5)] == [True, False, False, True, False]


def test_one_image_twice_is_kept_once():
    photo = np.arange(3000, dtype=np.uint8).reshape(10, 100, 3)
    one, two = KeptPairs(1, 10**5), KeptPairs(1, 10**5)
    one.put(0, photo, photo)
    two.put(0, photo, photo.copy())
    first, second = one.get(0)
    assert (first == photo).all()
    assert first is second
    assert one.used < two.used - 2500


def test_what_cannot_be_kept_is_not():
    store = KeptPairs(3, 10**5)
    grey = np.zeros((4, 4), np.uint8)
    store.put(0, grey, grey)
    store.put(1, grey[..., None], np.zeros((4, 4, 1), np.complex64))
    assert store.get(0) is store.get(1) is None
    assert store.used == KeptPairs(3, 10**5).used


def test_a_store_that_is_full_takes_no_more_and_loses_nothing():
    image = np.full((10, 10, 3), 7, np.uint8)
    store = KeptPairs(100, 4000)
    for index in range(100):
        store.put(index, image + index, image)
    kept = [index for index in range(100) if index in store]
    assert kept == list(range(len(kept)))
    assert 3 <= len(kept) <= 4
    assert store.used <= 4000
    for index in kept:
        assert (store.get(index)[0] == image + index).all()


def test_the_data_set_reads_each_pair_once_and_gives_the_same():
    kept = keep_pairs(10, 1)
    source = Noise(10, broken={4})
    pairs, plain = dataset(source=source, kept=kept), dataset(source=Noise(10, broken={4}))
    for swap in (False, True):
        pairs.swap = plain.swap = swap
        if swap:
            pairs.kept = keep_pairs(10, 1)
            source.read.clear()
        same(
            batches(pairs, batch_size=3, start=0, stop=16),
            batches(plain, batch_size=3, start=0, stop=16),
        )
        # What cannot be read is tried again.
        assert sorted(set(source.read)) == list(range(10))
        assert len(source.read) == 9 + source.read.count(4)
        assert source.read.count(4) == 4


def test_what_is_kept_is_the_resized_pair():
    kept = keep_pairs(3, 1)
    dataset(3, kept=kept).tensors(1)
    assert [image.shape for image in kept.get(1)] == [(14, 14, 3)] * 2


def test_nothing_can_write_into_what_is_kept():
    class Careless(Paired):
        def encode_source(self, image):
            image[:] = 0
            return super().encode_source(image)

    def spoil(target, seed):
        target[:, 0] = seed % 256
        return target

    for transform in (jitter(), Augmentation(14, 14), jitter(derive=spoil)):
        kept = keep_pairs(4, 1)
        pairs = PairDataset(Noise(4), Careless(), transform, swap=False, seed=0, kept=kept)
        pairs[0, 2]
        before = [image.copy() for image in kept.get(2)]
        assert (before[0] != 0).any()
        for epoch in range(5):
            pairs[epoch, 2]
        for image, other in zip(kept.get(2), before, strict=True):
            assert (image == other).all()


def test_damaged_photographs_are_kept_whole():
    kept = keep_pairs(2, 1)
    transform = jitter(derive=lambda target, seed: (target // 2 + seed % 100).astype(np.uint8))
    pairs, plain = dataset(2, transform=transform, kept=kept), dataset(2, transform=transform)
    sources = {pairs[epoch, 0].source.numpy().tobytes() for epoch in range(6)}
    assert len(sources) == 6
    for epoch in range(3):
        assert torch.equal(pairs[epoch, 0].source, plain[epoch, 0].source)
    first, second = kept.get(0)
    assert first is second


@forking
def test_workers_fill_one_store():
    kept = keep_pairs(30, 1)
    source = Noise(30)
    pairs, plain = dataset(source=source, kept=kept), dataset(30)
    expected = list(batches(plain, batch_size=1, start=0, stop=90))
    same(batches(pairs, batch_size=1, start=0, stop=90, workers=2), expected)
    assert all(index in kept for index in range(30))
    # This process finds what the others decoded.
    source.read.clear()
    same(batches(pairs, batch_size=1, start=0, stop=90), expected)
    assert source.read == []


@forking
def test_a_pair_is_found_only_when_it_is_whole():
    """A process that dies while it writes leaves nothing that looks like a pair."""
    store = KeptPairs(2, 10**6)
    image = np.full((100, 100, 3), 9, np.uint8)

    class Dies:
        """An image that ends the process when it is copied."""

        ndim, dtype, shape, nbytes = 3, image.dtype, image.shape, image.nbytes

        def __array__(self, *args, **kwargs):
            os._exit(7)

    child = os.fork()
    if not child:
        store.put(0, image, Dies())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert store.used > image.nbytes
    assert store.get(0) is None
    store.put(0, image, image)
    assert (store.get(0)[0] == 9).all()


def test_a_lock_that_its_owner_took_along_stops_nobody(monkeypatch):
    monkeypatch.setattr(kept_pairs, "PATIENCE_S", 0.01)
    store = KeptPairs(2, 10**5)
    image = np.zeros((4, 4, 3), np.uint8)
    store.put(0, image, image)
    store._lock.acquire()
    store.put(1, image, image)
    assert store.get(1) is None
    assert store.get(0) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_huge_budget_takes_no_memory():
    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    began = time.perf_counter()
    store = keep_pairs(10**7, 200_000)
    assert store is not None
    store.put(9_999_999, *[np.zeros((4, 4, 3), np.uint8)] * 2)
    assert time.perf_counter() - began < 5  # 160 GB of zeros would take minutes
    assert resident() - before < 10**6


def test_budgets(monkeypatch):
    monkeypatch.setattr(kept_pairs, "available_memory", lambda: 80 << 20)
    assert keep_pairs(10, 0) is None
    assert keep_pairs(10, 3)._room == pytest.approx(3 << 20, rel=0.01)
    assert keep_pairs(10, None)._room == pytest.approx(20 << 20, rel=0.01)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert keep_pairs(10, None)._room == pytest.approx(5 << 20, rel=0.01)
    assert keep_pairs(10, 3)._room == pytest.approx(3 << 20, rel=0.01)
    # No more than they can need, and that is enough for all.
    store = keep_pairs(10, 300, pair_size=2 * 1001)
    assert store._room < 10 * 2700
    image = np.zeros((1, 1001, 1), np.uint8)
    for index in range(10):
        store.put(index, image, image.copy())
    assert all(index in store for index in range(10))
    monkeypatch.setattr(kept_pairs, "available_memory", lambda: 0)
    assert keep_pairs(10, None) is None


def refuse(size):
    raise OSError("Cannot allocate memory")


def test_memory_that_cannot_be_had_is_no_error(monkeypatch):
    monkeypatch.setattr(kept_pairs, "reserve", refuse)
    assert keep_pairs(10, 5) is None


RECIPE = """
name = "r"
[data]
source = "synthetic"
count = 6
size = 20
crop_size = 16
{data}
[generator]
name = "unet"
width = 2
depth = 2
[[losses]]
name = "l1"
[train]
steps = 1
"""


def test_a_recipe_keeps_training_pairs_alone(tmp_path, registry):
    def built(data):
        file = tmp_path / "r.toml"
        file.write_text(RECIPE.format(data=data))
        recipe = load_recipe(file, registry)
        task = registry.get("task", recipe.task.name).build(recipe.task.settings)
        return build_datasets(recipe, registry, task)

    data = built("keep_mb = 2")
    assert data.train.kept is not None
    assert data.still.kept is data.validation.kept is None
    plain = built("keep_mb = 0").train
    assert plain.kept is None
    same(
        batches(data.train, batch_size=2, start=0, stop=9),
        batches(plain, batch_size=2, start=0, stop=9),
    )
    assert all(index in data.train.kept for index in range(6))
    assert built("").train.kept is not None


# The machine


def files(root, texts):
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "PROC", tmp_path / "proc")
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cg")
    files(tmp_path, {"proc/meminfo": "MemTotal: 4000 kB\nMemAvailable:    2000 kB\nHuge: 0\n"})
    return tmp_path


def test_memory_by_meminfo_and_cgroups(machine):
    assert resources.available_memory() == 2000 * 1024
    files(machine, {"proc/self/cgroup": "0::/a/b\n", "cg/a/b/memory.max": "max\n"})
    assert resources.available_memory() == 2000 * 1024
    # A limit around it counts, less what is used, and files in memory are as good as free.
    files(
        machine,
        {
            "cg/a/memory.max": "900000",
            "cg/a/memory.current": "500000",
            "cg/a/memory.stat": "anon 3\ninactive_file 100000\n",
        },
    )
    assert resources.available_memory() == 500_000
    files(machine, {"cg/a/memory.current": "1200000"})
    assert resources.available_memory() == 0


def test_memory_by_the_older_cgroups(machine):
    files(
        machine,
        {
            "proc/self/cgroup": "7:cpu,cpuacct:/x\n5:memory:/docker/123\n",
            # In the container the path is another than outside.
            "cg/memory/memory.limit_in_bytes": "700000",
            "cg/memory/memory.usage_in_bytes": "300000",
            "cg/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50000\n",
            "cg/cpu/x/cpu.cfs_quota_us": "250000",
            "cg/cpu/x/cpu.cfs_period_us": "100000",
        },
    )
    assert resources.available_memory() == 450_000


def test_cores(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    assert resources.available_cores() == 12
    files(machine, {"proc/self/cgroup": "0::/\n", "cg/cpu.max": "max 100000"})
    assert resources.available_cores() == 12
    files(machine, {"cg/cpu.max": "550000 100000"})
    assert resources.available_cores() == 5
    files(machine, {"cg/cpu.max": "50000 100000"})
    assert resources.available_cores() == 1


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(1, 1, 1), (2, 1, 1), (6, 1, 5), (64, 1, 8), (16, 4, 3), (8, 8, 1)],
)
def test_workers_by_default(monkeypatch, cores, processes, workers):
    monkeypatch.setattr("img2img.assemble.available_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert worker_count(None, torch.device("cuda", 0)) == workers
    assert worker_count(None, torch.device("cpu")) == 0
    assert worker_count(1, torch.device("cpu")) == 1


def test_far_more_workers_than_cores_are_told_of(monkeypatch, recwarn):
    monkeypatch.setattr("img2img.assemble.available_cores", lambda: 2)
    assert worker_count(4, torch.device("cpu")) == 4
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match="starts 5 processes on 2 cores"):
        assert worker_count(5, torch.device("cpu")) == 5
    monkeypatch.setattr("img2img.assemble.local_processes", lambda: 3)
    with pytest.warns(RuntimeWarning, match="starts 6 processes on 2 cores"):
        worker_count(2, torch.device("cpu"))
