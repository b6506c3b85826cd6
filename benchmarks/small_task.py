"""A task that two cores can learn within the hour: 300 syllables, two font families, words unseen in validation.

:func:`small_task` stores it: 60,000 training and 1,000 validation crops of text that runs across, in two LMDBs, so that
every recipe reads the same bytes. :func:`small_stream` renders it without end, tall crops included, and keeps twenty
syllables for the validation alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2

from hangul_ocr.data.lmdb_store import LmdbReader, matches
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.sample import Sample
from hangul_ocr.hangul import Alphabet
from hangul_ocr.synthesis.fonts import FontFace, find_fonts
from hangul_ocr.synthesis.renderer import Renderer
from hangul_ocr.synthesis.stream import SHORT_SIDE, SyntheticCrops
from hangul_ocr.synthesis.style import TALL_SHARE, Style
from hangul_ocr.synthesis.words import Side, Words, WordSource, load_words, syllable_counts

SYLLABLES, TRAIN, VALIDATION = 300, 60_000, 1_000
FAMILIES = ("NanumGothic", "Noto Serif KR")
HELD_OUT_WORDS = 0.1
VALIDATION_START = 1 << 40


def small_alphabet() -> Alphabet:
    """Return the space and the 300 syllables that most words use."""
    return Alphabet(" " + "".join(sorted(s for s, _ in syllable_counts(load_words()).most_common(SYLLABLES))))


HELD_OUT_SYLLABLES = frozenset(small_alphabet().characters[8::15])


def small_stream(seed: int, validation: int) -> tuple[SyntheticCrops, SyntheticCrops]:
    """Return an endless training stream without the held-out syllables, and ``validation`` crops of other words."""
    style = replace(Style.signs(SHORT_SIDE), vertical=TALL_SHARE)
    training = Renderer(_faces(), _words("train", HELD_OUT_SYLLABLES), style, seed)
    held_out = Renderer(_faces(), _words("validation"), style, seed=0)
    return SyntheticCrops(training), SyntheticCrops(held_out, VALIDATION_START, validation)


def small_task(folder: Path) -> tuple[LmdbReader, LmdbReader]:
    """Return the training and validation stores in ``folder``, made where they are not there yet."""
    return _store(folder, "train", TRAIN), _store(folder, "validation", VALIDATION)


def _store(folder: Path, side: str, count: int) -> LmdbReader:
    settings = {"small task": 1, "side": side, "count": count}
    if not matches(folder / f"{side}.lmdb", settings):
        samples = _samples(side, count)
        write_lmdb(folder / f"{side}.lmdb", samples, alphabet=small_alphabet(), settings=settings, total=count)
    return LmdbReader(folder / f"{side}.lmdb")


def _samples(side: str, count: int) -> Iterator[Sample]:
    style = replace(Style.signs((28, 64)), vertical=0.0)
    renderer = Renderer(_faces(), _words(side), style, seed=int(side == "validation"))
    allowed, found, index = set(small_alphabet().characters), 0, 0
    while found < count:
        crop = renderer.render(index)
        index += 1
        if allowed.issuperset(crop.text) and crop.image.shape[1] >= crop.image.shape[0]:
            data = cv2.imencode(".jpg", cv2.cvtColor(crop.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            yield Sample(f"{side}/{index:06d}.jpg", data.tobytes(), crop.text, "synthetic")
            found += 1


def _faces() -> list[FontFace]:
    return [face for face in find_fonts() if face.family in FAMILIES]


def _words(side: str, without: frozenset[str] = frozenset()) -> WordSource:
    allowed = set(small_alphabet().characters) - without
    kept = {s: tuple(w for w in words if allowed.issuperset(w)) for s, words in load_words().by_source.items()}
    split = Side(HELD_OUT_WORDS, 0, test=side == "validation")
    return WordSource(Words({source: words for source, words in kept.items() if words}), side=split)
