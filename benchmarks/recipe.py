"""Compare training recipes on one machine, in one run, in turn: which choice learns fastest?

Each variant trains on the same stream of synthetic crops (the sample competition's training side) and reads the same
validation crops, which the stream never shows: wide, tall and single ones apart. A variant is a list of changes to the
preset ``quick``, joined by semicolons; ``vertical=rotate`` and ``vertical=relay`` change how tall crops are shown.

    python benchmarks/recipe.py --seconds 150 --variant base --variant classifier=dense --variant neck=none
    python benchmarks/recipe.py --crops 50000 --seeds 0 1 2 --variant base --variant vertical=rotate
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from hangul_ocr.data.batches import TrainingBlocks, fixed_groups
from hangul_ocr.data.crops import TALL, Crop, CropSource
from hangul_ocr.evaluation.metrics import exact_matches
from hangul_ocr.hangul import Alphabet
from hangul_ocr.models.checkpoint import load_model
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import ModelSettings, Settings, TrainingSettings, preset
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.synthesis.stream import synthetic_sources
from hangul_ocr.training.loop import Stage, read_groups
from hangul_ocr.workspace import describe_device, make_accelerator, seed_everything


def rotated(crop: Crop) -> Crop:
    """Turn a tall crop by 90 degrees, so that its text runs across on its side."""
    centres = None if crop.centres is None else np.stack([crop.centres[:, 1], 1 - crop.centres[:, 0]], axis=1)
    return replace(crop, image=cv2.rotate(crop.image, cv2.ROTATE_90_COUNTERCLOCKWISE), centres=centres)


def relaid(crop: Crop) -> Crop:
    """Cut a tall crop into square cells from top to bottom and lay them side by side."""
    height, width = crop.image.shape[:2]
    cells = max(1, round(height / width))
    rows = np.array_split(np.arange(height), cells)
    tallest = max(map(len, rows))
    parts = [cv2.resize(crop.image[rows_of], (width, tallest)) for rows_of in rows]
    centres = None if crop.centres is None else np.stack([crop.centres[:, 1], np.full(len(crop.text), 0.5)], axis=1)
    return replace(crop, image=np.concatenate(parts, axis=1), centres=centres)


class Reshaped:
    """A crop source whose tall crops go through ``change``."""

    def __init__(self, source: CropSource, change: Any) -> None:
        self.source, self.change = source, change

    def __len__(self) -> int:
        return len(self.source)

    def crop(self, index: int, rng: np.random.Generator) -> Crop:
        """Return the source's crop, changed if it is tall."""
        crop = self.source.crop(index, rng)
        return self.change(crop) if crop.image.shape[0] > TALL * crop.image.shape[1] else crop


VERTICAL = {"rotate": rotated, "relay": relaid}


def parse_variant(text: str) -> tuple[Settings, str]:
    """Return the settings and the vertical method of a variant such as ``classifier=dense;learning_rate=0.004``."""
    settings, vertical = preset("quick"), ""
    for change in filter(None, text.replace("base", "").split(";")):
        name, value = change.split("=", 1)
        if name == "vertical":
            vertical = value
            continue
        settings = _changed(settings, name, _value(value))
    return settings, vertical


def _changed(settings: Settings, name: str, value: Any) -> Settings:
    if name in {field.name for field in dataclasses.fields(ModelSettings)}:
        return replace(settings, model=replace(settings.model, **{name: value}))
    return replace(settings, pretraining=replace(settings.pretraining, **{name: value}))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def run_variant(text: str, seed: int, arguments: argparse.Namespace, sample: Path) -> dict[str, Any]:
    """Train one variant and return its row of the table."""
    settings, vertical = parse_variant(text)
    stage = _budget(settings.pretraining, arguments)
    stream, validation = synthetic_sources(sample, seed, arguments.validation)
    if vertical:
        stream, validation = (Reshaped(source, VERTICAL[vertical]) for source in (stream, validation))
    alphabet = Alphabet.for_texts([])
    seed_everything(seed)
    model = Recognizer(settings.model, alphabet)
    groups = fixed_groups(validation, settings.model, alphabet)
    blocks = TrainingBlocks(settings.model, alphabet, stage.crops_per_step, seed, synthetic=stream)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(stage.number_type)
        result = Stage(text, model, blocks, groups, stage, Path(folder), accelerator).run()
        best = load_model(result.best, accelerator.device)
    texts, predictions, _ = read_groups(best, groups, accelerator)
    kinds = _kinds(synthetic_sources(sample, seed, arguments.validation)[1], groups)
    return _row(text, seed, result.progress, stage, exact_matches(texts, predictions), kinds, model)


def _kinds(validation: CropSource, groups: list) -> np.ndarray:
    """Return ``wide``, ``tall`` or ``single`` for each validation crop in the groups' order."""
    kinds = {}
    for i in range(len(validation)):
        crop = validation.crop(i, np.random.default_rng(i))
        tall = crop.image.shape[0] > TALL * crop.image.shape[1]
        kinds[crop.key] = "single" if len(crop.text) == 1 else "tall" if tall else "wide"
    return np.array([kinds[key] for group in groups for key in group.keys])


def _row(text, seed, progress, stage, hits, kinds, model) -> dict[str, Any]:
    crops = progress.step * stage.crops_per_step
    row = {"variant": text, "seed": seed, "crops": crops, "seconds": round(progress.seconds)}
    row |= {"crops_per_second": round(crops / progress.seconds), "accuracy": round(float(hits.mean()), 4)}
    row |= {kind: round(float(hits[kinds == kind].mean()), 4) for kind in ("wide", "tall", "single")}
    return row | {"parameters": sum(p.numel() for p in model.parameters())}


def _budget(stage: TrainingSettings, arguments: argparse.Namespace) -> TrainingSettings:
    stage = replace(stage, validate_every=10**9, save_every=10**9)
    if arguments.crops:
        return replace(stage, steps=arguments.crops // stage.crops_per_step, seconds=None)
    return replace(stage, steps=10**6, seconds=arguments.seconds)


def main() -> None:
    """Run the variants and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", required=True, help="changes joined by semicolons, or base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=150.0, help="equal time for each (the default)")
    parser.add_argument("--crops", type=int, default=0, help="equal crops for each instead")
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="append each row here as a JSON line")
    arguments = parser.parse_args()
    print(f"{describe_device()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sample = make_competition(Path(folder) / "sample", 50, 50, seed=0)
        for seed in arguments.seeds:
            for text in arguments.variant:
                rows.append(run_variant(text, seed, arguments, sample))
                print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
                if arguments.json:
                    with arguments.json.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    columns = ["crops_per_second", "accuracy", "wide", "tall", "single"]
    print(table.groupby("variant", sort=False)[columns].agg(["mean", "std"]).round(4).to_string())


if __name__ == "__main__":
    main()
