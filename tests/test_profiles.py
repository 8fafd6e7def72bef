"""Embedded colour profiles, against Pillow's own lcms and against formulas."""

import io
import struct
import tracemalloc
import warnings
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from img2img.data.profiles import into_srgb
from img2img.data.reading import read_image, read_picture
from img2img.data.writing import encode
from img2img.picture import Picture, to_depth


def noise(channels, dtype=np.uint8):
    """(H, W, channels), or (H, W) for 0 channels."""
    shape = (14, 18, channels) if channels else (14, 18)
    random = np.random.default_rng(0)
    if np.issubdtype(dtype, np.floating):
        return random.random(shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(channels):
    """What lossy formats keep well."""
    y, x = np.mgrid[0:48, 0:64]
    planes = [(x * (i + 1) + y * 2) % 64 * 3 + 20 * i for i in range(channels)]
    return cv2.GaussianBlur(np.dstack(planes).astype(np.uint8), (0, 0), 4)


def with_chunk(png, kind, content):
    """A PNG with one more chunk before its pixels."""
    at = png.index(b"IDAT") - 4
    head = struct.pack(">I", len(content)) + kind + content
    return png[:at] + head + struct.pack(">I", zlib.crc32(kind + content)) + png[at:]


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D65 = [0.3127, 0.3290, 1.0]
# Display P3's primaries, with a plain gamma so that the formula is short.
P3 = imagecodecs.cms_profile(
    "rgb",
    whitepoint=D65,
    primaries=[0.680, 0.320, 1.0, 0.265, 0.690, 1.0, 0.150, 0.060, 1.0],
    gamma=2.2,
)
GREY = imagecodecs.cms_profile("gray", whitepoint=D65, gamma=1.8)


def ink_profile():
    """CMYK by ICC.1:2001-04: Lab of all sixteen mixtures of full inks, as lut8Type.

    Its black is a dark grey, so that it matters onto what it is mapped.
    """
    table = []
    for inks in np.ndindex(2, 2, 2, 2):
        cyan, magenta, yellow, black = inks
        light = [(1 - 0.7 * ink) * (1 - 0.6 * black) for ink in (cyan, magenta, yellow)]
        rgb = np.rint(np.array([[light]]) * 255).astype(np.uint8)
        lab = cv2.cvtColor((rgb / 255).astype(np.float32), cv2.COLOR_RGB2Lab)[0, 0]
        table += [round(lab[0] * 2.55), round(lab[1] + 128), round(lab[2] + 128)]
    line = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + line * 4 + bytes(table) + line * 3
    tags = [
        *((name, lut) for name in (b"A2B0", b"A2B1")),
        (b"desc", b"desc" + bytes(4) + struct.pack(">I", 4) + b"ink\0" + bytes(79)),
        (b"cprt", b"text" + bytes(4) + b"none\0"),
        (b"wtpt", b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)),
    ]
    place, heads, bodies = 128 + 4 + 12 * len(tags), b"", b""
    for name, body in tags:
        heads += name + struct.pack(">II", place + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    head = struct.pack(">I", place + len(bodies)) + b"lcms" + bytes([2, 0x40, 0, 0])
    head += b"scnrCMYKLab " + struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp"
    head += bytes(128 - len(head) - 60) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + heads + bodies


INK = ink_profile()


def as_pillow_converts(image, mode, profile, *, exactly=False):
    """8 bits through Pillow's own lcms, as Photoshop does: relative, blacks onto each other."""
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if exactly:
        flags |= ImageCms.Flags.NOOPTIMIZE
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=flags,
    )
    return np.asarray(ImageCms.applyTransform(Image.fromarray(image, mode), transform)).astype(int)


def wide_to_srgb(levels):
    """P3's colours (H, W, 3) in [0, 1] to sRGB by the formulas (IEC 61966-2-1), clipped."""
    # Display P3 to sRGB, both of the same white (W3C, CSS Color 4).
    matrix = np.array(
        [
            [1.2249401762805600, -0.2249401762805598, 0.0],
            [-0.0420569547096881, 1.0420569547096881, 0.0],
            [-0.0196375545903344, -0.0786360455506319, 1.0982736001409663],
        ]
    )
    light = np.clip(levels.astype(np.float64) ** 2.2 @ matrix.T, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_colours_by_their_profile(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(smooth(3)).save(path, icc_profile=P3, **options)
    stored = np.asarray(Image.open(path))
    found = read_picture(path)
    assert found.profiled
    theirs = as_pillow_converts(stored, "RGB", P3)
    assert np.abs(found.pixels - theirs).max() <= 1
    assert np.abs(theirs - stored).max() > 20
    assert (read_image(path) == found.pixels).all()


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".png", np.uint8),
        (".png", np.uint16),
        (".tiff", np.uint8),
        (".tiff", np.uint16),
        (".tiff", np.float32),
    ],
)
def test_colours_by_their_profile_at_any_depth(tmp_path, suffix, dtype):
    """To an eighth of a level of 8 bits: lcms' usual way would be twelve levels off."""
    path = tmp_path / f"a{suffix}"
    image = noise(3, dtype)
    if suffix == ".tiff":
        tifffile.imwrite(path, image, photometric="rgb", iccprofile=P3)
    else:
        chunk = b"p3\0\0" + zlib.compress(P3)
        path.write_bytes(with_chunk(imagecodecs.png_encode(image), b"iCCP", chunk))
    found = read_picture(path)
    assert (found.dtype, found.pixels.dtype, found.profiled) == (dtype, dtype, True)
    exact = wide_to_srgb(to_depth(image, np.float64))
    # The profile itself holds its matrix in 16 bits.
    limit = {np.uint8: 1.1 / 255, np.uint16: 5e-4, np.float32: 5e-4}[dtype]
    assert np.abs(to_depth(found.pixels, np.float64) - exact).max() < limit


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_by_its_profile(tmp_path, dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tifffile.imwrite(tmp_path / "a.tiff", to_depth(levels, dtype), iccprofile=GREY)
    for channels in (1, 3):
        found = read_picture(tmp_path / "a.tiff", channels)
        assert found.profiled
        theirs = as_pillow_converts(levels, "L", GREY, exactly=True)
        error = to_depth(found.pixels, np.float64) * 255 - theirs[..., :channels]
        assert np.abs(error).max() < (0.1 if dtype == np.uint8 else 0.6)
        light = (levels[..., None] / 255) ** 1.8
        exact = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        error = to_depth(found.pixels, np.float64) - exact
        assert np.abs(error).max() < (0.6 / 255 if dtype == np.uint8 else 5e-4)


def test_ink_by_its_profile(tmp_path):
    """Also in Adobe's JPEGs, which hold it the other way round."""
    image = np.stack(np.meshgrid(*[[0, 90, 255]] * 4), axis=-1).reshape(9, 9, 4).astype(np.uint8)
    usual, exact = (as_pillow_converts(image, "CMYK", INK, exactly=e) for e in (False, True))
    # No ink is paper, and all of it nearly black.
    assert exact[0, 0].min() > 250
    assert exact[-1, -1].max() < 20
    for dtype in (np.uint8, np.uint16, np.float32):
        deep = to_depth(image, dtype)
        tifffile.imwrite(tmp_path / "a.tiff", deep, photometric="separated", iccprofile=INK)
        found = read_picture(tmp_path / "a.tiff")
        assert (found.dtype, found.profiled) == (dtype, True)
        theirs, limit = (usual, 1.1) if dtype == np.uint8 else (exact, 0.6)
        assert np.abs(to_depth(found.pixels, np.float64) * 255 - theirs).max() < limit
    large = image.repeat(16, axis=0).repeat(16, axis=1)
    Image.fromarray(large, "CMYK").save(tmp_path / "a.jpg", icc_profile=INK, quality=100)
    centres = read_picture(tmp_path / "a.jpg").pixels[8::16, 8::16].astype(int)
    assert np.abs(centres - usual).max() < 8


@pytest.mark.parametrize("profile", [SRGB, imagecodecs.cms_profile("srgb"), "written"])
def test_a_profile_of_srgb_changes_nothing(tmp_path, profile):
    if profile == "written":
        profile = Image.open(io.BytesIO(encode(".png", Picture(noise(3), profiled=True)))).info[
            "icc_profile"
        ]
    for dtype in (np.uint8, np.uint16, np.float32):
        image = noise(3, dtype)
        tifffile.imwrite(tmp_path / "a.tiff", image, photometric="rgb", iccprofile=profile)
        found = read_picture(tmp_path / "a.tiff")
        assert found.profiled
        assert (found.pixels == image).all()


def test_grey_may_carry_a_profile_of_colours(tmp_path):
    """As ImageMagick writes it."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "a.jpg", icc_profile=SRGB, quality=100)
    assert (read_picture(tmp_path / "a.jpg", 1).pixels == read_pillow(tmp_path / "a.jpg")).all()
    Image.fromarray(levels).save(tmp_path / "a.tiff", icc_profile=P3)
    found = read_picture(tmp_path / "a.tiff", 1)
    assert found.profiled
    exact = wide_to_srgb(levels[..., None].repeat(3, axis=2) / 255)[..., :1]
    assert np.abs(found.pixels / 255 - exact).max() < 1.1 / 255


def read_pillow(path):
    with Image.open(path) as opened:
        return np.asarray(opened)[..., None]


def test_alpha_and_palettes_have_profiles_too(tmp_path):
    image = noise(4)
    Image.fromarray(image).save(tmp_path / "a.png", icc_profile=P3)
    found = read_picture(tmp_path / "a.png", 4).pixels
    assert (found[..., 3] == image[..., 3]).all()
    theirs = as_pillow_converts(np.ascontiguousarray(image[..., :3]), "RGB", P3)
    assert np.abs(found[..., :3] - theirs).max() <= 1
    picture = Image.fromarray(noise(0) % 2)
    picture.putpalette([0, 250, 30, 200, 100, 50])
    picture.save(tmp_path / "b.png", icc_profile=P3)
    theirs = as_pillow_converts(np.asarray(picture.convert("RGB")), "RGB", P3)
    assert np.abs(read_picture(tmp_path / "b.png").pixels - theirs).max() <= 1


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (b"no profile", "is broken"),
        (P3[:100], "is broken"),
        (P3[:200] + bytes(len(P3) - 200), "is broken"),
        (GREY, "is for GRAY and the image is RGB"),
        (INK, "is for CMYK and the image is RGB"),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), "is for Lab"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
def test_a_profile_that_cannot_be_used_is_told(tmp_path, suffix, profile, words):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(smooth(3)).save(path, icc_profile=profile)
    with pytest.warns(RuntimeWarning, match=words) as caught:
        found = read_picture(path)
    assert str(caught[0].message).startswith(f"{path}: its colour profile")
    assert not found.profiled
    assert (found.pixels == np.asarray(Image.open(path))).all()


def test_profiles_that_pillow_drops_are_told(tmp_path):
    """A damaged chunk of PNG, and a JPEG that lacks a part of its profile."""
    png = with_chunk(imagecodecs.png_encode(noise(3)), b"iCCP", b"a\0\0" + b"not packed")
    (tmp_path / "a.png").write_bytes(png)
    Image.fromarray(smooth(3)).save(tmp_path / "a.jpg", icc_profile=P3 + bytes(70_000))
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(
        data.replace(b"ICC_PROFILE\0\x02\x02", b"ICC_PROFILX\0\x02\x02")
    )
    for name in ("a.png", "a.jpg"):
        with pytest.warns(RuntimeWarning, match=r"its colour profile is broken, and was not used"):
            assert not read_picture(tmp_path / name).profiled


def test_ink_with_a_broken_profile_is_still_ink(tmp_path):
    tifffile.imwrite(tmp_path / "a.tiff", noise(4), photometric="separated", iccprofile=b"none")
    theirs = np.asarray(Image.fromarray(noise(4), "CMYK").convert("RGB"))
    with pytest.warns(RuntimeWarning, match="is broken"):
        assert (read_picture(tmp_path / "a.tiff").pixels == theirs).all()


def test_bands_have_no_profile(tmp_path):
    image = noise(5, np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tiff", image, photometric="minisblack", planarconfig="contig", iccprofile=GREY
    )
    found = read_picture(tmp_path / "a.tiff", 5)
    assert (found.pixels == image).all()
    assert not found.profiled


def test_what_a_strangers_file_says_is_told_in_one_line(tmp_path):
    path = tmp_path / "a\x1b[31m\nb.png"
    profile = P3[:16] + b"\x1b[2J" + P3[20:]
    Image.fromarray(smooth(3)).save(path, icc_profile=profile)
    with pytest.warns(RuntimeWarning) as caught:
        read_picture(path)
    text = str(caught[0].message)
    assert text.isprintable()
    assert r"a\x1b[31m\nb.png: its colour profile is for \x1b[2J and" in text


def test_nothing_is_kept_of_a_warning(tmp_path, monkeypatch):
    """One text for each of a million files would not fit into memory."""
    from img2img.data import memory, planes, profiles, reading

    Image.fromarray(smooth(3)).save(tmp_path / "0.png", icc_profile=b"none")
    for number in range(1, 5):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / "0.png").read_bytes())
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        monkeypatch.setattr(warnings, "showwarning", lambda *args: shown.append(args))
        for number in [*range(5), 0]:
            read_picture(tmp_path / f"{number}.png")
        for module in (memory, planes, profiles, reading):
            kept = getattr(module, "__warningregistry__", {})
            assert not [key for key in kept if "colour profile" in str(key)]
    assert len(shown) == 6
    # The command line shows warnings of files of ours.
    assert {args[2] for args in shown} == {profiles.__file__}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("space", "profile"), [("cmyk", None), ("cmyk", INK), ("rgb", P3)])
def test_conversions_take_little_memory(space, profile, dtype):
    image = np.zeros((1000, 500, 4 if space == "cmyk" else 3), dtype)
    into_srgb(image[:9], space, profile, "a")
    tracemalloc.start()
    try:
        found, _ = into_srgb(image, space, profile, "a")
        assert tracemalloc.get_traced_memory()[1] < 3 * image.nbytes
    finally:
        tracemalloc.stop()
    assert (found == found[0, 0]).all()
