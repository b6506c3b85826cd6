"""What every importer yields: a Sample, or a LeftOut that names what could not be used and why."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hangul_ocr.hangul import is_placeholder, normalise

# No word and no line of a sign is as long; a file that lost its line breaks is.
MAX_LABEL = 1000
# Byte order marks, joiners and marks of direction, which editors and web pages leave behind.
_INVISIBLE = dict.fromkeys([*range(0x200B, 0x2010), 0x2060, 0xFEFF])


@dataclass(frozen=True)
class Sample:
    """One word image with its label.

    ``image`` holds encoded bytes (PNG, JPEG ...) and ``text`` the label in NFC. ``key`` identifies the crop and is what
    tables are joined by (the competition's ``img_path``); ``group`` names the photograph or near-duplicate cluster it
    came from; ``facts`` are further JSON-serialisable values (``centres``: one ``[x, y]`` in 0..1 for each character
    of a rendered text, for instance).
    """

    key: str
    image: bytes
    text: str
    source: str
    group: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """A record that an importer or the store did not take, with a short reason that counts can be grouped by."""

    key: str
    reason: str
    detail: str = ""


def label_fault(text: str) -> str:
    """Return why ``text`` is no label to learn from, as a reason of :class:`LeftOut`; an empty string if it is one."""
    if not text.strip():
        return "empty label"
    if is_placeholder(text):
        return "placeholder label"
    if len(text) > MAX_LABEL:
        return "label too long"
    if "\ufffd" in text:
        return "undecodable label"
    return "control character in label" if any(unicodedata.category(c) == "Cc" for c in text) else ""


def clean_label(value: object) -> str:
    """Return a label as a data set wrote it in NFC, without what nobody sees and without space around it.

    What is no text is an empty label.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return normalise(str(value).translate(_INVISIBLE)).strip()


def first_of(values: Iterable[object], most: int = 3) -> str:
    """Return the first ``most`` values for an error to name, and how many more there are."""
    shown = list(map(str, values))
    return ", ".join(shown[:most]) + (f" and {len(shown) - most:,} more" if len(shown) > most else "")


def shortened(text: object, longest: int = 80) -> str:
    """Return ``text`` for the detail of a :class:`LeftOut`: nobody wants 100,000 characters in a table."""
    text = str(text)
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"
