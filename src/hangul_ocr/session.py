"""What a notebook or a command begins with: one call that finds the folders, the competition, the settings, the run.

The parameters have the same names and meaning everywhere: ``data``, ``preset`` (a name or a settings file), ``run``,
``seed``, ``minutes``.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from matplotlib.figure import Figure

from hangul_ocr import steps
from hangul_ocr.data.dacon import Competition
from hangul_ocr.evaluation.plots import save_figure
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.settings import PRESETS, Settings, load_settings, preset
from hangul_ocr.steps import Prepared
from hangul_ocr.training.kfold import Run
from hangul_ocr.workspace import Workspace, main_process_first, setup_notebook

#: Seconds since 1970 at which training saves and stops: so `hangul-ocr run` shares one limit among the notebooks.
STOP_AT = "HANGUL_OCR_STOP_AT"
#: LMDBs to learn from instead of the settings' own, as in PATH: so `hangul-ocr run --also` reaches the notebooks.
ALSO = "HANGUL_OCR_ALSO"


@dataclass(frozen=True, eq=False)
class Session:
    """A competition, the settings to work on it with, and the name of the run that keeps the results.

    ``deadline`` is a value of ``time.monotonic()`` at which training saves and stops, or None.
    """

    workspace: Workspace
    competition: Competition
    settings: Settings
    name: str
    deadline: float | None = None

    @cached_property
    def prepared(self) -> Prepared:
        """The competition's LMDBs and folds, written at the first use."""
        with main_process_first():
            return steps.prepare(self.competition, self.workspace, self.settings)

    @cached_property
    def run(self) -> Run:
        """The run folder, created at the first use."""
        prepared = self.prepared
        with main_process_first():
            return steps.start_run(self.workspace, prepared, self.settings, self.name)

    def show(self, figure: Figure, name: str) -> Figure:
        """Keep ``figure`` as ``output/figures/NAME.png`` and return it, for a cell to end with."""
        save_figure(figure, self.workspace.output / "figures" / f"{name}.png")
        return figure


def open_session(
    data: str = "", preset: str = "quick", run: str = "", seed: int | None = None, minutes: float | None = None
) -> Session:
    """Open the competition in ``data`` (by default the one in ``input/``, or the sample) under a preset.

    ``preset`` is a name or the path of a settings file, ``run`` by default made of it and of the competition's name.
    ``seed`` replaces the settings' own where it is given. Training stops, saved, after ``minutes``.
    """
    session = find_session(setup_notebook(), data, preset, run, seed, minutes)
    train, test = session.competition.train, session.competition.test
    print(
        f"run {session.name} on competition {session.competition.name}: {len(train):,} train, {len(test):,} test rows"
    )
    return session


def find_session(
    workspace: Workspace,
    data: str,
    preset: str,
    run: str = "",
    seed: int | None = None,
    minutes: float | None = None,
    also: Sequence[str] = (),
) -> Session:
    """Do what :func:`open_session` does in a workspace that is known, and print nothing.

    ``also`` are LMDBs to learn from instead of the settings' ``extra_lmdbs``.
    """
    settings, until = _with_extra_lmdbs(choose_settings(preset, seed), workspace, also), deadline(minutes)
    with main_process_first():
        competition = steps.open_competition(workspace, data)
    return Session(workspace, competition, settings, run or run_name(preset, seed, competition), until)


def choose_settings(name: str, seed: int | None = None) -> Settings:
    """Return the preset ``name``, or the settings in the JSON file of that name, with ``seed`` for theirs if given."""
    is_file = name not in PRESETS and (name.lower().endswith(".json") or Path(name).is_file())
    chosen = load_settings(Path(name).expanduser()) if is_file else preset(name)
    return chosen if seed is None else dataclasses.replace(chosen, seed=seed)


def _with_extra_lmdbs(settings: Settings, workspace: Workspace, also: Sequence[str]) -> Settings:
    """Return the settings with ``also``, ``$HANGUL_OCR_ALSO`` or their own ``extra_lmdbs``, as absolute paths."""
    named = also or [path for path in os.environ.get(ALSO, "").split(os.pathsep) if path] or settings.extra_lmdbs
    places = [str(workspace.root / Path(path).expanduser()) for path in named]
    return dataclasses.replace(settings, extra_lmdbs=places)


def run_name(preset: str, seed: int | None, competition: Competition) -> str:
    """Return the run's default name, such as ``quick-sample``; another seed than the settings' own shows in it."""
    changed = seed is not None and seed != choose_settings(preset).seed
    return f"{Path(preset).stem}-{competition.name}" + (f"-seed{seed}" if changed else "")


def deadline(minutes: float | None) -> float | None:
    """Return when to stop on the monotonic clock: ``minutes`` from now, or at ``$HANGUL_OCR_STOP_AT`` if sooner."""
    if minutes is not None and minutes <= 0:
        raise HangulOcrError(f"a time limit of {minutes} minutes leaves nothing to do; give more, or none")
    now = time.monotonic()
    limits = [now + 60 * minutes] if minutes is not None else []
    if stop_at := os.environ.get(STOP_AT):
        limits.append(now + float(stop_at) - time.time())
    return min(limits, default=None)
