"""The steps in two CPU processes: by accelerate's launcher outside notebooks, by forked processes inside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState

from hangul_ocr import steps
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.session import find_session
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.training.loop import from_process_0
from hangul_ocr.workspace import Workspace, make_accelerator, on_every_gpu


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A workspace with a small sample competition."""
    root = tmp_path_factory.mktemp("distributed")
    make_competition(root / "input" / "sample", 60, 20, seed=3)
    return root


def launched(root: Path, *arguments: str) -> str:
    """Run ``accelerate launch -m hangul_ocr ...`` in two CPU processes; return what they print."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "hangul_ocr", *arguments]
    folders = {f"HANGUL_OCR_{name}": str(root / name.lower()) for name in ("INPUT", "OUTPUT", "SUBMISSIONS")}
    environment = os.environ | folders | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, stdin=subprocess.DEVNULL, cwd=root
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_accelerate_launch_runs_the_steps_in_two_processes(root):
    printed = launched(root, "pretrain", "--preset", "smoke", "--run", "launched")
    assert printed.count("of its own validation crops are read exactly") == 1
    printed = launched(root, "train", "--preset", "smoke", "--run", "launched", "--fold", "0")
    assert printed.count("of the fold's own crops") == 1
    folder = root / "output" / "runs" / "launched"
    assert pd.read_csv(folder / "fold0" / "metrics.csv")["step"].iloc[-1] == 8


def _pretrain(root: Path) -> None:
    torch.set_num_threads(1)
    # A fork inherits what accelerate knows of this process, which may have trained alone in an earlier test.
    AcceleratorState._reset_state(reset_partial_state=True)
    assert make_accelerator().num_processes == int(os.environ.get("WORLD_SIZE", "1"))
    workspace = Workspace("local", root, root / "input", root / "output", root / "submissions")
    session = find_session(workspace, "", "smoke", "forked")
    steps.pretrain_run(session.run, session.prepared)


def test_a_notebook_takes_up_what_its_processes_left(root):
    """What ``on_every_gpu`` starts on several GPUs, on two CPU processes; this process then finds the result."""
    debug_launcher(_pretrain, (root,), num_processes=2)
    metrics = root / "output" / "runs" / "forked" / "pretraining" / "metrics.csv"
    written = metrics.stat().st_mtime_ns
    on_every_gpu(_pretrain, root)
    assert metrics.stat().st_mtime_ns == written


def _look(folder: Path) -> str:
    """Return what lies in the folder of this process."""
    file = folder / str(torch.distributed.get_rank()) / "found.txt"
    if not file.is_file():
        raise HangulOcrError(f"{file}: not there")
    return file.read_text(encoding="utf-8")


def _look_together(folder: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        found = from_process_0(_look, folder)
    except HangulOcrError as error:
        found = f"error: {error}"
    (folder / f"said{torch.distributed.get_rank()}.json").write_text(json.dumps(found), encoding="utf-8")


def test_processes_with_folders_of_their_own_go_by_what_process_0_finds(tmp_path):
    """As on two machines that share no disk: only one of them has what a stage left."""
    for rank in "01":
        (tmp_path / rank).mkdir()
    for found, expected in (("finished", "finished"), (None, f"error: {tmp_path / '0' / 'found.txt'}: not there")):
        there, empty = ("0", "1") if found else ("1", "0")
        (tmp_path / there / "found.txt").write_text("finished", encoding="utf-8")
        (tmp_path / empty / "found.txt").unlink(missing_ok=True)
        debug_launcher(_look_together, (tmp_path,), num_processes=2)
        said = [json.loads((tmp_path / f"said{rank}.json").read_text(encoding="utf-8")) for rank in "01"]
        assert said == [expected, expected]
