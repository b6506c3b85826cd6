"""Data sets in the shape of the real ones, with made-up content, written where a test wants them."""

from __future__ import annotations

import io
import json
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hangul_ocr.data.planning import ImportSettings
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import import_samples

RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 180, 30), (30, 30, 200), (200, 200, 30)
Box = tuple[int, int, int, int]
NO_MARGIN = ImportSettings(margin=0)


def photograph(
    width: int = 400, height: int = 300, patches: dict[Box, tuple[int, int, int]] | None = None, orientation: int = 1
) -> bytes:
    """Return a grey JPEG whose boxes (x, y, w, h) are filled with colours, its EXIF orientation merely noted."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    for (x, y, w, h), colour in (patches or {}).items():
        pixels[max(0, y) : y + h, max(0, x) : x + w] = colour
    return jpeg(pixels, orientation)


def jpeg(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def is_of_colour(image: bytes, colour: tuple[int, int, int]) -> bool:
    """Tell whether the middle half of an encoded image is of one colour."""
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    height, width = pixels.shape[:2]
    middle = pixels[
        height // 4 : max(height // 4 + 1, 3 * height // 4), width // 4 : max(width // 4 + 1, 3 * width // 4)
    ]
    return bool(np.abs(middle.reshape(-1, 3).astype(int) - colour).max() < 40)


def size_of(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size


def taken(source: str, *paths: Path, settings: ImportSettings = NO_MARGIN) -> tuple[dict[str, Sample], list[LeftOut]]:
    """Import and return the samples by key, and what was left out. No two items may have one key and reason."""
    items = list(import_samples(source, paths, settings))
    samples = {item.key: item for item in items if isinstance(item, Sample)}
    left_out = [item for item in items if isinstance(item, LeftOut)]
    assert len(samples) + len(left_out) == len(items), "two samples have one key"
    return samples, left_out


def reasons(left_out: Iterable[LeftOut]) -> dict[str, int]:
    return dict(Counter(record.reason for record in left_out))


def write(path: Path, content: bytes | str | dict | list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, (dict, list)):
        content = json.dumps(content, ensure_ascii=False)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


class _RawName(zipfile.ZipInfo):
    """A member whose name is stored in an encoding of choice and without the mark for UTF-8."""

    raw = b""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.raw, self.flag_bits & ~0x800


def write_zip(path: Path, members: dict[str, bytes], encoding: str = "cp949") -> Path:
    """Write a zip as Korean Windows does: names in cp949 and nothing that says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, content) in enumerate(members.items()):
            info = _RawName(f"{number}")
            info.raw, info.compress_type = name.encode(encoding), zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def folder_members(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by their names in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- AI Hub ---------------------------------------------------------------------------------------------------------


def outdoor_json(name: str, boxes: Sequence[tuple[object, object]], width: int = 400, height: int = 300) -> dict:
    """Return a label file of AI Hub 105: ``boxes`` are (bbox, text)."""
    annotations = [{"bbox": box, "id": i, "text": text, "image_id": 1} for i, (box, text) in enumerate(boxes, start=1)]
    image = {"file_name": f"{name}.jpg", "date_created": "20210101", "width": width, "height": height, "id": 1}
    kind = {"class": "실외간판", "subclass": "가로형간판", "wordorientation": "가로", "illuminance": "밝음"}
    info = {"name": name, "date_created": "20210101", "description": ""}
    return {"annotations": annotations, "cropLabels": [], "images": [image], "info": info, "metadata": [kind]}


def wild_json(images: list[dict], annotations: list[dict]) -> dict:
    info = {"name": "Text in the wild Dataset", "date_created": "2019-10-14 04:31:48"}
    return {"info": info, "images": images, "annotations": annotations, "licenses": []}


def wild_image(number: int, name: str, kind: str = "sign", **more: object) -> dict:
    return {"id": f"{number:08d}", "width": 400, "height": 300, "file_name": name, "type": kind, **more}


def wild_entry(number: int, image: int, text: object, box: object, kind: str = "word", **more: object) -> dict:
    entry = {
        "id": f"{number:08d}",
        "image_id": f"{image:08d}",
        "text": text,
        "attributes": {"class": kind},
        "bbox": box,
    }
    return entry | more


# --- KAIST ----------------------------------------------------------------------------------------------------------


def kaist_xml(name: str, words: Sequence[tuple[Box, str]], size: tuple[int, int] = (640, 480)) -> str:
    """Return an XML file of the KAIST set; each word is its characters side by side."""
    parts = []
    for (x, y, w, h), text in words:
        step = w // max(1, len(text))
        characters = "".join(
            f'<character x="{x + i * step}" y="{y}" width="{step}" height="{h}" char="{c}"/>'
            for i, c in enumerate(text)
        )
        parts.append(f'<word x="{x}" y="{y}" width="{w}" height="{h}">\n  {characters}</word>')
    tail = "<illumination>no</illumination><difficulty>2</difficulty><tag></tag>"
    resolution = f'<resolution x="{size[0]}" y="{size[1]}"/>'
    image = f"<imageName>{name}</imageName>{resolution}\n <words>{''.join(parts)}</words>\n {tail}"
    return f"<images><image>{image}</image></images>"
