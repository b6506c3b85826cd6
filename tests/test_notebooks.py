"""The notebooks as they are stored, and all of them run headless on a small sample competition."""

from __future__ import annotations

import ast
import importlib.util
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import cv2
import nbformat
import pytest

from hangul_ocr.data.dacon import read_competition
from hangul_ocr.data.sources import SOURCES
from hangul_ocr.data.tables import read_table
from hangul_ocr.hangul import is_placeholder
from hangul_ocr.inference.decoding import LANGUAGE
from hangul_ocr.inference.parts import PARTS
from hangul_ocr.inference.submission import validate_file
from hangul_ocr.labelled import PREDICTIONS, REPORT
from hangul_ocr.notebook_runner import NotebookResult, parameter_names, run_notebooks
from hangul_ocr.session import choose_settings
from hangul_ocr.settings import preset
from hangul_ocr.steps import EXTRA, SOUP
from hangul_ocr.suspects import SUSPECTS
from hangul_ocr.synthesis.competition import make_competition

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = (
    "01_eda",
    "02_synthesize",
    "03_create_lmdb",
    "04_train",
    "05_kfold_ensemble",
    "06_submission",
    "07_error_analysis",
)
COMMON = {"DATA", "PRESET", "RUN", "SEED", "TIME_LIMIT_MINUTES"}
by_notebook = pytest.mark.parametrize("name", NAMES)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def test_these_seven_are_all():
    assert tuple(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))) == NAMES


@by_notebook
def test_stored_notebook_is_valid_and_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(name):
        assert cell.outputs == []
        assert cell.execution_count is None


@by_notebook
def test_notebook_tells_a_story_and_leaves_the_work_to_the_package(name):
    cells = read(name).cells
    assert cells[0].source.startswith(f"# {name[:2]} · ")
    assert cells[-1].source.startswith("## What to check next")
    assert len(code_cells(name)) <= 15
    for before, cell in pairwise(cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"no prose before {cell.id}"
            nodes = list(ast.walk(ast.parse(cell.source)))
            assert not any(isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Lambda) for node in nodes)
            assert len(cell.source.splitlines()) <= 22


@by_notebook
def test_all_notebooks_share_first_cell_parameters_and_setup(name):
    first, parameters, setup = code_cells(name)[:3]
    reference = code_cells(NAMES[0])
    assert first.source == reference[0].source
    assert parameters.metadata.tags == ["parameters"]
    assert parameter_names(read(name)) >= COMMON
    assert setup.source == reference[2].source


@by_notebook
def test_paths_that_the_parameters_name_are_seen_from_the_notebooks_folder(name, monkeypatch, tmp_path):
    comments = code_cells(name)[1].source
    paths = re.findall(r'"([^"\s]+\.(?:json|lmdb|csv))"', comments)
    assert all(path.startswith("../") for path in paths)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    (tmp_path / "mine.json").write_text(preset("smoke").to_json(), encoding="utf-8")
    assert choose_settings(next(path for path in paths if path.endswith("mine.json"))) == preset("smoke")


def test_further_data_sets_are_all_named_where_one_is_chosen():
    words = re.findall(r"[\w-]+", code_cells("03_create_lmdb")[1].source)
    assert set(SOURCES) <= set(words)


def test_rules_of_one_competition_are_not_told_as_everybodys():
    texts = [cell.source for cell in read("06_submission").cells]
    for rule in ("pseudo-labels", "`PUBLIC_SHARE` is", "PUBLIC_SHARE = ", "ubmissions a day"):
        told = [text for text in texts if rule in text]
        assert told
        assert all("DACON 235970" in text and "look" in text for text in told), rule


# --- the first cell, as Colab and Kaggle run it --------------------------------------------------------------------


def run_first_cell(monkeypatch, folder: Path) -> list[str]:
    """Run it in ``folder`` as if the package were not installed; return what it did (nothing is really cloned)."""
    done: list[str] = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda command, check: done.append("clone"))
    monkeypatch.setattr("hangul_ocr.bootstrap.install_missing", lambda: done.append("install"))
    exec(code_cells(NAMES[0])[0].source, {})
    return done


def test_first_cell_takes_the_code_that_lies_around_it(monkeypatch):
    assert run_first_cell(monkeypatch, NOTEBOOKS) == ["install"]


def test_first_cell_says_plainly_that_no_repository_is_named(monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="no code here: write your fork's address into REPOSITORY"):
        run_first_cell(monkeypatch, tmp_path)


# --- all of them, run ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """A whole run of the notebooks, and what a second run of the training notebooks left as it was."""

    root: Path
    results: list[NotebookResult]
    untouched: bool

    @property
    def run(self) -> Path:
        return self.root / "output" / "runs" / "tiny"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Iterator[Whole]:
    root = tmp_path_factory.mktemp("a workspace")
    make_competition(root / "input" / "sample", 60, 20, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("INPUT", "OUTPUT", "SUBMISSIONS"):
            patch.setenv(f"HANGUL_OCR_{name}", str(root / name.lower()))
        run = {"PRESET": "smoke", "RUN": "tiny"}
        output = root / "output" / "notebooks"
        results = run_notebooks(NOTEBOOKS, output, run | {"CROPS_TO_WRITE": 3}, stream=io.StringIO())
        before = trained_at(root)
        run_notebooks(NOTEBOOKS, output, run, names=["04", "05"], stream=io.StringIO())
        yield Whole(root, results, untouched=before == trained_at(root))


def trained_at(root: Path) -> dict[Path, int]:
    files = [path for path in (root / "output").rglob("*") if path.suffix in {".safetensors", ".mdb", ".csv"}]
    return {path: path.stat().st_mtime_ns for path in files}


def test_all_seven_go_through_and_are_kept_with_a_page_each(whole):
    assert [result.name for result in whole.results] == list(NAMES)
    for result in whole.results:
        assert result.ok
        assert result.executed.is_file()
        assert result.html.stat().st_size > 10_000


def test_submission_passes_the_validator_and_is_logged(whole):
    path = whole.root / "submissions" / "submission.csv"
    assert validate_file(path, read_competition(whole.root / "input" / "sample")) == []
    log = read_table(path.with_name("log.csv"))
    assert log["run"].tolist() == ["tiny-wider-smaller"]
    assert log["public_score"].tolist() == [""]


def test_every_training_crop_is_read_by_the_fold_that_held_it_out(whole):
    oof = read_table(whole.run / "oof.csv")
    assert list(oof.columns) == ["img_path", "text", "prediction", "confidence", "fold"]
    train = read_competition(whole.root / "input" / "sample").train
    assert set(oof["img_path"]) == set(train.loc[~train["text"].map(is_placeholder), "img_path"])
    folds = read_table(next((whole.root / "output" / "data" / "sample").glob("folds*.csv")))
    assert dict(zip(oof["img_path"], oof["fold"], strict=True)) == dict(zip(folds["key"], folds["fold"], strict=True))


def test_pictures_are_kept_and_none_is_blank(whole):
    pictures = sorted((whole.root / "output" / "figures").glob("*.png"))
    assert {path.name[:2] for path in pictures} == {f"0{n}" for n in range(1, 8)}
    assert len(pictures) >= 25
    for path in pictures:
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 40, path.name
        assert image.std() > 3, path.name


def test_second_run_trains_and_reads_nothing_again(whole):
    assert whole.untouched


def test_page_of_the_output_folder_names_all_that_runs_leave(whole):
    page = (NOTEBOOKS.parent / "output" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w*.-]+", page))
    assert {"labelled", PREDICTIONS, REPORT, SUSPECTS, "corrections.csv", EXTRA, SOUP, LANGUAGE, PARTS} <= named
    for path in sorted((whole.root / "output").rglob("*")):
        inside = path.relative_to(whole.root / "output").parts
        own = inside[-1] in ("tiny", "tiny-wider-smaller", "sample")  # names of runs, ensembles and competitions
        if own or {"figures", "last", "notebooks"} & set(inside[:-1]):
            continue
        kind = re.sub(r"^fold\d+$", "fold0", inside[-1])
        assert kind == "data.mdb" or any(fnmatch(kind, word) for word in named), "/".join(inside)
