"""The LMDB that training reads: written once and whole, readable by clovaai's tools and by many workers at once.

Keys count from 1: ``num-samples``, ``image-%09d`` (encoded bytes), ``label-%09d`` (UTF-8), as in
clovaai/deep-text-recognition-benchmark; ours add ``meta-%09d`` (JSON: ``key``, ``source``, ``group`` and the sample's
facts, ``width`` and ``height`` always among them) and ``manifest``. ``left_out.csv`` beside them names what was not
taken.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lmdb
import pandas as pd
from tqdm.auto import tqdm

from hangul_ocr.data.images import UnreadableImage, image_size
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.tables import FULL_DISK, write_table
from hangul_ocr.hangul import Alphabet, HangulOcrError, normalise

FORMAT_VERSION = 1
LEFT_OUT_FILE = "left_out.csv"
_DATA_FILE = "data.mdb"
_FIRST_MAP = 1 << 24
_BATCH_BYTES = 1 << 23
_RESERVED = ("key", "source", "group")


@dataclass(frozen=True)
class Manifest:
    """What a store holds: records ``read`` from the importer, ``kept``, and ``left_out`` by reason.

    ``content_hash`` is the SHA-256 over key, label and image of every sample in order; ``settings`` is the caller's
    description of how the store came about, which :func:`matches` compares.
    """

    read: int
    kept: int
    left_out: dict[str, int]
    settings: dict[str, Any]
    content_hash: str
    created: str = ""
    version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the manifest as JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Rebuild a manifest from :meth:`to_json`'s text. Raises ``ValueError`` for anything else."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def summary(self) -> str:
        """Return one line for people: ``12,127 of 12,159 kept; left out: 32 placeholder label``."""
        line = f"{self.kept:,} of {self.read:,} kept"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{line}; left out: {reasons}" if reasons else line


def write_lmdb(
    path: Path,
    items: Iterable[Sample | LeftOut],
    *,
    alphabet: Alphabet | None,
    settings: dict[str, Any],
    total: int | None = None,
) -> Manifest:
    """Write ``items`` as the LMDB folder ``path`` and return its manifest.

    A sample is left out, and named in ``left_out.csv``, if its text holds a character outside ``alphabet`` (where one
    is given), if its key came before, or if its image has no readable header. All is written into ``path`` + ``.tmp``
    and renamed when complete, so a former store stays until then. Raises ``HangulOcrError`` if the disk is full, if
    nothing is kept, or if ``path`` holds something else.
    """
    _refuse_foreign(path)
    aside = path.with_name(path.name + ".tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        manifest = _fill(aside, items, alphabet, settings, total, name=path)
        _put_in_place(aside, path)
    except lmdb.Error as error:
        raise _explained(path, error) from error
    except OSError as error:
        if not str(error.filename or path).startswith(str(path)):
            raise  # The importer's own trouble with another file.
        raise _explained(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of the store at ``path``; None if there is no store, or one without a manifest."""
    if not (path / _DATA_FILE).is_file():
        return None
    with LmdbReader(path) as reader:
        return reader.manifest


def matches(path: Path, settings: dict[str, Any]) -> bool:
    """Tell whether a complete store of this format, written with these ``settings``, lies at ``path``."""
    try:
        manifest = read_manifest(path)
    except HangulOcrError:
        return False
    if manifest is None or manifest.version != FORMAT_VERSION:
        return False
    return manifest.settings == json.loads(json.dumps(settings))


class LmdbReader:
    """The samples of an LMDB by number, from 0, in the order they were written.

    It also reads clovaai's own files, which have no ``meta``: a sample's key is then its image key. The file is opened
    at the first use in each process, so a reader may be copied to workers by fork or by pickle. Raises
    ``HangulOcrError`` if there is no whole LMDB at ``path``.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._handle: _Handle | None = None
        self._index: dict[str, int] | None = None
        self._length = _as_count(self.path, self._get(b"num-samples"))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index`` (negative ones count from the end)."""
        number = self._number(index)
        meta = self._meta(number, self._get(b"meta-%09d" % number))
        facts = {name: value for name, value in meta.items() if name not in _RESERVED}
        text = normalise(self._required(b"label-%09d" % number).decode("utf-8"))
        image = self._required(b"image-%09d" % number)
        return Sample(meta["key"], image, text, meta["source"], meta["group"], facts)

    def __enter__(self) -> LmdbReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_length": self._length, "_handle": None, "_index": None}

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self._handle = None

    @property
    def manifest(self) -> Manifest | None:
        """What the store says about itself; None in a clovaai file."""
        value = self._get(b"manifest")
        try:
            return None if value is None else Manifest.from_json(value.decode("utf-8"))
        except ValueError as error:
            raise HangulOcrError(f"{self.path}: its manifest is damaged ({error}); remove the folder") from None

    def image_bytes(self, index: int) -> bytes:
        """Return the encoded image of sample ``index``."""
        return self._required(b"image-%09d" % self._number(index))

    def keys(self) -> list[str]:
        """Return every sample's key, in order, without reading an image."""
        return [meta["key"] for meta in self.metas()]

    def texts(self) -> list[str]:
        """Return every sample's text, in order, without reading an image."""
        return [normalise(value.decode("utf-8")) for value in self._all(b"label-%09d", required=True)]

    def metas(self) -> list[dict[str, Any]]:
        """Return ``key``, ``source``, ``group`` and the facts of every sample, in order, without reading an image."""
        return [self._meta(number, value) for number, value in enumerate(self._all(b"meta-%09d"), start=1)]

    def index_of(self, key: str) -> int:
        """Return the number of the sample with this key. Raises ``KeyError`` if there is none."""
        if self._index is None:
            self._index = {name: index for index, name in enumerate(self.keys())}
        return self._index[key]

    def _number(self, index: int) -> int:
        if not -self._length <= index < self._length:
            raise IndexError(f"sample {index} of {self._length}")
        return index % self._length + 1

    def _get(self, name: bytes) -> bytes | None:
        with self._transaction() as transaction:
            return transaction.get(name)

    def _required(self, name: bytes) -> bytes:
        value = self._get(name)
        if value is None:
            raise HangulOcrError(f"{self.path}: {name.decode()} is missing; the LMDB is incomplete, write it again")
        return bytes(value)

    def _all(self, pattern: bytes, required: bool = False) -> Iterator[bytes | None]:
        with self._transaction() as transaction:
            for number in range(1, self._length + 1):
                value = transaction.get(pattern % number)
                if value is None and required:
                    self._required(pattern % number)
                yield value

    def _transaction(self) -> lmdb.Transaction:
        if self._handle is None or self._handle.process != os.getpid():
            self._handle = _open_shared(self.path)
        return self._handle.environment.begin(buffers=False)

    def _meta(self, number: int, value: bytes | None) -> dict[str, Any]:
        defaults = {"key": f"image-{number:09d}", "source": self.path.name, "group": ""}
        return defaults if value is None else {**defaults, **json.loads(value)}


@dataclass
class _Writer:
    """An LMDB under construction: gathers puts, and commits them in batches into a map that grows."""

    environment: lmdb.Environment
    pending: list[tuple[bytes, bytes]] = field(default_factory=list)
    pending_bytes: int = 0

    def put(self, key: bytes, value: bytes) -> None:
        self.pending.append((key, value))
        self.pending_bytes += len(value)
        if self.pending_bytes >= _BATCH_BYTES:
            self.commit()

    def commit(self) -> None:
        """Write what is pending; LMDB wants the map's size beforehand, so double it until the batch fits."""
        while True:
            try:
                with self.environment.begin(write=True) as transaction:
                    for key, value in self.pending:
                        transaction.put(key, value)
                break
            except lmdb.MapFullError:
                self.environment.set_mapsize(self.environment.info()["map_size"] * 2)
        self.pending.clear()
        self.pending_bytes = 0


@dataclass
class _Tally:
    """What has been read so far, and the hash of what was kept."""

    read: int = 0
    kept: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, sample: Sample) -> None:
        self.kept += 1
        self.keys.add(sample.key)
        for part in (sample.key.encode("utf-8", "backslashreplace"), sample.text.encode("utf-8"), sample.image):
            self.digest.update(len(part).to_bytes(8, "little") + part)

    def manifest(self, settings: dict[str, Any]) -> Manifest:
        reasons = Counter(record.reason for record in self.left_out)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return Manifest(self.read, self.kept, dict(reasons), settings, self.digest.hexdigest(), created)


def _fill(
    aside: Path,
    items: Iterable[Sample | LeftOut],
    alphabet: Alphabet | None,
    settings: dict[str, Any],
    total: int | None,
    name: Path,
) -> Manifest:
    """Write all of ``items`` and the manifest into the folder ``aside``; ``name`` is the store's in messages."""
    tally = _Tally()
    # Nobody else knows this folder yet, so no lock file is needed, and none is left for read-only disks to trip over.
    with lmdb.open(str(aside), map_size=_FIRST_MAP, lock=False, meminit=False) as environment:
        writer = _Writer(environment)
        for item in tqdm(items, desc=f"write {name.name}", total=total, unit="crop"):
            _take(item, alphabet, tally, writer)
        if not tally.kept:
            raise _nothing_kept(name, tally)
        manifest = tally.manifest(settings)
        writer.put(b"num-samples", b"%d" % tally.kept)
        writer.put(b"manifest", manifest.to_json().encode())
        writer.commit()
        environment.sync(True)
    rows = [(record.key, record.reason, record.detail) for record in tally.left_out]
    write_table(pd.DataFrame(rows, columns=["key", "reason", "detail"]), aside / LEFT_OUT_FILE)
    return manifest


def _take(item: Sample | LeftOut, alphabet: Alphabet | None, tally: _Tally, writer: _Writer) -> None:
    tally.read += 1
    checked = item if isinstance(item, LeftOut) else _checked(item, alphabet, tally.keys)
    if isinstance(checked, LeftOut):
        tally.left_out.append(checked)
        return
    tally.add(checked)
    facts = {f"fact_{name}" if name in _RESERVED else name: value for name, value in checked.facts.items()}
    meta = {**facts, "key": checked.key, "source": checked.source, "group": checked.group}
    writer.put(b"image-%09d" % tally.kept, checked.image)
    writer.put(b"label-%09d" % tally.kept, checked.text.encode("utf-8"))
    writer.put(b"meta-%09d" % tally.kept, json.dumps(meta, default=_plain).encode("ascii"))


def _checked(sample: Sample, alphabet: Alphabet | None, seen: set[str]) -> Sample | LeftOut:
    """Return ``sample`` with its size among its facts and its text in NFC, or why it cannot be stored."""
    if sample.key in seen:
        return LeftOut(sample.key, "duplicate key")
    text = normalise(sample.text)
    outside = alphabet.missing(text) if alphabet is not None else set()
    if outside:
        return LeftOut(sample.key, "character outside the alphabet", f"{''.join(sorted(outside))} in {text}")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        return LeftOut(sample.key, "label is no valid Unicode", ascii(text))
    try:
        width, height = image_size(sample.image)
    except UnreadableImage as error:
        return LeftOut(sample.key, "unreadable image", str(error))
    return dataclasses.replace(sample, text=text, facts={**sample.facts, "width": width, "height": height})


def _plain(value: Any) -> Any:
    """Return a NumPy array or scalar among the facts as JSON can write it."""
    return value.tolist()


def _nothing_kept(path: Path, tally: _Tally) -> HangulOcrError:
    summary = tally.manifest({}).summary()
    first = "".join(f"; the first: {r.key}: {r.reason} {r.detail}".rstrip() for r in tally.left_out[:1])
    return HangulOcrError(f"{path}: no sample could be stored ({summary}{first}); check the data set's folder")


def _refuse_foreign(path: Path) -> None:
    """Never replace what is not a store: a mistyped path must not cost anybody a folder."""
    if path.exists() and not (path / _DATA_FILE).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise HangulOcrError(f"{path}: exists and is no LMDB folder; name another path or remove it")


def _put_in_place(aside: Path, path: Path) -> None:
    former = path.with_name(path.name + ".former")
    shutil.rmtree(former, ignore_errors=True)
    if path.exists():
        os.replace(path, former)
    os.replace(aside, path)
    shutil.rmtree(former, ignore_errors=True)


def _explained(path: Path, error: OSError | lmdb.Error) -> HangulOcrError:
    """Turn a failed write into one line. LMDB reports a page that could not be written as an input/output error."""
    text = str(error)
    full = isinstance(error, OSError) and error.errno in FULL_DISK
    signs = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)
    if full or (isinstance(error, lmdb.Error) and any(os.strerror(sign) in text for sign in signs)):
        return HangulOcrError(f"{path}: the disk is full or failing ({text}); make room and run this step again")
    return HangulOcrError(f"{path}: cannot be written ({text}); check the folder and run this step again")


class _Handle:
    """One open LMDB of this process, closed when the last reader lets go of it."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self.environment, self.process = environment, os.getpid()


# LMDB refuses to open one file twice in a process, so readers of one file share a handle. The file's identity is part
# of the key: after a store was replaced, the same path is another file.
_open_handles: weakref.WeakValueDictionary[tuple[int, int], _Handle] = weakref.WeakValueDictionary()


def _forget_inherited() -> None:
    """Close in a forked child what its parent had opened, so that the child can open it itself."""
    for handle in list(_open_handles.values()):
        handle.environment.close()
    _open_handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)


def _open_shared(path: Path) -> _Handle:
    file = path / _DATA_FILE
    if not file.is_file():
        raise HangulOcrError(f"{path}: no LMDB there ({_DATA_FILE} is missing); write it with `hangul-ocr lmdb`")
    status = file.stat()
    # Windows gives no inode before Python 3.12 in some file systems; the path's hash stands in.
    identity = (status.st_dev, status.st_ino or hash(file.resolve()))
    handle = _open_handles.get(identity)
    if handle is None:
        handle = _open_handles[identity] = _Handle(_open_read_only(path, status.st_size))
    return handle


def _open_read_only(path: Path, size: int) -> lmdb.Environment:
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
        pages = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    except lmdb.Error as error:
        raise HangulOcrError(f"{path}: cannot be opened as an LMDB ({error}); write it again") from None
    if size < pages:
        # Touching a page that is not there ends the whole process with a bus error.
        environment.close()
        raise HangulOcrError(f"{path}: the LMDB is truncated ({size} of {pages} bytes); copy or write it again")
    return environment


def _as_count(path: Path, value: bytes | None) -> int:
    if value is None or not value.isdigit():
        raise HangulOcrError(f"{path}: an LMDB without num-samples, so not one of text crops; name another folder")
    return int(value)
