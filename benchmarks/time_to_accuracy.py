"""Seconds and crops until 50, 80 and 90 % of the validation crops are read exactly: our recipe against the plain one.

Three variants learn the same small task (300 syllables, see small_task.py) from the same bytes, in turn:
``plain`` is None-VGG-BiLSTM-CTC by the plain recipe (plain_recipe.py), ``same-network`` is that network by ours, and
``small`` is the preset scratch's network by ours. Ours ends where its schedule lands, at ``--ours`` seconds.

    python benchmarks/time_to_accuracy.py output/benchmarks --plain 3600 --ours 720 --json time_to_accuracy.json
    python benchmarks/time_to_accuracy.py output/benchmarks --variant small --ours 300 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from plain_recipe import PlainTraining, train_until
from small_task import small_alphabet, small_task
from tqdm import tqdm

from hangul_ocr.data.batches import TrainingBlocks, fixed_groups
from hangul_ocr.data.crops import LmdbCrops
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import ModelSettings, clova, preset
from hangul_ocr.training.loop import METRICS, Stage
from hangul_ocr.workspace import atomic_write_text, describe_device, make_accelerator, seed_everything

GOALS = (0.5, 0.8, 0.9)
VGG, WIDTH = "None-VGG-BiLSTM-CTC", 256  # as EasyOCR's Korean network
OURS: dict[str, ModelSettings] = {
    "same-network": clova(VGG, WIDTH, fixed_width=0, normalisation="crop"),
    "small": preset("scratch").model,
}


def run_plain(train: LmdbReader, validation: LmdbReader, seed: int, seconds: float) -> pd.DataFrame:
    """Return the learning curve (seconds, crops, accuracy) of the plain recipe."""
    seed_everything(seed)
    training = PlainTraining(Recognizer(clova(VGG, WIDTH), small_alphabet()))
    rows = []
    for row in train_until(training, train, validation, seed, seconds, GOALS[-1]):
        rows.append(row)
        tqdm.write(f"plain: {row[0]:.0f} s, {row[1]:,} crops, {100 * row[2]:.1f} %")
    return pd.DataFrame(rows, columns=["seconds", "crops", "accuracy"])


def run_ours(
    name: str, train: LmdbReader, validation: LmdbReader, seed: int, seconds: float, folder: Path
) -> pd.DataFrame:
    """Return the learning curve of one of our variants."""
    settings = OURS[name]
    recipe = preset("scratch").pretraining
    stage = replace(recipe, steps=10**6, seconds=seconds, validate_every=80, save_every=10**9)
    seed_everything(seed)
    model = Recognizer(settings, small_alphabet())
    blocks = TrainingBlocks(settings, small_alphabet(), stage.crops_per_step, seed, real=LmdbCrops(train, None, 0.5))
    groups = fixed_groups(LmdbCrops(validation), settings, small_alphabet())
    shutil.rmtree(folder, ignore_errors=True)
    Stage(name, model, blocks, groups, stage, folder, make_accelerator(stage.number_type)).run()
    table = pd.read_csv(folder / METRICS).rename(columns={"valid_accuracy": "accuracy"})
    return table[["seconds", "crops", "accuracy"]]


def reached(curve: pd.DataFrame) -> dict[str, float | int | None]:
    """Return the seconds and crops at which the curve first meets each goal (None if never), and its best."""
    row: dict[str, float | int | None] = {}
    for goal in GOALS:
        met = curve[curve["accuracy"] >= goal]
        row[f"{goal:.0%} s"] = round(float(met["seconds"].iloc[0])) if len(met) else None
        row[f"{goal:.0%} crops"] = int(met["crops"].iloc[0]) if len(met) else None
    last = curve.iloc[-1]
    row["best"] = round(float(curve["accuracy"].max()), 4)
    row["crops/s"] = round(float(last["crops"] / last["seconds"]))
    return row


def main() -> None:
    """Run the variants; print a table, and write the curves as JSON after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the task's stores lie, or are made")
    parser.add_argument("--variant", action="append", choices=["plain", *OURS], help="default: all, in turn")
    parser.add_argument("--plain", type=float, default=3600.0, help="seconds that the plain recipe may take")
    parser.add_argument("--ours", type=float, default=720.0, help="seconds at which our schedule lands")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    train, validation = small_task(arguments.folder / "small_task")
    machine = f"{describe_device()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    rows, curves = [], []
    for seed in arguments.seeds:
        for name in arguments.variant or ["plain", *OURS]:
            if name == "plain":
                curve = run_plain(train, validation, seed, arguments.plain)
            else:
                curve = run_ours(name, train, validation, seed, arguments.ours, arguments.folder / "run")
            rows.append({"variant": name, "seed": seed} | reached(curve))
            curves.append({"variant": name, "seed": seed, "curve": curve.round(4).to_dict("list")})
            if arguments.json:
                text = json.dumps({"machine": machine, "rows": rows, "curves": curves}, indent=1)
                atomic_write_text(arguments.json, text + "\n")
            print(json.dumps(rows[-1]), flush=True)
    print(f"{machine}; {len(train):,} training and {len(validation):,} validation crops")
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
