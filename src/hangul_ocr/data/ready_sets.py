"""Sets that hold crops already: competitions and LMDBs."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hangul_ocr.data.archives import StoredFile, names_of, scan
from hangul_ocr.data.dacon import find_competition, read_competition, train_samples
from hangul_ocr.data.images import UnreadableImage, check_image
from hangul_ocr.data.lmdb_store import DATA_FILE, RECORD_FAULTS, LmdbReader, is_store
from hangul_ocr.data.lmdb_writer import PROGRESS_FILE, UNFINISHED
from hangul_ocr.data.planning import ImportSettings, Planned, shrunk_if_asked
from hangul_ocr.data.sample import LeftOut, Sample, clean_label, label_fault, shortened
from hangul_ocr.hangul import HangulOcrError

_FINISH = "run the import that writes it again"


def plan_dacon(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the training crops of competitions (:func:`dacon.train_samples`)."""
    several = len(paths) > 1
    for path, name in zip(paths, names_of(paths), strict=True):
        for item in train_samples(read_competition(find_competition(Path(path).expanduser()))):
            yield shrunk_if_asked(_named(item, name) if several else item, settings)


def plan_lmdb(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the samples of LMDBs, ours or clovaai's, given themselves or in a folder that holds several.

    Left out are ``damaged record`` and ``unreadable image``, beside what is wrong with a label, and each ``unfinished
    store``. Crops of clovaai's files have no names but their numbers: the LMDB's is put before, as it is before all
    keys of several LMDBs, which may hold the same ones. Raises ``HangulOcrError`` if there is none.
    """
    found = scan(paths)
    stores = [file for file in found.files if Path(file.name).name == DATA_FILE and not file.member]
    if not stores:
        raise found.unknown_layout(f"LMDBs: folders that hold a {DATA_FILE}")
    asides = {store: name for store in stores if (name := _unfinished(store))}
    unfinished = dict.fromkeys(asides.values())
    whole = dict.fromkeys(_whole(store) for store in stores if store not in asides)
    if not whole:
        raise HangulOcrError(f"{next(iter(unfinished))}: not finished, or put aside; {_FINISH}, or rename it")
    yield from (LeftOut(folder, "unfinished store", _FINISH) for folder in unfinished)
    for name, place in whole:
        for item in _stored(name, place, several=len(whole) > 1):
            yield shrunk_if_asked(item, settings)


def _unfinished(store: StoredFile) -> str | None:
    """Return the name of the store under construction, or put aside, that an LMDB is or is a shard of, if it is one."""
    name, place = posixpath.dirname(store.name), Path(store.place).parent
    if place.name.startswith("shard-") and _is_aside(place.parent):
        return posixpath.dirname(name) or name
    return (name or store.name) if _is_aside(place) else None


def _is_aside(folder: Path) -> bool:
    place = folder.resolve()
    return (folder / PROGRESS_FILE).is_file() or place.suffix in (".tmp", ".former") or place.name == UNFINISHED


def _whole(store: StoredFile) -> tuple[str, Path]:
    """Return name and folder of the store that an LMDB is, or is a shard of."""
    name, place = posixpath.dirname(store.name), Path(store.place).parent
    if "/" in name and place.name.startswith("shard-") and is_store(place.parent):
        return posixpath.dirname(name), place.parent
    return name, place


def _stored(name: str, place: Path, *, several: bool) -> Iterator[Sample | LeftOut]:
    with LmdbReader(place) as reader:
        ours = _is_ours(reader)
        for index in range(len(reader)):
            key = f"{name}/{index + 1:09d}"
            try:
                sample = reader[index]
            except RECORD_FAULTS as error:
                yield LeftOut(key, "damaged record", shortened(error))
                continue
            if not ours:
                sample = replace(sample, text=clean_label(sample.text))
            if sample.key == f"image-{index + 1:09d}":
                yield _checked(sample, key)
            else:
                item = _checked(sample, sample.key)
                yield _named(item, name) if several else item


def _is_ours(reader: LmdbReader) -> bool:
    """Tell whether a store has a manifest, damaged or not: its labels are as an import left them."""
    try:
        return reader.manifest is not None
    except HangulOcrError:
        return True


def _checked(sample: Sample, key: str) -> Sample | LeftOut:
    if reason := label_fault(sample.text):
        return LeftOut(key, reason, shortened(sample.text))
    try:
        check_image(sample.image)
    except UnreadableImage as error:
        return LeftOut(key, "unreadable image", str(error))
    return Sample(key, sample.image, sample.text, sample.source, sample.group, sample.facts)


def _named(item: Sample | LeftOut, name: str) -> Sample | LeftOut:
    """Return an item of one of several sets, whose crops may have the same paths, with the set's name before its own.

    Groups get it too: photographs of one name are not the same.
    """
    key = f"{name}/{item.key.removeprefix('./')}"
    if isinstance(item, LeftOut):
        return LeftOut(key, item.reason, item.detail)
    group = f"{name}/{item.group}" if item.group else ""
    return Sample(key, item.image, item.text, item.source, group, item.facts)
