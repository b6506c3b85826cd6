"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

MINI_LABELS = (
    "가",
    "나무",
    "서울 시장",
    "커피숍",
    "ABC-12",
    "미용실",
    "한의원",
    "국수",
    "NA",
    "null",
    "세탁소",
    "약국",
)


def crop_png(seed: int, width: int = 64, height: int = 24) -> bytes:
    """Return a PNG of shapes that differ from seed to seed enough for no two to be near-duplicates."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 12, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.line(image, (0, int(rng.integers(height))), (width, int(rng.integers(height))), (0, 0, 0), 2)
    return cv2.imencode(".png", image)[1].tobytes()


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], encoding: str = "utf-8-sig") -> None:
    """Write a CSV as the competition does: with BOM unless another ``encoding`` is asked for."""
    lines = [",".join(row) for row in (header, *rows)]
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))


@pytest.fixture
def mini_competition(tmp_path: Path) -> Path:
    """A folder as DACON 235970 gives it, quirks included: 24 train and 8 test crops, gaps in the numbering, BOMs."""
    folder = tmp_path / "mini"
    train = [f"./train/train_{number:05d}.png" for number in range(1, 27) if number not in (5, 11)]
    test = [f"./test/test_{number:05d}.png" for number in range(1, 10) if number != 4]
    for seed, path in enumerate(train + test):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        tall = seed % 6 == 5
        file.write_bytes(crop_png(seed, *((24, 64) if tall else (64, 24))))
    write_csv(folder / "train.csv", ("img_path", "text"), [(p, MINI_LABELS[i // 2]) for i, p in enumerate(train)])
    write_csv(folder / "test.csv", ("img_path",), [(path,) for path in test])
    write_csv(folder / "sample_submission.csv", ("img_path", "text"), [(path, "") for path in test])
    return folder
