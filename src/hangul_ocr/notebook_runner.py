"""Run the numbered notebooks headless, in order, and show how far they are.

Each runs in a kernel of this very interpreter (no kernelspec is looked up, no configuration of the user is read), with
the values of its ``parameters`` cell overridden by an injected cell after it, which is papermill's convention. The
executed copy and an HTML page are kept whether the notebook succeeds or fails.
"""

from __future__ import annotations

import ast
import html
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from hangul_ocr.evaluation.webfont import FAMILY, font_face
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.workspace import atomic_write_json, atomic_write_text

TIMINGS = "timings.json"
PARAMETERS_TAG, INJECTED_TAG = "parameters", "injected-parameters"
INLINE_BACKEND = "module://matplotlib_inline.backend_inline"
WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"
#: Seconds between two status lines where the output is no terminal, and between two redraws where it is one.
STATUS_EVERY = {False: 30.0, True: 0.2}
#: A notebook that takes longer than this is announced with an estimate, in seconds.
WORTH_ANNOUNCING = 20.0


@dataclass(frozen=True)
class NotebookResult:
    """How one notebook ended. ``error`` is None if it went through; ``html`` is None if no page could be made."""

    name: str
    seconds: float
    cells_done: int
    cells: int
    executed: Path
    html: Path | None
    error: str | None

    @property
    def ok(self) -> bool:
        """Tell whether every cell went through."""
        return self.error is None


class NotebookFailed(HangulOcrError):
    """A notebook stopped. ``results`` holds one result for each notebook that ran, the failed one last."""

    def __init__(self, results: Sequence[NotebookResult]) -> None:
        last = results[-1]
        super().__init__(f"{last.name}: {last.error}; the executed copy is {last.executed}")
        self.results = list(results)


def run_notebooks(
    notebooks_dir: Path,
    output_dir: Path,
    parameters: Mapping[str, Any],
    names: Sequence[str] | None = None,
    *,
    estimates: Mapping[str, float] | None = None,
    timing_key: str = "",
    stream: TextIO | None = None,
) -> list[NotebookResult]:
    """Run the notebooks of ``notebooks_dir`` in order; keep the executed copies, pages and timings in ``output_dir``.

    ``parameters`` override the variables that a notebook's ``parameters`` cell assigns; each takes those it knows.
    ``names`` (``"04_train"`` or ``"04"``) choose some. ``estimates`` are seconds by name, used until a run under the
    same ``timing_key`` (the preset, say) was timed. Raises :class:`NotebookFailed` at the first notebook that stops,
    ``HangulOcrError`` for an unknown name or parameter.
    """
    paths = find_notebooks(notebooks_dir, names)
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    _refuse_unknown_parameters(notebooks, parameters)
    timings = Timings.load(output_dir / TIMINGS, timing_key, estimates or {})
    results: list[NotebookResult] = []
    for number, (name, notebook) in enumerate(notebooks.items(), start=1):
        prepared = inject_parameters(notebook, parameters)
        progress = Progress(name, _count_code_cells(prepared), stream or sys.stdout)
        progress.announce(f"[{number}/{len(notebooks)}]", timings.describe(name))
        results.append(_run_and_keep(prepared, notebooks_dir, output_dir, progress))
        if not results[-1].ok:
            raise NotebookFailed(results)
        timings.record(name, results[-1].seconds)
    return results


def find_notebooks(notebooks_dir: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Return the numbered notebooks in order, or those that ``names`` choose; ``HangulOcrError`` if one is missing."""
    found = sorted(notebooks_dir.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise HangulOcrError(f"{notebooks_dir}: no numbered notebooks here; run this inside the repository")
    chosen = {path for name in names or () for path in _matching(found, name)}
    return [path for path in found if path in chosen] if names else found


def _matching(found: list[Path], name: str) -> list[Path]:
    stem = name.removesuffix(".ipynb")
    matches = [path for path in found if path.stem == stem or path.stem.split("_")[0] == stem]
    if not matches:
        raise HangulOcrError(f"notebook {name!r} is unknown; choose one of {', '.join(p.stem for p in found)}")
    return matches


# --- parameters -------------------------------------------------------------------------------------------------------


def inject_parameters(notebook: NotebookNode, parameters: Mapping[str, Any]) -> NotebookNode:
    """Return a copy of ``notebook`` with a cell after its ``parameters`` cell that assigns those of its variables.

    Raises ``TypeError`` for a value that is not text, number, truth value, None, path, or a list or dict of these.
    """
    copy = nbformat.from_dict(json.loads(json.dumps(notebook)))
    copy.cells = [cell for cell in copy.cells if INJECTED_TAG not in _tags(cell)]
    position = _parameters_position(copy)
    if position is None:
        return copy
    known = parameter_names(copy)
    lines = [f"{name} = {_literal(value)!r}" for name, value in parameters.items() if name in known]
    if lines:
        source = "\n".join(["# Injected by the headless run.", *lines])
        copy.cells.insert(position + 1, nbformat.v4.new_code_cell(source, metadata={"tags": [INJECTED_TAG]}))
    return nbformat.v4.upgrade(copy)


def parameter_names(notebook: NotebookNode) -> set[str]:
    """Return the variables that the notebook's ``parameters`` cell assigns (none if it has no such cell)."""
    position = _parameters_position(notebook)
    if position is None:
        return set()
    names: set[str] = set()
    for node in ast.parse(notebook.cells[position].source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def _parameters_position(notebook: NotebookNode) -> int | None:
    return next((i for i, cell in enumerate(notebook.cells) if PARAMETERS_TAG in _tags(cell)), None)


def _tags(cell: NotebookNode) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def _literal(value: Any) -> Any:
    """Return ``value`` as something whose ``repr`` is Python source."""
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _literal(item) for key, item in value.items()}
    raise TypeError(f"a notebook parameter cannot be a {type(value).__name__}")


def _refuse_unknown_parameters(notebooks: Mapping[str, NotebookNode], parameters: Mapping[str, Any]) -> None:
    known = set().union(*map(parameter_names, notebooks.values()))
    if unknown := sorted(parameters.keys() - known):
        raise HangulOcrError(f"no notebook has a parameter {', '.join(unknown)}; known are {', '.join(sorted(known))}")


# --- one notebook -----------------------------------------------------------------------------------------------------


def _run_and_keep(notebook: NotebookNode, folder: Path, output_dir: Path, progress: Progress) -> NotebookResult:
    """Execute ``notebook`` with ``folder`` as its working folder and write what came of it, whatever came of it."""
    executed = output_dir / f"{progress.name}.ipynb"
    page: Path | None = None
    error: str | None = "interrupted"
    try:
        error = _execute(notebook, folder, progress)
    finally:
        _drop_widgets(notebook)
        atomic_write_text(executed, nbformat.writes(notebook))
        page = _write_page(notebook, executed.with_suffix(".html"))
        progress.finish(error)
    return NotebookResult(progress.name, progress.elapsed(), progress.done, progress.total, executed, page, error)


def _execute(notebook: NotebookNode, folder: Path, progress: Progress) -> str | None:
    """Run the cells; return what stopped them in one line, or None. ``KeyboardInterrupt`` passes through."""
    with tempfile.TemporaryDirectory(prefix="hangul-ocr-kernel-") as kernel_folder:
        client = _ReportingClient(notebook, folder, Path(kernel_folder), progress)
        log = Path(kernel_folder) / "kernel.log"
        try:
            with log.open("wb") as file:
                client.execute(env=kernel_environment(Path(kernel_folder)), stdout=file, stderr=file)
        except CellExecutionError as error:
            return f"{client.where()}: {_last_error_line(error)}"
        except Exception as error:
            if client.was_interrupted():
                raise KeyboardInterrupt from None
            if not isinstance(error, DeadKernelError):
                raise
            return f"{client.where()}: the kernel died, most often because the memory was full{_last_words(log)}"
    return None


def _last_words(log: Path) -> str:
    """Return the last line that a dead kernel wrote, if any, to be put behind the news."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f" (its last words: {lines[-1].strip()})" if lines else ""


def _last_error_line(error: CellExecutionError) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", error.evalue).strip().splitlines()
    return f"{error.ename}: {text[-1]}" if text else error.ename


def kernel_environment(folder: Path) -> dict[str, str]:
    """Return the kernel's environment: ours without the user's Jupyter and IPython settings, pictures inline."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER_", "IPYTHON"))}
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    # The debugger's start-up check prints three lines of warning about the standard library on every start.
    return {**kept, **own, "MPLBACKEND": INLINE_BACKEND, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


class _ThisInterpreter(KernelSpecManager):
    """Answers every request for a kernel with ipykernel under the running interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def _transport(connection: str) -> str:
    """Return ``"ipc"`` (a socket file that only we can open) where the system has it and the name is short enough."""
    return "ipc" if os.name == "posix" and len(os.fsencode(connection)) < 80 else "tcp"


class _ReportingClient(NotebookClient):
    """A notebook client that tells ``progress`` about cells, printed lines and progress bars while they happen."""

    def __init__(self, notebook: NotebookNode, folder: Path, kernel_folder: Path, progress: Progress) -> None:
        connection = str(kernel_folder / "kernel.json")
        manager = AsyncKernelManager(
            kernel_spec_manager=_ThisInterpreter(), connection_file=connection, transport=_transport(connection)
        )
        resources = {"metadata": {"path": str(folder)}}
        super().__init__(notebook, km=manager, timeout=None, startup_timeout=180, resources=resources)
        self.owns_km = True
        self.store_widget_state = False
        self.coalesce_streams = True
        self.on_cell_execute = self._note_cell
        self.on_cell_executed = self._count_cell
        self._progress = progress
        self._current: NotebookNode | None = None

    def _note_cell(self, cell: NotebookNode, cell_index: int) -> None:
        self._current = cell

    def _count_cell(self, cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        if execute_reply["content"]["status"] == "ok":
            self._progress.cell_done()

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Report a message, then let nbclient keep it."""
        content = msg["content"]
        if msg["msg_type"] == "stream" and content["name"] == "stdout":
            self._progress.text(content["text"])
        elif bar := _bar_text(msg["msg_type"], content):
            self._progress.status(bar)
        return super().process_message(msg, cell, cell_index)

    def where(self) -> str:
        """Return which cell was running: its number among the code cells, and its first line of code."""
        if self._current is None:
            return "before the first cell"
        code = [cell for cell in self.nb.cells if _is_run(cell)]
        lines = [line for line in self._current.source.splitlines() if line.strip() and not line.startswith("#")]
        number = next(i for i, cell in enumerate(code, start=1) if cell is self._current)
        return f"cell {number} ({lines[0].strip() if lines else 'a comment'})"

    def was_interrupted(self) -> bool:
        """Tell whether the kernel is gone because this process was told to stop (nbclient's own signal handler)."""
        return getattr(self, "_async_cleanup_kernel_future", None) is not None


def _bar_text(kind: str, content: Mapping[str, Any]) -> str:
    """Return what a tqdm bar shows right of the bar, be it a widget's message or text with carriage returns."""
    if kind == "comm_msg":
        value = content.get("data", {}).get("state", {}).get("value")
        return " ".join(html.unescape(value).split()) if isinstance(value, str) and "[" in value else ""
    if kind == "stream" and "\r" in content["text"] and "|" in content["text"]:
        return content["text"].rstrip("\r\n").rpartition("|")[2].strip()
    return ""


def _is_run(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _count_code_cells(notebook: NotebookNode) -> int:
    return sum(_is_run(cell) for cell in notebook.cells)


def _drop_widgets(notebook: NotebookNode) -> None:
    """Remove progress bars, which no page can draw without the kernel that they belonged to."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET_TYPE not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)


def _write_page(notebook: NotebookNode, path: Path) -> Path | None:
    """Write the HTML page. A page that cannot be made must not lose the run: it is reported and left out."""
    from nbconvert import HTMLExporter

    quiet = logging.getLogger(f"{__name__}.page")
    quiet.setLevel(logging.ERROR)  # it warns about each picture that has no alternative text
    try:
        page, _ = HTMLExporter(log=quiet).from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    except Exception as error:
        print(f"{path}: no HTML page could be made ({type(error).__name__}: {error})", file=sys.stderr)
        return None
    # Only widgets, which are gone by now, need this script, and a page opened offline would wait for it.
    page = re.sub(r'<script src="[^"]*/require[^"]*"></script>', "", page)
    atomic_write_text(path, page.replace("</head>", f"<style>{_hangul_style(page)}</style></head>", 1))
    return path


def _hangul_style(page: str) -> str:
    """Return style rules that let a page show its Hangul on a machine without a Korean font."""
    face = font_face("".join(sorted({character for character in page if not character.isascii()})))
    # Not system-ui: where it is a font without Hangul, Chromium draws boxes in it before it tries the next one.
    text = f"-apple-system, 'Segoe UI', Helvetica, Arial, '{FAMILY}', sans-serif"
    code = f"Menlo, Consolas, 'DejaVu Sans Mono', '{FAMILY}', monospace"
    families = {"content": text, "ui": text, "code": code}
    rules = "".join(f"--jp-{name}-font-family: {family} !important; " for name, family in families.items())
    return f"{face} :root, body {{ {rules}}}" if face else ""


# --- what the terminal shows ------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """One notebook's progress on ``stream``: a line redrawn in place on a terminal, now and then a line elsewhere."""

    name: str
    total: int
    stream: TextIO
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    _bar: str = ""
    _unfinished: str = ""
    _shown_at: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Return the seconds since this notebook began."""
        return time.monotonic() - self.started

    def announce(self, position: str, estimate: str) -> None:
        """Print the line that a notebook begins with."""
        self._print(f"{position} {self.name}" + (f" · {estimate}" if estimate else ""))

    def cell_done(self) -> None:
        """Count one more cell."""
        self.done += 1
        self.status("")

    def text(self, text: str) -> None:
        """Pass on what a cell printed, whole lines only; of a line that redraws itself, the last state."""
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._print(f"    {line.rstrip().rpartition(chr(13))[2]}")

    def status(self, bar: str) -> None:
        """Show cells, time and the state of the innermost progress bar, unless that was done a moment ago."""
        self._bar = bar
        terminal = self.stream.isatty()
        if time.monotonic() - self._shown_at < STATUS_EVERY[terminal]:
            return
        self._shown_at = time.monotonic()
        line = f"    {self._summary()}" + (f" · {self._bar}" if self._bar else "")
        if terminal:
            line = "\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1]
        self.stream.write(line if terminal else line + "\n")
        self.stream.flush()

    def finish(self, error: str | None) -> None:
        """Print the line that a notebook ends with."""
        if self._unfinished:
            self.text("\n")
        self._print(f"    {self._summary()} · {error or 'done'}")

    def _summary(self) -> str:
        return f"{self.name} {self.done}/{self.total} cells, {clock(self.elapsed())}"

    def _print(self, line: str) -> None:
        start = "\r\x1b[K" if self.stream.isatty() else ""
        self.stream.write(f"{start}{line}\n")
        self.stream.flush()


def clock(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class Timings:
    """Seconds by notebook, remembered between runs of one kind (``key``) in a JSON file of all kinds."""

    path: Path
    key: str
    estimates: Mapping[str, float]
    known: dict[str, dict[str, float]]

    @classmethod
    def load(cls, path: Path, key: str, estimates: Mapping[str, float]) -> Timings:
        """Read the file; one that is missing or damaged counts as empty, since it only serves estimates."""
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        return cls(path, key, estimates, known if isinstance(known, dict) else {})

    def describe(self, name: str) -> str:
        """Return ``"about N min (last time)"`` or ``"about N min"``, nothing for a short or unknown step."""
        last = self.known.get(self.key, {}).get(name)
        seconds = last if isinstance(last, int | float) else self.estimates.get(name, 0.0)
        if seconds < WORTH_ANNOUNCING:
            return ""
        amount = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{round(seconds, -1):.0f} s"
        return f"about {amount}" + (" (last time)" if seconds == last else "")

    def record(self, name: str, seconds: float) -> None:
        """Remember how long ``name`` took."""
        self.known.setdefault(self.key, {})[name] = round(seconds, 1)
        atomic_write_json(self.path, self.known)
