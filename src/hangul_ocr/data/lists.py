"""Lists of crops and labels, as other tools write them: a crop a line, or the label in the crop's own file name.

Clova's ``gt.txt`` and PaddleOCR's label files are ``path<TAB>label``, ICDAR's word lists ``path,script,label``,
TextRecognitionDataGenerator's ``labels.txt`` ``file<SPACE>label``. Paths begin at the list or at a folder above it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hangul_ocr.data.archives import Scan, StoredFile, UnreadableFile, decoded_lines, names_of, scan
from hangul_ocr.data.dacon import ImageFiles, canonical_path, path_fault
from hangul_ocr.data.planning import ImportSettings, Planned, WholeImage
from hangul_ocr.data.sample import LeftOut, clean_label, shortened
from hangul_ocr.hangul import HangulOcrError

LIST, PADDLE, TRDG, MLT = "list", "paddleocr", "trdg", "mlt"
# How many folders above the list its paths may begin.
_CLIMB = 4
_PROBED_LINES = 20
_ILLEGIBLE = "###"

# What a line says: path, label and facts; or why it says nothing.
Entry = tuple[str, str, dict[str, str]]
Parser = Callable[[str], Entry | str]


@dataclass
class Base:
    """The folder that a list's paths are relative to, found by trying, and its images."""

    folder: Path
    prefix: str
    files: ImageFiles = field(init=False)

    def __post_init__(self) -> None:
        self.files = ImageFiles(self.folder)

    def find(self, path: str) -> StoredFile | tuple[str, str]:
        """Return the image at ``path``, or reason and detail: ``unsafe path`` or ``missing image``."""
        if problem := path_fault(path):
            return "unsafe path", problem
        try:
            found = self.files.find(path)
        except HangulOcrError:
            return "unsafe path", "a link leads out of the folder"
        except (OSError, ValueError) as error:  # A name longer than the disk allows, for one.
            return "missing image", str(error)
        return ("missing image", "") if found is None else StoredFile(self.key(path), str(found))

    def key(self, path: str) -> str:
        """Return what a crop is called: its path below the folder, and the folder's name before it."""
        return posixpath.join(self.prefix, canonical_path(path))


def plan_list(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the crops of tab-separated lists (``gt.txt``) as work.

    Left out are ``damaged line``, ``undecodable line``, ``unsafe path`` and ``missing image``. Raises
    ``HangulOcrError`` if there is no such list.
    """
    return _plan(paths, LIST, tabbed, "a list such as gt.txt, a path<TAB>label a line, and the images it names")


def plan_paddleocr(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the crops of PaddleOCR's label files as :func:`plan_list` does; those for detection hold no crops."""
    return _plan(
        paths, PADDLE, _tabbed_paddle, "PaddleOCR's label file, a path<TAB>label a line, and the images it names"
    )


def plan_mlt(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the crops of ICDAR MLT's word lists as :func:`plan_list` does, and those of other scripts as left out."""

    def parse(line: str) -> Entry | str:
        entry = _with_script(line)
        if not isinstance(entry, str) and entry[2]["script"] not in settings.scripts:
            return "other script"
        return entry

    return _plan(paths, MLT, parse, "ICDAR MLT's gt.txt, a word_1.png,Korean,label a line, and the images it names")


def plan_trdg(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the images of TextRecognitionDataGenerator as work, by ``labels.txt`` where there is one, else by name.

    Left out, beside :func:`plan_list`'s reasons: ``name without label``, ``image not in the list``. Raises
    ``HangulOcrError`` if there is neither.
    """
    found = scan(paths)
    lists = [file for file in found.with_suffix({".txt"}) if file.stem.casefold() == "labels"]
    listed = {posixpath.dirname(file.name) for file in lists}
    named = [file for file in found.images() if posixpath.dirname(file.name) not in listed]
    if not (lists or any(isinstance(_label_in_name(file), str) for file in named)):
        raise found.unknown_layout("TextRecognitionDataGenerator: images called label_0.jpg, or labels.txt beside them")
    yield from found.left_out
    yield from found.others({".txt"}, "labels.txt")
    for file in lists:
        yield from _listed_by_trdg(file, found)
    for file in named:
        label = _label_in_name(file)
        yield LeftOut(file.name, "name without label") if label is None else WholeImage(file, file.name, label, TRDG)


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


def _label_in_name(file: StoredFile) -> str | None:
    """Return the label of ``label_12.jpg``; None for another name."""
    label, _, index = file.stem.rpartition("_")
    return clean_label(label) if label and index.isdecimal() else None


def _plan(paths: Sequence[Path], source: str, parse: Parser, looked_for: str) -> Iterator[Planned]:
    found = scan(paths)
    lists = [file for file in found.with_suffix({".txt", ".csv", ".tsv"}) if not file.member and _fits(file, parse)]
    if not lists:
        raise found.unknown_layout(looked_for)
    yield from found.left_out
    prefixes = prefixes_of(paths)
    for file in lists:
        yield from list_entries(file, parse, source, prefixes)


def prefixes_of(paths: Sequence[Path]) -> dict[str, str]:
    """Return what each given folder, or the folder of each given list, is called in names, by its place."""
    places = [Path(path).expanduser().resolve() for path in paths]
    folders = list(dict.fromkeys(place if place.is_dir() else place.parent for place in places))
    return dict(zip(map(str, folders), names_of(folders), strict=True))


def list_entries(file: StoredFile, parse: Parser, source: str, prefixes: dict[str, str]) -> Iterator[Planned]:
    """Yield what each line of a list names: an image as work, or the line as left out."""
    base = find_base(file, parse, prefixes)
    for number, line in lines_of(file):
        entry = parse(line) if isinstance(line, str) else line
        if isinstance(entry, LeftOut):
            yield entry
        elif isinstance(entry, str):
            yield LeftOut(f"{file.name}:{number}", entry, shortened(line))
        else:
            path, label, facts = entry
            image = base.find(path)
            if isinstance(image, StoredFile):
                yield WholeImage(image, image.name, label, source, facts=facts)
            else:
                yield LeftOut(shortened(base.key(path), 300), *image)


def find_base(file: StoredFile, parse: Parser, prefixes: dict[str, str]) -> Base:
    """Return the folder, the list's own or one above, below which most of its first paths exist.

    ``prefixes`` are the names of the given folders by their places: a crop's name begins with that of its folder.
    """
    entries = [parse(line) for line in _first_lines(file)]
    wanted = [entry[0] for entry in entries if not isinstance(entry, str) and not path_fault(entry[0])]
    folders = list(Path(file.place).resolve().parents)[: _CLIMB + 1]
    bases = [Base(folder, _prefix(folder, prefixes)) for folder in folders]
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
    return any(parse(line) != "damaged line" for line in lines)


def tabbed(line: str) -> Entry | str:
    """Return path and label of ``path<TAB>label``, or ``damaged line``."""
    path, tab, label = line.partition("\t")
    return (path.strip(), clean_label(label), {}) if tab and path.strip() else "damaged line"


def _tabbed_paddle(line: str) -> Entry | str:
    entry = tabbed(line)
    if not isinstance(entry, str) and entry[1].startswith('[{"transcription"'):
        return "label for detection"
    return entry


def _with_script(line: str) -> Entry | str:
    path, _, rest = line.partition(",")
    script, comma, label = rest.partition(",")
    if not (comma and path.strip() and script.strip().isalpha()):
        return "damaged line"
    text = clean_label(label)
    return path.strip(), "xxx" if text == _ILLEGIBLE else text, {"script": script.strip()}
