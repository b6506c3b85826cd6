"""What a run left behind, read back: out-of-fold predictions, the test set's, and how good they are.

Files of a run folder: ``oof.csv``, ``test_predictions.csv``, ``test_candidates.jsonl`` (N-best lists) and
``members.csv`` (every fold model's own reading of the test crops, and every way to join them).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hangul_ocr.data.dacon import Competition, canonical_path
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.tables import read_table
from hangul_ocr.evaluation.errors import error_frame
from hangul_ocr.evaluation.metrics import Scores, join_answers, score
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.training.kfold import Run

ANSWERS = Path("answers") / "test_answers.csv"
OOF, MEMBERS = "oof.csv", "members.csv"
TEST_PREDICTIONS, TEST_CANDIDATES = "test_predictions.csv", "test_candidates.jsonl"
RESCORED = "N-best re-scored"
OOF_COLUMNS = ["img_path", "text", "prediction", "confidence", "fold"]


def load_oof(run: Run) -> pd.DataFrame:
    """Return the saved ``oof.csv`` with numbers as numbers."""
    path = run.folder / OOF
    if not path.is_file():
        raise HangulOcrError(f"{path}: not there; run notebook 05 or `hangul-ocr ensemble` first")
    oof = read_table(path)
    lacking = [name for name in OOF_COLUMNS if name not in oof]
    if lacking or not len(oof):
        what = f"no column {lacking[0]!r}" if lacking else "no rows"
        raise HangulOcrError(f"{path}: {what}; delete it and run `hangul-ocr ensemble` again")
    try:
        return oof.astype({"confidence": float, "fold": int})
    except ValueError as error:
        raise HangulOcrError(f"{path}: {error}; delete it and run `hangul-ocr ensemble` again") from None


def oof_scores(run: Run) -> Scores:
    """Return the scores of the out-of-fold predictions."""
    oof = load_oof(run)
    return score(oof["text"].tolist(), oof["prediction"].tolist())


def oof_errors(run: Run, train: LmdbReader) -> pd.DataFrame:
    """Return the out-of-fold predictions as an ``errors.error_frame`` with each crop's size and source.

    ``train`` is the store of the training crops.
    """
    metas = pd.DataFrame(train.metas())[["key", "width", "height", "source"]]
    oof = load_oof(run).merge(metas, left_on="img_path", right_on="key", how="left", validate="one_to_one")
    return error_frame(oof.drop(columns="key"))


def load_members(run: Run) -> pd.DataFrame:
    """Return each test crop's reading by every fold model (``fold 0`` ...) and by every way to join them."""
    path = run.folder / MEMBERS
    if not path.is_file():
        raise HangulOcrError(f"{path}: not there; run notebook 05 or `hangul-ocr ensemble` first")
    return read_table(path)


def member_agreement(members: pd.DataFrame) -> pd.DataFrame:
    """Return for each pair of columns of :func:`load_members` the share of crops on which both read the same."""
    names = list(members.columns.drop("img_path"))
    shares = [[(members[a] == members[b]).mean() for b in names] for a in names]
    return pd.DataFrame(shares, index=names, columns=names)


def disputed(members: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of :func:`load_members` on which the fold models disagree."""
    own = members[[name for name in members.columns if name.startswith("fold ")]]
    return members.loc[own.nunique(axis=1) > 1]


def answers_of(competition: Competition) -> pd.DataFrame | None:
    """Return the sample competition's test answers, which only a finished prediction may be held against."""
    path = competition.folder / ANSWERS
    return read_table(path) if path.is_file() else None


def member_scores(run: Run, competition: Competition) -> pd.DataFrame:
    """Return how each member and each ensemble does against the answers; empty where there are none.

    Columns ``name,kind,n,accuracy,low,high``, as ``plots.ensemble_comparison`` draws them.
    """
    answers = answers_of(competition)
    rows = []
    for name in load_members(run).columns.drop("img_path") if answers is not None else ():
        predictions = load_members(run)[["img_path", name]].rename(columns={name: "text"})
        scores = _scores_of(_joined(predictions, answers))
        low, high = scores.intervals["exact"]
        kind = "member" if name.startswith("fold ") else "ensemble"
        rows.append({"name": name, "kind": kind, "n": scores.n, "accuracy": scores.exact, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["name", "kind", "n", "accuracy", "low", "high"])


def answer_scores(run: Run, competition: Competition) -> dict[str, Scores]:
    """Return the final predictions' scores against the answers, by part; empty where there are no answers.

    The parts are all test crops and, where the answers tell, those in fonts seen and never seen in training.
    """
    answers = answers_of(competition)
    path = run.folder / TEST_PREDICTIONS
    if answers is None or not path.is_file():
        return {}
    return scores_by_part(read_table(path), answers)


def scores_by_part(predictions: pd.DataFrame, answers: pd.DataFrame) -> dict[str, Scores]:
    """Return the scores of ``predictions`` on all ``answers``, and on either kind of font if they say ``held_out``.

    Missing predictions count as wrong, and their number is printed. Raises ``HangulOcrError`` for a table without
    ``img_path,text``, and for paths that repeat or that the answers do not have.
    """
    joined = _joined(predictions, answers)
    missing = len(joined) - len(predictions)
    if missing:
        print(f"{missing:,} of {len(joined):,} predictions are missing and count as wrong")
    scores = {"all": _scores_of(joined)}
    if "held_out" in joined and joined["held_out"].nunique() > 1:
        scores["fonts of the training"] = _scores_of(joined[joined["held_out"] != "1"])
        scores["a font never trained on"] = _scores_of(joined[joined["held_out"] == "1"])
    return scores


def _scores_of(joined: pd.DataFrame) -> Scores:
    return score(joined["text"].tolist(), joined["prediction"].tolist())


def _joined(predictions: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Join by path; a crop that could not be read has an empty prediction, which counts as wrong."""
    predictions, answers = (
        _comparable("predictions", predictions)[["img_path", "text"]],
        _comparable("answers", answers),
    )
    lost = answers.loc[~answers["img_path"].isin(predictions["img_path"]), ["img_path"]].assign(text="")
    return join_answers(pd.concat([predictions, lost], ignore_index=True), answers)


def _comparable(what: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return ``table`` with its paths in the one form that paths are compared in."""
    lacking = [name for name in ("img_path", "text") if name not in table]
    if lacking:
        found = ", ".join(map(str, table.columns))
        raise HangulOcrError(f"{what}: no column {lacking[0]!r} (found: {found}); name the columns img_path and text")
    return table.assign(img_path=table["img_path"].map(canonical_path))


def final_table(run: Run, competition: Competition) -> list[tuple[str, str]]:
    """Return what a finished run has to show: accuracies with their 95 % intervals."""
    rows = [("cross-validated accuracy", accuracy_line(oof_scores(run)))]
    for part, scores in answer_scores(run, competition).items():
        name = "accuracy on the test answers" if part == "all" else f"  of these, {part}"
        rows.append((name, accuracy_line(scores)))
    return rows


def submission_rows(submission: Path, competition: Competition) -> list[tuple[str, str]]:
    """Return what is known of the file handed in: who made it, its cross-validated score, its score on the answers."""
    log = read_table(submission.with_name("log.csv")) if submission.with_name("log.csv").is_file() else pd.DataFrame()
    rows = []
    if len(log):
        last = log.iloc[-1]
        rows.append(("handed in", f"{last['run']}, cross-validated {100 * float(last['cv']):.2f} %"))
    answers, table = answers_of(competition), read_table(submission) if submission.is_file() else pd.DataFrame()
    if answers is not None and {"img_path", "text"} <= set(table):
        rows.append(("  on the test answers", accuracy_line(scores_by_part(table, answers)["all"])))
    return rows


def accuracy_line(scores: Scores) -> str:
    """Return exact accuracy, its interval and the number of rows in words."""
    low, high = scores.intervals["exact"]
    return f"{100 * scores.exact:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}), n = {scores.n:,}"
