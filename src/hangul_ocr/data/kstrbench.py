"""K-STR-Bench: its subsets and label lists as samples, and predictions in the form that its evaluator reads.

A subset is a folder of ``text_images``, ``scene_images``, ``scene.csv``, ``text.v*.csv`` (a row a text) and, exported,
``labels/*.txt``. The table is the source of truth; a list chooses rows of it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from hangul_ocr.data.archives import FileIndex, Scan, StoredFile, scan
from hangul_ocr.data.lists import find_base, lines_of, list_entries, prefixes_of, tabbed
from hangul_ocr.data.planning import ImportSettings, Planned, WholeImage
from hangul_ocr.data.sample import LeftOut, clean_label, shortened
from hangul_ocr.data.tables import FULL_DISK, fields_of, write_table
from hangul_ocr.hangul import HangulOcrError, normalise
from hangul_ocr.workspace import atomic_write_text

SOURCE = "kstrbench"
LAYOUT = (
    "K-STR-Bench: a subset with text_images and text.v*.csv (text_id, scene_id, label), a folder called labels, or a "
    "list in it named itself"
)
SPLITS = ("train", "val", "test")
LABELS = "labels"
# A label's mark for a character that nobody can read; the evaluator lets it stand for none or one.
WILDCARD = "□"
_TAG = "KSTR_is_"
_TRUE, _FALSE = frozenset({"true", "1"}), frozenset({"false", "0"})

Row = dict[str, str]


def plan_kstrbench(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the texts of subset folders, and of label lists, named themselves or by their folder, as work.

    A sample's facts are its ``text_id``, ``tags`` (challenges), ``split`` or ``list``, the table's further flags, and
    ``wildcard`` where the label holds one; its group is the scene. Left out are ``illegible``, ``damaged row``,
    ``missing image``, ``image without row``, and for lists what :func:`lists.plan_list` names. Raises
    ``HangulOcrError`` for another layout, and for a table without its columns.
    """
    found = scan(paths)
    lists = [file for file in found.with_suffix({".txt"}) if not file.member and _is_given(file, paths)]
    # Those of challenges name texts of the splits again, and of two the first counts.
    lists.sort(key=lambda file: file.stem not in SPLITS)
    tables = _newest_tables(found)
    if not (lists or (tables and found.images())):
        raise found.unknown_layout(LAYOUT)
    yield from found.left_out
    prefixes = prefixes_of(paths)
    for file in lists:
        yield from _listed(file, prefixes)
    for table in tables:
        yield from _subset(table, found)


def write_predictions(predictions: pd.DataFrame, path: Path) -> Path:
    """Write ``predictions`` (``img_path,text``) for K-STR-Bench's evaluator, as the suffix of ``path`` says.

    ``.csv`` is ``text_id,infer``, where an id is an image's file name without suffix; ``.txt`` is
    ``path<TAB>prediction``; ``.jsonl`` has the keys ``image_path`` and ``pred``, which the evaluator is to be told.
    Raises ``HangulOcrError`` for another suffix, missing columns, and two predictions of one text.
    """
    lacking = {"img_path", "text"} - set(predictions.columns)
    if lacking:
        raise HangulOcrError(
            f"{path}: the predictions have no column {sorted(lacking)[0]!r}; name a file of predictions"
        )
    images = [normalise(str(image)).replace("\\", "/") for image in predictions["img_path"]]
    texts = [" ".join(normalise(text).split()) if isinstance(text, str) else "" for text in predictions["text"]]
    ids = [posixpath.splitext(posixpath.basename(image))[0] for image in images]
    repeated = pd.Series(ids, dtype=object)
    repeated = repeated[repeated.duplicated()]
    if len(repeated):
        raise HangulOcrError(f"{path}: {repeated.iloc[0]!r} is predicted more than once; predict each text once")
    if path.suffix == ".csv":
        return write_table(pd.DataFrame({"text_id": ids, "infer": texts}, dtype=object), path)
    if path.suffix == ".txt":
        return _write_lines(path, (f"{image}\t{text}" for image, text in zip(images, texts, strict=True)))
    if path.suffix == ".jsonl":
        rows = ({"image_path": image, "pred": text} for image, text in zip(images, texts, strict=True))
        return _write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))
    raise HangulOcrError(f"{path}: the evaluator reads .csv, .txt and .jsonl; choose one of these names")


def _subset(table: StoredFile, found: Scan) -> Iterator[Planned]:
    folder = posixpath.dirname(table.name)
    images = FileIndex([file for file in found.images() if _below(file, folder, "text_images")])
    splits = _splits(
        [file for file in found.with_suffix({".txt"}) if posixpath.dirname(file.name) == f"{folder}/{LABELS}"]
    )
    for row in _rows(table):
        if isinstance(row, LeftOut):
            yield row
            continue
        text_id = normalise(row["text_id"].strip())
        key = f"{folder}/{text_id}"
        image = images.find(f"{text_id}.jpg")
        if _is_true(row.get("is_illegible", "")):
            yield LeftOut(key, "illegible", shortened(row["label"]))
        elif isinstance(image, str):
            yield LeftOut(key, image)
        else:
            yield _work(image, key, row["label"], _facts(row, splits), row.get("scene_id", ""))
    yield from (LeftOut(image.name, "image without row") for image in images.unused())


def _listed(file: StoredFile, prefixes: dict[str, str]) -> Iterator[Planned]:
    """Yield the texts of a list, each with what the subset's table says about it if the table is there."""
    known = _facts_of_listed(file)
    for item in list_entries(file, tabbed, SOURCE, find_base(file, tabbed, prefixes)):
        if isinstance(item, WholeImage):
            text_id = item.file.stem
            facts, scene = known.get(text_id, ({"text_id": text_id}, ""))
            yield _work(item.file, item.key, item.text, facts | {"list": file.stem}, scene)
        else:
            yield item


def _work(image: StoredFile, key: str, label: str, facts: dict[str, object], scene: str) -> WholeImage:
    text = clean_label(label)
    facts = facts | ({"wildcard": True} if WILDCARD in text else {})
    return WholeImage(image, key, text, SOURCE, normalise(scene), facts)


def _facts_of_listed(file: StoredFile) -> dict[str, tuple[dict[str, object], str]]:
    """Return facts and scene by text id, of the ids in a list only: a subset's table has two million rows."""
    place = Path(file.place).resolve()
    if len(place.parents) < 2:
        return {}
    tables = [StoredFile(one.name, str(one)) for one in place.parents[1].glob("text.v*.csv")]
    if not tables:
        return {}
    paths = (line.partition("\t")[0] for _, line in lines_of(file) if isinstance(line, str))
    wanted = {posixpath.splitext(posixpath.basename(path.replace("\\", "/")))[0] for path in paths}
    rows = (row for row in _rows(max(tables, key=_version)) if not isinstance(row, LeftOut))
    return {row["text_id"]: (_facts(row, {}), row.get("scene_id", "")) for row in rows if row["text_id"] in wanted}


def _facts(row: Row, splits: dict[str, str]) -> dict[str, object]:
    text_id = normalise(row["text_id"].strip())
    flags = {name: value.strip().lower() for name, value in row.items()}
    facts: dict[str, object] = {"text_id": text_id}
    if any(name.startswith(_TAG) for name in row):
        facts["tags"] = [name.removeprefix(_TAG) for name in row if name.startswith(_TAG) and _is_true(row[name])]
    others = {name for name, value in flags.items() if not name.startswith(_TAG) and value in (_TRUE | _FALSE)}
    facts |= {name: _is_true(row[name]) for name in row if name in others and name.startswith("is_")}
    return facts | ({"split": splits[text_id]} if text_id in splits else {})


def _splits(lists: list[StoredFile]) -> dict[str, str]:
    """Return the split of each text id that the exported lists name."""
    splits = {}
    for file in lists:
        if file.stem in SPLITS:
            for _, line in lines_of(file):
                if isinstance(line, str):
                    splits[posixpath.splitext(posixpath.basename(line.partition("\t")[0].strip()))[0]] = file.stem
    return splits


def _rows(table: StoredFile) -> Iterator[Row | LeftOut]:
    """Yield each row of a table as it is read, or as left out. Raises ``HangulOcrError`` without the columns needed."""
    lines = lines_of(table)
    header = [name.strip() for name in _fields(next(lines, (0, ""))[1])]
    if not {"text_id", "label"} <= set(header):
        given = shortened(" ".join(", ".join(header).split()))
        raise HangulOcrError(f"{table.name}: no columns text_id and label ({given}); put the original there")
    for number, line in lines:
        row = _fields(line)
        if isinstance(line, LeftOut):
            yield line
        elif len(row) == len(header):
            yield dict(zip(header, row, strict=True))
        else:
            detail = f"{len(row)} fields, the header has {len(header)}" if row else "not a row of CSV in one line"
            yield LeftOut(f"{table.name}:{number}", "damaged row", detail)


def _fields(line: str | LeftOut) -> list[str]:
    return [] if isinstance(line, LeftOut) else fields_of(line)


def _newest_tables(found: Scan) -> list[StoredFile]:
    """Return the text table of each subset, the newest where there are several versions."""
    newest: dict[str, StoredFile] = {}
    for file in found.with_suffix({".csv"}):
        folder, name = posixpath.split(file.name)
        if name.startswith("text.v") and (folder not in newest or _version(file) > _version(newest[folder])):
            newest[folder] = file
    return list(newest.values())


def _version(file: StoredFile) -> tuple[int, ...]:
    """Return the numbers of ``text.v2.10.csv``, which is newer than ``text.v2.9.csv``."""
    parts = posixpath.basename(file.name).removeprefix("text.v").removesuffix(".csv").split(".")
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)


def _is_given(file: StoredFile, paths: Sequence[Path]) -> bool:
    """Tell whether a list is one of ``paths`` or lies right in one of them that is called ``labels``."""
    place, given = Path(file.place), {Path(path) for path in paths}
    return place in given or (place.parent in given and place.parent.resolve().name == LABELS)


def _below(file: StoredFile, folder: str, name: str) -> bool:
    return file.name.startswith(f"{folder}/{name}/")


def _is_true(value: str) -> bool:
    return value.strip().lower() in _TRUE


def _write_lines(path: Path, lines: Iterator[str]) -> Path:
    try:
        atomic_write_text(path, "".join(f"{line}\n" for line in lines), "utf-8")
    except OSError as error:
        problem = "the disk is full" if error.errno in FULL_DISK else f"cannot be written ({error.strerror})"
        raise HangulOcrError(f"{path}: {problem}; make room or check the folder, then run this again") from None
    return path
