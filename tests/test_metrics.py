"""Metrics of pixels, colours and classes, against other implementations and numbers by hand."""

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from img2img.errors import MetricError
from img2img.metrics import L1, MSSSIM, PSNR, SSIM, Accuracy, FCNScore, LabHistogram
from img2img.metrics.histogram import intersection, to_lab


def photos(count=3, size=48, noise=0.2):
    """Smooth images and noisy ones of them, (B, 3, H, W), in steps of 1/255."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    targets = []
    for _ in range(count):
        waves = [np.sin(6 * (a * x + b * y + c)) for a, b, c in rng.uniform(0, 1, (3, 3))]
        targets.append(np.stack(waves) * 0.4 + 0.5)
    targets = np.stack(targets)
    outputs = np.clip(targets + rng.normal(0, noise, targets.shape), 0, 1)
    eight = [torch.from_numpy(np.round(v * 255) / 255).float() for v in (outputs, targets)]
    return tuple(eight)


def score(metric, output, target):
    """The scores of a set, and of its images."""
    images = metric.update(output, target)
    return metric.compute(), images


def channels_last(images):
    return [image.permute(1, 2, 0).numpy().astype(np.float64) for image in images]


# Pixels


def test_l1_by_hand():
    output = torch.zeros(2, 3, 2, 2)
    output[1, 0] = 0.6
    found, images = score(L1(), output, torch.zeros(2, 3, 2, 2))
    assert images["l1"].tolist() == pytest.approx([0, 0.2])
    assert found["l1"] == pytest.approx(0.1)


def test_psnr_is_scikit_image_s():
    output, target = photos()
    found, images = score(PSNR(), output, target)
    pairs = zip(channels_last(target), channels_last(output), strict=True)
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs]
    assert images["psnr"].tolist() == pytest.approx(expected, abs=1e-4)
    assert found["psnr"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert score(PSNR(), target, target)[0] == {"psnr": 100.0}


def test_ssim_is_scikit_image_s():
    output, target = photos(noise=0.05)
    found, images = score(SSIM(), output, target)
    expected = []
    for pair in zip(channels_last(target), channels_last(output), strict=True):
        # torchmetrics mirrors images at their border, and scikit-image does otherwise.
        a, b = (np.pad(image, [(5, 5), (5, 5), (0, 0)], mode="reflect") for image in pair)
        _, each = structural_similarity(
            a, b, data_range=1, channel_axis=2, full=True, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        expected.append(each[5:-5, 5:-5].mean())
    assert images["ssim"].tolist() == pytest.approx(expected, abs=1e-4)
    assert found["ssim"] == pytest.approx(np.mean(expected), abs=1e-4)


def ms_ssim_by_the_paper(a, b):
    """Wang et al. 2003, equation 7, of one channel in float64."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    value = 1.0
    for scale, power in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):

        def mean(x):
            return fftconvolve(x, window, "valid")

        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        contrast = (2 * cov + 0.03**2) / (va + vb + 0.03**2)
        light = (2 * ma * mb + 0.01**2) / (ma**2 + mb**2 + 0.01**2)
        value *= (contrast * light if scale == 4 else contrast).mean() ** power
        a, b = (x.reshape(len(x) // 2, 2, len(x) // 2, 2).mean((1, 3)) for x in (a, b))
    return value


def test_ms_ssim_is_the_paper_s():
    output, target = photos(2, size=192, noise=0.1)
    grey = output[:, :1].expand(-1, 3, -1, -1), target[:, :1].expand(-1, 3, -1, -1)
    _, images = score(MSSSIM(), *grey)
    pairs = zip(output[:, 0].double().numpy(), target[:, 0].double().numpy(), strict=True)
    expected = [ms_ssim_by_the_paper(a, b) for a, b in pairs]
    assert 0.2 < min(expected) < 0.98
    assert images["ms_ssim"].tolist() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("metric", "fits", "message"),
    [
        (SSIM, 11, "images of 11 pixels or more.*10 x 40"),
        (MSSSIM, 176, "images of 176 pixels or more.*175 x 200.*; ssim"),
    ],
)
def test_too_small_for_the_window(metric, fits, message):
    metric().update(*torch.rand(2, 1, 3, fits, fits))
    with pytest.raises(MetricError, match=message):
        metric().update(*torch.rand(2, 1, 3, 40 if fits < 40 else 200, fits - 1))


# Colours in Lab


def test_lab_is_scikit_image_s():
    levels = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3))
    levels[0, 0, :8] = [[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    levels[0, 1] = np.arange(50)[:, None]
    image = levels / 255
    found = to_lab(torch.from_numpy(image).permute(0, 3, 1, 2).float())[0]
    assert np.abs(found.permute(1, 2, 0).numpy() - rgb2lab(image[0])).max() < 0.05


def histogram_by_numpy(images, bins):
    lab = np.concatenate([rgb2lab(image).reshape(-1, 3) for image in channels_last(images)])
    half = 110 / bins
    edges = [np.linspace(0, 100, bins + 1)]
    edges += [np.linspace(-110 - half, 110 + half, bins + 2)] * 2
    counts = [np.histogram(np.clip(lab[:, i], *edges[i][[0, -1]]), edges[i])[0] for i in range(3)]
    return [count / count.sum() for count in counts]


def test_lab_histogram_is_numpy_s():
    output, target = photos(3, noise=0.1)
    found, images = score(LabHistogram(bins=50), output, target)
    pairs = zip(histogram_by_numpy(output, 50), histogram_by_numpy(target, 50), strict=True)
    expected = [np.minimum(a, b).sum() for a, b in pairs]
    assert list(found) == ["lab_histogram_l", "lab_histogram_a", "lab_histogram_b"]
    # A pixel at an edge may fall to either side.
    assert list(found.values()) == pytest.approx(expected, abs=2e-3)
    assert 0.3 < min(expected) < max(expected) < 0.99
    one = histogram_by_numpy(output[1:2], 50)[1], histogram_by_numpy(target[1:2], 50)[1]
    assert float(images["lab_histogram_a"][1]) == pytest.approx(np.minimum(*one).sum(), abs=3e-3)


def test_histograms_are_of_all_pixels_and_of_no_place():
    """Red then green against green then red: each image is all wrong, the set all right."""
    red, green = torch.zeros(2, 3, 4, 4)
    red[0], green[1] = 1, 1
    found, images = score(LabHistogram(), torch.stack([red, green]), torch.stack([green, red]))
    assert found == {f"lab_histogram_{c}": 1.0 for c in "lab"}
    assert images["lab_histogram_a"].tolist() == [0, 0]


def test_grey_falls_into_one_bin():
    """Rounding moves grey about a = b = 0, where no bin may end."""
    grey = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for bins in (2, 100, 101):
        found, _ = score(LabHistogram(bins=bins), grey, torch.ones(1, 3, 16, 16))
        assert found["lab_histogram_a"] == found["lab_histogram_b"] == 1
    assert 0 < found["lab_histogram_l"] < 0.1


def test_intersection_by_hand():
    counts, other = torch.tensor([[1, 3, 0], [2, 0, 0]]), torch.tensor([[1, 0, 1], [5, 0, 0]])
    assert intersection(counts, other).tolist() == [0.25, 1.0]


@pytest.mark.parametrize("bins", [1, 10_001])
def test_bins_that_cannot_be(bins):
    with pytest.raises(ValueError, match="from 2 to 10000"):
        LabHistogram(bins=bins)


# Classes


def maps(*rows):
    return torch.tensor(rows).view(1, len(rows), -1)


# Class 0: 4 pixels, 3 right. Class 1: 2 pixels, 1 right. Class 2: 2 pixels, none. Class 3: none
# in the truth, 1 shown. Class 4 is nowhere.
TRUTH = maps([0, 0, 0, 0], [1, 1, 2, 2])
SHOWN = maps([0, 0, 0, 3], [1, 0, 0, 1])


def test_fcn_score_by_hand():
    found, images = score(FCNScore(5), SHOWN, TRUTH)
    assert found == pytest.approx(
        {
            "pixel_accuracy": 4 / 8,
            "class_accuracy": (3 / 4 + 1 / 2 + 0 / 2) / 3,
            "class_iou": (3 / (4 + 5 - 3) + 1 / (2 + 2 - 1) + 0 / 2 + 0 / 1) / 4,
        }
    )
    assert {name: float(v) for name, v in images.items()} == pytest.approx(found)


@pytest.mark.parametrize("ignore", [2, [2], [2, 4]])
def test_fcn_score_without_a_class(ignore):
    found, _ = score(FCNScore(5, ignore=ignore), SHOWN, TRUTH)
    # Of class 0 one pixel less was shown, of class 1 too: those lay on the ignored pixels.
    iou = (3 / (4 + 4 - 3) + 1 / (2 + 1 - 1) + 0 / 1) / 3
    expected = {"pixel_accuracy": 4 / 6, "class_accuracy": (3 / 4 + 1 / 2) / 2, "class_iou": iou}
    assert found == pytest.approx(expected)
    # An ignored class that is shown is an error, and has no IoU of its own.
    found, _ = score(FCNScore(5, ignore=3), SHOWN, TRUTH)
    assert found["class_iou"] == pytest.approx((3 / 6 + 1 / 3 + 0) / 3)
    assert found["pixel_accuracy"] == pytest.approx(4 / 8)


def test_fcn_score_of_a_set_is_of_all_its_pixels():
    """Long et al.'s own script, over both images."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (2, 6, 7))
    truth[0] = truth[0] // 2
    shown = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 6, truth.shape))
    found, images = score(FCNScore(6), torch.from_numpy(shown), torch.from_numpy(truth))
    hist = np.bincount(6 * truth.ravel() + shown.ravel(), minlength=36).reshape(6, 6)
    with np.errstate(invalid="ignore"):
        accuracy = np.diag(hist) / hist.sum(1)
        iou = np.diag(hist) / (hist.sum(1) + hist.sum(0) - np.diag(hist))
    assert found["pixel_accuracy"] == pytest.approx(np.diag(hist).sum() / hist.sum())
    assert found["class_accuracy"] == pytest.approx(np.nanmean(accuracy))
    assert found["class_iou"] == pytest.approx(np.nanmean(iou))
    assert float(images["class_iou"].mean()) != pytest.approx(found["class_iou"], abs=1e-3)


def test_fcn_score_refuses():
    with pytest.raises(ValueError, match="from 0 to 4, not 5"):
        FCNScore(5, ignore=[0, 5])
    with pytest.raises(ValueError, match="no class"):
        FCNScore(2, ignore=[0, 1])
    with pytest.raises(MetricError, match="3 classes, and a pixel has the number -1"):
        FCNScore(3).update(maps([0, -1, 2]), maps([0, 1, 2]))
    with pytest.raises(MetricError, match="3 classes, and a pixel has the number 3"):
        FCNScore(3).update(SHOWN, TRUTH)
    nothing = FCNScore(5, ignore=1)
    images = nothing.update(maps([0, 1]), maps([1, 1]))
    assert all(torch.isnan(values).all() for values in images.values())
    with pytest.raises(MetricError, match="no pixels"):
        nothing.compute()


def test_accuracy_by_hand():
    found, images = score(Accuracy(), torch.cat([SHOWN, TRUTH]), torch.cat([TRUTH, TRUTH]))
    assert images["accuracy"].tolist() == [0.5, 1]
    assert found == {"accuracy": 0.75}
