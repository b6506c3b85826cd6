"""Crops and photographs for the benchmarks of data: made up, but as hard to compress as what a camera gives."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

# What signs measure on photographs of twelve million pixels: the short side of a word's box.
SHORT_SIDES = (40, 320)


def scene(width: int, height: int, seed: int) -> np.ndarray:
    """Return (height, width, 3) uint8: soft shapes, sharp strokes, and a sensor's noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(max(4, width * height // 20_000)):
        x, y, length = rng.integers(width), rng.integers(height), rng.integers(5, 40)
        end = (int(x + rng.integers(-length, length)), int(y + rng.integers(-length, length)))
        cv2.line(image, (int(x), int(y)), end, rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 5)))
    noise = rng.normal(0, 4, (height, width, 1)).astype(np.int8)
    return cv2.add(image, np.repeat(noise, 3, axis=2), dtype=cv2.CV_8U)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    """Return an image as the bytes of a ``.jpg`` (quality 92) or ``.png``."""
    return cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else [])[1].tobytes()


def write_crops(folder: Path, count: int) -> Path:
    """Write ``count`` crops 32 to 160 pixels high, PNG and JPEG in turn, and ``gt.txt``; return its folder."""
    if (folder / "gt.txt").exists() and len((folder / "gt.txt").read_text().splitlines()) == count:
        return folder
    (folder / "crops").mkdir(parents=True, exist_ok=True)
    rng, lines, base = np.random.default_rng(0), [], scene(2000, 1500, 0)
    for number in range(count):
        height = int(rng.integers(32, 160))
        width = int(height * rng.uniform(1.2, 4))
        x, y = rng.integers(2000 - width), rng.integers(1500 - height)
        name = f"crops/{number:06d}{'.jpg' if number % 2 else '.png'}"
        (folder / name).write_bytes(encoded(base[y : y + height, x : x + width], name[-4:]))
        lines.append(f"{name}\t글자{number % 997}\n")
    (folder / "gt.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def write_photographs(folder: Path, count: int, boxes: int, width: int = 4000, height: int = 3000) -> Path:
    """Write ``count`` photographs with a label file of AI Hub 105 each, ``boxes`` words in it; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        place = folder / f"{number:04d}.json"
        if not place.exists():
            (folder / f"{number:04d}.jpg").write_bytes(encoded(scene(width, height, number), ".jpg"))
            place.write_text(json.dumps(_labels(number, boxes, width, height)), encoding="utf-8")
    return folder


def _labels(number: int, boxes: int, width: int, height: int) -> dict:
    rng, annotations = np.random.default_rng(number), []
    for index in range(boxes):
        h = int(np.exp(rng.uniform(*np.log(SHORT_SIDES))))
        w = int(h * rng.uniform(1.2, 4))
        box = [int(rng.integers(width - w)), int(rng.integers(height - h)), w, h]
        annotations.append({"bbox": box, "id": index, "text": f"글자{index}", "image_id": 1})
    image = {"file_name": f"{number:04d}.jpg", "width": width, "height": height, "id": 1}
    return {"annotations": annotations, "images": [image], "info": {}, "metadata": [{}]}
