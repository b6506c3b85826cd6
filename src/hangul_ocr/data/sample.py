"""What every importer yields: a Sample, or a LeftOut that names what could not be used and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
