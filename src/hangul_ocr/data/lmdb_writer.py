"""Writes the stores that :mod:`lmdb_store` reads: one process writes, in the order of the data set, whoever decodes.

Every commit holds whole steps of the work and how far it is, so a process that is killed at any moment leaves a store
that the next one goes on with. A store under construction lies aside and is renamed when it is complete.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from hangul_ocr.data.corrections import DROP, DROPPED, OUTDATED, RELABEL, Applied, Correction, Corrections
from hangul_ocr.data.dacon import canonical_path
from hangul_ocr.data.images import UnreadableImage, image_size
from hangul_ocr.data.lmdb_store import (
    DATA_FILE,
    FORMAT_VERSION,
    LEFT_OUT_FILE,
    MANIFEST_FILE,
    RESERVED,
    Manifest,
    is_store,
    read_manifest,
    read_manifest_file,
    shard_folders,
)
from hangul_ocr.data.sample import LeftOut, Sample, label_fault, shortened
from hangul_ocr.data.tables import FULL_DISK
from hangul_ocr.hangul import Alphabet, HangulOcrError, normalise
from hangul_ocr.workspace import atomic_write_text

UNFINISHED = "unfinished"
_FIRST_MAP = 1 << 24
# A map that doubles for ever would cost half a disk on Windows, where the file has the map's size.
_LARGEST_GROWTH = 1 << 30
_BATCH_BYTES = 1 << 23
_LONGEST_CELL = 1000
PROGRESS_FILE, _LOCK = "progress.json", "lock"
# What a store holds, whole, unfinished or half written when its process was killed, and what file managers leave there.
_OWN_NAME = re.compile(
    r"lock|lock\.mdb|data\.mdb|left_out\.csv|progress\.json|manifest\.json|shard-\d+-of-\d+"
    r"|\.(progress|manifest)\.json\..*\.tmp|\.DS_Store|Thumbs\.db|desktop\.ini"
)


class Record(NamedTuple):
    """A sample as it is stored: ``label`` in UTF-8, ``meta`` as JSON."""

    key: str
    label: bytes
    image: bytes
    meta: bytes


class Outdated(Exception):
    """An unfinished store that does not fit what is to be written; the message is the reason."""


@dataclass
class Progress:
    """How far a store is: steps of the work done and a hash of what they were, and what came of them."""

    settings: str
    steps: int = 0
    plan: str = ""
    read: int = 0
    kept: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    left_out_bytes: int = 0
    corrected: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the progress as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_file(cls, path: Path) -> Progress:
        """Read what :meth:`to_json` wrote. Raises ``Outdated`` for anything else."""
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError):
            raise Outdated("how far it was cannot be read") from None

    def step(self, planned: str) -> None:
        """Count one more step, described by ``planned``."""
        self.steps += 1
        self.plan = hashlib.sha256(f"{self.plan}{planned}".encode("utf-8", "backslashreplace")).hexdigest()


def write_lmdb(
    path: Path,
    items: Iterable[Sample | LeftOut],
    *,
    alphabet: Alphabet | None,
    settings: dict[str, Any],
    total: int | None = None,
    shards: int = 1,
    corrections: Corrections | None = None,
) -> Manifest:
    """Write ``items`` as the LMDB folder ``path``, or as several in it, and return the manifest.

    A sample is left out, and named in ``left_out.csv``, if its text holds a character outside ``alphabet`` (where one
    is given), if its key came before, or if its image has no readable header. All is written aside and renamed when
    complete, so a former store stays until then. ``corrections`` drop samples or label them anew on the way. Raises
    ``HangulOcrError`` if the disk is full, if nothing is kept, or if ``path`` holds something else.
    """
    path = Path(path).absolute()  # "." has no name to put a store beside
    refuse_foreign(path)
    aside = place_aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with explained(path), opened_store(aside, shards, settings, corrections) as store:
            for item in tqdm(items, desc=f"write {path.name}", total=total, unit="crop"):
                store.take(as_record(item, alphabet))
                store.step_done("")
            manifest = store.finish(path)
        with explained(path):
            put_in_place(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def as_record(item: Sample | LeftOut, alphabet: Alphabet | None = None) -> Record | LeftOut:
    """Return ``item`` as it is stored, its size among its facts and its text in NFC, or why it cannot be."""
    if isinstance(item, LeftOut):
        return item
    text = normalise(item.text)
    outside = alphabet.missing(text) if alphabet is not None else set()
    if outside:
        return LeftOut(item.key, "character outside the alphabet", f"{''.join(sorted(outside))} in {text}")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        return LeftOut(item.key, "label is no valid Unicode", ascii(text))
    try:
        width, height = image_size(item.image)
    except UnreadableImage as error:
        return LeftOut(item.key, "unreadable image", str(error))
    facts = {f"fact_{name}" if name in RESERVED else name: value for name, value in item.facts.items()}
    meta = {**facts, "width": width, "height": height, "key": item.key, "source": item.source, "group": item.group}
    return Record(item.key, text.encode("utf-8"), item.image, json.dumps(meta, default=_plain).encode("ascii"))


def corrected(record: Record, correction: Correction) -> tuple[str, Record | LeftOut]:
    """Return what a correction does (``drop``, ``relabel``, or ``outdated``: nothing) and the record after it.

    A label that only a correction could have saved leaves the record out if that is not made. A new label keeps the
    former one among its facts, as ``label_was``, and loses the places of its characters.
    """
    text = record.label.decode("utf-8")
    if not correction.fits(text):
        fault = label_fault(text)
        return OUTDATED, LeftOut(record.key, fault, shortened(text)) if fault else record
    if correction.text is None:
        return DROP, LeftOut(record.key, DROPPED, shortened(text))
    meta = {name: value for name, value in json.loads(record.meta).items() if name != "centres"}
    meta["label_was"] = text
    return RELABEL, record._replace(label=correction.text.encode("utf-8"), meta=json.dumps(meta).encode("ascii"))


def with_corrections(settings: dict[str, Any], corrections: Corrections | None) -> dict[str, Any]:
    """Return a store's settings with what its labels are corrected by, so that other corrections make another store."""
    return settings if corrections is None else settings | {"corrections": corrections.sha256}


class ContentHash:
    """SHA-256 over key, label and image of samples in order, and another over their meta."""

    def __init__(self) -> None:
        self._content, self._meta = hashlib.sha256(), hashlib.sha256()

    def add(self, key: str, label: bytes, image: bytes, meta: bytes) -> None:
        """Add a sample; ``meta`` is what is stored under that name."""
        name = key.encode("utf-8", "backslashreplace")
        for digest, part in ((self._content, name), (self._content, label), (self._content, image), (self._meta, meta)):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)

    def value(self) -> str:
        """Return the hash of the content that was added so far."""
        return self._content.hexdigest()

    def meta_value(self) -> str:
        """Return the hash of the meta that was added so far."""
        return self._meta.hexdigest()


class StoreWriter:
    """A store under construction in a folder of its own; :func:`opened_store` makes one.

    ``progress`` says how far it is, pending records included; ``is_committed`` whether any of it is on the disk.
    """

    def __init__(
        self, folder: Path, settings: str, environments: list[lmdb.Environment], corrections: Corrections | None = None
    ) -> None:
        self.folder, self.progress = folder, Progress(settings)
        self._environments, self._corrections = environments, corrections
        self._hash, self._keys = ContentHash(), set[str]()
        self._first_left_out: LeftOut | None = None
        self.is_committed = False
        self._forget_pending()

    def take(self, item: Record | LeftOut) -> None:
        """Add one record, or count and name why it is left out; a key that came before is left out."""
        self.progress.read += 1
        if isinstance(item, Record) and item.key in self._keys:
            item = LeftOut(item.key, "duplicate key")
        elif isinstance(item, Record) and self._corrections is not None:
            item = self._corrected(item, self._corrections.of(item.key))
        if isinstance(item, LeftOut):
            self._leave_out(item)
        else:
            self._put(item)

    def step_done(self, planned: str) -> None:
        """Say that all of one step of the work, described by ``planned``, was taken; a kill later costs none of it."""
        self.progress.step(planned)
        if self._pending_bytes >= _BATCH_BYTES:
            self.commit()

    def commit(self) -> None:
        """Write what is pending, and last of all how far that is."""
        for shard, environment in enumerate(self._environments):
            # A count at every commit makes an unfinished store one that can be looked into.
            _commit(environment, [*self._puts[shard], (b"num-samples", b"%d" % self._count(shard))])
        self._append_left_out()
        atomic_write_text(self.folder / PROGRESS_FILE, self.progress.to_json())
        self._forget_pending()
        self.is_committed = True

    def resume(self) -> None:
        """Go on with what lies in the folder, if anything does. Raises ``Outdated`` if it is no part of this work."""
        if (self.folder / PROGRESS_FILE).exists():
            self._resume(Progress.from_file(self.folder / PROGRESS_FILE))
        for shard, environment in enumerate(self._environments):
            _cut_off(environment, self._count(shard))

    def finish(self, name: Path) -> Manifest:
        """Commit the rest and the manifest. Raises ``HangulOcrError``, which calls the store ``name``, for no crops."""
        progress, shards = self.progress, len(self._environments)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        facts = (progress.read, progress.kept, progress.left_out, json.loads(progress.settings)["settings"])
        applied = Applied.of(self._corrections, progress.corrected).to_dict() if self._corrections else {}
        hashes = {"content_hash": self._hash.value(), "meta_hash": self._hash.meta_value()}
        manifest = Manifest(*facts, created=created, shards=shards, corrections=applied, **hashes)
        if not progress.kept:
            raise _nothing_kept(name, manifest, self._first_left_out)
        self.commit()
        if shards > 1:
            atomic_write_text(self.folder / MANIFEST_FILE, manifest.to_json() + "\n")
        else:
            _commit(self._environments[0], [(b"manifest", manifest.to_json().encode())])
        return manifest

    def _corrected(self, record: Record, correction: Correction | None) -> Record | LeftOut:
        if correction is None:
            return record
        what, item = corrected(record, correction)
        self.progress.corrected[canonical_path(record.key)] = what
        return item

    def _count(self, shard: int) -> int:
        return len(range(shard, self.progress.kept, len(self._environments)))

    def _resume(self, progress: Progress) -> None:
        if progress.settings != self.progress.settings:
            raise Outdated("it was begun with other settings")
        if progress.left_out_bytes and not (self.folder / LEFT_OUT_FILE).exists():
            raise Outdated(f"its {LEFT_OUT_FILE} is gone")
        try:
            for index in tqdm(range(progress.kept), desc="go on: read what is written", unit="crop"):
                self._remember(index)
        except (lmdb.Error, ValueError, KeyError, TypeError):
            raise Outdated("it is damaged") from None
        self.progress, self.is_committed = progress, True

    def _put(self, record: Record) -> None:
        number, shard = divmod(self.progress.kept, len(self._environments))
        self.progress.kept += 1
        self._keys.add(record.key)
        self._hash.add(record.key, record.label, record.image, record.meta)
        for kind, value in ((b"image", record.image), (b"label", record.label), (b"meta", record.meta)):
            self._puts[shard].append((b"%s-%09d" % (kind, number + 1), value))
            self._pending_bytes += len(value)

    def _leave_out(self, record: LeftOut) -> None:
        # Cells that are too long make a table that csv refuses to read.
        record = LeftOut(shortened(record.key, _LONGEST_CELL), record.reason, shortened(record.detail, _LONGEST_CELL))
        counts = self.progress.left_out
        counts[record.reason] = counts.get(record.reason, 0) + 1
        self._first_left_out = self._first_left_out or record
        # A bare carriage return, which csv does not quote, would end the line for those who read it.
        self._lines.writerow([part.replace("\r", "\\r") for part in (record.key, record.reason, record.detail)])
        self._pending_bytes += len(record.key) + len(record.reason) + len(record.detail)

    def _append_left_out(self) -> None:
        """Append to left_out.csv from where the last commit left it, whatever a killed process wrote behind that."""
        header = "" if self.progress.left_out_bytes else "key,reason,detail\n"
        if not (header or self._text.tell()):
            return
        # A lone surrogate (a damaged label among those left out) must not cost the whole table.
        data = (header + self._text.getvalue()).encode("utf-8", "backslashreplace")
        with open(self.folder / LEFT_OUT_FILE, "r+b" if self.progress.left_out_bytes else "wb") as file:
            file.truncate(self.progress.left_out_bytes)
            file.seek(0, os.SEEK_END)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.progress.left_out_bytes += len(data)

    def _forget_pending(self) -> None:
        self._puts: list[list[tuple[bytes, bytes]]] = [[] for _ in self._environments]
        self._text = io.StringIO(newline="")
        self._lines = csv.writer(self._text, lineterminator="\n")
        self._pending_bytes = 0

    def _remember(self, index: int) -> None:
        """Read a record that was written before: its key and its part of the hash."""
        number, shard = divmod(index, len(self._environments))
        with self._environments[shard].begin() as transaction:
            image, label, meta = (transaction.get(b"%s-%09d" % (k, number + 1)) for k in (b"image", b"label", b"meta"))
        if image is None or label is None or meta is None:
            raise Outdated("records of it are gone")
        key = json.loads(meta)["key"]
        self._keys.add(key)
        self._hash.add(key, label, image, meta)


@contextmanager
def opened_store(
    folder: Path, shards: int, settings: dict[str, Any], corrections: Corrections | None = None
) -> Iterator[StoreWriter]:
    """Open the store under construction in ``folder``, with all that was committed before, or begin one.

    ``settings`` are the manifest's, to which those of ``corrections`` are added. Raises ``Outdated`` if another store
    was begun there, ``HangulOcrError`` if another process writes there.
    """
    settings = with_corrections(settings, corrections)
    described = json.dumps({"settings": settings, "shards": shards, "version": FORMAT_VERSION}, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder), ExitStack() as stack:
        parts = shard_folders(folder, shards)
        environments = [stack.enter_context(_opened(part)) for part in parts]
        store = StoreWriter(folder, described, environments, corrections)
        store.resume()
        yield store


def completed(aside: Path, shards: int, settings: dict[str, Any]) -> Manifest | None:
    """Return the manifest of a store that is complete in ``aside`` but not yet in its place; None if there is none."""
    try:
        if shards > 1:
            manifest = read_manifest_file(aside) if (aside / MANIFEST_FILE).is_file() else None
        else:
            manifest = read_manifest(aside)
    except HangulOcrError:
        return None
    fits = manifest is not None and (manifest.shards, manifest.version) == (shards, FORMAT_VERSION)
    return manifest if fits and manifest.settings == json.loads(json.dumps(settings)) else None


def refuse_foreign(path: Path) -> None:
    """Raise ``HangulOcrError`` if ``path`` holds what is no store: a mistyped path must not cost anybody a folder.

    So it does if what is needed beside ``path`` while it is written holds anything of somebody else's.
    """
    if path.exists() and not _may_be_replaced(path):
        raise HangulOcrError(f"{path}: exists and is no LMDB folder; name another path or remove it")
    aside = place_aside(path)
    for folder in [aside] if aside.parent == path else [aside, _place_of_former(path)]:
        if foreign := _foreign(folder):
            raise HangulOcrError(
                f"{folder}: holds {foreign} and would be replaced while {path.name} is written; move it away or name "
                "another path"
            )


def _may_be_replaced(path: Path) -> bool:
    """Tell whether ``path`` is a store, one half moved to its place, or an empty folder."""
    if is_store(path) or (path / UNFINISHED / MANIFEST_FILE).is_file():
        return True
    return path.is_dir() and not {entry.name for entry in path.iterdir()} - {UNFINISHED, "lost+found"}


def _foreign(folder: Path) -> str:
    """Return the name of something in ``folder`` that no store holds; empty if there is nothing of the kind."""
    if not os.path.lexists(folder):
        return ""
    if not folder.is_dir():
        return "a file"
    return next((entry.name for entry in sorted(folder.iterdir()) if not _OWN_NAME.fullmatch(entry.name)), "")


def place_aside(path: Path) -> Path:
    """Return where the store ``path`` is built: beside it, or in it if it cannot be renamed, being a mounted folder."""
    fixed = path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK))
    return path / UNFINISHED if fixed else path.with_name(path.name + ".tmp")


def _place_of_former(path: Path) -> Path:
    """Return where a store is moved to before the new one takes its place."""
    return path.with_name(path.name + ".former")


def put_in_place(aside: Path, path: Path) -> None:
    """Make the complete store in ``aside`` the one at ``path``; a kill leaves what a second call goes on with."""
    for name in (PROGRESS_FILE, _LOCK):
        (aside / name).unlink(missing_ok=True)
    if aside.parent == path:
        _move_up(aside, path)
        return
    former = _place_of_former(path)
    shutil.rmtree(former, ignore_errors=True)
    if path.exists():
        os.replace(path, former)
    os.replace(aside, path)
    shutil.rmtree(former, ignore_errors=True)


def _move_up(aside: Path, path: Path) -> None:
    """Move a complete store's files into the folder above; what makes it one, data.mdb or the manifest, comes last."""
    mark, parts = DATA_FILE, []
    if (aside / MANIFEST_FILE).is_file():
        mark, parts = MANIFEST_FILE, [part.name for part in shard_folders(aside, read_manifest_file(aside).shards)]
        (path / DATA_FILE).unlink(missing_ok=True)
    (path / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.copyfile(aside / LEFT_OUT_FILE, path / LEFT_OUT_FILE)
    for former in path.glob("shard-*"):
        if former.name not in parts or (aside / former.name).exists():
            shutil.rmtree(former)
    for part in parts:
        if (aside / part).exists():
            os.replace(aside / part, path / part)
    os.replace(aside / mark, path / mark)
    shutil.rmtree(aside)


@contextmanager
def explained(path: Path, advice: str = "run this step again") -> Iterator[None]:
    """Turn a failed write of the store ``path`` into a ``HangulOcrError`` of one line that ends with ``advice``."""
    try:
        yield
    except lmdb.Error as error:
        raise _explained(path, error, advice) from error
    except OSError as error:
        if not str(error.filename or path).startswith(str(path)):
            raise  # The importer's own trouble with another file.
        raise _explained(path, error, advice) from error


def _explained(path: Path, error: OSError | lmdb.Error, advice: str) -> HangulOcrError:
    """LMDB reports a page that could not be written as an input/output error."""
    text = str(error)
    full = isinstance(error, OSError) and error.errno in FULL_DISK
    signs = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)
    if full or (isinstance(error, lmdb.Error) and any(os.strerror(sign) in text for sign in signs)):
        return HangulOcrError(f"{path}: the disk is full or failing ({text}); make room and {advice}")
    return HangulOcrError(f"{path}: cannot be written ({text}); check the folder and {advice}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into ``folder``, as far as its disk knows of locks."""
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout:
        raise HangulOcrError(f"{folder}: another process is writing there; wait for it or end it") from None


def _opened(folder: Path) -> lmdb.Environment:
    folder.mkdir(exist_ok=True)
    try:
        # The folder has a lock of its own, and LMDB's would be left for read-only disks to trip over.
        environment = lmdb.open(str(folder), map_size=_FIRST_MAP, lock=False, meminit=False)
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError):
        raise Outdated("it is damaged") from None
    if os.path.getsize(folder / DATA_FILE) < _size(environment):
        environment.close()
        raise Outdated("it is cut short")
    return environment


def _size(environment: lmdb.Environment) -> int:
    """Return how many bytes an LMDB's file should have: touching a page that is not there ends the whole process."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def _commit(environment: lmdb.Environment, puts: list[tuple[bytes, bytes]]) -> None:
    """Write ``puts`` in one transaction."""

    def put(transaction: lmdb.Transaction) -> None:
        for key, value in puts:
            transaction.put(key, value)

    _change(environment, put)


def _cut_off(environment: lmdb.Environment, count: int) -> None:
    """Remove the records beyond the first ``count``, of a commit that did not come to its end."""

    def delete(transaction: lmdb.Transaction) -> None:
        number = count + 1
        while any([transaction.delete(b"%s-%09d" % (kind, number)) for kind in (b"image", b"label", b"meta")]):
            number += 1

    _change(environment, delete)


def _change(environment: lmdb.Environment, change: Callable[[lmdb.Transaction], None]) -> None:
    """Do ``change`` in one transaction; LMDB wants the map's size beforehand, so let it grow until the change fits."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                change(transaction)
            break
        except lmdb.MapFullError:
            size = environment.info()["map_size"]
            environment.set_mapsize(size + min(size, _LARGEST_GROWTH))
    # Pages at the end that are free were perhaps never written; readers take a file without them for cut short.
    file = os.path.join(environment.path(), DATA_FILE)
    if os.path.getsize(file) < _size(environment):
        os.truncate(file, _size(environment))


def _plain(value: Any) -> Any:
    """Return a NumPy array or scalar among the facts as JSON can write it."""
    return value.tolist()


def _nothing_kept(path: Path, manifest: Manifest, first: LeftOut | None) -> HangulOcrError:
    example = f"; the first: {first.key}: {first.reason} {first.detail}".rstrip() if first else ""
    return HangulOcrError(
        f"{path}: no sample could be stored ({manifest.summary()}{example}); check the data set's folder"
    )
