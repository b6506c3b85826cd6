"""Reading crops with one or several recognisers: N-best strings, and every string's score under every model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from hangul_ocr.data.batches import Crop, CropSource, Group, make_groups
from hangul_ocr.data.images import UnreadableImage, decode_image
from hangul_ocr.hangul import HangulOcrError, normalise
from hangul_ocr.inference.ensemble import Reading, combine
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.workspace import atomic_write_text, pick_device

CHUNK = 512
LARGEST_BATCH = 128
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class CropFiles:
    """Image files as a crop source; a file that cannot be read is listed in ``unreadable`` with the reason."""

    paths: list[str]
    root: Path
    unreadable: dict[str, str]

    def __len__(self) -> int:
        return len(self.paths)

    def crop(self, index: int, rng: np.random.Generator) -> Crop:
        """Return the ``index``-th crop; one that cannot be read is an empty grey square."""
        name = self.paths[index]
        try:
            return Crop(name, decode_image((self.root / name).read_bytes()), "")
        except (OSError, UnreadableImage) as error:
            self.unreadable[name] = str(error)
            return Crop(name, np.full((32, 32, 3), 128, np.uint8), "")


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """Return the images named by files and folders, each folder's in sorted order. Raises ``HangulOcrError`` if none."""
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise HangulOcrError(f"{path}: no such file or folder; name images, folders of images or a CSV")
    if not found:
        raise HangulOcrError(f"{', '.join(map(str, inputs))}: no images there (looked for {', '.join(IMAGE_SUFFIXES)})")
    return found


def read_crops(
    models: Sequence[Recognizer],
    source: CropSource,
    candidates: int = 5,
    accelerator: Accelerator | None = None,
    progress: str = "reading",
) -> list[Reading]:
    """Return a :class:`Reading` for each crop of ``source``, in its order: the union of the models' N-best strings,
    scored by every model."""
    accelerator = accelerator or Accelerator(cpu=pick_device() == "cpu")
    models = [model.to(accelerator.device).eval() for model in models]
    readings: dict[int, Reading] = {}
    with tqdm(total=len(source), desc=progress, mininterval=1) as bar:
        for group in _groups(source, models[0]):
            for index, reading in _read_group(models, group, candidates, accelerator):
                readings[index] = reading
            bar.update(len(group.keys))
    return [readings[i] for i in range(len(source))]


def _groups(source: CropSource, model: Recognizer) -> Iterator[Group]:
    """Yield batches of one shape; keys are positions in ``source``. The next chunk is decoded while this one is read."""
    chunks = [range(i, min(i + CHUNK, len(source))) for i in range(0, len(source), CHUNK)]
    with ThreadPoolExecutor(1) as pool:
        for crops in pool.map(lambda chunk: _load(source, chunk), chunks):
            for group in make_groups(crops, model.settings, model.alphabet):
                yield from _parts(group)


def _load(source: CropSource, chunk: Iterable[int]) -> list[Crop]:
    return [Crop(str(i), source.crop(i, np.random.default_rng(i)).image, "") for i in chunk]


def _parts(group: Group) -> Iterator[Group]:
    for i in range(0, len(group.keys), LARGEST_BATCH):
        cut = slice(i, i + LARGEST_BATCH)
        yield Group(group.images[cut], group.keys[cut], group.texts[cut], group.targets[cut], group.frames[cut])


@torch.inference_mode()
def _read_group(
    models: Sequence[Recognizer], group: Group, candidates: int, accelerator: Accelerator
) -> Iterator[tuple[int, Reading]]:
    images = group.images.to(accelerator.device)
    with accelerator.autocast():
        lists = [model.candidates(images, candidates) for model in models]
        unions = [_union(rows) for rows in zip(*lists, strict=True)]
        scores = [model.score(images, unions) for model in models]
    for i, key in enumerate(group.keys):
        own = [rows[i][0][0] if rows[i] else "" for rows in lists]
        yield int(key), Reading(unions[i], np.array([model_scores[i] for model_scores in scores]), own)


def _union(rows: Sequence[list[tuple[str, float]]]) -> list[str]:
    return list(dict.fromkeys(text for row in rows for text, _ in row)) or [""]


def predictions_frame(keys: Sequence[str], readings: Sequence[Reading]) -> pd.DataFrame:
    """Return ``img_path,text,confidence`` for the models' joint choice."""
    chosen = [combine(reading) for reading in readings]
    return pd.DataFrame(
        {
            "img_path": list(keys),
            "text": [normalise(text) for text, _ in chosen],
            "confidence": [round(confidence, 6) for _, confidence in chosen],
        }
    )


def save_candidates(path: Path, keys: Sequence[str], readings: Sequence[Reading]) -> None:
    """Write N-best lists as JSON lines: ``{"img_path": ..., "candidates": [[text, log_probability], ...]}``."""
    lines = []
    for key, reading in zip(keys, readings, strict=True):
        mean = reading.scores.mean(axis=0)
        order = np.argsort(-mean, kind="stable")
        ranked = [[reading.strings[i], round(float(max(mean[i], -1e9)), 5)] for i in order]
        lines.append(json.dumps({"img_path": key, "candidates": ranked}, ensure_ascii=False))
    atomic_write_text(path, "\n".join(lines) + "\n")
