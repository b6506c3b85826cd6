"""Files of a data set where they lie: in folders, or in the zips of the download, which are read without unpacking.

Names are what everything is found by, so they come in one form: NFC, forward slashes. Korean zips spell theirs in cp949
without saying so; archives made on macOS in UTF-8, without saying so either.
"""

from __future__ import annotations

import codecs
import functools
import io
import itertools
import lzma
import os
import posixpath
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, AnyStr, BinaryIO

import numpy as np

from hangul_ocr.data.dacon import path_fault
from hangul_ocr.data.images import SUFFIXES
from hangul_ocr.data.sample import LeftOut
from hangul_ocr.hangul import HangulOcrError, decode_text, is_syllable, normalise

# The largest single file that is read whole; photographs and the label file of one photograph are far smaller.
MAX_FILE_BYTES = 1 << 28
_CHUNK = 1 << 16
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ENCRYPTED, _NAMED_IN_UTF8 = 0x1, 0x800
_FAILURES = (
    OSError,
    EOFError,
    RuntimeError,  # also what a compression that zipfile does not know raises
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class UnreadableFile(Exception):
    """A file that cannot be read whole; the message is the reason."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a folder or a zip, small enough to be kept by the million and sent to other processes.

    ``name`` is its path for people and tables and begins with the given folder's or zip's name. ``place`` is the file
    or the zip, ``member`` the zip's own spelling of the member, empty for a plain file.
    """

    name: str
    place: str
    member: str = ""

    def __reduce__(self) -> tuple[type[StoredFile], tuple[str, str, str]]:
        # Who gets it may stand in another folder.
        return StoredFile, (self.name, os.path.abspath(self.place), self.member)

    @property
    def suffix(self) -> str:
        """The suffix in lower case, with its dot."""
        return posixpath.splitext(self.name)[1].lower()

    @property
    def stem(self) -> str:
        """The name without folders and suffix."""
        return posixpath.splitext(posixpath.basename(self.name))[0]

    @property
    def path(self) -> str:
        """The name without its suffix."""
        return posixpath.splitext(self.name)[0]

    def state(self) -> str:
        """Return what tells it from what it was: of a zip's member size and checksum, else size and time of change."""
        try:
            if self.member:
                info = _archive(self.place).getinfo(self.member)
                return f"{info.file_size} {info.CRC}"
            status = os.stat(self.place)
        except (KeyError, *_FAILURES):
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns}"

    def read(self, limit: int = MAX_FILE_BYTES) -> bytes:
        """Return the content. Raises ``UnreadableFile``, for a file of more than ``limit`` bytes too."""
        with self.opened() as stream:
            try:
                data = stream.read(limit + 1)
            except _FAILURES as error:
                raise UnreadableFile(_reason(error)) from None
        if len(data) > limit:
            raise UnreadableFile(f"more than {limit:,} bytes (refused)")
        return data

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open for reading. Raises ``UnreadableFile`` if that fails; what fails later raises its own error."""
        try:
            stream = _archive(self.place).open(self.member) if self.member else io.FileIO(self.place)
        except (KeyError, *_FAILURES) as error:
            raise UnreadableFile(_reason(error)) from None
        with stream if self.member else io.BufferedReader(stream) as reader:
            yield reader


@dataclass
class Scan:
    """What lies below the given paths: ``files`` by name, and what could not be looked into."""

    paths: Sequence[Path]
    files: list[StoredFile] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def with_suffix(self, suffixes: Iterable[str]) -> list[StoredFile]:
        """Return the files whose suffix is among ``suffixes`` (in lower case, with dots)."""
        wanted = frozenset(suffixes)
        return [file for file in self.files if file.suffix in wanted]

    def images(self) -> list[StoredFile]:
        """Return the images."""
        return self.with_suffix(SUFFIXES)

    def others(self, suffixes: Iterable[str], what: str) -> Iterator[LeftOut]:
        """Yield as left out what is neither an image nor has one of ``suffixes``; ``what`` names those."""
        known = SUFFIXES | frozenset(suffixes)
        for file in self.files:
            if file.suffix not in known:
                yield LeftOut(file.name, "other file", f"neither an image nor {what}")

    def unknown_layout(self, looked_for: str, but: str = "") -> HangulOcrError:
        """Return the error for a layout that an importer does not know: what was looked for, and what was found.

        ``but`` says what is wrong with what was found.
        """
        places, wrong = ", ".join(map(str, self.paths)), f", but {but}" if but else ""
        return HangulOcrError(
            f"{places}: looked for {looked_for}; found {self._found()}{wrong}; check the path and the source"
        )

    def missing_half(self, suffix: str, labels: str, images: str) -> str:
        """Say which of the two halves of a set is not there, the labels (files of ``suffix``) or the images.

        ``labels`` and ``images`` say what each is called. Empty if there are both, or neither.
        """
        has_labels, has_images = bool(self.with_suffix({suffix})), bool(self.images())
        if has_labels == has_images:
            return ""
        return f"no image: name {images}, too" if has_labels else f"no {suffix}: name {labels}, too"

    def _found(self) -> str:
        counts = Counter(file.suffix or "no suffix" for file in self.files)
        kinds = [f"{count:,} {suffix}" for suffix, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:5]]
        reasons = Counter(record.reason for record in self.left_out)
        kinds += [f"{count:,} {reason}" for reason, count in reasons.most_common(3)]
        example = f" ({self.files[0].name} for one)" if self.files else ""
        return " ".join(f"{', '.join(kinds) or 'nothing'}{example}".split())


@dataclass
class FileIndex:
    """Files by stem, whatever folder they lie in; capital letters count only between files that are equally near."""

    files: Sequence[StoredFile]
    _by_stem: dict[str, list[StoredFile]] = field(default_factory=dict)
    _found: set[StoredFile] = field(default_factory=set)

    def __post_init__(self) -> None:
        for file in self.files:
            self._by_stem.setdefault(file.stem.casefold(), []).append(file)

    def find(
        self, name: str, near: str = "", folders: Sequence[str] = (), foreign: Sequence[str] = ()
    ) -> StoredFile | str:
        """Return the file called ``name`` (a suffix counts only between several), or the reason why there is none.

        One in a ``foreign`` folder is never meant, unless it lies in one of ``folders`` too. Of several, the one in one
        of ``folders`` is, then the one whose path shares most folders with ``near``; files with one content are one.
        The reasons are ``missing image`` and ``ambiguous image``.
        """
        best = self.nearest(name, near, folders, foreign)
        self._found.update(best)
        if len(best) > 1 and not same_content(best):
            return "ambiguous image"
        return best[0] if best else "missing image"

    def nearest(
        self, name: str, near: str = "", folders: Sequence[str] = (), foreign: Sequence[str] = ()
    ) -> list[StoredFile]:
        """Return the files that :meth:`find` chooses among, without counting them as used."""
        base = _base(name)
        found = [file for file in self._by_stem.get(stem_of(name), []) if not _is_foreign(file, folders, foreign)]
        same = [file for file in found if posixpath.basename(file.name).casefold() == base.casefold()]
        return _as_spelled(_nearest(same or found, near, folders), base)

    def unused(self) -> Iterator[StoredFile]:
        """Yield the files that were never among what was found, in the order of their names."""
        yield from (file for file in self.files if file not in self._found)


def scan(paths: Sequence[Path]) -> Scan:
    """Return the files below ``paths`` (folders, zips, or single files), those inside zips too, ordered by name.

    Left out are ``damaged archive``, ``unsafe name`` (a member that would leave the archive), ``encrypted file``,
    ``duplicate member`` and ``link``. Raises ``HangulOcrError`` for a path that is not there.
    """
    result = Scan(paths)
    for path, name in zip(paths, names_of(paths), strict=True):
        for item in _walk(Path(path), name):
            (result.files if isinstance(item, StoredFile) else result.left_out).append(item)
    result.files.sort(key=lambda file: (file.name, file.place))
    result.left_out.sort(key=lambda record: (record.key, record.reason))
    return result


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return what each path is called in names: its last part, or as many as it takes to tell them apart.

    Raises ``HangulOcrError`` for a path that is not there, and for one that is given twice.
    """
    full = [Path(path).expanduser().resolve() for path in paths]
    for path, place in zip(paths, full, strict=True):
        if not place.exists():
            raise HangulOcrError(f"{path}: not there; check the path")
    if len(set(full)) < len(full):
        raise HangulOcrError(f"{', '.join(map(str, paths))}: a path is given twice; name each once")
    parts = [[normalise(part) for part in path.parts[1:]] or ["root"] for path in full]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = [_without_zip("/".join(part[-depth:])) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


@contextmanager
def opened_as_utf8(file: StoredFile) -> Iterator[BinaryIO]:
    """Open a text file of any size; what is read is UTF-8 without a byte order mark, whatever the file is in.

    A byte that is damaged becomes U+FFFD. Raises ``UnreadableFile`` if the file cannot be opened or read.
    """
    encoding = "utf-8-sig" if not _fault_in_utf8(file) or is_mostly_utf8(_chunks(file)) else "cp949"
    with file.opened() as stream:
        yield _Recoded(stream, encoding)


def decode_damaged(data: bytes) -> str:
    """Return the text of bytes in UTF-8 or cp949; a byte that is damaged becomes U+FFFD."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig" if is_mostly_utf8([data]) else "cp949", "replace")
    return text.replace("\ufeff", "")


def is_mostly_utf8(chunks: Iterable[bytes]) -> bool:
    """Tell whether a text that is not all UTF-8 is damaged UTF-8, rather than in cp949, in which hardly anything is.

    Characters of three bytes, as Hangul has, outnumber the errors in the one and are all but missing in the other.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    errors = long = 0
    for data in itertools.chain(chunks, [b""]):
        text = decoder.decode(data, final=not data)
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        errors += text.count("\ufffd")
        long += int((codes >= 0x800).sum()) - text.count("\ufffd")
    return 0 < long >= errors


def decoded_lines(file: StoredFile, longest: int = 1 << 20) -> Iterator[tuple[int, str | None]]:
    """Yield the number and text of each line that is not blank; None for one in no encoding or beyond ``longest``.

    Files that were joined by hand hold several encodings: each line of a file that is not all UTF-8 is decoded for
    itself. One that is UTF-8 but for a character cut off at its end is not: half a syllable may be another in cp949.
    A file that begins with the mark of UTF-16 (Excel's "Unicode text") is all in that. Raises ``UnreadableFile`` if the
    file cannot be read.
    """
    decoded = _lines_in_utf16 if next(_chunks(file), b"").startswith(_UTF16_MARKS) else _lines_by_line
    for number, text in enumerate(decoded(file, longest), start=1):
        if text is None or text.strip():
            yield number, text


def decode_loose(data: bytes) -> str:
    """Return a short text in UTF-8 or cp949. Raises ``UnicodeDecodeError`` if it is in neither.

    Two syllables of cp949 can look like Latin letters with accents in UTF-8 (``카`` like ``ī``): where both would do,
    Hangul is meant.
    """
    text = decode_text(data)
    if text.isascii() or any(ord(character) >= 0x800 for character in text):
        return text
    try:
        korean = data.decode("cp949")
    except UnicodeDecodeError:
        return text
    return korean if any(map(is_syllable, korean)) else text


class _Recoded:
    """The least of a binary stream that a parser needs, decoded from ``encoding`` and encoded again as UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(self, size: int = -1) -> bytes:
        while True:
            data = self._stream.read(min(size, _CHUNK) if size > 0 else size)
            text = self._decoder.decode(data, final=not data)
            if text or not data:
                return text.encode("utf-8")


def _fault_in_utf8(file: StoredFile) -> str:
    """Return why a file is not all UTF-8: ``cut off`` (within its last character) or ``other``; empty if it is."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        for data in _chunks(file):
            decoder.decode(data)
    except UnicodeDecodeError:
        return "other"
    return "cut off" if decoder.getstate()[0] else ""


def _chunks(file: StoredFile) -> Iterator[bytes]:
    """Yield a file's bytes in pieces. Raises ``UnreadableFile``."""
    with file.opened() as stream:
        try:
            while data := stream.read(_CHUNK):
                yield data
        except _FAILURES as error:
            raise UnreadableFile(_reason(error)) from None


def _lines_in_utf16(file: StoredFile, longest: int) -> Iterator[str | None]:
    """Yield each line; what is damaged in it becomes U+FFFD."""
    with file.opened() as stream:
        for line in _raw_lines(io.TextIOWrapper(stream, "utf-16", "replace", newline="\n"), longest, "\n"):
            yield line if line is None else _tidy(line)


def _lines_by_line(file: StoredFile, longest: int) -> Iterator[str | None]:
    """Yield each line of a file in UTF-8, or decoded for itself."""
    fault = _fault_in_utf8(file)
    is_cut = fault == "cut off" and is_mostly_utf8(_chunks(file))
    decode = bytes.decode if is_cut or not fault else decode_loose
    with file.opened() as stream:
        for line in _raw_lines(stream, longest, b"\n"):
            yield line if line is None else _line_text(line, decode)


def _raw_lines(stream: IO[AnyStr], longest: int, end: AnyStr) -> Iterator[AnyStr | None]:
    """Yield each line, None for one that is too long, which is skipped without being kept."""
    while line := stream.readline(longest + 1):
        if len(line) > longest and not line.endswith(end):
            while line and not line.endswith(end):
                line = stream.readline(longest)
            yield None
        else:
            yield line


def _line_text(line: bytes, decode: Callable[[bytes], str]) -> str | None:
    try:
        return _tidy(decode(line))
    except UnicodeDecodeError:
        return None


def _tidy(line: str) -> str:
    return line.replace("\ufeff", "").rstrip("\r\n")


def _walk(path: Path, name: str) -> Iterator[StoredFile | LeftOut]:
    if path.is_dir():
        yield from _walk_folder(path, name)
    elif path.suffix.lower() == ".zip":
        yield from _members(str(path), name)
    else:
        yield StoredFile(name, str(path))


def _walk_folder(top: Path, name: str) -> Iterator[StoredFile | LeftOut]:
    """Yield what lies below ``top``. Links to folders are not followed, nor links to files outside: both are named."""
    root = os.path.realpath(top)
    trouble: list[OSError] = []
    for folder, folders, files in os.walk(top, onerror=trouble.append):
        here = _joined(name, os.path.relpath(folder, top))
        links = [one for one in folders if os.path.islink(os.path.join(folder, one))]
        yield from (
            LeftOut(_joined(here, link), "link", "a folder that is linked; name it as a path") for link in links
        )
        for file in files:
            yield from _found(os.path.join(folder, file), _joined(here, file), root)
    for error in trouble:
        yield LeftOut(str(error.filename), "unreadable folder", error.strerror or "")


def _found(place: str, name: str, root: str) -> Iterator[StoredFile | LeftOut]:
    if os.path.islink(place) and not os.path.realpath(place).startswith(root + os.sep):
        yield LeftOut(name, "link", "leads out of the folder")
    elif name.lower().endswith(".zip"):
        yield from _members(place, _without_zip(name))
    else:
        yield StoredFile(name, place)


def _members(place: str, name: str) -> Iterator[StoredFile | LeftOut]:
    try:
        infos = _archive(place).infolist()
    except _FAILURES as error:
        yield LeftOut(name + ".zip", "damaged archive", _why_no_archive(place, error))
        return
    seen: set[str] = set()
    for info in infos:
        spelled = member_name(info)
        if spelled.endswith("/"):
            continue
        fault = _member_fault(info, spelled, seen)
        full = _joined(name, spelled)
        yield LeftOut(full, *fault) if fault else StoredFile(full, place, info.filename)


def member_name(info: zipfile.ZipInfo) -> str:
    """Return a zip member's name in NFC with forward slashes.

    Without the mark for UTF-8, ``zipfile`` decodes it as cp437, in which every byte is a character; undone here.
    """
    name = info.orig_filename
    if not info.flag_bits & _NAMED_IN_UTF8:
        try:
            name = decode_loose(name.encode("cp437"))
        except UnicodeError:
            name = info.filename
    return normalise(name).replace("\\", "/")


def _member_fault(info: zipfile.ZipInfo, name: str, seen: set[str]) -> tuple[str, str] | None:
    if problem := path_fault(name):
        return "unsafe name", problem
    if info.flag_bits & _ENCRYPTED:
        return "encrypted file", "unpack it with its password"
    if info.filename in seen:
        return "duplicate member", "the archive holds the name twice"
    seen.add(info.filename)
    return None


def _archive(place: str) -> zipfile.ZipFile:
    """Return the open zip. A forked child must not share its parent's place in the file, so it opens its own."""
    status = os.stat(place)
    return _open_archive(place, status.st_size, status.st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=64)
def _open_archive(place: str, *_identity: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(place)


def _why_no_archive(place: str, error: Exception) -> str:
    try:
        with open(place, "rb") as stream:
            begins_as_zip = stream.read(2) == b"PK"
    except OSError:
        begins_as_zip = False
    cut = isinstance(error, zipfile.BadZipFile) and begins_as_zip
    return "cut short or damaged: its list of files is not whole; fetch it again" if cut else _reason(error)


def _nearest(files: list[StoredFile], near: str, folders: Sequence[str]) -> list[StoredFile]:
    if len(files) > 1 and folders:
        files = [file for file in files if _lies_in(file, folders)] or files
    if len(files) > 1 and near:
        shared = [_shared_folders(file.name, near) for file in files]
        files = [file for file, count in zip(files, shared, strict=True) if count == max(shared)]
    return files


def _as_spelled(files: list[StoredFile], base: str) -> list[StoredFile]:
    """Return those of several files whose name, or at least stem, has the capital letters of ``base``; all if none."""
    if len(files) < 2:
        return files
    same = [file for file in files if posixpath.basename(file.name) == base]
    return same or [file for file in files if file.stem == _without_suffix(base)] or files


def _is_foreign(file: StoredFile, folders: Sequence[str], foreign: Sequence[str]) -> bool:
    return _lies_in(file, foreign) and not _lies_in(file, folders)


def _lies_in(file: StoredFile, folders: Sequence[str]) -> bool:
    return bool({folder.casefold() for folder in folders} & set(file.name.casefold().split("/")[:-1]))


def _shared_folders(one: str, other: str) -> int:
    return len(posixpath.commonprefix([one.split("/")[:-1], other.split("/")[:-1]]))


def same_content(files: Sequence[StoredFile]) -> bool:
    """Tell whether a few files hold the same bytes; not if one cannot be read."""
    try:
        return len({file.read() for file in files[:8]}) == 1 and len(files) <= 8
    except UnreadableFile:
        return False


def _joined(folder: str, name: str) -> str:
    return folder if name == "." else posixpath.join(folder, normalise(name).replace(os.sep, "/"))


def _without_zip(name: str) -> str:
    return name[:-4] if name.lower().endswith(".zip") else name


def stem_of(name: str) -> str:
    """Return what :class:`FileIndex` finds a file by: its name without folders, suffix and capital letters."""
    return _without_suffix(_base(name)).casefold()


def _base(name: str) -> str:
    return posixpath.basename(normalise(name).replace("\\", "/"))


def _without_suffix(base: str) -> str:
    stem, suffix = posixpath.splitext(base)
    return stem if suffix.lower() in SUFFIXES | {".json", ".xml"} else base


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
