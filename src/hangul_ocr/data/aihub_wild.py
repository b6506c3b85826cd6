"""AI Hub 81, Text in the wild: one large JSON of words and characters, and photographs in folders by type.

A word's own box is upright. Where its characters lie along a tilted line, the word is cut along that line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hangul_ocr.data.aihub import size_of
from hangul_ocr.data.annotations import ImageRecords, Record, plan_images
from hangul_ocr.data.archives import FileIndex, StoredFile, scan
from hangul_ocr.data.cropping import BadBox, Photograph, Region, parse_box, quad_of_characters, runs_left
from hangul_ocr.data.planning import ImportSettings, Planned
from hangul_ocr.data.sample import LeftOut, clean_label, shortened
from hangul_ocr.hangul import FINALS, INITIALS, MEDIALS, is_syllable

SOURCE = "aihub-wild"
LAYOUT = "a .json with images and annotations with bbox, and the photographs it names, in folders or zips"
# The set's word for a photograph's type, and the folders it lies in.
FOLDERS = {
    "book": ("book",),
    "sign": ("signboard", "sign"),
    "product": ("goods", "product"),
    "traffic sign": ("traffic_sign", "traffic sign"),
}
_FLAGS = ("usd", "ud", "du")
_JAMO = frozenset(INITIALS + MEDIALS + FINALS[1:])


def plan_wild(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the photographs of Text in the wild as work, each once, whatever number of ids its file has.

    Left out are ``ignored`` and unreadable words, ``character of no word``, ``duplicate word`` (under several ids of
    one file), ``unknown class``, ``runs right to left``, ``missing image``, ``ambiguous image``, ``image without
    entry``, ``other part`` (a JSON without boxes), and what :class:`AnnotationTable` names. Raises ``HangulOcrError``
    for another layout.
    """
    yield from plan_images(scan(paths), _photograph, boxes=True, looked_for=f"AI Hub 81, Text in the wild: {LAYOUT}")


def _photograph(records: ImageRecords, images: FileIndex, table: StoredFile) -> Iterator[Planned]:
    folders = FOLDERS.get(records.kind.lower(), ())
    # Types use the same file names: of one that was not fetched, another's photograph would be taken.
    foreign = [name for names in FOLDERS.values() for name in names] if folders else []
    image = images.find(records.name, near=table.name, folders=folders, foreign=foreign)
    name = image.path if isinstance(image, StoredFile) else f"{table.path}/{records.name}"
    regions = []
    for item in _words(name, records):
        if isinstance(item, LeftOut):
            yield item
        elif isinstance(image, str):
            yield LeftOut(item.key, image)
        else:
            regions.append(item)
    if regions:
        facts = {"type": records.kind} if records.kind else {}
        yield Photograph(image, regions, SOURCE, name, size_of(records.image), facts=facts)


@dataclass
class _Word:
    """A word's annotation, its number in the file's order, and the numbers of the characters before the next word."""

    record: Record
    number: int
    following: list[int] = field(default_factory=list)


class _Characters:
    """A photograph's characters: their texts, and their upright boxes (n, 4) x, y, w, h, NaN where there is none."""

    def __init__(self, records: list[tuple[int, Record]]) -> None:
        self.records = records
        self.texts = [clean_label(record.get("text")) for _, record in records]
        self.boxes = np.array([_upright(record) for _, record in records]).reshape(-1, 4)

    def inside(self, box: np.ndarray) -> np.ndarray:
        """Return (n,) bool: whose middle lies in ``box`` (4, 2)."""
        middles = self.boxes[:, :2] + self.boxes[:, 2:] / 2
        return ((middles >= box.min(axis=0)) & (middles <= box.max(axis=0))).all(axis=1)


def _words(name: str, records: ImageRecords) -> Iterator[Region | LeftOut]:
    words: list[_Word] = []
    found: list[tuple[int, Record]] = []
    for number, record in enumerate(records.annotations, start=1):
        kind = _class(record)
        if kind == "word":
            words.append(_Word(record, number))
        elif kind == "character":
            if words:
                words[-1].following.append(len(found))
            found.append((number, record))
        else:
            yield LeftOut(_key(name, record, number), "ignored" if kind == "ignored" else "unknown class", kind[:80])
    characters, seen = _Characters(found), set()
    for word in words:
        yield _region(_key(name, word.record, word.number), word, characters, records.image, seen)
    yield from _strays(name, words, characters)


def _region(
    key: str, word: _Word, characters: _Characters, image: Record, seen: set[tuple[str, bytes]]
) -> Region | LeftOut:
    text = clean_label(word.record.get("text"))
    try:
        box = parse_box(word.record.get("bbox"))
    except BadBox as error:
        return LeftOut(key, str(error), shortened(word.record.get("bbox")))
    if (text, box.tobytes()) in seen:
        return LeftOut(key, "duplicate word", text)
    seen.add((text, box.tobytes()))
    flags = [flag for flag in _FLAGS if _is_set(image, flag) or _is_set(word.record, flag)]
    facts = {"rotation": flags} if flags else {}
    facts |= {"bare_jamo": True} if _mixes_jamo(text) else {}
    boxes = _boxes_of_characters(text, word, characters, box)
    # It may be upside down, or written that way as on old signs; only the flag tells, which early issues lack.
    if boxes is not None and runs_left(boxes) and "usd" not in flags:
        return LeftOut(key, "runs right to left", text)
    tilted = quad_of_characters(boxes) if boxes is not None else None
    if tilted is not None:
        return Region(key, text, tilted, facts | {"tilted": True})
    return Region(key, text, box, facts, _turns(flags, box))


def _boxes_of_characters(text: str, word: _Word, characters: _Characters, box: np.ndarray) -> np.ndarray | None:
    """Return the boxes (n, 4) of a word's characters: of those that follow it in the file, or those inside its box."""
    for numbers in (word.following, np.flatnonzero(characters.inside(box)).tolist()):
        if len(numbers) > 1 and "".join(characters.texts[i] for i in numbers) == text.replace(" ", ""):
            boxes = characters.boxes[numbers]
            return None if np.isnan(boxes).any() else boxes
    return None


def _turns(flags: list[str], box: np.ndarray) -> int:
    """Return the quarter turns clockwise that make a word upright.

    ``usd`` is upside down. ``du`` runs from the bottom to the top, which only turned text does. ``ud`` runs from the
    top to the bottom, as stacked Korean does that must not be turned.
    """
    width, height = np.ptp(box, axis=0)
    if "usd" in flags:
        return 2
    return 1 if "du" in flags and height > width else 0


def _strays(name: str, words: list[_Word], characters: _Characters) -> Iterator[LeftOut]:
    """Yield the characters that lie in no word's box: nothing was cut there."""
    held = np.zeros(len(characters.records), bool)
    for word in words:
        x, y, width, height = _upright(word.record)
        held |= characters.inside(np.array([[x, y], [x + width, y + height]]))
    for (number, record), text, is_held in zip(characters.records, characters.texts, held, strict=True):
        if not is_held:
            yield LeftOut(_key(name, record, number), "character of no word", shortened(text))


def _upright(record: Record) -> np.ndarray:
    """Return a record's upright box as (4,) x, y, w, h; NaN if it has none."""
    try:
        corners = parse_box(record.get("bbox"))
    except BadBox:
        return np.full(4, np.nan)
    low = corners.min(axis=0)
    return np.concatenate([low, corners.max(axis=0) - low])


def _class(record: Record) -> str:
    attributes = record.get("attributes")
    return str(attributes.get("class", "")).lower() if isinstance(attributes, dict) else ""


def _is_set(record: Record, flag: str) -> bool:
    """Tell whether a rotation flag is set, on the record or among its attributes, as a bool or as text."""
    attributes = record.get("attributes")
    values: list[Any] = [record.get(flag), attributes.get(flag) if isinstance(attributes, dict) else None]
    return any(value is True or str(value).strip().lower() in ("true", "1", "y", "yes") for value in values)


def _mixes_jamo(text: str) -> bool:
    """Tell whether a label mixes syllables and bare jamo: mostly a slip of the keyboard (``국ㅇㄴ``), not always."""
    return any(map(is_syllable, text)) and any(character in _JAMO for character in text)


def _key(name: str, record: Record, number: int) -> str:
    identity = record.get("id")
    return f"{name}#{shortened(identity, 40) if identity is not None else f'entry {number}'}"
