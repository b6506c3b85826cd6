"""The LMDB that training reads: readable by clovaai's tools, and by many workers at once.

Keys count from 1: ``num-samples``, ``image-%09d`` (encoded bytes), ``label-%09d`` (UTF-8), as in
clovaai/deep-text-recognition-benchmark; ours add ``meta-%09d`` (JSON: ``key``, ``source``, ``group`` and the sample's
facts, ``width`` and ``height`` always among them) and ``manifest``. ``left_out.csv`` beside them names what was not
taken.

A store may be cut into shards: folders ``shard-000-of-004`` ..., each such an LMDB, among which the samples are dealt
in turn, and ``manifest.json`` beside them instead of the key. :class:`LmdbReader` reads either.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import lmdb

from hangul_ocr.data.sample import Sample, first_of
from hangul_ocr.hangul import HangulOcrError, normalise

FORMAT_VERSION = 1
DATA_FILE, MANIFEST_FILE, LEFT_OUT_FILE = "data.mdb", "manifest.json", "left_out.csv"
# What a sample's meta holds beside its facts.
RESERVED = ("key", "source", "group")
#: What reading one record of a foreign or damaged store may raise.
RECORD_FAULTS = (HangulOcrError, lmdb.Error, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Manifest:
    """What a store holds: records ``read`` from the importer, ``kept``, and ``left_out`` by reason.

    ``content_hash`` is the SHA-256 over key, label and image of every sample in order, however many ``shards`` they lie
    in; ``settings`` is the caller's description of how the store came about, which :func:`matches` compares.
    ``corrections`` says what became of corrections of its labels (:class:`corrections.Applied`), where there were any.
    ``meta_hash`` is the SHA-256 over every sample's meta in order; stores of former versions have none.
    """

    read: int
    kept: int
    left_out: dict[str, int]
    settings: dict[str, Any]
    content_hash: str
    created: str = ""
    version: int = FORMAT_VERSION
    shards: int = 1
    corrections: dict[str, Any] = field(default_factory=dict)
    meta_hash: str = ""

    def to_json(self) -> str:
        """Return the manifest as JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Rebuild a manifest from :meth:`to_json`'s text. Raises ``ValueError`` for anything else."""
        try:
            return cls(**json.loads(text))
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from None

    def summary(self) -> str:
        """Return one line for people: ``12,127 of 12,159 kept; left out: 32 placeholder label``."""
        line = f"{self.kept:,} of {self.read:,} kept"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{line}; left out: {reasons}" if reasons else line


def is_store(path: Path) -> bool:
    """Tell whether a store, whole or damaged, lies at ``path``."""
    return (path / DATA_FILE).is_file() or (path / MANIFEST_FILE).is_file()


def shard_folders(path: Path, shards: int) -> list[Path]:
    """Return the folders of the LMDBs of a store: ``path`` itself if there is one only."""
    if shards == 1:
        return [path]
    return [path / f"shard-{number:03d}-of-{shards:03d}" for number in range(shards)]


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of the store at ``path``; None if there is no store, or one without a manifest.

    Raises ``HangulOcrError`` if the store is damaged.
    """
    if not is_store(path):
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
        self.folders = _folders(self.path)
        self._handles: list[_Handle | None] = [None] * len(self.folders)
        self._index: dict[str, int] | None = None
        counts = [self._count(shard) for shard in range(len(self.folders))]
        self._length = sum(counts)
        if counts != [len(range(shard, self._length, len(counts))) for shard in range(len(counts))]:
            raise HangulOcrError(f"{self.path}: its shards do not belong together ({counts}); write it again")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index`` (negative ones count from the end)."""
        index = self._within(index)
        meta = self._meta(index, self._value(index, b"meta"))
        facts = {name: value for name, value in meta.items() if name not in RESERVED}
        text = normalise(self._required(index, b"label").decode("utf-8"))
        return Sample(meta["key"], self._required(index, b"image"), text, meta["source"], meta["group"], facts)

    def __enter__(self) -> LmdbReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": [None] * len(self.folders), "_index": None}

    def close(self) -> None:
        """Let go of the files; the next use opens them again."""
        self._handles = [None] * len(self.folders)

    @property
    def manifest(self) -> Manifest | None:
        """What the store says about itself; None in a clovaai file."""
        if len(self.folders) > 1:
            return read_manifest_file(self.path)
        value = self._get(0, b"manifest")
        try:
            return None if value is None else Manifest.from_json(value.decode("utf-8"))
        except ValueError as error:
            raise _damaged_manifest(self.path, error) from None

    def image_bytes(self, index: int) -> bytes:
        """Return the encoded image of sample ``index``."""
        return self._required(self._within(index), b"image")

    def meta_bytes(self, index: int) -> bytes:
        """Return what is stored as a sample's meta; nothing in a clovaai file."""
        return self._value(self._within(index), b"meta") or b""

    def keys(self) -> list[str]:
        """Return every sample's key, in order, without reading an image."""
        return [meta["key"] for meta in self.metas()]

    def texts(self) -> list[str]:
        """Return every sample's text, in order, without reading an image; "" for one that is damaged.

        Reading that sample itself says what is wrong with it. Raises ``HangulOcrError`` if one is missing.
        """
        return [_text(value) for value in self._all(b"label", required=True)]

    def metas(self) -> list[dict[str, Any]]:
        """Return ``key``, ``source``, ``group`` and the facts of every sample, in order, without reading an image.

        A damaged one is as that of a clovaai file, which has none; reading that sample itself says what is wrong.
        """
        return [self._meta_or_defaults(index, value) for index, value in enumerate(self._all(b"meta"))]

    def index_of(self, key: str) -> int:
        """Return the number of the sample with this key. Raises ``KeyError`` if there is none."""
        if self._index is None:
            self._index = {name: index for index, name in enumerate(self.keys())}
        return self._index[key]

    def _within(self, index: int) -> int:
        if not -self._length <= index < self._length:
            raise IndexError(f"sample {index} of {self._length}")
        return index % self._length

    def _place(self, index: int, kind: bytes) -> tuple[int, bytes]:
        """Return the shard that holds a sample and its key there: samples are dealt among the shards in turn."""
        number, shard = divmod(index, len(self.folders))
        return shard, b"%s-%09d" % (kind, number + 1)

    def _count(self, shard: int) -> int:
        with self._transaction(shard) as transaction:
            entries = transaction.stat()["entries"]
        return _as_count(self.folders[shard], self._get(shard, b"num-samples"), entries)

    def _get(self, shard: int, name: bytes) -> bytes | None:
        with self._transaction(shard) as transaction:
            return self._read(transaction, shard, name)

    def _read(self, transaction: lmdb.Transaction, shard: int, name: bytes) -> bytes | None:
        try:
            return transaction.get(name)
        except lmdb.Error as error:
            place = f"{self.folders[shard]}: {name.decode()}"
            raise HangulOcrError(f"{place}: the LMDB is damaged ({error}); copy or write it again") from None

    def _value(self, index: int, kind: bytes) -> bytes | None:
        return self._get(*self._place(index, kind))

    def _required(self, index: int, kind: bytes) -> bytes:
        value = self._value(index, kind)
        return self._missing(index, kind) if value is None else bytes(value)

    def _missing(self, index: int, kind: bytes) -> NoReturn:
        shard, name = self._place(index, kind)
        place = f"{self.folders[shard]}: {name.decode()}"
        raise HangulOcrError(f"{place} is missing; the LMDB is incomplete, write it again")

    def _all(self, kind: bytes, required: bool = False) -> Iterator[bytes | None]:
        with ExitStack() as stack:
            transactions = [stack.enter_context(self._transaction(shard)) for shard in range(len(self.folders))]
            for index in range(self._length):
                shard, name = self._place(index, kind)
                value = self._read(transactions[shard], shard, name)
                if value is None and required:
                    self._missing(index, kind)
                yield value

    def _transaction(self, shard: int) -> lmdb.Transaction:
        handle = self._handles[shard]
        if handle is None or handle.process != os.getpid():
            handle = self._handles[shard] = _open_shared(self.folders[shard])
        return handle.environment.begin(buffers=False)

    def _meta(self, index: int, value: bytes | None) -> dict[str, Any]:
        defaults = {"key": f"image-{index + 1:09d}", "source": self.path.name, "group": ""}
        return defaults if value is None else {**defaults, **self._parsed(index, value)}

    def _meta_or_defaults(self, index: int, value: bytes | None) -> dict[str, Any]:
        try:
            return self._meta(index, value)
        except HangulOcrError:
            return self._meta(index, None)

    def _parsed(self, index: int, value: bytes) -> dict[str, Any]:
        """Return a record's meta. Raises ``HangulOcrError`` if it is damaged or another tool's."""
        try:
            meta = json.loads(value)
        except (ValueError, RecursionError) as error:
            meta, reason = None, str(error)
        else:
            reason = "its key, source or group is no text"
        if isinstance(meta, dict) and all(isinstance(meta.get(name, ""), str) for name in RESERVED):
            return meta
        shard, name = self._place(index, b"meta")
        place = f"{self.folders[shard]}: {name.decode()}"
        raise HangulOcrError(f"{place} is damaged ({reason}); copy or write the LMDB again")


def _text(label: bytes) -> str:
    try:
        return normalise(label.decode("utf-8"))
    except UnicodeDecodeError:
        return ""


def _folders(path: Path) -> list[Path]:
    """Return the folders of the store's LMDBs."""
    if (path / DATA_FILE).is_file() or not (path / MANIFEST_FILE).is_file():
        return [path]
    return shard_folders(path, read_manifest_file(path).shards)


def read_manifest_file(path: Path) -> Manifest:
    """Return the manifest of a store of several shards. Raises ``HangulOcrError`` if it cannot be read."""
    try:
        return Manifest.from_json((path / MANIFEST_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged_manifest(path, error) from None


def _damaged_manifest(path: Path, error: Exception) -> HangulOcrError:
    return HangulOcrError(f"{path}: its manifest is damaged ({error}); remove the folder")


class _Handle:
    """One open LMDB of this process, closed when the last reader lets go of it."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self.environment, self.process = environment, os.getpid()


# LMDB refuses to open one file twice in a process, so readers of one file share a handle. The file's identity is part
# of the key: after a store was replaced, the same path is another file.
_open_handles: weakref.WeakValueDictionary[tuple[int, int], _Handle] = weakref.WeakValueDictionary()


#: Crops are decoded in several threads, and LMDB opens a file once in a process.
_opening = threading.Lock()


def _forget_inherited() -> None:
    """Close in a forked child what its parent had opened, so that the child can open it itself."""
    global _opening
    _opening = threading.Lock()  # another thread of the parent may have held it
    for handle in list(_open_handles.values()):
        handle.environment.close()
    _open_handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)


def _what_is_there(path: Path) -> str:
    """Say what lies at a path where a store was looked for, and what to name or do instead."""
    if path.name == DATA_FILE and path.is_file():
        return f"it is a store's file; name its folder, {path.parent}"
    if path.is_file():
        return f"it is a file; a store is the folder of a {DATA_FILE}"
    inside = _stores_below(path)
    if inside and all(store.name.startswith("shard-") and store.parent == path for store in inside):
        return f"its {MANIFEST_FILE} is gone; copy or write the store again"
    if inside:
        return f"it holds {len(inside)} of them: name {first_of(inside, 8)}"
    if path.is_dir():
        found = first_of(sorted(file.name for file in path.iterdir()), 8) or "nothing"
        there = f"it has no {DATA_FILE}; found {found}"
    else:
        there = "no such folder"
    return f"{there}; `hangul-ocr lmdb` and `hangul-ocr import` write stores"


def _stores_below(path: Path) -> list[Path]:
    """Return the stores up to two folders below ``path``, one of several shards as one."""
    found = [file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/{DATA_FILE}")]
    return sorted({folder.parent if _is_shard(folder) else folder for folder in found})


def _is_shard(folder: Path) -> bool:
    return folder.name.startswith("shard-") and (folder.parent / MANIFEST_FILE).is_file()


def _open_shared(path: Path) -> _Handle:
    file = path / DATA_FILE
    if not file.is_file():
        raise HangulOcrError(f"{path}: no LMDB there ({_what_is_there(path)})")
    status = file.stat()
    # Windows gives no inode before Python 3.12 in some file systems; the path's hash stands in.
    identity = (status.st_dev, status.st_ino or hash(file.resolve()))
    with _opening:
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


def _as_count(path: Path, value: bytes | None, entries: int) -> int:
    if value is None or not value.isdigit():
        raise HangulOcrError(f"{path}: an LMDB without num-samples, so not one of text crops; name another folder")
    # Python refuses to read numbers of thousands of digits.
    if len(value) > 18 or int(value) > entries:
        told = value[:18].decode()
        raise HangulOcrError(f"{path}: num-samples {told} for {entries:,} entries: damaged; copy or write it again")
    return int(value)
