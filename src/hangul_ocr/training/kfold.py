"""A run: one pretraining on synthetic crops that all folds share, a short fine-tuning for each fold, OOF predictions.

Run folder ``output/runs/NAME/``: ``settings.json``, ``environment.json``, ``alphabet.json``, ``pretraining/``,
``fold0/`` ... (each ``metrics.csv``, ``last/``, ``best.safetensors``) and ``oof.csv``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hangul_ocr.data.batches import TrainingBlocks, fixed_groups
from hangul_ocr.data.crops import CropSource, LmdbCrops, rarity_weights
from hangul_ocr.data.extra import CropsBeside
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.hangul import FIRST_SYLLABLE, N_SYLLABLES, Alphabet, HangulOcrError
from hangul_ocr.models.checkpoint import initialise_from, read_header, require_alphabet
from hangul_ocr.models.folding import load_for_reading
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import Settings, TrainingSettings, load_settings
from hangul_ocr.training.loop import LAST, Stage, StageResult, stage_accelerator
from hangul_ocr.weights import CURVE, shipped_weights
from hangul_ocr.workspace import (
    atomic_write_json,
    atomic_write_text,
    environment_record,
    is_main_process,
    make_accelerator,
    seed_everything,
)

SETTINGS, ALPHABET, ENVIRONMENT = "settings.json", "alphabet.json", "environment.json"


@dataclass(frozen=True)
class Run:
    """A run folder with its settings and alphabet."""

    folder: Path
    settings: Settings
    alphabet: Alphabet

    @property
    def pretrained(self) -> Path:
        """The weights that the folds begin from: those that ship, or the best of the run's own pretraining."""
        if self.settings.start == "shipped":
            return shipped_weights()
        return self.folder / "pretraining" / "best.safetensors"

    def fold_folder(self, fold: int) -> Path:
        """The folder of one fold."""
        return self.folder / f"fold{fold}"

    def fold_checkpoints(self) -> list[Path]:
        """The best weights of the trained folds, in order. Raises ``HangulOcrError`` if there are none."""
        found = [self.fold_folder(k) / "best.safetensors" for k in range(self.settings.folds)]
        found = [path for path in found if path.is_file()]
        if not found:
            raise HangulOcrError(f"{self.folder}: no trained fold; run notebook 05 or `hangul-ocr train` first")
        return found


def open_run(folder: Path, settings: Settings, alphabet: Alphabet, facts: dict | None = None) -> Run:
    """Create a run folder, or go on in one of the same alphabet and settings (but for ``decoding``).

    ``alphabet`` is the data's, to which the settings may add all other syllables. ``facts`` (the data's hash ...) join
    ``environment.json``. Raises ``HangulOcrError`` if the folder belongs to other settings.
    """
    alphabet = _with_all_syllables(alphabet) if settings.alphabet == "all" else alphabet
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / SETTINGS).is_file():
        _require_same(folder, settings, alphabet)
    else:
        atomic_write_json(folder / ALPHABET, alphabet.characters)
        atomic_write_json(folder / ENVIRONMENT, environment_record() | (facts or {}))
    # How strings are weighed may change without another training.
    if not (folder / SETTINGS).is_file() or load_run(folder).settings != settings:
        atomic_write_text(folder / SETTINGS, settings.to_json())
    return Run(folder, settings, alphabet)


def _with_all_syllables(alphabet: Alphabet) -> Alphabet:
    """Return ``alphabet`` with those of the 11,172 syllables that it lacks at its end: the other classes stay."""
    syllables = map(chr, range(FIRST_SYLLABLE, FIRST_SYLLABLE + N_SYLLABLES))
    return Alphabet(alphabet.characters + "".join(c for c in syllables if alphabet.missing(c)))


def load_run(folder: Path) -> Run:
    """Open an existing run. Raises ``HangulOcrError`` if it is none."""
    if not (folder / SETTINGS).is_file():
        raise HangulOcrError(f"{folder}: not a run folder ({SETTINGS} is missing); train first, or name another run")
    return Run(folder, load_settings(folder / SETTINGS), _load_alphabet(folder / ALPHABET))


def _load_alphabet(path: Path) -> Alphabet:
    try:
        characters = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HangulOcrError(f"{path}: damaged ({error}); put the file back, or delete the run's folder") from None
    if not isinstance(characters, str):
        raise HangulOcrError(f"{path}: no alphabet; put the file back, or delete the run's folder")
    return Alphabet(characters)


def _require_same(folder: Path, settings: Settings, alphabet: Alphabet) -> None:
    run = load_run(folder)
    if replace(run.settings, decoding=settings.decoding) != settings:
        ours, theirs = json.loads(settings.to_json()), json.loads(run.settings.to_json())
        differing = ", ".join(_differences(ours, theirs)[:4])
        raise HangulOcrError(
            f"{folder}: made with other settings ({differing}); name another run, or delete the folder"
        )
    if run.alphabet != alphabet:
        raise HangulOcrError(f"{folder}: made with another alphabet; name another run, or delete the folder")


def _differences(ours: dict, theirs: dict, prefix: str = "") -> list[str]:
    names = []
    for name in sorted(set(ours) | set(theirs)):
        a, b = ours.get(name), theirs.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            names.append(f"{prefix}{name}: {a} here, {b} there")
    return names


def pretrain(
    run: Run,
    synthetic: CropSource,
    validation: CropSource,
    init_from: Path | None = None,
    deadline: float | None = None,
    extra: CropSource | None = None,
) -> StageResult:
    """Train the run's network on streamed synthetic crops; ``validation`` are crops that the stream never shows.

    It goes on from the weights ``init_from``, whose crops are counted in ``metrics.csv``, or begins from nothing.
    ``extra`` are real crops, which the settings' ``real_share`` of all are drawn from.
    """
    settings, stage = run.settings, run.settings.pretraining
    model = _fresh_model(run, "pretraining", init_from)
    seen = 0
    if init_from is not None:
        _begin_from(model, init_from, run.folder / "pretraining")
        seen = int(read_header(init_from).get("facts", {}).get("crops", 0))
    mixed = replace(stage, synthetic_share=1.0 if extra is None else 1 - settings.real_share)
    blocks = _blocks(run, mixed, seed=settings.seed, synthetic=synthetic, real=extra)
    return _run_stage("pretraining", run, model, blocks, validation, stage, "pretraining", deadline, seen)


def train_fold(
    run: Run,
    fold: int,
    reader: LmdbReader,
    folds: pd.DataFrame,
    synthetic: CropSource | None = None,
    init_from: Path | None = None,
    deadline: float | None = None,
    extra: CropSource | None = None,
) -> StageResult:
    """Fine-tune on all folds but ``fold``, validating on it, from ``init_from`` (or from nothing if that is None).

    ``extra`` are further real crops, which the settings' ``extra_share`` of the real ones are drawn from.
    """
    settings = run.settings
    model = _fresh_model(run, f"fold{fold}", init_from)
    if init_from is not None:
        _begin_from(model, init_from, run.fold_folder(fold))
    own, others = fold_rows(reader, folds, fold)
    real = LmdbCrops(reader, others, settings.fine_tuning.augment, alphabet=run.alphabet)
    stage, seed = settings.fine_tuning, settings.seed * 1000 + fold + 1
    weights = rarity_weights(real.texts(), stage.balance) if stage.balance else None
    if extra is not None:
        real = CropsBeside(real, extra, settings.extra_share)
        weights = None if weights is None else real.weights(weights)
    blocks = _blocks(run, stage, seed=seed, real=real, synthetic=synthetic, real_weights=weights)
    held_out = LmdbCrops(reader, own, alphabet=run.alphabet)
    return _run_stage(f"fold {fold}", run, model, blocks, held_out, stage, f"fold{fold}", deadline)


def fold_rows(reader: LmdbReader, folds: pd.DataFrame, fold: int) -> tuple[list[int], list[int]]:
    """Return the rows of the store in ``fold`` and the rows in all others, joined by key."""
    fold_of = dict(zip(folds["key"], folds["fold"], strict=True))
    rows = [(i, fold_of[key]) for i, key in enumerate(reader.keys())]
    own = [i for i, k in rows if k == fold]
    others = [i for i, k in rows if k != fold]
    if not own or not others:
        raise HangulOcrError(f"fold {fold} of {len(set(folds['fold']))}: empty, or all there is; make the folds anew")
    return own, others


def _fresh_model(run: Run, folder: str, init_from: Path | None = None) -> Recognizer:
    """Build the network; pretrained backbone weights are fetched only where nothing else will replace them."""
    seed_everything(run.settings.seed)
    replaced = init_from is not None or (run.folder / folder / LAST).is_file()
    settings = replace(run.settings.model, pretrained=run.settings.model.pretrained and not replaced)
    model = Recognizer(settings, run.alphabet)
    model.settings = run.settings.model
    return model


def _begin_from(model: Recognizer, weights: Path, folder: Path) -> None:
    """Copy ``weights`` into ``model``; as the stage in ``folder`` begins, say if a part of it is not among them."""
    counts = initialise_from(model, weights)
    if counts["fresh_tensors"] and is_main_process() and not (folder / LAST).is_file():
        print(f"{weights}: {counts['tensors']:,} tensors taken, {counts['fresh_tensors']:,} of other parts start fresh")


def _blocks(run: Run, stage: TrainingSettings, seed: int, **sources: Any) -> TrainingBlocks:
    accelerator = make_accelerator("float32")  # only asked which process this is
    process = (accelerator.process_index, accelerator.num_processes)
    return TrainingBlocks(
        run.settings.model,
        run.alphabet,
        stage.crops_per_step,
        seed,
        synthetic_share=stage.synthetic_share,
        join_share=stage.join_share,
        glance_share=stage.glance_share,
        process=process,
        **sources,
    )


def _run_stage(
    name: str,
    run: Run,
    model: Recognizer,
    blocks: TrainingBlocks,
    validation: CropSource,
    settings: TrainingSettings,
    folder: str,
    deadline: float | None,
    seen: int = 0,
) -> StageResult:
    best = run.folder / folder / "best.safetensors"
    if best.is_file():
        require_alphabet(best, run.alphabet)
    groups = fixed_groups(validation, run.settings.model, run.alphabet)
    accelerator = stage_accelerator(settings.number_type, run.folder / folder)
    return Stage(name, model, blocks, groups, settings, run.folder / folder, accelerator, deadline, seen).run()


def load_folds_models(run: Run) -> list[Recognizer]:
    """Return the recognisers of all trained folds, made ready for reading."""
    return [load_for_reading(path) for path in run.fold_checkpoints()]


def learning_history(run: Run, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the ``metrics.csv`` of all stages in one table, with a column ``stage``.

    The stage ``pretraining`` of a run from the shipped weights is the curve that ships with them.
    """
    if names == ["pretraining"] and run.settings.start == "shipped":
        return pd.read_csv(shipped_weights().with_name(CURVE)).assign(stage="pretraining")
    folders = (
        [run.folder / name for name in names] if names else sorted(p.parent for p in run.folder.glob("*/metrics.csv"))
    )
    tables = [pd.read_csv(folder / "metrics.csv").assign(stage=folder.name) for folder in folders]
    if not tables:
        raise HangulOcrError(f"{run.folder}: no metrics yet; train first")
    return pd.concat(tables, ignore_index=True)
