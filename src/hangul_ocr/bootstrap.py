"""Install what a hosted notebook lacks, and never PyTorch. Uses the standard library alone: nothing is installed yet.

Colab and Kaggle bring a PyTorch that fits their GPU. Replacing it costs minutes and gigabytes and often breaks the
session, so it is held where it is, and so is NumPy, against which everything in the image was compiled.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
PYTORCH = frozenset({"torch", "torchvision"})
HELD = (*sorted(PYTORCH), "numpy")
#: A hosted notebook already runs in a kernel and a server of its own; upgrading these under it ends the session.
NOTEBOOK_STACK = frozenset(
    {"jupyterlab", "ipykernel", "ipywidgets", "jupyter-client", "nbclient", "nbconvert", "nbformat"}
)
#: Distributions that bring the same module: installing a second one over the first damages both.
SAME_MODULE = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
}


def declared_requirements(root: Path = REPOSITORY_ROOT) -> list[str]:
    """Return the package's requirements: of the ``pyproject.toml`` in ``root``, else of the installed package.

    Raises ``RuntimeError`` if there is neither.
    """
    project_file = root / "pyproject.toml"
    if project_file.is_file():
        return list(tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]["dependencies"])
    try:
        return [line for line in metadata.requires("hangul-ocr") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        raise RuntimeError(f"{project_file}: not found; clone the repository whole, or set its folder") from None


def missing_requirements(requirements: Sequence[str] | None = None) -> list[str]:
    """Return those ``requirements`` (default: the package's) that no installed distribution satisfies."""
    wanted = declared_requirements() if requirements is None else requirements
    return [line for line in wanted if not _is_satisfied(line)]


def _is_satisfied(line: str) -> bool:
    requirement = _parse(line)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    names = (requirement.name, *SAME_MODULE.get(_canonical(requirement.name), ()))
    versions = (_installed_version(name) for name in names)
    return any(version and requirement.specifier.contains(version, prereleases=True) for version in versions)


def _parse(line: str):
    """Parse a requirement with ``packaging``, or with pip's own copy of it where it is not installed."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
    return Requirement(line)


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install_missing(root: Path = REPOSITORY_ROOT) -> list[str]:
    """Install the package from ``root`` and those of its requirements that are missing. Returns what was installed.

    Raises ``RuntimeError`` with a remedy if PyTorch is missing or too old, or if pip fails.
    """
    missing = [line for line in missing_requirements(declared_requirements(root)) if not _in(line, NOTEBOOK_STACK)]
    _refuse_to_install_pytorch([line for line in missing if _in(line, PYTORCH)])
    stale = [line for line in missing if _installed_version(_parse(line).name)]
    if missing:
        print(f"installing {', '.join(missing)}", flush=True)
        _install_requirements(missing)
    _install_package(root)
    importlib.invalidate_caches()
    if stale:
        print(f"upgraded {', '.join(stale)}: restart the session (kernel) now, then run this cell again")
    return missing


def _in(line: str, names: frozenset[str]) -> bool:
    return _canonical(_parse(line).name) in names


def _refuse_to_install_pytorch(missing: list[str]) -> None:
    if not missing:
        return
    have = ", ".join(f"{name} {_installed_version(name) or 'missing'}" for name in sorted(PYTORCH))
    raise RuntimeError(
        f"needs {' and '.join(missing)} (here: {have}), which this cell never installs: choose a newer runtime (Colab) "
        "or environment (Kaggle), or install matching builds yourself with pip install torch torchvision"
    )


def _install_requirements(missing: list[str]) -> None:
    """Install ``missing`` with what they need in turn, which must not replace PyTorch or a NumPy that will do."""
    moving = {_canonical(_parse(line).name) for line in missing}
    held = [f"{name}=={version}" for name in HELD if name not in moving and (version := _installed_version(name))]
    with tempfile.TemporaryDirectory(prefix="hangul-ocr-") as folder:
        constraints = Path(folder) / "held.txt"
        constraints.write_text("\n".join(held) + "\n", encoding="utf-8")
        _run_pip(["--constraint", str(constraints), *missing])


def _install_package(root: Path) -> None:
    """Install the package itself without its requirements; from a read-only folder it is put on the path instead."""
    source = str(root / "src")
    if _installed_version("hangul-ocr") is None and os.access(root / "src", os.W_OK):
        _run_pip(["--no-deps", "--editable", str(root)])
    if source not in sys.path:
        sys.path.insert(0, source)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, paths)])


def _run_pip(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(
            f"pip could not install {' '.join(arguments)} (its message is above): switch Internet on in the notebook's "
            "settings (Kaggle: Settings, Internet), then run this cell again"
        )


def check_installation() -> list[str]:
    """Return what is wrong with this installation, in words: requirements not met, a torchvision of another build."""
    problems = [f"{line} is not installed" for line in missing_requirements()]
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        return [*problems, f"torchvision does not load: {str(error).splitlines()[0]}"]
    if not torchvision.extension._has_ops():
        problems.append("torch and torchvision are builds that do not belong together")
    return problems


def main() -> int:
    """Check the installation at the end of ``make setup``: print one line, return the exit status."""
    problems = check_installation()
    if not problems:
        print("the installation is complete")
        return 0
    print("; ".join(problems), file=sys.stderr)
    print("take torch and torchvision from one place: pip install --upgrade torch torchvision", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
