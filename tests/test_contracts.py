"""What every registered component promises. A new one is covered by being registered."""

import copy
import hashlib
import json
import tarfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from img2img.errors import MetricError
from img2img.losses import AdversarialLoss, JudgedLoss
from img2img.methods import WeightedLoss
from img2img.metrics import inception
from img2img.picture import to_depth, to_display
from img2img.plugins import load_plugins
from img2img.tasks.base import image_channels_of

COMPONENTS = load_plugins(entry_points=False).registry.components()
# Large enough for the deepest discriminator, which needs 96 pixels.
SIZE = 128


def every(*kinds):
    """A test for each component of these kinds."""
    found = [c for c in COMPONENTS if c.kind in kinds]
    assert found
    ids = [c.name if len(kinds) == 1 else f"{c.kind}-{c.name}" for c in found]
    return pytest.mark.parametrize("component", found, ids=ids)


ALL_KINDS = ("generator", "discriminator", "loss", "task", "source", "method", "metric")


def build(component, **supplied):
    """A small one, with its defaults otherwise."""
    settings = {s.name: s.default for s in component.settings}
    if "width" in settings:
        settings["width"] = 4
    if "pretrained" in settings:
        # Weights would come from a hub.
        settings["pretrained"] = False
    return component.build(settings, **supplied)


def amplified(network):
    """The same network with weights so large that its outputs go as far as they can."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(40)
    return network


def pair_for(loss, size=16):
    """An output and its target, as the tasks that this loss is for have them."""
    torch.manual_seed(0)
    if loss == "cross_entropy":
        classes = torch.randint(0, 3, (2, size, size))
        target = nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float()
        return torch.randn(2, 3, size, size).softmax(1), target
    return tuple(torch.rand(2, 2, 3, size, size) * 1.6 - 0.8)


# A judged loss has a discriminator to please, and total variation looks at the output alone, so for
# them no output is best.
RECONSTRUCTION = [
    c.name
    for c in COMPONENTS
    if c.kind == "loss" and not hasattr(c.factory, "generator_loss") and c.name != "total_variation"
]


# What a recipe and its reader need


@every(*ALL_KINDS)
def test_docstring_and_settings(component):
    doc = component.factory.__doc__
    assert component.summary.endswith(".")
    assert len(component.summary) > 15
    if component.kind in ("generator", "discriminator"):
        assert "Shape: (B, in_channels, " in doc
    lacking = [s.name for s in component.settings if not s.help.strip()]
    assert not lacking, "no help in Args"
    for setting in component.settings:
        assert not setting.required, setting.name
        # A recipe is TOML, a bundle's metadata JSON: a default must survive both.
        plain = json.loads(json.dumps(setting.default))
        found = getattr(component.model.model_validate({setting.name: plain}), setting.name)
        assert json.dumps(found) == json.dumps(setting.default)


@every(*ALL_KINDS)
def test_documented_arguments_exist(component):
    """An Args entry for a parameter that is gone would mislead."""
    doc = component.factory.__doc__ or ""
    if "Args:" not in doc:
        return
    section = doc.split("Args:\n")[1].split("\n\n")[0]
    lines = section.splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    documented = [
        line.strip().split(":")[0] for line in lines if len(line) - len(line.lstrip()) == indent
    ]
    known = {s.name for s in component.settings} | set(component.takes)
    assert set(documented) <= known
    assert len(documented) == len(set(documented))


# Generators


@every("generator")
@pytest.mark.parametrize(("channels", "height", "width"), [((3, 3), 64, 64), ((1, 2), 64, 128)])
def test_generator_shape_and_range(component, channels, height, width):
    torch.manual_seed(0)
    network = build(component, in_channels=channels[0], out_channels=channels[1], image_size=64)
    output = network(torch.rand(2, channels[0], height, width) * 2 - 1)
    assert output.shape == (2, channels[1], height, width)
    assert output.dtype == torch.float32
    if component.origin == "img2img":
        far = amplified(network)(torch.rand(2, channels[0], height, width) * 2 - 1)
        assert far.abs().max() <= 1
        assert far.abs().max() > 0.9


@every("generator", "discriminator")
def test_gradients_reach_every_parameter_and_the_input(component):
    torch.manual_seed(0)
    network = build(component, in_channels=3, out_channels=3, image_size=SIZE)
    images = torch.randn(2, 3, SIZE, SIZE, requires_grad=True)
    with torch.no_grad():
        for parameter in network.parameters():
            # Blocks that begin as the identity (arXiv 1706.02677, section 5.1) have a scale of 0,
            # which holds back all gradients for one step.
            if not parameter.any():
                parameter.normal_()
    # Squared, because the plain sum of normalised values has no gradient.
    network(images).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    assert torch.isfinite(images.grad).all()
    assert images.grad.any()


@every("generator", "discriminator")
def test_a_copy_is_equal_and_apart(component):
    torch.manual_seed(0)
    network = build(component, in_channels=3, out_channels=3, image_size=SIZE).eval()
    twin = copy.deepcopy(network)
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        before = network(images)
        assert torch.equal(twin(images), before)
        amplified(network)
        assert torch.equal(twin(images), before)
        assert not torch.equal(network(images), before)


@every("generator", "discriminator")
def test_state_dict_round_trip(component, tmp_path):
    torch.manual_seed(0)
    first, second = (
        build(component, in_channels=3, out_channels=3, image_size=SIZE) for _ in range(2)
    )
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        # Running statistics are part of the state, so they must differ from their beginning.
        first(images)
        first, second = first.eval(), second.eval()
        assert not torch.equal(first(images), second(images))
        torch.save(first.state_dict(), tmp_path / "weights.pt")
        second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert torch.equal(first(images), second(images))


@every("generator", "discriminator")
def test_networks_run_on_shapes_alone(component):
    """The assembly tries networks out on the meta device, so none may look at values."""
    with torch.device("meta"):
        network = build(component, in_channels=3, out_channels=3, image_size=SIZE)
        assert network(torch.empty(2, 3, SIZE, SIZE)).shape[:2] in ((2, 3), (2, 1))


# Discriminators


@every("discriminator")
@pytest.mark.parametrize("channels", [2, 6])
def test_discriminator_gives_logits(component, channels):
    torch.manual_seed(0)
    network = build(component, in_channels=channels, image_size=SIZE)
    logits = network(torch.rand(2, channels, SIZE, SIZE) * 2 - 1)
    assert logits.dtype == torch.float32
    assert logits.ndim == 4
    assert logits.shape[:2] == (2, 1)
    assert 1 <= logits.shape[2] <= SIZE
    assert 1 <= logits.shape[3] <= SIZE
    # Logits: a sigmoid at the end would be a second one.
    far = []
    with torch.no_grad():
        for _ in range(3):
            network = amplified(build(component, in_channels=channels, image_size=SIZE))
            far.append(network(torch.randn(4, channels, SIZE, SIZE)).flatten())
    assert torch.cat(far).min() < 0
    assert torch.cat(far).max() > 1


# Losses


@every("loss")
def test_loss_is_a_finite_scalar_that_can_be_descended(component):
    loss = build(component)
    output, target = pair_for(component.name)
    output.requires_grad_()
    discriminator = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1))
    if isinstance(loss, AdversarialLoss):
        terms = loss.discriminator_loss(discriminator, target, output.detach())
        assert all(isinstance(name, str) for name in terms)
        assert all(term.shape == () and torch.isfinite(term) for term in terms.values())
        sum(terms.values()).backward()
        assert discriminator[0].weight.grad.any()
    discriminator.requires_grad_(False)

    def value():
        if isinstance(loss, JudgedLoss):
            return loss.generator_loss(discriminator, target, output)
        return loss(output, target)

    before = value()
    assert before.shape == ()
    assert torch.isfinite(before)
    before.backward()
    assert torch.isfinite(output.grad).all()
    assert output.grad.any()
    with torch.no_grad():
        output -= 1e-3 * output.grad / output.grad.norm()
        assert value() < before


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_reconstruction_is_best_at_the_target(name):
    loss = build(next(c for c in COMPONENTS if (c.kind, c.name) == ("loss", name)))
    other, target = pair_for(name)
    best = loss(target, target)
    assert best.item() == pytest.approx(0, abs=2e-3)
    previous = best
    for far in (0.01, 0.05, 0.2):
        value = loss(torch.lerp(target, other, far), target)
        assert value > previous
        previous = value


@every("loss")
def test_losses_ask_the_host_for_nothing(component):
    """On the meta device there are no values, so reading one, or branching on it, raises."""
    images = torch.empty(2, 2, 3, 16, 16, device="meta")
    with torch.device("meta"):
        loss = build(component)
        discriminator = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))
    if isinstance(loss, JudgedLoss):
        value = loss.generator_loss(discriminator, *images)
    else:
        value = loss(*images)
    assert value.is_meta
    assert value.shape == ()


# Tasks


def checked_image(height=24, width=40):
    """Noise, and corners of every extreme colour."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    extremes = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    image[0, : len(extremes)] = extremes
    return image


def checked_target(task):
    """The same, or for classes a map in their colours: others stand for none."""
    image = checked_image()
    if getattr(task, "palette", None) is None:
        return image
    index = np.random.default_rng(0).integers(0, len(task.palette), image.shape[:2])
    return task.palette[index]


@every("task")
def test_task_encodes_images(component):
    task = build(component)
    for encode, channels, image in (
        (task.encode_source, task.source_channels, checked_image()),
        (task.encode_target, task.target_channels, checked_target(task)),
    ):
        kept = image.copy()
        tensor = encode(image)
        assert tensor.shape == (channels, 24, 40)
        assert tensor.dtype == torch.float32
        assert tensor.min() >= -1
        assert tensor.max() <= 1
        # More than a quarter of the range is used, or something is scaled twice.
        assert tensor.max() - tensor.min() > 0.5
        assert (image == kept).all(), "the caller's image was changed"
        # The left half alone gives the left half: nothing looks at its neighbours or the whole.
        assert torch.allclose(encode(image[:, :20]), tensor[:, :, :20], atol=1e-3)
    assert task.source_interpolation in ("smooth", "nearest")
    assert task.target_interpolation in ("smooth", "nearest")


@every("task")
def test_task_round_trip(component):
    task = build(component)
    image = checked_target(task)
    source, target = task.encode_source(image), task.encode_target(image)
    shown = task.decode_target(target, source)
    assert shown.shape == (*image.shape[:2], image_channels_of(task)[1])
    assert np.abs(to_display(shown).astype(int) - image).max() <= 1
    source = task.encode_source(checked_image())
    seen = task.decode_source(source)
    assert seen.shape[:2] == image.shape[:2]
    assert to_display(seen).shape == image.shape
    # What people see as the source encodes to the same source again.
    assert (task.encode_source(seen) - source).abs().max() < 0.02


def tasks_with(attribute):
    """A test for each task that has it."""
    tasks = [c for c in COMPONENTS if c.kind == "task"]
    found = [c for c in tasks if getattr(build(c), attribute, None) is not None]
    assert found
    return pytest.mark.parametrize("component", found, ids=[c.name for c in found])


@tasks_with("palette")
def test_task_with_classes(component):
    task = build(component)
    assert task.palette.shape == (task.target_channels, 3)
    assert task.palette.dtype == np.uint8
    assert len(np.unique(task.palette, axis=0)) == len(task.palette)
    assert task.target_interpolation == "nearest"
    target = task.encode_target(checked_target(task))
    assert set(target.unique().tolist()) == {0, 1}
    assert (target.sum(dim=0) == 1).all()
    # Doubtful outputs too are shown in the palette's colours, that of the likeliest class.
    output = torch.softmax(target + torch.rand(target.shape) * 0.9, dim=0)
    shown = task.decode_target(output, task.encode_source(checked_image()))
    assert (shown == checked_target(task)).all()


@tasks_with("misfit")
def test_task_judges_pairs(component):
    task = build(component)
    source, target = checked_image(), checked_target(task)
    kept = source.copy(), target.copy()
    assert task.misfit(source, target) is None
    assert (source == kept[0]).all()
    assert (target == kept[1]).all()


@every("task")
def test_task_decodes_what_a_network_may_give(component):
    """Outputs are not images: beyond the range, half precision, still part of a graph."""
    task = build(component)
    torch.manual_seed(0)
    source = task.encode_source(checked_image())
    output = torch.randn(task.target_channels, 24, 40, requires_grad=True) * 2
    for given in (output, output.bfloat16()):
        shown = task.decode_target(given, source)
        assert shown.shape == (24, 40, image_channels_of(task)[1])
        # Exact colours, or as deep as a file may want them.
        assert shown.dtype in (np.uint8, np.float32)
        assert shown.min() >= 0
        assert shown.max() <= (255 if shown.dtype == np.uint8 else 1)


@every("task")
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_task_takes_any_depth(component, dtype):
    """The same image, deeper, is the same tensor; but for grey, which need not be rounded then."""
    task = build(component)
    tolerance = 0.5 / 127.5 if component.name == "edges" else 0
    for encode, image in (
        (task.encode_source, checked_image()),
        (task.encode_target, checked_target(task)),
    ):
        deep = to_depth(image, dtype)
        kept = deep.copy()
        assert (encode(deep) - encode(image)).abs().max() < tolerance + 1e-5
        assert (deep == kept).all(), "the caller's image was changed"


# Metrics


class Means(nn.Module):
    """Stands for Inception, whose weights would come from a hub: mean colours, top and bottom."""

    num_features = 6

    def forward(self, images):
        top, bottom = (half.float().mean((2, 3)) / 255 for half in images.chunk(2, dim=2))
        return torch.cat([top, bottom], dim=1)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    """Weights that LPIPS would have from a hub."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return str(path)


@pytest.fixture
def new_metric(component, squeezenet, monkeypatch):
    """Builds the metric as often as wanted."""
    monkeypatch.setattr(inception, "load_inception", lambda weights, features: Means())
    settings = {s.name: s.default for s in component.settings}
    small = {"net": "squeeze", "weights": squeezenet, "least": 2}
    settings |= {name: value for name, value in small.items() if name in settings}
    return lambda: component.build(settings, classes=4)


def judged_pairs(metric, far, count=4):
    """Outputs that are the targets but for a share `far`, and the targets."""
    rng = np.random.default_rng(0)
    if metric.of == "classes":
        target = rng.integers(0, 4, (count, 20, 20))
        wrong = rng.random(target.shape) < far
        output = np.where(wrong, (target + 1) % 4, target)
        return torch.from_numpy(output), torch.from_numpy(target)
    # Smooth and pale, towards dots of full colour; large enough for the five scales of one of them.
    coarse = torch.from_numpy(rng.random((count, 3, 11, 11)) * 0.4 + 0.3)
    target = nn.functional.interpolate(coarse, size=(176, 176), mode="bilinear")
    other = torch.from_numpy(rng.random((count, 3, 176, 176)) > 0.6).double()
    return tuple(
        ((v * 255).round() / 255).float() for v in (torch.lerp(target, other, far), target)
    )


@every("metric")
def test_metric_prefers_what_is_nearer(new_metric):
    found = []
    for far in (0, 0.1, 0.3, 0.6, 0.9):
        metric = new_metric()
        assert metric.of in ("images", "classes")
        metric.update(*judged_pairs(metric, far))
        scores = metric.compute()
        assert list(scores) == list(metric.scores)
        assert all(isinstance(v, float) and np.isfinite(v) for v in scores.values())
        found.append(scores)
    for name, higher in metric.scores.items():
        values = [scores[name] for scores in found]
        assert values == sorted(values, reverse=higher), name
        assert len(set(values)) == len(values), name


BEST = {"l1": 0, "psnr": 100, "lpips": 0, "fid": 0}


@every("metric")
def test_metric_of_equal_images(new_metric, component):
    metric = new_metric()
    _, target = judged_pairs(metric, 0)
    images = metric.update(target, target.clone())
    found = metric.compute()
    for name in metric.scores:
        if name != "kid":  # unbiased, so that of equal images it lies below 0
            values = [found[name], *images.get(name, torch.empty(0)).tolist()]
            assert values == pytest.approx([BEST.get(name, 1)] * len(values), abs=1e-5), name


@every("metric")
def test_metric_does_not_depend_on_the_batch(new_metric):
    together, single = new_metric(), new_metric()
    pair = judged_pairs(together, 0.3)
    kept = [images.clone() for images in pair]
    before = torch.get_rng_state()
    images = together.update(*pair)
    each = [single.update(o[None], t[None]) for o, t in zip(*pair, strict=True)]
    for name, values in images.items():
        assert values.shape == (4,)
        assert values.tolist() == pytest.approx([float(one[name]) for one in each], rel=1e-5)
    assert together.compute() == pytest.approx(single.compute(), rel=1e-5)
    assert torch.equal(before, torch.get_rng_state()), "a run's random state must not move"
    assert all(torch.equal(a, b) for a, b in zip(pair, kept, strict=True))


@every("metric")
def test_an_image_s_score_is_that_of_a_set_of_one(new_metric):
    metric = new_metric()
    output, target = judged_pairs(metric, 0.3)
    images = metric.update(output, target)
    assert set(images) <= set(metric.scores)
    for i in range(len(output) if images else 0):
        alone = new_metric()
        alone.update(output[i : i + 1], target[i : i + 1])
        assert alone.compute() == pytest.approx({n: float(v[i]) for n, v in images.items()})


@every("metric")
def test_metric_of_nothing(new_metric):
    with pytest.raises(MetricError, match=r"there were no|there are 0"):
        new_metric().compute()


# Sources


@pytest.fixture
def any_root(tmp_path, request, monkeypatch):
    """Files that every source can read: two folders, whose images can also be halved."""
    number = 0
    for split, count in (("train", 5), ("val", 3)):
        for index in range(count):
            for folder in ("A", "B"):
                path = tmp_path / split / folder / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                rng = np.random.default_rng(number)
                image = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
                Image.fromarray(image).save(path)
                number += 1
    if request.node.callspec.params["component"].name == "huggingface":
        write_parquet(tmp_path, monkeypatch)
    if request.node.callspec.params["component"].name == "shards":
        write_shards(tmp_path)
    return tmp_path


def write_parquet(root, monkeypatch):
    """The same pairs as two columns, in files that hold no image's suffix."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / ".cache")
    for split in ("train", "val"):
        columns = {
            folder: [str(path) for path in sorted((root / split / folder).iterdir())]
            for folder in ("A", "B")
        }
        features = datasets.Features({folder: datasets.Image() for folder in columns})
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(root / f"{split}-00000-of-00001.parquet")


def write_shards(root):
    """The same pairs as members of one tar file a split."""
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-000000.tar", "w") as tar:
            for path in sorted((root / split / "A").iterdir()):
                for folder, side in (("A", "source"), ("B", "target")):
                    file = root / split / folder / path.name
                    tar.add(file, f"{path.stem}.{side}{path.suffix}")


def some(source):
    return range(0, len(source), max(1, len(source) // 8))


@every("source")
@pytest.mark.parametrize("split", ["train", "val"])
def test_source_gives_the_same_pairs_each_time(component, split, any_root):
    one, other = (build(component, root=any_root, split=split) for _ in range(2))
    assert len(one) == len(other) > 0
    for index in reversed(some(one)):
        first, second = one.pair(index)
        assert first.shape == second.shape
        assert first.ndim == 3
        assert first.shape[2] == 3
        assert first.dtype == second.dtype == np.uint8
        assert one.name(index) == other.name(index)
        for again in (other.pair(index), one.pair(index)):
            assert (first == again[0]).all()
            assert (second == again[1]).all()


@every("source")
def test_train_and_val_are_disjoint(component, any_root):
    splits = [build(component, root=any_root, split=split) for split in ("train", "val")]
    names = [{source.name(i) for i in range(len(source))} for source in splits]
    assert names[0].isdisjoint(names[1])
    assert [len(found) for found in names] == [len(source) for source in splits]
    contents = [
        {hashlib.sha256(b"".join(i.tobytes() for i in s.pair(k))).digest() for k in some(s)}
        for s in splits
    ]
    assert contents[0].isdisjoint(contents[1])
    assert [len(found) for found in contents] == [len(some(source)) for source in splits]


# Methods


class Small(nn.Module):
    """One layer; enough of a network for a step."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, images):
        return self.layer(images)


def method_of(component, loss_settings=None):
    registry = load_plugins(entry_points=False).registry
    losses = [
        WeightedLoss(
            "adversarial", 1.0, registry.get("loss", "adversarial").factory(**loss_settings)
        )
        if loss_settings is not None
        else None,
        WeightedLoss("l1", 100.0, registry.get("loss", "l1").factory()),
    ]
    return build(
        component,
        build_generator=Small,
        build_discriminator=None if loss_settings is None else lambda i: Small(i, 1),
        losses=[loss for loss in losses if loss],
        source_channels=1,
        target_channels=3,
        conditional=True,
    )


@every("method")
def test_a_step_trains_every_network(component):
    torch.manual_seed(0)
    method = method_of(component, {"mode": "vanilla"})
    assert method.generator in method.networks.values()
    before = copy.deepcopy(dict(method.networks))
    logged = method.step(torch.randn(2, 1, 8, 8), torch.randn(2, 3, 8, 8))
    assert logged
    assert all(v.shape == () and torch.isfinite(v) for v in logged.values())
    assert not any(v.requires_grad for v in logged.values())
    for name, network in method.networks.items():
        for (key, old), new in zip(
            before[name].named_parameters(), network.parameters(), strict=True
        ):
            assert not torch.equal(old, new), f"{name}.{key} was not trained"
    owned = {id(p) for o in method.optimizers.values() for g in o.param_groups for p in g["params"]}
    assert owned == {id(p) for network in method.networks.values() for p in network.parameters()}


@every("method")
@pytest.mark.parametrize("loss", [None, "vanilla", "lsgan", "hinge", "wgan-gp"])
def test_a_step_asks_the_host_for_nothing(component, loss, monkeypatch):
    """On the meta device there are no values, so reading one, or branching on it, raises."""
    with torch.device("meta"):
        method = method_of(component, loss and {"mode": loss})
        for optimizer in method.optimizers.values():
            # torch's own, and its fused one refuses this device.
            monkeypatch.setattr(optimizer, "step", lambda: None)
        logged = method.step(torch.empty(2, 1, 8, 8), torch.empty(2, 3, 8, 8))
    assert all(value.is_meta and value.shape == () for value in logged.values())
