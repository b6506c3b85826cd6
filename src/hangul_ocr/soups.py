"""Weight averaging (soup): the mean of several fine-tunings of the same weights, fold by fold, kept where OOF says so.

Wortsman et al., "Model soups", ICML 2022: networks that were fine-tuned from the same weights lie so near each other
that the mean of their weights reads, often better than each, at the cost of one. The mean of the models of one fold has
seen no crop of that fold, so it is judged out-of-fold like any other run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from hangul_ocr import steps
from hangul_ocr.evaluation.comparison import Comparison, compare_runs, verdict
from hangul_ocr.evaluation.metrics import exact_matches
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.inference.submission import file_sha256
from hangul_ocr.models.checkpoint import load_model, save_model
from hangul_ocr.results import groups_by_key
from hangul_ocr.steps import SOUP, START, Prepared
from hangul_ocr.training.kfold import Run, load_run, open_run
from hangul_ocr.training.loop import BEST
from hangul_ocr.workspace import Workspace, atomic_write_json


@dataclass(frozen=True)
class Soup:
    """What came of a soup: the out-of-fold accuracy of each run and of the soup (``accuracy``, by name), how the best
    run and the soup differ crop by crop, and the run folder; None where the soup was not better and is gone."""

    accuracy: dict[str, float]
    comparison: Comparison
    folder: Path | None


def make_soup(workspace: Workspace, prepared: Prepared, names: Sequence[str], name: str) -> Soup:
    """Average the runs ``names`` fold by fold into the run ``name``, and keep it if it reads more crops out-of-fold.

    Stopped, it goes on where it was when called again. Raises ``HangulOcrError`` for runs that cannot be averaged
    (other networks, alphabets, folds, crops, or weights that they began from) and for a ``name`` that is taken.
    """
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise HangulOcrError(f"a soup needs two runs or more, each named once; these are {', '.join(names)}")
    target = _free_folder(workspace, name)
    runs = [load_run(workspace.output / "runs" / each) for each in names]
    _require_alike(runs, prepared)
    # Outside runs/, until it is known to be better: nothing reads a soup that nobody wants.
    aside = workspace.output / "soups" / name
    soup = _stir(runs, prepared, aside)
    tables = [steps.read_oof(run, prepared) for run in (*runs, soup)]
    accuracy = {n: _accuracy(table) for n, table in zip((*names, name), tables, strict=True)}
    best = max(range(len(runs)), key=lambda i: accuracy[names[i]])
    compared = compare_runs(tables[best], tables[-1], (names[best], name), groups_by_key(prepared.folds))
    if accuracy[name] <= accuracy[names[best]]:
        shutil.rmtree(aside)
        return Soup(accuracy, compared, None)
    os.replace(aside, target)
    return Soup(accuracy, compared, target)


def _free_folder(workspace: Workspace, name: str) -> Path:
    if not name or Path(name).name != name or name.startswith("."):
        raise HangulOcrError(f"run name {name!r}: use a plain name such as soup")
    target = workspace.output / "runs" / name
    if target.exists():
        raise HangulOcrError(f"{target}: there already; give the soup another --name, or delete the folder")
    return target


def _require_alike(runs: Sequence[Run], prepared: Prepared) -> None:
    """Raise ``HangulOcrError`` unless the mean of the runs' weights means something and can be judged out-of-fold."""
    first = runs[0]
    for run in runs:
        steps.require_same_data(run.folder, prepared.hashes())
        steps.require_own_alphabet(run)
        differing = next((what for what, same in _alike(first, run) if not same), None)
        if differing:
            raise HangulOcrError(
                f"runs {first.folder.name} and {run.folder.name} differ in their {differing}: only fine-tunings of the "
                "same weights on the same folds, read in the same way, can be averaged and compared; join others by "
                "`hangul-ocr ensemble`"
            )


def _alike(first: Run, other: Run) -> list[tuple[str, bool]]:
    return [
        ("network", first.settings.model == other.settings.model),
        ("decoding", first.settings.decoding == other.settings.decoding),
        ("number of candidates", first.settings.candidates == other.settings.candidates),
        ("alphabet", first.alphabet == other.alphabet),
        ("trained folds", steps.trained_folds(first) == steps.trained_folds(other)),
        ("weights that they began from", _starts(first) == _starts(other)),
    ]


def _starts(run: Run) -> list[str]:
    """Return the hash of the weights that each fold of ``run`` began from."""
    files = [run.fold_folder(fold) / START for fold in steps.trained_folds(run)]
    try:
        return [json.loads(file.read_text(encoding="utf-8"))["sha256"] for file in files]
    except (OSError, ValueError, KeyError):
        raise HangulOcrError(f"{run.folder}: {START} of a fold is missing or damaged; train the run again") from None


def _stir(runs: Sequence[Run], prepared: Prepared, folder: Path) -> Run:
    """Write the run of the mean weights into ``folder``; what lies there of an earlier start is taken or replaced."""
    made_from = {run.folder.name: _weights(run) for run in runs}
    if folder.is_dir() and _kept(folder) != made_from:
        shutil.rmtree(folder)
    first = runs[0]
    soup = open_run(folder, first.settings, first.alphabet, prepared.hashes())
    for fold in steps.trained_folds(first):
        if not (soup.fold_folder(fold) / BEST).is_file():
            _average([run.fold_folder(fold) / BEST for run in runs], soup.fold_folder(fold) / BEST)
            shutil.copyfile(first.fold_folder(fold) / START, soup.fold_folder(fold) / START)
    atomic_write_json(folder / SOUP, made_from)
    return soup


def _weights(run: Run) -> list[str]:
    return [file_sha256(path) for path in run.fold_checkpoints()]


def _kept(folder: Path) -> dict | None:
    try:
        return json.loads((folder / SOUP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _average(paths: Sequence[Path], target: Path) -> None:
    models = [load_model(path) for path in paths]
    states = [model.state_dict() for model in models]
    models[0].load_state_dict({name: _mean([state[name] for state in states]) for name in states[0]})
    save_model(target, models[0], {"mean_of": len(models)})


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean in float64, rounded once; of counters (batches that a normalisation saw) the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(tensors[0].dtype)


def _accuracy(oof: pd.DataFrame) -> float:
    return float(exact_matches(oof["text"].tolist(), oof["prediction"].tolist()).mean())


def describe(soup: Soup) -> list[str]:
    """Return what came of it, for people: each run, how the best and the soup differ, whether it was kept."""
    lines = [f"{name}: {100 * value:.2f} % out-of-fold" for name, value in soup.accuracy.items()]
    lines.append(f"against {soup.comparison.names[0]}, the best: {verdict(soup.comparison)}")
    if soup.folder is None:
        return [*lines, "the soup is not better than the best run and was not kept"]
    own = soup.folder.name
    return [
        *lines,
        f"kept as {soup.folder}; hand it in with `hangul-ocr ensemble --run {own}` and `submit --run {own}`",
    ]
