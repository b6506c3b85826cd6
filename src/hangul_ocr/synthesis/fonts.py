"""Which fonts can really draw Korean: found on the system and in pip packages, and checked glyph by glyph.

A font's cmap lies: several Korean fonts map all 11,172 syllables and leave most of them blank. So a character counts
as covered only where its outline has an extent.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTCollection, TTFont, TTLibError
from PIL import ImageFont
from tqdm.auto import tqdm

from hangul_ocr.hangul import (
    ASCII,
    FIRST_SYLLABLE,
    N_SYLLABLES,
    SIGNS,
    HangulOcrError,
    is_syllable,
    ksx1001_syllables,
)
from hangul_ocr.synthesis.cache import read_cached, write_cached

FONT_PACKAGES = ("koreanize-matplotlib", "pylopdf-fonts-ko")
FONT_SUFFIXES = frozenset({".ttf", ".otf", ".ttc", ".otc", ".woff2"})
# Below this many of KS X 1001's 2,350 syllables a font is a showpiece, not one to set words in.
MIN_SYLLABLES = 2000
# A real font may draw a handful of syllables with one glyph; a placeholder box serves hundreds.
MAX_CHARACTERS_OF_A_GLYPH = 4
VARIABLE_WEIGHTS = (300, 400, 600, 800)
#: The design that training never sees beside a sample competition, by its ``family_key``: Noto Serif KR or CJK.
HELD_OUT = "notoserif"

# What fontTools and FreeType raise on a damaged file.
_DAMAGED = (
    *(TTLibError, HangulOcrError, OSError, struct.error, AssertionError, AttributeError, LookupError, ValueError),
    ImportError,  # a table that some optional package of fontTools reads
)

# Display faces drawn as worn-off paint: most of their syllables cannot be read even large and clean.
_WORN = re.compile(r"10 ?years ?later|oraeorae", re.IGNORECASE)

_CACHE_NAME = "fonts-5.json"
_PROBE_SIZE = 32
_WEIGHT_WORD = re.compile(
    r"[\s_-]*(thin|hairline|(extra|ultra|semi|demi)?[\s-]?light|regular|medium|(semi|demi|extra|ultra)?[\s-]?bold|heavy|black)$",
    re.IGNORECASE,
)
_KINDS = {
    "serif": re.compile(r"serif|myeongjo|myungjo|batang|gungs|명조|바탕|궁서", re.IGNORECASE),
    "hand": re.compile(r"brush|pen|hand|script|jua|yeonsung|kirang|pilgi|손|붓|펜", re.IGNORECASE),
    "mono": re.compile(r"coding|mono|typewriter|코딩", re.IGNORECASE),
}
# How often a family is drawn beside the others: signs prefer these faces, and nobody letters a sign in those.
_SIGN_FACES = re.compile(
    r"do ?hyeon|jua|hanna|euljiro|kirang|yeonsung|black han|square|headline|gugi"
    r"|gothic|dotum|pretendard|noto sans|gungs",
    re.IGNORECASE,
)
_RARE_FACES = re.compile(r"mono|coding|jamo|eco$|yethangul|ligature|_ac$", re.IGNORECASE)


@dataclass(frozen=True)
class FontFace:
    """One drawable face: a file, the face's index in it, and for a variable font its position on the axes.

    ``covers`` holds those characters of ASCII, ``SIGNS`` and KS X 1001's syllables whose glyph has an outline, and
    ``others`` those of the other 8,822 syllables and of KS X 1001's signs (①, ●, ㈜, compatibility jamo ...).
    """

    path: str
    index: int
    family: str
    style: str
    covers: str
    axes: tuple[float, ...] = ()
    others: str = ""

    def load(self, size: int) -> ImageFont.FreeTypeFont:
        """Return this face at ``size`` pixels an em. Raises ``HangulOcrError`` where the file has gone."""
        try:
            font = ImageFont.truetype(self.path, size, index=self.index, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise HangulOcrError(f"cannot read the font {self.path} ({error}): reinstall it") from error
        if self.axes:
            font.set_variation_by_axes(list(self.axes))
        return font

    @property
    def kind(self) -> str:
        """Return the rough kind of design that the family's name tells: serif, hand, mono or sans."""
        return next((kind for kind, pattern in _KINDS.items() if pattern.search(self.family)), "sans")


def family_share(family: str) -> float:
    """Return how often crops should be set in ``family`` beside the others, 1 being plain."""
    if _RARE_FACES.search(family):
        return 0.3
    return 2.0 if _SIGN_FACES.search(family) else 1.0


def find_fonts() -> list[FontFace]:
    """Return every usable Korean face of this machine, ordered by family and style.

    Files that were looked at before come from the cache. Packed web fonts that nothing here unpacks are named on
    stderr. Raises ``HangulOcrError`` where there is no Korean font.
    """
    known = _load_cache()
    files = {_signature(path): path for path in _unpackable(sorted(set(font_files())))}
    fresh = [signature for signature in files if signature not in known]
    for signature in tqdm(fresh, desc="checking fonts", disable=len(fresh) < 20, leave=False):
        known[signature] = [asdict(face) for face in inspect_font(files[signature])]
    if fresh:
        write_cached(_CACHE_NAME, json.dumps(known, ensure_ascii=False))
    faces = [_face_from_json(face) for signature in files for face in known[signature]]
    if not faces:
        raise HangulOcrError(f"no Korean font found: pip install {' '.join(FONT_PACKAGES)}, or install fonts-nanum")
    return _without_twins(faces)


def _unpackable(paths: list[str]) -> list[str]:
    """Leave .woff2 out where brotli is missing, before the cache takes them for fonts without Hangul."""
    packed = [path for path in paths if path.lower().endswith(".woff2")]
    if not packed or importlib.util.find_spec("brotli"):
        return paths
    print(f"{len(packed):,} fonts are not used (first {packed[0]}): pip install brotli to read .woff2", file=sys.stderr)
    return [path for path in paths if path not in packed]


def inspect_font(path: str | Path) -> list[FontFace]:
    """Return the usable Korean faces of one font file; none where it is damaged or draws too little Hangul."""
    try:
        return [face for index, font in _open_faces(Path(path)) for face in _usable_faces(Path(path), index, font)]
    except _DAMAGED:
        return []


def family_key(family: str) -> str:
    """Return what two names of one design share: ``Noto Sans CJK KR`` and ``Noto Sans KR`` are the same drawing."""
    words = [word for word in family.lower().split() if word not in {"cjk", "kr", "jp", "sc", "tc", "hk"}]
    return "".join(words)


def split_families(faces: Iterable[FontFace], seed: int, n_held_out: int = 1) -> tuple[list[FontFace], list[FontFace]]:
    """Split by family into faces to train with and faces to hold out; all weights of a family stay together.

    At least one family stays for training. ``HELD_OUT`` goes first: it comes with a pip package, so that every machine
    holds out the same design, and the weights that ship have not seen it. After it, families whose kind (sans, serif
    ...) has another member, so that training still sees every kind; among those the ones with the fewest faces, so
    that it loses the least variety.
    """
    faces = list(faces)
    held: set[str] = set()
    for _ in range(n_held_out):
        left = [face for face in faces if family_key(face.family) not in held]
        if len({family_key(face.family) for face in left}) < 2:
            break
        held.add(_next_to_hold_out(left, seed + len(held)))
    train = [face for face in faces if family_key(face.family) not in held]
    return train, [face for face in faces if family_key(face.family) in held]


def _next_to_hold_out(faces: list[FontFace], seed: int) -> str:
    members: dict[str, set[str]] = defaultdict(set)
    for face in faces:
        members[face.kind].add(family_key(face.family))
    n_faces = Counter(family_key(face.family) for face in faces)
    if HELD_OUT in n_faces:
        return HELD_OUT
    spare = sorted(key for keys in members.values() if len(keys) > 1 for key in keys) or sorted(n_faces)
    fewest = [key for key in spare if n_faces[key] == min(n_faces[other] for other in spare)]
    return fewest[int(np.random.default_rng(seed).integers(len(fewest)))]


def font_files() -> list[str]:
    """Return the paths of font files that may be Korean: the system's, and those of the installed font packages.

    ``$HANGUL_OCR_FONTS`` names further folders, as ``$PATH`` does.
    """
    own = [Path(folder) for folder in os.environ.get("HANGUL_OCR_FONTS", "").split(os.pathsep) if folder]
    system = _fontconfig_fonts() if shutil.which("fc-list") else _fonts_below(_system_folders())
    return _package_fonts() + _fonts_below(own) + system


def _package_fonts() -> list[str]:
    """Return font files by the packages' own records: importing koreanize-matplotlib needs distutils and fails."""
    found = []
    for package in FONT_PACKAGES:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found += [str(file.locate()) for file in files if file.suffix.lower() in FONT_SUFFIXES]
    return [path for path in found if Path(path).is_file()]


def _fontconfig_fonts() -> list[str]:
    """Return the files in which fontconfig sees the syllable 가 (U+AC00)."""
    command = ["fc-list", ":charset=ac00", "file"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return _fonts_below(_system_folders())
    paths = [line.strip().rstrip(":") for line in listed.splitlines()]
    return [path for path in paths if Path(path).suffix.lower() in FONT_SUFFIXES and Path(path).is_file()]


def _fonts_below(folders: Iterable[Path]) -> list[str]:
    files = (path for folder in folders if folder.is_dir() for path in folder.rglob("*"))
    return [str(path) for path in files if path.suffix.lower() in FONT_SUFFIXES and path.is_file()]


def _system_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        return [Path(os.environ.get("WINDIR") or "C:/Windows") / "Fonts", local / "Microsoft" / "Windows" / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    own = [home / ".fonts", home / ".local" / "share" / "fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), *own]


def _signature(path: str) -> str:
    status = os.stat(path)
    return f"{path}|{status.st_mtime_ns}|{status.st_size}"


def _load_cache() -> dict[str, list[dict]]:
    try:
        known = json.loads(read_cached(_CACHE_NAME) or "{}")
    except json.JSONDecodeError:
        return {}
    return known if isinstance(known, dict) else {}


def _face_from_json(record: dict) -> FontFace:
    # Most faces draw the same characters: one string for all of them keeps a renderer with many faces small.
    shared = {name: sys.intern(record[name]) for name in ("covers", "others")}
    return FontFace(**{**record, **shared, "axes": tuple(record["axes"])})


def _open_faces(path: Path) -> list[tuple[int, TTFont]]:
    """Return (index, face) of a file; of a regional collection (JP, KR, SC, TC) the Korean face or else the first."""
    if path.suffix.lower() not in {".ttc", ".otc"}:
        return [(0, TTFont(path, lazy=True))]
    faces = list(enumerate(TTCollection(path, lazy=True).fonts))
    korean = [(i, face) for i, face in faces if " KR" in (face["name"].getBestFamilyName() or "")]
    regional = any(" JP" in (face["name"].getBestFamilyName() or "") for _, face in faces)
    return (korean or faces[:1]) if regional else faces


def _usable_faces(path: Path, index: int, font: TTFont) -> list[FontFace]:
    family, style = _names(font, path)
    face = FontFace(str(path), index, family, style, "")
    if ord("가") not in (cmap := font.getBestCmap() or {}) or _WORN.search(family):
        return []
    covers = _outlined(face, cmap, ASCII + SIGNS + ksx1001_syllables())
    if sum(map(is_syllable, covers)) < MIN_SYLLABLES:
        return []
    face = replace(face, covers=covers, others=_outlined(face, cmap, other_characters()))
    return [replace(face, style=name, axes=axes) for name, axes in _weights(font, style)]


@cache
def other_characters() -> str:
    """Return what is looked for in a face beside ASCII, ``SIGNS`` and KS X 1001's syllables, in code-point order."""
    syllables = map(chr, range(FIRST_SYLLABLE, FIRST_SYLLABLE + N_SYLLABLES))
    found = {*syllables, *_ksx1001_signs(), *"⑯⑰⑱⑲⑳•✓✔❤₩"}
    return "".join(sorted(found - set(ASCII + SIGNS + ksx1001_syllables())))


def _ksx1001_signs() -> str:
    """Return the first twelve rows of KS X 1001: marks, units, jamo, circled and bracketed letters, other alphabets."""
    codes = (bytes((row, cell)) for row in range(0xA1, 0xAD) for cell in range(0xA1, 0xFF))
    return "".join(code.decode("euc_kr", "ignore") for code in codes)


def _names(font: TTFont, path: Path) -> tuple[str, str]:
    """Return family and style in English, the weight moved from the family's name to the style."""
    family = font["name"].getBestFamilyName() or path.stem
    style = font["name"].getBestSubFamilyName() or "Regular"
    while len(shorter := _WEIGHT_WORD.sub("", family)) < len(family) and shorter:
        style, family = f"{family[len(shorter) :].strip(' _-')} {style}", shorter
    return family, style


def _outlined(face: FontFace, cmap: dict[int, str], characters: str) -> str:
    """Return those that the face maps, draws with some extent, and does not draw with a shared placeholder."""
    wanted = [c for c in characters if cmap.get(ord(c), ".notdef") != ".notdef"]
    users = Counter(cmap[ord(c)] for c in wanted)
    font = face.load(_PROBE_SIZE)
    return "".join(c for c in wanted if users[cmap[ord(c)]] <= MAX_CHARACTERS_OF_A_GLYPH and _has_outline(font, c))


def _has_outline(font: ImageFont.FreeTypeFont, character: str) -> bool:
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    return right > left and bottom > top  # Pillow counts the advance as width: a blank glyph has no height


def _weights(font: TTFont, style: str) -> list[tuple[str, tuple[float, ...]]]:
    """Return (style, axes) for each weight to draw: one for a static font, several for a variable one."""
    axes = font["fvar"].axes if "fvar" in font else []
    weight = next((axis for axis in axes if axis.axisTag == "wght"), None)
    if weight is None:
        return [(style, ())]
    values = [value for value in VARIABLE_WEIGHTS if weight.minValue <= value <= weight.maxValue]
    return [
        (f"wght {value}", tuple(float(value if axis is weight else axis.defaultValue) for axis in axes))
        for value in values or [int(weight.defaultValue)]
    ]


def _without_twins(faces: list[FontFace]) -> list[FontFace]:
    """Drop a second copy of the same face (a system font that a package brings as well), and order by name."""
    unique = {(family_key(face.family), face.style): face for face in reversed(faces)}
    return sorted(unique.values(), key=lambda face: (face.family, face.style, face.path))
