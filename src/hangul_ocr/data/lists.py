"""Lists of crops and labels, as other tools write them: a crop a line, or the label in the crop's own file name.

Clova's ``gt.txt`` and PaddleOCR's label files are ``path<TAB>label``, ICDAR's word lists ``path,script,label``,
TextRecognitionDataGenerator's ``labels.txt`` ``file<SPACE>label``; spreadsheets save a CSV whose header names the
columns. Paths begin at the list, at a folder above it or at one beside it (``images/``).
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hangul_ocr.data.archives import Scan, StoredFile, UnreadableFile, decoded_lines, names_of, scan
from hangul_ocr.data.dacon import ImageFiles, canonical_path, path_fault
from hangul_ocr.data.planning import ImportSettings, Planned, WholeImage
from hangul_ocr.data.sample import LeftOut, clean_label, shortened
from hangul_ocr.data.tables import fields_of, separator_of
from hangul_ocr.hangul import HangulOcrError, normalise

LIST, PADDLE, TRDG, MLT = "list", "paddleocr", "trdg", "mlt"
# How many folders above the list its paths may begin.
_CLIMB = 4
_PROBED_LINES = 20
_ILLEGIBLE = "###"
# Folders beside a list in which its images are looked for.
_BESIDE = 50
# So many images of one label alone are a numbered series (word_1.jpg), not what somebody had rendered.
_SERIES = 5
# How many of an absolute path's last parts are tried, to say what must be cut off before them.
_TAIL = 6
# What columns are called, in lower case and without what is no letter or digit.
_PATHS = frozenset(
    {"path", "file", "filepath", "filename", "image", "imagepath", "imagename", "img", "imgpath", "imgname"}
    | {"파일", "파일명", "이미지", "경로"}
)
_LABELS = frozenset(
    {"label", "labels", "text", "texts", "word", "words", "transcription", "transcript", "gt", "groundtruth"}
    | {"라벨", "레이블", "텍스트", "글자"}
)
# Columns of our own predictions, suspects and corrections, whose texts are not a crop's label.
_OURS = frozenset({"confidence", "prediction", "suggestion", "action"})
_HEADED = "a CSV whose first line names the columns, img_path,text for one"
_TRDG_LAYOUT = (
    "TextRecognitionDataGenerator: images called label_0.jpg (its numbers have no leading zeros) or 0_label.jpg, or "
    "labels.txt beside them, a file<SPACE>label a line"
)
# A longer number is part of a label: a telephone number, say.
_LONGEST_INDEX = 9

# What a line says: path, label and facts.
Entry = tuple[str, str, dict[str, str]]
# What the name of one of TextRecognitionDataGenerator's images says: label and number.
_Name = tuple[str, int]


class Refused(NamedTuple):
    """Why a line is not taken, as a reason of :class:`LeftOut`, and the path that it seems to name, if any."""

    reason: str
    path: str = ""


_DAMAGED = "damaged line"
# None for a line that holds no record: a header.
Parser = Callable[[str], Entry | Refused | None]


class Headed(NamedTuple):
    """Reads rows of a table whose ``header`` says which column holds the path and which the label."""

    header: str
    separator: str
    columns: int
    path: int
    label: int

    @classmethod
    def of(cls, header: str) -> Headed | None:
        """Return what reads the rows below ``header``; None if it does not name one column of each kind."""
        separator = separator_of(header)
        names = ["".join(filter(str.isalnum, normalise(name).casefold())) for name in fields_of(header, separator)]
        paths, labels = ([n for n, name in enumerate(names) if name in known] for known in (_PATHS, _LABELS))
        if len(paths) != 1 or len(labels) != 1 or _OURS & set(names):
            return None
        return cls(header, separator, len(names), paths[0], labels[0])

    def __call__(self, line: str) -> Entry | Refused | None:
        """Return path and label of a row, or that it is damaged; None for the header and rows of empty cells."""
        row = fields_of(line, self.separator)
        if line == self.header or (row and not any(cell.strip() for cell in row)):
            return None
        path = row[self.path].strip() if self.path < len(row) else ""
        return _worded(path, row[self.label]) if len(row) == self.columns else Refused(_DAMAGED, path)


@dataclass
class Base:
    """The folder that a list's paths are relative to, found by trying, and the places of its images ``found`` yet."""

    folder: Path
    prefix: str
    files: ImageFiles = field(init=False)
    found: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.files = ImageFiles(self.folder)

    def find(self, path: str) -> StoredFile | tuple[str, str]:
        """Return the image at ``path``, or reason and detail: ``unsafe path`` or ``missing image``."""
        if problem := path_fault(path):
            return "unsafe path", self._remedy(path) if problem == "it is absolute" else problem
        return self._look_up(path)

    def _remedy(self, path: str) -> str:
        """Return what to do about an absolute path; if its end is found here, what to cut off."""
        parts = [part for part in canonical_path(path).split("/")[1:] if part][-_TAIL:]
        tails = ("/".join(parts[n:]) for n in range(len(parts)))
        here = next((tail for tail in tails if isinstance(self._look_up(tail), StoredFile)), "")
        found = f"; {shortened(here)} is there: cut off what stands before it" if here else ""
        return f"it is absolute, as on another machine; paths must begin at the list's folder or one above{found}"

    def _look_up(self, path: str) -> StoredFile | tuple[str, str]:
        try:
            found = self.files.find(path)
        except HangulOcrError:
            return "unsafe path", "a link leads out of the folder"
        except (OSError, ValueError) as error:  # A name longer than the disk allows, for one.
            return "missing image", str(error)
        if found is None:
            return "missing image", ""
        self.found.add(str(found))
        return StoredFile(self.key(path), str(found))

    def key(self, path: str) -> str:
        """Return what a crop is called: its path below the folder, and the folder's name before it."""
        return posixpath.join(self.prefix, canonical_path(path))


def plan_list(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the crops of tab-separated lists (``gt.txt``), and of tables whose header is plain, as work.

    Left out are ``damaged line``, ``undecodable line``, ``unsafe path``, ``missing image`` and ``label for detection``
    (of a photograph, as PaddleOCR writes it), ``image not in any list``, and the tables that are ``not such a list`` or
    a ``list in a zip``, which is not read. Raises ``HangulOcrError`` if there is no such list.
    """
    looked_for = f"a list such as gt.txt, a path<TAB>label a line, or {_HEADED}, and the images it names"
    return _plan(paths, LIST, _by_header, looked_for)


def plan_paddleocr(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the crops of PaddleOCR's label files as :func:`plan_list` does; those for detection hold no crops."""
    looked_for = "PaddleOCR's label file, a path<TAB>label a line, and the images it names"
    return _plan(paths, PADDLE, lambda _: tabbed, looked_for)


def plan_mlt(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the crops of ICDAR MLT's word lists as :func:`plan_list` does, and those of other scripts as left out."""

    def parse(line: str) -> Entry | Refused:
        entry = _with_script(line)
        if not isinstance(entry, Refused) and entry[2]["script"] not in settings.scripts:
            return Refused("other script", entry[0])
        return entry

    looked_for = "ICDAR MLT's gt.txt, a word_1.png,Korean,label a line, and the images it names"
    return _plan(paths, MLT, lambda _: parse, looked_for)


def plan_trdg(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the images of TextRecognitionDataGenerator as work, by ``labels.txt`` where there is one, else by name.

    Left out, beside :func:`plan_list`'s reasons: ``name without label``, ``image not in the list``. Raises
    ``HangulOcrError`` if there is neither, if the names are not such (most lack a label, or all have the same), and if
    they do not tell which end of them is the label.
    """
    found = scan(paths)
    lists = [file for file in found.with_suffix({".txt"}) if file.stem.casefold() == "labels"]
    listed = {posixpath.dirname(file.name) for file in lists}
    named = [file for file in found.images() if posixpath.dirname(file.name) not in listed]
    labels = _labels_in_names(named, found)
    if not lists:
        _require_labels(labels, found)
    yield from found.left_out
    yield from found.others({".txt"}, "labels.txt")
    for file in lists:
        yield from _listed_by_trdg(file, found)
    for file, name in labels.items():
        yield LeftOut(file.name, "name without label") if name is None else WholeImage(file, file.name, name[0], TRDG)


def _listed_by_trdg(table: StoredFile, found: Scan) -> Iterator[Planned]:
    """Yield the images that labels.txt names; a file name may hold spaces, so the first space that fits counts."""
    folder = posixpath.dirname(table.name)
    here = {file.name: file for file in found.images() if posixpath.dirname(file.name) == folder}
    used = set()
    for number, line in lines_of(table):
        if isinstance(line, LeftOut):
            yield line
            continue
        words = line.split(" ")
        names = [posixpath.join(folder, canonical_path(" ".join(words[:n]))) for n in range(1, min(len(words), 9) + 1)]
        name = next((name for name in names if name in here), None)
        if name is None:
            yield LeftOut(f"{table.name}:{number}", "missing image", shortened(line))
        else:
            used.add(name)
            yield WholeImage(here[name], name, clean_label(" ".join(words[names.index(name) + 1 :])), TRDG)
    yield from (LeftOut(name, "image not in the list") for name in here if name not in used)


def _require_labels(names: dict[StoredFile, _Name | None], found: Scan) -> None:
    """Raise ``HangulOcrError`` for images that somebody numbered or named otherwise: their labels would be wrong."""
    labelled = [name for name in names.values() if name is not None]
    count, labels = len(labelled), {label for label, _ in labelled}
    if not labelled:
        raise found.unknown_layout(_TRDG_LAYOUT)
    if count < len(names) / 2:
        raise found.unknown_layout(_TRDG_LAYOUT, f"only {count:,} of {len(names):,} images are called so")
    # The tool counts from 0; people who number their files mostly from 1.
    if len(labels) == 1 and (count >= _SERIES or all(index for _, index in labelled)):
        whose = f"their names all {count:,}" if count > 1 else "its name it"
        raise found.unknown_layout(_TRDG_LAYOUT, f"by {whose} would be labelled {shortened(labels.pop())!r}")


def _labels_in_names(files: Sequence[StoredFile], found: Scan) -> dict[StoredFile, _Name | None]:
    """Return what each file's name says, where it says anything; one run of the tool writes all names of a folder."""
    folders: dict[str, list[StoredFile]] = {}
    for file in files:
        folders.setdefault(posixpath.dirname(file.name), []).append(file)
    return {file: name for inside in folders.values() for file, name in _read_names(inside, found)}


def _read_names(files: list[StoredFile], found: Scan) -> Iterator[tuple[StoredFile, _Name | None]]:
    """Read the names of a folder, ``label_0.jpg`` or ``0_label.jpg``: either might be meant by ``12_0.jpg``.

    Names that can be read in one way only decide, then that the tool's numbers run from 0 and do not repeat.
    """
    last, first = [_number_last(file.stem) for file in files], [_number_first(file.stem) for file in files]
    pairs = list(zip(last, first, strict=True))
    only_last, only_first = sum(b is None for a, b in pairs if a), sum(a is None for a, b in pairs if b)
    if only_last == only_first and any(a and b and a[0] != b[0] for a, b in pairs):
        only_last, only_first = _runs_from_zero(last), _runs_from_zero(first)
        if only_last == only_first:
            raise found.unknown_layout(
                _TRDG_LAYOUT, f"which end of {posixpath.basename(files[0].name)} is the label cannot be told"
            )
    return zip(files, last if only_last >= only_first else first, strict=True)


def _runs_from_zero(names: Sequence[_Name | None]) -> int:
    """Return how much the numbers of some names look like the tool's count (0 to 2)."""
    indexes = [name[1] for name in names if name is not None]
    distinct = len(set(indexes)) == len(indexes) > 0
    return distinct + (distinct and max(indexes) == len(indexes) - 1)


def _number_last(stem: str) -> _Name | None:
    """Return label and number of ``label_12``; None for another name, such as ``word_012`` of a numbered series."""
    label, _, index = stem.rpartition("_")
    return _name(label, index)


def _number_first(stem: str) -> _Name | None:
    index, _, label = stem.partition("_")
    return _name(label, index)


def _name(label: str, index: str) -> _Name | None:
    is_count = index.isdecimal() and len(index) <= _LONGEST_INDEX and (index == "0" or index[0] != "0")
    return (clean_label(label), int(index)) if label and is_count else None


def _by_header(file: StoredFile) -> Parser:
    return Headed.of(next(iter(_first_lines(file)), "")) or tabbed


def _plan(
    paths: Sequence[Path], source: str, parser_of: Callable[[StoredFile], Parser], looked_for: str
) -> Iterator[Planned]:
    found = scan(paths)
    tables = found.with_suffix({".txt", ".csv", ".tsv"})
    parsers = {file: parser_of(file) for file in tables}
    fitting = {file for file in tables if _fits(file, parsers[file])}
    lists = [file for file in tables if file in fitting and not file.member]
    if not lists:
        raise found.unknown_layout(looked_for, _beginning(tables))
    yield from found.left_out
    yield from (_not_read(file, file in fitting) for file in tables if file.member or file not in fitting)
    prefixes, named = prefixes_of(paths), set[str]()
    for file in lists:
        base = find_base(file, parsers[file], prefixes)
        yield from list_entries(file, parsers[file], source, base)
        named |= base.found
    yield from _unlisted(found.images(), named)


def _beginning(tables: Sequence[StoredFile]) -> str:
    """Return how the first of some tables that holds anything begins: that is what its reader compares."""
    begun = ((file, line) for file in tables for line in _first_lines(file)[:1])
    return next((f"{file.name} begins with {shortened(line)!r}" for file, line in begun), "")


def _not_read(file: StoredFile, is_list: bool) -> LeftOut:
    """Return that a table is not read: it may be a list with a header or other separators that somebody counts on."""
    if is_list:
        return LeftOut(file.name, "list in a zip", "unpack it and its images: lists are read from folders")
    return LeftOut(file.name, "not such a list", shortened(next(iter(_first_lines(file)), "it is empty")))


def _unlisted(images: Sequence[StoredFile], named: Set[str]) -> Iterator[LeftOut]:
    """Yield the images that no list names; ``named`` are the places of those that one does."""
    places = {os.path.realpath(place) for place in named}
    for image in images:
        if image.member or os.path.realpath(image.place) not in places:
            yield LeftOut(image.name, "image not in any list")


def prefixes_of(paths: Sequence[Path]) -> dict[str, str]:
    """Return what each given folder, or the folder of each given list, is called in names, by its place."""
    places = [Path(path).expanduser().resolve() for path in paths]
    folders = list(dict.fromkeys(place if place.is_dir() else place.parent for place in places))
    return dict(zip(map(str, folders), names_of(folders), strict=True))


def list_entries(file: StoredFile, parse: Parser, source: str, base: Base) -> Iterator[Planned]:
    """Yield what each line of a list names, below ``base``: an image as work, or the line as left out."""
    for number, line in lines_of(file):
        entry = parse(line) if isinstance(line, str) else line
        if entry is None:
            continue
        if isinstance(entry, LeftOut):
            yield entry
        elif isinstance(entry, Refused):
            base.find(entry.path)  # So that its image does not count as one that no list names.
            yield LeftOut(f"{file.name}:{number}", entry.reason, shortened(line))
        else:
            listed, label, facts = entry
            for path in _images_in(listed):
                image = base.find(path)
                if isinstance(image, StoredFile):
                    yield WholeImage(image, image.name, label, source, facts=facts)
                else:
                    yield LeftOut(shortened(base.key(path), 300), *image)


def _images_in(listed: str) -> list[str]:
    """Return the paths that a line names: PaddleOCR lets images share a label, ``["a.jpg", "b.jpg"]<TAB>label``."""
    if not listed.startswith("["):
        return [listed]
    try:
        paths = json.loads(listed)
    except (ValueError, RecursionError):
        return [listed]
    return paths if paths and all(isinstance(path, str) for path in paths) else [listed]


def find_base(file: StoredFile, parse: Parser, prefixes: dict[str, str]) -> Base:
    """Return the folder, the list's own, one above or one in it, below which most of its first paths exist.

    ``prefixes`` are the names of the given folders by their places: a crop's name begins with that of its folder.
    """
    entries = [entry for line in _first_lines(file) if (entry := parse(line)) is not None]
    listed = [entry.path if isinstance(entry, Refused) else entry[0] for entry in entries]
    wanted = [path for one in listed for path in _images_in(one) if not path_fault(path)]
    folders = list(Path(file.place).resolve().parents)[: _CLIMB + 1]
    beside = sorted(path for path in folders[0].iterdir() if path.is_dir() and not path.is_symlink())[:_BESIDE]
    bases = [Base(folder, _prefix(folder, prefixes)) for folder in (*folders, *beside)]
    return max(bases, key=lambda base: sum(isinstance(base.find(path), StoredFile) for path in wanted))


def _prefix(folder: Path, prefixes: dict[str, str]) -> str:
    for place in (folder, *folder.parents):
        if str(place) in prefixes:
            return posixpath.join(prefixes[str(place)], folder.relative_to(place).as_posix()).removesuffix("/.")
    return folder.name


def lines_of(file: StoredFile) -> Iterator[tuple[int, str | LeftOut]]:
    """Yield the number of each line that is not blank and its text, or ``undecodable line``, ``unreadable list``."""
    try:
        for number, line in decoded_lines(file):
            yield number, LeftOut(f"{file.name}:{number}", "undecodable line") if line is None else line
    except UnreadableFile as error:
        yield 0, LeftOut(file.name, "unreadable list", str(error))


def _first_lines(file: StoredFile) -> list[str]:
    lines = []
    for _, line in lines_of(file):
        if isinstance(line, str):
            lines.append(line)
        if len(lines) == _PROBED_LINES:
            break
    return lines


def _fits(file: StoredFile, parse: Parser) -> bool:
    """Tell whether any of a file's first lines is one of such a list (left out for its script or not).

    So is a file of which nothing can be read: it is told as left out.
    """
    lines = _first_lines(file)
    if not lines:
        return any(isinstance(line, LeftOut) for _, line in lines_of(file))
    return any(_is_of_list(parse(line)) for line in lines)


def _is_of_list(entry: Entry | Refused | None) -> bool:
    return not isinstance(entry, Refused) or entry.reason != _DAMAGED


def tabbed(line: str) -> Entry | Refused:
    """Return path and label of ``path<TAB>label``, or that the line is damaged, or for detection."""
    path, tab, label = line.partition("\t")
    return _worded(path.strip(), label) if tab else Refused(_DAMAGED, path.strip())


def _worded(path: str, label: str) -> Entry | Refused:
    if not path:
        return Refused(_DAMAGED)
    if _is_for_detection(label.strip()):
        return Refused("label for detection", path)
    return path, clean_label(label), {}


def _is_for_detection(label: str) -> bool:
    """Tell whether a label is a photograph's: a JSON list of objects, one for each word, and none without words."""
    if not label.startswith("["):
        return False
    try:
        words = json.loads(label)
    except (ValueError, RecursionError):
        return False
    return all(isinstance(word, dict) for word in words)


def _with_script(line: str) -> Entry | Refused:
    path, _, rest = line.partition(",")
    script, comma, label = rest.partition(",")
    if not (comma and path.strip() and script.strip().isalpha()):
        return Refused(_DAMAGED, path.strip())
    text = clean_label(label)
    return path.strip(), "xxx" if text == _ILLEGIBLE else text, {"script": script.strip()}
