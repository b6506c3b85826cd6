"""What a newcomer installs and reads: metadata, conda's list, the Makefile, what hosted notebooks install, pages."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from hangul_ocr import bootstrap
from hangul_ocr.cli import build_parser
from hangul_ocr.session import choose_settings

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: conda-forge's name -> the name on the Python package index, where they differ.
CONDA_NAMES = {
    "pytorch": "torch",
    "python-lmdb": "lmdb",
    "matplotlib-base": "matplotlib",
    "nbconvert-core": "nbconvert",
}
CONDA_ONLY = {"python", "pip"}


def bounds(lines: list[str]) -> dict[str, str]:
    """Return canonical name -> version specifier."""
    parsed = [Requirement(line) for line in lines]
    return {CONDA_NAMES.get(r.name, r.name).lower().replace("_", "-"): str(r.specifier) for r in parsed}


def conda_lines() -> tuple[list[str], list[str]]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = [entry for entry in entries if isinstance(entry, str)]
    return conda, next(entry["pip"] for entry in entries if isinstance(entry, dict))


def test_conda_environment_holds_the_same_packages_and_bounds_as_pyproject():
    conda, pip = conda_lines()
    offered = bounds([line for line in conda + pip if line != "-e ." and line not in CONDA_ONLY])
    python = offered.pop("python")
    project = PROJECT["project"]
    assert offered == bounds(project["dependencies"] + project["optional-dependencies"]["test"])
    assert project["requires-python"] in python.split(",")
    assert pip[-1] == "-e ."


def test_bounds_are_lower_bounds_so_that_pip_finds_a_torchvision_for_its_torch():
    specifiers = bounds(PROJECT["project"]["dependencies"])
    assert all(re.fullmatch(r"(>=[\d.]+)?", specifier) for specifier in specifiers.values())
    assert specifiers["torchvision"] == ""


def test_every_package_that_the_code_imports_is_declared():
    extras = PROJECT["project"]["optional-dependencies"]
    declared = bounds([*PROJECT["project"]["dependencies"], *extras["words"]])
    providers = metadata.packages_distributions()
    for path in sorted((ROOT / "src").rglob("*.py")):
        for module in imported_modules(path) - set(sys.stdlib_module_names) - {"hangul_ocr"}:
            names = {name.lower().replace("_", "-") for name in providers.get(module, [module])}
            # Bootstrap parses requirements with packaging, which matplotlib and others bring, or with pip's copy.
            allowed = {"packaging", "pip", "ipython"}
            assert names & (declared.keys() | allowed), f"{path.name} imports {module}, which nobody declares"


def imported_modules(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in plain | named}


def test_licence_is_mit_everywhere_it_is_named():
    assert PROJECT["project"]["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n\nCopyright (c) 2026 The hangul-ocr")


def test_make_alone_lists_the_targets():
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"help", "setup", "run", "test", "lab", "clean"} <= {line.split()[0] for line in shown.splitlines()}


def test_make_refuses_a_python_that_is_too_old_and_says_what_to_do(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    old = tmp_path / "old python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "setup", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Needs Python 3.11 to 3.13" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.fixture
def installed(tmp_path) -> Path:
    """Return a folder with our Makefile and an environment whose ``hangul-ocr`` writes its arguments, one a line."""
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    command = tmp_path / ".venv" / "bin" / "hangul-ocr"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    for path in (command, command.with_name("python"), tmp_path / ".venv" / "installed"):
        path.touch()
        path.chmod(0o755)
    return tmp_path


def made(folder: Path, *arguments: str) -> list[str]:
    """Return what `make` prints, line by line, as it does where no `make` is about it: `make test` is."""
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    options = {"cwd": folder, "env": outside, "capture_output": True, "text": True, "check": True}
    return subprocess.run(["make", *arguments], **options).stdout.split("\n")


def test_make_run_hands_on_each_of_several_lmdbs(installed):
    arguments = made(installed, "run", "ALSO=outdoor.lmdb /data/wild.lmdb", "RUN=more")[:-1]
    options = build_parser().parse_args(arguments)
    assert options.also == [Path("outdoor.lmdb"), Path("/data/wild.lmdb")]
    assert options.run == "more"
    assert made(installed, "run") == ["run", ""]
    assert "ALSO=" in next(line for line in made(ROOT, "-s") if line.split()[:1] == ["run"])


def test_make_setup_ends_with_where_the_command_is(installed):
    said = " ".join(made(installed, "setup"))
    assert "source .venv/bin/activate" in said
    assert ".venv/bin/hangul-ocr" in said


# --- what the first cell of a hosted notebook installs ----------------------------------------------------------------


@pytest.fixture
def pip_calls(monkeypatch) -> list[list[str]]:
    """Record what pip is asked for instead of running it; a constraints file is recorded by its lines."""
    calls: list[list[str]] = []

    def record(arguments: list[str]) -> None:
        calls.append([Path(a).read_text() if a.endswith("held.txt") else a for a in arguments])

    monkeypatch.setattr(bootstrap, "_run_pip", record)
    return calls


def pretend_installed(monkeypatch, **versions: str | None) -> None:
    """Let these distributions have these versions (None: not installed) and all others be as they are."""
    real = bootstrap._installed_version
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(bootstrap, "_installed_version", lambda name: named[name] if name in named else real(name))


def test_installed_packages_satisfy_our_own_requirements():
    assert bootstrap.missing_requirements() == []


def test_only_what_is_missing_is_installed_and_pytorch_is_held_where_it_is(monkeypatch, pip_calls):
    pretend_installed(monkeypatch, rapidfuzz=None, torch="2.11.0+cu128", torchvision="0.26.0+cu128", numpy="2.1.0")
    assert bootstrap.install_missing() == ["rapidfuzz>=3.9"]
    constraints = "torch==2.11.0+cu128\ntorchvision==0.26.0+cu128\nnumpy==2.1.0\n"
    assert pip_calls == [["--constraint", constraints, "rapidfuzz>=3.9"]]


@pytest.mark.parametrize("versions", [{"torch": None}, {"torch": "2.1.0"}, {"torchvision": None}])
def test_pytorch_is_never_installed_even_if_it_is_missing(monkeypatch, pip_calls, versions):
    pretend_installed(monkeypatch, rapidfuzz=None, **versions)
    with pytest.raises(RuntimeError, match=r"needs torch.* never installs: choose a newer runtime"):
        bootstrap.install_missing()
    assert pip_calls == []


def test_the_notebook_stack_of_a_hosted_session_is_left_alone(monkeypatch, pip_calls):
    pretend_installed(monkeypatch, jupyterlab=None, ipykernel="6.17.1", nbclient=None)
    assert len(bootstrap.missing_requirements()) == 3
    assert bootstrap.install_missing() == []
    assert pip_calls == []


def test_another_build_of_opencv_will_do(monkeypatch):
    pretend_installed(monkeypatch, opencv_python_headless=None, opencv_python="4.12.0.88")
    assert bootstrap.missing_requirements() == []
    pretend_installed(monkeypatch, opencv_python_headless=None, opencv_python="4.5.0")
    assert bootstrap.missing_requirements() == ["opencv-python-headless>=4.10"]


def test_package_itself_is_installed_without_its_requirements(monkeypatch, pip_calls):
    pretend_installed(monkeypatch, hangul_ocr=None)
    monkeypatch.setenv("PYTHONPATH", "")
    bootstrap.install_missing()
    assert pip_calls == [["--no-deps", "--editable", str(ROOT)]]


def test_an_upgrade_asks_for_a_restart(monkeypatch, pip_calls, capsys):
    pretend_installed(monkeypatch, numpy="1.26.4")
    bootstrap.install_missing()
    assert "numpy==" not in pip_calls[0][1]
    assert "restart the session" in capsys.readouterr().out


def test_bootstrap_needs_nothing_but_the_standard_library():
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import hangul_ocr.bootstrap"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the pages say what there is --------------------------------------------------------------------------------------

PAGES = [
    *(ROOT / f"{folder}README.md" for folder in ("", "input/", "output/", "submissions/", "benchmarks/")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    ROOT / "src" / "hangul_ocr" / "weights" / "MODEL_CARD.md",
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Return a page, or what a notebook says in its texts and parameters."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    cells = nbformat.read(page, as_version=nbformat.NO_CONVERT).cells
    return "\n".join(c.source for c in cells if c.cell_type == "markdown" or "parameters" in c.metadata.get("tags", []))


def whole_commands(text: str) -> list[list[str]]:
    """Return the arguments of every ``hangul-ocr`` command in the code blocks of a page."""
    blocks = "\n".join(re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    lines = blocks.replace("\\\n", " ").splitlines()
    commands = [part.strip() for line in lines for part in line.split("&&")]
    words = [shlex.split(command, comments=True) for command in commands if command.startswith("hangul-ocr ")]
    return [found[1 : found.index(">") if ">" in found else None] for found in words]


def help_of(command: str) -> str:
    """Return what ``hangul-ocr COMMAND --help`` prints; AssertionError if there is no such command."""
    with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit) as ended:
        build_parser().parse_args([command, "--help"])
    assert ended.value.code == 0, f"hangul-ocr {command}: no such command"
    return shown.getvalue()


@each_page
def test_commands_on_a_page_are_ones_that_the_command_line_takes(page):
    text = prose(page)
    for arguments in whole_commands(text):
        build_parser().parse_args(arguments)  # a SystemExit, with its message on stderr, if it does not
    for mention in re.findall(r"`(?:\.venv/bin/)?hangul-ocr\s([^`]+)`", text):
        command, *rest = mention.split()
        options = [word for word in rest if word.startswith("--")]
        known = build_parser().format_help() if command.startswith("--") else help_of(command)
        assert all(re.search(rf"{option}\b", known) for option in options), mention


@each_page
def test_make_variables_on_a_page_are_ones_that_the_makefile_reads(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target, values in re.findall(r"\bmake ([a-z]+)((?: [A-Z_]+=(?:\"[^\"]*\"|[^\s`]+))*)", prose(page)):
        named = re.findall(r"([A-Z_]+)=", values)
        assert not named or re.search(rf"^{target}:", makefile, re.MULTILINE), target
        assert all(f"$({name})" in makefile for name in named), values


@each_page
def test_links_to_files_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose(page)):
        assert "://" in link or (page.parent / link).exists(), link


def test_readme_tells_how_to_start_without_make_and_where_the_command_is():
    text = prose(ROOT / "README.md")
    for said in ("source .venv/bin/activate", ".venv\\Scripts\\activate", "WSL", "`pip install -e .`"):
        assert said in text
    conda = "conda env create -f environment.yml && conda activate hangul-ocr"
    assert conda in text
    assert conda in (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_readme_tells_where_the_folds_start_from_as_the_presets_have_it():
    text = prose(ROOT / "README.md")
    assert choose_settings("quick").start == "shipped"
    assert choose_settings("scratch").start == "scratch"
    assert choose_settings("colab").start == "continued"
    assert '`quick` starts every fold from the weights that ship (`"start": "shipped"`' in text
    assert "`--from-scratch` (the preset `scratch`) pretrains" in text
