"""Annotation files of any size: read as a stream, gathered by photograph on disk, never whole in memory.

AI Hub's files list all images, then all annotations, in no promised order. A temporary SQLite file, which SQLite itself
removes, joins the two: memory stays the same for a thousand records and for ten million.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import ijson
import numpy as np

from hangul_ocr.data.archives import (
    FileIndex,
    Scan,
    StoredFile,
    UnreadableFile,
    decode_damaged,
    opened_as_utf8,
    stem_of,
)
from hangul_ocr.data.planning import Planned
from hangul_ocr.data.sample import LeftOut, shortened
from hangul_ocr.hangul import HangulOcrError, normalise

# A parser keeps the path to where it is: a file of a million brackets would take gigabytes.
_DEEPEST = 64
# The longest single record that is kept in memory while it is read.
_LONGEST_RECORD = 1 << 24
# No measure needs as many characters, and the parser's C code crashes on an integer of more than 4,300 digits.
_LONGEST_NUMBER = 400
_OF_NUMBERS = np.isin(np.arange(256), list(b"0123456789+-.eE"))
_BATCH = 5000
# Annotations that are looked at to tell what a file is.
_PROBED = 100
# AI Hub 81 has a few large files; whoever has more has another set.
_MOST_FILES = 200
# What the labels and the images of AI Hub 81's parts are called, by whether their annotations have boxes.
_HALVES = {
    True: ("textinthewild_data_info.json", "its photographs (book, Signboard, Goods, Traffic_Sign, or their zips)"),
    False: ("its printed_, handwriting_ or augmentation_data_info.json", "the folder or zips of its images"),
}
_SCHEMA = """
CREATE TABLE images (id TEXT PRIMARY KEY, name TEXT, stem TEXT, kind TEXT, record TEXT);
CREATE TABLE annotations (number INTEGER PRIMARY KEY, image TEXT, record TEXT);
CREATE TABLE trouble (record TEXT);
"""
_JOINED = """
SELECT i.name, i.kind, i.record, a.record FROM annotations a JOIN images i ON i.id = a.image
ORDER BY i.name, i.kind, a.number
"""
_CLAIMS = """
SELECT i.name, i.record, a.record FROM images i JOIN annotations a ON a.image = i.id
WHERE i.stem = ? ORDER BY a.number
"""
_INDEXES = """
CREATE INDEX by_stem ON images (stem);
CREATE INDEX by_image ON annotations (image);
"""
_STRAY = "SELECT image, record FROM annotations WHERE image NOT IN (SELECT id FROM images) ORDER BY number"
_BARE = "SELECT name FROM images WHERE id NOT IN (SELECT image FROM annotations) ORDER BY name"

Record = dict[str, Any]


class DamagedJson(Exception):
    """JSON that cannot be read to its end; the message is the reason."""


@dataclass(frozen=True)
class Claim:
    """What another label file, ``table``, says of an image of the same name: an entry and one annotation of it."""

    table: StoredFile
    name: str
    image: Record
    annotation: Record


@dataclass(frozen=True)
class ImageRecords:
    """An image file's entry (the first, if several ids name the file) and its annotations in the order of the file.

    ``claims`` are what other label files say of an image of that name: they may mean another, which is not there.
    """

    name: str
    kind: str
    image: Record
    annotations: list[Record]
    claims: tuple[Claim, ...] = ()


def load_json(data: bytes) -> Any:
    """Return the value of a small JSON file in UTF-8 or cp949; a byte that is damaged becomes U+FFFD.

    Raises ``DamagedJson``.
    """
    try:
        return json.loads(decode_damaged(data))
    except (ValueError, RecursionError) as error:
        raise DamagedJson(shortened(error)) from None


def annotation_files(found: Scan, *, boxes: bool, looked_for: str) -> tuple[list[StoredFile], list[LeftOut]]:
    """Return the JSON files whose annotations have a ``bbox`` (or, without ``boxes``, have none), and the others.

    AI Hub 81's parts call themselves by one name; only this tells them apart. The others are ``other part`` or
    ``damaged JSON``. Raises ``HangulOcrError`` if there is no such file or no image, which it says, and if each image
    has one of its name, as in AI Hub 105.
    """
    files = found.with_suffix({".json"})
    if 2 * own_images(files, found.images()) > len(files):
        raise found.unknown_layout(looked_for, "images have a .json each, of their own name: see aihub-outdoor")
    kinds = {file: _kind(file) for file in files} if len(files) <= _MOST_FILES else {}
    wanted = "boxes" if boxes else "plain"
    parts = [file for file, kind in kinds.items() if kind == wanted]
    others = [_other(file, kind) for file, kind in kinds.items() if kind != wanted]
    if parts and found.images():
        return parts, others
    found.left_out += [record for record in others if record.reason == "damaged JSON"]
    half = found.missing_half(".json", *_HALVES[boxes])
    raise found.unknown_layout(looked_for + _hint(set(kinds.values()), boxes), half)


def _kind(file: StoredFile) -> str:
    """Return ``boxes``, ``plain`` or ``none`` for what a file's annotations are, or why it cannot be told."""
    seen = ""
    try:
        for record in itertools.islice(stream(file, "annotations"), _PROBED):
            if isinstance(record, dict):
                seen = "boxes" if "bbox" in record else seen or "plain"
    except (DamagedJson, UnreadableFile) as error:
        return seen or f"damaged: {error}"
    return seen or "none"


def _other(file: StoredFile, kind: str) -> LeftOut:
    if kind.startswith("damaged: "):
        return LeftOut(file.name, "damaged JSON", kind.removeprefix("damaged: "))
    details = {"none": "no annotations", "boxes": "its annotations have bbox", "plain": "its annotations have no bbox"}
    return LeftOut(file.name, "other part", details[kind])


def _hint(kinds: set[str], boxes: bool) -> str:
    if boxes and "plain" in kinds:
        return " (a .json without bbox is there: see aihub-fonts)"
    return " (a .json with bbox is there: see aihub-wild and aihub-outdoor)" if not boxes and "boxes" in kinds else ""


def own_images(labels: Sequence[StoredFile], images: Sequence[StoredFile]) -> int:
    """Return how many label files have an image of their own name: of AI Hub 105 mostly all, of other sets none."""
    stems = {stem_of(image.name) for image in images}
    return sum(stem_of(label.stem) in stems for label in labels)


def stream(file: StoredFile, name: str) -> Iterator[Any]:
    """Yield the entries of the list ``name`` at the top of a JSON file.

    Raises ``DamagedJson`` where the file cannot be read further, and ``UnreadableFile``.
    """
    with opened_as_utf8(file) as source:
        try:
            yield from ijson.items(_Guarded(source), f"{name}.item")
        except (ijson.JSONError, ValueError, OverflowError, ArithmeticError) as error:
            raise DamagedJson(shortened(" ".join(str(error).split()))) from None
        except (OSError, EOFError, RuntimeError) as error:
            raise UnreadableFile(str(error) or type(error).__name__) from None


class AnnotationTable:
    """One annotation file's ``images`` and ``annotations``, joined on disk.

    ``left_out`` yields what is wrong with the file's own entries; ``by_image`` the rest, an image at a time. Raises
    ``HangulOcrError`` if the disk for temporary files is full.
    """

    def __init__(self, file: StoredFile) -> None:
        self.file = file
        self._breaks: dict[str, tuple[int, str]] = {}
        with self._explained():
            self._database = sqlite3.connect("")
            self._database.executescript(_SCHEMA)
            self._fill("images", self._image_row, "INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)")
            self._fill("annotations", self._annotation_row, "INSERT INTO annotations (image, record) VALUES (?, ?)")
            self._database.executescript(_INDEXES)

    def __enter__(self) -> AnnotationTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def left_out(self) -> Iterator[LeftOut]:
        """Yield what is wrong with the file's own entries.

        Reasons: ``damaged JSON`` (once, where the file breaks off), ``damaged entry``, ``duplicate image id``,
        ``unknown image id`` (of an annotation), ``image without annotations``.
        """
        if self._breaks:
            counts = " and ".join(f"{count:,} {name}" for name, (count, _) in self._breaks.items())
            reason = next(reversed(self._breaks.values()))[1]
            yield LeftOut(self.file.name, "damaged JSON", f"after {counts}: {reason}")
        for (record,) in self._rows_of("SELECT record FROM trouble ORDER BY rowid"):
            yield LeftOut(*json.loads(record))
        for image, record in self._rows_of(_STRAY):
            number = json.loads(record).get("id", "?")
            yield LeftOut(f"{self.file.name}#{shortened(number)}", "unknown image id", image)
        for (name,) in self._rows_of(_BARE):
            yield LeftOut(name, "image without annotations", self.file.name)

    def by_image(self) -> Iterator[ImageRecords]:
        """Yield each image that has annotations, ordered by file name."""
        rows = self._rows_of(_JOINED)
        for (name, kind), group in itertools.groupby(rows, key=lambda row: row[:2]):
            first = next(group)
            records = [json.loads(row[3]) for row in itertools.chain([first], group)]
            yield ImageRecords(name, kind, json.loads(first[2]), records)

    def claims(self, name: str) -> Iterator[Claim]:
        """Yield what this file says of images called ``name``, whatever their folders and suffix."""
        for found, image, annotation in self._rows_of(_CLAIMS, _plain(stem_of(name))):
            yield Claim(self.file, found, json.loads(image), json.loads(annotation))

    def _rows_of(self, query: str, *values: str) -> Iterator[tuple]:
        with self._explained():
            yield from self._database.execute(query, values)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise HangulOcrError(
                f"{self.file.name}: cannot be gathered on disk ({error}); make room for temporary files, or name "
                f"another folder for them in TMPDIR"
            ) from None

    def _fill(self, name: str, as_row: Any, statement: str) -> None:
        """Insert all entries of a list in batches; a file that breaks off keeps what came before."""
        rows = self._rows(name, as_row)
        while batch := list(itertools.islice(rows, _BATCH)):
            with self._database:
                done = self._database.executemany(statement, batch)
            if name == "images" and done.rowcount < len(batch):
                for _ in range(len(batch) - done.rowcount):
                    self._note(self.file.name, "duplicate image id", "")

    def _rows(self, name: str, as_row: Any) -> Iterator[tuple]:
        count = 0
        try:
            for count, record in enumerate(stream(self.file, name), start=1):
                row = as_row(record) if isinstance(record, dict) else None
                if row is None:
                    self._note(f"{self.file.name}#{name} {count}", "damaged entry", shortened(record))
                else:
                    yield row
        except (DamagedJson, UnreadableFile) as error:
            self._breaks[name] = (count, str(error))

    def _note(self, key: str, reason: str, detail: str) -> None:
        """Keep what is wrong with an entry; on disk, for it may be wrong with all of them."""
        self._database.execute("INSERT INTO trouble VALUES (?)", [json.dumps([key, reason, detail])])

    def _image_row(self, record: Record) -> tuple | None:
        if record.get("id") is None or not isinstance(record.get("file_name"), str):
            return None
        name = normalise(record["file_name"])
        return (*map(_plain, (record["id"], name, stem_of(name), record.get("type") or "")), _as_json(record))

    def _annotation_row(self, record: Record) -> tuple | None:
        if record.get("image_id") is None:
            return None
        return _plain(record["image_id"]), _as_json(record)


class _Guarded:
    """A stream for the parser that stops at what it cannot take: endless nesting, an endless record or number."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._depth = self._since_record = self._digits = 0
        self._in_text = self._escaped = self._refused = False

    def read(self, size: int = -1) -> bytes:
        if self._refused:
            raise DamagedJson(f"a number of more than {_LONGEST_NUMBER} characters (refused)")
        data = self._source.read(size)
        return self._followed(data) if data else data

    def _followed(self, data: bytes) -> bytes:
        """Return ``data`` up to the first number that is too long."""
        codes, outside = self._outside_texts(data)
        lowest, highest = self._depths(codes, outside)
        if highest > _DEEPEST:
            raise DamagedJson(f"nested more than {_DEEPEST} deep (refused)")
        # Between two entries of a list at the top the depth is 2.
        self._since_record = 0 if lowest <= 2 and not self._in_text else self._since_record + len(data)
        if self._since_record > _LONGEST_RECORD:
            raise DamagedJson(f"one entry of more than {_LONGEST_RECORD:,} bytes (refused)")
        return data[: self._end(codes, outside)]

    def _outside_texts(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes (n,) without what backslashes make of them, and which (n,) bool are outside of texts."""
        # A backslash says what the next byte is, wherever the chunk ends.
        if self._escaped:
            data = b"_" + data[1:]
        plain = data.replace(b"\\\\", b"__")
        self._escaped = plain.endswith(b"\\")
        codes = np.frombuffer(plain.replace(b'\\"', b"__"), np.uint8)
        quotes = np.cumsum(codes == ord('"')) + self._in_text
        self._in_text = bool(quotes[-1] % 2)
        return codes, quotes % 2 == 0

    def _depths(self, codes: np.ndarray, outside: np.ndarray) -> tuple[int, int]:
        """Return the least and greatest depth of brackets, those in texts not counted."""
        opening = ((codes == ord("[")) | (codes == ord("{"))).astype(np.int32)
        closing = ((codes == ord("]")) | (codes == ord("}"))).astype(np.int32)
        depth = self._depth + np.cumsum((opening - closing) * outside)
        before = self._depth
        self._depth = int(depth[-1])
        return min(before, int(depth.min())), max(before, int(depth.max()))

    def _end(self, codes: np.ndarray, outside: np.ndarray) -> int:
        """Return where the parser must stop: at a number that is too long, which may have begun in former chunks."""
        between = np.flatnonzero(~(_OF_NUMBERS[codes] & outside))
        edges = np.concatenate([[-1 - self._digits], between, [len(codes)]])
        lengths = np.diff(edges) - 1
        self._digits = int(lengths[-1])
        if lengths.max() <= _LONGEST_NUMBER:
            return len(codes)
        self._refused = True
        # Something must come back: nothing at all would be the end of the file.
        return max(1, int(edges[np.argmax(lengths > _LONGEST_NUMBER)]) + 1)


def _plain(value: Any) -> str:
    """Return an id or name as text that SQLite can hold."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _as_json(record: Record) -> str:
    return json.dumps(record, default=float)


def plan_images(
    found: Scan,
    plan_image: Callable[[ImageRecords, FileIndex, StoredFile], Iterator[Planned]],
    *,
    boxes: bool,
    looked_for: str,
) -> Iterator[Planned]:
    """Yield what ``plan_image`` makes of each image that the label files name, and what is left out around them.

    Raises ``HangulOcrError`` where no label file is of this kind, see :func:`annotation_files`.
    """
    parts, others = annotation_files(found, boxes=boxes, looked_for=looked_for)
    images = FileIndex(found.images())
    yield from (*found.left_out, *found.others({".json"}, "a label"), *others)
    with ExitStack() as stack:
        tables = [stack.enter_context(AnnotationTable(file)) for file in parts]
        for table in tables:
            yield from table.left_out()
            for records in table.by_image():
                yield from plan_image(_with_claims(records, table, tables), images, table.file)
    yield from (LeftOut(image.name, "image without entry") for image in images.unused())


def _with_claims(records: ImageRecords, table: AnnotationTable, tables: Sequence[AnnotationTable]) -> ImageRecords:
    others = (other.claims(records.name) for other in tables if other is not table)
    return replace(records, claims=tuple(itertools.chain.from_iterable(others)))
