"""Sets that hold crops already: competitions and LMDBs."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hangul_ocr.data.archives import StoredFile, names_of, scan
from hangul_ocr.data.dacon import Competition, ImageFiles, find_competition, read_competition
from hangul_ocr.data.images import UnreadableImage, check_image
from hangul_ocr.data.lmdb_store import DATA_FILE, MANIFEST_FILE, RECORD_FAULTS, LmdbReader, is_store
from hangul_ocr.data.lmdb_writer import PROGRESS_FILE, UNFINISHED
from hangul_ocr.data.planning import ImportSettings, Planned, WholeImage, shrunk_if_asked
from hangul_ocr.data.sample import LeftOut, Sample, clean_label, label_fault, shortened
from hangul_ocr.hangul import HangulOcrError

_FINISH = "run the import that writes it again"
# Rows of an LMDB in one piece of work: about as many crops as a photograph has.
_ROWS = 8


def plan_dacon(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the training crops of competitions as work, which comes to what :func:`dacon.train_samples` yields."""
    several = len(paths) > 1
    for path, name in zip(paths, names_of(paths), strict=True):
        competition = read_competition(find_competition(path))
        yield from _rows(competition, name if several else "")


def _rows(competition: Competition, name: str) -> Iterator[Planned]:
    """Yield each row of train.csv; ``name`` is empty but for one of several competitions."""
    files = ImageFiles(competition.folder)
    for row in competition.train.to_dict("records"):
        path, text, source, group = (row.pop(column, "") for column in ("img_path", "text", "source", "group"))
        key, group = _named(path, group, name)
        file = files.find(path)
        if file is None:
            reason = label_fault(text)
            yield LeftOut(key, reason or "missing image", shortened(text) if reason else "")
        else:
            yield WholeImage(StoredFile(key, str(file)), key, text, source or competition.name, group, row)


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
        yield from _stored(name, place, several=len(whole) > 1)


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


def _stored(name: str, place: Path, *, several: bool) -> Iterator[StoredCrops]:
    reader = LmdbReader(place.absolute())
    mark = DATA_FILE if (place / DATA_FILE).is_file() else MANIFEST_FILE
    file, ours = StoredFile(f"{name}/{mark}", str(place / mark)), _is_ours(reader)
    for start in range(0, len(reader), _ROWS):
        yield StoredCrops(reader, file, name, range(start, min(start + _ROWS, len(reader))), ours, several)


@dataclass(frozen=True)
class StoredCrops:
    """Some ``rows`` of the LMDB ``name``, which is one of ``several``, and perhaps one of ``ours``."""

    # Workers share it: threads may not open one LMDB at the same time. It says nothing of the state of the files.
    reader: LmdbReader = field(repr=False)
    file: StoredFile
    name: str
    rows: range
    ours: bool
    several: bool

    def samples(self, settings: ImportSettings) -> Iterator[Sample | LeftOut]:
        """Yield each row as a sample, or why it is left out: ``damaged record``, ``unreadable image``, its label."""
        for index in self.rows:
            yield self._crop(index, settings)

    def _crop(self, index: int, settings: ImportSettings) -> Sample | LeftOut:
        key = f"{self.name}/{index + 1:09d}"
        try:
            sample = self.reader[index]
        except RECORD_FAULTS as error:
            return LeftOut(key, "damaged record", shortened(error))
        text, group = sample.text if self.ours else clean_label(sample.text), sample.group
        if sample.key != f"image-{index + 1:09d}":
            key, group = _named(sample.key, group, self.name if self.several else "")
        if reason := settings.fault(key, text):
            return LeftOut(key, reason, shortened(text))
        try:
            check_image(sample.image)
        except UnreadableImage as error:
            return LeftOut(key, "unreadable image", str(error))
        return shrunk_if_asked(replace(sample, key=key, text=text, group=group), settings)


def _is_ours(reader: LmdbReader) -> bool:
    """Tell whether a store has a manifest, damaged or not: its labels are as an import left them."""
    try:
        return reader.manifest is not None
    except HangulOcrError:
        return True


def _named(key: str, group: str, name: str) -> tuple[str, str]:
    """Return a crop's key and group with the set's ``name`` before them, if it is one of several.

    Their crops may have the same paths, and photographs of one name are not the same.
    """
    if not name:
        return key, group
    return f"{name}/{key.removeprefix('./')}", f"{name}/{group}" if group else ""
