"""A free Korean font inside a web page, cut down to what the page shows, for machines that have none."""

from __future__ import annotations

import base64
import importlib.util
from io import BytesIO
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

#: What styles call it.
FAMILY = "Report Hangul"


def font_face(text: str) -> str:
    """Return a style rule with NanumGothic cut down to the characters of ``text``, under the name ``FAMILY``.

    Its licence (SIL OFL) allows that; a font of the system's is never passed on. Empty if the package is not there.
    """
    path = _free_font()
    if path is None:
        return ""
    options = subset.Options(flavor="woff", layout_features=[], hinting=False, notdef_outline=True)
    options.drop_tables += ["TSI0", "TSI1", "TSI2", "TSI3", "TSI5"]  # for editors of the font, and fontTools would warn
    options.name_IDs = ["*"]  # the copyright and licence notes stay with the font
    cutter, buffer = subset.Subsetter(options), BytesIO()
    cutter.populate(text=text)
    with TTFont(path, lazy=True) as font:
        cutter.subset(font)
        font.flavor = "woff"
        font.save(buffer)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'@font-face {{ font-family: "{FAMILY}"; src: url(data:font/woff;base64,{encoded}) format("woff"); }}'


def _free_font() -> Path | None:
    spec = importlib.util.find_spec("koreanize_matplotlib")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return next((path for folder in folders for path in sorted(Path(folder).rglob("NanumGothic.ttf"))), None)
