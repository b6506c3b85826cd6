"""Labels that the out-of-fold models contradict: ranked, shown, and written as a table that becomes corrections."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.evaluation.labels import LEAST_CONFIDENCE, rank_suspects
from hangul_ocr.evaluation.pictures import suspects_wall
from hangul_ocr.exploration import crop_images
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.results import OOF, OOF_CANDIDATES, load_oof, require_untouched
from hangul_ocr.training.kfold import Run

SUSPECTS = "suspects.csv"


def find_suspects(run: Run, train: LmdbReader, least_confidence: float = LEAST_CONFIDENCE) -> pd.DataFrame:
    """Return ``labels.rank_suspects`` of a run's out-of-fold predictions; ``train`` is the store that they are of.

    Raises ``HangulOcrError`` if there are no predictions, if they were edited, or if the crops or their labels are
    others by now.
    """
    oof = load_oof(run)
    labels = dict(zip(train.keys(), train.texts(), strict=True))
    other = [row.img_path for row in oof.itertuples() if labels.get(row.img_path) != row.text]
    if other:
        raise HangulOcrError(
            f"{run.folder / OOF}: of other crops or labels than {train.path} holds ({len(other):,}, first "
            f"{other[0]}); run notebook 05 or `hangul-ocr ensemble` again"
        )
    require_untouched(run.folder / OOF)
    return rank_suspects(oof, load_candidates(run.folder / OOF_CANDIDATES), least_confidence)


def with_suspicion(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return an error frame of the run's out-of-fold predictions with ``labels.rank_suspects``'s ``suspicion``.

    Rows whose label nothing contradicts for sure have none (nan).
    """
    ranked = rank_suspects(frame, load_candidates(run.folder / OOF_CANDIDATES))
    return frame.assign(suspicion=frame["img_path"].map(ranked.set_index("img_path")["suspicion"]))


def load_candidates(path: Path) -> dict[str, list[tuple[str, float]]]:
    """Return the N-best lists in a file of ``predict.save_candidates`` by ``img_path``; none if there is no file.

    Raises ``HangulOcrError`` for a file that is none.
    """
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return {row["img_path"]: [(text, float(score)) for text, score in row["candidates"]] for row in rows}
    except (ValueError, KeyError, TypeError):
        raise HangulOcrError(f"{path}: no N-best lists; run notebook 05 or `hangul-ocr ensemble` again") from None


def write_suspects(table: pd.DataFrame, path: Path) -> Path:
    """Write suspects to be decided on. Raises ``HangulOcrError`` if the file holds decisions already."""
    if path.is_file():
        kept = read_table(path)
        if "action" not in kept:
            raise HangulOcrError(f"{path}: exists and is no table of suspects; name another file by --out")
        if decided := int((kept["action"].str.strip() != "").sum()):
            raise HangulOcrError(f"{path}: holds {decided:,} decisions; move it, or name another file by --out")
    return write_table(table, path)


def show_suspects(table: pd.DataFrame, train: LmdbReader, most: int = 24) -> Figure:
    """Return a wall of the first ``most`` suspects with label, suggestion and how likely each is."""
    first = table.head(most)
    return suspects_wall(crop_images(train, first["img_path"]), first)
