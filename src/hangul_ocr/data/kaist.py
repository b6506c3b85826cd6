"""The KAIST Scene Text Database: a photograph and an XML file of one name each, words made of characters.

A word has no text of its own; it is its characters' in order (CC BY-SA 3.0; 640 x 480 mostly).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from hangul_ocr.data.archives import FileIndex, StoredFile, UnreadableFile, decode_damaged, scan
from hangul_ocr.data.cropping import BadBox, Photograph, Region, coordinate, rectangle
from hangul_ocr.data.images import Size
from hangul_ocr.data.planning import ImportSettings, Planned
from hangul_ocr.data.sample import LeftOut, clean_label, shortened
from hangul_ocr.hangul import normalise

SOURCE = "kaist"
LAYOUT = "a .xml and an image of one name for each photograph, in folders such as Korean/Digital_Camera, or zips"
_LANGUAGES = frozenset({"english", "korean", "mixed"})
_CAMERAS = frozenset({"digital_camera", "mobile_phone"})
_XML_BYTES = 1 << 24


def plan_kaist(paths: Sequence[Path], settings: ImportSettings) -> Iterator[Planned]:
    """Yield the photographs as work.

    Left out are ``damaged XML`` (entities included, which no file of the set needs), ``XML without images``, ``image
    without words``, ``word without characters``, ``character without text``, ``no box``, ``box without size``,
    ``missing image``, ``ambiguous image``, ``image without XML`` and ``other file``. Raises ``HangulOcrError`` for
    another layout.
    """
    found = scan(paths)
    tables, images = found.with_suffix({".xml"}), FileIndex(found.images())
    if not (tables and images.files):
        half = found.missing_half(".xml", "the .xml files of these images", "the photographs of these .xml files")
        raise found.unknown_layout(f"KAIST: {LAYOUT}", half)
    yield from found.left_out
    yield from found.others({".xml"}, "XML")
    owners = FileIndex(tables)
    for table in tables:
        yield from _photographs(table, images, owners)
    yield from (LeftOut(image.name, "image without XML") for image in images.unused())


def _photographs(table: StoredFile, images: FileIndex, owners: FileIndex) -> Iterator[Planned]:
    """Yield the photographs of one XML file; mostly it is one, and the root is left out in some."""
    try:
        root = fromstring(decode_damaged(table.read(_XML_BYTES)), forbid_dtd=True)
    except (UnreadableFile, ParseError, DefusedXmlException, ValueError, RecursionError) as error:
        images.find(table.stem)
        yield LeftOut(table.name, "damaged XML", shortened(error))
        return
    entries = list(root.iter("image"))
    if not entries:
        images.find(table.stem)
        yield LeftOut(table.name, "XML without images")
    for number, entry in enumerate(entries, start=1):
        alone = len(entries) == 1
        image = _image(entry, table, images, alone)
        if alone and _is_of_another(image, table, owners):
            image = "missing image"
        yield from _photograph(entry, table, image, suffix="" if alone else f"~{number}")


def _image(entry: Element, table: StoredFile, images: FileIndex, alone: bool) -> StoredFile | str:
    """Return the image of the XML file's own name; one of the name inside it if there is none, or several entries."""
    inside = normalise((entry.findtext("imageName") or "").strip())
    own = table.stem + posixpath.splitext(inside)[1]
    for name in (own, inside) if alone else (inside,):
        image = images.find(name, near=table.name)
        if image != "missing image":
            return image
    return "missing image"


def _is_of_another(image: StoredFile | str, table: StoredFile, owners: FileIndex) -> bool:
    """Tell whether an image has an XML file of its own name, or a nearer one of that name, that is not ``table``."""
    own = owners.nearest(image.stem, near=image.name) if isinstance(image, StoredFile) else []
    return bool(own) and table not in own


def _photograph(entry: Element, table: StoredFile, image: StoredFile | str, suffix: str) -> Iterator[Planned]:
    words, regions = list(entry.iter("word")), []
    if not words:
        yield LeftOut(table.name, "image without words")
    for number, word in enumerate(words, start=1):
        item = _region(f"{table.path}{suffix}#{number}", word)
        if isinstance(item, Region) and isinstance(image, StoredFile):
            regions.append(item)
        else:
            yield item if isinstance(item, LeftOut) else LeftOut(item.key, image)
    if regions:
        yield Photograph(image, regions, SOURCE, table.path + suffix, _resolution(entry), True, _facts(entry, table))


def _region(key: str, word: Element) -> Region | LeftOut:
    characters = [character.get("char") for character in word.iter("character")]
    if not characters:
        return LeftOut(key, "word without characters")
    if not all(characters):
        return LeftOut(key, "character without text", "".join(filter(None, characters)))
    text = clean_label("".join(characters))
    try:
        quad = rectangle(*(coordinate(word.get(name)) for name in ("x", "y", "width", "height")))
    except BadBox as error:
        return LeftOut(key, str(error), shortened(word.attrib))
    return Region(key, text, quad)


def _resolution(entry: Element) -> Size | None:
    found = entry.find("resolution")
    try:
        size = (int(found.get("x", "")), int(found.get("y", ""))) if found is not None else None
    except ValueError:
        return None
    return size if size and min(size) > 0 else None


def _facts(entry: Element, table: StoredFile) -> dict[str, str]:
    """Return the photograph's language and camera, which are folders, and what the XML says about it."""
    folders = table.name.split("/")[:-1]
    named = {"language": _LANGUAGES, "camera": _CAMERAS}
    facts = {fact: part for fact, names in named.items() for part in folders if part.lower() in names}
    for name in ("illumination", "difficulty", "tag"):
        if text := normalise((entry.findtext(name) or "").strip()):
            facts[name] = shortened(text)
    return facts
