"""The training loop on a source small enough to follow: digits drawn by OpenCV."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from hangul_ocr import workspace
from hangul_ocr.data.batches import STEPS_PER_BLOCK, TrainingBlocks, fixed_groups
from hangul_ocr.data.crops import Crop, join_crops, rarity_weights
from hangul_ocr.data.images import UnreadableImage
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.models.checkpoint import (
    initialise_from,
    load_model,
    load_tensors,
    require_alphabet,
    save_model,
    save_tensors,
)
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import LossWeights, ModelSettings, TrainingSettings, clova, preset
from hangul_ocr.training import loop
from hangul_ocr.training.kfold import load_run, open_run, pretrain
from hangul_ocr.training.loop import LAST, Stage, one_cycle, read_groups, stage_accelerator
from hangul_ocr.training.optimizer import make_optimizer
from hangul_ocr.workspace import end_processes, make_accelerator

MODEL = ModelSettings(backbone="resnet10t", backbone_args={"channels": (8, 8, 16, 16)}, hidden=16)
STAGE = TrainingSettings(
    steps=32, crops_per_step=6, validate_every=16, save_every=10, workers=0, number_type="float32", alignment_weight=0.5
)
SAVED_OFTEN = replace(STAGE, steps=160, save_every=8)
ALPHABET = Alphabet("0123456789가각")


class Digits:
    """Crops of two to four digits, wide and tall, some with known centres."""

    def __len__(self):
        return 20

    def crop(self, index, rng):
        text = "".join(np.random.default_rng(index).choice(list("0123456789"), 2 + index % 3))
        image = np.full((32, 24 * len(text), 3), 255, np.uint8)
        cv2.putText(image, text, (2, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
        centres = np.array([[(i + 0.5) / len(text), 0.5] for i in range(len(text))])
        if index % 4 == 0:
            image, centres = np.ascontiguousarray(image.transpose(1, 0, 2)), centres[:, ::-1]
        return Crop(str(index), image, text, centres if index % 2 else None)


def stage(folder, settings=STAGE, deadline=None, process=(0, 1), accelerator=None, network=MODEL):
    torch.manual_seed(0)
    model = Recognizer(network, ALPHABET)
    blocks = TrainingBlocks(
        MODEL,
        ALPHABET,
        settings.crops_per_step,
        7,
        real=Digits(),
        synthetic=Digits(),
        synthetic_share=0.34,
        process=process,
    )
    groups = fixed_groups(Digits(), MODEL, ALPHABET)
    return Stage("test", model, blocks, groups, settings, folder, accelerator or make_accelerator("float32"), deadline)


def weights(folder):
    tensors, header = load_tensors(folder / LAST)
    return tensors, header["progress"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_interrupted_and_uninterrupted_runs_end_with_equal_weights(tmp_path, optimizer):
    settings = replace(STAGE, optimizer=optimizer)
    stage(tmp_path / "whole", settings).run()
    parts = 0
    finished = False
    while not finished:
        torch.manual_seed(parts)  # what happened in between must not matter
        finished = stage(tmp_path / "parts", settings, deadline=time.monotonic()).run().finished
        parts += 1
    assert parts == 4
    whole, progress = weights(tmp_path / "whole")
    resumed, resumed_progress = weights(tmp_path / "parts")
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert progress["step"] == resumed_progress["step"] == STAGE.steps
    for ours, theirs in zip(progress["history"], resumed_progress["history"], strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_finished_stage_is_not_trained_again(tmp_path):
    stage(tmp_path).run()
    before, _ = weights(tmp_path)
    assert stage(tmp_path).run().finished
    after, _ = weights(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_metrics_and_best_weights_are_written(tmp_path):
    result = stage(tmp_path).run()
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["step"].tolist() == [0, 16, 32]
    assert table["crops"].tolist() == [0, 96, 192]
    assert np.isfinite(table[["valid_loss", "valid_accuracy"]]).all(axis=None)
    assert np.isfinite(table["train_loss"]).tolist() == [False, True, True]
    assert load_model(result.best).alphabet == ALPHABET


def test_a_training_that_only_harms_leaves_what_it_started_from(tmp_path):
    training = stage(tmp_path, replace(STAGE, steps=8, learning_rate=1e3, clip=1e9, ema_decay=0.0))
    model, accelerator = training.recognizer, training.accelerator
    # Labels that the fresh weights read perfectly.
    own = [(group, read_groups(model, [group], accelerator)[1]) for group in training.validation]
    assert any(text for _, texts in own for text in texts)
    training.validation = [replace(group, texts=texts) for group, texts in own]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = training.run()
    assert [row["valid_accuracy"] == 1 for row in result.progress.history] == [True, False]
    after = load_model(result.best).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_schedule_lands_on_the_clock(tmp_path):
    settings = replace(STAGE, steps=100_000, seconds=2.5)
    result = stage(tmp_path, settings).run()
    assert result.finished
    assert 0 < result.progress.step < 100_000
    rates = pd.read_csv(tmp_path / "metrics.csv")["learning_rate"]
    assert rates.iloc[-1] < 0.2 * settings.learning_rate


def test_one_cycle_rises_and_lands():
    values = [one_cycle(p / 100, 0.1) for p in range(101)]
    assert values[10] == max(values) == pytest.approx(1.0, abs=0.01)
    assert values[0] < 0.05
    assert values[-1] < 0.01


def test_a_loss_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch):
    ours = stage(tmp_path)
    true_loss = ours.recognizer.decoder.loss
    calls = []

    def poisoned(*arguments):
        calls.append(1)
        loss = true_loss(*arguments)
        return loss * float("nan") if len(calls) == 2 else loss

    monkeypatch.setattr(ours.recognizer.decoder, "loss", poisoned)
    result = ours.run()
    assert result.progress.skipped_steps == 1
    assert all(torch.isfinite(t).all() for n, t in weights(tmp_path)[0].items() if n.startswith("model."))


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_a_network_that_overflows_once_keeps_its_running_statistics(tmp_path, decoder):
    """Infinite features, as half precision may give them, would stay in the norms' running means for good."""
    ours = stage(tmp_path, network=replace(MODEL, decoder=decoder))
    calls = []

    def overflow(module, inputs, output):
        calls.append(1)
        return output * float("inf") if len(calls) == 2 else output

    first = next(m for m in ours.recognizer.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(overflow)
    progress = ours.run().progress
    assert progress.skipped_steps == 1
    assert np.isfinite([row["valid_loss"] for row in progress.history]).all()
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path)[0].values())


def keys_of(block):
    return [int(key) for step in block for group in step for key in group.keys]


def test_each_epoch_shows_every_crop_once():
    blocks = TrainingBlocks(MODEL, ALPHABET, 5, 0, real=Digits())
    assert sorted(keys_of(blocks[0])) == sorted(2 * list(range(20)))
    assert keys_of(TrainingBlocks(MODEL, ALPHABET, 5, 0, real=Digits())[3]) == keys_of(blocks[3])


def test_processes_share_a_block_without_overlap_and_take_as_many_steps():
    whole = TrainingBlocks(MODEL, ALPHABET, 6, 0, real=Digits())[2]
    shares = [TrainingBlocks(MODEL, ALPHABET, 6, 0, real=Digits(), process=(rank, 2))[2] for rank in (0, 1)]
    assert sorted(keys_of(shares[0]) + keys_of(shares[1])) == sorted(keys_of(whole))
    assert len(shares[0]) == len(shares[1]) == len(whole) == STEPS_PER_BLOCK


class OneLong(Digits):
    """Digits, but one crop is as wide as all the others together."""

    def crop(self, index, rng):
        crop = super().crop(index, rng)
        return replace(crop, image=cv2.resize(crop.image, (512, 32))) if index == 0 else crop


@pytest.mark.parametrize(("world", "crops_per_step"), [(1, 1), (2, 2), (4, 5), (8, 8), (8, 12), (16, 17)])
def test_a_block_has_all_its_steps_in_every_process_however_few_crops_there_are(world, crops_per_step):
    for number in range(6):
        for rank in range(world):
            block = TrainingBlocks(MODEL, ALPHABET, crops_per_step, 7, real=Digits(), process=(rank, world))[number]
            assert len(block) == STEPS_PER_BLOCK
            assert all(block)
            share = range(rank, crops_per_step * STEPS_PER_BLOCK, world)
            assert len(keys_of(block)) == len(share)


def test_more_processes_than_crops_in_a_step_are_refused():
    with pytest.raises(HangulOcrError, match="crops_per_step = 3: fewer than the 4 processes; raise it"):
        TrainingBlocks(MODEL, ALPHABET, 3, 0, real=Digits(), process=(0, 4))


def test_a_group_is_pinned_with_all_its_tensors(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    group = TrainingBlocks(MODEL, ALPHABET, 3, 0, real=Digits())[0][0][0]
    copy = group.pin_memory()
    assert [id(tensor) for tensor in pinned] == [id(group.images), id(group.frames)]
    assert torch.equal(copy.images, group.images)
    assert (copy.keys, copy.texts, copy.targets, copy.lost) == (group.keys, group.texts, group.targets, group.lost)


def test_a_block_has_all_its_steps_even_if_one_crop_is_very_long():
    for process in ((0, 2), (1, 2)):
        assert len(TrainingBlocks(MODEL, ALPHABET, 3, 0, real=OneLong(), process=process)[0]) == STEPS_PER_BLOCK


def test_a_share_of_the_blocks_shows_the_same_crops_at_the_size_of_a_first_look():
    model = replace(MODEL, short_side=48, glance=32)
    full, mixed = (TrainingBlocks(model, ALPHABET, 8, 0, real=Digits(), glance_share=share) for share in (0.0, 0.5))
    sides = [{min(group.images.shape[1:3]) for step in mixed[n] for group in step} for n in range(4)]
    assert sides == [{48}, {32}, {48}, {32}]
    assert [sorted(keys_of(mixed[n])) for n in range(2)] == [sorted(keys_of(full[n])) for n in range(2)]
    assert all(group.frames.shape[1] == max(group.images.shape[1:3]) // 8 for step in mixed[1] for group in step)


def test_every_group_has_one_shape_in_one_direction():
    for step in TrainingBlocks(MODEL, ALPHABET, 8, 0, real=Digits())[0]:
        for group in step:
            assert min(group.images.shape[1:3]) == MODEL.short_side
            assert group.frames.shape == (len(group.keys), max(group.images.shape[1:3]) // MODEL.along_stride)
            down = {int(key) % 4 == 0 for key in group.keys}
            assert down == {group.images.shape[1] > group.images.shape[2]}


def _train_in_two_processes(folder):
    accelerator = make_accelerator("float32")
    process = (accelerator.process_index, accelerator.num_processes)
    trained = stage(folder, process=process, accelerator=accelerator)
    trained.blocks.real = OneDamaged()
    trained.run()
    sums = torch.tensor([sum(p.double().sum().item() for p in trained.recognizer.parameters())])
    gathered = accelerator.gather(sums)
    if accelerator.is_main_process:
        (folder / "sums.json").write_text(json.dumps([accelerator.num_processes, gathered.tolist()]))
    end_processes()


def test_two_processes_train_one_model(tmp_path):
    """Started as a user would start it on two CPU processes: by ``torchrun``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [__file__, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-2000:]
    world, sums = json.loads((tmp_path / "sums.json").read_text())
    assert world == 2
    assert sums[0] == sums[1]
    together = weights(tmp_path)[1]
    assert together["step"] == STAGE.steps
    # The same crops in other steps: batch statistics differ, what is learnt does not.
    single = stage(tmp_path / "alone")
    single.blocks.real = OneDamaged()
    single.run()
    alone = weights(tmp_path / "alone")[1]
    assert together["unreadable"] == alone["unreadable"] > 0
    assert together["history"][-1]["valid_loss"] == pytest.approx(alone["history"][-1]["valid_loss"], rel=0.1)


def _train_alone(folder):
    torch.set_num_threads(1)
    stage(folder, SAVED_OFTEN).run()


def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    """SIGKILL, at moments spread over the run: nothing can be tidied up, and no half-written state may be taken."""
    command = [sys.executable, __file__, str(tmp_path / "killed"), "alone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    kills = 0
    while kills < 4:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = _last_saved(tmp_path / "killed")
        while process.poll() is None and _last_saved(tmp_path / "killed") == before:
            time.sleep(0.005)
        time.sleep(0.01 * kills)
        process.kill()
        kills += 1
        if process.wait() == 0:
            break
    assert kills > 1, "the run was over before it could be killed twice"
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(
        [*command[:2], str(tmp_path / "whole"), "alone"], env=environment, check=True, stderr=subprocess.DEVNULL
    )
    whole, killed = weights(tmp_path / "whole")[0], weights(tmp_path / "killed")[0]
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name


def _train_with_a_worker(folder):
    torch.set_num_threads(1)
    stage(folder, replace(SAVED_OFTEN, steps=100_000, crops_per_step=256, workers=1)).run()


def test_a_killed_run_leaves_no_worker_behind(tmp_path):
    command = [sys.executable, __file__, str(tmp_path), "worker"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    saved = set()
    while process.poll() is None and len(saved) < 3:  # none yet, at step 0, by a worker's crops
        saved.add(_last_saved(tmp_path))
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    for worker in alive:
        worker.kill()
    assert not alive


def _last_saved(folder):
    """Return when the state was saved last; reading it while another process replaces it would be a race."""
    return (folder / LAST).stat().st_mtime_ns if (folder / LAST).is_file() else 0


def test_where_the_memory_ends_the_crops_go_in_parts(tmp_path, monkeypatch, capsys):
    ours, whole = stage(tmp_path / "parts"), stage(tmp_path / "whole")
    true_forward, most = ours.recognizer.forward, []

    def small_device(images, *arguments):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        most.append(len(images))
        return true_forward(images, *arguments)

    monkeypatch.setattr(ours.recognizer, "forward", small_device)
    groups = max(ours.blocks[0], key=lambda groups: max(len(group.texts) for group in groups))
    assert max(len(group.texts) for group in groups) > 2
    for trained in (ours, whole):
        trained.recognizer.eval()  # batch statistics would differ
    total = float(ours._gradients_that_fit(groups))
    assert total == pytest.approx(float(whole._gradients_that_fit(groups)), rel=1e-4)
    assert max(most) <= 2 == ours.largest or ours.largest == 1
    for mine, theirs in zip(ours.recognizer.parameters(), whole.recognizer.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
    assert "out of memory; going on with" in capsys.readouterr().err


def _train_without_memory(folder):
    """Take a step over 8,000 crops with 800 MB more than is in use."""
    import resource

    torch.set_num_threads(1)
    trained = stage(folder)
    few = max(trained.blocks[0][0], key=lambda group: len(group.texts))
    trained._gradients_that_fit([few])  # loads what is loaded once
    times = 8000 // len(few.texts)
    tensors = {"images": few.images.repeat(times, 1, 1, 1), "frames": few.frames.repeat(times, 1)}
    lists = {name: getattr(few, name) * times for name in ("keys", "texts", "targets")}
    in_use = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (800 << 20),) * 2)
    loss = float(trained._optimise([replace(few, **tensors, **lists)]))
    (folder / "loss.json").write_text(json.dumps([loss, trained.largest]))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to a limit of memory")
def test_a_process_that_may_take_no_more_memory_goes_on_in_parts(tmp_path):
    """A true limit, which the allocator meets, or oneDNN."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path), "limited"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    loss, largest = json.loads((tmp_path / "loss.json").read_text())
    assert np.isfinite(loss)
    assert largest < 4000
    assert f"out of memory; going on with {largest} crops at once" in done.stderr


@pytest.mark.parametrize("words", ["could not create a primitive", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when ..."])
def test_libraries_without_room_for_their_own_are_out_of_memory_too(tmp_path, monkeypatch, words):
    ours = stage(tmp_path)
    true_forward = ours.recognizer.forward

    def small_device(images, *arguments):
        if len(images) > 2:
            raise RuntimeError(words)
        return true_forward(images, *arguments)

    monkeypatch.setattr(ours.recognizer, "forward", small_device)
    groups = max(ours.blocks[0], key=lambda groups: max(len(group.texts) for group in groups))
    assert torch.isfinite(ours._gradients_that_fit(groups))
    assert ours.largest <= 2


def test_where_the_memory_ends_validation_reads_in_parts(tmp_path, monkeypatch):
    ours = stage(tmp_path)
    whole = read_groups(ours.recognizer, ours.validation, ours.accelerator)
    true_features, most = ours.recognizer.features, []

    def small_device(images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        most.append(len(images))
        return true_features(images)

    monkeypatch.setattr(ours.recognizer, "features", small_device)
    parts = read_groups(ours.recognizer, ours.validation, ours.accelerator)
    assert max(most) == 2
    assert parts[:2] == whole[:2]
    assert parts[2] == pytest.approx(whole[2], rel=1e-4)


def test_a_lack_of_memory_that_no_halving_mends_is_said_with_its_remedy(tmp_path, monkeypatch):
    ours = stage(tmp_path)

    def small_device(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ours.recognizer, "forward", small_device)
    monkeypatch.setattr(type(ours.accelerator), "num_processes", 2)
    groups = max(ours.blocks[0], key=lambda groups: max(len(group.texts) for group in groups))
    with monkeypatch.context() as alone:
        alone.setattr(type(ours.accelerator), "num_processes", 1)
        with pytest.raises(HangulOcrError, match=r"test: out of memory; not even one crop fits; end other programs"):
            ours._gradients_that_fit(groups)
    ours.largest = 1 << 30
    with pytest.raises(HangulOcrError, match=r"test: out of memory; .* lower crops_per_step"):
        ours._gradients_that_fit(groups)


def test_a_stage_stopped_in_its_first_validation_has_a_state_that_says_so(tmp_path, monkeypatch):
    stopped = stage(tmp_path)

    def killed():
        assert not (tmp_path / "best.safetensors").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "_validate", killed)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert weights(tmp_path)[1]["block"] == 0
    resumed, whole = stage(tmp_path), stage(tmp_path / "whole")
    assert resumed.run().finished
    whole.run()
    after, expected = weights(tmp_path)[0], weights(tmp_path / "whole")[0]
    assert all(torch.equal(after[name], expected[name]) for name in expected)


def test_a_state_is_saved_by_the_clock_as_well_as_by_steps(tmp_path, monkeypatch):
    rare = stage(tmp_path, replace(STAGE, save_every=10**6))
    saved = []
    monkeypatch.setattr(rare, "_save_last", lambda: saved.append(rare.progress.step))
    rare._saved = time.monotonic() - loop.SAVE_SECONDS - 1
    rare.run()
    assert saved == [0, 8, 16, 24, 32, 32]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stage_goes_on_in_the_number_type_that_it_began_with(tmp_path, monkeypatch, optimizer):
    settings = replace(STAGE, steps=16, number_type="auto", optimizer=optimizer)

    def run(folder, gain, deadline=None):
        monkeypatch.setattr(workspace, "bfloat16_gain", lambda: gain)
        accelerator = stage_accelerator("auto", folder)
        stage(folder, settings, accelerator=accelerator, deadline=deadline).run()
        return accelerator.mixed_precision

    assert run(tmp_path / "whole", 1.3) == "bf16"
    assert run(tmp_path / "parts", 1.3, time.monotonic()) == "bf16"
    assert run(tmp_path / "parts", 1.1) == "bf16"
    assert run(tmp_path / "other", 1.1, time.monotonic()) == "no"
    assert stage_accelerator("bfloat16", tmp_path / "other").mixed_precision == "bf16"
    whole, parts = weights(tmp_path / "whole")[0], weights(tmp_path / "parts")[0]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_any_other_error_is_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    ours = stage(tmp_path)

    def broken(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(ours.recognizer, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        ours._gradients_that_fit(ours.blocks[0][0])


class OneDamaged(Digits):
    """Digits, of which one cannot be read."""

    def crop(self, index, rng):
        if index == 3:
            raise UnreadableImage("train/0003.jpg: truncated")
        return super().crop(index, rng)


def test_an_unreadable_crop_is_replaced_counted_and_named(tmp_path, capsys):
    trained = stage(tmp_path, replace(STAGE, steps=16))
    trained.blocks.real = OneDamaged()
    progress = trained.run().progress
    assert progress.unreadable > 0
    assert "another crop taken for train/0003.jpg: truncated" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "metrics.csv")["unreadable_crops"].iloc[-1] == progress.unreadable


def test_a_store_without_a_readable_crop_is_an_error(tmp_path):
    class Damaged(Digits):
        def crop(self, index, rng):
            raise UnreadableImage("empty")

    blocks = TrainingBlocks(MODEL, ALPHABET, 5, 0, real=Damaged())
    with pytest.raises(HangulOcrError, match="in a row cannot be read"):
        blocks[0]


def test_the_pixels_side_may_learn_at_a_rate_of_its_own(tmp_path):
    frozen = stage(tmp_path, replace(STAGE, steps=8, backbone_rate=0.0, weight_decay=0.0))
    before = {name: tensor.clone() for name, tensor in frozen.recognizer.named_parameters()}
    frozen.run()
    for name, tensor in frozen.recognizer.named_parameters():
        assert torch.equal(before[name], tensor) == name.startswith("backbone."), name


@pytest.mark.parametrize(
    ("accuracy", "share"), [(0.36, 0.8), (1.0, 0.02**0.5), (0.0, 1.0), (float("nan"), 1.0)], ids=str
)
def test_rates_go_by_what_is_misread_at_the_start(tmp_path, monkeypatch, accuracy, share):
    monkeypatch.setattr(loop, "exact_matches", lambda texts, found: np.full(len(texts), accuracy))
    for folder, power in (("by error", 0.5), ("as set", 0.0)):
        trained = stage(tmp_path / folder, replace(STAGE, steps=16, validate_every=1, rate_by_error=power))
        trained.run()
        rates = pd.read_csv(tmp_path / folder / "metrics.csv")["learning_rate"].iloc[1:]
        factor = share if power else 1.0
        expected = [factor * STAGE.learning_rate * one_cycle(step / 16, STAGE.warmup) for step in (7, 15)]
        assert rates.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("model", [MODEL, replace(clova("TPS-VGG-BiLSTM-CTC"), fixed_width=64)], ids=["timm", "clova"])
def test_each_layer_of_the_backbone_may_learn_slower_than_the_next(model):
    recognizer = Recognizer(model, ALPHABET)
    optimizer = make_optimizer(recognizer, replace(STAGE, backbone_rate=0.5, layer_decay=0.8), "cpu", "no")
    names = {id(parameter): name for name, parameter in recognizer.named_parameters()}
    share = {names[id(p)]: group["share_of_rate"] for group in optimizer.param_groups for p in group["params"]}
    layer_of = recognizer.backbone.layer_numbers()
    last = max(layer_of.values())
    assert last >= 4
    for name, found in share.items():
        if not name.startswith(("backbone.", "rectifier.")):
            assert found == 1.0
        elif name.startswith("backbone.") and (layer := layer_of.get(name.removeprefix("backbone."))) is not None:
            assert found == pytest.approx(0.5 * 0.8 ** (last - layer))
    assert min(share.values()) == pytest.approx(0.5 * 0.8**last)
    assert all(found == min(share.values()) for name, found in share.items() if name.startswith("rectifier."))


def test_joined_crops_carry_both_texts_and_all_places(tmp_path):
    first, second = Digits().crop(1, None), Digits().crop(3, None)
    joined = join_crops(first, second)
    assert joined.text == f"{first.text} {second.text}"
    assert joined.image.shape[1] == first.image.shape[1] + second.image.shape[1]
    assert (np.diff(joined.centres[:, 0]) > 0).all()
    assert len(joined.centres) == len(joined.text)
    down = join_crops(Digits().crop(0, None), Digits().crop(4, None))
    assert down.image.shape[0] > 2 * down.image.shape[1]
    assert join_crops(first, Digits().crop(4, None)) is first
    assert join_crops(first, second, longest=4) is first


def test_rare_characters_are_drawn_more_often():
    texts = ["가가"] * 98 + ["가힣", ""]
    weights_of = rarity_weights(texts, 1.0)
    assert weights_of.sum() == pytest.approx(1.0)
    assert weights_of[98] == pytest.approx(99 * weights_of[0])
    assert np.allclose(rarity_weights(texts, 0.0), 0.01)
    blocks = TrainingBlocks(MODEL, ALPHABET, 50, 0, real=Digits(), real_weights=np.eye(20)[7])
    assert set(keys_of(blocks[0])) == {7}


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    stage(tmp_path).run()
    other = stage(tmp_path)
    other.recognizer = Recognizer(replace(MODEL, hidden=24), ALPHABET)
    with pytest.raises(HangulOcrError, match="other settings or another alphabet"):
        other.run()


def test_weights_move_to_another_alphabet_by_character(tmp_path):
    path = tmp_path / "a.safetensors"
    old = Recognizer(MODEL, Alphabet("가나b"))
    save_model(path, old)
    new = Recognizer(MODEL, Alphabet("나다b가"))
    counts = initialise_from(new, path)
    assert counts["characters"] == 3
    assert counts["new_characters"] == 1
    rows = new.decoder.classifier.residual.detach(), old.decoder.classifier.residual.detach()
    assert torch.equal(rows[0][[0, 1, 3, 4]], rows[1][[0, 2, 3, 1]])
    with pytest.raises(HangulOcrError, match="alphabet differs"):
        require_alphabet(path, Alphabet("나다b가"))


SHALLOW = replace(MODEL, backbone_args={"channels": (8, 8, 16, 16), "layers": [1, 2, 1, 1]})
DEEPER = replace(MODEL, backbone_args={"channels": (8, 8, 16, 16), "layers": [3, 2, 2, 1]})
BOTTLENECKS = [
    replace(MODEL, backbone="resnet14t", backbone_args={"channels": (8, 8, 16, 16), "layers": layers})
    for layers in ([1, 1, 1, 1], [2, 1, 1, 3])
]


def trained_weights(settings, path):
    """Save a network that has taken a few steps, so that no norm is as it was made; return it and crops to read."""
    torch.manual_seed(0)
    model = Recognizer(settings, ALPHABET)
    images = torch.randint(0, 255, (4, 32, 64, 1), dtype=torch.uint8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        take_step(model, images, optimizer)
    save_model(path, model)
    return model.eval(), images


def take_step(model, images, optimizer):
    optimizer.zero_grad()
    frames = torch.full((len(images), 8), -1)
    model(images, [[1], [2, 3], [4], [5]], frames, LossWeights(guidance=0.5)).mean().backward()
    optimizer.step()


@pytest.mark.parametrize(("less", "more"), [(SHALLOW, DEEPER), BOTTLENECKS])
def test_a_deeper_resnet_reads_at_first_what_the_shallower_one_did_and_then_learns(tmp_path, less, more):
    shallow, images = trained_weights(less, tmp_path / "w.safetensors")
    deep = Recognizer(more, ALPHABET)
    counts = initialise_from(deep, tmp_path / "w.safetensors")
    names = {name for name, _ in deep.named_parameters()} - {name for name, _ in shallow.named_parameters()}
    assert counts["fresh_tensors"] == len(set(deep.state_dict()) - set(shallow.state_dict())) > len(names) > 0
    deep.eval()
    with torch.no_grad():
        assert torch.allclose(deep.features(images), shallow.features(images), atol=1e-5)
    before = {name: tensor.detach().clone() for name, tensor in deep.named_parameters()}
    optimizer = torch.optim.SGD(deep.train().parameters(), lr=0.05)
    last = {name for name in names if name.endswith("bn3.weight" if less is BOTTLENECKS[0] else "bn2.weight")}
    take_step(deep, images, optimizer)
    assert all(not torch.equal(before[name], deep.get_parameter(name)) for name in last)
    take_step(deep, images, optimizer)  # through the last norm's scale the gradients reach the rest of a block
    assert all(deep.get_parameter(name).grad.any() for name in names)


@pytest.mark.parametrize(
    "other",
    [
        replace(DEEPER, neck="none"),
        replace(DEEPER, backbone="resnet14t"),
        replace(MODEL, backbone="lcnet_050", backbone_args={}),
        replace(DEEPER, backbone_args=DEEPER.backbone_args | {"act_layer": "silu"}),  # a second one is no identity
        replace(DEEPER, backbone_args={"channels": (8, 8, 16, 32), "layers": [2, 2, 2, 2]}),
    ],
)
def test_a_network_that_differs_in_more_than_its_depth_is_refused(tmp_path, other):
    trained_weights(SHALLOW, tmp_path / "w.safetensors")
    with pytest.raises(
        HangulOcrError, match=r"w\.safetensors: (holds another network .*use its settings|backbone.* want)"
    ):
        initialise_from(Recognizer(other, ALPHABET), tmp_path / "w.safetensors")
    trained_weights(DEEPER, tmp_path / "deep.safetensors")
    with pytest.raises(HangulOcrError, match="holds another network"):
        initialise_from(Recognizer(SHALLOW, ALPHABET), tmp_path / "deep.safetensors")


@pytest.mark.parametrize(
    ("theirs", "ours", "part"),
    [
        ("ctc", "hybrid", ("decoder.", "decoder.ctc.")),
        ("hybrid", "ctc", ("decoder.ctc.", "decoder.")),
        ("attention", "hybrid", ("decoder.", "decoder.attention.")),
        ("hybrid", "attention", ("decoder.attention.", "decoder.")),
        ("ctc", "attention", None),
    ],
)
def test_of_another_decoder_what_both_have_is_taken_and_the_rest_counted(tmp_path, theirs, ours, part):
    old, images = trained_weights(replace(MODEL, decoder=theirs), tmp_path / "w.safetensors")
    new = Recognizer(replace(MODEL, decoder=ours), ALPHABET).eval()
    counts = initialise_from(new, tmp_path / "w.safetensors")
    assert torch.equal(new.features(images), old.features(images))
    taken = {name for name in new.state_dict() if not name.startswith("decoder.")}
    if part:
        taken |= {part[1] + name[len(part[0]) :] for name in old.state_dict() if name.startswith(part[0])}
        for name in taken:
            assert torch.equal(new.state_dict()[name], old.state_dict()[name.replace(part[1], part[0], 1)]), name
    assert counts["tensors"] == len(taken)
    assert counts["fresh_tensors"] == len(new.state_dict()) - len(taken)
    assert counts["characters"] == (len(ALPHABET.characters) if part else 0)
    assert len(new.candidates(images, 1)) == 4
    other = Recognizer(replace(new.settings, backbone="lcnet_050", backbone_args={}), ALPHABET)
    with pytest.raises(HangulOcrError, match="holds another network"):
        initialise_from(other, tmp_path / "w.safetensors")


def test_a_stage_says_at_its_start_alone_what_begins_fresh(tmp_path, capsys):
    trained_weights(MODEL, tmp_path / "w.safetensors")
    settings = replace(preset("smoke"), model=replace(MODEL, decoder="hybrid"))
    run = open_run(tmp_path / "run", settings, ALPHABET)
    fresh = sum(name.startswith("decoder.attention.") for name in Recognizer(settings.model, ALPHABET).state_dict())
    for said in (f"tensors taken, {fresh} of other parts start fresh", ""):
        pretrain(run, Digits(), Digits(), init_from=tmp_path / "w.safetensors")
        printed = capsys.readouterr().out
        assert said in printed
        assert bool(said) == ("fresh" in printed)


def without_names(folder):
    """Make of the last state one of a version that did not keep the parameters' names."""
    tensors, header = load_tensors(folder / LAST)
    del header["parameters"]
    save_tensors(folder / LAST, tensors, header)


UNUSED = replace(MODEL, backbone="lcnet_050", backbone_args={})  # timm keeps a head in it, which gets no gradient


@pytest.mark.parametrize("named", [True, False])
def test_the_optimiser_of_other_parameters_is_refused(tmp_path, monkeypatch, named):
    """A version that did not freeze unused parameters numbered them with the others."""
    with monkeypatch.context() as older:
        older.setattr("hangul_ocr.models.backbone._freeze_unused", lambda *_: None)
        assert not stage(tmp_path, deadline=time.monotonic(), network=UNUSED).run().finished
    if not named:
        without_names(tmp_path)
    with pytest.raises(
        HangulOcrError, match=r"its optimiser trained other parameters.*delete .* to start the stage anew"
    ):
        stage(tmp_path, network=UNUSED).run()


def test_a_state_of_another_version_is_refused(tmp_path):
    stage(tmp_path, deadline=time.monotonic()).run()
    tensors, header = load_tensors(tmp_path / LAST)
    header["progress"]["mirrors"] = 3
    save_tensors(tmp_path / LAST, tensors, header)
    with pytest.raises(HangulOcrError, match=rf"another version .*mirrors.*delete {tmp_path} to start the stage anew"):
        stage(tmp_path).run()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_state_without_names_goes_on_where_it_holds_something_for_each_parameter(tmp_path, optimizer):
    settings = replace(STAGE, steps=16, optimizer=optimizer)
    stage(tmp_path / "whole", settings, network=UNUSED).run()
    assert not stage(tmp_path / "parts", settings, deadline=time.monotonic(), network=UNUSED).run().finished
    without_names(tmp_path / "parts")
    assert stage(tmp_path / "parts", settings, network=UNUSED).run().finished
    whole, parts = weights(tmp_path / "whole")[0], weights(tmp_path / "parts")[0]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_may_write_all_syllables(tmp_path):
    settings = replace(preset("smoke"), alphabet="all")
    run = open_run(tmp_path / "run", settings, Alphabet.for_texts(["①"]))
    assert run.alphabet.characters.startswith(Alphabet.for_texts(["①"]).characters)
    assert not run.alphabet.missing("뷁펲믜①A")
    assert len(run.alphabet.characters) == len(Alphabet.for_texts(["①"]).characters) + 11172 - 2350
    assert load_run(run.folder).alphabet == run.alphabet
    assert open_run(run.folder, settings, Alphabet.for_texts(["①"])).alphabet == run.alphabet
    assert open_run(run.folder, settings, run.alphabet).alphabet == run.alphabet
    with pytest.raises(HangulOcrError, match="alphabet: ksx1001 here, all there"):
        open_run(run.folder, preset("smoke"), Alphabet.for_texts(["①"]))


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n.", b"\xff" * 64])
def test_files_that_are_no_checkpoint_are_named_and_never_unpickled(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(HangulOcrError, match=r"bad\.safetensors: not a safetensors file"):
        load_model(path)


def test_a_training_state_is_not_taken_for_weights(tmp_path):
    stage(tmp_path).run()
    with pytest.raises(HangulOcrError, match=r"name the best\.safetensors"):
        load_model(tmp_path / LAST)


def test_a_permuted_alphabet_is_another_alphabet(tmp_path):
    path = tmp_path / "a.safetensors"
    save_model(path, Recognizer(MODEL, Alphabet("가나b")))
    with pytest.raises(HangulOcrError, match="another order"):
        require_alphabet(path, Alphabet("나가b"))


def test_others_on_the_machine_may_read_weights_as_any_file(tmp_path):
    (tmp_path / "ordinary").touch()
    save_model(tmp_path / "best.safetensors", Recognizer(MODEL, ALPHABET))
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_checkpoint_cut_short_is_not_taken_for_whole(tmp_path):
    path = tmp_path / "cut.safetensors"
    save_model(path, Recognizer(MODEL, ALPHABET))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HangulOcrError, match="cut"):
        load_model(path)


def test_weights_with_settings_of_another_version_are_named(tmp_path):
    model = Recognizer(MODEL, ALPHABET)
    save_model(tmp_path / "w.safetensors", model)
    tensors, header = load_tensors(tmp_path / "w.safetensors")
    header["model"]["mirrors"] = 3
    save_tensors(tmp_path / "w.safetensors", tensors, header)
    with pytest.raises(HangulOcrError, match=r"w\.safetensors: made by another version .*mirrors"):
        load_model(tmp_path / "w.safetensors")


if __name__ == "__main__":
    ways = {"alone": _train_alone, "worker": _train_with_a_worker, "limited": _train_without_memory}
    ways.get(sys.argv[-1], _train_in_two_processes)(Path(sys.argv[1]))
