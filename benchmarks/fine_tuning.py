"""What do the levers of fine-tuning give, when few crops of another camera stand against a large pretraining?

A sample competition is drawn, and every crop goes through a camera that the pretraining never saw: it slants what it
sees and knows black and white alone, which it dithers. (``dithering`` does not slant; ``own`` leaves the crops as they
are drawn.) Each variant fine-tunes the weights that ship on folds 1 and 2 (some 2,000 crops) for equal steps, at a rate
of 5e-4 unless it names another, and reads fold 0 with the better of its last and its first weights, as a run does.
(That last reading is in float32; ``before`` and ``last`` are the training's own, in its number type.) ``rare`` are the
crops with a character that those 2,000 labels hold at most twice. Rows are appended to ``--json`` as
they come, and those there are not run again.

    python benchmarks/fine_tuning.py --json fine_tuning.jsonl
    python benchmarks/fine_tuning.py --variant base --variant layer_decay=0.8 --seeds 0 --steps 40
    python benchmarks/fine_tuning.py --camera dithering --variant base --variant learning_rate=0.003
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from ablation import append_row, parse_changes, print_table, rows_done
from tqdm.auto import tqdm

from hangul_ocr.data.batches import fixed_groups
from hangul_ocr.data.crops import LmdbCrops
from hangul_ocr.data.dacon import read_competition
from hangul_ocr.evaluation.metrics import exact_matches
from hangul_ocr.models.checkpoint import load_model, read_header
from hangul_ocr.settings import Settings, preset
from hangul_ocr.steps import Prepared, prepare
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.synthesis.stream import drawn_short_side, synthetic_sources
from hangul_ocr.training.kfold import fold_rows, open_run, train_fold
from hangul_ocr.training.loop import read_groups
from hangul_ocr.weights import shipped_weights
from hangul_ocr.workspace import Workspace, describe_device, make_accelerator

LEVERS = (
    "base",
    "join_share=0.3",
    "balance=0.5",
    "backbone_rate=0.1",
    "layer_decay=0.8",
    "synthetic_share=0",
    "augment=0",
    "learning_rate=0.0015",
    "learning_rate=0.003",
    "optimizer=muon;learning_rate=0.004",
    "learning_rate=0.003;rate_by_error=0.6",
)
CAMERAS = {"another": 0.6, "dithering": 0.0, "own": None}  # the slant, in heights of the text
RARE = 2
# Bayer's ordered dithering (1973), 4 x 4.
THRESHOLDS = 16 * np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) + 8


def through_another_camera(folder: Path, slant: float) -> None:
    """Slant every picture in ``folder`` along its text and dither it to black and white."""
    for file in tqdm(sorted(folder.rglob("*.png")), desc="another camera"):
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        tall = image.shape[0] > image.shape[1]
        image = _slanted(image.T if tall else image, slant)
        image = image.T if tall else image
        tiles = np.tile(THRESHOLDS, (image.shape[0] // 4 + 1, image.shape[1] // 4 + 1))
        black_and_white = np.where(image > tiles[: image.shape[0], : image.shape[1]], 255, 0)
        cv2.imwrite(str(file), black_and_white.astype(np.uint8))


def _slanted(image: np.ndarray, slant: float) -> np.ndarray:
    height, width = image.shape
    matrix = np.float32([[1, -slant, slant * height], [0, 1, 0]])
    size = (round(width + slant * height), height)
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, size, borderMode=cv2.BORDER_REPLICATE)


def prepared_sample(root: Path, crops: int, slant: float | None) -> tuple[Workspace, Prepared]:
    """Return the sample competition in ``root`` with ``crops`` training crops, its LMDB and its folds."""
    workspace = Workspace("local", root, root / "input", root / "output", root / "submissions")
    workspace.create_folders()
    folder = make_competition(workspace.sample_competition, crops, 50)
    if slant is not None:
        through_another_camera(folder, slant)
    return workspace, prepare(read_competition(folder), workspace, preset("quick"))


def run_variant(text: str, seed: int, steps: int, workspace: Workspace, prepared: Prepared) -> dict[str, Any]:
    """Fine-tune one variant on fold 0 and return its row of the table."""
    settings = _settings(text, seed, steps)
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", settings, prepared.alphabet)
        drawn = drawn_short_side(settings.model.short_side)
        stream, _ = synthetic_sources(prepared.competition.folder, seed + 1, short_side=drawn)
        result = train_fold(run, 0, prepared.train, prepared.folds, stream, run.pretrained)
        accelerator = make_accelerator("float32")
        model = load_model(result.best, accelerator.device)
    own, others = fold_rows(prepared.train, prepared.folds, 0)
    held_out = LmdbCrops(prepared.train, own, alphabet=prepared.alphabet)
    texts, predictions, _ = read_groups(model, fixed_groups(held_out, model.settings, model.alphabet), accelerator)
    hits, rare = exact_matches(texts, predictions), _rare(texts, [prepared.train.texts()[i] for i in others])
    history = result.progress.history
    row = {"variant": text, "seed": seed, "crops": history[-1]["crops"], "seconds": round(result.progress.seconds)}
    row |= {"crops_per_second": round(row["crops"] / max(1, row["seconds"])), "accuracy": round(float(hits.mean()), 4)}
    row |= {"rare": round(float(hits[rare].mean()), 4), "n": len(hits), "n_rare": int(rare.sum())}
    return row | {"before": round(history[0]["valid_accuracy"], 4), "last": round(history[-1]["valid_accuracy"], 4)}


def _settings(text: str, seed: int, steps: int) -> Settings:
    settings = preset("quick")
    stage = replace(settings.fine_tuning, steps=steps, seconds=None, validate_every=10**9, save_every=10**9)
    changes = {"learning_rate": 5e-4, "rate_by_error": 0.0} | parse_changes(text)
    return replace(settings, seed=seed, fine_tuning=replace(stage, **changes))


def _rare(texts: list[str], learnt: list[str]) -> np.ndarray:
    counts = Counter("".join(learnt))
    return np.array([any(counts[character] <= RARE for character in text) for text in texts])


def main() -> None:
    """Run what is missing, then print all rows and each variant's mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", help="changes joined by ; or base (default: the list)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=64, help="of 128 crops each (default %(default)s)")
    parser.add_argument("--crops", type=int, default=3000, help="of the sample's training side (default %(default)s)")
    parser.add_argument("--camera", choices=CAMERAS, default="another", help="how strange (default %(default)s)")
    parser.add_argument("--json", type=Path, help="append each row here, and leave out what is there already")
    arguments = parser.parse_args()
    budget = {
        "task": f"fine-tuning, {arguments.camera} camera",
        "budget": arguments.steps,
        "start": read_header(shipped_weights())["facts"]["crops"],
    }
    rows = rows_done(arguments.json, budget)
    known = {(row["variant"], row["seed"]) for row in rows}
    machine = f"{describe_device()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    with tempfile.TemporaryDirectory() as root:
        workspace, prepared = prepared_sample(Path(root), arguments.crops, CAMERAS[arguments.camera])
        for seed in arguments.seeds:
            for text in arguments.variant or LEVERS:
                if (text, seed) not in known:
                    row = run_variant(text, seed, arguments.steps, workspace, prepared)
                    rows.append(budget | row | {"machine": machine})
                    print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
                    append_row(arguments.json, rows[-1])
    print_table(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
