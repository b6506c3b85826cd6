"""Ensembles of runs and of test-time views: read out-of-fold, judged, the winner kept, the test crops read with it.

A member is a run under one view: out-of-fold the model of the fold that held the crop out, on the test crops the mean
of all its fold models. ``output/ensembles/NAME/`` holds ``ensemble.json`` (members, choice, honest score, what it was
made from), ``comparison.csv``, ``ensemble_oof.csv``, ``test_predictions.csv``, ``test_candidates.jsonl`` and
``members.csv``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hangul_ocr import steps
from hangul_ocr.data.crops import LmdbCrops
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.evaluation.metrics import accuracy_interval, exact_matches
from hangul_ocr.hangul import HangulOcrError, normalise
from hangul_ocr.inference.decoding import decoding_facts, make_fusion
from hangul_ocr.inference.ensemble import Reading, by_member
from hangul_ocr.inference.joining import CHOSEN, WAYS, Choice, Stack, apply, comparison, judge
from hangul_ocr.inference.parts import forget_parts
from hangul_ocr.inference.predict import read_crops, save_candidates
from hangul_ocr.inference.submission import file_sha256
from hangul_ocr.inference.views import PLAIN, known_views
from hangul_ocr.models.folding import load_for_reading
from hangul_ocr.results import ENSEMBLE_OOF, MEMBERS, TEST_CANDIDATES, TEST_PREDICTIONS
from hangul_ocr.steps import Prepared
from hangul_ocr.training.kfold import Run, load_run
from hangul_ocr.training.loop import BEST
from hangul_ocr.workspace import Workspace, atomic_write_json

RECORD, COMPARISON = "ensemble.json", "comparison.csv"
#: The column of ``members.csv`` with what the ensemble chose.
JOINT = "the ensemble"
_FORMAT = 3


@dataclass(frozen=True)
class Ensemble:
    """Runs of one competition, each with its own folds of the same crops, and the views that each of them sees."""

    folder: Path
    runs: list[Run]
    prepared: list[Prepared]
    views: list[str]

    @property
    def members(self) -> list[str]:
        """The members' names: every run, and every run under each view."""
        return [_member(run, view) for run in self.runs for view in self.views]

    @property
    def train(self) -> LmdbReader:
        """The training crops, the same for all runs."""
        return self.prepared[0].train

    @cached_property
    def folds(self) -> list[dict[str, int]]:
        """For each run the fold of each crop, by key."""
        return [dict(zip(p.folds["key"], p.folds["fold"], strict=True)) for p in self.prepared]


def _member(run: Run, view: str) -> str:
    return run.folder.name if view == PLAIN else f"{run.folder.name}, {view}"


def open_ensemble(
    workspace: Workspace, run: Run, prepared: Prepared, further: Sequence[str] = (), views: Sequence[str] = ()
) -> Ensemble:
    """Return the ensemble of ``run``, the runs named ``further``, and each of them under ``views``.

    Raises ``HangulOcrError`` for a run that is named twice, has untrained folds, or was made from other crops.
    """
    names, chosen = [run.folder.name, *further], [PLAIN, *known_views(views)]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise HangulOcrError(f"run {repeated} is named twice; name each member once")
    others = [load_run(workspace.output / "runs" / name) for name in further]
    own = [steps.prepare(prepared.competition, workspace, other.settings) for other in others]
    for other, its in zip(others, own, strict=True):
        steps.require_same_data(other.folder, its.hashes())
    ensemble = Ensemble(ensemble_folder(workspace, names, chosen[1:]), [run, *others], [prepared, *own], chosen)
    _require_trained(ensemble)
    for member in ensemble.runs:
        steps.say_what_is_unfinished(member)
    _say_what_is_not_known(ensemble)
    return ensemble


def named(text: str) -> list[str]:
    """Return the names in a list with commas, as the notebooks' parameters and the command line write it."""
    return [name.strip() for name in text.split(",") if name.strip()]


def ensemble_folder(workspace: Workspace, names: Sequence[str], views: Sequence[str]) -> Path:
    """Return where the ensemble of these runs and views lies; a long name is cut and marked."""
    name = "-".join(["+".join(names), *views])
    if len(name.encode()) > 100:  # file systems count bytes, and a syllable has three
        start = name.encode()[:90].decode(errors="ignore")
        name = f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return workspace.output / "ensembles" / name


def _require_trained(ensemble: Ensemble) -> None:
    for run in ensemble.runs:
        steps.require_own_alphabet(run)
        missing = sorted(set(range(run.settings.trained_folds)) - set(steps.trained_folds(run)))
        if missing:
            name = run.folder.name
            raise HangulOcrError(
                f"run {name}: fold {missing[0]} is not trained; finish it with `hangul-ocr train --run {name} --fold "
                f"{missing[0]}`, or leave the run out"
            )


def _say_what_is_not_known(ensemble: Ensemble) -> None:
    """Name the members whose alphabet lacks characters of the labels; see ``inference.ensemble.with_stand_ins``."""
    characters = set().union(*map(set, ensemble.train.texts()))
    for run in ensemble.runs:
        lacking = run.alphabet.missing("".join(characters))
        if lacking:
            shown = " ".join(sorted(lacking)[:8])
            print(f"run {run.folder.name} cannot write {len(lacking)} characters of the labels ({shown}); see docs")


# --- out-of-fold ------------------------------------------------------------------------------------------------------


def choose(ensemble: Ensemble) -> dict[str, Any]:
    """Read the training crops out-of-fold with all members, judge the ways to join them, and keep the winner.

    Returns the record that ``ensemble.json`` holds. What was read before with the same weights, crops and settings is
    taken from the disk.
    """
    made_from = _made_from(ensemble)
    record = load_record(ensemble)
    if record and record["made_from"] == made_from:
        require_untouched(ensemble, COMPARISON, ENSEMBLE_OOF)
        return record
    rows, readings = _read_out_of_fold(ensemble)
    all_keys, all_texts = ensemble.train.keys(), ensemble.train.texts()  # each call walks the store
    keys, texts = [all_keys[i] for i in rows], [all_texts[i] for i in rows]
    folds, groups = [ensemble.folds[0][key] for key in keys], _groups(ensemble, keys)
    parts = folds
    if len(set(parts)) == 1:  # a single fold is trained: its photographs are dealt into three
        parts = (pd.factorize(np.array(groups, dtype=object))[0] % 3).tolist()
    judged = judge(Stack.of(readings), texts, parts, ensemble.members, groups)
    own = pd.DataFrame({name: [r.own[i] for r in readings] for i, name in enumerate(ensemble.members)})
    table = comparison(judged, own, texts, groups)
    facts = {"img_path": keys, "text": texts, "fold": folds, "confidence": judged.confidence.round(6)}
    oof = pd.DataFrame(facts).join(own).join(judged.predictions)
    write_table(table, ensemble.folder / COMPARISON)
    write_table(oof, ensemble.folder / ENSEMBLE_OOF)
    record = {"made_from": made_from, "members": ensemble.members, "choice": judged.choice.as_dict()}
    record |= {"score": _score(texts, oof[CHOSEN].tolist(), groups)}
    return _write_record(ensemble, record, COMPARISON, ENSEMBLE_OOF)


def _read_out_of_fold(ensemble: Ensemble) -> tuple[list[int], list[Reading]]:
    """Return the rows of the store that every run has a model for that never saw them, and their readings."""
    found: dict[int, Reading] = {}
    texts = ensemble.train.texts()
    for folds, rows in sorted(_rows_by_folds(ensemble).items()):
        checkpoints = [[run.fold_folder(k) / BEST] for run, k in zip(ensemble.runs, folds, strict=True)]
        # What is known of the labels must not come from the fold that is read.
        learnt = [texts[i] for i, key in enumerate(ensemble.train.keys()) if ensemble.folds[0][key] != folds[0]]
        name = f"read fold {folds[0]}" if len(set(folds)) == 1 else f"read folds {folds}"
        found.update(zip(rows, _read(ensemble, checkpoints, ensemble.train, rows, learnt, name), strict=True))
    if not found:
        raise HangulOcrError(f"{ensemble.folder.name}: no crop is held out by a trained fold of every run; train more")
    return sorted(found), [found[row] for row in sorted(found)]


def _rows_by_folds(ensemble: Ensemble) -> dict[tuple[int, ...], list[int]]:
    trained = [set(steps.trained_folds(run)) for run in ensemble.runs]
    found: dict[tuple[int, ...], list[int]] = {}
    for row, key in enumerate(ensemble.train.keys()):
        folds = tuple(fold_of[key] for fold_of in ensemble.folds)
        if all(fold in own for fold, own in zip(folds, trained, strict=True)):
            found.setdefault(folds, []).append(row)
    return found


def _read(
    ensemble: Ensemble,
    checkpoints: list[list[Path]],
    reader: LmdbReader,
    rows: Sequence[int],
    learnt: Sequence[str],
    name: str,
) -> list[Reading]:
    """Return one reading by member for each of ``rows``; ``checkpoints`` are the models of each run that read."""
    settings = ensemble.runs[0].settings
    loaded = [[load_for_reading(path) for path in paths] for paths in checkpoints]
    models = [model for of_run in loaded for _ in ensemble.views for model in of_run]
    views = [view for of_run in loaded for view in ensemble.views for _ in of_run]
    sizes = [len(of_run) for of_run in loaded for _ in ensemble.views]
    parts = steps.reading_parts(ensemble.folder, checkpoints, views, reader, rows, settings, learnt)
    fusion = make_fusion(settings.decoding, learnt, ensemble.runs[0].alphabet.characters)
    readings = read_crops(
        models,
        LmdbCrops(reader, rows),
        settings.candidates,
        steps.reading_accelerator(),
        name,
        fusion,
        views,
        parts,
    )
    ends = np.cumsum(sizes)
    members = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [by_member(reading, members) for reading in readings]


def _groups(ensemble: Ensemble, keys: Sequence[str]) -> list[object]:
    folds = ensemble.prepared[0].folds
    group_of = dict(zip(folds["key"], folds["group"], strict=True))
    return [group_of[key] for key in keys]


def _score(texts: Sequence[str], predictions: Sequence[str], groups: Sequence[object]) -> dict[str, float]:
    right = exact_matches(texts, predictions)
    low, high = accuracy_interval(right, groups)
    return {"accuracy": float(right.mean()), "low": low, "high": high, "n": len(right)}


# --- the test crops ---------------------------------------------------------------------------------------------------


def predict(ensemble: Ensemble) -> pd.DataFrame:
    """Read the test crops with all members, joined as :func:`choose` decided; return ``img_path,text,confidence``."""
    record = choose(ensemble)
    names = (TEST_PREDICTIONS, TEST_CANDIDATES, MEMBERS)
    if set(names) <= set(record["files"]):
        require_untouched(ensemble, *names)
        return read_table(ensemble.folder / TEST_PREDICTIONS).astype({"confidence": float})
    test, choice = steps.require_test(ensemble.prepared[0]), Choice(**record["choice"])
    checkpoints = [run.fold_checkpoints() for run in ensemble.runs]
    readings = _read(ensemble, checkpoints, test, range(len(test)), ensemble.train.texts(), "read test")
    stack, keys = Stack.of(readings), test.keys()
    strings, chances = apply(choice, stack)
    facts = {"img_path": keys, "text": [normalise(s) for s in strings], "confidence": chances.round(6)}
    predictions = steps.with_lost_rows(pd.DataFrame(facts), ensemble.prepared[0].competition)
    save_candidates(ensemble.folder / TEST_CANDIDATES, keys, readings)
    write_table(_members_table(ensemble, keys, readings, strings), ensemble.folder / MEMBERS)
    write_table(predictions, ensemble.folder / TEST_PREDICTIONS)
    _write_record(ensemble, record, *record["files"], *names)
    forget_parts(ensemble.folder)
    return predictions


def _members_table(ensemble: Ensemble, keys: list[str], readings: list[Reading], joint: list[str]) -> pd.DataFrame:
    members = {name: [r.own[i] for r in readings] for i, name in enumerate(ensemble.members)}
    return pd.DataFrame({"img_path": keys, **members, JOINT: joint})


# --- what is kept -----------------------------------------------------------------------------------------------------


def _made_from(ensemble: Ensemble) -> dict[str, Any]:
    """Return what decides an ensemble's results, as JSON writes it."""
    first = ensemble.prepared[0]
    weights = {run.folder.name: [file_sha256(path) for path in run.fold_checkpoints()] for run in ensemble.runs}
    stores = {"test": first.test.manifest.content_hash} if first.test else {}
    return {
        "format": _FORMAT,
        "weights": weights,
        "views": ensemble.views,
        "folds": [prepared.hashes()["folds"] for prepared in ensemble.prepared],
        "candidates": ensemble.runs[0].settings.candidates,
        "decoding": decoding_facts(ensemble.runs[0].settings.decoding),
        "stores": {"train": first.train.manifest.content_hash} | stores,
    }


def load_record(ensemble: Ensemble) -> dict[str, Any] | None:
    """Return what ``ensemble.json`` holds; None if there is none. Raises ``HangulOcrError`` if it is damaged."""
    path = ensemble.folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        Choice(**record["choice"])
        return record if {"made_from", "files", "score"} <= set(record) else None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise HangulOcrError(f"{path}: damaged ({error}); delete it and run `hangul-ocr ensemble` again") from None


def _write_record(ensemble: Ensemble, record: dict[str, Any], *names: str) -> dict[str, Any]:
    record = record | {"files": {name: file_sha256(ensemble.folder / name) for name in names}}
    atomic_write_json(ensemble.folder / RECORD, record)
    return record


def require_untouched(ensemble: Ensemble, *names: str) -> None:
    """Raise ``HangulOcrError`` if a file is missing, or was edited since it was written: rows might be missing."""
    record = load_record(ensemble)
    for path in (ensemble.folder / name for name in names):
        if not record or path.name not in record["files"] or not path.is_file():
            raise HangulOcrError(f"{path}: not there; run notebook 05 or `hangul-ocr ensemble` with the same members")
        if file_sha256(path) != record["files"][path.name]:
            raise HangulOcrError(
                f"{path}: edited since it was written; delete {ensemble.folder / RECORD} and run `hangul-ocr ensemble` "
                "again"
            )


def load_comparison(ensemble: Ensemble) -> pd.DataFrame:
    """Return ``comparison.csv``: every member and way, out-of-fold and nested, as ``joining.comparison`` makes it."""
    require_untouched(ensemble, COMPARISON)
    numbers = {"n": int, "accuracy": float, "low": float, "high": float, "gained": int, "lost": int, "p_value": float}
    table = read_table(ensemble.folder / COMPARISON).astype(numbers)
    return table.assign(kept=table["kept"] == "True")


def shown_comparison(table: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`load_comparison`'s table as people read it: percent, and the one that was kept marked."""
    low, high = (100 * table["low"]).map("{:.2f}".format), (100 * table["high"]).map("{:.2f}".format)
    shown = {
        "accuracy, %": (100 * table["accuracy"]).round(2),
        "95 % interval": low + " to " + high,
        "gained": table["gained"],
        "lost": table["lost"],
        "p against the best member": table["p_value"].map("{:.3g}".format),
        "kept": table["kept"].map({True: "kept", False: ""}),
    }
    return pd.DataFrame(shown).set_index(pd.Index(table["name"], name="member or way"))


def load_oof(ensemble: Ensemble) -> pd.DataFrame:
    """Return ``ensemble_oof.csv``: label, fold, confidence, every member's and, nested, every way's prediction."""
    require_untouched(ensemble, ENSEMBLE_OOF)
    return read_table(ensemble.folder / ENSEMBLE_OOF).astype({"confidence": float, "fold": int})


def load_members(ensemble: Ensemble) -> pd.DataFrame:
    """Return each test crop's reading by every member and by the ensemble (the column ``JOINT``)."""
    require_untouched(ensemble, MEMBERS)
    return read_table(ensemble.folder / MEMBERS)


def weights_table(record: dict[str, Any]) -> pd.DataFrame:
    """Return each member's weight in the choice kept, in percent; all for one where a single member was kept."""
    choice = Choice(**record["choice"])
    weights = dict(zip(choice.members, choice.weights, strict=True))
    if choice.way == WAYS[0]:
        weights = {name: float(name == choice.single) for name in choice.members}
    shares = [round(100 * weight, 1) for weight in weights.values()]
    return pd.DataFrame({"weight, %": shares}, index=pd.Index(weights, name="member"))


def describe(record: dict[str, Any]) -> str:
    """Return the choice and its honest score in one line."""
    choice, score = Choice(**record["choice"]), record["score"]
    name = f"{choice.way} ({choice.single})" if choice.way == WAYS[0] else choice.way
    low, high = 100 * score["low"], 100 * score["high"]
    return (
        f"{name}: {100 * score['accuracy']:.2f} % out-of-fold, the choice nested (95 % interval {low:.2f} to "
        f"{high:.2f}), n = {score['n']:,}"
    )


def headline(record: dict[str, Any], table: pd.DataFrame) -> str:
    """Return a picture's title: what was kept, its honest accuracy, and that of the member that reads most right."""
    accuracy, single = table.set_index("name")["accuracy"], record["choice"]["single"]
    kept = f"Kept: {record['choice']['way']}, {100 * accuracy[CHOSEN]:.1f} % with the choice nested"
    return f"{kept}; the best member, {single}, {100 * accuracy[single]:.1f} %"


def hand_in(ensemble: Ensemble, workspace: Workspace) -> Path:
    """Write ``submissions/submission.csv`` from the ensemble's test predictions, validated, and log it.

    Raises ``HangulOcrError`` if they are missing, edited, or made from other weights or crops.
    """
    require_untouched(ensemble, TEST_PREDICTIONS)
    record = load_record(ensemble)
    if record is None or record["made_from"] != _made_from(ensemble):
        raise HangulOcrError(f"{ensemble.folder}: older than the weights or the crops; run `hangul-ocr ensemble` again")
    score = record["score"]
    cv = (score["accuracy"], score["low"], score["high"])
    predictions = read_table(ensemble.folder / TEST_PREDICTIONS)
    return steps.write_and_log(predictions, ensemble.prepared[0], workspace, ensemble.folder.name, cv)
