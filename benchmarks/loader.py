"""Samples a second out of an LMDB and into batches, by our loader and by a plain one, in turn on one machine.

Both decode each crop, resize it to its batch's shape and stack shapes that are equal, behind PyTorch's DataLoader. The
plain one is what most training scripts do: Pillow, ``convert``, ``resize``, ``ToTensor``; without augmentation, so that
loading alone is measured. ``reduced`` lets JPEGs be decoded at a half where the batch's height allows. Crops are made
ones (PNG, drawn), files of photographs (PNG and JPEG, 32 to 160 pixels high), and what our import cuts (JPEG).
``shrunk`` reads what ``hangul-ocr import --shrink`` makes of them, reduced too; the plain one has no such step.

    python benchmarks/loader.py output/benchmarks --json loader.json
    python benchmarks/loader.py output/benchmarks --workers 0 --workers 4 --short-side 32
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lmdb_build import report
from photographs import write_crops, write_photographs
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hangul_ocr.data.batches import batch_shape, make_groups
from hangul_ocr.data.building import build_lmdb
from hangul_ocr.data.crops import Crop, LmdbCrops
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.planning import ImportSettings
from hangul_ocr.data.sources import plan
from hangul_ocr.data.workers import Workers
from hangul_ocr.hangul import Alphabet
from hangul_ocr.settings import ModelSettings
from hangul_ocr.synthesis.competition import make_competition

BATCH = 128


class Plain(Dataset):
    """Crops as tensors, decoded and resized by Pillow."""

    def __init__(self, store: Path, model: ModelSettings) -> None:
        self.reader, self.model = LmdbReader(store), model

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        sample = self.reader[index]
        image = Image.open(io.BytesIO(sample.image)).convert("RGB")
        height, width = batch_shape(*image.size, self.model)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div(255), sample.text


def stack(rows: list[tuple[torch.Tensor, str]]) -> list[tuple[torch.Tensor, list[str]]]:
    """Return a batch by shape."""
    by_shape: dict[torch.Size, list[tuple[torch.Tensor, str]]] = {}
    for row in rows:
        by_shape.setdefault(row[0].shape, []).append(row)
    return [(torch.stack([image for image, _ in part]), [text for _, text in part]) for part in by_shape.values()]


class Ours(Dataset):
    """Crops as our training reads them, without changes to them."""

    def __init__(self, store: Path, short_side: int) -> None:
        self.crops = LmdbCrops(LmdbReader(store), short_side=short_side)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Crop:
        return self.crops.crop(index, None)


class Groups:
    """Makes groups of a batch's crops."""

    def __init__(self, store: Path, model: ModelSettings) -> None:
        self.model, self.alphabet = model, Alphabet.for_texts(LmdbReader(store).texts())

    def __call__(self, crops: list[Crop]) -> list:
        return make_groups(crops, self.model, self.alphabet)


def measure(store: Path, way: str, short_side: int, workers: int, seconds: float) -> dict[str, Any]:
    """Return samples a second after a warm-up, and the peak memory in MB of the process and of its largest worker."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    model = ModelSettings(short_side=short_side, grey=False)
    if way == "plain":
        data, collate = Plain(store, model), stack
    else:
        place = store.with_suffix(".shrunk") if "shrunk" in way else store
        data, collate = Ours(place, 0 if way == "ours" else short_side), Groups(store, model)
    loader = DataLoader(data, BATCH, shuffle=True, collate_fn=collate, num_workers=workers)
    batches = iter(_endless(loader))
    for _ in islice(batches, 2 + 4 * workers):
        pass
    started, samples = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        next(batches)
        samples += BATCH
    own, worker = (resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    facts = {"crops": store.stem, "pixels": short_side, "workers": workers, "way": way}
    # Without workers, the only children are those that imports start for a moment.
    return facts | {"samples/s": samples / passed, "MB": own, "worker MB": worker if workers else 0}


def _endless(loader: DataLoader) -> Any:
    while True:
        yield from loader


def stores(folder: Path, crops: int) -> list[Path]:
    """Write crops as they are drawn, as they lie in files, and as our import cuts them; return the LMDBs."""
    photographs = write_photographs(folder / "photographs for loading", max(1, crops // 100), 100)
    drawn = folder / f"drawn {crops}"
    if not (drawn / "train.csv").exists():
        make_competition(drawn, crops, 10)
    made = {
        "drawn": ("dacon", drawn),
        "files": ("list", write_crops(folder / f"pack {crops}", crops)),
        "cut": ("aihub-outdoor", photographs),
    }
    for name, (source, place) in made.items():
        for suffix, chosen in ((".lmdb", ImportSettings()), (".shrunk", ImportSettings(shrink=True))):
            if not (folder / f"{name}{suffix}").exists():
                planned = partial(plan, source, [place], chosen)
                build_lmdb(folder / f"{name}{suffix}", planned, chosen, settings={}, workers=Workers(1))
    return [folder / f"{name}.lmdb" for name in made]


def main() -> None:
    """Measure both loaders in turn, several rounds, and print medians, spreads and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the stores lie, or are made")
    parser.add_argument("--crops", type=int, default=2000, help="crops of a store")
    parser.add_argument("--short-side", type=int, action="append", help="of a batch, in pixels (default 32 and 48)")
    parser.add_argument("--workers", type=int, action="append", help="processes of the loader (default 0: none)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, after the warm-up")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    places = stores(arguments.folder, arguments.crops)
    settings = [(s, p, w) for s in places for p in arguments.short_side or (32, 48) for w in arguments.workers or (0,)]
    for number in range(arguments.rounds):
        for store, pixels, workers in settings:
            for way in ("plain", "ours", "ours, reduced", "ours, shrunk"):
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    run = pool.submit(measure, store, way, pixels, workers, arguments.seconds)
                    rows.append({"round": number} | run.result())
                print(json.dumps(rows[-1]), flush=True)
    report(rows, ["crops", "pixels", "workers"], "samples/s", arguments.json)


if __name__ == "__main__":
    main()
