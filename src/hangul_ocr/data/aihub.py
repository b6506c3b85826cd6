"""AI Hub 105, outdoor photographs with one JSON each, and AI Hub 81's printed, handwritten and augmented characters.

AI Hub 105 (야외 실제 촬영 한글 이미지) comes as folders or as zips of images and of labels, paired by the stems of
their file names. AI Hub 81 (한국어 글자체 이미지) has one large JSON for each of its parts and no boxes: an image is a
sample.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangul_ocr.data.annotations import DamagedJson, ImageRecords, load_json, own_images, plan_images, stream
from hangul_ocr.data.archives import FileIndex, StoredFile, UnreadableFile, same_content, scan
from hangul_ocr.data.cropping import BadBox, Photograph, Region, parse_box
from hangul_ocr.data.images import Size
from hangul_ocr.data.planning import ImportSettings, Planned, WholeImage
from hangul_ocr.data.sample import LeftOut, Sample, clean_label, shortened

OUTDOOR, FONTS = "aihub-outdoor", "aihub-fonts"
OUTDOOR_LAYOUT = "a .json and an image of one name for each photograph, in folders or zips"
FONTS_LAYOUT = "a .json with images and annotations without bbox, and the images it names"
# The labels of one photograph; the one file of AI Hub 81 is a thousand times larger.
_LABEL_BYTES = 1 << 26
# Label files that are looked into to tell which set they are of.
_LOOKED_AT = 5


def plan_outdoor(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield AI Hub 105's photographs as work, and as left out what has no partner.

    Reasons, beside those of :func:`archives.scan` and of the work: ``missing image``, ``ambiguous image`` and
    ``duplicate label file`` (for each box), ``image without label file``, ``other file``. Raises ``HangulOcrError`` for
    another layout.
    """
    found = scan(paths)
    labels, images = found.with_suffix({".json"}), FileIndex(found.images())
    fault = _part_of_another_set(labels, images) or _missing_half(labels, images)
    if fault:
        raise found.unknown_layout(f"AI Hub 105: {OUTDOOR_LAYOUT}", fault)
    yield from found.left_out
    yield from found.others({".json"}, "a label")
    yield from _photographs(labels, images)
    yield from (LeftOut(image.name, "image without label file") for image in images.unused())


def _missing_half(labels: Sequence[StoredFile], images: FileIndex) -> str:
    """Say what else must be named: the labels and the images of this set come in zips of their own."""
    if labels and images.files:
        return ""
    if not (labels or images.files):
        return "neither a label nor an image"
    half, name = ("image", "원천") if labels else ("label", "라벨")
    return f"no {half}: name their folder or zip ([{name}]...), too"


def _part_of_another_set(labels: Sequence[StoredFile], images: FileIndex) -> str:
    """Say which source is meant where no label file has an image of its own name, for one of them names many images."""
    if own_images(labels, images.files):
        return ""
    for label in labels[:_LOOKED_AT]:
        if len(_first(label, "images", 2)) > 1:
            boxes = any("bbox" in record for record in _first(label, "annotations", 100) if isinstance(record, dict))
            return f"{label.name} is of many images: see {'aihub-wild' if boxes else FONTS}"
    return ""


def _first(label: StoredFile, name: str, count: int) -> list[Any]:
    """Return the first entries of a list in a label file; those before it breaks off if it is damaged."""
    entries: list[Any] = []
    with suppress(DamagedJson, UnreadableFile):
        entries.extend(itertools.islice(stream(label, name), count))
    return entries


def _photographs(labels: Sequence[StoredFile], images: FileIndex) -> Iterator[OutdoorPhotograph]:
    """Yield each label file with its image, or why it has none.

    Photographs of one name are told apart by their folders, of which the names of all but the first have to speak.
    """
    owners, kept = FileIndex(labels), {}
    for label in labels:
        name = label.path if label.stem in kept else label.stem
        twins = kept.setdefault(label.stem, [])
        image = images.find(label.stem, near=label.name)
        reason = image if isinstance(image, str) else _contention(label, image, owners, twins)
        if not reason:
            twins.append((label, image))
        yield OutdoorPhotograph(label, reason or image, name)


def _contention(
    label: StoredFile, image: StoredFile, owners: FileIndex, twins: Sequence[tuple[StoredFile, StoredFile]]
) -> str:
    """Return why ``image`` is not for ``label``: a nearer label file is its own, or one before said the same of it."""
    own = owners.nearest(image.stem, near=image.name)
    if own and label != own[0]:
        return "duplicate label file" if label in own or same_content([label, own[0]]) else "missing image"
    is_copy = any(same_content([label, other]) or same_content([image, its]) for other, its in twins)
    return "duplicate label file" if is_copy else ""


@dataclass(frozen=True)
class OutdoorPhotograph:
    """A label file of AI Hub 105 and its image, or the reason why there is none; crops are called by ``name``."""

    label: StoredFile
    image: StoredFile | str
    name: str

    def samples(self, settings: ImportSettings) -> Iterator[Sample | LeftOut]:
        """Yield each box as a sample, or why it is left out: ``damaged label file``, ``no box``, the crop's reasons."""
        try:
            content, annotations = self._read()
        except (DamagedJson, UnreadableFile) as error:
            yield LeftOut(self.label.name, "damaged label file", str(error))
            return
        if not annotations:
            yield LeftOut(self.label.name, "image without annotations")
        regions: list[Region] = []
        for item in self._regions(annotations):
            if isinstance(item, LeftOut):
                yield item
            else:
                regions.append(item)
        if regions:
            size, facts = _declared(content), _metadata(content)
            yield from Photograph(self.image, regions, OUTDOOR, self.name, size, facts=facts).samples(settings)

    def _read(self) -> tuple[dict[str, Any], list[Any]]:
        """Return the label file and its list of annotations. Raises ``DamagedJson`` and ``UnreadableFile``."""
        content = load_json(self.label.read(_LABEL_BYTES))
        annotations = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(annotations, list):
            raise DamagedJson("no list of annotations")
        return content, annotations

    def _regions(self, annotations: list[Any]) -> Iterator[Region | LeftOut]:
        """Yield the boxes to cut; there are none without an image."""
        for number, record in enumerate(annotations, start=1):
            key = f"{self.name}#{number}"
            if not isinstance(record, dict):
                yield LeftOut(key, "damaged entry", shortened(record))
                continue
            text = clean_label(record.get("text"))
            if isinstance(self.image, str):
                yield LeftOut(key, self.image)
            else:
                yield _region(key, text, record)


def plan_fonts(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the images of AI Hub 81's printed, handwritten and augmented parts as work.

    Left out are ``missing image``, ``ambiguous image``, ``image of another label`` (of a part whose own images are not
    there), ``image without entry``, ``other part`` (a JSON with boxes), and what :class:`AnnotationTable` names. Raises
    ``HangulOcrError`` for another layout.
    """
    looked_for = f"AI Hub 81, printed, handwritten or augmented: {FONTS_LAYOUT}"
    yield from plan_images(scan(paths), _font_images, boxes=False, looked_for=looked_for)


def _font_images(records: ImageRecords, images: FileIndex, table: StoredFile) -> Iterator[Planned]:
    """Yield the sample of one image; a second annotation of it is left out, for only one can be what it shows."""
    image = images.find(records.name, near=table.name)
    for number, record in enumerate(records.annotations):
        name = posixpath.join(posixpath.dirname(table.name), records.name)
        if isinstance(image, str):
            yield LeftOut(name, image)
        elif number:
            yield LeftOut(image.name, "duplicate entry", shortened(record.get("text")))
        else:
            attributes = record.get("attributes")
            facts = {k: v for k, v in attributes.items() if _is_fact(v)} if isinstance(attributes, dict) else {}
            text = clean_label(record.get("text"))
            size, rivals = size_of(records.image), _rivals(records, image, images, text)
            yield WholeImage(image, image.name, text, FONTS, facts=facts, declared=size, rivals=rivals)


def _rivals(records: ImageRecords, image: StoredFile, images: FileIndex, text: str) -> tuple[Size | None, ...]:
    """Return the sizes that other parts, which number their images alike, declare for ``image`` under other labels."""
    return tuple(
        size_of(claim.image)
        for claim in records.claims
        if clean_label(claim.annotation.get("text")) != text
        and image in images.nearest(claim.name, near=claim.table.name)
    )


def _region(key: str, text: str, record: dict[str, Any]) -> Region | LeftOut:
    try:
        quad = parse_box(record.get("bbox"))
    except BadBox as error:
        return LeftOut(key, str(error), shortened(record.get("bbox")))
    return Region(key, text, quad, {"id": record["id"]} if _is_fact(record.get("id")) else {})


def _declared(content: dict[str, Any]) -> Size | None:
    """Return the photograph's size as its label file says, None if it does not."""
    images = content.get("images")
    entry = images[0] if isinstance(images, list) and images else images
    return size_of(entry) if isinstance(entry, dict) else None


def size_of(entry: dict[str, Any]) -> Size | None:
    """Return the ``width`` and ``height`` of an image's entry, None if it has none."""
    try:
        size = int(entry.get("width")), int(entry.get("height"))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def _metadata(content: dict[str, Any]) -> dict[str, Any]:
    """Return the photograph's class, subclass, orientation of its words, light and so on."""
    entries = content.get("metadata")
    entry = entries[0] if isinstance(entries, list) and entries else entries
    return {str(name): value for name, value in entry.items() if _is_fact(value)} if isinstance(entry, dict) else {}


def _is_fact(value: object) -> bool:
    return isinstance(value, (str, int, float, bool)) and len(str(value)) < 200
