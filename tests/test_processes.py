"""Training stages in two CPU processes, started by ``torchrun``: networks with idle layers, machines that see apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_training import MODEL, STAGE, stage

from hangul_ocr import workspace
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.settings import ModelSettings
from hangul_ocr.training.loop import stage_accelerator
from hangul_ocr.workspace import end_processes, make_accelerator

SHORT = replace(STAGE, steps=16)
#: Networks of which a step leaves layers without a gradient, and the stage that trains them.
IDLE = {
    "lcnet_050": (ModelSettings(backbone="lcnet_050", hidden=16), SHORT),
    "hybrid": (replace(MODEL, decoder="hybrid"), replace(SHORT, guidance_weight=0.0)),
}


def in_two_processes(task: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    return subprocess.run(
        [*command, __file__, task, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def _train_idle(folder: Path) -> None:
    accelerator = make_accelerator("float32")
    process = (accelerator.process_index, accelerator.num_processes)
    for name, (network, settings) in IDLE.items():
        stage(folder / name, settings, process=process, accelerator=accelerator, network=network).run()


def test_layers_without_a_gradient_do_not_stop_two_processes(tmp_path):
    done = in_two_processes("idle", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in IDLE:
        assert (tmp_path / name / "metrics.csv").read_text().splitlines()[-1].startswith("16,")


def _train_apart(folder: Path) -> None:
    """Train in a folder of one's own, as two machines would, and go on; write what each process is told."""
    accelerator = make_accelerator("float32")
    process = (accelerator.process_index, accelerator.num_processes)
    own = folder / f"machine{process[0]}"
    stage(own, SHORT, process=process, accelerator=accelerator, deadline=time.monotonic()).run()
    try:
        stage(own, SHORT, process=process, accelerator=accelerator).run()
    except HangulOcrError as error:
        (folder / f"told{process[0]}.txt").write_text(str(error))


def test_machines_without_a_shared_folder_are_told_so_when_they_go_on(tmp_path):
    done = in_two_processes("apart", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in (0, 1):
        told = (tmp_path / f"told{rank}.txt").read_text()
        assert "the processes stand at steps 8, 0; let all machines see one folder" in told


def _pick_number_type(folder: Path) -> None:
    """Let the processes measure differently, and write what each takes."""
    rank = int(os.environ["RANK"])
    workspace.bfloat16_gain = lambda: 1.3 if rank == 0 else 1.1
    (folder / f"type{rank}.json").write_text(json.dumps(stage_accelerator("auto", folder).mixed_precision))


def test_all_processes_take_the_number_type_of_the_first(tmp_path):
    done = in_two_processes("type", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads((tmp_path / f"type{rank}.json").read_text()) for rank in (0, 1)] == ["bf16", "bf16"]


@pytest.mark.parametrize("name", IDLE)
def test_what_gets_no_gradient_is_frozen_and_still_saved(tmp_path, name):
    network, settings = IDLE[name]
    training = stage(tmp_path, settings, network=network)
    parameters = dict(training.recognizer.named_parameters())
    frozen = {key for key, parameter in parameters.items() if not parameter.requires_grad}
    training._gradients_that_fit(training.blocks[0][0])
    assert frozen
    assert frozen == {key for key, parameter in parameters.items() if parameter.grad is None}
    assert frozen <= set(training.recognizer.state_dict())


if __name__ == "__main__":
    {"idle": _train_idle, "apart": _train_apart, "type": _pick_number_type}[sys.argv[1]](Path(sys.argv[2]))
    end_processes()
