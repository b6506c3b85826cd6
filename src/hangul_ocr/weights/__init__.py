"""The two recognisers that ship with the package: weights, the curves of their training, and their model card."""

from __future__ import annotations

from pathlib import Path

from hangul_ocr.hangul import HangulOcrError

FOLDER = Path(__file__).parent
WEIGHTS, CURVE = "korean.safetensors", "korean.csv"
SCOUT = "korean-small.safetensors"


def shipped_weights() -> Path:
    """Return the file of the shipped weights. Raises ``HangulOcrError`` where this copy of the package has none."""
    return _found(WEIGHTS)


def shipped_scout() -> Path:
    """Return the file of the small network that looks before the larger one; raises as :func:`shipped_weights` does."""
    return _found(SCOUT)


def _found(name: str) -> Path:
    path = FOLDER / name
    if not path.is_file():
        raise HangulOcrError(f"{path}: not there; install the whole package, or train with --preset scratch")
    return path
