"""The headless run of notebooks: parameters, progress, what is kept, and what is said when a cell fails."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from fontTools.ttLib import TTFont

from hangul_ocr import notebook_runner
from hangul_ocr.evaluation.webfont import FAMILY
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.notebook_runner import NotebookFailed, Progress, Timings, inject_parameters, run_notebooks


def write_notebook(folder: Path, name: str, *cells: str, parameters: str | None = None) -> Path:
    notebook = nbformat.v4.new_notebook()
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def read_notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs)


def characters_of_its_font(page: str) -> set[str]:
    """Return what the font inside a page can draw; its rules must come before it is named for text and for code."""
    rules = re.search(r"<style>@font-face.*?base64,([A-Za-z0-9+/=]+).*?</style></head>", page, re.DOTALL)
    assert rules
    for name in ("content", "ui", "code"):
        assert re.search(rf"--jp-{name}-font-family: [^;]*'{FAMILY}'", rules[0])
    return set(map(chr, TTFont(io.BytesIO(base64.b64decode(rules[1]))).getBestCmap()))


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "notebooks"


def test_two_notebooks_run_in_order_with_parameters_and_the_notebooks_folder_as_working_folder(notebooks, tmp_path):
    write_notebook(notebooks, "02_second", "print(open('left.txt').read() + WORD)", parameters="WORD = 'unset'")
    write_notebook(notebooks, "01_first", "open('left.txt', 'w').write(f'{N + 1} ')", parameters="N: int = 0")
    screen = io.StringIO()
    results = run_notebooks(notebooks, tmp_path / "out", {"N": 41, "WORD": "한글"}, stream=screen)
    assert [result.name for result in results] == ["01_first", "02_second"]
    assert all(result.ok for result in results)
    assert "42 한글" in printed(read_notebook(tmp_path / "out" / "02_second.ipynb"))
    assert "42 한글" in (tmp_path / "out" / "02_second.html").read_text(encoding="utf-8")
    assert "require.min.js" not in (tmp_path / "out" / "02_second.html").read_text(encoding="utf-8")
    assert {"한", "글"} <= characters_of_its_font((tmp_path / "out" / "02_second.html").read_text(encoding="utf-8"))
    assert "    42 한글\n" in screen.getvalue()
    assert "[2/2] 02_second" in screen.getvalue()
    assert set(json.loads((tmp_path / "out" / "timings.json").read_text())[""]) == {"01_first", "02_second"}
    assert not list((tmp_path / "out").glob(".*"))


def test_kernel_is_this_interpreter_with_inline_pictures_and_none_of_the_users_settings(
    notebooks, tmp_path, monkeypatch
):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("LEAKED = True")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    write_notebook(
        notebooks,
        "01_look",
        "import os, sys\nprint(sys.executable, os.environ['JUPYTER_CONFIG_DIR'], 'LEAKED' in globals(), sep='\\n')",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    )
    run_notebooks(notebooks, tmp_path / "out", {}, stream=io.StringIO())
    done = read_notebook(tmp_path / "out" / "01_look.ipynb")
    executable, config, leaked = printed(done).splitlines()
    assert executable == sys.executable
    assert config != str(tmp_path / "mine")
    assert leaked == "False"
    assert any("image/png" in output.get("data", {}) for output in done.cells[1].outputs)


def test_failed_cell_is_named_and_the_executed_copy_kept(notebooks, tmp_path):
    write_notebook(
        notebooks, "01_bad", "print('before')", "# why\nraise ValueError('first\\nlast line')", "print('no')"
    )
    write_notebook(notebooks, "02_never", "print('never')")
    with pytest.raises(NotebookFailed) as caught:
        run_notebooks(notebooks, tmp_path / "out", {}, stream=io.StringIO())
    message = str(caught.value)
    assert "\n" not in message
    assert "cell 2 (raise ValueError" in message
    assert "ValueError: last line" in message
    assert str(tmp_path / "out" / "01_bad.ipynb") in message
    assert caught.value.results[0].cells_done == 1
    assert "before" in printed(read_notebook(tmp_path / "out" / "01_bad.ipynb"))
    assert "ValueError" in (tmp_path / "out" / "01_bad.html").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "02_never.ipynb").exists()


def test_kernel_that_dies_is_reported_with_its_cell(notebooks, tmp_path):
    write_notebook(notebooks, "01_dies", "print('alive')", "import os\nos._exit(9)")
    with pytest.raises(NotebookFailed, match=r"cell 2 \(import os\): the kernel died"):
        run_notebooks(notebooks, tmp_path / "out", {}, stream=io.StringIO())
    assert "alive" in printed(read_notebook(tmp_path / "out" / "01_dies.ipynb"))


def test_progress_bars_reach_the_terminal_and_not_the_page(notebooks, tmp_path, monkeypatch):
    monkeypatch.setitem(notebook_runner.STATUS_EVERY, False, 0.0)
    loop = "import time\nfor _ in tqdm(range(4), mininterval=0):\n    time.sleep(0.01)"
    write_notebook(notebooks, "01_bar", f"from tqdm.notebook import tqdm\n{loop}", f"from tqdm import tqdm\n{loop}")
    screen = io.StringIO()
    run_notebooks(notebooks, tmp_path / "out", {}, stream=screen)
    assert re.search(r"0/2 cells, [\d:]+ · 3/4 \[", screen.getvalue())
    assert re.search(r"1/2 cells, [\d:]+ · 4/4 \[", screen.getvalue())
    done = read_notebook(tmp_path / "out" / "01_bar.ipynb")
    assert done.cells[0].outputs == []
    assert "widgets" not in done.metadata


def test_unknown_parameter_and_unknown_notebook_are_refused_before_anything_runs(notebooks, tmp_path):
    write_notebook(notebooks, "01_one", "print(RUN)", parameters="RUN = 'a'")
    with pytest.raises(HangulOcrError, match="RUNN; known are RUN"):
        run_notebooks(notebooks, tmp_path / "out", {"RUNN": 1}, stream=io.StringIO())
    with pytest.raises(HangulOcrError, match="'09' is unknown; choose one of 01_one"):
        run_notebooks(notebooks, tmp_path / "out", {}, names=["09"], stream=io.StringIO())
    with pytest.raises(HangulOcrError, match="no numbered notebooks"):
        run_notebooks(tmp_path / "nowhere", tmp_path / "out", {}, stream=io.StringIO())
    assert not (tmp_path / "out").exists()


def test_injected_cell_follows_the_parameters_and_replaces_an_older_one(tmp_path):
    path = write_notebook(tmp_path, "01_one", "print(A)", parameters="A = 1\nB = {'x': None}")
    once = inject_parameters(read_notebook(path), {"A": Path("x y/z"), "B": {"k": (1, "나")}, "C": 3})
    twice = inject_parameters(once, {"A": 2})
    assert once.cells[1].source.splitlines()[1:] == ["A = 'x y/z'", "B = {'k': [1, '나']}"]
    assert [cell.source.splitlines()[-1] for cell in twice.cells] == ["B = {'x': None}", "A = 2", "print(A)"]
    assert len(read_notebook(path).cells) == 2
    with pytest.raises(TypeError, match="cannot be a object"):
        inject_parameters(once, {"A": object()})


def test_only_whole_lines_are_passed_on_and_of_a_redrawn_line_the_last_state():
    screen = io.StringIO()
    progress = Progress("01_one", 1, screen)
    progress.text("half")
    assert screen.getvalue() == ""
    progress.text(" whole\n10%\r100%\nrest")
    assert screen.getvalue() == "    half whole\n    100%\n"
    progress.finish(None)
    assert "    rest\n" in screen.getvalue()


def test_estimate_is_the_given_one_until_a_run_of_the_same_kind_was_timed(tmp_path):
    path = tmp_path / "timings.json"
    path.write_text("not json")
    timings = Timings.load(path, "quick", {"04_train": 240.0, "01_eda": 3.0})
    assert timings.describe("04_train") == "about 4 min"
    assert timings.describe("01_eda") == ""
    timings.record("04_train", 412.0)
    assert Timings.load(path, "quick", {}).describe("04_train") == "about 7 min (last time)"
    assert Timings.load(path, "smoke", {"04_train": 30.0}).describe("04_train") == "about 30 s"


def test_interrupt_keeps_what_was_done(notebooks, tmp_path):
    stop = f"import os, signal, time\nprint('begun')\nos.kill({os.getpid()}, signal.SIGINT)\ntime.sleep(60)"
    write_notebook(notebooks, "01_long", stop)
    with pytest.raises(KeyboardInterrupt):
        run_notebooks(notebooks, tmp_path / "out", {}, stream=io.StringIO())
    assert (tmp_path / "out" / "01_long.ipynb").exists()
