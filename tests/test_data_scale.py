"""The benchmark of large data sets runs, and prints what its README says."""

import importlib.util
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="it measures memory as Linux tells it"
)


@pytest.fixture
def data_scale():
    path = Path(__file__).parents[1] / "benchmarks" / "data_scale.py"
    spec = importlib.util.spec_from_file_location("data_scale", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_data_scale(data_scale, tmp_path, capsys, monkeypatch):
    home = tmp_path.parent / f"{tmp_path.name}-home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setenv("IMG2IMG_CACHE", "")
    monkeypatch.setattr("img2img.data.shard_index.KEPT_FROM", 1)
    monkeypatch.setattr("img2img.data.listing.KEPT_FROM", 1)

    # In this process: a fresh one takes seconds to import everything, and there are six.
    def run_probe(kind, root, cache, reads):
        with monkeypatch.context() as patched:
            patched.setenv("IMG2IMG_CACHE", str(cache))
            return data_scale.probe(kind, root, reads)

    monkeypatch.setattr(data_scale, "run_probe", run_probe)
    monkeypatch.setattr(data_scale, "FILES_IN_A_FOLDER", 3)
    monkeypatch.setattr(data_scale, "NAMES_OF_ONE", 4)
    settings = ["--size=16", "--gigabytes=2e-5", "--shard-megabytes=0.004", "--reads=5"]
    monkeypatch.syspath_prepend(Path(data_scale.__file__).parent)
    page = tmp_path.parent / f"{tmp_path.name}.md"
    page.write_text("<!-- data-cpu begin -->\n<!-- data-cpu end -->\n", encoding="utf-8")
    work = tmp_path / "not" / "there yet"
    data_scale.main([f"--work={work}", "--files", "12", "20", *settings, f"--record={page}"])
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert [row.split("|")[1].split(",")[0].strip().split(" ", 1)[1] for row in rows[2:]] == [
        *("list of 12 files", "list of 20 files"),
        *("pairs in shards", "pairs in plain files"),
    ]
    printed = json.loads(capsys.readouterr().out)
    assert list(tmp_path.rglob("*")) == [work.parent, work]
    assert not home.exists(), "something was kept where the user keeps things"
    assert set(printed) == {"lists", "shards", "cpu", "cores", "python", "settings"}
    assert [each["first_start"]["pairs"] for each in printed["lists"].values()] == [11, 18]
    shards = printed["shards"]
    assert shards["image_bytes"] >= 20_000
    assert shards["tar_files"] > 1
    for kind in ("shards", "plain_files"):
        for start in shards[kind].values():
            assert start["pairs"] == shards["pairs"]
            assert 0 < start["start_s"] < start["first_pair_s"]
            assert min(start["pairs_per_s"], start["read_mb_per_s"]) > 0
    everything = {"pairs": shards["pairs"], "each": 1}
    assert shards["epoch_0"] == {**everything, "different": shards["pairs"]}
    assert shards["epoch_1"] == everything


def test_a_probe_is_a_process_of_its_own(data_scale, tmp_path):
    data_scale.make_list(tmp_path / "list", 3, 8)
    found = data_scale.run_probe("list", tmp_path / "list", tmp_path / "cache", 0)
    assert found["pairs"] == 2
    assert found["private_growth_mb"] < 20
    assert {"resident_growth_mb", "peak_growth_mb"} <= set(found)


def test_an_epoch_that_lacks_a_pair_is_noticed(data_scale, tmp_path, monkeypatch):
    from img2img.data.make_shards import make_shards
    from img2img.data.order import Order
    from img2img.data.two_folders import TwoFolders

    data_scale.make_pairs(tmp_path / "files", "train", 30_000, 8)
    monkeypatch.setenv("IMG2IMG_CACHE", str(tmp_path / "cache"))
    make_shards({"train": TwoFolders(tmp_path / "files", "train")}, tmp_path / "shards", 10**6)
    right = Order.indices
    monkeypatch.setattr(Order, "indices", lambda *arguments: right(*arguments) // 2)
    with pytest.raises(SystemExit, match="times"):
        data_scale.each_once(tmp_path / "shards", 0, is_read=False)


@pytest.mark.parametrize("wrong", ["--files=0", "--size=0", "--gigabytes=-1", "--reads=0"])
def test_what_cannot_be_measured(data_scale, wrong, capsys):
    with pytest.raises(SystemExit):
        data_scale.main([wrong])
    assert "must" in capsys.readouterr().err


def test_work_that_cannot_be_made(data_scale, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        data_scale.main([f"--work={tmp_path / 'file' / 'folder'}"])
    assert "folder: Not a directory" in capsys.readouterr().err
