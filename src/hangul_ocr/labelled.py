"""Reading labelled crops that nothing was trained on, such as a subset of K-STR-Bench: scores, slices, a report.

``output/labelled/STORE-READER/`` holds ``predictions.csv`` (``img_path,text,confidence``, as ``hangul-ocr score`` and
``hangul-ocr kstrbench-predictions`` take it) and ``report.html``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hangul_ocr import steps
from hangul_ocr.data.crops import LmdbCrops
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.tables import write_table
from hangul_ocr.error_report import WrittenReport, error_report, write_page
from hangul_ocr.evaluation.errors import error_frame
from hangul_ocr.evaluation.slices import with_slices
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.inference import predict
from hangul_ocr.inference.decoding import LANGUAGE, load_fusion
from hangul_ocr.inference.parts import Parts, forget_parts
from hangul_ocr.inference.predict import CropFiles, FileParts, predictions_frame, read_crops
from hangul_ocr.inference.views import PLAIN
from hangul_ocr.models.folding import load_for_reading
from hangul_ocr.models.language import Fusion
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.results import data_of, with_crop_facts
from hangul_ocr.settings import SURE, Settings, preset
from hangul_ocr.training.kfold import Run, load_run
from hangul_ocr.weights import shipped_scout, shipped_weights
from hangul_ocr.workspace import Workspace, pick_number_type

WEIGHTS_SUFFIX = ".safetensors"
PREDICTIONS, REPORT = "predictions.csv", "report.html"


@dataclass(frozen=True)
class Readers:
    """Who reads: the ``name``, the ``checkpoints`` of its models, the settings that say how, and the run, if it is.

    A ``scout``'s network looks first, and they only at the crops of which it is less than ``sure``.
    """

    name: str
    checkpoints: list[Path]
    settings: Settings
    run: Run | None = None
    scout: Path | None = None
    sure: float = SURE

    @property
    def described(self) -> str:
        """Say who reads."""
        if self.run:
            return f"run {self.name}"
        return "the weights that ship" if self.checkpoints == [shipped_weights()] else f"the weights {self.name}"

    def models(self) -> list[Recognizer]:
        """Load the models, in the order of their folds."""
        return [load_for_reading(path) for path in self.checkpoints]

    def first_look(self) -> Recognizer | None:
        """Load the network that looks first, if there is one."""
        return load_for_reading(self.scout) if self.scout else None

    @property
    def files(self) -> list[list[Path]]:
        """Return all files of weights that decide what is read."""
        return [self.checkpoints, *([[self.scout]] if self.scout else [])]

    def fusion(self) -> Fusion | None:
        """Return what a run's settings weigh in beside its models; None for the weights that ship."""
        return load_fusion(self.settings.decoding, self.run.folder) if self.run else None


@dataclass(frozen=True)
class Labelled:
    """What came of it: the error frame with its slices, the ``predictions`` file and the report."""

    frame: pd.DataFrame
    predictions: Path
    report: WrittenReport


def find_readers(workspace: Workspace, name: str = "", sure: float = SURE) -> Readers:
    """Return the fold models of the run ``name``, or the one of a file of weights; by default the weights that ship."""
    if not name:
        return Readers("shipped", [shipped_weights()], preset("quick"), scout=shipped_scout(), sure=sure)
    if name.endswith(WEIGHTS_SUFFIX):
        return Readers(Path(name).stem, [Path(name).expanduser()], preset("quick"), sure=sure)
    run = load_run(workspace.output / "runs" / name)
    return Readers(run.folder.name, run.fold_checkpoints(), run.settings, run, sure=sure)


def file_parts(csv: Path, readers: Readers, source: CropFiles, candidates: int) -> FileParts | None:
    """Return where readings of image files are kept, beside ``csv``, until it is written; None for a few, read in one.

    :func:`forget_file_parts` removes them.
    """
    if len(source) <= predict.CHUNK:
        return None
    language = readers.run.folder / LANGUAGE if readers.run else None
    learnt = [language.read_text(encoding="utf-8")] if language and language.is_file() else []
    settings, views = replace(readers.settings, candidates=candidates), [PLAIN] * len(readers.checkpoints)
    facts = steps.reading_facts(readers.files, views, settings, learnt, readers.sure)
    facts |= {"files": steps.hash_of(source.states()), "number_type": pick_number_type()}
    return FileParts(Parts.of(_beside(csv), facts).folder, source)


def forget_file_parts(csv: Path) -> None:
    """Remove what :func:`file_parts` kept beside ``csv``."""
    forget_parts(_beside(csv))
    with suppress(OSError):  # it is not there, or holds what is not ours
        _beside(csv).rmdir()


def _beside(csv: Path) -> Path:
    return csv.with_name(f"{csv.name}.reading")


def read_labelled(
    workspace: Workspace, store: Path, readers: Readers, folder: Path | None = None, max_megabytes: float = 20
) -> Labelled:
    """Read the crops of ``store``, and write predictions and report into ``folder``.

    Stopped, it goes on where it was. Raises ``HangulOcrError`` for a store that is none, for one whose labels lack, and
    for the very crops that the run was trained on.
    """
    with LmdbReader(store) as reader:
        _require_labels(reader)
        _require_unseen(reader, readers)
        folder = folder or workspace.output / "labelled" / f"{store.resolve().stem}-{readers.name}"
        table = _read(reader, readers, folder)
        predictions = write_table(table.drop(columns="label"), folder / PREDICTIONS)
        frame = _frame(table, reader)
        report = error_report(frame, reader, f"{readers.name} on {store.name}", max_megabytes)
        written = write_page(report, folder / REPORT, max_megabytes)
    forget_parts(folder)
    return Labelled(frame, predictions, written)


def _read(reader: LmdbReader, readers: Readers, folder: Path) -> pd.DataFrame:
    models, fusion = readers.models(), readers.fusion()
    views, rows = [PLAIN] * len(models), range(len(reader))
    parts = steps.reading_parts(folder, readers.files, views, reader, rows, readers.settings, [], readers.sure)
    # One model without a second opinion needs no list, as in `hangul-ocr predict`.
    candidates = readers.settings.candidates if fusion or len(models) > 1 else 1
    accelerator = steps.reading_accelerator()
    looks = {"scout": readers.first_look(), "sure": readers.sure}
    readings = read_crops(models, LmdbCrops(reader), candidates, accelerator, "read", fusion, parts=parts, **looks)
    return predictions_frame(reader.keys(), readings).assign(label=reader.texts())


def _frame(table: pd.DataFrame, reader: LmdbReader) -> pd.DataFrame:
    named = table.rename(columns={"text": "prediction", "label": "text"})
    # A crop that no photograph is told of stands for itself.
    named["group"] = [meta["group"] or meta["key"] for meta in reader.metas()]
    return with_slices(error_frame(with_crop_facts(named, reader)))


def _require_labels(reader: LmdbReader) -> None:
    empty = sum(not text for text in reader.texts())
    if empty:
        raise HangulOcrError(
            f"{reader.path}: {empty:,} of {len(reader):,} crops have no label; read them with `predict`"
        )


def _require_unseen(reader: LmdbReader, readers: Readers) -> None:
    if readers.run and reader.manifest and reader.manifest.content_hash in _learnt_from(readers.run):
        name = readers.run.folder.name
        raise HangulOcrError(
            f"{reader.path}: run {name} was trained on these crops; its honest errors are in `hangul-ocr report --run "
            f"{name}`"
        )


def _learnt_from(run: Run) -> Sequence[str]:
    """Return the content hashes of the stores that the run was trained on, as far as it keeps them."""
    files = run.folder.glob(f"*/{steps.EXTRA}")
    further = [facts["content"] for file in files for facts in json.loads(file.read_text(encoding="utf-8"))]
    return [data_of(run.folder), *further]
