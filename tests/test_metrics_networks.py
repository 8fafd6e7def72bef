"""LPIPS, FID and KID, against other implementations, on features and weights that are drawn."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from img2img.errors import MetricError
from img2img.metrics import FID, KID, LPIPS, inception, weights


class Means(nn.Module):
    """A picture's mean colours, top and bottom, and their products: (B, 3, H, W) -> (B, 8)."""

    num_features = 8

    def forward(self, images):
        assert images.dtype == torch.uint8
        top, bottom = (half.float().mean((2, 3)) / 255 for half in images.chunk(2, dim=2))
        return torch.cat([top, bottom, (top * bottom)[:, :2]], dim=1)


@pytest.fixture
def means(monkeypatch):
    monkeypatch.setattr(inception, "load_inception", lambda weights, features: Means())


def sets(count=40, shift=0.1):
    """Two sets of images, (B, 3, 8, 8), in steps of 1/255."""
    rng = np.random.default_rng(1)
    targets = rng.uniform(0, 0.6, (count, 3, 8, 8)) * rng.uniform(0.3, 1, (count, 3, 1, 1))
    outputs = rng.uniform(0, 0.6, (count, 3, 8, 8)) * rng.uniform(0.5, 1, (count, 1, 1, 1)) + shift
    return [torch.from_numpy(np.round(s * 255) / 255).float() for s in (outputs, targets)]


def features_of(images):
    return Means()((images * 255).round().byte()).double().numpy()


def frechet(a, b):
    """Heusel et al.'s formula with the matrix root of scipy."""
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return means + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def mmd(a, b):
    """Binkowski et al., equation 4, with loops."""
    n, d = a.shape

    def kernel(x, y):
        return (x @ y / d + 1) ** 3

    inside = sum(
        kernel(s[i], s[j]) for s in (a, b) for i in range(n) for j in range(n) if i != j
    ) / (n * (n - 1))
    return inside - 2 * sum(kernel(x, y) for x in a for y in b) / n**2


def test_fid_is_scipy_s(means):
    outputs, targets = sets()
    fid = FID(least=40)
    assert fid.update(outputs[:25], targets[:25]) == {}
    fid.update(outputs[25:], targets[25:])
    expected = frechet(features_of(outputs), features_of(targets))
    assert expected > 1e-3
    assert fid.compute()["fid"] == pytest.approx(expected, rel=1e-4)


def test_fid_wants_enough_images(means):
    outputs, targets = sets(3)
    fid = FID()
    fid.update(outputs, targets)
    with pytest.raises(
        MetricError, match=r"2049 images or more, and there are 3: .*kid.*least = 3"
    ):
        fid.compute()
    fid = FID(features=64)
    with pytest.raises(MetricError, match="65 images or more, and there are 0"):
        fid.compute()
    with pytest.raises(ValueError, match="least must be 2"):
        FID(least=1)


def test_kid_of_few_images_is_that_of_all(means):
    outputs, targets = sets(12)
    kid = KID()
    for i in range(0, 12, 5):
        assert kid.update(outputs[i : i + 5], targets[i : i + 5]) == {}
    expected = mmd(features_of(outputs), features_of(targets))
    assert abs(expected) > 1e-4
    assert kid.compute()["kid"] == pytest.approx(expected, rel=1e-5)


def test_kid_over_subsets(means):
    """Always the same ones, and near what all images say."""
    outputs, targets = sets(60, shift=0.3)
    found = []
    for subsets, seed in ((200, 0), (200, 0), (200, 1), (1, 0)):
        torch.manual_seed(len(found))
        kid = KID(subsets=subsets, subset_size=20, seed=seed)
        kid.update(outputs, targets)
        found.append(kid.compute()["kid"])
    assert found[0] == found[1]
    assert len(set(found)) == 3
    whole = mmd(features_of(outputs), features_of(targets))
    assert found[0] == pytest.approx(whole, rel=0.05)
    assert found[3] != pytest.approx(whole, rel=0.001)


def test_kid_refuses(means):
    kid = KID()
    kid.update(*sets(1))
    with pytest.raises(MetricError, match="2 images or more, and there are 1"):
        kid.compute()
    for wrong in ({"subsets": 0}, {"subset_size": 1}):
        with pytest.raises(ValueError, match="subsets must be 1 or more"):
            KID(**wrong)


def test_levels_are_rounded(means):
    """Another way to 1/255 may end a little below it."""
    seen = []
    levels = (torch.arange(256) / 255 - 1e-6).clamp_min(0).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    kid = KID()
    kid._network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    kid.update(levels, levels)
    assert seen[0][0, 0].flatten().tolist() == list(range(256))


# Inception


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Its weights, drawn, and torch-fidelity's own network with them."""
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *args, **options: None)
        network = extractor.FeatureExtractorInceptionV3("drawn", ["64"])
    save_file(network.state_dict(), path)
    return path, network


def test_features_are_torch_fidelity_s(inception_file, monkeypatch):
    path, network = inception_file
    loaded = inception.load_inception(str(path), 64)
    monkeypatch.setattr(inception, "load_inception", lambda weights, features: loaded)
    fid = FID(features=64, least=2, weights=str(path))
    outputs, targets = torch.rand(2, 4, 3, 40, 60)
    fid.update(outputs, targets)
    with torch.no_grad():
        theirs = [network((s * 255).round().byte())[0].double().numpy() for s in (outputs, targets)]
    # With fewer images than features scipy's root is not exact.
    assert fid.compute()["fid"] == pytest.approx(frechet(*theirs), rel=1e-2, abs=1e-4)
    with torch.no_grad():
        mine = loaded((outputs * 255).round().byte())
    assert np.abs(mine.numpy() - theirs[0]).max() < 1e-5 * np.abs(theirs[0]).max()


def test_without_torch_fidelity(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MetricError, match=r"pip install img2img\[scores\]"):
        FID()


# LPIPS


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    """Drawn weights as torchvision has them, and where they are."""
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(weights=None)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(network.state_dict(), path)
    return network, path


def lpips_by_the_paper(features, a, b):
    """Zhang et al., equation 1, over torchvision's layers."""
    from torchmetrics.functional.image import lpips

    file = Path(lpips.__file__).parent / "lpips_models" / "squeeze.pth"
    linear = torch.load(file, map_location="cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    x, y = ((2 * image - 1 - shift) / scale for image in (a, b))
    total = torch.zeros(len(a))
    with torch.no_grad():
        for i, layer in enumerate(features):
            x, y = layer(x), layer(y)
            if i in (ends := (1, 4, 7, 9, 10, 11, 12)):
                one, two = (f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in (x, y))
                weight = linear[f"lin{ends.index(i)}.model.1.weight"].view(1, -1, 1, 1)
                total += (weight * (one - two) ** 2).sum(1).mean((1, 2))
    return total


def test_lpips_is_the_paper_s(squeezenet):
    network, path = squeezenet
    outputs, targets = torch.rand(2, 3, 3, 40, 56)
    metric = LPIPS(net="squeeze", weights=str(path)).to(torch.device("cpu"))
    found = metric.update(outputs, targets)["lpips"]
    expected = lpips_by_the_paper(network.features, outputs, targets)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3)
    assert metric.compute()["lpips"] == pytest.approx(float(expected.mean()), rel=1e-3)
    assert not any(p.requires_grad for p in metric._network.parameters())


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_takes_torchvision_s_weights_of_each_network(net, tmp_path):
    name = {"alex": "alexnet", "vgg": "vgg16"}[net]
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(weights=None).state_dict()
    path = tmp_path / "weights.safetensors"
    # The classifier, which is not used, is nine tenths of the file.
    torch.manual_seed(0)
    drawn = {k: torch.randn(v.shape) * 0.05 for k, v in state.items() if k.startswith("features.")}
    save_file(drawn, path)
    metric = LPIPS(net=net, weights=str(path))
    loaded = [p for p in metric._network.net.parameters() if p.ndim == 4]
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded, [v for v in drawn.values() if v.ndim == 4], strict=True)
    )
    images = torch.rand(1, 3, 32, 32)
    assert metric.update(images, images)["lpips"].tolist() == [0]
    assert metric.update(images, images.flip(1))["lpips"] > 0


def test_lpips_refuses(squeezenet, tmp_path):
    _, path = squeezenet
    metric = LPIPS(net="squeeze", weights=str(path))
    with pytest.raises(MetricError, match="17 pixels or more, and these have 16 x 30"):
        metric.update(*torch.rand(2, 1, 3, 30, 16))
    with pytest.raises(MetricError, match="not the weights of torchvision's alexnet"):
        LPIPS(weights=str(path))
    with pytest.raises(MetricError, match=r"there is no file .*nowhere\.pth"):
        LPIPS(weights=str(tmp_path / "nowhere.pth"))


# Files of weights


class Evil:
    def __reduce__(self):
        return (print, ("it ran",))


@pytest.mark.parametrize("content", ["pickle", "text", "list", "number", "empty"])
def test_a_file_that_holds_no_weights(content, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("<html>")
    else:
        torch.save(
            {"pickle": {"a": Evil()}, "list": [1], "number": {"a": 1}, "empty": {}}[content], path
        )
    with pytest.raises(MetricError, match=r"weights\.pth cannot be read as weights .*expected the"):
        weights.find_weights(str(path), "", "a network")
    assert "it ran" not in capsys.readouterr().out


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hub" / "checkpoints"


def test_a_download_is_kept_and_compared(tmp_path, cache):
    served = tmp_path / "served.pth"
    torch.save({"a": torch.ones(2)}, served)
    digits = hashlib.sha256(served.read_bytes()).hexdigest()[:8]
    good, bad = tmp_path / f"net-{digits}.pth", tmp_path / "net-00000000.pth"
    for path in (good, bad):
        path.write_bytes(served.read_bytes())
    with pytest.raises(MetricError, match=r"a network cannot be fetched .*invalid hash value"):
        weights.find_weights(None, bad.as_uri(), "a network")
    assert not list(cache.iterdir())
    assert weights.find_weights(None, good.as_uri(), "a network")["a"].tolist() == [1, 1]
    good.unlink()
    assert weights.find_weights(None, good.as_uri(), "a network")["a"].tolist() == [1, 1]


def test_no_network_says_which_file_goes_where(tmp_path, cache, monkeypatch):
    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(MetricError) as caught:
        LPIPS()
    message = str(caught.value)
    assert "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth" in message
    assert str(cache / "alexnet-owt-7be5be79.pth") in message
    assert 'weights = "path/to/alexnet-owt-7be5be79.pth"' in message
    pytest.importorskip("torch_fidelity")
    with pytest.raises(MetricError, match="weights-inception-2015-12-05-6726825d"):
        KID()
