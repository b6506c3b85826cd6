"""Reads a whole store again: every record is there and decodes, and what the manifest says of them holds."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from joblib import delayed
from tqdm.auto import tqdm

from hangul_ocr.data.images import UnreadableImage, check_image
from hangul_ocr.data.lmdb_store import FORMAT_VERSION, LEFT_OUT_FILE, RECORD_FAULTS, LmdbReader, Manifest
from hangul_ocr.data.lmdb_writer import ContentHash
from hangul_ocr.data.sample import Sample
from hangul_ocr.data.workers import Workers

_CALL = 500
# Of the tables that former versions wrote.
_LONGEST_FIELD = 1 << 30


def faults(path: Path, workers: Workers | None = None) -> Iterator[str]:
    """Yield a line for each fault of the store at ``path``, in the order of its records.

    ``workers`` decode every image. A store of clovaai's tools has no manifest to be held against. Raises
    ``HangulOcrError`` if there is no store, or one that cannot be opened.
    """
    with LmdbReader(path) as reader:
        manifest, seen = reader.manifest, _Seen()
        yield from _records(reader, workers or Workers(), seen)
        if manifest is not None:
            yield from _against_manifest(reader, manifest, seen)


class _Seen:
    """What the records come to: their keys and their hash."""

    def __init__(self) -> None:
        self.keys, self.hash = set[str](), ContentHash()

    def take(self, sample: Sample, meta: bytes) -> str:
        """Return the fault that shows only beside the other records, if any."""
        repeated = sample.key in self.keys
        self.keys.add(sample.key)
        self.hash.add(sample.key, sample.text.encode("utf-8"), sample.image, meta)
        return f"{sample.key}: another record has this key" if repeated else ""


def _records(reader: LmdbReader, workers: Workers, seen: _Seen) -> Iterator[str]:
    """Yield what is wrong with single records; workers decode while this process adds up the hash."""
    parts = [range(start, min(start + _CALL, len(reader))) for start in range(0, len(reader), _CALL)]
    calls = [delayed(_undecodable)(reader, part) for part in parts]
    with workers.ready(), tqdm(desc=f"verify {reader.path.name}", total=len(reader), unit="crop") as bar:
        # Starting processes takes longer than a few crops.
        results = workers.call(calls) if len(parts) > 2 else (_undecodable(reader, part) for part in parts)
        for part, undecodable in zip(parts, results, strict=True):
            for index in part:
                fault = _fault(reader, index, seen) or undecodable.get(index)
                if fault:
                    yield fault
            bar.update(len(part))


def _fault(reader: LmdbReader, index: int, seen: _Seen) -> str:
    try:
        return seen.take(reader[index], reader.meta_bytes(index))
    except RECORD_FAULTS as error:
        return f"record {index + 1}: {error}"


def _undecodable(reader: LmdbReader, rows: range) -> dict[int, str]:
    """Return by row what is wrong with the images of ``rows``; records that cannot be read at all are not looked at."""
    found = {}
    for index in rows:
        try:
            sample = reader[index]
            size = check_image(sample.image)
        except UnreadableImage as error:
            found[index] = f"{sample.key}: {error}"
        except RECORD_FAULTS:
            continue
        else:
            stated = sample.facts.get("width", size[0]), sample.facts.get("height", size[1])
            if stated != size:
                found[index] = f"{sample.key}: {size[0]} x {size[1]} pixels, stored as {stated[0]} x {stated[1]}"
    return found


def _against_manifest(reader: LmdbReader, manifest: Manifest, seen: _Seen) -> Iterator[str]:
    if manifest.version != FORMAT_VERSION:
        yield f"its format is {manifest.version}, this suite's {FORMAT_VERSION}"
    if manifest.kept != len(reader):
        yield f"holds {len(reader):,} records, the manifest says {manifest.kept:,}"
    left_out = sum(manifest.left_out.values())
    if manifest.read != manifest.kept + left_out:
        yield f"the manifest's counts do not add up: {manifest.summary()}"
    if seen.hash.value() != manifest.content_hash:
        yield f"the content hash is {seen.hash.value()}, the manifest says {manifest.content_hash}"
    elif manifest.meta_hash not in ("", seen.hash.meta_value()):
        # A record that cannot be read is missing from both hashes, and that is one fault.
        yield f"the hash of groups and other facts is {seen.hash.meta_value()}, the manifest says {manifest.meta_hash}"
    if (rows := _rows(reader.path / LEFT_OUT_FILE)) != left_out:
        yield f"{LEFT_OUT_FILE} has {rows:,} rows, the manifest says {left_out:,}"


def _rows(path: Path) -> int:
    """Return how many rows a table has after its header; 0 if it cannot be read."""
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with open(path, encoding="utf-8", newline="") as lines:
            return max(0, sum(1 for _ in csv.reader(lines)) - 1)
    except (OSError, ValueError, csv.Error):
        return 0
    finally:
        csv.field_size_limit(limit)
