"""Crops a second and memory of training, loader included, by backbone, decoder and number type.

``plain`` is None-VGG-BiLSTM-CTC by the plain recipe (plain_recipe.py); every other variant is a list of changes to
preset ``scratch`` as in ablation.py, trained by our engine on the same stored crops (small_task.py). Each measurement
has a process of its own, so that the memory is its own; the variants go in turn, several times over.

    python benchmarks/training_step.py output/benchmarks --json training_step.json
    python benchmarks/training_step.py output/benchmarks --variant plain --variant base --rounds 5
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ablation import parse_variant
from plain_recipe import PlainTraining, plain_batches
from small_task import small_alphabet, small_task

from hangul_ocr.data.batches import TrainingBlocks
from hangul_ocr.data.crops import LmdbCrops
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import clova
from hangul_ocr.training.loop import Stage
from hangul_ocr.workspace import atomic_write_text, describe_device, make_accelerator

VGG = 'backbone=clova_vgg;backbone_args={"output_channel":256};neck=clova_bilstm;hidden=256;classifier=dense'
VARIANTS = (
    "plain",
    f"{VGG};fixed_width=100;normalisation=fixed",
    VGG,
    "base",
    "decoder=attention",
    "decoder=hybrid",
    "neck=none",
    "number_type=bfloat16",
    "optimizer=adamw",
    "backbone=resnet18;backbone_args={};stem_pool=true",
    "backbone=mobilenetv4_conv_small_050;backbone_args={};stem_pool=true",
    "backbone=lcnet_050;backbone_args={};stem_pool=true",
)


def measure(variant: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Return crops a second after a warm-up, and the process's peak memory in MB (its loader's not counted)."""
    train, _ = small_task(folder)
    torch.manual_seed(0)
    run = _plain(train) if variant == "plain" else _ours(variant, train)
    speed = _speed(run, seconds)
    gpu = torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"variant": variant, "crops/s": round(speed, 1), "MB": gpu or peak}


def _speed(run: Any, seconds: float) -> float:
    for _ in islice(run, 24):
        pass  # kernels are compiled for each shape
    crops, started = 0, time.monotonic()
    for count in run:
        crops += count
        if time.monotonic() - started > seconds:
            break
    return crops / (time.monotonic() - started)


def _plain(train: LmdbReader) -> Any:
    training = PlainTraining(Recognizer(clova("None-VGG-BiLSTM-CTC", 256), small_alphabet()))
    for images, texts in plain_batches(train, seed=0):
        training.step(images, texts)
        yield len(texts)


def _ours(variant: str, train: LmdbReader) -> Any:
    settings, _ = parse_variant(variant)
    stage = replace(settings.pretraining, steps=10**6, seconds=None)
    model = Recognizer(settings.model, small_alphabet())
    source = LmdbCrops(train, None, 0.5)
    more = {"real": source, "glance_share": stage.glance_share}
    blocks = TrainingBlocks(settings.model, small_alphabet(), stage.crops_per_step, 0, **more)
    with tempfile.TemporaryDirectory() as folder:
        training = Stage("", model, blocks, [], stage, Path(folder), make_accelerator(stage.number_type))
        for block in training._blocks():
            for groups in block:
                training._optimise(groups)
                yield sum(len(group.texts) for group in groups)


def main() -> None:
    """Measure all variants in turn, several rounds, and print medians and spreads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the task's stores lie, or are made")
    parser.add_argument("--variant", action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring, after the warm-up")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder / "small_task"
    small_task(folder)
    rows = []
    for number in range(arguments.rounds):
        for variant in arguments.variant or VARIANTS:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                rows.append({"round": number} | pool.submit(measure, variant, folder, arguments.seconds).result())
            print(json.dumps(rows[-1]), flush=True)
    table = pd.DataFrame(rows).groupby("variant", sort=False)[["crops/s", "MB"]].agg(["median", "min", "max"])
    machine = f"{describe_device()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(machine, table.to_string(), sep="\n")
    if arguments.json:
        atomic_write_text(arguments.json, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
