"""Pairs out of parquet files and folders of the `datasets` library, and what can be wrong there."""

import io
import logging
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.data import HuggingFace
from img2img.data.checking import look_through
from img2img.data.loading import PairDataset, batches
from img2img.errors import DataError, ImageError
from img2img.tasks import Paired

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The library keeps copies; they are to go with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(seed, width=24, height=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels, **options):
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, options.pop("format", "PNG"), **options)
    return written.getvalue()


def table(count, start=0, names=("source", "target"), **more):
    """Rows of two images, and other columns."""
    columns = {
        name: [{"bytes": encoded(picture(2 * (start + i) + k)), "path": None} for i in range(count)]
        for k, name in enumerate(names)
    }
    features = {name: datasets.Image() for name in names}
    for name, values in more.items():
        columns[name] = values
        features[name] = datasets.Value("string")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def write(path, *arguments, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table(*arguments, **options).to_parquet(path)
    return path


def is_pair(source, index, number):
    """Whether a pair is the one that `table` gave this number."""
    first, second = source.pair(index)
    return (first == picture(2 * number)).all() and (second == picture(2 * number + 1)).all()


# Where the rows come from


def test_a_parquet_file(tmp_path):
    path = write(tmp_path / "pairs.parquet", 21, caption=["x"] * 21)
    train, val = HuggingFace(path, "train"), HuggingFace(path, "val")
    assert (len(train), len(val)) == (19, 2)
    assert [is_pair(val, i, number) for i, number in enumerate((9, 19))] == [True, True]
    assert [is_pair(train, i, number) for i, number in ((0, 0), (9, 10), (18, 20))] == [True] * 3
    assert val.name(0) == f"{path}[train][9]"
    assert train.name(9) == f"{path}[train][10]"
    first, _ = train.pair(0)
    assert first.dtype == np.uint8
    assert first.shape == (16, 24, 3)


@pytest.mark.parametrize(("count", "expected"), [(1, ([0], [0])), (2, ([0], [1]))])
def test_few_rows(tmp_path, count, expected):
    path = write(tmp_path / "pairs.parquet", count)
    for split, numbers in zip(("train", "val"), expected, strict=True):
        source = HuggingFace(path, split)
        assert [source.name(i) for i in range(len(source))] == [
            f"{path}[train][{number}]" for number in numbers
        ]


@pytest.mark.parametrize(
    ("train", "val", "name"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], ["val.parquet"], "val"),
        (["data/train-00000-of-00001.parquet"], ["data/validation-0.parquet"], "validation"),
        (["train/0000.parquet", "train/0001.parquet"], ["test/0000.parquet"], "test"),
        (["pairs_train.parquet"], ["pairs_dev.parquet"], "validation"),
        # Words, not parts of them.
        (["train-latest.parquet"], ["validation.parquet"], "validation"),
    ],
)
def test_folders_of_parquet(tmp_path, train, val, name):
    number = 0
    for file in (*train, *val):
        write(tmp_path / file, 3, number)
        number += 3
    # Another tool's, and what is no row at all.
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/old.parquet").write_bytes(b"hidden")
    (tmp_path / "README.md").write_text("hello")
    sources = [HuggingFace(tmp_path, split) for split in ("train", "val")]
    assert [len(source) for source in sources] == [3 * len(train), 3]
    assert all(is_pair(sources[0], i, i) for i in range(len(sources[0])))
    assert all(is_pair(sources[1], i, 3 * len(train) + i) for i in range(3))
    assert sources[1].name(2) == f"{tmp_path}[{name}][2]"


def test_a_folder_without_splits_holds_out(tmp_path):
    write(tmp_path / "0000.parquet", 10)
    write(tmp_path / "0001.parquet", 10, 10)
    assert [len(HuggingFace(tmp_path, split)) for split in ("train", "val")] == [18, 2]


def test_validation_before_test(tmp_path):
    for start, name in ((0, "train"), (5, "test"), (10, "validation")):
        write(tmp_path / f"{name}.parquet", 5, start)
    assert is_pair(HuggingFace(tmp_path, "val"), 0, 10)
    assert is_pair(HuggingFace(tmp_path, "val", val_split="test"), 0, 5)
    assert is_pair(HuggingFace(tmp_path, "train", train_split="test"), 0, 5)


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    splits = datasets.DatasetDict({"train": table(4), "validation": table(2, 4)})
    splits.save_to_disk(tmp_path / "both")
    assert is_pair(HuggingFace(tmp_path / "both", "train"), 3, 3)
    assert is_pair(HuggingFace(tmp_path / "both", "val"), 1, 5)
    table(10).save_to_disk(tmp_path / "one")
    assert is_pair(HuggingFace(tmp_path / "one", "val"), 0, 9)


def test_a_configuration_is_a_folder(tmp_path):
    write(tmp_path / "small/train.parquet", 2)
    write(tmp_path / "large/train.parquet", 12, 50)
    assert is_pair(HuggingFace(tmp_path, "train", config="large"), 0, 50)
    with pytest.raises(DataError, match=r"data\.config: there is no folder .*huge"):
        HuggingFace(tmp_path, "train", config="huge")


def test_a_name_on_the_hub(monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return datasets.DatasetDict({"train": table(3), "test": table(2, 3)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = HuggingFace(Path("owner/name.x"), "val", config="small", revision="abc")
    assert asked == [(("owner/name.x",), {"name": "small", "revision": "abc"})]
    assert is_pair(source, 1, 4)
    assert source.name(1) == "owner/name.x[test][1]"
    HuggingFace(Path("owner/name.x"), "train")
    assert asked[1][1] == {"name": None, "revision": None}


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def away(*arguments, **options):
        raise ConnectionError("Couldn't reach the hub\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", away)
    said = r"no file or folder 'owner/name' here, .* hub .* \(Couldn't reach the hub\)$"
    with pytest.raises(DataError, match=said):
        HuggingFace(Path("owner/name"), "train")


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("pq/nothere", r"because there is a folder 'pq' here; did you mean 'pq/not_here'\?$"),
        ("pq/else", "because there is a folder 'pq' here$"),
        ("owner/pairs.parquet", r"because it ends in \.parquet$"),
        ("pq/deep/er", "there is no file or folder 'pq/deep/er', and a name on the hub looks like"),
        ("/pq/x", "looks like owner/name"),
        ("../pq/x", "looks like owner/name"),
        ("pq", "looks like owner/name"),
    ],
)
def test_mistyped_paths_are_not_looked_for_on_the_hub(tmp_path, monkeypatch, root, said):
    monkeypatch.chdir(tmp_path)
    if root != "pq":
        (tmp_path / "pq/not_here").mkdir(parents=True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=said):
        HuggingFace(Path(root), "train")


def test_a_hub_that_is_tried_again_says_so_once(monkeypatch, capfd):
    def away(*arguments, **options):
        for _ in range(3):
            logger.warning("'[Errno -2]' thrown while requesting HEAD https://x")
            logger.warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (LocalEntryNotFoundError)")

    logger = logging.getLogger("huggingface_hub.utils._http")
    monkeypatch.setattr(datasets, "load_dataset", away)
    with (
        pytest.warns(RuntimeWarning, match="cannot be reached so far") as told,
        pytest.raises(DataError, match=r"the Hub \(LocalEntryNotFoundError\)\)$"),
    ):
        HuggingFace(Path("owner/name"), "train")
    assert len(told) == 1
    assert capfd.readouterr().err == ""


def test_local_files_ask_nobody(tmp_path, monkeypatch):
    """The library would tell its hub of each use."""
    import socket

    asked = []

    def connect(*arguments, **options):
        # An error alone would be swallowed.
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    HuggingFace(write(tmp_path / "pairs.parquet", 3), "train").pair(0)
    assert asked == []


def test_a_file_that_is_replaced(tmp_path):
    path = write(tmp_path / "pairs.parquet", 3)
    assert is_pair(HuggingFace(path, "train"), 0, 0)
    write(path, 4, 30)
    assert is_pair(HuggingFace(path, "train"), 0, 30)


# Columns


def test_columns_by_name(tmp_path):
    path = write(tmp_path / "pairs.parquet", 3, names=("a", "b"), caption=["x"] * 3)
    assert is_pair(HuggingFace(path, "train", first="a", second="b"), 0, 0)
    for settings in ({"first": "b"}, {"second": "a"}, {"first": "b", "second": "a"}):
        first, second = HuggingFace(path, "train", **settings).pair(0)
        assert (first == picture(1)).all()
        assert (second == picture(0)).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, r"name the two columns .*; columns: a \(images\), b \(images\), c \(images\), text"),
        ({"first": "a"}, "name the two columns"),
        ({"first": "x", "second": "b"}, r"data\.first: there is no column 'x'; columns: a \(im"),
        ({"first": "a", "second": "text"}, r"data\.second: column 'text' holds no images"),
        ({"first": "a", "second": "a"}, r"data\.second: 'a' is the first column as well"),
    ],
)
def test_columns_that_cannot_be_told(tmp_path, settings, said):
    path = write(tmp_path / "pairs.parquet", 2, names=("a", "b", "c"), text=["x"] * 2)
    with pytest.raises(DataError, match=said):
        HuggingFace(path, "train", **settings)
    assert len(HuggingFace(path, "train", first="c", second="a")) == 1


def test_one_column_of_images(tmp_path):
    path = write(tmp_path / "pairs.parquet", 2, names=("a",))
    with pytest.raises(DataError, match=r"name the two columns .* a \(images\)$"):
        HuggingFace(path, "train")


@pytest.mark.parametrize("form", ["struct", "binary", "large_binary"])
def test_parquet_of_other_programs(tmp_path, form):
    """They do not say which columns are images."""
    columns = {
        name: [encoded(picture(2 * i + k)) for i in range(3)] for k, name in enumerate(("a", "b"))
    }
    if form == "struct":
        columns = {
            name: [{"bytes": data, "path": "x.png"} for data in found]
            for name, found in columns.items()
        }
        written = pyarrow.table({**columns, "number": [1, 2, 3]})
    else:
        kind = getattr(pyarrow, form)()
        written = pyarrow.table({name: pyarrow.array(d, kind) for name, d in columns.items()})
    pyarrow.parquet.write_table(written, tmp_path / "pairs.parquet")
    assert is_pair(HuggingFace(tmp_path / "pairs.parquet", "train"), 1, 1)


# Images


def cells(*first, second=None):
    """A table whose first column holds these bytes."""
    second = second or encoded(picture(1))
    columns = {
        "a": [data and {"bytes": data, "path": None} for data in first],
        "b": [{"bytes": second, "path": None} for _ in first],
    }
    features = datasets.Features({"a": datasets.Image(), "b": datasets.Image()})
    return datasets.Dataset.from_dict(columns, features=features)


def test_images_are_turned_upright_and_flattened(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture(1, 16, 24), exif=exif)
    clear = encoded(np.zeros((16, 24, 4), np.uint8))
    cells(turned, clear, encoded(picture(3)[..., 0])).to_parquet(tmp_path / "x.parquet")
    source = HuggingFace(tmp_path / "x.parquet", "train")
    assert source.pair(0)[0].shape == (16, 24, 3)
    assert (source.pair(1)[0] == 255).all()


def test_rows_that_cannot_be_used(tmp_path):
    good = encoded(picture(0))
    path = tmp_path / "x.parquet"
    cells(good, good[:200], b"no image", None, encoded(picture(0, 24, 8)), good).to_parquet(path)
    source = HuggingFace(path, "train")
    assert source.pair(0)
    for index, said in (
        (1, r"\[train\]\[1\]: column 'a' cannot be read"),
        (2, r"\[train\]\[2\]: column 'a' is not an image that can be read"),
        (3, r"\[train\]\[3\]: column 'a' is empty"),
        (4, r"\[train\]\[4\]: 24x8 pixels in column 'a', but 24x16 in 'b'"),
    ):
        with pytest.raises(ImageError, match=said):
            source.pair(index)
    findings = look_through(source)
    expected = [f"{path}[train][{i}]" for i in (1, 2, 3, 4)]
    assert [problem.file for problem in findings.problems] == expected


# In processes and threads


def test_it_can_be_sent_to_another_process(tmp_path):
    source = HuggingFace(write(tmp_path / "x.parquet", 12), "val")
    again = pickle.loads(pickle.dumps(source))
    assert again.name(0) == source.name(0)
    assert is_pair(again, 0, 9)
    # Rows stay where they are: what is sent is where.
    assert len(pickle.dumps(source)) < 20_000


def test_loader_workers_see_the_same(tmp_path):
    pairs = HuggingFace(write(tmp_path / "x.parquet", 12), "train")
    dataset = PairDataset(pairs, Paired(), lambda a, b, seed: (a, b), swap=False, seed=0)
    alone, shared = (
        list(batches(dataset, batch_size=2, start=0, stop=6, workers=workers)) for workers in (0, 2)
    )
    for one, other in zip(alone, shared, strict=True):
        assert (one.source == other.source).all()
        assert (one.target == other.target).all()


def test_threads_see_the_same(tmp_path):
    source = HuggingFace(write(tmp_path / "x.parquet", 60), "train", val_split="")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.pair, list(range(len(source))) * 3))
    for index, (first, second) in enumerate(found):
        one, other = source.pair(index % len(source))
        assert (first == one).all()
        assert (second == other).all()


# What can be wrong


def test_there_is_nothing(tmp_path):
    with pytest.raises(DataError, match=r"there is no file or folder .* looks like owner/name"):
        HuggingFace(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="no parquet files below"):
        HuggingFace(tmp_path, "train")
    with pytest.raises(DataError, match="only data sets on the hub have revisions"):
        HuggingFace(tmp_path, "train", revision="main")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match="cannot be read as a Hugging Face data set"):
        HuggingFace(tmp_path, "train")


def test_no_rows(tmp_path, monkeypatch):
    splits = datasets.DatasetDict({"train": table(2), "val": table(0)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    with pytest.raises(DataError, match="owner/name has no rows in 'val'"):
        HuggingFace(Path("owner/name"), "val")
    with pytest.raises(DataError, match="cannot be read as a Hugging Face data set"):
        HuggingFace(write(tmp_path / "val.parquet", 0), "train")


def test_splits_that_cannot_be_told(tmp_path):
    write(tmp_path / "test.parquet", 4)
    assert len(HuggingFace(tmp_path, "train")) == 3
    write(tmp_path / "val.parquet", 4, 4)
    with pytest.raises(DataError, match=r"no split 'train'; name one with data\.train_split: test"):
        HuggingFace(tmp_path, "train")
    with pytest.raises(DataError, match="has no split 'x'; splits: test, val"):
        HuggingFace(tmp_path, "train", train_split="x")
    with pytest.raises(DataError, match="'val' is what is trained on"):
        HuggingFace(tmp_path, "val", train_split="val", val_split="val")
    write(tmp_path / "more.parquet", 4, 8)
    with pytest.raises(DataError, match=r"more\.parquet belongs to no split, .* \(test, val\)"):
        HuggingFace(tmp_path, "train")


@pytest.mark.parametrize("folder", [False, True])
def test_without_the_library(tmp_path, folder):
    """A folder `datasets` in the working directory, where many keep theirs, is not the library."""
    if folder:
        (tmp_path / "datasets/facades").mkdir(parents=True)
    script = (
        "import importlib.util, sys, pathlib\n"
        "sys.path.insert(0, '')\n"
        "from img2img.data import HuggingFace\n"
        "assert 'datasets' not in sys.modules\n"
        f"if not {folder}: sys.modules['datasets'] = None\n"
        # Only the working directory is left to look in.
        "else: sys.path[:] = ['']\n"
        "try: HuggingFace(pathlib.Path('x/y'), 'train')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("DataError "), done.stderr
    assert 'pip install "img2img[datasets]"' in done.stdout


def test_rows_may_name_files_of_the_data_and_no_others(tmp_path):
    """A stranger's table must not bring a file of this machine into samples and models."""
    inside, outside = tmp_path / "data" / "images", tmp_path / "private"
    for folder, seed in ((inside, 0), (outside, 1)):
        folder.mkdir(parents=True)
        Image.fromarray(picture(seed)).save(folder / "a.png")
    link = inside / "link.png"
    link.symlink_to(outside / "a.png")
    named = [inside / "a.png", "images/a.png", outside / "a.png", "../private/a.png", link]
    column = [{"bytes": None, "path": str(path)} for path in named]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = pyarrow.table({name: pyarrow.array(column, kind) for name in ("source", "target")})
    # Two splits, so that none is held out.
    for split in ("train", "val"):
        pyarrow.parquet.write_table(rows, tmp_path / "data" / f"{split}.parquet")
    source = HuggingFace(tmp_path / "data", "train")
    for index in (0, 1):
        assert (source.pair(index)[0] == picture(0)).all()
    for index in (2, 3, 4):
        with pytest.raises(ImageError, match="which is not below"):
            source.pair(index)
