"""The user's cache folder, and small text files in it that spare the second start the work of the first."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for things that can be made again: ``$HANGUL_OCR_CACHE``, or the platform's usual place."""
    if override := os.environ.get("HANGUL_OCR_CACHE"):
        return Path(override)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hangul-ocr"


def read_cached(name: str) -> str | None:
    """Return the text of the cache file ``name``, or None where there is none that can be read."""
    try:
        return (cache_folder() / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write_cached(name: str, text: str) -> None:
    """Write the cache file ``name`` aside and rename it; a cache that cannot be written is no error."""
    target = cache_folder() / name
    aside = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, target)
    except OSError:
        aside.unlink(missing_ok=True)
