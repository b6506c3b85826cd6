"""The competition's folder: its tables, recognised by their columns, and its crops as samples.

Known layouts are DACON 235970 (``img_path,text``) and its sister 236042 (``id,img_path,label``); another is read if it
has exactly one column of paths and one of texts. Tables are joined by path or id, never by position.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from hangul_ocr.data.images import SUFFIXES, UnreadableImage, check_image
from hangul_ocr.data.sample import LeftOut, Sample, first_of, label_fault, shortened
from hangul_ocr.data.tables import read_table
from hangul_ocr.hangul import HangulOcrError, normalise

TRAIN, TEST, TEMPLATE = "train.csv", "test.csv", "sample_submission.csv"
_KNOWN = (("img_path", "text", None), ("img_path", "label", "id"))
_PATH_NAMES = frozenset({"img_path", "image_path", "path", "filepath", "file_path", "file", "filename", "file_name"})
_TEXT_NAMES = frozenset({"text", "label", "transcription", "word", "gt", "ground_truth"})
_DRIVE = re.compile(r"^[A-Za-z]:")
# Unpacked as it comes it lies one folder down; an archive with a folder of its own name in it, once or twice lower.
_DEEPEST = 3


@dataclass(frozen=True)
class Columns:
    """What a competition calls its columns; ``id`` is None where paths alone identify the crops."""

    path: str
    text: str
    id: str | None = None


@dataclass(frozen=True, eq=False)
class Competition:
    """A competition's tables.

    ``train`` has ``img_path,text`` (and whatever else train.csv holds), ``test`` has ``img_path`` (and ``id``), paths
    and labels in NFC. ``template`` is sample_submission.csv exactly as written, joined by its column ``template_key``
    and filled in ``template_text``; without that file it has no columns.
    """

    folder: Path
    columns: Columns
    train: pd.DataFrame
    test: pd.DataFrame
    template: pd.DataFrame
    template_key: str
    template_text: str

    @cached_property
    def name(self) -> str:
        """The folder's name, which its samples carry as their source."""
        return self.folder.resolve().name

    def template_paths(self) -> list[str]:
        """Return the ``img_path`` of each row of the template, in its order.

        Raises ``HangulOcrError`` if there is no template, or for a key that test.csv does not have.
        """
        if self.template.columns.empty:
            raise HangulOcrError(f"{self.folder / TEMPLATE}: not found; put the competition's file there")
        if self.template_key == self.columns.id:
            if "id" not in self.test:
                raise HangulOcrError(f"{self.folder / TEST}: no column {self.columns.id!r}, which {TEMPLATE} joins by")
            key_to_path = dict(zip(self.test["id"], self.test["img_path"], strict=True))
        else:
            key_to_path = {canonical_path(path): path for path in self.test["img_path"]}
        keys = [self._join_key(value) for value in self.template[self.template_key]]
        unknown = [key for key in keys if key not in key_to_path]
        if unknown:
            raise HangulOcrError(
                f"{self.folder / TEMPLATE}: {len(unknown)} rows are not in {TEST} ({first_of(unknown)}); "
                f"put both files from one download there"
            )
        return [key_to_path[key] for key in keys]

    def _join_key(self, value: str) -> str:
        return normalise(value) if self.template_key == self.columns.id else canonical_path(value)


def find_competition(input_dir: Path) -> Path:
    """Return the folder with train.csv: ``input_dir`` itself or one below it; ``input_dir`` may be that file, too.

    Raises ``HangulOcrError`` if there is none, or more than one.
    """
    if input_dir.is_file():
        if input_dir.name == TRAIN:
            return input_dir.parent
        unpack = "unpack it and " if input_dir.suffix.lower() == ".zip" else ""
        raise HangulOcrError(f"{input_dir}: a file, not a competition; {unpack}name the folder that holds {TRAIN}")
    found = competitions_in(input_dir)
    if len(found) == 1:
        return found[0]
    if found:
        raise HangulOcrError(f"{input_dir}: several competitions ({first_of(found)}); name the one to use")
    packed = next((f"; unpack {path.name} there" for path in _zips_in(input_dir)), "")
    raise HangulOcrError(
        f"no {TRAIN} in {input_dir} or in a folder of it{packed or '; put the competition there or name its folder'}"
    )


def refuse_packed(folder: Path) -> None:
    """Raise ``HangulOcrError`` if a zip in ``folder``, or one folder down, holds a train.csv: nothing is read in it.

    So does a zip that cannot be read, such as half a download.
    """
    for path in _zips_in(folder):
        try:
            with zipfile.ZipFile(path) as archive:
                problem = "a competition still packed; unpack it there" if _holds_train(archive) else ""
        # zipfile's own NotImplementedError is of a zip made by a method that it does not know.
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            problem = f"cannot be read ({error}); fetch it again, and unpack it there"
        if problem:
            raise HangulOcrError(f"{path}: {problem}, or move it elsewhere to go on without it")


def _zips_in(folder: Path) -> list[Path]:
    found = (path for depth in ("*", "*/*") for path in folder.glob(depth))
    return sorted(path for path in found if path.suffix.lower() == ".zip" and path.is_file())


def _holds_train(archive: zipfile.ZipFile) -> bool:
    return any(name.replace("\\", "/").split("/")[-1] == TRAIN for name in archive.namelist())


def competitions_in(folder: Path, deeper: int = _DEEPEST) -> list[Path]:
    """Return the folders with a train.csv: ``folder``, or else those up to so many folders ``deeper``."""
    if (folder / TRAIN).is_file():
        return [folder]
    inside = _folders_in(folder) if deeper else []
    return [found for inner in inside for found in competitions_in(inner, deeper - 1)]


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in ``folder`` but hidden ones, and none if it cannot be looked into."""
    try:
        with os.scandir(folder) as entries:  # It tells folders from a million images without looking at each.
            return sorted(Path(one.path) for one in entries if not one.name.startswith(".") and one.is_dir())
    except OSError:
        return []


def read_competition(folder: Path) -> Competition:
    """Read the tables of ``folder``; no image is opened. test.csv and sample_submission.csv may be missing.

    Raises ``HangulOcrError`` for unreadable tables, columns not recognised, a path that leaves the folder, paths that
    repeat, and labels that are all empty.
    """
    train = read_table(folder / TRAIN)
    columns = _recognise(folder / TRAIN, train)
    train = _with_our_names(train, columns)
    template = _read_if_there(folder / TEMPLATE)
    test = _read_test(folder, columns, template)
    key, text = _template_columns(folder / TEMPLATE, template, columns)
    _check_paths(folder / TRAIN, train["img_path"])
    _check_paths(folder / TEST, test["img_path"])
    _check_labels(folder / TRAIN, train["text"])
    return Competition(folder, columns, train, test, template, key, text)


def train_samples(competition: Competition) -> Iterator[Sample | LeftOut]:
    """Yield each row of train.csv as a sample, or as left out: for its label (:func:`label_fault`), ``missing image``
    or ``unreadable image``. Columns ``source`` and ``group`` of train.csv are the sample's, further ones become
    facts beside ``width`` and ``height``.

    Raises ``HangulOcrError`` for a link that leads out of the folder.
    """
    files = ImageFiles(competition.folder)
    for row in competition.train.to_dict("records"):
        path, text = row.pop("img_path"), row.pop("text")
        reason = label_fault(text)
        yield LeftOut(path, reason, shortened(text)) if reason else _sample(files, path, text, competition.name, row)


def test_samples(competition: Competition) -> Iterator[Sample | LeftOut]:
    """Yield each row of test.csv as a sample with an empty text, or as left out: missing or unreadable image."""
    files = ImageFiles(competition.folder)
    for path in competition.test["img_path"]:
        yield _sample(files, path, "", competition.name, {})


def fingerprint(competition: Competition) -> str:
    """Return a hash that changes when a label or an image file (its size or date) does; no image is read."""
    digest = hashlib.sha256()
    files = ImageFiles(competition.folder)
    for table in (competition.train, competition.test):
        digest.update(table.to_csv(index=False).encode("utf-8", "backslashreplace"))
        for path in table["img_path"]:
            file = files.find(path)
            status = file.stat() if file else None
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode() if status else b"-")
    return digest.hexdigest()


def canonical_path(path: str) -> str:
    """Return a table's path in the one form that paths are compared in: NFC, forward slashes, no ``./``."""
    return posixpath.normpath(normalise(path).replace("\\", "/")) if path else ""


@dataclass
class ImageFiles:
    """Finds the files that a table names, whichever Unicode form the disk keeps their names in."""

    folder: Path
    _listings: dict[Path, dict[str, str]] = field(default_factory=dict)

    @cached_property
    def _root(self) -> Path:
        return self.folder.resolve()

    def find(self, path: str) -> Path | None:
        """Return the file, or None if there is none. Raises ``HangulOcrError`` if a link leads out of the folder."""
        relative = canonical_path(path)
        file = self.folder / relative
        found = file if os.path.isfile(file) else self._find_by_listing(relative)
        if found is None:
            return None
        try:
            inside = found.resolve().is_relative_to(self._root)
        except (OSError, RuntimeError):  # A ring of links: Python 3.11 raises what 3.13 does not.
            return None
        if not inside:
            raise _leaves(self.folder, path, "a link leads out of it")
        return found

    def _find_by_listing(self, relative: str) -> Path | None:
        current = self.folder
        for part in relative.split("/"):
            name = self._listing(current).get(part)
            if name is None:
                return None
            current = current / name
        return current if os.path.isfile(current) else None

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self._listings:
            names = os.listdir(folder) if os.path.isdir(folder) else []
            self._listings[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._listings[folder]


def _sample(files: ImageFiles, path: str, text: str, source: str, facts: dict[str, str]) -> Sample | LeftOut:
    file = files.find(path)
    if file is None:
        return LeftOut(path, "missing image")
    try:
        data = file.read_bytes()
        width, height = check_image(data)
    except OSError as error:
        return LeftOut(path, "unreadable image", error.strerror or str(error))
    except UnreadableImage as error:
        return LeftOut(path, "unreadable image", str(error))
    facts = {**facts, "width": width, "height": height}
    return Sample(path, data, text, facts.pop("source", "") or source, facts.pop("group", ""), facts)


def _recognise(file: Path, table: pd.DataFrame) -> Columns:
    names = list(table.columns)
    for path, text, key in _KNOWN:
        if {path, text} <= set(names) and (key is None or key in names) and not _rival(names, text):
            return Columns(path, text, "id" if "id" in names else None)
    path = _only(file, names, [name for name in names if _holds_paths(name, table[name])], "image paths", "img_path")
    others = [name for name in names if name not in (path, "id")]
    named = [name for name in others if name.lower() in _TEXT_NAMES]
    text = _only(file, names, named or others, "labels", "text")
    return Columns(path, text, "id" if "id" in names else None)


def _rival(names: list[str], text: str) -> bool:
    return any(name in names for name in ("text", "label") if name != text)


def _only(file: Path, names: list[str], candidates: list[str], what: str, example: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    problem = f"{len(candidates)} columns could hold the {what}" if candidates else f"no column holds the {what}"
    raise HangulOcrError(
        f"{file}: columns not recognised ({', '.join(names)}): {problem}; name one {example!r} and drop the others"
    )


def _holds_paths(name: str, values: pd.Series) -> bool:
    if name.lower() in _PATH_NAMES:
        return True
    suffixes = [posixpath.splitext(value.lower())[1] for value in values]
    return bool(suffixes) and all(suffix in SUFFIXES for suffix in suffixes)


def _with_our_names(table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return ``table`` with the columns ``img_path``, ``text`` (and ``id``), all in NFC, ours first."""
    ours = {columns.path: "img_path", columns.text: "text", **({columns.id: "id"} if columns.id else {})}
    renamed = table.rename(columns=ours)
    order = sorted(renamed.columns, key=lambda name: name not in ("img_path", "text"))
    return pd.DataFrame({name: [normalise(value) for value in renamed[name]] for name in order}, dtype=object)


def _read_if_there(file: Path) -> pd.DataFrame:
    return read_table(file) if file.is_file() else pd.DataFrame()


def _read_test(folder: Path, columns: Columns, template: pd.DataFrame) -> pd.DataFrame:
    """Return test.csv as ``img_path`` (and ``id``); without it, the template's paths if it has any."""
    table = _read_if_there(folder / TEST)
    if table.columns.empty and columns.path in template.columns:
        table = template
    if table.columns.empty:
        return pd.DataFrame({"img_path": []}, dtype=object)
    if columns.path not in table.columns:
        _refuse_renamed(folder / TRAIN, columns, TEST, list(table.columns))
        raise HangulOcrError(
            f"{folder / TEST}: {TRAIN} calls the column of image paths {columns.path!r}, {TEST} has no such column "
            f"(found: {', '.join(table.columns)}); name it {columns.path!r}, too"
        )
    wanted = {"img_path": columns.path}
    if columns.id in table.columns:
        wanted["id"] = columns.id
    return pd.DataFrame({ours: [normalise(v) for v in table[name]] for ours, name in wanted.items()}, dtype=object)


def _refuse_renamed(file: Path, columns: Columns, other: str, handed_out: list[str]) -> None:
    """Raise ``HangulOcrError`` if train.csv (``file``) lacks a column's known name that the table ``other`` has."""
    found = [name for name in (columns.id, columns.path, columns.text) if name]
    lost = [name for name in ("img_path", "id") if name in handed_out and name not in found]
    if lost:
        wanted = "id, img_path, label" if "id" in handed_out else "img_path, text"
        raise HangulOcrError(
            f"{file}: no column {lost[0]!r}, which {other} has (found: {', '.join(found)}); "
            f"name its columns {wanted}, as handed out"
        )


def _template_columns(file: Path, template: pd.DataFrame, columns: Columns) -> tuple[str, str]:
    """Return the template's key column and the column to fill."""
    if template.columns.empty:
        return columns.id or columns.path, columns.text
    names = list(template.columns)
    key = next((name for name in (columns.path, columns.id) if name in names), None)
    others = [name for name in names if name not in (columns.path, columns.id)]
    text = columns.text if columns.text in others else others[0] if len(others) == 1 else None
    if key is None or text is None:
        _refuse_renamed(file.with_name(TRAIN), columns, TEMPLATE, names)
        raise HangulOcrError(f"{file}: columns not recognised ({', '.join(names)}); put the competition's file there")
    return key, text


def _check_paths(file: Path, paths: pd.Series) -> None:
    for path in paths:
        problem = path_fault(path)
        if problem:
            raise _leaves(file, path, problem)
    keys = pd.Series([canonical_path(path) for path in paths], dtype=object)
    repeated = sorted(set(keys[keys.duplicated()]))
    if repeated:
        raise HangulOcrError(f"{file}: {len(repeated)} image paths repeat ({first_of(repeated)}); keep one row of each")


def path_fault(path: str) -> str:
    """Return why a table's path does not name a file in the folder, or an empty string."""
    if not path.strip() or "\0" in path:
        return "it is empty" if not path.strip() else "it holds a zero byte"
    canonical = canonical_path(path)
    if canonical.startswith("/") or _DRIVE.match(canonical):
        return "it is absolute"
    return "it climbs above it" if canonical.split("/")[0] == ".." else ""


def _leaves(where: Path, path: str, problem: str) -> HangulOcrError:
    return HangulOcrError(
        f"{where}: the image path {path!r} leaves the folder or names no file ({problem}); "
        f"use paths relative to the CSV, of files in its folder"
    )


def _check_labels(file: Path, labels: pd.Series) -> None:
    if not any(text.strip() for text in labels):
        raise HangulOcrError(f"{file}: all {len(labels)} labels are empty; put the file with the labels there")
