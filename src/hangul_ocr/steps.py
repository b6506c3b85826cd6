"""The steps of a competition, each one call, that the notebooks and the command line share.

open_competition -> prepare -> start_run -> pretrain_run -> train_run -> read_oof, read_test -> hand_in.
Each leaves its result on disk and takes it up again if it is there; ``results`` reads what they left.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator

from hangul_ocr.data.batches import STEPS_PER_BLOCK
from hangul_ocr.data.corrections import Applied, Corrections, read_corrections
from hangul_ocr.data.crops import LmdbCrops
from hangul_ocr.data.dacon import (
    TRAIN,
    Competition,
    competitions_in,
    find_competition,
    fingerprint,
    read_competition,
    refuse_packed,
    test_samples,
    train_samples,
)
from hangul_ocr.data.extra import ChainedCrops, ExtraStore, extra_crops, open_extra
from hangul_ocr.data.folds import ensure_folds
from hangul_ocr.data.lmdb_store import LmdbReader, Manifest, matches, read_manifest
from hangul_ocr.data.lmdb_writer import with_corrections, write_lmdb
from hangul_ocr.data.tables import write_table
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.inference.decoding import LANGUAGE, decoding_facts, make_fusion
from hangul_ocr.inference.ensemble import Reading, most_confident, vote
from hangul_ocr.inference.parts import Parts, forget_parts
from hangul_ocr.inference.predict import CHUNK, predictions_frame, read_crops, save_candidates
from hangul_ocr.inference.submission import (
    CHANGES,
    LOG,
    changed_rows,
    file_sha256,
    filled_template,
    former_submission,
    log_submission,
    require_log,
    same_rows,
    say_changes,
    write_submission,
)
from hangul_ocr.inference.views import PLAIN
from hangul_ocr.models.checkpoint import initialise_from, read_header, require_alphabet
from hangul_ocr.models.folding import load_for_reading
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.results import (
    MEMBERS,
    OOF,
    OOF_CANDIDATES,
    RESCORED,
    TEST_CANDIDATES,
    TEST_PREDICTIONS,
    load_oof,
    load_record,
    load_test_predictions,
    oof_scores,
    require_untouched,
    write_record,
)
from hangul_ocr.settings import SURE, Settings, TrainingSettings
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.synthesis.stream import SyntheticCrops, drawn_short_side, synthetic_sources
from hangul_ocr.training.kfold import (
    ENVIRONMENT,
    SETTINGS,
    Run,
    fold_rows,
    load_folds_models,
    load_run,
    open_run,
    pretrain,
    train_fold,
)
from hangul_ocr.training.loop import BEST, LAST, Progress, StageResult, from_process_0
from hangul_ocr.weights import shipped_weights
from hangul_ocr.workspace import (
    Workspace,
    atomic_write_json,
    git_commit,
    is_main_process,
    main_process_first,
    make_accelerator,
    pick_device,
)

#: Beside a fold's weights: which weights it began from.
START = "init_from.json"
#: In a run folder: the runs whose mean its weights are (:mod:`soups`).
SOUP = "soup.json"
#: Beside a stage's weights: the further LMDBs that it learns from.
EXTRA = "extra_lmdbs.json"


class StoppedOnTime(HangulOcrError):
    """The time limit came before the end. Everything is saved, and the same step goes on from there."""


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

    def hashes(self) -> dict[str, str]:
        """Return what a run must keep: a hash of the training crops with their labels, and one of the folds."""
        folds = self.folds.to_csv(index=False, lineterminator="\n").encode()
        return {"data": self.train.manifest.content_hash, "folds": hashlib.sha256(folds).hexdigest()}


def open_competition(workspace: Workspace, data: str = "", make_sample: bool = True) -> Competition:
    """Return the competition in the folder ``data``, or the one in ``input/``; where there is none, make the sample.

    A sample that lies in ``input/`` gives way to another competition there. Raises ``HangulOcrError`` if there are
    several others, if one is still packed, or if there is none and the sample may not be made.
    """
    if data:
        folder = Path(data).expanduser()
        return read_competition(find_competition(folder if folder.is_absolute() else workspace.root / folder))
    sample, own = workspace.sample_competition, _own_competitions(workspace)
    if len(own) == 1:
        return read_competition(own[0])
    if own or not (make_sample or _is_competition(sample)):
        return read_competition(find_competition(workspace.input))  # it says what is wrong
    refuse_packed(workspace.input)
    if not _is_competition(sample):
        print(f"No competition in {workspace.input}: making the sample competition in {sample} (about half a minute).")
        make_competition(sample)
    return read_competition(sample)


def _own_competitions(workspace: Workspace) -> list[Path]:
    """Return the competitions in ``input/`` other than the sample."""
    return [folder for folder in competitions_in(workspace.input) if folder != workspace.sample_competition]


def _is_competition(folder: Path) -> bool:
    return (folder / TRAIN).is_file()


def prepare(competition: Competition, workspace: Workspace, settings: Settings) -> Prepared:
    """Write the competition's LMDBs and folds under ``output/data/NAME``, or take those that are there.

    The folds lie where files are kept, even if LMDBs do not (Colab): they are dealt once. So do corrections of the
    training labels (:func:`keep_corrections`), which every later step goes by.
    """
    folder, kept = data_folder(competition, workspace), workspace.output / "data" / competition.name
    before = _content_hash(folder / "train.lmdb")
    corrections = kept_corrections(competition, workspace)
    train = _store(folder / "train.lmdb", competition, train_samples, len(competition.train), corrections)
    if before is not None and before != train.manifest.content_hash:
        for stale in kept.glob("folds*.csv"):
            stale.unlink()
    test = None
    if len(competition.test):
        test = _store(folder / "test.lmdb", competition, test_samples, len(competition.test))
    name = f"folds{settings.folds}-seed{settings.seed}.csv"
    folds = ensure_folds(kept / name, train, settings.folds, settings.seed)
    return Prepared(competition, train, test, folds)


def data_folder(competition: Competition, workspace: Workspace) -> Path:
    """Return where the competition's LMDBs lie."""
    return workspace.scratch / "data" / competition.name


def keep_corrections(competition: Competition, workspace: Workspace, *tables: Path | str) -> Corrections:
    """Correct the training labels by ``tables`` (:mod:`data.corrections`) from now on, and by no others.

    They are kept as ``corrections.csv`` beside the folds. Raises ``HangulOcrError`` for bad rows, and for corrections
    that are of no crop of train.csv or of another label than it has.
    """
    corrections = read_corrections(*map(Path, tables))
    corrections.require(dict(zip(competition.train["img_path"], competition.train["text"], strict=True)))
    corrections.save(_corrections_file(competition, workspace))
    return corrections


def forget_corrections(competition: Competition, workspace: Workspace) -> None:
    """Take the training labels as they are in train.csv from now on."""
    _corrections_file(competition, workspace).unlink(missing_ok=True)


def kept_corrections(competition: Competition, workspace: Workspace) -> Corrections | None:
    """Return what the training labels are corrected by, if they are."""
    path = _corrections_file(competition, workspace)
    return read_corrections(path) if path.is_file() else None


def corrections_lines(prepared: Prepared) -> list[str]:
    """Return what became of the corrections of the training labels, for people; nothing if there are none."""
    applied = prepared.train.manifest.corrections
    return Applied(**applied).lines() if applied else []


def _corrections_file(competition: Competition, workspace: Workspace) -> Path:
    return workspace.output / "data" / competition.name / "corrections.csv"


def _store(
    path: Path, competition: Competition, importer, total: int, corrections: Corrections | None = None
) -> LmdbReader:
    settings = {"competition": fingerprint(competition), "importer": importer.__name__}
    if not matches(path, with_corrections(settings, corrections)):
        items = importer(competition)
        write_lmdb(path, items, alphabet=None, settings=settings, total=total, corrections=corrections)
    return LmdbReader(path)


def _content_hash(path: Path) -> str | None:
    """Return the hash of the store at ``path``; None if there is none that can be read."""
    try:
        manifest = read_manifest(path)
    except HangulOcrError:
        return None
    return None if manifest is None else manifest.content_hash


def manifest_table(prepared: Prepared) -> pd.DataFrame:
    """Return what each store read, kept and left out by reason."""
    stores = {"train": prepared.train, "test": prepared.test}
    rows = {name: _manifest_row(reader.manifest) for name, reader in stores.items() if reader is not None}
    return pd.DataFrame.from_dict(rows, orient="index").fillna(0).astype(int)


def _manifest_row(manifest: Manifest) -> dict[str, int]:
    return {"read": manifest.read, "kept": manifest.kept} | manifest.left_out


def start_run(workspace: Workspace, prepared: Prepared, settings: Settings, name: str) -> Run:
    """Create the run folder ``output/runs/NAME``, or go on in it; its name may not leave ``output/runs``.

    Raises ``HangulOcrError`` if the run was made with other settings or from other crops, labels or folds.
    """
    folder, hashes = run_folder(workspace, name), prepared.hashes()
    facts = {"competition": prepared.competition.name} | hashes
    run = open_run(folder, settings, prepared.alphabet, facts)
    require_same_data(run.folder, hashes)
    return run


def run_folder(workspace: Workspace, name: str) -> Path:
    """Return where the run ``name`` lies, or will lie. Raises ``HangulOcrError`` for a name that is none."""
    if not name or Path(name).name != name or name.startswith("."):
        raise HangulOcrError(f"run name {name!r}: use a plain name such as quick or resnet-48px")
    return workspace.output / "runs" / name


def require_same_data(folder: Path, hashes: dict[str, str]) -> None:
    """Refuse to go on over changed data: a fold's model would have seen crops that are now held out from it."""
    try:
        kept = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise HangulOcrError(f"{folder / ENVIRONMENT}: not readable; name another run, or delete the folder") from None
    changed = [name for name, value in hashes.items() if kept.get(name, value) != value]
    if changed:
        what = "data" if "data" in changed else "folds"
        raise HangulOcrError(f"{folder}: made from other {what}; name another run, or delete the folder")


def finished_runs(workspace: Workspace) -> list[Run]:
    """Return the runs of ``output/runs`` all of whose folds are trained to the end, newest first.

    One that is damaged, or of an older version, is named on stderr and left aside.
    """
    folders = sorted(path.parent for path in (workspace.output / "runs").glob(f"*/{SETTINGS}"))
    found = [run for run in map(_finished_run, folders) if run is not None]
    return sorted(found, key=_newest_weights, reverse=True)


def _finished_run(folder: Path) -> Run | None:
    try:
        run = load_run(folder)
        return None if _unfinished_folds(run) else run
    except (HangulOcrError, OSError, ValueError, TypeError, KeyError) as error:
        print(f"warning: run {folder.name} is left aside: {error}", file=sys.stderr)
        return None


def _unfinished_folds(run: Run) -> list[int]:
    stage = run.settings.fine_tuning
    return [k for k in range(run.settings.trained_folds) if finished_stage(run.fold_folder(k), stage) is None]


def say_what_is_unfinished(run: Run) -> None:
    """Print which folds of a run have no weights, and which have those of a training that did not end."""
    trained, stage = trained_folds(run), run.settings.fine_tuning
    missing = sorted(set(range(run.settings.trained_folds)) - set(trained))
    # A mean of other runs has no state of a training, nor has a folder that somebody tidied up.
    begun = [k for k in trained if (run.fold_folder(k) / LAST).is_file()]
    partly = [k for k in begun if finished_stage(run.fold_folder(k), stage) is None]
    for folds, what in ((missing, "not trained, left out"), (partly, "not trained to the end, read as they are")):
        if folds:
            print(f"run {run.folder.name}: folds {what}: {', '.join(map(str, folds))}")


def _newest_weights(run: Run) -> float:
    return max(path.stat().st_mtime for path in run.fold_checkpoints())


def require_pretraining_start(settings: Settings, init_from: Path | None) -> None:
    """Raise ``HangulOcrError`` for weights that a pretraining cannot begin from, before a run folder is made for it."""
    _require_scratch(settings, init_from)
    init_from = _first_weights(settings, init_from)
    if init_from is not None:
        _require_fitting(settings, init_from)


def require_training_start(folder: Path, settings: Settings, init_from: Path | None, folds: Sequence[int] = ()) -> None:
    """Raise ``HangulOcrError`` for what a training cannot begin with, before the run ``folder`` is made for it.

    These are weights of another network, folds that do not exist, and a pretraining that nobody began.
    """
    for fold in folds:
        _require_fold(settings, fold)
    if init_from is not None:
        _require_fitting(settings, init_from)
    elif settings.start != "shipped" and not from_process_0(Path.is_dir, folder):
        raise _not_pretrained(folder / "pretraining")


def _first_weights(settings: Settings, init_from: Path | None) -> Path | None:
    """Return what a run's own pretraining begins from; None is noise."""
    return shipped_weights() if settings.start == "continued" and init_from is None else init_from


def _require_scratch(settings: Settings, init_from: Path | None) -> None:
    if settings.start == "shipped" and init_from is not None:
        raise HangulOcrError("this run's folds start from the weights that ship: pretrain under --from-scratch")


def _require_fitting(settings: Settings, weights: Path) -> None:
    """Refuse weights that are none, or of another network. Any alphabet will do: classes are matched by character."""
    initialise_from(Recognizer(replace(settings.model, pretrained=False), Alphabet("가")), weights)


def _require_fold(settings: Settings, fold: int) -> None:
    if not 0 <= fold < settings.folds:
        raise HangulOcrError(f"fold {fold}: the settings have folds 0 to {settings.folds - 1}; name one of these")


def finished_stage(folder: Path, stage: TrainingSettings) -> StageResult | None:
    """Return the result of a stage that ran to its end, read from the disk; None if it has not."""
    if not ((folder / LAST).is_file() and (folder / BEST).is_file()):
        return None
    progress = _progress(folder)
    on_the_clock = stage.seconds is not None and progress.seconds >= stage.seconds
    # Training ends with a whole block, so blocks count, not steps.
    finished = progress.block >= math.ceil(stage.steps / STEPS_PER_BLOCK) or on_the_clock
    return StageResult(True, progress, folder / BEST) if finished else None


def _progress(folder: Path) -> Progress:
    try:
        return Progress(**read_header(folder / LAST)["progress"])
    except (TypeError, KeyError):
        raise HangulOcrError(f"{folder / LAST}: of another version; name another run, or delete the folder") from None


def pretrain_run(
    run: Run, prepared: Prepared, deadline: float | None = None, init_from: Path | None = None
) -> StageResult:
    """Pretrain the run's network on streamed synthetic crops; a sample competition's test words and font stay out.

    ``init_from`` are weights to go on from (by default those that ship, where the settings' ``start`` is
    ``continued``); another seed than theirs shows other crops. In a run whose folds start from the shipped weights
    there is nothing to do: the result is that of their own training. Raises :class:`StoppedOnTime` if the ``deadline``
    came before the end.
    """
    if run.settings.start == "shipped":
        _require_scratch(run.settings, init_from)
        return _shipped_result(run)
    folder = run.pretrained.parent
    if init_from is not None:
        _require_same_start(folder, init_from)
    done = from_process_0(finished_stage, folder, run.settings.pretraining)
    if done is not None:
        return done
    if not from_process_0(Path.is_file, folder / LAST):  # what has begun goes on, from whatever it began
        init_from = _first_weights(run.settings, init_from)
    if init_from is not None:
        _record_start(folder, init_from)
    stream, validation = _synthetic(run, prepared, run.settings.seed)
    extra = _extra(run, prepared, folder, run.settings.pretraining, run.settings.real_share)
    return _finished(pretrain(run, stream, validation, init_from, deadline, extra), "pretraining")


def _synthetic(run: Run, prepared: Prepared, seed: int) -> tuple[SyntheticCrops, SyntheticCrops]:
    """Return the stream that suits the run's network and alphabet, and crops to validate on."""
    drawn = drawn_short_side(run.settings.model.short_side)
    return synthetic_sources(prepared.competition.folder, seed, short_side=drawn, characters=run.alphabet.characters)


def _extra(run: Run, prepared: Prepared, folder: Path, stage: TrainingSettings, share: float) -> ChainedCrops | None:
    """Return the crops of the settings' ``extra_lmdbs``, said and kept beside the weights; None if none are used."""
    if not (run.settings.extra_lmdbs and share > 0):
        return None
    with main_process_first():
        stores = open_extra(run.settings.extra_lmdbs, run.alphabet, prepared.train)
        _record_extra(folder, stores)
    if is_main_process():
        for store in stores:
            print(f"{folder.name} learns from {store.line()}")
    return extra_crops(stores, stage.augment, run.settings.model.short_side)


def _record_extra(folder: Path, stores: list[ExtraStore]) -> None:
    """Keep beside a stage's weights what else it learns from. Refuses other crops for a stage that has begun."""
    facts, path = [store.facts() for store in stores], folder / EXTRA
    if path.is_file() and (folder / LAST).is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        changed = [store["path"] for store, before in zip(facts, kept, strict=False) if store != before]
        if changed or len(kept) != len(facts):
            what = changed[0] if changed else "another number of LMDBs"
            raise HangulOcrError(
                f"{folder}: began with other crops of {what} than are there now; name another run, or delete the folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, facts)


def _shipped_result(run: Run) -> StageResult:
    facts = read_header(run.pretrained)["facts"]
    progress = Progress(step=facts["step"], seconds=facts["seconds"], best_accuracy=facts["valid_accuracy"])
    return StageResult(True, progress, run.pretrained)


def _finished(result: StageResult, name: str) -> StageResult:
    progress = result.progress
    if is_main_process() and (progress.skipped_steps or progress.unwritable or progress.unreadable):
        print(
            f"{name}: {progress.skipped_steps:,} steps skipped (not finite), {progress.unwritable:,} labels too long "
            "for their crops (CTC leaves them out) or for max_length (attention learns their beginning), "
            f"{progress.unreadable:,} crops unreadable (others took their place)"
        )
    if not result.finished:
        minutes = progress.seconds / 60
        raise StoppedOnTime(f"{name} stopped on time after {minutes:.0f} min, saved; run the same again to go on")
    return result


def train_run(
    run: Run,
    prepared: Prepared,
    init_from: Path | None = None,
    deadline: float | None = None,
    folds: Sequence[int] | None = None,
) -> list[StageResult]:
    """Fine-tune ``folds`` (default: the settings') in turn from ``init_from`` (default: the run's own pretraining).

    Raises :class:`StoppedOnTime` if the ``deadline`` came before the end, and ``HangulOcrError`` without a finished
    pretraining.
    """
    numbers = range(run.settings.trained_folds) if folds is None else folds
    return [_train_one(run, prepared, fold, init_from, deadline) for fold in numbers]


def _train_one(run: Run, prepared: Prepared, fold: int, init_from: Path | None, deadline: float | None) -> StageResult:
    _require_fold(run.settings, fold)
    if (run.folder / SOUP).is_file():
        raise HangulOcrError(f"{run.folder}: a mean of other runs, which is not trained; name another run")
    stage, folder = run.settings.fine_tuning, run.fold_folder(fold)
    if init_from is not None:
        _require_same_start(folder, init_from)
    done = from_process_0(finished_stage, folder, stage)
    if done is not None:
        return done
    start = init_from or _own_pretraining(run)
    _record_start(folder, start)
    synthetic = None
    if stage.synthetic_share > 0:
        synthetic, _ = _synthetic(run, prepared, run.settings.seed + 1)
    extra = _extra(run, prepared, folder, stage, run.settings.extra_share)
    result = train_fold(run, fold, prepared.train, prepared.folds, synthetic, start, deadline, extra)
    return _finished(result, f"fold {fold}")


def _record_start(folder: Path, weights: Path) -> None:
    """Keep beside a fold's weights which weights it began from."""
    if not weights.is_file():
        raise HangulOcrError(f"{weights}: no such checkpoint; name one by --init-from, or leave it out")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / START, {"path": str(weights), "sha256": file_sha256(weights)})


def _require_same_start(folder: Path, weights: Path) -> None:
    """Refuse other weights for a fold that has begun: they would be left aside without a word."""
    if not ((folder / START).is_file() and (folder / LAST).is_file() and weights.is_file()):
        return
    kept = json.loads((folder / START).read_text(encoding="utf-8"))
    if kept["sha256"] != file_sha256(weights):
        raise HangulOcrError(
            f"{folder}: began from {kept['path']}, not {weights}; name another run, or delete the folder"
        )


def _own_pretraining(run: Run) -> Path:
    if run.settings.start == "shipped":
        return run.pretrained
    if from_process_0(finished_stage, run.pretrained.parent, run.settings.pretraining) is None:
        raise _not_pretrained(run.pretrained.parent)
    return run.pretrained


def _not_pretrained(folder: Path) -> HangulOcrError:
    return HangulOcrError(
        f"{folder}: pretraining is not finished; run notebook 04 or `hangul-ocr pretrain` first, or give weights with "
        "--init-from"
    )


def estimated_seconds(run: Run, folds: Sequence[int] | None = None) -> dict[str, float | None]:
    """Return about how many seconds the long steps still take, ``pretrain`` and ``train``; None where nobody knows.

    Only stages that land on the clock (``seconds``) can be foretold; what was trained already counts off. ``folds``
    are those to train (default: the settings').
    """
    settings = run.settings
    numbers = range(settings.trained_folds) if folds is None else folds
    left = [_seconds_left(run.fold_folder(k), settings.fine_tuning) for k in numbers]
    pretrained = settings.start == "shipped"
    return {
        "pretrain": 0.0 if pretrained else _seconds_left(run.pretrained.parent, settings.pretraining),
        "train": None if None in left else sum(left),
    }


def _seconds_left(folder: Path, stage: TrainingSettings) -> float | None:
    if finished_stage(folder, stage) is not None:
        return 0.0
    if stage.seconds is None:
        return None
    done = _progress(folder).seconds if (folder / LAST).is_file() else 0.0
    return max(0.0, stage.seconds - done)


def say_how_long(seconds: float | None) -> None:
    """Print about how long a step takes, if it is long, or that nobody knows."""
    if not is_main_process():
        return
    if seconds is None:
        print("no estimate: these settings have no clock (`seconds`)")
    elif seconds >= 20:
        print(f"this takes about {max(1, round(seconds / 60))} min")


def read_oof(run: Run, prepared: Prepared) -> pd.DataFrame:
    """Let each fold's model read the crops that it was not trained on; write ``oof.csv``, its N-best lists beside it.

    Folds that are not trained to the end are named in a printed line. Stopped, it goes on where it was. Raises
    ``HangulOcrError`` for an ``oof.csv`` whose rows somebody changed.
    """
    say_what_is_unfinished(run)
    made_from = _made_from(run, prepared.train)
    if _is_current(run, made_from, OOF, OOF_CANDIDATES):
        return _whole_oof(run, prepared)
    require_own_alphabet(run)
    tables, lists = zip(*(_read_own_fold(run, prepared, fold) for fold in trained_folds(run)), strict=True)
    oof = pd.concat(tables, ignore_index=True)
    save_candidates(run.folder / OOF_CANDIDATES, oof["img_path"].tolist(), list(chain.from_iterable(lists)))
    write_table(oof, run.folder / OOF)
    write_record(run.folder, made_from, OOF, OOF_CANDIDATES)
    forget_parts(run.folder)
    return oof


def _whole_oof(run: Run, prepared: Prepared) -> pd.DataFrame:
    """Return ``oof.csv``, which must hold each crop of the trained folds once, with its label and fold."""
    oof, folds = load_oof(run), prepared.folds
    labels = dict(zip(prepared.train.keys(), prepared.train.texts(), strict=True))
    wanted = folds.loc[folds["fold"].isin(trained_folds(run))]
    expected = {(key, labels[key], fold) for key, fold in zip(wanted["key"], wanted["fold"], strict=True)}
    found = list(zip(oof["img_path"], oof["text"], oof["fold"], strict=True))
    missing, odd = expected - set(found), len(found) - len(set(found) & expected)
    if missing or odd:
        raise HangulOcrError(
            f"{run.folder / OOF}: {len(missing)} rows missing, {odd} repeated, changed or of other crops; "
            "delete it and run `hangul-ocr ensemble` again"
        )
    require_untouched(run.folder / OOF)
    return oof


def reading_accelerator() -> Accelerator:
    """Return what readings that are kept are made with: on a CPU float32, whatever is fast there, and so the same."""
    return make_accelerator("float32" if pick_device() == "cpu" else "auto")


def reading_parts(
    folder: Path,
    checkpoints: Sequence[Sequence[Path]],
    views: Sequence[str],
    reader: LmdbReader,
    rows: Sequence[int],
    settings: Settings,
    learnt: Sequence[str],
    sure: float = SURE,
) -> Parts:
    """Return where the readings of ``rows`` are kept meanwhile; ``learnt`` are the labels of a language model."""
    keys = reader.keys()
    crops = {"store": _identity(reader), "rows": hash_of(keys[row] for row in rows)}
    return Parts.of(folder, crops | reading_facts(checkpoints, views, settings, learnt, sure))


def reading_facts(
    checkpoints: Sequence[Sequence[Path]],
    views: Sequence[str],
    settings: Settings,
    learnt: Sequence[str],
    sure: float = SURE,
) -> dict[str, Any]:
    """Return what decides readings, whatever the crops; ``learnt`` is what a language model was made from."""
    return {
        "weights": [[file_sha256(path) for path in paths] for paths in checkpoints],
        "views": list(views),
        "candidates": settings.candidates,
        "decoding": decoding_facts(settings.decoding),
        "learnt": hash_of(learnt) if settings.decoding.language_weight else "",
        "device": pick_device(),
        "threads": torch.get_num_threads(),  # sums are rounded otherwise by another number of them
        "chunk": CHUNK,
        "sure": sure,
    }


def _identity(reader: LmdbReader) -> str:
    """Return what tells a store's content from another's: its hash, or of one without a manifest its files' dates."""
    if reader.manifest:
        return reader.manifest.content_hash
    files = sorted(reader.path.rglob("*.mdb"))
    return " ".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)


def hash_of(texts: Iterable[str]) -> str:
    """Return a hash of texts and their order."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "backslashreplace")).hexdigest()


def trained_folds(run: Run) -> list[int]:
    """Return the numbers of the folds that have weights, in the order of ``run.fold_checkpoints()``."""
    return [k for k in range(run.settings.folds) if run.fold_folder(k).joinpath(BEST).is_file()]


def require_own_alphabet(run: Run) -> None:
    """Refuse weights of another alphabet that somebody put into the run folder: their output would look plausible."""
    for path in run.fold_checkpoints():
        require_alphabet(path, run.alphabet)


def _read_own_fold(run: Run, prepared: Prepared, fold: int) -> tuple[pd.DataFrame, list[Reading]]:
    rows, others = fold_rows(prepared.train, prepared.folds, fold)
    source, model = LmdbCrops(prepared.train, rows), load_for_reading(run.fold_folder(fold) / BEST)
    keys, texts = prepared.train.keys(), prepared.train.texts()
    learnt = [texts[i] for i in others]
    fusion = make_fusion(run.settings.decoding, learnt, run.alphabet.characters)
    checkpoints = [[run.fold_folder(fold) / BEST]]
    parts = reading_parts(run.folder, checkpoints, [PLAIN], prepared.train, rows, run.settings, learnt)
    name = f"read fold {fold}"
    readings = read_crops(
        [model], source, run.settings.candidates, reading_accelerator(), name, fusion=fusion, parts=parts
    )
    found = predictions_frame([keys[i] for i in rows], readings)
    found = found.rename(columns={"text": "prediction"}).assign(text=[texts[i] for i in rows], fold=fold)
    return found[["img_path", "text", "prediction", "confidence", "fold"]], readings


def _made_from(run: Run, reader: LmdbReader) -> dict[str, Any]:
    """Return what decides the run's readings of a store: the folds' weights, the crops, how strings are weighed."""
    return {
        "weights": [file_sha256(path) for path in run.fold_checkpoints()],
        "store": reader.manifest.content_hash,
        "decoding": decoding_facts(run.settings.decoding),
    }


def _is_current(run: Run, made_from: dict[str, Any], *names: str) -> bool:
    """Tell whether these files of the run are all there, and the first of them was made from what there is now."""
    whole = all((run.folder / name).is_file() for name in names)
    return whole and load_record(run.folder / names[0]).get("made_from") == made_from


def read_test(run: Run, prepared: Prepared) -> pd.DataFrame:
    """Read the test crops with all fold models; write predictions, N-best lists and each member's own choice.

    A test image that could not be read gets an empty text with confidence 0, so that no row is missing. Folds that
    are not trained to the end are named in a printed line.
    """
    test = require_test(prepared)
    say_what_is_unfinished(run)
    made_from = _made_from(run, test)
    if _is_current(run, made_from, TEST_PREDICTIONS, TEST_CANDIDATES, MEMBERS):
        return load_test_predictions(run, prepared.competition)
    require_own_alphabet(run)
    keys, models = test.keys(), load_folds_models(run)
    fusion = make_fusion(run.settings.decoding, prepared.train.texts(), run.alphabet.characters)
    if fusion is not None and fusion.language is not None:
        fusion.language.save(run.folder / LANGUAGE)
    learnt, views = prepared.train.texts(), [PLAIN] * len(models)
    parts = reading_parts(run.folder, [run.fold_checkpoints()], views, test, range(len(test)), run.settings, learnt)
    source, accelerator = LmdbCrops(test), reading_accelerator()
    readings = read_crops(models, source, run.settings.candidates, accelerator, "read test", fusion, parts=parts)
    predictions = predictions_frame(keys, readings)
    save_candidates(run.folder / TEST_CANDIDATES, keys, readings)
    members = _members_table(keys, readings, trained_folds(run), predictions["text"].tolist())
    write_table(members, run.folder / MEMBERS)
    predictions = with_lost_rows(predictions, prepared.competition)
    write_table(predictions, run.folder / TEST_PREDICTIONS)
    write_record(run.folder, made_from, TEST_PREDICTIONS, TEST_CANDIDATES, MEMBERS)
    forget_parts(run.folder)
    return predictions


def require_test(prepared: Prepared) -> LmdbReader:
    """Return the store of the test crops. Raises ``HangulOcrError`` for a competition without a test.csv."""
    if prepared.test is None:
        raise HangulOcrError(f"{prepared.competition.folder / 'test.csv'}: not found; put the competition's file there")
    return prepared.test


def _members_table(keys: list[str], readings: list[Reading], folds: list[int], joint: list[str]) -> pd.DataFrame:
    members = {f"fold {fold}": [reading.own[i] for reading in readings] for i, fold in enumerate(folds)}
    simple = {"vote": [vote(r) for r in readings], "maximum confidence": [most_confident(r) for r in readings]}
    return pd.DataFrame({"img_path": keys, **members, **simple, RESCORED: joint})


def with_lost_rows(predictions: pd.DataFrame, competition: Competition) -> pd.DataFrame:
    """Add an empty prediction for each test image that could not be read, and say so."""
    lost = sorted(set(competition.test["img_path"]) - set(predictions["img_path"]))
    if not lost:
        return predictions
    print(f"{len(lost)} test images could not be read and are predicted as empty, first {lost[0]}")
    blank = pd.DataFrame({"img_path": lost, "text": "", "confidence": 0.0})
    return pd.concat([predictions, blank], ignore_index=True)


def hand_in(run: Run, prepared: Prepared, workspace: Workspace) -> Path:
    """Write ``submissions/submission.csv`` from the run's test predictions, validated, and log it.

    Raises ``HangulOcrError`` if the predictions are missing, or older than the weights or the crops.
    """
    _require_current(run, prepared.train, OOF)
    _require_current(run, require_test(prepared), TEST_PREDICTIONS)
    _whole_oof(run, prepared)
    scores = oof_scores(run, prepared.folds)
    predictions = load_test_predictions(run, prepared.competition)
    cv = (scores.exact, *scores.intervals["exact"])
    return write_and_log(predictions, prepared, workspace, run.folder.name, cv)


def write_and_log(
    predictions: pd.DataFrame, prepared: Prepared, workspace: Workspace, name: str, cv: tuple[float, float, float]
) -> Path:
    """Write ``submissions/submission.csv``, log it under ``name`` with its cross-validated score and interval.

    What differs from the last other submission is printed and written to ``submissions/changes.csv``. Raises
    ``HangulOcrError`` before anything is written.
    """
    path, log = workspace.submissions / "submission.csv", workspace.submissions / LOG
    before, after = former_submission(path), filled_template(predictions, prepared.competition, path)
    require_log(log)
    if same_rows(before, after):
        print(f"{path.name}: the same as the former one")
    else:
        changes = changed_rows(before, after, prepared.competition, predictions)
        write_submission(predictions, prepared.competition, path)
        _keep_changes(changes, path)
    logged = log_submission(
        log,
        run=name,
        commit=(git_commit(workspace.root) or {}).get("commit", ""),
        cv=cv[0],
        cv_low=cv[1],
        cv_high=cv[2],
        file=path.name,
        sha256=file_sha256(path),
    )
    if logged is not None:
        print(f"{log.name}: not logged again, the same file of {name} is its row {logged}")
    return path


def _keep_changes(changes: pd.DataFrame | None, submission: Path) -> None:
    if changes is None:
        submission.with_name(CHANGES).unlink(missing_ok=True)
    else:
        write_table(changes, submission.with_name(CHANGES), encoding="utf-8-sig")
    say_changes(changes, submission)


def _require_current(run: Run, reader: LmdbReader, name: str) -> None:
    path = run.folder / name
    if not path.is_file():
        raise HangulOcrError(f"{path}: not there; run notebook 05 or `hangul-ocr ensemble` first")
    if not _is_current(run, _made_from(run, reader), name):
        raise HangulOcrError(
            f"{path}: made from other weights or crops; run notebook 05 or `hangul-ocr ensemble` again"
        )
