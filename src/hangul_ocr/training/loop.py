"""One training stage: optimiser steps, validation, checkpoints; stops on the clock and goes on where it stopped."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hangul_ocr.data.batches import STEPS_PER_BLOCK, Group, TrainingBlocks, split_group
from hangul_ocr.data.tables import write_table
from hangul_ocr.evaluation.metrics import exact_matches
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.models.checkpoint import load_tensors, read_header, require_alphabet, save_model, save_tensors
from hangul_ocr.models.hybrid import HybridDecoder
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import PLAIN_LOSS, TrainingSettings
from hangul_ocr.training.optimizer import (
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
    parameter_names,
    same_parameters,
)
from hangul_ocr.workspace import ACCELERATE_PRECISION, make_accelerator, pick_number_type, return_free_memory

# What accelerate does not know of: oneDNN and cuBLAS find no room for their own buffers.
NO_ROOM = ("could not create a primitive", "could not create a memory object", "CUBLAS_STATUS_ALLOC_FAILED")
# Steps. Batches of many shapes leave holes in the heap: 2 GB after two minutes, 5 after twelve, 1 of them in use.
RETURN_MEMORY_EVERY = 64
LEAST_ERROR = 0.02  # where hardly anything is misread, there is still something to learn
SAVE_SECONDS = 60.0  # a short stage may have fewer steps than lie between two saves
LAST, BEST, METRICS = Path("last") / "state.safetensors", "best.safetensors", "metrics.csv"


@dataclass
class Progress:
    """Where a stage stands; saved with the weights, so that a later start goes on from here."""

    block: int = 0
    step: int = 0
    seconds: float = 0.0
    best_accuracy: float = -1.0
    skipped_steps: int = 0
    unwritable: int = 0
    unreadable: int = 0
    seen: int = 0  # crops that the weights had learnt from before
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class StageResult:
    """What a stage left: whether it ran to its end, its progress, and the file of its best weights."""

    finished: bool
    progress: Progress
    best: Path


def one_cycle(progress: float, warmup: float) -> float:
    """Return the share of the peak learning rate: a linear warm-up, then half a cosine to nothing at 1."""
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))) + 1e-3


def stage_accelerator(number_type: str, folder: Path) -> Accelerator:
    """Return the accelerator of the stage in ``folder``: ``auto`` is process 0's choice for all of them.

    On a CPU a stage that goes on keeps the number type that it began with: what is measured anew may differ.
    """
    device = make_accelerator("float32").device.type
    return make_accelerator(from_process_0(_number_type, number_type, folder / LAST, device))


def from_process_0(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return in all processes what ``function(*arguments)`` gives in process 0, or raise its ``HangulOcrError``.

    Machines may see other folders: where one goes on and another has finished, they would wait for each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return function(*arguments)
    found = [None]
    if make_accelerator("float32").is_main_process:  # which makes the processes known to each other, too
        try:
            found = [function(*arguments)]
        except HangulOcrError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], HangulOcrError):
        raise found[0]
    return found[0]


def _number_type(wanted: str, state: Path, device: str) -> str:
    if wanted != "auto":
        return wanted
    kept = read_header(state).get("number_type") if device == "cpu" and state.is_file() else None
    return kept or pick_number_type(device)


class Stage:
    """Trains ``model`` on ``blocks`` and validates on ``validation``; everything it writes lies in ``folder``.

    ``deadline`` is a value of ``time.monotonic()`` at which it saves and stops (Colab and Kaggle disconnect); calling
    :meth:`run` again later goes on. ``settings.seconds`` is different: the schedule lands there, and the stage is done.
    What it starts from is validated first, outside that clock.
    """

    def __init__(
        self,
        name: str,
        model: Recognizer,
        blocks: TrainingBlocks,
        validation: list[Group],
        settings: TrainingSettings,
        folder: Path,
        accelerator: Accelerator,
        deadline: float | None = None,
        seen: int = 0,
    ) -> None:
        self.name, self.settings, self.folder, self.deadline = name, settings, folder, deadline
        self.blocks, self.validation, self.accelerator = blocks, validation, accelerator
        self.recognizer = model.to(accelerator.device, memory_format=torch.channels_last)
        self.ema = ModelEmaV3(self.recognizer, decay=settings.ema_decay, use_warmup=True, warmup_power=0.75)
        if isinstance(model.decoder, HybridDecoder):
            model.decoder.freeze_unused(settings.loss_weights)
        optimizer = make_optimizer(model, settings, accelerator.device.type, accelerator.mixed_precision)
        self.model, self.optimizer = accelerator.prepare(self.recognizer, optimizer)
        self.progress = Progress(seen=seen)
        self.largest = 1 << 30  # crops at once: halved whenever the memory does not suffice
        self._share_of_rate = 1.0
        self._lacking = [0, 0]  # this block's labels that cannot be written, its crops that cannot be read
        self._saved = time.monotonic()

    def run(self) -> StageResult:
        """Train from the last checkpoint, or from the start, to the end or to the deadline."""
        self._resume()
        if self._done():
            return StageResult(True, self.progress, self.folder / BEST)
        if not self.progress.history:
            self._save_last()  # before the best: weights without a state beside them would pass for trained ones
            self._validate()  # weights that were good before count, too: a short training may only cost them something
        self._share_of_rate = self._by_error()
        return_free_memory()  # before the workers are forked, who would each keep a copy of the holes
        started, before = time.monotonic(), self.progress.seconds
        finished = stop = False
        with self._bar() as bar:
            for block in self._blocks():
                for groups in block:
                    loss = self._optimise(groups)
                    self.progress.step += 1
                    self._report(bar, loss)
                self.progress.block += 1
                self._sum_losses()
                stop = self._read_clock(before - started)
                finished = self._done()
                self._keep(finished, len(block))
                if finished or stop:
                    break
        self._save_last()
        return StageResult(finished, self.progress, self.folder / BEST)

    def _by_error(self) -> float:
        """Return what the settings' ``rate_by_error`` makes of the first validation's errors: process 0's, for all."""
        accuracy = self.progress.history[0]["valid_accuracy"]
        wrong = 1.0 if math.isnan(accuracy) else max(LEAST_ERROR, 1 - accuracy)
        share = torch.tensor([wrong**self.settings.rate_by_error], device=self.accelerator.device)
        return broadcast(share).item()

    def _read_clock(self, offset: float) -> bool:
        """Set the seconds so far and tell whether the deadline has passed: process 0's clock counts for all."""
        now = time.monotonic()
        late = self.deadline is not None and now > self.deadline
        clock = torch.tensor([now + offset, float(late)], device=self.accelerator.device)
        self.progress.seconds, late = broadcast(clock).tolist()
        return bool(late)

    def _landing(self) -> float:
        """Return how much of the stage is over, 0..1, by steps or by the clock, whichever is further."""
        by_steps = self.progress.step / (STEPS_PER_BLOCK * self._last_block())
        by_clock = self.progress.seconds / self.settings.seconds if self.settings.seconds else 0.0
        return min(1.0, max(by_steps, by_clock))

    def _done(self) -> bool:
        return self.progress.block >= self._last_block() or self._landing() >= 1.0

    def _blocks(self) -> Iterator[list[list[Group]]]:
        numbers = range(self.progress.block, self._last_block())
        workers = self.settings.workers
        return iter(
            DataLoader(
                self.blocks,
                batch_size=None,
                sampler=numbers,
                num_workers=workers,
                prefetch_factor=2 if workers else None,
                pin_memory=self.accelerator.device.type == "cuda",  # or a copy to the device waits for it
                worker_init_fn=_begin_worker,
                generator=torch.Generator(),  # or each start of a loader would move the global random state
            )
        )

    def _optimise(self, groups: list[Group]) -> float:
        """Take one step over all groups (none if it is not finite) and return the mean loss of a crop."""
        for entry in self.optimizer.param_groups:
            rate = self.settings.learning_rate * self._share_of_rate * entry["share_of_rate"]
            entry["lr"] = rate * one_cycle(self._landing(), self.settings.warmup)
        self.recognizer.train()
        total = self._gradients_that_fit(groups)
        self._count_losses(groups)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        # The step's only wait for the device: its loss and norm together, when all else has been asked for.
        total, norm = torch.stack([total, torch.as_tensor(norm).to(total)]).tolist()
        fine = math.isfinite(total) and math.isfinite(norm)
        # A gradient scaler (float16) must see every step: it skips a bad one itself, and lowers its scale.
        if fine or self.accelerator.scaler is not None:
            self.optimizer.step()
        if fine:
            self.ema.update(self.recognizer, step=self.progress.step)
        else:
            self.progress.skipped_steps += 1
            self._restore_statistics()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _restore_statistics(self) -> None:
        """Take the averaged weights' running statistics for those that a bad step spoilt: NaN would stay in a mean."""
        for ours, averaged in zip(self.recognizer.buffers(), self.ema.module.buffers(), strict=True):
            if not torch.isfinite(ours).all():
                ours.copy_(averaged)

    def _count_losses(self, groups: list[Group]) -> None:
        unwritable = self.recognizer.decoder.unwritable
        self._lacking[0] += sum(unwritable(group.targets, group.frames.shape[1]) for group in groups)
        for reason in (reason for group in groups for reason in group.lost):
            self._lacking[1] += 1
            tqdm.write(f"{self.name}: another crop taken for {reason}", file=sys.stderr)

    def _sum_losses(self) -> None:
        """Add to the progress what the block's crops lacked, in all processes."""
        here = torch.tensor(self._lacking, device=self.accelerator.device)
        unwritable, unreadable = self.accelerator.reduce(here).tolist()
        self.progress.unwritable += unwritable
        self.progress.unreadable += unreadable
        self._lacking = [0, 0]

    def _gradients_that_fit(self, groups: list[Group]) -> torch.Tensor:
        """Return the mean loss of a crop with its gradients in place; where the memory ends, in smaller parts."""
        while True:
            parts = [part for group in groups for part in split_group(group, self.largest)]
            try:
                return self._gradients(parts)
            except RuntimeError as error:
                longest = max(len(part.texts) for part in parts)
                if not _memory_ended(error):
                    raise
                if longest == 1:
                    advice = "not even one crop fits; end other programs, or choose a smaller network in another --run"
                    raise HangulOcrError(f"{self.name}: out of memory; {advice}") from error
                if self.accelerator.num_processes > 1:  # the others would wait for gradients that never come
                    advice = "with several processes nothing is halved: lower crops_per_step in another --run"
                    raise HangulOcrError(f"{self.name}: out of memory; {advice}") from error
                self.largest = (longest + 1) // 2
            self.optimizer.zero_grad(set_to_none=True)
            clear_device_cache(garbage_collection=True)
            tqdm.write(f"{self.name}: out of memory; going on with {self.largest} crops at once", file=sys.stderr)

    def _gradients(self, groups: list[Group]) -> torch.Tensor:
        crops = sum(len(group.texts) for group in groups)
        losses = [self._backward(group, crops, last=group is groups[-1]) for group in groups]
        return torch.stack(losses).sum()

    def _backward(self, group: Group, crops: int, last: bool) -> torch.Tensor:
        device = self.accelerator.device
        context = nullcontext() if last else self.accelerator.no_sync(self.model)
        with context:
            with self.accelerator.autocast():
                losses = self.model(
                    group.images.to(device, non_blocking=True),
                    group.targets,
                    group.frames.to(device, non_blocking=True),
                    self.settings.loss_weights,
                )
                loss = losses.sum() / crops
            self.accelerator.backward(loss)
        return loss.detach()

    def _keep(self, finished: bool, steps: int) -> None:
        """Close a block: validate and save where a multiple of the settings' intervals lay in its ``steps``."""
        step = self.progress.step
        if step % RETURN_MEMORY_EVERY < steps:
            return_free_memory()
        if finished or step % self.settings.validate_every < steps:
            self._validate()
        overdue = time.monotonic() - self._saved > SAVE_SECONDS
        if finished or overdue or step % self.settings.save_every < steps:
            self._save_last()

    def _last_block(self) -> int:
        return math.ceil(self.settings.steps / STEPS_PER_BLOCK)

    def _validate(self) -> None:
        """Read the validation crops with the averaged weights, note the figures, and keep the best weights."""
        texts, predictions, loss = read_groups(self.ema.module, self.validation, self.accelerator)
        accuracy = float(exact_matches(texts, predictions).mean()) if texts else float("nan")
        row = {
            "step": self.progress.step,
            "crops": self.progress.seen + self.progress.step * self.settings.crops_per_step,
            "seconds": round(self.progress.seconds, 2),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": getattr(self, "_mean_loss", None),
            "valid_loss": loss,
            "valid_accuracy": accuracy,
            "skipped_steps": self.progress.skipped_steps,
            "unwritable_labels": self.progress.unwritable,
            "unreadable_crops": self.progress.unreadable,
        }
        self.progress.history.append(row)
        if not self.accelerator.is_main_process:
            return
        write_table(pd.DataFrame(self.progress.history), self.folder / METRICS)
        if not texts or accuracy >= self.progress.best_accuracy:
            self.progress.best_accuracy = accuracy if texts else -1.0
            facts = {name: row[name] for name in ("step", "crops", "seconds", "valid_accuracy")}
            save_model(self.folder / BEST, self.ema.module, facts)

    def _bar(self) -> tqdm:
        hidden = not self.accelerator.is_main_process
        return tqdm(
            total=self.settings.steps, initial=self.progress.step, desc=self.name, disable=hidden, mininterval=1
        )

    def _report(self, bar: tqdm, loss: float) -> None:
        mean = getattr(self, "_mean_loss", loss)
        self._mean_loss = 0.95 * mean + 0.05 * loss if math.isfinite(loss) else mean
        accuracy = self.progress.history[-1]["valid_accuracy"] if self.progress.history else float("nan")
        bar.set_postfix(loss=f"{self._mean_loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
        bar.update(1)

    def _save_last(self) -> None:
        self._saved = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{k}": v for k, v in self.recognizer.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.module.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}
        tensors["random_state"] = torch.get_rng_state()
        header = {"progress": vars(self.progress), "mean_loss": getattr(self, "_mean_loss", None)}
        header["alphabet"] = self.recognizer.alphabet.characters
        header["parameters"] = parameter_names(self.recognizer, self.optimizer)
        if self.accelerator.device.type == "cpu":
            names = {precision: name for name, precision in ACCELERATE_PRECISION.items()}
            header["number_type"] = names[self.accelerator.mixed_precision]
        if self.accelerator.scaler is not None:
            header["scaler"] = self.accelerator.scaler.state_dict()
        save_tensors(self.folder / LAST, tensors, header)

    def _resume(self) -> None:
        """Go on from the last state, in all processes from the same: theirs may lie on other machines."""
        if (self.folder / LAST).is_file():
            self._load_last()
        here = torch.tensor([self.progress.step], device=self.accelerator.device)
        steps = self.accelerator.gather(here).tolist()
        if len(set(steps)) > 1:
            raise HangulOcrError(
                f"{self.folder}: the processes stand at steps {', '.join(map(str, steps))}; "
                "let all machines see one folder of runs (a shared HANGUL_OCR_OUTPUT), then run again"
            )

    def _load_last(self) -> None:
        path = self.folder / LAST
        tensors, header = load_tensors(path)
        try:
            require_alphabet(path, self.recognizer.alphabet)
            self.recognizer.load_state_dict(_below("model.", tensors))
            self.ema.module.load_state_dict(_below("ema.", tensors))
        except RuntimeError:
            raise HangulOcrError(f"{path}: belongs to other settings or another alphabet; use another --run") from None
        kept = _below("optimizer.", tensors)
        if not same_parameters(parameter_names(self.recognizer, self.optimizer), header.get("parameters"), kept):
            raise HangulOcrError(
                f"{path}: its optimiser trained other parameters, those of another version or network; "
                f"delete {self.folder} to start the stage anew, or use another --run"
            )
        load_optimizer(self.optimizer, kept)
        torch.set_rng_state(tensors["random_state"])
        self.progress = _progress(path, header)
        if header.get("mean_loss") is not None:
            self._mean_loss = header["mean_loss"]
        if self.accelerator.scaler is not None and "scaler" in header:
            self.accelerator.scaler.load_state_dict(header["scaler"])
        self.optimizer.zero_grad(set_to_none=True)


def _progress(path: Path, header: dict[str, Any]) -> Progress:
    try:
        return Progress(**header["progress"])
    except (KeyError, TypeError) as error:
        raise HangulOcrError(
            f"{path}: the state of another version ({error}); "
            f"delete {path.parents[1]} to start the stage anew, or use another --run"
        ) from None


@torch.no_grad()
def read_groups(model: Recognizer, groups: list[Group], accelerator: Accelerator) -> tuple[list[str], list[str], float]:
    """Return the labels, greedy predictions and mean loss of ``groups``, read in evaluation mode."""
    model.eval()
    texts: list[str] = []
    predictions: list[str] = []
    total = 0.0
    for group in groups:
        found, loss = _read_group(model, group, accelerator)
        total += loss
        texts += group.texts
        predictions += found
    return texts, predictions, total / max(1, len(texts))


def _read_group(model: Recognizer, group: Group, accelerator: Accelerator) -> tuple[list[str], float]:
    """Return the predictions and the summed loss of one group, read in halves where the memory ends."""
    try:
        with accelerator.autocast():
            features = model.features(group.images.to(accelerator.device))
            losses = model.decoder.loss(features, group.targets, group.frames.to(features.device), PLAIN_LOSS)
            found = model.decoder.greedy(features)
        return [model.alphabet.decode(classes) for classes, _ in found], float(losses.sum())
    except RuntimeError as error:
        if len(group.texts) == 1 or not _memory_ended(error):
            raise
    clear_device_cache(garbage_collection=True)
    halves = [_read_group(model, half, accelerator) for half in split_group(group, (len(group.texts) + 1) // 2)]
    return [text for found, _ in halves for text in found], sum(loss for _, loss in halves)


def _memory_ended(error: RuntimeError) -> bool:
    return should_reduce_batch_size(error) or any(words in str(error) for words in NO_ROOM)


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _begin_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker when the training process is no more: killed, it leaves a queue that nobody will empty."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
