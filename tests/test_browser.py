"""Notebook 07 and the report in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from read_runs import NAME, read_run

from hangul_ocr.error_report import write_report
from hangul_ocr.notebook_runner import inject_parameters

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "07_error_analysis.ipynb"
TOKEN = "of-this-test"
SECONDS = 1000  # Playwright counts in milliseconds

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[test]'")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def report(tmp_path: Path, mini_competition: Path) -> Path:
    run, prepared = read_run(tmp_path, mini_competition)
    return write_report(run, prepared, tmp_path / "report.html").path


def open_report(browser: sync_api.Browser, report: Path, **options) -> tuple[sync_api.Page, list[str]]:
    """Return the report, opened from the disk, and a list that fills with what it asks for and complains of."""
    page, noted = browser.new_page(**options), []
    page.on("request", lambda request: None if request.url.startswith("data:") else noted.append(request.url))
    page.on("console", lambda message: noted.append(message.text))
    page.on("pageerror", lambda error: noted.append(str(error)))
    page.goto(report.as_uri())
    return page, noted


def test_report_is_searched_filtered_sorted_and_zoomed_without_a_network(browser, report):
    page, noted = open_report(browser, report)
    tiles, count = page.locator(".tile"), page.locator("#count")
    assert count.inner_text() == "8 of 8 crops"
    page.get_by_role("button", name=re.compile("all crops")).click()
    assert tiles.count() == 24
    syllable = tiles.first.locator(".say").first.inner_text()[0]
    page.fill("#query", syllable)
    assert 0 < tiles.count() < 24
    assert all(syllable in text for text in tiles.all_inner_texts())
    page.fill("#query", "없는 글자")
    assert page.locator("#none").is_visible()
    page.click("#reset")
    page.click("summary")
    page.select_option("[data-filter='fold']", "1")
    assert tiles.count() < 24
    page.select_option("#order", "surest first")
    sure = [int(text.split(" %")[0]) for text in page.locator(".foot > span:first-child").all_inner_texts()]
    assert sure == sorted(sure, reverse=True)
    tiles.first.click()
    page.wait_for_function("document.getElementById('factor').textContent !== ''")
    before = page.locator("#stage img").bounding_box()["width"]
    page.click("#in")
    assert page.locator("#stage img").bounding_box()["width"] > 1.2 * before
    page.keyboard.press("Escape")
    assert page.locator(".tile img").evaluate_all("all => all.every(one => one.naturalWidth > 0 || !one.complete)")
    assert noted == [report.as_uri()]
    page.close()


def test_report_fits_a_phone_and_goes_to_the_printer(browser, report):
    page, noted = open_report(browser, report, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 720, "height": 1000})  # A4
    page.emulate_media(media="print")
    assert not page.locator(".tools").is_visible()
    assert page.locator(".tile").first.is_visible()
    assert page.locator("#slices table").bounding_box()["width"] <= 720
    assert len(noted) == 1
    page.close()


# --- the notebook -------------------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path, mini_competition: Path) -> Iterator[str]:
    """JupyterLab over a folder with notebook 07, set to the run; the address of the notebook."""
    root, folder, home = tmp_path, tmp_path / "notebooks", tmp_path / "jupyter"
    folder.mkdir()
    read_run(root, mini_competition)
    parameters = {"DATA": str(root / "mini"), "PRESET": "smoke", "RUN": NAME}
    notebook = inject_parameters(nbformat.read(NOTEBOOK, as_version=4), parameters)
    nbformat.write(notebook, folder / "errors.ipynb")
    _settle(home / "settings")
    environment = os.environ | {f"HANGUL_OCR_{name}": str(root / name.lower()) for name in ("INPUT", "OUTPUT")}
    environment |= {
        "HANGUL_OCR_SUBMISSIONS": str(root / "submissions"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
    }
    environment |= {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "IPYTHONDIR": str(home / "ipython")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port_retries=50"]
    command += ["--ip=127.0.0.1", "--port=18888", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield f"{_address(home)}lab/tree/errors.ipynb?token={TOKEN}"
    finally:
        server.terminate()
        server.wait(20)


def _settle(folder: Path) -> None:
    """Let JupyterLab keep all cells in the page, and ask nobody for news."""
    for name, value in {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(value))


def _address(home: Path) -> str:
    """Wait until the server answers; return its address as it wrote it down."""
    for _ in range(300):
        for file in home.glob("runtime/jpserver-*.json"):
            try:
                url = json.loads(file.read_text())["url"]
                urllib.request.urlopen(f"{url}api/status?token={TOKEN}", timeout=5).close()
                return url
            except (OSError, ValueError):
                pass
        time.sleep(0.1)
    raise AssertionError((home / "log").read_text()[-3000:])


def test_notebook_runs_in_jupyterlab_and_a_filter_changes_the_picture(browser, lab):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(lab)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=40 * SECONDS)  # before that it asks for a kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    picture, fitting = page.locator("img.widget-image"), page.locator(".widget-label", has_text="crops fit")
    picture.wait_for(timeout=60 * SECONDS)
    seen, source = picture.screenshot(), picture.get_attribute("src")
    assert "8 of 24 crops fit" in fitting.inner_text()
    page.get_by_label("view", exact=True).select_option("most uncertain right")
    sync_api.expect(fitting).to_contain_text("16 of 24 crops fit", timeout=60 * SECONDS)
    sync_api.expect(picture).not_to_have_attribute("src", source)
    sync_api.expect(page.locator(".jp-InputPrompt", has_text="*")).to_have_count(0, timeout=60 * SECONDS)
    assert picture.screenshot() != seen
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
    done = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]:"))
    sync_api.expect(done).to_have_count(cells + 1)  # one is injected
    page.close()
