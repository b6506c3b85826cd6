"""The embedded sample competition: a folder like DACON 235970's, its quirks included, rendered from fonts and words.

Test words and one font family do not occur in training. The test's answers lie in ``answers/``, which no training
code may open; what training must leave out to stay honest is said in ``competition.json``.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from joblib import Parallel, cpu_count, delayed
from tqdm.auto import tqdm

from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.synthesis.fonts import FontFace, family_key, find_fonts, split_families
from hangul_ocr.synthesis.renderer import Rendered, Renderer
from hangul_ocr.synthesis.style import Style
from hangul_ocr.synthesis.words import TRAINING, Mix, Side, Words, WordSource, load_words

HELD_OUT_WORDS = 0.2
HELD_OUT_SHARE = 1 / 3  # of the test crops are set in the held-out family
PLACEHOLDER_SHARE = 0.0026
PLACEHOLDERS = ("XXX", "xxx", "xx")
MISSING_NUMBERS = 1 / 2000
# A few shop words make up this share of all rows; in the competition they repeat 20 to 85 times in 12,159.
SHOP_SHARE = 0.1
SHOP_WORDS = 30
DESCRIPTION = "competition.json"
ANSWERS = Path("answers") / "test_answers.csv"
_BLOCK = 64


@dataclass(frozen=True)
class Row:
    """One crop to be made: its path in the folder, its label, and which faces it may be set in."""

    img_path: str
    text: str
    held_out: bool


def make_competition(folder: Path, n_train: int = 3000, n_test: int = 800, seed: int = 0) -> Path:
    """Write the sample competition of ``seed`` and return its folder: equal seeds and fonts give equal files.

    The folder appears whole or not at all. Raises ``HangulOcrError`` where it exists with anything in it, or where
    there is no Korean font.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HangulOcrError(f"{folder} exists and is not empty: name another folder or delete it first")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _fill(aside, n_train, n_test, seed)
        if folder.is_dir():
            folder.rmdir()
        os.replace(aside, folder)
    except OSError as error:
        raise HangulOcrError(f"cannot write the sample competition to {folder}: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def training_stream_sources(competition_folder: Path | None, mix: Mix = TRAINING) -> tuple[list[FontFace], WordSource]:
    """Return the faces and words that synthetic pretraining may use beside this competition.

    For the sample competition the held-out family and the test side's words are left out, as its ``competition.json``
    says; any other competition (or None) gets everything.
    """
    faces, words = find_fonts(), load_words()
    description = _read_description(competition_folder)
    if not description.get("sample"):
        return faces, WordSource(words, mix)
    held = {family_key(family) for family in description["held_out_families"]}
    split = description["word_split"]
    source = WordSource(words, mix, Side(split["fraction"], split["seed"]))
    return [face for face in faces if family_key(face.family) not in held], source


def _read_description(folder: Path | None) -> dict:
    path = Path(folder) / DESCRIPTION if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HangulOcrError(f"cannot read {path}: make the sample competition again ({error})") from error


def _fill(folder: Path, n_train: int, n_test: int, seed: int) -> None:
    words = load_words()
    train_faces, held_faces = split_families(find_fonts(), seed)
    rng = np.random.default_rng((seed, 0))
    train = _plan("train", _train_texts(words, n_train, seed, rng), [False] * n_train, rng)
    test_texts = _texts(WordSource(words, side=Side(HELD_OUT_WORDS, seed, test=True)), n_test, rng)
    test = _plan("test", test_texts, (rng.random(n_test) < HELD_OUT_SHARE * bool(held_faces)).tolist(), rng)
    for name in ("train", "test", "answers"):
        (folder / name).mkdir(parents=True)
    families = _render_all(folder, train + test, train_faces, held_faces, seed)
    _write_tables(folder, train, test, families[n_train:])
    _write_descriptions(folder, seed, held_faces)


def _train_texts(words: Words, n: int, seed: int, rng: np.random.Generator) -> list[str]:
    """Return training labels, a few of them the annotators' mark for illegible text."""
    texts = _texts(WordSource(words, side=Side(HELD_OUT_WORDS, seed)), n, rng)
    n_placeholders = max(1, round(n * PLACEHOLDER_SHARE))
    for k, i in enumerate(rng.choice(n, min(n, n_placeholders), replace=False)):
        texts[i] = PLACEHOLDERS[k % len(PLACEHOLDERS)]
    return texts


def _texts(source: WordSource, n: int, rng: np.random.Generator) -> list[str]:
    """Return n labels; some rows repeat one of a few shop words, the first of them most often."""
    shops = [source.sample(rng) for _ in range(SHOP_WORDS)]
    ranks = np.minimum(rng.exponential(SHOP_WORDS / 3, n).astype(int), SHOP_WORDS - 1)
    repeats = rng.random(n) < SHOP_SHARE
    return [shops[rank] if repeat else source.sample(rng) for rank, repeat in zip(ranks, repeats, strict=True)]


def _plan(part: str, texts: list[str], held_out: Sequence[bool], rng: np.random.Generator) -> list[Row]:
    numbers = _numbers(len(texts), rng)
    return [
        Row(f"./{part}/{part}_{number:05d}.png", text, held)
        for number, text, held in zip(numbers, texts, held_out, strict=True)
    ]


def _numbers(n: int, rng: np.random.Generator) -> list[int]:
    """Return n ascending numbers from 1 with gaps inside: nobody may rebuild a path from a counter."""
    n_missing = max(2, round(n * MISSING_NUMBERS)) if n > 1 else 0
    last = n + n_missing
    missing = set((rng.choice(last - 2, n_missing, replace=False) + 2).tolist()) if n_missing else set()
    return [number for number in range(1, last + 1) if number not in missing]


def _render_all(
    folder: Path, rows: list[Row], train_faces: list[FontFace], held_faces: list[FontFace], seed: int
) -> list[str]:
    """Write all crops over all cores and return the family of each; a crop depends on seed and row number alone."""
    blocks = [range(start, min(start + _BLOCK, len(rows))) for start in range(0, len(rows), _BLOCK)]
    jobs = (
        delayed(_render_block)(folder, block, rows[block.start : block.stop], train_faces, held_faces, seed)
        for block in blocks
    )
    with tqdm(total=len(rows), desc="rendering crops", unit="crop") as bar:
        families: list[str] = []
        for done in Parallel(n_jobs=cpu_count(), return_as="generator")(jobs):
            families += done
            bar.update(len(done))
    return families


_RENDERERS: dict[tuple, Renderer] = {}


def _render_block(
    folder: Path, numbers: range, rows: list[Row], train_faces: list[FontFace], held_faces: list[FontFace], seed: int
) -> list[str]:
    """Write one block's crops. A worker keeps its renderers from block to block, for the glyphs they have drawn."""
    cv2.setNumThreads(1)
    families = []
    for number, row in zip(numbers, rows, strict=True):
        renderer = _renderer(tuple(held_faces if row.held_out else train_faces))
        crop = renderer.render_text(row.text, np.random.default_rng((seed, 1, number)))
        _write_png(folder / row.img_path, crop)
        families.append(crop.family)
    return families


def _renderer(faces: tuple[FontFace, ...]) -> Renderer:
    key = tuple((face.path, face.index, face.axes) for face in faces)
    if key not in _RENDERERS:
        _RENDERERS[key] = Renderer(faces, WordSource(Words({})), Style.signs())
    return _RENDERERS[key]


def _write_png(path: Path, crop: Rendered) -> None:
    """Write RGB PNG, weakly compressed for speed. Encoded in memory: cv2.imwrite fails on Hangul paths on Windows."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(crop.image, cv2.COLOR_RGB2BGR), options)[1].tobytes())


def _write_tables(folder: Path, train: list[Row], test: list[Row], test_families: list[str]) -> None:
    _write_csv(folder / "train.csv", ("img_path", "text"), [(row.img_path, row.text) for row in train])
    _write_csv(folder / "test.csv", ("img_path",), [(row.img_path,) for row in test])
    _write_csv(folder / "sample_submission.csv", ("img_path", "text"), [(row.img_path, "") for row in test])
    answers = [
        (row.img_path, row.text, family, int(row.held_out)) for row, family in zip(test, test_families, strict=True)
    ]
    _write_csv(folder / ANSWERS, ("img_path", "text", "family", "held_out"), answers)


def _write_csv(path: Path, header: tuple[str, ...], rows: Sequence[tuple]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _write_descriptions(folder: Path, seed: int, held_faces: list[FontFace]) -> None:
    """Write what training may know (which family and words to leave out), and a note beside the answers."""
    families = sorted({face.family for face in held_faces})
    split = {"fraction": HELD_OUT_WORDS, "seed": seed}
    facts = {"sample": True, "seed": seed, "held_out_families": families, "word_split": split}
    (folder / DESCRIPTION).write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    note = (
        "The sample competition's test answers, for scoring only: nothing that trains may read this folder.\n"
        f"Font families that occur in the test alone (held_out = 1): {', '.join(families) or 'none'}\n"
    )
    (folder / ANSWERS).with_name("README.txt").write_text(note, encoding="utf-8")
