"""The steps of a competition, each one call, that the notebooks and the command line share.

open_competition -> prepare -> start_run -> pretrain_run -> train_run -> read_oof, read_test -> hand_in -> summary.
Each leaves its result on disk and takes it up again if it is there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hangul_ocr.data.batches import LmdbCrops
from hangul_ocr.data.dacon import (
    Competition,
    find_competition,
    fingerprint,
    read_competition,
    test_samples,
    train_samples,
)
from hangul_ocr.data.folds import ensure_folds
from hangul_ocr.data.lmdb_store import LmdbReader, Manifest, matches, write_lmdb
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.evaluation.metrics import Scores, join_answers, score
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.inference.ensemble import most_confident, vote
from hangul_ocr.inference.predict import predictions_frame, read_crops, save_candidates
from hangul_ocr.inference.submission import file_sha256, log_submission, write_submission
from hangul_ocr.models.checkpoint import load_model
from hangul_ocr.settings import Settings
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.synthesis.stream import synthetic_sources
from hangul_ocr.training.kfold import Run, fold_rows, load_folds_models, open_run, pretrain, train_fold
from hangul_ocr.training.loop import StageResult
from hangul_ocr.workspace import Workspace, git_commit

ANSWERS = Path("answers") / "test_answers.csv"
OOF, TEST_PREDICTIONS, TEST_CANDIDATES, MEMBERS = "oof.csv", "test_predictions.csv", "test_candidates.jsonl", "members.csv"


@dataclass(frozen=True)
class Prepared:
    """A competition as the training sees it: its LMDBs and folds. ``test`` is None if there is no test.csv."""

    competition: Competition
    train: LmdbReader
    test: LmdbReader | None
    folds: pd.DataFrame

    @property
    def alphabet(self) -> Alphabet:
        """The default alphabet and whatever else the training labels hold."""
        return Alphabet.for_texts(self.train.texts())


def open_competition(workspace: Workspace, data: str = "", train: int = 3000, test: int = 800) -> Competition:
    """Return the competition in the folder ``data``, or the one in ``input/``; where there is none, make the sample."""
    if data:
        folder = Path(data).expanduser()
        return read_competition(find_competition(folder if folder.is_absolute() else workspace.root / folder))
    try:
        return read_competition(find_competition(workspace.input))
    except HangulOcrError as error:
        if not str(error).startswith("no train.csv"):
            raise
    sample = workspace.sample_competition
    if not (sample / "train.csv").is_file():
        print(f"No competition in {workspace.input}: making the sample competition in {sample} (about half a minute).")
        make_competition(sample, train, test, seed=0)
    return read_competition(sample)


def prepare(competition: Competition, workspace: Workspace, settings: Settings) -> Prepared:
    """Write the competition's LMDBs and folds under ``output/data/NAME``, or take those that are there."""
    folder = data_folder(competition, workspace)
    train = _store(folder / "train.lmdb", competition, train_samples, len(competition.train))
    test = None
    if len(competition.test):
        test = _store(folder / "test.lmdb", competition, test_samples, len(competition.test))
    folds = ensure_folds(folder / f"folds{settings.folds}.csv", train, settings.folds, settings.seed)
    return Prepared(competition, train, test, folds)


def data_folder(competition: Competition, workspace: Workspace) -> Path:
    """Return where the competition's LMDBs and folds lie."""
    return workspace.scratch / "data" / competition.name


def _store(path: Path, competition: Competition, importer, total: int) -> LmdbReader:
    settings = {"competition": fingerprint(competition), "importer": importer.__name__}
    if not matches(path, settings):
        # A store is never changed in place; folds of a former one no longer fit.
        for stale in path.parent.glob("folds*.csv") if path.name == "train.lmdb" else ():
            stale.unlink()
        write_lmdb(path, importer(competition), alphabet=None, settings=settings, total=total)
    return LmdbReader(path)


def manifest_table(prepared: Prepared) -> pd.DataFrame:
    """Return what each store read, kept and left out by reason."""
    stores = {"train": prepared.train, "test": prepared.test}
    rows = {name: _manifest_row(reader.manifest) for name, reader in stores.items() if reader is not None}
    return pd.DataFrame.from_dict(rows, orient="index").fillna(0)


def _manifest_row(manifest: Manifest) -> dict[str, int]:
    return {"read": manifest.read, "kept": manifest.kept} | manifest.left_out


def start_run(workspace: Workspace, prepared: Prepared, settings: Settings, name: str) -> Run:
    """Create the run folder ``output/runs/NAME``, or go on in it; its name may not leave ``output/runs``."""
    if not name or Path(name).name != name or name.startswith("."):
        raise HangulOcrError(f"run name {name!r}: use a plain name such as quick or resnet-48px")
    facts = {"competition": prepared.competition.name, "data": prepared.train.manifest.content_hash}
    return open_run(workspace.output / "runs" / name, settings, prepared.alphabet, facts)


def pretrain_run(run: Run, prepared: Prepared, deadline: float | None = None) -> StageResult:
    """Pretrain the run's network on streamed synthetic crops; a sample competition's test words and font stay out."""
    stream, validation = synthetic_sources(prepared.competition.folder, run.settings.seed)
    return pretrain(run, stream, validation, deadline)


def train_run(
    run: Run, prepared: Prepared, init_from: Path | None = None, deadline: float | None = None
) -> list[StageResult]:
    """Fine-tune the settings' folds in turn from ``init_from`` (by default the run's own pretraining)."""
    synthetic = None
    if run.settings.fine_tuning.synthetic_share > 0:
        synthetic, _ = synthetic_sources(prepared.competition.folder, run.settings.seed + 1)
    start = init_from or (run.pretrained if run.pretrained.is_file() else None)
    results = []
    for fold in range(run.settings.trained_folds):
        results.append(train_fold(run, fold, prepared.train, prepared.folds, synthetic, start, deadline))
        if not results[-1].finished:
            break
    return results


def read_oof(run: Run, prepared: Prepared) -> pd.DataFrame:
    """Let each fold's model read the crops that it was not trained on; write and return ``oof.csv``."""
    tables = []
    for fold in range(run.settings.folds):
        checkpoint = run.fold_folder(fold) / "best.safetensors"
        if not checkpoint.is_file():
            continue
        rows, _ = fold_rows(prepared.train, prepared.folds, fold)
        readings = read_crops(
            [load_model(checkpoint)], LmdbCrops(prepared.train, rows), run.settings.candidates, progress=f"OOF {fold}"
        )
        keys, texts = prepared.train.keys(), prepared.train.texts()
        found = predictions_frame([keys[i] for i in rows], readings)
        found = found.rename(columns={"text": "prediction"}).assign(text=[texts[i] for i in rows], fold=fold)
        tables.append(found[["img_path", "text", "prediction", "confidence", "fold"]])
    if not tables:
        raise HangulOcrError(f"{run.folder}: no trained fold; run notebook 05 or `hangul-ocr train` first")
    oof = pd.concat(tables, ignore_index=True)
    write_table(oof, run.folder / OOF)
    return oof


def load_oof(run: Run) -> pd.DataFrame:
    """Return the saved ``oof.csv`` with numbers as numbers."""
    path = run.folder / OOF
    if not path.is_file():
        raise HangulOcrError(f"{path}: not there; run notebook 05 or `hangul-ocr train` first")
    return read_table(path).astype({"confidence": float, "fold": int})


def read_test(run: Run, prepared: Prepared) -> pd.DataFrame:
    """Read the test crops with all fold models; write predictions, N-best lists and each member's own choice.

    A test image that could not be read gets an empty text with confidence 0, so that no row is missing.
    """
    if prepared.test is None:
        raise HangulOcrError(f"{prepared.competition.folder / 'test.csv'}: not found; put the competition's file there")
    keys = prepared.test.keys()
    readings = read_crops(load_folds_models(run), LmdbCrops(prepared.test), run.settings.candidates, progress="test")
    predictions = predictions_frame(keys, readings)
    lost = sorted(set(prepared.competition.test["img_path"]) - set(keys))
    if lost:
        print(f"{len(lost)} test images could not be read and are predicted as empty, first {lost[0]}")
        blank = pd.DataFrame({"img_path": lost, "text": "", "confidence": 0.0})
        predictions = pd.concat([predictions, blank], ignore_index=True)
    save_candidates(run.folder / TEST_CANDIDATES, keys, readings)
    members = {f"model {k}": [r.own[k] for r in readings] for k in range(len(readings[0].own))}
    members |= {"vote": [vote(r) for r in readings], "maximum confidence": [most_confident(r) for r in readings]}
    joint = predictions["text"][: len(keys)].tolist()
    write_table(pd.DataFrame({"img_path": keys, **members, "N-best re-scored": joint}), run.folder / MEMBERS)
    write_table(predictions, run.folder / TEST_PREDICTIONS)
    return predictions


def hand_in(run: Run, prepared: Prepared, workspace: Workspace) -> Path:
    """Write ``submissions/submission.csv`` from the run's test predictions, validated, and log it."""
    source = run.folder / TEST_PREDICTIONS
    if not source.is_file():
        raise HangulOcrError(f"{source}: not there; run notebook 05 or `hangul-ocr predict-test` first")
    path = write_submission(read_table(source), prepared.competition, workspace.submissions / "submission.csv")
    scores = oof_scores(run)
    low, high = scores.intervals["exact"]
    commit = (git_commit(workspace.root) or {}).get("commit", "")
    log_submission(
        workspace.submissions / "log.csv",
        run=run.folder.name,
        commit=commit,
        cv=scores.exact,
        cv_low=low,
        cv_high=high,
        file=path.name,
        sha256=file_sha256(path),
    )
    return path


def oof_scores(run: Run) -> Scores:
    """Return the scores of the out-of-fold predictions."""
    oof = load_oof(run)
    return score(oof["text"].tolist(), oof["prediction"].tolist())


def answers_of(competition: Competition) -> pd.DataFrame | None:
    """Return the sample competition's test answers, which only a finished prediction may be held against."""
    path = competition.folder / ANSWERS
    return read_table(path) if path.is_file() else None


def answer_scores(run: Run, competition: Competition) -> dict[str, Scores]:
    """Return the scores of every member and of the ensembles against the answers; empty where there are none."""
    answers = answers_of(competition)
    if answers is None:
        return {}
    table = read_table(run.folder / MEMBERS)
    scores = {}
    for name in table.columns.drop("img_path"):
        joined = join_answers(_covering(table[["img_path", name]].rename(columns={name: "text"}), answers), answers)
        scores[name] = score(joined["text"].tolist(), joined["prediction"].tolist())
    return scores


def _covering(predictions: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Add an empty prediction for each crop that could not be read: it counts as wrong."""
    lost = answers.loc[~answers["img_path"].isin(predictions["img_path"]), ["img_path"]].assign(text="")
    return pd.concat([predictions, lost], ignore_index=True)


def with_changes(settings: Settings, **fine_tuning: object) -> Settings:
    """Return ``settings`` with some of the fine-tuning's fields replaced."""
    return dataclasses.replace(settings, fine_tuning=dataclasses.replace(settings.fine_tuning, **fine_tuning))
