"""Folders on the three kinds of machine, the device and number type, seeds, records, and files written whole."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from hangul_ocr import workspace


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch):
    names = ("ROOT", "INPUT", "OUTPUT", "SUBMISSIONS")
    for name in (*(f"HANGUL_OCR_{n}" for n in names), "KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    workspace.pick_device.cache_clear()
    yield
    workspace.pick_device.cache_clear()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "my copy"
    (root / "src" / "hangul_ocr").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "pyproject.toml").touch()
    return root


def test_local_workspace_is_found_from_a_folder_below(repository):
    place = workspace.find_workspace(repository / "notebooks")
    assert place == workspace.Workspace(
        "local", repository, repository / "input", repository / "output", repository / "submissions"
    )
    assert place.scratch == place.output
    assert place.sample_competition == repository / "input" / "sample"


def test_a_stranger_folder_leads_to_the_installed_repository_or_a_remedy(tmp_path, monkeypatch):
    assert workspace.find_workspace(tmp_path).root == workspace.PACKAGE_ROOT
    monkeypatch.setattr(workspace, "PACKAGE_ROOT", tmp_path)
    with pytest.raises(RuntimeError, match="set HANGUL_OCR_ROOT"):
        workspace.find_workspace(tmp_path)


def test_variables_override_each_folder(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HANGUL_OCR_ROOT", str(repository))
    monkeypatch.setenv("HANGUL_OCR_OUTPUT", str(tmp_path / "elsewhere"))
    place = workspace.find_workspace(tmp_path)
    assert (place.root, place.output, place.input) == (repository, tmp_path / "elsewhere", repository / "input")


def test_kaggle_reads_its_input_and_writes_to_working(repository, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    place = workspace.find_workspace(repository)
    assert (place.kind, place.input) == ("kaggle", Path("/kaggle/input"))
    assert place.output == Path("/kaggle/working/output")
    assert place.submissions == Path("/kaggle/working/submissions")
    assert place.sample_competition.is_relative_to(place.output)


def test_colab_keeps_runs_on_drive_if_it_is_mounted_but_never_an_lmdb(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert workspace.find_workspace(repository).output == repository / "output"
    drive = tmp_path / "content" / "drive" / "MyDrive" / "hangul-ocr"
    drive.mkdir(parents=True)
    monkeypatch.setattr(workspace, "COLAB_CONTENT", tmp_path / "content")
    monkeypatch.setattr(workspace, "COLAB_DRIVE", drive)
    place = workspace.find_workspace(repository)
    assert (place.output, place.input) == (drive / "output", drive / "input")
    assert place.scratch == tmp_path / "content" / "hangul-ocr-scratch"
    place.create_folders()
    assert place.scratch.is_dir()


def test_gpu_that_computes_is_taken_and_one_that_does_not_is_left(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(workspace, "_try_one_convolution", lambda device: None)
    assert workspace.pick_device() == "cuda"

    def fail(device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    workspace.pick_device.cache_clear()
    monkeypatch.setattr(workspace, "_try_one_convolution", fail)
    with pytest.warns(UserWarning, match="no kernel image is available"):
        assert workspace.pick_device() == "cpu"


def test_the_trial_convolution_runs_on_the_cpu():
    workspace._try_one_convolution("cpu")


@pytest.mark.parametrize(
    ("capability", "number_type", "precision"),
    [
        ((6, 0), "float16", "fp16"),
        ((7, 5), "float16", "fp16"),
        ((8, 0), "bfloat16", "bf16"),
        ((9, 0), "bfloat16", "bf16"),
    ],
)
def test_number_type_follows_the_compute_capability(monkeypatch, capability, number_type, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert workspace.pick_number_type("cuda:0") == number_type
    assert workspace.ACCELERATE_PRECISION[number_type] == precision


@pytest.mark.parametrize(("gain", "number_type"), [(0.6, "float32"), (1.1, "float32"), (1.4, "bfloat16")])
def test_a_cpu_takes_bfloat16_where_it_measures_faster(monkeypatch, gain, number_type):
    monkeypatch.setattr(workspace, "bfloat16_gain", lambda: gain)
    assert workspace.pick_number_type("cpu") == number_type


def test_the_gain_of_bfloat16_is_measured_once_and_leaves_the_random_state_alone():
    torch.manual_seed(3)
    workspace.bfloat16_gain.cache_clear()
    gain = workspace.bfloat16_gain()
    assert 0.01 < gain < 100
    assert workspace.bfloat16_gain() == gain
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert torch.rand(()) == drawn


def test_a_process_may_use_one_number_type_after_another():
    assert workspace.make_accelerator("bfloat16").mixed_precision == "bf16"
    assert workspace.make_accelerator("float32").mixed_precision == "no"


def test_same_seed_same_draws():
    def draw() -> tuple[float, float, float]:
        workspace.seed_everything(7)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert draw() == draw()


def test_environment_record_can_be_written_as_json():
    record = json.loads(json.dumps(workspace.environment_record()))
    assert record["packages"]["torch"]
    assert record["cpu_count"] >= 1
    assert record["number_type"] in workspace.ACCELERATE_PRECISION


def test_commit_is_recorded_for_the_repository_itself_and_not_for_one_above_it(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.com"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_text("1")
    subprocess.run([*git, "add", "a.txt"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    assert workspace.git_commit(tmp_path)["changed"] is False
    (tmp_path / "a.txt").write_text("2")
    assert workspace.git_commit(tmp_path)["changed"] is True
    assert len(workspace.git_commit(tmp_path)["commit"]) == 40
    assert workspace.git_commit(tmp_path / "below") is None


def test_text_and_json_are_written_whole_in_utf8_with_ordinary_rights(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    workspace.atomic_write_json(path, {"나": 1})
    workspace.atomic_write_json(path, {"나": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"나": 2}
    assert "나" in path.read_text(encoding="utf-8")
    (tmp_path / "ordinary").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)
    workspace.atomic_write_text(path, "가,나\r\n", encoding="utf-8-sig")
    assert path.read_bytes() == b"\xef\xbb\xbf" + "가,나\r\n".encode()


def test_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    path.write_text("old")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"disk is full; free some space.*metrics\.csv") as caught:
        workspace.atomic_write_text(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]
    assert path.read_text() == "old"


def test_notebook_setup_creates_the_folders_and_prints_one_line(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository / "notebooks")
    with matplotlib.rc_context():
        place = workspace.setup_notebook()
    assert place.output.is_dir()
    assert place.submissions.is_dir()
    assert capsys.readouterr().out.count("\n") == 1


def test_importing_the_workspace_does_not_import_pytorch():
    code = "import sys, hangul_ocr.workspace; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads Linux's own figures")
def test_free_memory_goes_back_to_the_system():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    workspace.return_free_memory()
    pinned, blocks = [], []
    for i in range(2000):  # small blocks in between keep the heap from shrinking by itself
        blocks.append(b"x" * 60_000)
        pinned.append(b"x" * 600 + bytes([i % 256]))
    full = resident()
    blocks.clear()
    workspace.return_free_memory()
    assert resident() < full - 60_000_000
