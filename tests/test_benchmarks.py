"""The benchmark scripts run, and print what their README says."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from img2img.discriminators import PatchGAN, PatchGAN70
from img2img.generators import UNet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PEER = """
import torch

class Pix2PixModel:
    def __init__(self, opt):
        print("not JSON")
        make = lambda count: torch.nn.ParameterList([torch.zeros(count)])
        self.netG, self.netD = make({generator}), make({discriminator})
        assert (opt.netG, opt.ngf, opt.no_dropout) == ("unet_128", 2, False)

    def setup(self, opt):
        self.ready = True

    def set_input(self, batch):
        assert batch["A"].shape == batch["B"].shape == (1, 3, 128, 128)

    def optimize_parameters(self):
        assert self.ready
"""


def script(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train_step(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return script("train_step")


@pytest.fixture
def beside_a_peer(tmp_path):
    """Arguments that name a checkout with the interface the script uses, idle in its steps."""

    def write(**sizes):
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "pix2pix_model.py").write_text(PEER.format(**sizes))
        settings = {"device": "cpu", "size": 128, "width": 2, "batch": 1, "steps": 1, "rounds": 2}
        settings["seconds"] = 0.1
        return [f"--peer={tmp_path}", *(f"--{key}={value}" for key, value in settings.items())]

    return write


def test_train_step_beside_a_peer(train_step, capsys, beside_a_peer, tmp_path):
    networks = UNet(3, 3, image_size=128, width=2), PatchGAN70(6, width=2)
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- {0} begin -->\nold\n<!-- {0} end -->\nafter\n".format("step-128-2-cpu")
    )
    arguments = beside_a_peer(generator=sizes[0], discriminator=sizes[1])
    train_step.main([*arguments, f"--record={page}"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["parameters"] == {"generator": sizes[0], "discriminator": sizes[1]}
    assert printed["device"] == "cpu"
    assert printed["settings"] == {"size": 128, "width": 2, "steps": 1, "rounds": 2}
    (measured,) = printed["batches"]
    assert measured.pop("batch") == 1
    assert set(measured) == {"peer", "float32 eager", "bfloat16 eager"}
    peer = measured.pop("peer")
    for ours in measured.values():
        assert len(ours["rounds_s"]) == len(peer["rounds_s"]) == 2
        assert 0 < ours["best_s"] <= ours["median_s"] <= max(ours["rounds_s"])
        assert ours["ratio"] == ours["median_s"] / peer["median_s"] > 1  # an idle peer
        rate = printed["flops_a_pair"] / ours["median_s"]
        assert ours["of_matrix_rate"] in [rate / it for it in printed["matrix_rates"].values()]
        low, high = ours["ratio_spread"]
        assert low <= ours["rounds_s"][0] / peer["rounds_s"][0] <= high
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| batch 1, bfloat16 eager |" in text


def test_train_step_refuses_to_compare_other_networks(train_step, beside_a_peer):
    arguments = beside_a_peer(generator=1, discriminator=1)
    with pytest.raises(SystemExit, match="not the same networks"):
        train_step.main([*arguments, "--precision=float32"])


def test_train_step_says_when_a_contender_fails(train_step, beside_a_peer, capfd):
    """One that is started as any program is, not forked."""
    arguments = beside_a_peer(generator="nobody", discriminator=1)
    with pytest.raises(SystemExit, match="peer ended with exit code 1"):
        train_step.main([*arguments, "--precision=float32"])
    assert "NameError: name 'nobody' is not defined" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rounds=0", "--rounds must be at least 1, not 0"),
        ("--device=nowhere", "'nowhere' is not a device"),
        ("--peer=. --size=96", "--size must be a multiple of 128"),
    ],
)
def test_train_step_refuses(train_step, capsys, arguments, message):
    with pytest.raises(SystemExit) as left:
        train_step.main(arguments.split())
    assert left.value.code == 2
    assert message in capsys.readouterr().err


# A folder of images

# A checkout whose generator is the U-Net here with its tensors under the peer's names.
CHECKOUT = {
    "models/networks.py": """
from torch import nn
from img2img.generators import UNet

LEVELS = ["model.model", *("model.model.1.model" + ".3.model" * k for k in range(6))]
NAMES = ["model.model.0"]
NAMES += [f"{level}.{place}" for level in LEVELS[1:-1] for place in (1, 2)]
NAMES += [f"{LEVELS[-1]}.{place}" for place in (1, 3, 4)]
NAMES += [f"{level}.{place}" for level in LEVELS[-2:0:-1] for place in (5, 6)]
NAMES += ["model.model.3"]


class Generator(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        rate = 0.5 if dropout else 0.0
        unet = UNet(3, 3, image_size=128, width=width, dropout=rate, dropout_layers=(2, 3))
        kinds = nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d
        layers = [module for module in unet.modules() if isinstance(module, kinds)]
        for name, layer in zip(NAMES, layers, strict=True):
            *parents, last = name.split(".")
            place = self
            for parent in parents:
                if parent not in place._modules:
                    place.add_module(parent, nn.Module())
                place = place._modules[parent]
            place.add_module(last, layer)
        self.run, self.rate = [unet], rate

    def forward(self, images):
        return self.run[0](images)


def define_G(input_nc, output_nc, ngf, netG, norm, use_dropout):
    assert (input_nc, output_nc, netG, norm) == (3, 3, "unet_128", "batch")
    network = Generator(ngf, use_dropout)
    for tensor in network.parameters():
        if tensor.ndim > 1:
            nn.init.normal_(tensor, 0, 1.3 / tensor[0].numel() ** 0.5)
    return network
""",
    "models/__init__.py": """
import torch
from models import networks


def create_model(opt):
    print("not JSON")
    torch.backends.cudnn.benchmark = True
    return Model(opt)


class Model:
    def __init__(self, opt):
        self.netG = networks.define_G(3, 3, opt.ngf, opt.netG, opt.norm, not opt.no_dropout)

    def setup(self, opt):
        file = f"{opt.checkpoints_dir}/{opt.name}/latest_net_G.pth"
        self.netG.load_state_dict(torch.load(file))

    def set_input(self, batch):
        self.real, self.paths = batch["A"], batch["A_paths"]

    def test(self):
        assert torch.backends.cudnn.benchmark
        with torch.no_grad():
            self.fake = self.netG(self.real) * {gain}

    def get_current_visuals(self):
        return {"real": self.real, "fake": self.fake}

    def get_image_paths(self):
        return self.paths
""",
    "data/__init__.py": """
from pathlib import Path
import numpy as np
import torch
from PIL import Image


def create_dataset(opt):
    print("not JSON")
    for path in sorted(Path(opt.dataroot).iterdir())[: opt.num_test]:
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
        yield {
            "A": torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1,
            "A_paths": [str(path)],
        }
""",
    "options/test_options.py": """
import argparse


class TestOptions:
    def parse(self):
        parser = argparse.ArgumentParser()
        for name in ("dataroot", "checkpoints_dir", "name", "model", "netG", "norm", "preprocess"):
            parser.add_argument(f"--{name}", required=True)
        for name in ("ngf", "load_size", "crop_size", "batch_size", "num_threads"):
            parser.add_argument(f"--{name}", type=int, required=True)
        for name in ("serial_batches", "no_flip", "no_dropout"):
            parser.add_argument(f"--{name}", action="store_true")
        parser.add_argument("--num_test", type=int, default=2)
        parser.set_defaults(display_winsize=256, aspect_ratio=1.0)
        opt = parser.parse_args()
        assert (opt.model, opt.preprocess) == ("test", "none")
        assert (opt.crop_size, opt.load_size, opt.batch_size, opt.num_threads) == (128, 128, 1, 0)
        assert opt.serial_batches and opt.no_flip
        return opt
""",
    "util/html.py": """
from pathlib import Path


class HTML:
    def __init__(self, web_dir, title):
        self.folder = Path(web_dir)
        (self.folder / "images").mkdir(parents=True)

    def save(self):
        print("saved a page")
""",
    "util/visualizer.py": """
from pathlib import Path
import wandb
from PIL import Image


def save_images(webpage, visuals, image_path, aspect_ratio, width):
    for label, images in visuals.items():
        levels = ((images[0].permute(1, 2, 0) + 1) / 2 * 255).byte().numpy()
        name = f"{Path(image_path[0]).stem}_{label}.png"
        Image.fromarray(levels).save(webpage.folder / "images" / name)
""",
}
SMALL = ["--device=cpu", "--size=128", "--width=2", "--count=5", "--rounds=2"]


@pytest.fixture
def infer_folder(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    cudnn = torch.backends.cudnn
    switches = cudnn.benchmark, cudnn.allow_tf32
    yield script("infer_folder")
    cudnn.benchmark, cudnn.allow_tf32 = switches
    ours = ("contenders", "peer", "photos")
    theirs = ("data", "models", "options", "util")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in (*ours, *theirs):
            del sys.modules[name]


@pytest.fixture
def checkout(tmp_path):
    """Writes a checkout with the interface the script uses; `gain` changes what it computes."""

    def write(gain=1):
        for name, text in CHECKOUT.items():
            path = tmp_path / "checkout" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("{gain}", str(gain)))
        return f"--peer={tmp_path / 'checkout'}"

    return write


def check_timed(printed, count, rounds, stages):
    assert len(printed["rounds_s"]) == rounds
    assert 0 < printed["best_s"] <= printed["median_s"] <= max(printed["rounds_s"])
    assert printed["images_per_s"] == pytest.approx(count / printed["median_s"])
    assert printed["warm_up_s"] > 0
    assert 0 < printed["network_share"] < 1
    assert set(printed["startup_s"]) == {"imports", "model"}
    assert ("bound" in printed) == stages
    if stages:
        rates = printed["stages_images_per_s"]
        assert set(rates) == {"decode", "convert", "network", "encode"}
        assert rates[printed["bound"]] == min(rates.values()) > 0


def test_infer_folder_beside_a_peer(infer_folder, capsys, monkeypatch, checkout):
    from img2img.inference import folder

    real = folder.translate_files
    switches = []

    def translate_files(*args, **settings):
        cudnn = torch.backends.cudnn
        switches.append((cudnn.benchmark, cudnn.allow_tf32))
        return real(*args, **settings)

    monkeypatch.setattr(folder, "translate_files", translate_files)
    before = sys.argv, list(sys.path)
    infer_folder.main([checkout(), *SMALL])
    assert (sys.argv, sys.path) == before
    # A stand-in is gone again; timm imports the real one where it is installed.
    assert "wandb" not in sys.modules or sys.modules["wandb"].__spec__ is not None
    out, err = capsys.readouterr()
    printed = json.loads(out)
    for name, batch in (("peer", 1), ("float32", 5), ("auto", 5)):
        check_timed(printed[name], 5, 2, stages=name != "peer")
        assert printed[name]["batch"] == batch
    for name in ("float32", "auto"):
        ours, peer = printed[name], printed["peer"]
        assert printed[f"ratio_{name}"] == ours["median_s"] / peer["median_s"]
        assert printed[f"ratio_{name}_of_best"] == ours["best_s"] / peer["best_s"]
        each = [a / b for a, b in zip(ours["rounds_s"], peer["rounds_s"], strict=True)]
        assert printed[f"ratio_{name}_spread"] == [min(each), max(each)]
    # The one rounds and the other cuts off, so half of all levels are one apart.
    assert printed["pictures"]["largest_difference"] == 1
    assert 0.4 < printed["pictures"]["mean_difference"] < 0.6
    assert printed["pictures"]["mean_deviation"] > 5
    assert printed["images"] == 5
    assert printed["settings"] == {
        "images": "drawn",
        "size": 128,
        "width": 2,
        "dropout": False,
        "rounds": 2,
    }
    # Once to compare pictures, then a round to warm up and two that count, in both precisions. The
    # peer's switch, which it checks for itself, is not ours; TensorFloat-32 is compared by nobody.
    assert switches == [(False, False)] + [(False, True)] * 6
    assert err.count("saved a page") == 4


def test_infer_folder_refuses_to_compare_other_work(infer_folder, checkout):
    with pytest.raises(SystemExit, match=r"not the same pictures: .* \d+ levels"):
        infer_folder.main([checkout(gain=0.9), *SMALL])


def test_infer_folder_refuses_to_count_what_was_skipped(infer_folder, monkeypatch):
    from img2img.inference import folder
    from img2img.inference.recording import Outcome

    monkeypatch.setattr(folder, "translate_files", lambda *_, **__: Outcome(written=4, skipped=1))
    with pytest.raises(SystemExit, match="ours wrote 4 pictures of 5"):
        infer_folder.main(SMALL)


def test_infer_folder_with_dropout(infer_folder, capsys, monkeypatch, checkout):
    """On here and there; noise differs, and so may pictures."""
    found = {}

    def measure(contenders, rounds, count, folder):
        found.update(contenders)
        return real(contenders, rounds, count, folder)

    real = infer_folder.measure
    monkeypatch.setattr(infer_folder, "measure", measure)
    infer_folder.main([checkout(gain=0.9), *SMALL, "--rounds=1", "--dropout"])
    assert json.loads(capsys.readouterr().out)["pictures"] is None
    assert found["float32"].translator.noisy
    assert found["auto"].translator.noisy
    assert found["peer"].translate.__self__.network.rate == 0.5


def test_infer_folder_of_real_images(infer_folder, capsys, monkeypatch, tmp_path):
    """Ours alone; the middle of each image at the size, and JPEG stays JPEG."""
    (tmp_path / "deep").mkdir()
    wide = Image.new("RGBA", (400, 128), "red")
    wide.paste("blue", (136, 0, 264, 128))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide.save(tmp_path / "deep" / "a.png", icc_profile=profile)
    upside_down = Image.new("L", (128, 128), 7)
    upside_down.paste(240, (64, 0, 128, 128))
    turned = Image.Exif()
    turned[0x0112] = 3
    upside_down.save(tmp_path / "b.jpg", exif=turned)
    Image.new("RGB", (64, 64)).save(tmp_path / "c.bmp")
    (tmp_path / "notes.txt").write_text("no image")
    fitted = {}

    def measure(contenders, rounds, count, folder):
        assert contenders["float32"].translator.noisy
        for path in (folder / "images").iterdir():
            with Image.open(path) as image:
                assert "icc_profile" not in image.info
                fitted[path.name] = (image.format, image.mode, image.size, image.getpixel((1, 1)))
        return real(contenders, rounds, count, folder)

    real = infer_folder.measure
    monkeypatch.setattr(infer_folder, "measure", measure)
    infer_folder.main([*SMALL, f"--images={tmp_path}", "--rounds=1", "--dropout"])
    printed = json.loads(capsys.readouterr().out)
    assert "peer" not in printed
    assert not [key for key in printed if key.startswith("ratio")]
    assert printed["images"] == 3
    assert printed["settings"]["images"] == str(tmp_path)
    for name in ("float32", "auto"):
        check_timed(printed[name], 3, 1, stages=True)
    assert fitted == {
        "photo-00000.jpg": ("JPEG", "RGB", (128, 128), (240, 240, 240)),
        "photo-00001.png": ("PNG", "RGB", (128, 128), (0, 0, 0)),
        "photo-00002.png": ("PNG", "RGB", (128, 128), (0, 0, 255)),
    }
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"b\.jpg cannot be read"):
        infer_folder.main([*SMALL, f"--images={tmp_path}"])


def test_rounds_alternate(infer_folder, monkeypatch, tmp_path):
    """The first of each warms up and does not count; of each the network's share is known."""
    contenders = sys.modules["contenders"]
    now = [0.0]
    order = []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Network(torch.nn.Module):
        def forward(self, images):
            now[0] += 2

    def contender(name, seconds):
        def translate(results):
            results.mkdir()
            assert torch.backends.cudnn.benchmark == (name == "slow")
            order.append(name)
            now[0] += next(seconds) - 2
            network(torch.zeros(3))

        network = Network()
        clock = contenders.NetworkClock(network, torch.device("cpu"))
        switches = contenders.Switches(benchmark=name == "slow", allow_tf32=True)
        return contenders.Contender(translate, clock, {"model": 1.0}, switches)

    both = {
        "slow": contender("slow", iter([99, 10, 8])),
        "fast": contender("fast", iter([50, 4, 5])),
    }
    measured = infer_folder.measure(both, 2, 18, tmp_path)
    assert order == ["slow", "fast"] * 3
    assert measured["slow"] == {
        "images_per_s": 2.0,
        "median_s": 9.0,
        "best_s": 8.0,
        "rounds_s": [10.0, 8.0],
        "warm_up_s": 99.0,
        "network_share": pytest.approx((0.2 + 0.25) / 2),
        "batch": 3,
        "startup_s": {"model": 1.0},
    }
    assert infer_folder.ratios("ratio", measured["fast"], measured["slow"]) == {
        "ratio": 0.5,
        "ratio_of_best": 0.5,
        "ratio_spread": [0.4, 0.625],
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_time_in_a_network(infer_folder, monkeypatch, device):
    """Two forwards of 2 and 3 seconds with 7 between them; on a GPU by its own clock."""
    instants = iter([1.0, 3.0, 10.0, 13.0, 20.0, 20.5])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.instant = next(instants)

        def elapsed_time(self, other):
            assert waited
            return 1000 * (other.instant - self.instant)

    waited = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    contenders = sys.modules["contenders"]
    if device == "cpu":
        monkeypatch.setattr(contenders.time, "perf_counter", lambda: next(instants))
    network = torch.nn.Linear(1, 1)
    clock = contenders.NetworkClock(network, torch.device(device))
    for images in (4, 1):
        network(torch.zeros(images, 1))
    assert (clock.read(), clock.batch) == (5.0, 4)
    network(torch.zeros(2, 1))
    assert (clock.read(), clock.batch) == (0.5, 4)
    assert clock.read() == 0


@pytest.mark.parametrize("bound", ["decode", "network", "convert", "encode"])
def test_what_bounds_the_rest(infer_folder, capsys, monkeypatch, bound):
    """A stage that is made slow is the one that is named."""
    from img2img.data import reading, writing
    from img2img.inference import Translator

    places = {
        "decode": (reading, "read_picture"),
        "network": (UNet, "forward"),
        "convert": (Translator, "_compose"),
        "encode": (writing, "write_picture"),
    }
    real = getattr(*places[bound])

    def late(*args):
        time.sleep(0.1)
        return real(*args)

    monkeypatch.setattr(*places[bound], late)
    infer_folder.main([*SMALL, "--rounds=1", "--count=2"])
    printed = json.loads(capsys.readouterr().out)
    for name in ("float32", "auto"):
        assert printed[name]["bound"] == bound
        assert printed[name]["stages_images_per_s"][bound] <= 20


def test_drawn_images_are_like_photographs(infer_folder, tmp_path):
    """Large shapes, soft details, no two alike, and the same ones every time."""
    photos = sys.modules["photos"]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = photos.draw_images(tmp_path / "a", 3, 128)
    again = photos.draw_images(tmp_path / "b", 3, 128)
    assert [file.name for file in files] == [f"photo-0000{n}" for n in ("0.png", "1.jpg", "2.png")]
    for file, other in zip(files, again, strict=True):
        assert file.read_bytes() == other.read_bytes()
    first, _, third = (np.asarray(Image.open(file), float) for file in files)
    assert first.shape == (128, 128, 3)
    assert first.std() > 30
    assert np.abs(np.diff(first, axis=1)).mean() < first.std() / 4
    assert np.abs(first - third).mean() > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--count=0", "--count must be at least 1, not 0"),
        ("--size=192", "--size must be a multiple of 128"),
        ("--device=nowhere", "'nowhere' is not a device"),
        ("--images=.", "--images .: there are no images below it"),
    ],
)
def test_infer_folder_refuses(infer_folder, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        infer_folder.main(arguments.split())
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_infer_folder_without_what_the_peer_needs(infer_folder, checkout):
    asked = checkout()
    page = Path(asked.removeprefix("--peer=")) / "util" / "html.py"
    page.write_text("import img2img_has_no_such_module")
    with pytest.raises(SystemExit, match=r"no_such_module.*torchvision and dominate"):
        infer_folder.main([asked, *SMALL])


# The paper's tables


def test_seams_of_large_images(capsys, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(
        tmp_path / "photo.png"
    )
    script("large_images").main(
        ["--width=2", "--seams=700", "--tile=512", f"--image={tmp_path / 'photo.png'}"]
    )
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["seams"]) == {"smooth", "real"}
    for figures in printed["seams"].values():
        assert figures["tile"] == 512
        # Two tiles a side, which begin at 0 and 256.
        assert figures["borders"] == 4
        assert 0 < figures["largest_step_tiled"] < 1
        assert 0 < figures["mean_difference_tiled"] < figures["mean_difference_other_noise"] * 10


def test_seams_where_there_are_no_tiles(tmp_path):
    with pytest.raises(SystemExit, match="give --seams more"):
        script("large_images").main(["--width=2", "--seams=300", "--tile=512"])


def test_memory_of_large_images(capsys):
    script("large_images").main(["--width=2", "--seams=0", "--memory=1200x900"])
    printed = json.loads(capsys.readouterr().out)["memory"]
    assert printed["image_bytes"] == 1200 * 900 * 3
    assert 10**8 < printed["small_bytes"] <= printed["large_bytes"] < 2 * 10**10


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_receptive_fields_are_measured(layers, field):
    network = PatchGAN(6, width=4, layers=layers)
    assert script("paper_tables").receptive_field(network, 6, 160) == (field, False)


def test_a_row_of_the_papers_tables(pairs_folder, monkeypatch, capsys):
    """Sizes and field are the shipped recipe's; the training is as small as was asked."""
    arguments = ["--steps", "2", "--size", "32", "--width", "4", "--device", "cpu"]
    rows = ["table2/encoder_decoder-l1", "table3/1x1"]
    command = ["paper_tables.py", "--data", str(pairs_folder), *arguments, "--only", *rows]
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    tables = script("paper_tables")
    tables.main()
    found = json.loads(capsys.readouterr().out)["rows"]
    assert list(found) == rows
    one, other = (found[row] for row in rows)
    assert "discriminator" not in one["networks"]
    seen = other["networks"]["discriminator"]
    assert (seen["receptive_field"], seen["paper_receptive_field"]) == (1, 1)
    assert other["networks"]["generator"]["parameters"] == 54_413_955
    assert all(row["last_losses"]["l1"] > 0 and row["validation"]["l1"] > 0 for row in (one, other))
    # Printed from what was just measured.
    monkeypatch.setattr(tables, "measure", lambda name: found[name]["networks"])
    monkeypatch.setattr(tables, "train", lambda name, networks, *_: found[name])
    monkeypatch.setattr(sys, "argv", [*command[: -len(rows)], rows[1]])
    tables.main()
    printed = capsys.readouterr().out
    assert "1 / 1" in printed
    assert "54.41 / 54.41" in printed
