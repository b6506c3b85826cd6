"""Means of weights over real run folders: what is averaged, kept and refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from read_runs import workspace_in
from test_ensembles import OTHER, SMOKE, House

from hangul_ocr import cli, soups, steps
from hangul_ocr.data.dacon import read_competition
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.models.checkpoint import initialise_from, load_model, save_model
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import preset
from hangul_ocr.soups import make_soup
from hangul_ocr.steps import SOUP, START
from hangul_ocr.synthesis.competition import make_competition
from hangul_ocr.training.kfold import Run, load_run
from hangul_ocr.training.loop import BEST
from hangul_ocr.weights import shipped_weights

SLOWER = replace(SMOKE, fine_tuning=replace(SMOKE.fine_tuning, learning_rate=1e-4))


class Kitchen(House):
    """Two runs of one network, ``first`` and ``slower``, as if fine-tuned from the same weights."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.slower = self.run("slower", SLOWER, self.prepared.alphabet)
        for run in (self.first, self.slower):
            self.note_start(run, "a" * 64)
        for fold in range(SMOKE.folds):
            self.move_apart(fold)

    @property
    def runs(self):
        return self.workspace.output / "runs"

    def note_start(self, run: Run, sha256: str) -> None:
        for fold in steps.trained_folds(run):
            (run.fold_folder(fold) / START).write_text(json.dumps({"path": "w", "sha256": sha256}), encoding="utf-8")

    def move_apart(self, fold: int) -> None:
        """Let the two runs' weights lie on either side of the same point, a thousandth away."""
        path = self.first.fold_folder(fold) / BEST
        for step, run in ((-1e-3, self.slower), (1e-3, self.first)):
            model = load_model(path)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += step
            save_model(run.fold_folder(fold) / BEST, model)

    def soup(self, *names: str, name: str = "soup") -> soups.Soup:
        return make_soup(self.workspace, self.prepared, names or ("first", "slower"), name)


@pytest.fixture
def kitchen(tmp_path) -> Kitchen:
    return Kitchen(tmp_path)


def test_a_mean_that_reads_more_is_kept_for_what_it_reads(tmp_path):
    """Two runs that lie a step to either side of the weights that ship read worse than these, their mean."""
    workspace = workspace_in(tmp_path)
    competition = read_competition(make_competition(tmp_path / "input" / "sample", 40, 4, seed=3))
    settings = replace(preset("quick"), folds=2, trained_folds=2)
    prepared = steps.prepare(competition, workspace, settings)
    noise = torch.Generator().manual_seed(0)
    shipped = load_model(shipped_weights())
    steps_away = [torch.randn(p.shape, generator=noise) * p.std(correction=0) for p in shipped.parameters()]
    for name, side in (("left", -0.3), ("right", 0.3)):
        run = steps.start_run(workspace, prepared, settings, name)
        model = Recognizer(run.settings.model, run.alphabet)
        initialise_from(model, shipped_weights())
        with torch.no_grad():
            for parameter, step in zip(model.parameters(), steps_away, strict=True):
                parameter += side * step
        for fold in range(2):
            save_model(run.fold_folder(fold) / BEST, model)
            (run.fold_folder(fold) / START).write_text('{"sha256": "a"}', encoding="utf-8")
    made = make_soup(workspace, prepared, ("left", "right"), "soup")
    assert made.folder == workspace.output / "runs" / "soup"
    assert made.accuracy["soup"] > max(made.accuracy["left"], made.accuracy["right"]) + 0.2
    assert made.comparison.test.only_second > made.comparison.test.only_first


def say_that_the_soup_is_best(monkeypatch) -> None:
    values = iter((0.5, 0.6, 0.7))
    monkeypatch.setattr(soups, "_accuracy", lambda oof: next(values))


def test_a_soup_that_is_kept_is_the_mean_and_a_run_like_any_other(kitchen, monkeypatch, capsys):
    say_that_the_soup_is_best(monkeypatch)
    made = kitchen.soup()
    assert made.folder == kitchen.runs / "soup"
    assert made.comparison.names == ("slower", "soup")
    assert "kept as" in soups.describe(made)[-1]
    for fold in range(SMOKE.folds):
        states = [load_model(kitchen.runs / name / f"fold{fold}" / BEST).state_dict() for name in ("first", "slower")]
        mean = load_model(made.folder / f"fold{fold}" / BEST).state_dict()
        for name, tensor in mean.items():
            expected = (states[0][name].double() + states[1][name].double()) / 2
            assert torch.allclose(tensor.double(), expected, atol=1e-7), name
    soup = load_run(made.folder)
    capsys.readouterr()
    assert len(steps.read_test(soup, kitchen.prepared)) == 8
    assert "not trained to the end" not in capsys.readouterr().out
    assert "soup" in kitchen.open("soup").members
    with pytest.raises(HangulOcrError, match="a mean of other runs, which is not trained"):
        steps.train_run(soup, kitchen.prepared)
    with pytest.raises(HangulOcrError, match="there already; give the soup another --name"):
        kitchen.soup()


def test_a_soup_that_is_no_better_leaves_nothing_behind(kitchen):
    made = kitchen.soup()  # untrained networks read nothing: the mean is no better
    assert made.folder is None
    assert not (kitchen.runs / "soup").exists()
    assert not (kitchen.workspace.output / "soups" / "soup").exists()
    assert "was not kept" in soups.describe(made)[-1]
    assert soups.describe(made)[-2].startswith("against first, the best: 0 crops got better, 0 worse: that may be")


def test_stopped_and_started_again_it_takes_the_weights_that_are_now(kitchen, monkeypatch):
    whole = steps.read_oof

    def stopped(run, prepared):
        if run.folder.name == "soup":
            raise KeyboardInterrupt
        return whole(run, prepared)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "read_oof", stopped)
        with pytest.raises(KeyboardInterrupt):
            kitchen.soup()
    assert not (kitchen.runs / "soup").exists()
    before = json.loads((kitchen.workspace.output / "soups" / "soup" / SOUP).read_text(encoding="utf-8"))
    kitchen.move_apart(0)
    say_that_the_soup_is_best(monkeypatch)
    made = kitchen.soup()
    after = json.loads((made.folder / SOUP).read_text(encoding="utf-8"))
    assert before["first"][0] != after["first"][0]
    mean, first = (load_model(run / "fold0" / BEST) for run in (made.folder, kitchen.first.folder))
    for own, of_first in zip(mean.parameters(), first.parameters(), strict=True):
        assert torch.allclose(own, of_first - 1e-3, atol=1e-6)


def test_runs_that_cannot_be_averaged_are_refused(kitchen):
    wider = kitchen.run("wider", replace(SMOKE, model=OTHER.model), kitchen.prepared.alphabet)
    kitchen.note_start(wider, "a" * 64)
    with pytest.raises(HangulOcrError, match="first and wider differ in their network"):
        kitchen.soup("first", "wider")
    spelling = kitchen.run(
        "spelling", replace(SMOKE, decoding=replace(SMOKE.decoding, language_weight=0.5)), kitchen.prepared.alphabet
    )
    kitchen.note_start(spelling, "a" * 64)
    with pytest.raises(HangulOcrError, match="first and spelling differ in their decoding"):
        kitchen.soup("first", "spelling")
    kitchen.note_start(kitchen.slower, "b" * 64)
    with pytest.raises(HangulOcrError, match="differ in their weights that they began from"):
        kitchen.soup()
    (kitchen.slower.fold_folder(0) / START).write_text("{}", encoding="utf-8")
    with pytest.raises(HangulOcrError, match=rf"slower: {START} of a fold is missing or damaged"):
        kitchen.soup()
    with pytest.raises(HangulOcrError, match="two runs or more, each named once"):
        kitchen.soup("first", "first")
    with pytest.raises(HangulOcrError, match="use a plain name"):
        kitchen.soup(name="../x")
    other = kitchen.run("reseeded", replace(SMOKE, seed=OTHER.seed), kitchen.prepared.alphabet)
    kitchen.note_start(other, "a" * 64)
    with pytest.raises(HangulOcrError, match="reseeded: made from other folds"):
        kitchen.soup("first", "reseeded")
    assert not (kitchen.workspace.output / "soups").exists()


def test_the_command_tells_what_came_of_it(kitchen, monkeypatch, capsys):
    for name, folder in (("ROOT", "."), ("INPUT", "input"), ("OUTPUT", "output"), ("SUBMISSIONS", "submissions")):
        monkeypatch.setenv(f"HANGUL_OCR_{name}", str(kitchen.workspace.root / folder))
    assert cli.main(["soup", "first", "slower", "--data", str(kitchen.competition.folder)]) == 0
    told = capsys.readouterr().out
    assert "first: 0.00 % out-of-fold" in told
    assert "was not kept" in told
