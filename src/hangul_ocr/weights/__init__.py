"""The recogniser that ships with the package: its weights, the curve of their training, and their model card."""

from __future__ import annotations

from pathlib import Path

from hangul_ocr.hangul import HangulOcrError

FOLDER = Path(__file__).parent
WEIGHTS, CURVE = "korean.safetensors", "korean.csv"


def shipped_weights() -> Path:
    """Return the file of the shipped weights. Raises ``HangulOcrError`` where this copy of the package has none."""
    path = FOLDER / WEIGHTS
    if not path.is_file():
        raise HangulOcrError(f"{path}: not there; install the whole package, or train with --preset scratch")
    return path
