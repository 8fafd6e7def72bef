"""Image files, the sources of pairs, and the first look at a folder."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from img2img.data import Derived, SideBySide, Synthetic, TwoFolders
from img2img.data.checking import look_through
from img2img.data.images import find_images, hold_out
from img2img.data.reading import image_size, read_image
from img2img.data.survey import survey
from img2img.data.writing import write_picture
from img2img.errors import DataError, ImageError
from img2img.picture import Picture


def noise(height=8, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def put(path, image=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed=seed) if image is None else image).save(path)
    return path


def truncate(path, share=0.5):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


# Reading


def test_read_rgb(tmp_path):
    image = noise()
    found = read_image(put(tmp_path / "a.png", image))
    assert found.dtype == np.uint8
    assert (found == image).all()
    found[0, 0] = 0  # Callers own it.


def test_read_grey(tmp_path):
    grey = noise()[..., 0]
    found = read_image(put(tmp_path / "a.png", grey))
    assert found.shape == (8, 12, 3)
    assert (found == grey[..., None]).all()


def test_read_one_bit(tmp_path):
    bits = noise()[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == np.where(bits, 255, 0)[..., None]).all()


def test_read_lays_transparency_on_white(tmp_path):
    rgba = np.concatenate([noise(), np.zeros((8, 12, 1), np.uint8)], axis=2)
    rgba[:, 4:8, 3] = 51
    rgba[:, 8:, 3] = 255
    found = read_image(put(tmp_path / "a.png", rgba)).astype(int)
    share = rgba[..., 3:] / 255
    assert np.abs(found - (rgba[..., :3] * share + 255 * (1 - share))).max() <= 1
    assert (found[:, :4] == 255).all()
    assert (found[:, 8:] == rgba[:, 8:, :3]).all()


def test_read_grey_with_alpha(tmp_path):
    Image.merge("LA", [Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 0)]).save(
        tmp_path / "a.png"
    )
    assert (read_image(tmp_path / "a.png") == 255).all()


def test_read_palette(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    picture.save(tmp_path / "b.png", transparency=0)
    assert read_image(tmp_path / "b.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_read_cmyk(tmp_path):
    # Ink is what light lacks: no ink is white, all of magenta and yellow is red.
    picture = Image.new("CMYK", (16, 8), (0, 0, 0, 0))
    picture.paste((0, 255, 255, 0), (8, 0, 16, 8))
    picture.save(tmp_path / "a.tiff")
    found = read_image(tmp_path / "a.tiff")
    assert (found[:, :8] == 255).all()
    assert (found[:, 8:] == (255, 0, 0)).all()
    picture.save(tmp_path / "a.jpg", quality=95)
    near = read_image(tmp_path / "a.jpg").astype(int)
    assert np.abs(near[:, 12:] - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_read_scales_16_bits(tmp_path, suffix):
    deep = np.array([[0, 257, 256 * 100, 40_000], [300, 32_768, 65_278, 65_535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a{suffix}")
    found = read_image(tmp_path / f"a{suffix}")
    assert (found == np.rint(deep / 257).astype(int)[..., None]).all()


def test_read_scales_16_bits_of_colour(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65_536, (8, 12, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    found = read_image(tmp_path / "a.png")
    assert np.abs(found - deep / 257).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_read_turns_upright(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png")
    assert found.shape == upright(noise()).shape
    assert (found == upright(noise())).all()
    assert image_size(tmp_path / "a.png") == (12, 8)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_a_truncated_file_is_an_image_error(tmp_path, suffix):
    path = put(tmp_path / f"a{suffix}", noise(64, 64))
    assert read_image(path).shape == (64, 64, 3)
    truncate(path)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)


def test_what_is_no_image_is_an_image_error(tmp_path):
    (tmp_path / "text.png").write_text("not an image\n")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("text.png", "empty.jpg", "folder.png", "missing.png"):
        with pytest.raises(ImageError, match=name):
            read_image(tmp_path / name)
    for name in ("text.png", "missing.png"):
        with pytest.raises(ImageError):
            image_size(tmp_path / name)


# Writing


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".PNG"])
def test_write_is_read_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(noise()))
    assert (read_image(path) == noise()).all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_stay_close(tmp_path, suffix):
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    write_picture(tmp_path / f"a{suffix}", Picture(smooth))
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - smooth).mean() < 2


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = put(tmp_path / "a.png")
    before = path.read_bytes()

    def fail(self, target):
        assert self.parent == target.parent, "not in the folder that it goes to"
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(Path, "replace", fail)
        write_picture(path, Picture(noise(seed=1)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    write_picture(path, Picture(noise(seed=1)))
    assert (read_image(path) == noise(seed=1)).all()


def test_a_written_file_has_the_usual_permissions(tmp_path):
    write_picture(tmp_path / "a.png", Picture(noise()))
    (tmp_path / "b").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "b").stat().st_mode


# Finding and splitting


def test_find_images_by_suffix_sorted_and_not_hidden(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.webp", ".hidden.png", ".cache/d.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [str(p.relative_to(tmp_path)) for p in find_images(tmp_path)]
    assert found == ["a.JPG", "b.png", "deep/er/c.webp"]


@pytest.mark.parametrize(
    ("count", "held"), [(2, [1]), (9, [8]), (10, [9]), (19, [9]), (35, [9, 19, 29])]
)
def test_every_tenth_is_held_out(tmp_path, count, held):
    files = [tmp_path / f"{i:03}.png" for i in range(count)]
    assert hold_out(files, "val") == [files[i] for i in held]
    assert hold_out(files, "train") == [f for i, f in enumerate(files) if i not in held]


def test_a_single_image_serves_both(tmp_path):
    files = [tmp_path / "a.png"]
    assert hold_out(files, "train") == hold_out(files, "val") == files


def names(source):
    return [source.name(i).rsplit("/", 2)[-2:] for i in range(len(source))]


def splits(root, build=SideBySide, **settings):
    return [
        ["/".join(n) for n in names(build(root, split, **settings))] for split in ("train", "val")
    ]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "val"], ("train", "val")),
        (["train", "test"], ("train", "test")),
        (["train", "val", "test"], ("train", "val")),
    ],
)
def test_split_folders(tmp_path, folders, expected):
    for folder in folders:
        put(tmp_path / folder / "1.png")
        put(tmp_path / folder / "2.png")
    put(tmp_path / "stray.png")
    assert splits(tmp_path) == [[f"{name}/1.png", f"{name}/2.png"] for name in expected]


@pytest.mark.parametrize("folder", ["train", "."])
def test_without_a_validation_folder_some_are_held_out(tmp_path, folder):
    root = tmp_path / "root"
    for i in range(12):
        put(root / folder / f"{i:02}.png")
    train, val = ([n.split("/")[1] for n in split] for split in splits(root))
    assert val == ["09.png"]
    assert train == [f"{i:02}.png" for i in range(12) if i != 9]


def test_split_problems_are_data_errors(tmp_path):
    with pytest.raises(DataError, match=r"no folder.*missing"):
        SideBySide(tmp_path / "missing", "train")
    with pytest.raises(DataError, match="no images below"):
        SideBySide(tmp_path, "train")
    put(tmp_path / "val" / "1.png")
    with pytest.raises(DataError, match="no train/"):
        SideBySide(tmp_path, "train")


# Side by side


def test_side_by_side_halves(tmp_path):
    image = noise(8, 12)
    put(tmp_path / "1.png", image)
    first, second = SideBySide(tmp_path, "train").pair(0)
    assert (first == image[:, :6]).all()
    assert (second == image[:, 6:]).all()


def test_side_by_side_refuses_an_odd_width(tmp_path):
    path = put(tmp_path / "odd.png", noise(8, 13))
    with pytest.raises(ImageError, match=r"odd\.png: 13 pixels wide") as caught:
        SideBySide(tmp_path, "train").pair(0)
    assert caught.value.path == path


# Two folders

LAYOUTS = {
    "split first": "{split}/{name}",
    "name first": "{name}/{split}",
    "joined": "{split}{name}",
}


def put_two(root, layout, *, split="train", count=3, first="A", second="B", seed=0):
    for i in range(count):
        for side, (name, suffix) in enumerate(((first, ".png"), (second, ".bmp"))):
            folder = root / LAYOUTS[layout].format(split=split, name=name)
            put(folder / f"{i:02}{suffix}", seed=seed + 10 * i + side)


@pytest.mark.parametrize("held", ["val", "test"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_folders_layouts(tmp_path, layout, held):
    put_two(tmp_path, layout, first="maps", second="photos")
    put_two(tmp_path, layout, split=held, count=2, seed=500, first="maps", second="photos")
    for split, count, seed in (("train", 3, 0), ("val", 2, 500)):
        source = TwoFolders(tmp_path, split, first="maps", second="photos")
        assert len(source) == count
        for i in range(count):
            first, second = source.pair(i)
            assert (first == noise(seed=seed + 10 * i)).all()
            assert (second == noise(seed=seed + 10 * i + 1)).all()


@pytest.mark.parametrize("layout", [*LAYOUTS, "alone"])
def test_two_folders_hold_some_out(tmp_path, layout):
    if layout == "alone":
        for i in range(11):
            put(tmp_path / "A" / f"{i:02}.png")
            put(tmp_path / "B" / f"{i:02}.png")
    else:
        put_two(tmp_path, layout, count=11)
    train, val = ([n.rsplit("/")[-1] for n in s] for s in splits(tmp_path, TwoFolders))
    assert val == ["09.png"]
    assert train == [f"{i:02}.png" for i in (*range(9), 10)]


def test_two_folders_keep_subfolders_apart(tmp_path):
    for seed, name in enumerate(("x/1.png", "y/1.png", "z.1.png")):
        put(tmp_path / "A" / name, seed=seed)
        put(tmp_path / "B" / name, seed=seed)
    source = TwoFolders(tmp_path, "train")
    assert len(source) == 2
    for i in range(2):
        first, second = source.pair(i)
        assert (first == second).all()


def test_two_folders_name_images_without_a_partner(tmp_path):
    put_two(tmp_path, "split first")
    for i in range(5):
        put(tmp_path / "train" / "A" / f"alone{i}.png")
    with pytest.raises(DataError, match=r"alone0\.png.*alone2\.png and 2 more") as caught:
        TwoFolders(tmp_path, "train")
    assert "alone3" not in str(caught.value)


def test_two_folders_name_partners_missing_on_the_other_side(tmp_path):
    put_two(tmp_path, "split first")
    put(tmp_path / "train" / "B" / "alone.png")
    with pytest.raises(DataError, match=r"no partner.*B/alone\.png"):
        TwoFolders(tmp_path, "train")


def test_two_folders_refuse_two_of_one_name(tmp_path):
    put_two(tmp_path, "split first")
    put(tmp_path / "train" / "A" / "00.bmp")
    with pytest.raises(DataError, match="suffix only"):
        TwoFolders(tmp_path, "train")


def test_two_folders_of_different_sizes(tmp_path):
    put(tmp_path / "A" / "1.png", noise(8, 12))
    put(tmp_path / "B" / "1.png", noise(8, 10))
    with pytest.raises(ImageError, match=r"12x8 pixels.*10x8") as caught:
        TwoFolders(tmp_path, "train").pair(0)
    assert caught.value.path == tmp_path / "A" / "1.png"


def test_two_folders_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        TwoFolders(tmp_path / "missing", "train")
    with pytest.raises(DataError, match=r"data\.first and data\.second"):
        TwoFolders(tmp_path, "train")
    (tmp_path / "A").mkdir()
    (tmp_path / "B").mkdir()
    with pytest.raises(DataError, match="no images below"):
        TwoFolders(tmp_path, "train")


def test_two_folders_never_train_on_what_validates(tmp_path):
    """Folders to validate on within those to train on, which are searched through."""
    for i in range(3):
        for name in ("A", "B"):
            put(tmp_path / name / f"{i}.png")
            put(tmp_path / name / "val" / f"{i}.png")
    with pytest.raises(DataError, match="A/train"):
        TwoFolders(tmp_path, "train")


# Derived


def step_photo():
    """Left dark, right light: one edge, between columns 31 and 32."""
    photo = np.full((48, 64, 3), (30, 40, 50), np.uint8)
    photo[:, 32:] = (220, 210, 200)
    return photo


def test_derived_edges_are_dark_lines_where_the_photo_changes(tmp_path):
    put(tmp_path / "1.png", step_photo())
    first, second = Derived(tmp_path, "train").pair(0)
    assert (second == step_photo()).all()
    assert set(np.unique(first)) == {0, 255}
    assert (first == first[..., :1]).all()
    columns = np.unique(np.nonzero(first[..., 0] == 0)[1])
    assert 1 <= len(columns) <= 2
    assert set(columns) <= {30, 31, 32, 33}
    assert (first[:, columns, 0] == 0).any(axis=1).all()


def test_derived_edges_obey_their_thresholds(tmp_path):
    faint = np.full((48, 64, 3), 100, np.uint8)
    faint[:, 32:] = 112
    put(tmp_path / "1.png", faint)
    assert (Derived(tmp_path, "train").pair(0)[0] == 255).all()
    sensitive = Derived(tmp_path, "train", edge_low=5, edge_high=10)
    assert (sensitive.pair(0)[0] == 0).any()
    for low, high in ((0, 10), (20, 10)):
        with pytest.raises(ValueError, match="edge_low"):
            Derived(tmp_path, "train", edge_low=low, edge_high=high)


def test_derived_grey_and_copy(tmp_path):
    image = noise()
    put(tmp_path / "1.png", image)
    grey, photo = Derived(tmp_path, "train", derive="grey").pair(0)
    theirs = np.asarray(Image.fromarray(image).convert("L")).astype(int)
    assert np.abs(grey - theirs[..., None]).max() <= 1
    assert (photo == image).all()
    first, second = Derived(tmp_path, "train", derive="copy").pair(0)
    assert (first == image).all()
    assert (second == image).all()


# Synthetic


def test_synthetic_depends_on_seed_split_and_index_alone():
    few, many = (Synthetic("train", count=n, size=32) for n in (3, 30))
    pairs = [np.stack(few.pair(i)) for i in range(3)]
    # In another order, from a larger set, and from a fresh one: the same drawings.
    for source in (many, Synthetic("train", count=3, size=32)):
        for i in (2, 0, 1):
            assert (np.stack(source.pair(i)) == pairs[i]).all()
    others = [Synthetic("val", count=3, size=32), Synthetic("train", size=32, drawing_seed=1)]
    everything = pairs + [np.stack(source.pair(i)) for source in others for i in range(3)]
    assert len({pair.tobytes() for pair in everything}) == 9


def test_synthetic_is_a_drawing_and_its_coloured_version():
    source = Synthetic("train", size=48)
    for i in range(6):
        drawing, coloured = source.pair(i)
        assert drawing.shape == coloured.shape == (48, 48, 3)
        assert (drawing == drawing[..., :1]).all()
        assert (drawing > 200).mean() > 0.5
        assert (drawing < 100).any()
        assert np.ptp(coloured.astype(int), axis=-1).mean() > 20


def test_synthetic_counts():
    assert len(Synthetic("train", count=7)) == 7
    assert len(Synthetic("val", count=7)) == 16
    assert len(Synthetic("val", count=500)) == 50
    for settings in ({"count": 0}, {"size": 15}):
        with pytest.raises(ValueError, match="at least"):
            Synthetic("train", **settings)


# A first look


def test_survey_side_by_side(pairs_folder):
    seen = survey(pairs_folder)
    assert (seen.source, seen.folders, seen.direction) == ("side_by_side", None, "AtoB")
    assert (seen.task, seen.pairs, seen.size) == ("edges", 6, 32)
    assert set(seen.reasons) == {"source", "direction", "task"}


def test_survey_finds_the_drawings_on_the_right(pairs_folder):
    for path in pairs_folder.rglob("*.png"):
        put(path, np.roll(np.asarray(Image.open(path)), 32, axis=1))
    seen = survey(pairs_folder)
    assert (seen.source, seen.direction, seen.task) == ("side_by_side", "BtoA", "edges")


# Joined to the split, only A and B can be told from the end of a folder's name.
@pytest.mark.parametrize(
    ("layout", "folders"),
    [
        *((layout, ("A", "B")) for layout in LAYOUTS),
        *((layout, ("labels", "photos")) for layout in ("split first", "name first")),
    ],
)
def test_survey_two_folders(tmp_path, layout, folders):
    put_two(tmp_path, layout, count=4, first=folders[0], second=folders[1])
    put_two(tmp_path, layout, split="val", first=folders[0], second=folders[1])
    seen = survey(tmp_path)
    assert (seen.source, seen.folders, seen.pairs) == ("two_folders", folders, 4)
    assert seen.size == 8


def test_survey_tells_label_maps_from_photographs(tmp_path):
    flat = np.zeros((32, 32, 3), np.uint8)
    flat[:16] = (0, 0, 200)
    flat[16:, :16] = (250, 80, 0)
    for i in range(3):
        put(tmp_path / "A" / f"{i}.png", noise(32, 32, seed=i))
        put(tmp_path / "B" / f"{i}.png", np.roll(flat, 5 * i, axis=0))
    seen = survey(tmp_path)
    assert (seen.direction, seen.task) == ("BtoA", "labels")


def test_survey_knows_label_maps_that_jpeg_smeared(tmp_path):
    """As the facades are: a few vivid colours that became hundreds, beside a photograph."""
    random = np.random.default_rng(0)
    palette = np.array([(0, 0, 170), (0, 85, 255), (255, 85, 0), (170, 255, 85), (0, 255, 255)])
    for number in range(3):
        labels = palette[random.integers(0, 5, (16, 16))].repeat(4, 0).repeat(4, 1)
        photo = random.integers(0, 256, (64, 64, 3))
        pair = np.concatenate([photo, labels], axis=1).astype(np.uint8)
        Image.fromarray(pair).save(tmp_path / f"{number}.jpg", quality=60)
    seen = survey(tmp_path)
    assert (seen.task, seen.direction) == ("labels", "BtoA")


def test_survey_photographs_alone(tmp_path):
    for i in range(12):
        put(tmp_path / f"{i}.png", noise(20, 30, seed=i))
    seen = survey(tmp_path)
    assert (seen.source, seen.direction, seen.task, seen.size) == ("derived", "AtoB", "edges", 20)
    # One of the twelve is held out, as the recipe's source will do.
    assert seen.pairs == len(Derived(tmp_path, "train")) == 11


def test_survey_passes_over_what_it_cannot_read(pairs_folder):
    truncate(pairs_folder / "train" / "000.png")
    (pairs_folder / "train" / "001.png").write_text("no image")
    assert survey(pairs_folder).source == "side_by_side"


def test_survey_of_nothing(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        survey(tmp_path / "missing")
    with pytest.raises(DataError, match="no images below"):
        survey(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/0.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r'but parquet files: .*data\.source = "huggingface"'):
        survey(tmp_path)
    (tmp_path / "train/0.parquet").unlink()
    (tmp_path / "train").rmdir()
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match="can be read"):
        survey(tmp_path)


# Looking through


def test_look_through_finds_what_cannot_be_used(pairs_folder):
    truncate(pairs_folder / "train" / "002.png")
    put(pairs_folder / "train" / "004.png", noise(32, 65))
    put(pairs_folder / "train" / "005.png", noise(16, 80))
    seen = []
    lock = threading.Lock()

    def on_pair():
        with lock:
            seen.append(1)

    findings = look_through(SideBySide(pairs_folder, "train"), on_pair)
    assert findings.pairs == len(seen) == 6
    assert [(p.file.rsplit("/", 1)[1], p.kind) for p in findings.problems] == [
        ("002.png", "unreadable"),
        ("004.png", "size"),
    ]
    assert "65 pixels wide" in findings.problems[1].reason
    assert dict(findings.sizes) == {(32, 32): 3, (40, 16): 1}
    assert findings.size_range() == "40x16 to 32x32"


def test_look_through_sound_data(pairs_folder):
    findings = look_through(SideBySide(pairs_folder, "val"))
    assert (findings.pairs, findings.problems) == (2, [])
    assert findings.size_range() == "32x32"
    for path in pairs_folder.rglob("*.png"):
        truncate(path)
    assert look_through(SideBySide(pairs_folder, "val")).size_range() == "none readable"
