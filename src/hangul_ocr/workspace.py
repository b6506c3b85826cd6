"""Where am I, and on what: the folders of a run, device and number type, seeds, and files that are never half-written.

The same notebooks run on a desk, in Colab and in Kaggle. Everything that differs between the three is decided here.
PyTorch is imported only by the functions that need it, so that the command line answers ``--help`` at once.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import Accelerator

Result = TypeVar("Result")

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
COLAB_CONTENT = Path("/content")
COLAB_DRIVE = COLAB_CONTENT / "drive" / "MyDrive" / "hangul-ocr"
KAGGLE_INPUT = Path("/kaggle/input")
KAGGLE_WORKING = Path("/kaggle/working")

#: bfloat16 is fast from Ampere on. Older GPUs (a T4, say) claim to support it and emulate it slowly.
BFLOAT16_CAPABILITY = (8, 0)
#: On a CPU bfloat16 must be so many times faster than float32; nearer to 1, its rounding is not worth it.
BFLOAT16_MARGIN = 1.2
ACCELERATE_PRECISION = {"bfloat16": "bf16", "float16": "fp16", "float32": "no"}


@dataclass(frozen=True)
class Workspace:
    """The folders of a run: what people put in, what runs leave, what they hand in."""

    kind: str
    root: Path
    input: Path
    output: Path
    submissions: Path

    @property
    def scratch(self) -> Path:
        """Where files go that can be made again, such as an LMDB: ``output``, but never Google Drive.

        Drive is slow with large files and cannot be memory-mapped.
        """
        on_drive = self.output.is_relative_to(COLAB_CONTENT / "drive")
        return COLAB_CONTENT / "hangul-ocr-scratch" if on_drive else self.output

    @property
    def sample_competition(self) -> Path:
        """Where the embedded sample competition lies: ``input/sample``, or under ``output`` if input is read-only."""
        return (self.output if self.kind == "kaggle" else self.input) / "sample"

    def create_folders(self) -> None:
        """Create the folders that are missing. Raises ``OSError`` if one cannot be written."""
        writable = (self.output, self.submissions, self.scratch)
        for folder in writable if self.kind == "kaggle" else (self.input, *writable):
            folder.mkdir(parents=True, exist_ok=True)


def find_workspace(start: Path | None = None) -> Workspace:
    """Return the workspace around ``start`` (the current folder by default).

    The variables ``HANGUL_OCR_ROOT``, ``HANGUL_OCR_INPUT``, ``HANGUL_OCR_OUTPUT`` and ``HANGUL_OCR_SUBMISSIONS``
    override each folder.
    Raises ``RuntimeError`` if the repository is not found.
    """
    kind = _kind_of_machine()
    root = _folder_from_environment("ROOT") or _find_root(start or Path.cwd(), kind)
    folders = _default_folders(kind, root)
    for name in folders:
        folders[name] = _folder_from_environment(name.upper()) or folders[name]
    return Workspace(kind=kind, root=root, **folders)


def _kind_of_machine() -> str:
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    if "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules:
        return "colab"
    return "local"


def _folder_from_environment(name: str) -> Path | None:
    value = os.environ.get(f"HANGUL_OCR_{name}", "").strip()
    return Path(value).expanduser().resolve() if value else None


def _find_root(start: Path, kind: str) -> Path:
    start = start.resolve()
    for folder in (start, *start.parents, PACKAGE_ROOT):
        if _is_repository(folder):
            return folder
    if kind == "local":
        raise RuntimeError(f"{start}: not inside the hangul-ocr repository; go there, or set HANGUL_OCR_ROOT")
    return KAGGLE_WORKING if kind == "kaggle" else COLAB_CONTENT


def _is_repository(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "src" / "hangul_ocr").is_dir()


def _default_folders(kind: str, root: Path) -> dict[str, Path]:
    kept = root
    if kind == "kaggle":
        kept = KAGGLE_WORKING
    elif kind == "colab" and COLAB_DRIVE.is_dir():
        kept = COLAB_DRIVE
    data = KAGGLE_INPUT if kind == "kaggle" else kept / "input"
    return {"input": data, "output": kept / "output", "submissions": kept / "submissions"}


def setup_notebook() -> Workspace:
    """Do what every notebook starts with: find and create the folders, set picture sizes, print one line.

    The Korean font for pictures is ``evaluation.plots.use_korean_font``'s work.
    """
    workspace = find_workspace()
    workspace.create_folders()
    _set_picture_defaults()
    print(f"{workspace.kind}: {workspace.root} · {describe_device()}")
    return workspace


def _set_picture_defaults() -> None:
    import matplotlib.pyplot as plt

    plt.rcParams.update({"figure.dpi": 100, "figure.figsize": (9, 4), "figure.constrained_layout.use": True})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid.axis": "y"})


@lru_cache(maxsize=1)
def pick_device() -> str:
    """Return ``"cuda"`` if a GPU really computes, else ``"cpu"``.

    Some images ship a PyTorch that was built without the old GPU beside it: ``is_available()`` says yes and the first
    kernel fails, so one small convolution is run first. (Apple's MPS has no CTC loss and is not used.)
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    try:
        _try_one_convolution("cuda")
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"the GPU does not work with this PyTorch ({reason}); going on with the CPU", stacklevel=2)
        return "cpu"
    return "cuda"


def _try_one_convolution(device: str) -> None:
    import torch

    image, kernel = torch.ones(1, 1, 4, 4, device=device), torch.ones(1, 1, 3, 3, device=device)
    if torch.nn.functional.conv2d(image, kernel).sum().item() != 36:
        raise RuntimeError("a convolution gave a wrong result")


def pick_number_type(device: str | None = None) -> str:
    """Return ``"bfloat16"``, ``"float16"`` (needs a gradient scaler) or ``"float32"``: what runs fast on ``device``.

    The default is the picked device. On a CPU a small convolution is timed, once a process.
    """
    import torch

    if not str(device or pick_device()).startswith("cuda"):
        return "bfloat16" if bfloat16_gain() > BFLOAT16_MARGIN else "float32"
    capability = torch.cuda.get_device_capability(device)
    return "bfloat16" if capability >= BFLOAT16_CAPABILITY else "float16"


@lru_cache(maxsize=1)
def bfloat16_gain() -> float:
    """Return how many times faster than in float32 this CPU learns a small convolution in bfloat16.

    Some have instructions for it (AMX, AVX512-BF16) and gain half as much again; on others it is slower, and what
    PyTorch reports as supported does not tell which.
    """
    import torch

    with torch.random.fork_rng(devices=[]):  # a run's random numbers must not depend on whether this was asked
        kernels = [torch.nn.Conv2d(32, 32, 3, padding=1) for _ in range(3)]
    network = torch.nn.Sequential(*kernels).to(memory_format=torch.channels_last)
    images = torch.ones(8, 32, 16, 48).contiguous(memory_format=torch.channels_last)

    def seconds(enabled: bool) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            network(images).float().sum().backward()
        return time.perf_counter() - started

    # In turn, and the best of each: other work on the machine slows both. The first round compiles the kernels.
    rounds = [(seconds(False), seconds(True)) for _ in range(6)][1:]
    return min(plain for plain, _ in rounds) / min(short for _, short in rounds)


def make_accelerator(number_type: str = "auto") -> Accelerator:
    """Return an accelerator for this machine; ``auto`` takes the number type that the device truly runs fast."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    chosen = pick_number_type() if number_type == "auto" else number_type
    # Accelerate keeps the first number type of a process for good: a notebook may train and read in different ones.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=ACCELERATE_PRECISION[chosen], cpu=pick_device() == "cpu")


def is_main_process() -> bool:
    """Tell whether this process speaks and writes for all of a distributed run; alone, it does."""
    return int(os.environ.get("RANK", "0")) == 0


def main_process_first() -> AbstractContextManager:
    """Let process 0 of a distributed run go first and the others find what it made; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    return make_accelerator().main_process_first()


def end_processes() -> None:
    """Leave a distributed run together with its other processes; alone, do nothing.

    A process that exits while another still holds the group can make it abort, after all its work was done.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def on_every_gpu(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return ``function(*arguments)``; on a machine with several GPUs, run it in one process for each of them before.

    For notebooks; outside, ``accelerate launch -m hangul_ocr`` does it. ``function`` must leave its result on disk and
    take it up from there, as the steps do: what the processes return is lost.
    """
    import torch
    from accelerate import notebook_launcher

    gpus = torch.cuda.device_count()
    if gpus > 1 and "RANK" not in os.environ:
        if torch.cuda.is_initialized():
            print(
                f"one of {gpus} GPUs is used: this process holds it already. For all, restart and run this cell early"
            )
        else:
            notebook_launcher(function, arguments, num_processes=gpus)
    return function(*arguments)


def describe_device() -> str:
    """Return one line for people: the device, its memory or cores, and the number type.

    Several GPUs are only counted: a process that has touched one cannot start others for all of them.
    """
    import torch

    if (gpus := torch.cuda.device_count()) > 1 and not torch.cuda.is_initialized():
        return f"{gpus} GPUs"
    device = pick_device()
    if device == "cpu":
        return f"CPU, {cpu_count()} cores, {pick_number_type(device)}"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {pick_number_type(device)}"


def cpu_count() -> int:
    """Return the number of cores this process may use (fewer than the machine's in a container that pins them)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (``0 <= seed < 2**32``).

    Our own code takes generators as arguments; timm, PyTorch's layers and augmentation draw from the global ones.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the legacy generator
    torch.manual_seed(seed)


def environment_record() -> dict[str, Any]:
    """Return what is needed to explain a run later, ready for JSON: versions, device, cores, platform, git commit."""
    device = pick_device()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "workspace": _kind_of_machine(),
        "device": describe_device(),
        "device_type": device,
        "number_type": pick_number_type(device),
        "cpu_count": cpu_count(),
        "git": git_commit(PACKAGE_ROOT),
        "packages": _package_versions(),
    }


def git_commit(root: Path) -> dict[str, Any] | None:
    """Return ``{"commit": hash, "changed": bool}`` of the repository whose top is ``root``, None if there is none."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # A package installed below somebody else's repository must not be recorded with that repository's commit.
    if top is None or Path(top).resolve() != root.resolve():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return {"commit": commit, "changed": changed} if commit else None


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _package_versions() -> dict[str, str]:
    try:
        required = metadata.requires("hangul-ocr") or []
    except metadata.PackageNotFoundError:
        required = ["torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "pillow", "opencv-python-headless"]
    names = sorted({_leading_name(line) for line in required if "extra ==" not in line}, key=str.lower)
    return {name: version for name in names if (version := _version_of(name))}


def _leading_name(requirement: str) -> str:
    end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), len(requirement))
    return requirement[:end]


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def atomic_write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write ``text`` to ``path`` whole or not at all: aside, flushed to the disk, then renamed. Creates the folder.

    Raises ``OSError``; on a full disk its message says what to do, and an older ``path`` is left as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_aside_and_rename(path, text.encode(encoding))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        advice = "the disk is full; free some space and run the same command again, nothing already written is lost"
        raise OSError(error.errno, advice, str(path)) from error


def _write_aside_and_rename(path: Path, content: bytes) -> None:
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        share_as_usual(Path(aside))
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def share_as_usual(path: Path) -> None:
    """Give ``path`` the mode of any new file: ``mkstemp`` and safetensors make files that only their owner reads."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def atomic_write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, as :func:`atomic_write_text` does; ``TypeError`` if JSON cannot."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


# Names of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def return_free_memory() -> None:
    """Give the heap's unused pages back to the system where the C library is glibc; elsewhere do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def keep_free_memory(most: int = 256 << 20) -> None:
    """Let the heap keep up to ``most`` bytes that are free at its end, where the C library is glibc; elsewhere nothing.

    Otherwise the tensors of each batch go back to the system, and those of the next come from it page by page.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if option is not None:
        option(_M_TRIM_THRESHOLD, most)
        option(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
