"""The sources that can be imported, by name: one importer each, the same from Python and from the command line.

Their modules are loaded when they are used, so that a list of sources costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hangul_ocr.hangul import HangulOcrError

if TYPE_CHECKING:
    from hangul_ocr.data.planning import ImportSettings, Planned
    from hangul_ocr.data.sample import LeftOut, Sample


@dataclass(frozen=True)
class Source:
    """A kind of data set: what it is, in a line, and where the planner lies that reads it (module, function)."""

    about: str
    module: str
    planner: str


SOURCES = {
    "dacon": Source("a DACON competition's folder: train.csv and its crops", "ready_sets", "plan_dacon"),
    "aihub-outdoor": Source("AI Hub 105, outdoor photographs: folders or the zips", "aihub", "plan_outdoor"),
    "aihub-wild": Source("AI Hub 81, Text in the wild: its .json and photographs", "aihub_wild", "plan_wild"),
    "aihub-fonts": Source("AI Hub 81, printed, handwritten, augmented: .json and crops", "aihub", "plan_fonts"),
    "kaist": Source("KAIST Scene Text Database: .xml files and photographs", "kaist", "plan_kaist"),
    "list": Source("gt.txt: path<TAB>label, or a CSV whose header names both", "lists", "plan_list"),
    "paddleocr": Source("PaddleOCR's label files: path<TAB>label", "lists", "plan_paddleocr"),
    "trdg": Source("TextRecognitionDataGenerator: label_0.jpg, 0_label.jpg or labels.txt", "lists", "plan_trdg"),
    "mlt": Source("ICDAR MLT word recognition: word_1.png,Korean,label", "lists", "plan_mlt"),
    "kstrbench": Source("K-STR-Bench: a subset's folder, or its lists", "kstrbench", "plan_kstrbench"),
    "lmdb": Source("LMDBs, ours or of deep-text-recognition-benchmark", "ready_sets", "plan_lmdb"),
}


def plan(source: str, paths: Sequence[Path | str], settings: ImportSettings | None = None) -> Iterator[Planned]:
    """Yield what there is to do for ``source`` at ``paths``: samples, what is left out, and work for the rest.

    Raises ``HangulOcrError`` for an unknown source, a path that is not there, and a layout that is not the source's.
    """
    from hangul_ocr.data.planning import ImportSettings

    if source not in SOURCES:
        raise HangulOcrError(f"source {source!r} is unknown; choose one of {', '.join(SOURCES)}")
    if not paths:
        raise HangulOcrError(f"{source}: no path given; name the folder or file to import")
    module = importlib.import_module(f"hangul_ocr.data.{SOURCES[source].module}")
    planner = getattr(module, SOURCES[source].planner)
    yield from planner([Path(path).expanduser() for path in paths], settings or ImportSettings())


def import_samples(
    source: str, paths: Sequence[Path | str], settings: ImportSettings | None = None
) -> Iterator[Sample | LeftOut]:
    """Yield every record of ``source`` at ``paths``, one after the other, as a sample or as left out with a reason.

    Raises ``HangulOcrError`` as :func:`plan` does, with the first item.
    """
    from hangul_ocr.data.planning import ImportSettings, do

    settings = settings or ImportSettings()
    for planned in plan(source, paths, settings):
        yield from do(planned, settings)
