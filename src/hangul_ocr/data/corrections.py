"""Corrections of a data set's labels, kept in a table beside it: crops to drop and crops to label anew.

A CSV with ``img_path,action,text``, its fields parted by commas, semicolons or tabs: ``action`` is ``drop`` or
``relabel``, ``text`` the new label. A table of suspects (``hangul-ocr suspects``) is one as soon as somebody fills in
its ``action``: there the new label stands in ``suggestion``, ``text`` is the label that was looked at, and rows without
an action are passed over.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hangul_ocr.data.dacon import canonical_path
from hangul_ocr.data.sample import first_of, label_fault, shortened
from hangul_ocr.data.tables import SEPARATORS, read_table, write_table
from hangul_ocr.hangul import HangulOcrError, normalise

DROP, RELABEL, OUTDATED = "drop", "relabel", "outdated"
DROPPED = "dropped by corrections"
COLUMNS = ["img_path", "action", "text", "was"]


@dataclass(frozen=True)
class Correction:
    """What becomes of one crop: ``text`` is its new label, None drops it; ``was`` is the label it must have, if known.

    ``place`` names the line that asks for it.
    """

    key: str
    text: str | None
    was: str | None
    place: str

    def fits(self, text: str) -> bool:
        """Tell whether a crop labelled ``text`` is what the correction was made for."""
        return self.was is None or self.was == text


class Corrections:
    """Corrections by key, in the form that paths are compared in."""

    def __init__(self, corrections: Sequence[Correction]) -> None:
        self._by_key: dict[str, Correction] = {}
        for correction in corrections:
            known = self._by_key.setdefault(canonical_path(correction.key), correction)
            if known is not correction:
                raise HangulOcrError(
                    f"{correction.place}: {correction.key!r} is corrected before ({known.place}); keep one of them"
                )

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, key: str) -> Correction | None:
        """Return the correction of the crop ``key``, if there is one."""
        return self._by_key.get(canonical_path(key))

    def __iter__(self) -> Iterator[str]:
        """Yield the keys as they were written, in order."""
        return (correction.key for correction in self._by_key.values())

    @property
    def relabelled(self) -> frozenset[str]:
        """The keys that get a new label, in the form that paths are compared in."""
        return frozenset(key for key, correction in self._by_key.items() if correction.text is not None)

    @property
    def sha256(self) -> str:
        """A hash of what is to be done, whichever files it stood in."""
        rows = [(c.key, c.text, c.was) for c in self._by_key.values()]
        return hashlib.sha256(repr(rows).encode("utf-8", "backslashreplace")).hexdigest()

    def require(self, labels: Mapping[str, str]) -> None:
        """Raise ``HangulOcrError`` for the first correction that is of no crop in ``labels`` (key to label), or of
        another label than the crop has, or that changes nothing."""
        known = {canonical_path(key): text for key, text in labels.items()}
        lost = [c for key, c in self._by_key.items() if key not in known]
        if lost:
            more = f" (and {len(lost) - 1:,} more)" if len(lost) > 1 else ""
            raise HangulOcrError(f"{lost[0].place}: no crop is called {lost[0].key!r}{more}; check the paths")
        for key, correction in self._by_key.items():
            _require_label(correction, known[key])

    def save(self, path: Path) -> None:
        """Write all of them as one table that :func:`read_corrections` reads."""
        rows = [(c.key, DROP if c.text is None else RELABEL, c.text or "", c.was or "") for c in self._by_key.values()]
        write_table(pd.DataFrame(rows, columns=COLUMNS), path)


def _require_label(correction: Correction, text: str) -> None:
    if fault := label_fault(text):
        raise HangulOcrError(
            f"{correction.place}: {correction.key!r} is left out already ({fault}); correct it in the data set itself"
        )
    if not correction.fits(text):
        raise HangulOcrError(
            f"{correction.place}: {correction.key!r} is labelled {shortened(text)!r}, not {correction.was!r}: the "
            "table was made for other labels; look again, and write the new label under `suggestion`"
        )
    if correction.text == text:
        raise HangulOcrError(
            f"{correction.place}: {correction.key!r} is labelled {shortened(text)!r} as it is; give another label"
        )


def read_corrections(*paths: Path) -> Corrections:
    """Read tables of corrections as one; a crop may be corrected once.

    Raises ``HangulOcrError`` that names file and row for an unknown action, a key that repeats or is empty, a relabel
    without a label to learn from, a table without the columns, and one in which nothing is to be done.
    """
    return Corrections([correction for path in paths for correction in _read(Path(path).expanduser())])


def _read(path: Path) -> list[Correction]:
    table = read_table(path, SEPARATORS)
    lacking = [name for name in ("img_path", "action", "text") if name not in table]
    if lacking:
        found = ", ".join(map(str, table.columns))
        raise HangulOcrError(f"{path}: no column {lacking[0]!r} (found: {found}); it takes img_path,action,text")
    suspects = "suggestion" in table
    new, was = ("suggestion", "text") if suspects else ("text", "was")
    found = [_correction(path, number, row, new, was) for number, row in enumerate(table.to_dict("records"), start=1)]
    # Of suspects most are never decided; in a table of corrections a row without an action is a mistake.
    undecided = [number for number, correction in enumerate(found, start=1) if correction is None]
    if undecided and not suspects:
        raise HangulOcrError(f"{path}: row {undecided[0]} has no action; write {DROP} or {RELABEL}, or remove the row")
    if len(undecided) == len(found):
        raise HangulOcrError(f"{path}: no row has an action; write {DROP} or {RELABEL} in the rows to correct")
    return [correction for correction in found if correction is not None]


def _correction(path: Path, number: int, row: Mapping[str, str], new: str, was: str) -> Correction | None:
    """Return what a row asks for; None where it has no action."""
    action, place = row["action"].strip().lower(), f"{path}: row {number}"
    if not action:
        return None
    if action not in (DROP, RELABEL):
        raise HangulOcrError(f"{place}: action {row['action']!r} is unknown; write {DROP} or {RELABEL}")
    key = normalise(row["img_path"])
    if not key.strip():
        raise HangulOcrError(f"{place}: no img_path; name the crop to {action}")
    text = normalise(row[new]).strip()
    if action == RELABEL and (fault := label_fault(text)):
        raise HangulOcrError(
            f"{place}: {key!r} cannot be labelled {shortened(text)!r} ({fault}); write the new label under `{new}`"
        )
    return Correction(key, None if action == DROP else text, normalise(row.get(was, "")) or None, place)


@dataclass(frozen=True)
class Applied:
    """What corrections did to a store: so many ``dropped`` and ``relabelled``; keys of those that did nothing.

    ``unmatched`` are of no record that was kept, ``outdated`` of one that has another label than they were made for.
    """

    sha256: str
    dropped: int
    relabelled: int
    unmatched: list[str]
    outdated: list[str]

    @classmethod
    def of(cls, corrections: Corrections, did: Mapping[str, str]) -> Applied:
        """Return what became of each, where ``did`` says by key what was done (``drop``, ``relabel``, ``outdated``)."""
        counts = Counter(did.values())
        return cls(
            corrections.sha256,
            counts[DROP],
            counts[RELABEL],
            [key for key in corrections if canonical_path(key) not in did],
            sorted(key for key, what in did.items() if what == OUTDATED),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as a manifest holds it: ``Applied(**values)`` is the way back."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return what people should be told."""
        said = [f"corrections: {self.dropped:,} dropped, {self.relabelled:,} labelled anew"]
        if self.unmatched:
            said.append(
                f"warning: {len(self.unmatched):,} corrections are of no record here: {first_of(self.unmatched, 5)}"
            )
        if self.outdated:
            said.append(
                f"warning: {len(self.outdated):,} corrections are of other labels than the records have and were not "
                f"made: {first_of(self.outdated, 5)}"
            )
        return said
