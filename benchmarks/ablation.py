"""One lever at a time, several seeds: what is each part of the recipe worth?

Every variant trains on the same stream of synthetic crops and reads the same 1,000 validation crops, whose words the
stream never shows: wide, tall and single ones apart, and those with syllables that training never saw. A variant is a
list of changes to the preset ``scratch``, joined by semicolons; ``vertical=rotate`` and ``vertical=relay`` change how
tall crops are shown, and a ``fixed_width`` equal to the ``short_side`` squeezes all into a square. ``--task small`` has
300 syllables (small_task.py), ``full`` the whole default alphabet and the sample competition's training side. Rows are
appended to ``--json`` as they come, and those already there are not run again, so a long table can be made in several
sittings.

    python benchmarks/ablation.py --json ablation.jsonl
    python benchmarks/ablation.py --variant base --variant classifier=dense --seeds 0 --crops 20000
    python benchmarks/ablation.py --list backbones --seeds 0 --json backbones.jsonl
    python benchmarks/ablation.py --task full --seconds 300 --variant base --variant neck=none
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
from small_task import HELD_OUT_SYLLABLES, small_alphabet, small_stream

from hangul_ocr.data.batches import TrainingBlocks, fixed_groups
from hangul_ocr.data.crops import Crop, CropSource
from hangul_ocr.evaluation.metrics import exact_matches
from hangul_ocr.hangul import Alphabet
from hangul_ocr.models.checkpoint import load_model
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import ModelSettings, Settings, TrainingSettings, preset
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.synthesis.stream import synthetic_sources
from hangul_ocr.training.loop import Stage, read_groups
from hangul_ocr.workspace import describe_device, make_accelerator, seed_everything

SQUARE = "short_side=64;fixed_width=64;along_stride=4"
LEVERS = (
    "base",
    "number_type=float32",
    "classifier=dense",
    "neck=none",
    "stem_pool=true",
    "across_stride=32",
    "normalisation=fixed",
    "fixed_width=96",
    "alignment_weight=0",
    "ema_decay=0",
    "decoder=hybrid",
    "decoder=attention",
    "label_smoothing=0.05",
    "optimizer=adamw;learning_rate=0.005",
    "learning_rate=0.01",
    "short_side=48",
    "vertical=rotate",
    "vertical=relay",
    SQUARE,
    f"{SQUARE};decoder=attention",
)
BACKBONES = (
    "resnet10t",
    "resnet18",
    "mobilenetv4_conv_small_050",
    "mobilenetv4_conv_small",
    "mobilenetv3_small_050",
    "mobilenetv3_small_100",
    "lcnet_050",
    "lcnet_100",
    "starnet_s050",
    "repghostnet_050",
    "ghostnet_050",
    "regnetx_002",
    "convnext_zepto_rms",
    "edgenext_xx_small",
    "hgnetv2_b0",
    "tinynet_e",
)
LISTS = {
    "levers": LEVERS,
    # "base" is a resnet10t of a quarter to a half of its width.
    "backbones": ("base", *(f"backbone={name};backbone_args={{}};stem_pool=true" for name in BACKBONES)),
}
KINDS = ("wide", "tall", "single", "unseen", "rare")


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


VERTICAL = {"rotate": rotated, "relay": relaid}


class Reshaped:
    """A crop source whose tall crops go through ``change``."""

    def __init__(self, source: CropSource, change: Any) -> None:
        self.source, self.change = source, change

    def __len__(self) -> int:
        return len(self.source)

    def crop(self, index: int, rng: np.random.Generator) -> Crop:
        """Return the source's crop, changed if it is tall."""
        crop = self.source.crop(index, rng)
        return self.change(crop) if crop.tall else crop


def parse_variant(text: str) -> tuple[Settings, str]:
    """Return the settings and the vertical method of a variant such as ``classifier=dense;learning_rate=0.004``."""
    changes = parse_changes(text)
    vertical = changes.pop("vertical", "")
    of_model = {field.name for field in dataclasses.fields(ModelSettings)} & changes.keys()
    of_training = {name: value for name, value in changes.items() if name not in of_model}
    settings = preset("scratch")
    # All at once: a backbone and its arguments must fit each other.
    model = replace(settings.model, **{name: changes[name] for name in of_model})
    return replace(settings, model=model, pretraining=replace(settings.pretraining, **of_training)), vertical


def parse_changes(text: str) -> dict[str, Any]:
    """Return the names and values of a variant; ``base`` has none."""
    pairs = (change.split("=", 1) for change in text.split(";") if change not in ("", "base"))
    return {name: _value(value) for name, value in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def run_variant(text: str, seed: int, arguments: argparse.Namespace, sample: Path | None) -> dict[str, Any]:
    """Train one variant and return its row of the table."""
    settings, vertical = parse_variant(text)
    stage = _budget(settings.pretraining, arguments)
    stream, validation, alphabet = _sources(sample, seed, arguments.validation)
    kinds = _kinds(validation)
    if vertical:
        stream, validation = (Reshaped(source, VERTICAL[vertical]) for source in (stream, validation))
    seed_everything(seed)
    model = Recognizer(settings.model, alphabet)
    groups = fixed_groups(validation, settings.model, alphabet)
    share, n = stage.glance_share, stage.crops_per_step
    blocks = TrainingBlocks(settings.model, alphabet, n, seed, synthetic=stream, glance_share=share)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(stage.number_type)
        result = Stage(text, model, blocks, groups, stage, Path(folder), accelerator).run()
        best = load_model(result.best, accelerator.device)
    texts, predictions, _ = read_groups(best, groups, accelerator)
    hits = exact_matches(texts, predictions)
    kinds_in_order = np.array([kinds[key] for group in groups for key in group.keys])
    return _row(text, seed, result.progress, stage, hits, kinds_in_order, model)


def _sources(sample: Path | None, seed: int, validation: int) -> tuple[CropSource, CropSource, Alphabet]:
    if sample is None:
        return *small_stream(seed, validation), small_alphabet()
    return *synthetic_sources(sample, seed, validation), Alphabet.for_texts([])


def _kinds(validation: CropSource) -> dict[str, str]:
    """Return ``unseen``, ``wide``, ``tall`` or ``single`` for each validation crop."""
    kinds = {}
    for i in range(len(validation)):
        crop = validation.crop(i, np.random.default_rng(i))
        kind = "single" if len(crop.text) == 1 else "tall" if crop.tall else "wide"
        kinds[crop.key] = "unseen" if HELD_OUT_SYLLABLES.intersection(crop.text) else kind
    return kinds


def _row(text, seed, progress, stage, hits, kinds, model) -> dict[str, Any]:
    crops = progress.step * stage.crops_per_step
    row = {"variant": text, "seed": seed, "crops": crops, "seconds": round(progress.seconds)}
    row |= {"crops_per_second": round(crops / progress.seconds), "accuracy": round(float(hits.mean()), 4)}
    row |= {kind: round(float(hits[kinds == kind].mean()), 4) for kind in KINDS if (kinds == kind).any()}
    return row | {"parameters": sum(p.numel() for p in model.parameters())}


def _budget(stage: TrainingSettings, arguments: argparse.Namespace) -> TrainingSettings:
    stage = replace(stage, validate_every=10**9, save_every=10**9)
    if arguments.seconds:
        return replace(stage, steps=10**6, seconds=arguments.seconds)
    return replace(stage, steps=arguments.crops // stage.crops_per_step, seconds=None)


def rows_done(path: Path | None, budget: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows in ``path`` that were made with ``budget``, the facts that all rows of one table share."""
    if path is None or not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if budget.items() <= row.items()]


def main() -> None:
    """Run what is missing, then print all rows and each variant's mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", help="changes joined by ; or base (default: the list)")
    parser.add_argument("--list", choices=LISTS, default="levers", help="which list of variants (default %(default)s)")
    parser.add_argument("--task", choices=["small", "full"], default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--crops", type=int, default=20_000, help="equal crops for each (the default)")
    parser.add_argument("--seconds", type=float, default=0.0, help="equal time for each instead")
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="append each row here, and leave out what is there already")
    arguments = parser.parse_args()
    machine = f"{describe_device()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    budget = {"task": arguments.task, "budget": arguments.seconds or arguments.crops}
    rows = rows_done(arguments.json, budget)
    known = {(row["variant"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        sample = None if arguments.task == "small" else make_competition(Path(folder) / "sample", 50, 50, seed=0)
        for seed in arguments.seeds:
            for text in arguments.variant or LISTS[arguments.list]:
                if (text, seed) in known:
                    continue
                rows.append(budget | run_variant(text, seed, arguments, sample) | {"machine": machine})
                print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
                append_row(arguments.json, rows[-1])
    print_table(pd.DataFrame(rows))


def append_row(path: Path | None, row: dict[str, Any]) -> None:
    """Append ``row`` to the lines of JSON in ``path``, if there is one."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def print_table(table: pd.DataFrame) -> None:
    """Print each variant's mean and spread over the seeds, and its mean difference from ``base`` seed by seed."""
    kinds = [kind for kind in KINDS if kind in table]
    grouped = table.groupby("variant", sort=False)[["crops_per_second", "accuracy", *kinds]]
    print(grouped.agg(["mean", "std"]).round(4).to_string())
    base = table[table["variant"] == "base"].set_index("seed")["accuracy"]
    against = table.assign(gain=table["accuracy"] - table["seed"].map(base)).groupby("variant", sort=False)["gain"]
    print(against.agg(["mean", "std", "min", "max", "count"]).round(4).to_string())


if __name__ == "__main__":
    main()
