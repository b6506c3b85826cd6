"""What a run left behind, read back: out-of-fold predictions, the test set's, and how good they are.

Files of a run folder: ``oof.csv``, ``test_predictions.csv``, ``test_candidates.jsonl`` (N-best lists) and
``members.csv`` (every fold model's own reading of the test crops, and every way to join them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hangul_ocr.data.dacon import Competition, canonical_path
from hangul_ocr.data.images import UnreadableImage, decode_trusted
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.tables import read_table
from hangul_ocr.evaluation.comparison import Comparison, compare_runs
from hangul_ocr.evaluation.errors import error_frame
from hangul_ocr.evaluation.metrics import Scores, join_answers, score
from hangul_ocr.evaluation.slices import picture_facts, with_slices
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.inference.joining import CHOSEN
from hangul_ocr.inference.submission import LOG, file_sha256, read_log
from hangul_ocr.training.kfold import ENVIRONMENT, Run
from hangul_ocr.workspace import Workspace, atomic_write_json

ANSWERS = Path("answers") / "test_answers.csv"
OOF, OOF_CANDIDATES, MEMBERS = "oof.csv", "oof_candidates.jsonl", "members.csv"
#: In an ensemble's folder: its members' and, nested, its ways' out-of-fold predictions.
ENSEMBLE_OOF = "ensemble_oof.csv"
TEST_PREDICTIONS, TEST_CANDIDATES = "test_predictions.csv", "test_candidates.jsonl"
RESCORED = "N-best re-scored"
_AGAIN = "put the original file back, or delete it and run `hangul-ocr ensemble` again"
_COMPARED = (
    "what is compared are runs and ensembles by their names, and tables with the columns img_path, text (the label) "
    f"and prediction, as a run's {OOF}"
)
#: Stands for a crop whose bytes are no whole image: (H, W, 3) uint8.
UNREADABLE = np.full((32, 96, 3), 160, np.uint8)
OOF_COLUMNS = ["img_path", "text", "prediction", "confidence", "fold"]


def write_record(folder: Path, made_from: Mapping[str, Any], *names: str) -> None:
    """Keep beside files of readings, under the first one's name, what they were made from and what they hold."""
    files = {name: file_sha256(folder / name) for name in names}
    atomic_write_json(_record_path(folder / names[0]), {"made_from": made_from, "files": files})


def load_record(path: Path) -> dict[str, Any]:
    """Return what :func:`write_record` kept beside the file at ``path``: ``made_from`` and ``files``; or nothing."""
    try:
        record = json.loads(_record_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"made_from", "files"} <= set(record) else {}


def _record_path(path: Path) -> Path:
    return path.with_suffix(".record.json")


def require_untouched(path: Path) -> None:
    """Raise ``HangulOcrError`` if a file of readings was edited since it was written: rows might be missing."""
    record = load_record(path)
    if record and record["files"].get(path.name) != file_sha256(path):
        raise HangulOcrError(f"{path}: edited since it was written; {_AGAIN}")


def load_oof(run: Run) -> pd.DataFrame:
    """Return the saved ``oof.csv`` with numbers as numbers.

    Raises ``HangulOcrError`` if it is missing, lacks a column, holds a number that is none, or a crop twice.
    """
    path = run.folder / OOF
    if not path.is_file():
        raise HangulOcrError(f"{path}: not there; run notebook 05 or `hangul-ocr ensemble` first")
    return _checked_predictions(path, OOF_COLUMNS)


def _checked_predictions(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    return _checked(path, read_table(path), columns, _AGAIN)


def _checked(path: Path, table: pd.DataFrame, columns: Sequence[str], advice: str) -> pd.DataFrame:
    """Return the table of ``path`` with numbers as numbers; what is wrong with it is told with ``advice``."""
    lacking = [name for name in columns if name not in table]
    if not len(table):
        raise HangulOcrError(f"{path}: no rows; {advice}")
    if lacking:
        raise HangulOcrError(f"{path}: no column {lacking[0]} (found: {', '.join(table.columns)}); {advice}")
    for name, kind in (("confidence", float), ("fold", int)):
        if name in table:
            table[name] = _numbers(path, table, name, advice).astype(kind)
    repeated = table.loc[table["img_path"].duplicated(), "img_path"]
    if len(repeated):
        raise HangulOcrError(f"{path}: {repeated.iloc[0]} stands there more than once; {advice}")
    return table


def _numbers(path: Path, table: pd.DataFrame, name: str, advice: str) -> pd.Series:
    values = pd.to_numeric(table[name], errors="coerce")
    bad = values.isna() | ((values != values.round()) if name == "fold" else ~values.between(0, 1))
    if bad.any():
        row = table[bad].iloc[0]
        raise HangulOcrError(f"{path}: {row['img_path']} has the {name} {row[name]!r}, which is none; {advice}")
    return values


def oof_scores(run: Run, folds: pd.DataFrame) -> Scores:
    """Return the scores of the out-of-fold predictions, their intervals drawn over the groups of ``folds``."""
    oof, group_of = load_oof(run), groups_by_key(folds)
    groups = [group_of.get(path, path) for path in oof["img_path"]]
    return score(oof["text"].tolist(), oof["prediction"].tolist(), groups)


def groups_by_key(folds: pd.DataFrame) -> dict[str, object]:
    """Return for each crop of the table of folds its group: the photograph, or the crops that are nearly the same."""
    return dict(zip(folds["key"], folds["group"], strict=True))


def oof_errors(run: Run, train: LmdbReader, folds: pd.DataFrame) -> pd.DataFrame:
    """Return the out-of-fold predictions as an ``errors.error_frame``, cut into slices.

    Each crop's size, source, tags, contrast and sharpness come from ``train``, the store of the training crops;
    ``folds`` are the table ``key,fold`` that the run was trained with. Raises ``HangulOcrError`` if rows of a fold that
    was read are missing, or do not belong to these crops and labels.
    """
    oof = load_oof(run)
    _require_whole(run.folder / OOF, oof, train, folds)
    require_untouched(run.folder / OOF)
    oof = with_crop_facts(oof, train)
    group_of = groups_by_key(folds)
    oof["group"] = [group_of.get(key, key) for key in oof["img_path"]]
    training = pd.DataFrame({"text": train.texts(), "fold": train.keys()})
    training["fold"] = training["fold"].map(folds.set_index("key")["fold"].astype(int))
    return with_slices(error_frame(oof, training))


def with_crop_facts(table: pd.DataFrame, store: LmdbReader) -> pd.DataFrame:
    """Return ``table`` with what is known of the crops at its ``img_path``, as far as the store and the pictures tell.

    Added: ``width,height,source,tags`` of the store, ``contrast,sharpness`` of the picture.
    """
    metas = pd.DataFrame(store.metas())
    known = [name for name in ("key", "width", "height", "source", "tags") if name in metas]
    joined = table.merge(metas[known], left_on="img_path", right_on="key", how="left", validate="one_to_one")
    facts = pd.DataFrame([_facts_of(store, key) for key in joined["img_path"]], index=joined.index)
    return pd.concat([joined.drop(columns="key"), facts], axis=1)


def _require_whole(path: Path, oof: pd.DataFrame, train: LmdbReader, folds: pd.DataFrame) -> None:
    labels = dict(zip(train.keys(), train.texts(), strict=True))
    strange = oof.loc[~oof["img_path"].isin(labels.keys()), "img_path"]
    if len(strange):
        raise HangulOcrError(f"{path}: {strange.iloc[0]} is no crop of {train.path}; {_AGAIN}")
    own = folds.set_index("key")["fold"].astype(int)
    expected = own[own.isin(oof["fold"].unique())]
    missing = expected.index.difference(oof["img_path"])
    if len(missing):
        raise HangulOcrError(
            f"{path}: {len(missing):,} of {len(expected):,} rows are missing (first {missing[0]}); {_AGAIN}"
        )
    moved = oof[oof["img_path"].map(own) != oof["fold"]]
    if len(moved):
        row = moved.iloc[0]
        raise HangulOcrError(
            f"{path}: {row['img_path']} is in fold {own[row['img_path']]}, not {row['fold']}; {_AGAIN}"
        )
    changed = oof[oof["img_path"].map(labels) != oof["text"]]
    if len(changed):
        row = changed.iloc[0]
        was = labels[row["img_path"]]
        raise HangulOcrError(
            f"{path}: {row['img_path']} is labelled “{row['text']}”, the crop itself “{was}”; {_AGAIN}"
        )


def _facts_of(train: LmdbReader, key: str) -> dict[str, float]:
    """Return what the picture itself tells; nothing for one that cannot be decoded."""
    image = crop_or_none(train, key)
    return {} if image is None else picture_facts(image)


def crop_or_none(train: LmdbReader, key: str) -> np.ndarray | None:
    """Return the crop with this key as (H, W, 3) uint8 RGB, or None if its bytes are no whole image.

    Raises ``HangulOcrError`` if the store has no such crop.
    """
    try:
        return decode_trusted(train.image_bytes(train.index_of(key)))
    except KeyError:
        raise HangulOcrError(f"{train.path}: no crop {key}; write the LMDB again with `hangul-ocr lmdb`") from None
    except UnreadableImage:
        return None


def load_predictions(workspace: Workspace, name: str) -> pd.DataFrame:
    """Return the out-of-fold table of the run or ensemble ``name``, or the table in a CSV of that path, to compare by.

    Raises ``HangulOcrError`` if there is none of these.
    """
    path = _compared_file(workspace, name)
    table = read_table(path)
    require_untouched(path)  # before the columns: what is wrong with a run's own table is that somebody edited it
    if "prediction" not in table and CHOSEN in table:  # an ensemble's table has a column for each way
        table = table.rename(columns={CHOSEN: "prediction"})
    if "prediction" not in table and "text" in table:  # as `hangul-ocr predict` and `evaluate` write it
        raise HangulOcrError(
            f"{path}: predictions without the labels beside them; {_COMPARED}; `hangul-ocr score` holds predictions "
            "against answers"
        )
    return _checked(path, table, ("img_path", "text", "prediction"), _COMPARED)


def _compared_file(workspace: Workspace, name: str) -> Path:
    """Return the table that ``name`` stands for: a run's, an ensemble's, or that of this path."""
    joint, is_run = workspace.output / "ensembles" / name / ENSEMBLE_OOF, (workspace.output / "runs" / name).is_dir()
    if joint.is_file() and not is_run:
        return joint
    is_file = Path(name).suffix.lower() == ".csv" and not is_run
    return Path(name).expanduser() if is_file else require_read(workspace, name)


def load_test_predictions(run: Run, competition: Competition) -> pd.DataFrame:
    """Return the run's ``test_predictions.csv``: each test crop once, with a confidence in 0..1.

    Raises ``HangulOcrError`` if it is missing, was edited, or is of other crops.
    """
    path = run.folder / TEST_PREDICTIONS
    if not path.is_file():
        raise HangulOcrError(f"{path}: not there; run notebook 05 or `hangul-ocr ensemble` first")
    table = _checked_predictions(path, ("img_path", "text", "confidence"))
    if set(table["img_path"]) != set(competition.test["img_path"]):
        raise HangulOcrError(f"{path}: its rows are not those of {competition.folder / 'test.csv'}; {_AGAIN}")
    require_untouched(path)
    return table


def require_read(workspace: Workspace, name: str) -> Path:
    """Return the path of the run's out-of-fold table; ``HangulOcrError`` names the runs there are if it has none."""
    path = workspace.output / "runs" / name / OOF
    if path.is_file():
        return path
    known = sorted(found.parent.name for found in path.parent.parent.glob(f"*/{OOF}"))
    have = f"there are {', '.join(known)}" if known else "no run has out-of-fold predictions yet"
    raise HangulOcrError(f"run {name!r}: no {path} ({have}); name another run, or run `hangul-ocr ensemble` first")


def compare_named(workspace: Workspace, first: str, second: str, folds: pd.DataFrame) -> Comparison:
    """Compare two runs or ensembles by their names, or two CSV files by their paths; see :func:`load_predictions`.

    Crops of one group of ``folds`` are tested as one.
    """
    names = (_short_name(first), _short_name(second))
    names = names if len(set(names)) == 2 else (first, second)
    tables = [load_predictions(workspace, name) for name in (first, second)]
    return compare_runs(*tables, names, groups_by_key(folds))


def _short_name(name: str) -> str:
    """Return a run's name as it is, and of a CSV its file's name, or its run's where every run's is called alike."""
    path = Path(name)
    if path.suffix.lower() != ".csv":
        return name
    return path.resolve().parent.name if path.name in (OOF, ENSEMBLE_OOF) else path.stem


def other_runs(run: Run) -> list[str]:
    """Return the names of the runs over the same crops and labels that have been read, the newest first."""
    own = data_of(run.folder)
    files = [path for path in run.folder.parent.glob(f"*/{OOF}") if path.parent != run.folder]
    alike = [path for path in files if own and data_of(path.parent) == own]
    return [path.parent.name for path in sorted(alike, key=lambda path: path.stat().st_mtime, reverse=True)]


def data_of(folder: Path) -> str:
    """Return the hash of the crops and labels that a run was made from; "" if nobody knows."""
    try:
        return str(json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8")).get("data", ""))
    except (OSError, ValueError, AttributeError):
        return ""


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
    predictions = _as_answers_call_them(predictions, answers)
    lost = answers.loc[~answers["img_path"].isin(predictions["img_path"]), ["img_path"]].assign(text="")
    return join_answers(pd.concat([predictions, lost], ignore_index=True), answers)


def _as_answers_call_them(predictions: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Return predictions whose paths all begin with a folder that the answers' do not name, without that folder.

    `hangul-ocr predict FOLDER` names images from where it was called, a table of answers from where it lies.
    """
    paths, known = predictions["img_path"], set(answers["img_path"])
    if paths.empty or paths.isin(known).any():
        return predictions
    first = paths.iloc[0].split("/")
    for depth in range(1, len(first)):
        folder = "/".join(first[:depth]) + "/"
        cut = paths.str.removeprefix(folder)
        if paths.str.startswith(folder).all() and cut.isin(known).all():
            return predictions.assign(img_path=cut)
    example = answers["img_path"].iloc[0] if len(answers) else "none"
    raise HangulOcrError(
        f"no path of the predictions is one of the answers' (predictions {paths.iloc[0]}, answers {example}): let "
        "`hangul-ocr predict` read the answers' CSV instead of a folder, or write the paths alike"
    )


def _comparable(what: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return ``table`` with its paths in the one form that paths are compared in."""
    lacking = [name for name in ("img_path", "text") if name not in table]
    if lacking:
        found = ", ".join(map(str, table.columns))
        raise HangulOcrError(f"{what}: no column {lacking[0]!r} (found: {found}); name the columns img_path and text")
    return table.assign(img_path=table["img_path"].map(canonical_path))


def final_table(run: Run, competition: Competition, folds: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what a finished run has to show: accuracies with their 95 % intervals."""
    rows = [("cross-validated accuracy", accuracy_line(oof_scores(run, folds)))]
    for part, scores in answer_scores(run, competition).items():
        name = "accuracy on the test answers" if part == "all" else f"  of these, {part}"
        rows.append((name, accuracy_line(scores)))
    return rows


def submission_rows(submission: Path, competition: Competition) -> list[tuple[str, str]]:
    """Return what is known of the file handed in: who made it, its cross-validated score, its score on the answers."""
    if not submission.is_file():
        return []
    answers, table = answers_of(competition), read_table(submission)
    rows = [("handed in", _handed_in(submission))]
    if answers is not None and {"img_path", "text"} <= set(table):
        rows.append(("  on the test answers", accuracy_line(scores_by_part(table, answers)["all"])))
    return rows


def _handed_in(submission: Path) -> str:
    """Return which run made the file and its cross-validated score: the last row of the log with its bytes."""
    log = read_log(submission.with_name(LOG))
    own = log[log["sha256"] == file_sha256(submission)]
    if own.empty:
        return f"a file that {LOG} does not know"
    last = own.iloc[-1]
    return f"{last['run']}, cross-validated {100 * last['cv']:.2f} %" if last["cv"] == last["cv"] else str(last["run"])


def accuracy_line(scores: Scores) -> str:
    """Return exact accuracy, its interval and the number of rows in words."""
    low, high = scores.intervals["exact"]
    return f"{100 * scores.exact:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}), n = {scores.n:,}"
