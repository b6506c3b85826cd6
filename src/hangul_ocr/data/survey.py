"""A look at every crop of a set before anything is stored: its size, how it looks, and what is wrong with its file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from hangul_ocr.data.folds import difference_hash
from hangul_ocr.data.images import UnreadableImage, decode_image, image_size
from hangul_ocr.data.lmdb_store import RECORD_FAULTS, LmdbReader
from hangul_ocr.workspace import cpu_count

COLUMNS = ["width", "height", "brightness", "contrast", "hash", "fault"]


def survey_files(files: Sequence[Path | None]) -> pd.DataFrame:
    """Return ``width,height,brightness,contrast,hash,fault`` of image files, a row each, in order.

    Brightness and contrast are mean and standard deviation of the grey crop (0..255), ``hash`` is
    :func:`folds.difference_hash`. A file that is missing (None) or cannot be read has zeros and its ``fault``.
    """
    numbers = tqdm(files, desc="look at crops", unit="crop")
    threads = min(8, cpu_count())
    rows = Parallel(n_jobs=threads, prefer="threads", batch_size=64)(delayed(_look)(file) for file in numbers)
    return pd.DataFrame(rows, columns=COLUMNS).astype({"hash": np.uint64})


def _look(file: Path | None) -> tuple[Any, ...]:
    try:
        if file is None:
            raise UnreadableImage("no such file")
        grey = decode_image(file.read_bytes(), grey=True)
    except (OSError, UnreadableImage) as error:
        return (0, 0, 0.0, 0.0, 0, getattr(error, "strerror", None) or str(error))
    height, width = grey.shape
    return (width, height, round(float(grey.mean()), 1), round(float(grey.std()), 1), difference_hash(grey), "")


def survey_store(reader: LmdbReader, rows: Sequence[int]) -> pd.DataFrame:
    """Return ``text,width,height`` of some rows of a store, ours or clovaai's, from the headers of their images.

    Records that cannot be read are counted in a printed line.
    """
    found = []
    for row in rows:
        with contextlib.suppress(UnreadableImage, *RECORD_FAULTS):
            sample = reader[row]
            found.append((sample.text, *image_size(sample.image)))
    if lost := len(rows) - len(found):
        print(f"{reader.path}: {lost:,} of {len(rows):,} records cannot be read; `hangul-ocr verify` names them")
    return pd.DataFrame(found, columns=["text", "width", "height"])
