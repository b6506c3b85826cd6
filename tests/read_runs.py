"""A run whose crops were read, without its training: what the analysis of errors starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hangul_ocr import results, steps
from hangul_ocr.data.dacon import read_competition
from hangul_ocr.data.tables import write_table
from hangul_ocr.models.checkpoint import save_model
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import preset
from hangul_ocr.steps import Prepared
from hangul_ocr.training.kfold import Run
from hangul_ocr.training.loop import BEST
from hangul_ocr.workspace import Workspace

NAME = "mine"


def workspace_in(root: Path) -> Workspace:
    return Workspace("local", root, root / "input", root / "output", root / "submissions")


def read_run(root: Path, competition: Path) -> tuple[Run, Prepared]:
    """Return a run of two folds with fresh weights, over a competition whose every third crop is read wrongly."""
    workspace, settings = workspace_in(root), preset("smoke")
    prepared = steps.prepare(read_competition(competition), workspace, settings)
    run = steps.start_run(workspace, prepared, settings, NAME)
    model = Recognizer(settings.model, run.alphabet)
    for fold in range(settings.folds):
        save_model(run.fold_folder(fold) / BEST, model)
    oof = pd.DataFrame({"img_path": prepared.train.keys(), "text": prepared.train.texts()})
    oof = oof.assign(prediction=[text if i % 3 else text + "가" for i, text in enumerate(oof["text"])])
    oof = oof.assign(confidence=np.linspace(0.1, 0.9, len(oof)).round(3))
    folds = prepared.folds.set_index("key")["fold"]
    write_table(oof.assign(fold=[folds[key] for key in oof["img_path"]]), run.folder / results.OOF)
    return run, prepared
