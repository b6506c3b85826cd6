"""Compare readers of labelled crops in one run, in turn: crops per second, milliseconds at batch 1, and accuracy.

Ours look for the likeliest string, as `hangul-ocr predict` does with one model, for the N likeliest and, of a run with
several folds, for those of all of them together. Tesseract `kor` stands beside them
where `tesserocr` is installed (`pip install tesserocr`; models: Debian's `tesseract-ocr-kor` and
`tesseract-ocr-kor-vert`, or any folder given by --tessdata).

All times begin at the image file on disk and end at the string; loading models is not in them. Every reader reads all
crops once before the clock counts: that pass gives the accuracy, and its time is told apart. Batches use all cores:
ours by PyTorch's threads, Tesseract by one instance for each core, a thread each.

    python benchmarks/inference.py --labels crops/labels.csv                                  # the weights that ship
    python benchmarks/inference.py --run output/runs/quick-sample --competition input/sample
    python benchmarks/inference.py --weights best.safetensors --labels crops/labels.csv --json inference.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from hangul_ocr.data.crops import TALL
from hangul_ocr.data.dacon import ImageFiles
from hangul_ocr.data.images import UnreadableImage, check_image, decode_image
from hangul_ocr.data.tables import read_table
from hangul_ocr.evaluation.metrics import Scores, score
from hangul_ocr.hangul import HangulOcrError, normalise
from hangul_ocr.inference.ensemble import combine
from hangul_ocr.inference.predict import CropFiles, read_crops
from hangul_ocr.models.folding import load_for_reading
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import SURE
from hangul_ocr.weights import shipped_scout, shipped_weights
from hangul_ocr.workspace import atomic_write_json, cpu_count, environment_record, make_accelerator

TESSDATA = (
    "/usr/share/tesseract-ocr/*/tessdata",
    "/usr/share/tessdata",
    "/usr/local/share/tessdata",
    "/opt/homebrew/share/tessdata",
)
MODELS = ("kor.traineddata", "kor_vert.traineddata")
LINE_HEIGHT, LINE_BORDER = 64, 8  # pixels; of 40 to 128 and 0 to 32 the best on 344 rendered crops

Reader = Callable[[Sequence[Path]], list[str]]


@dataclass(frozen=True)
class LabelledCrops:
    """Image files with their texts, and the names of the parts that each belongs to (its kind, its shape)."""

    name: str
    files: list[Path]
    texts: list[str]
    parts: dict[str, np.ndarray]


def load_crops(name: str, labels: Path, folder: Path) -> LabelledCrops:
    """Return the crops of a CSV with ``img_path,text``, paths relative to ``folder``.

    Parts are the values of a column ``kind`` (else ``source``), and wide and tall crops. Raises ``HangulOcrError`` for
    missing columns and files.
    """
    table = read_table(labels)
    missing = {"img_path", "text"} - set(table)
    if missing:
        raise HangulOcrError(f"{labels}: no column {', '.join(sorted(missing))}; name them img_path and text")
    images = ImageFiles(folder)
    files = [images.find(path) for path in table["img_path"]]
    absent = [path for path, file in zip(table["img_path"], files, strict=True) if file is None]
    if absent or not files:
        raise HangulOcrError(f"{labels}: {len(absent)} of {len(files)} images not found {absent[:3]}; check its paths")
    return LabelledCrops(name, files, [normalise(text) for text in table["text"]], _parts(table, files))


def _parts(table: pd.DataFrame, files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return which rows belong to each kind and shape."""
    sizes = [_size(file) for file in files]
    tall = np.array([height > TALL * width for width, height in sizes])
    column = next((name for name in ("kind", "source") if name in table), None)
    kinds = {} if column is None else {kind: (table[column] == kind).to_numpy() for kind in table[column].unique()}
    return {**kinds, "wide": ~tall, "tall": tall}


def _size(file: Path) -> tuple[int, int]:
    """Return (width, height) of a file that every reader can decode."""
    try:
        return check_image(file.read_bytes())
    except UnreadableImage as error:
        raise HangulOcrError(f"{file}: {error}; take its row out of the labels") from None


@dataclass(frozen=True)
class NBest:
    """Reads with one or several recognisers as `hangul-ocr predict` does: ``count`` strings each, all scored.

    Where one is asked for one string, a ``scout`` looks first, and the others where it is less than ``sure``.
    """

    models: list[Recognizer]
    count: int
    accelerator: Accelerator
    scout: Recognizer | None = None
    sure: float = SURE

    def __call__(self, files: Sequence[Path]) -> list[str]:
        """Return each file's text."""
        source = CropFiles([str(file) for file in files], list(files))
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for each call would fill the screen
            more = {"scout": self.scout, "sure": self.sure}
            readings = read_crops(self.models, source, self.count, self.accelerator, **more)
        return [normalise(combine(reading)[0]) for reading in readings]


class Tesseract:
    """Reads with Tesseract's LSTM models, one instance a thread, kept for all crops."""

    def __init__(self, tessdata: Path, workers: int) -> None:
        # One thread for each instance: those inside Tesseract make single words slower.
        os.environ.setdefault("OMP_THREAD_LIMIT", "1")
        import tesserocr

        self._tesserocr, self.tessdata = tesserocr, tessdata
        self.version = tesserocr.tesseract_version().splitlines()[0]
        self._instances = threading.local()
        self._pool = ThreadPoolExecutor(workers)

    def __call__(self, files: Sequence[Path]) -> list[str]:
        """Return each file's text; a single file is read in the calling thread."""
        return [self._read(files[0])] if len(files) == 1 else list(self._pool.map(self._read, files))

    def _read(self, file: Path) -> str:
        grey = dark_on_light(decode_image(file.read_bytes(), grey=True))
        modes = self._tesserocr.PSM
        if grey.shape[0] > TALL * grey.shape[1]:
            return self._text("kor_vert", framed(grey, grey.shape[1]), [modes.SINGLE_BLOCK_VERT_TEXT])
        order = [modes.SINGLE_LINE, modes.SINGLE_WORD, modes.RAW_LINE, modes.SINGLE_BLOCK]
        return self._text("kor", framed(grey, grey.shape[0]), order)

    def _text(self, language: str, image: np.ndarray, modes: Sequence[int]) -> str:
        """Return the text in the first of ``modes`` that finds any."""
        instance = self._instance(language)
        instance.SetImageBytes(image.tobytes(), image.shape[1], image.shape[0], 1, image.shape[1])
        instance.SetSourceResolution(300)
        for mode in modes:
            instance.SetPageSegMode(mode)
            text = " ".join(instance.GetUTF8Text().split())
            if text:
                return normalise(text)
        return ""

    def _instance(self, language: str) -> Any:
        """Return this thread's instance for ``language``, made on first use."""
        if not hasattr(self._instances, language):
            engine = self._tesserocr.OEM.LSTM_ONLY
            made = self._tesserocr.PyTessBaseAPI(path=str(self.tessdata), lang=language, oem=engine)
            setattr(self._instances, language, made)
        return getattr(self._instances, language)


def dark_on_light(grey: np.ndarray) -> np.ndarray:
    """Return ``grey`` (H, W) inverted if its rim, taken for the background, is the darker side of Otsu's threshold."""
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    return 255 - grey if np.median(_rim(grey)) <= threshold else grey


def framed(grey: np.ndarray, line: int) -> np.ndarray:
    """Return ``grey`` scaled so that ``line`` pixels become ``LINE_HEIGHT``, in a border of its background."""
    factor = LINE_HEIGHT / line
    method = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    size = [max(1, round(side * factor)) for side in grey.shape[::-1]]
    scaled = cv2.resize(grey, size, interpolation=method)
    paper = float(np.median(_rim(scaled)))
    return cv2.copyMakeBorder(scaled, *[LINE_BORDER] * 4, cv2.BORDER_CONSTANT, value=paper)


def _rim(grey: np.ndarray) -> np.ndarray:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def find_tesseract(tessdata: Path | None) -> Tesseract | None:
    """Return Tesseract, or None after saying what it lacks."""
    folders = [tessdata] if tessdata else _tessdata_folders()
    folder = next((f for f in folders if all((f / name).is_file() for name in MODELS)), None)
    if folder is None:
        print(f"without Tesseract: no folder with {' and '.join(MODELS)}; install them or name --tessdata")
        return None
    try:
        return Tesseract(folder, cpu_count())
    except ImportError:
        print("without Tesseract: no module tesserocr; `pip install tesserocr`")
        return None


def _tessdata_folders() -> Iterator[Path]:
    """Yield the folders where Tesseract's models may lie, the newest version first."""
    if prefix := os.environ.get("TESSDATA_PREFIX"):
        yield Path(prefix)
    for pattern in TESSDATA:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)


def make_readers(checkpoints: Sequence[Path], count: int, tesseract: Tesseract | None) -> dict[str, Reader]:
    """Return the readers by name: the first checkpoint alone, all of them together, and Tesseract.

    With the weights that ship the small network looks first, as in `hangul-ocr predict`, and reads alone, too.
    """
    accelerator = make_accelerator()
    models = [load_for_reading(path) for path in checkpoints]
    scout = load_for_reading(shipped_scout()) if list(checkpoints) == [shipped_weights()] else None
    readers: dict[str, Reader] = {
        "likeliest": NBest(models[:1], 1, accelerator, scout),
        f"{count}-best": NBest(models[:1], count, accelerator),
    }
    if scout:
        readers["first look alone"] = NBest(models[:1], 1, accelerator, scout, sure=0.0)
    if len(models) > 1:
        readers[f"{len(models)} folds, {count}-best"] = NBest(models, count, accelerator)
    return readers | ({"Tesseract kor": tesseract} if tesseract else {})


def find_checkpoints(run: Path) -> list[Path]:
    """Return the weights of all folds of a run. Raises ``HangulOcrError`` if there are none."""
    found = sorted(run.glob("fold*/best.safetensors"))
    if not found:
        raise HangulOcrError(f"{run}: no fold*/best.safetensors; name a finished run, or a file with --weights")
    return found


@dataclass
class Measured:
    """One reader on one set of crops: its texts, the first pass, and the repetitions (batch-1 times by crop)."""

    texts: list[str]
    first_seconds: float
    rates: list[float] = dataclasses.field(default_factory=list)
    milliseconds: list[list[float]] = dataclasses.field(default_factory=list)

    def repeat(self, reader: Reader, crops: LabelledCrops, singles: Sequence[Path]) -> None:
        """Time all crops at once, then ``singles`` one by one."""
        self.rates.append(len(crops.files) / _timed(reader, crops.files)[0])
        self.milliseconds.append([1000 * _timed(reader, [file])[0] for file in singles])


def _timed(reader: Reader, files: Sequence[Path]) -> tuple[float, list[str]]:
    start = time.perf_counter()
    texts = reader(files)
    return time.perf_counter() - start, texts


def measure(readers: dict[str, Reader], crops: LabelledCrops, repeats: int, singles: int) -> dict[str, Measured]:
    """Time the readers in turn, ``repeats`` times, after a pass of each that is not counted."""
    places = np.linspace(0, len(crops.files) - 1, min(singles, len(crops.files))).astype(int)
    chosen = [crops.files[place] for place in places]
    measured = {}
    for name, reader in readers.items():
        seconds, texts = _timed(reader, crops.files)
        measured[name] = Measured(texts, seconds)
        for file in chosen:
            reader([file])
    for _ in range(repeats):
        for name, reader in readers.items():
            measured[name].repeat(reader, crops, chosen)
    return measured


def accuracy(crops: LabelledCrops, texts: Sequence[str]) -> dict[str, Scores]:
    """Return the scores of all crops and of each part that has any."""
    parts = {"all": np.ones(len(texts), bool), **crops.parts}
    rows = {part: np.flatnonzero(chosen) for part, chosen in parts.items() if chosen.any()}
    return {part: score([crops.texts[i] for i in at], [texts[i] for i in at]) for part, at in rows.items()}


def report(crops: LabelledCrops, measured: dict[str, Measured]) -> dict[str, Any]:
    """Print the tables of one set of crops and return them for JSON."""
    scores = {name: accuracy(crops, one.texts) for name, one in measured.items()}
    print(f"\n{crops.name}: {len(crops.files)} crops", flush=True)
    print(pd.DataFrame({name: _speed_cells(one) for name, one in measured.items()}).T.to_string())
    cells = {name: {f"{p} (n={s.n})": _score_cell(s) for p, s in parts.items()} for name, parts in scores.items()}
    print("\nexact % (95 % interval) | without spaces\n" + pd.DataFrame(cells).to_string(), flush=True)
    rows = {name: _record(one, scores[name]) for name, one in measured.items()}
    return {"name": crops.name, "crops": len(crops.files), "readers": rows}


def _speed_cells(one: Measured) -> dict[str, str]:
    medians = [float(np.median(row)) for row in one.milliseconds]
    return {
        "crops/s (range)": _spread(one.rates, 0),
        "first pass": f"{len(one.texts) / one.first_seconds:.0f}",
        "ms at batch 1 (range)": _spread(medians, 1),
        "95th percentile": f"{np.percentile(one.milliseconds, 95):.1f}",
    }


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _score_cell(scores: Scores) -> str:
    low, high = (100 * bound for bound in scores.intervals["exact"])
    return f"{100 * scores.exact:.1f} ({low:.1f} to {high:.1f}) | {100 * scores.exact_without_spaces:.1f}"


def _record(one: Measured, scores: dict[str, Scores]) -> dict[str, Any]:
    medians = [float(np.median(row)) for row in one.milliseconds]
    return {
        "crops_per_second": {"median": float(np.median(one.rates)), "repetitions": one.rates},
        "first_pass_seconds": one.first_seconds,
        "milliseconds_at_batch_1": {
            "median": float(np.median(medians)),
            "repetitions": medians,
            "mean": float(np.mean(one.milliseconds)),
            "percentile_95": float(np.percentile(one.milliseconds, 95)),
        },
        "accuracy": {part: value.as_dict() for part, value in scores.items()},
    }


def describe(tesseract: Tesseract | None) -> dict[str, Any]:
    """Return the machine's state before the measurement, ready for JSON."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    record = environment_record() | {"torch_threads": torch.get_num_threads(), "load_average_before": load}
    return record | {"tesseract": tesseract.version if tesseract else None}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ours = parser.add_mutually_exclusive_group()
    ours.add_argument(
        "--run", type=Path, metavar="DIR", help="a run's folder: its first fold, and all of them together"
    )
    ours.add_argument("--weights", type=Path, metavar="FILE", help="one best.safetensors (default: those that ship)")
    parser.add_argument("--competition", type=Path, metavar="DIR", help="a folder with answers/test_answers.csv")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="img_path,text; paths relative to the CSV")
    parser.add_argument("--n-best-count", type=int, default=5, metavar="N", help="strings to weigh (default 5)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="repetitions that count (default 5)")
    parser.add_argument("--singles", type=int, default=200, metavar="N", help="crops read at batch 1 (default 200)")
    parser.add_argument("--tessdata", type=Path, metavar="DIR", help="where kor.traineddata lies")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results here")
    return parser


def load_sets(options: argparse.Namespace) -> list[LabelledCrops]:
    """Return the sets of crops that the command line names. Raises ``HangulOcrError`` if it names none."""
    sets = []
    if options.competition:
        answers = options.competition / "answers" / "test_answers.csv"
        sets.append(load_crops(options.competition.resolve().name, answers, options.competition))
    if options.labels:
        sets.append(load_crops(options.labels.resolve().parent.name, options.labels, options.labels.parent))
    if not sets:
        raise HangulOcrError("no crops to read; name a folder with --competition or a CSV with --labels")
    return sets


def main() -> int:
    """Read the command line, measure, print the tables and write JSON; 1 after an error that the user can act on."""
    options = build_parser().parse_args()
    try:
        sets = load_sets(options)
        tesseract = find_tesseract(options.tessdata)
        checkpoints = find_checkpoints(options.run) if options.run else [options.weights or shipped_weights()]
        readers = make_readers(checkpoints, options.n_best_count, tesseract)
        machine = describe(tesseract)
        print(f"{machine['device']}, torch {torch.__version__}, {machine['torch_threads']} threads")
        results = [report(crops, measure(readers, crops, options.repeats, options.singles)) for crops in sets]
    except HangulOcrError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        atomic_write_json(options.json, {"machine": machine, "repeats": options.repeats, "sets": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
