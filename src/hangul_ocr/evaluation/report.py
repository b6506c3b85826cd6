"""One HTML file that shows the errors and needs nothing else: no server, no network, no folder of pictures beside it.

Pictures are data URIs, styles and script lie inside, and a Content-Security-Policy forbids every request. Labels, file
names and the like come from strangers: they are escaped here, and the script writes them as text nodes alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import cv2
import numpy as np
import pandas as pd

from hangul_ocr.evaluation.errors import MATCH, SUBSTITUTE, align, confused_pairs
from hangul_ocr.evaluation.gallery import EVERYTHING, ORDERS, VIEWS, choices, view
from hangul_ocr.evaluation.slices import DIMENSIONS, readable, slice_report, tags_of
from hangul_ocr.evaluation.webfont import font_face

MEGABYTE = 1_000_000
#: Crops are kept within these pixels, as WebP of this quality: enough to zoom into, some 3 kB each.
_LONG_SIDE, _SHORT_SIDE, _QUALITY = 720, 160, 80
_MARKS = {MATCH: "=", SUBSTITUTE: "~"}
_SHOWN_SLICES, _SHOWN_PAIRS = 30, 24


@dataclass(frozen=True)
class Section:
    """Charts under one heading: ``pictures`` are (PNG bytes, caption, which is also read out)."""

    anchor: str
    title: str
    korean: str
    pictures: Sequence[tuple[bytes, str]]
    text: str = ""


@dataclass(frozen=True)
class Report:
    """What a report shows. ``frame`` is an error frame with slices, ``crops`` the encoded pictures by path.

    Rows of ``frame`` without a picture in ``crops`` are counted in tables and charts, but not among the crops shown.
    ``cards`` are (number, what it is).
    """

    title: str
    subtitle: str
    frame: pd.DataFrame
    crops: Mapping[str, str]
    cards: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    coverage: str = ""
    footer: str = ""


def render(report: Report) -> str:
    """Return the whole page."""
    script = _resource("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data, page = _data(report), _resource("report.html")
    parts = {
        "SCRIPT_HASH": f"sha256-{digest}",
        "TITLE": html.escape(report.title),
        "SUBTITLE": html.escape(report.subtitle),
        "FONT_FACE": font_face(data + page + report.title + report.subtitle + _headings(report.sections)),
        "CARDS": "".join(_card(number, what) for number, what in report.cards),
        "NAV": "".join(f'<a href="#{s.anchor}">{html.escape(s.title)}</a>' for s in report.sections),
        "COVERAGE": html.escape(report.coverage),
        "SLICES": _table(readable(slice_report(report.frame)).head(_SHOWN_SLICES)),
        "FIGURES": "".join(map(_section, report.sections)),
        "FOOTER": html.escape(report.footer),
        "DATA": data,
        "SCRIPT": script,
    }
    # One pass over the template: a label that spells a placeholder must stay a label.
    pieces = page.split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces[1:]))


def crop_uri(image: np.ndarray) -> str:
    """Return a crop (H, W, 3) or (H, W), uint8 RGB, as a data URI (WebP), shrunk if it is large."""
    height, width = image.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width), _SHORT_SIDE / min(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(
        ".webp", image[..., ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY]
    )
    return f"data:image/webp;base64,{base64.b64encode(encoded[1].tobytes()).decode()}"


def by_interest(frame: pd.DataFrame) -> list[str]:
    """Return all paths of an error frame in the order in which a report of limited size takes them.

    The wrong rows, surest first, then the right ones, least sure first.
    """
    confidence = frame["confidence"] if "confidence" in frame else pd.Series(0.0, index=frame.index)
    interest = confidence.fillna(0.0).where(~frame["correct"], -1 - confidence.fillna(0.0))
    return frame.loc[interest.sort_values(ascending=False, kind="stable").index, "img_path"].tolist()


def _data(report: Report) -> str:
    """Return the rows and controls as JSON that may stand inside a script element."""
    frame = report.frame[report.frame["img_path"].isin(report.crops.keys())].reset_index(drop=True)
    filters = choices(frame)
    rows = [_row(row, report.crops[row["img_path"]], filters) for row in frame.to_dict("records")]
    pairs = confused_pairs(frame["text"].tolist(), frame["prediction"].tolist(), _SHOWN_PAIRS)
    shown = [{"name": _shown_name(column), "values": values} for column, values in filters.items()]
    value = {
        "rows": rows,
        "views": [{"name": name, "rows": _positions(frame, name)} for name in VIEWS],
        "orders": [{"name": name, "key": key, "ascending": ascending} for name, (key, ascending) in _orders().items()],
        "filters": shown,
        "pairs": pairs[["expected", "predicted", "count"]].to_numpy().tolist(),
    }
    # "</script>" in a label would end the element, and "<!--" change how the rest is read.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _positions(frame: pd.DataFrame, name: str) -> list[int]:
    rows = frame if name == EVERYTHING else view(frame, name)
    return [int(i) for i in rows.index]


def _orders() -> dict[str, tuple[str, bool]]:
    names = {"confidence": "confidence", "n_edits": "edits", "length": "length", "text": "text", "img_path": "path"}
    return {name: (names.get(column, ""), ascending) for name, (column, ascending) in ORDERS.items()}


def _row(row: Mapping[str, object], image: str, filters: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """Return one crop for the script; ``ops`` are [mark, expected, predicted] with = for what agrees."""
    confidence = row.get("confidence")
    known = isinstance(confidence, float) and math.isfinite(confidence)
    single = [column for column in filters if column not in ("error_kind", "tags")]
    facts = {_shown_name(column): str(row[column]) for column in single if not pd.isna(row[column])}
    if tags := tags_of(row.get("tags")):
        facts[_shown_name("tags")] = [str(tag) for tag in tags]
    facts[_shown_name("error_kind")] = str(row["error_kind"])
    if not pd.isna(row.get("width", math.nan)):
        facts["pixels"] = f"{int(row['width'])} × {int(row['height'])}"
    return {
        "path": row["img_path"],
        "text": row["text"],
        "prediction": row["prediction"],
        "confidence": round(float(confidence), 4) if known else None,
        "correct": bool(row["correct"]),
        "kind": row["error_kind"],
        "edits": int(row["n_edits"]),
        "length": int(row["length"]),
        "ops": [[_MARKS.get(o.kind, "!"), o.expected, o.predicted] for o in align(row["text"], row["prediction"])],
        "facts": facts,
        "image": image,
    }


def _shown_name(column: str) -> str:
    return DIMENSIONS.get(column, "kind of error" if column == "error_kind" else column)


def _card(number: str, what: str) -> str:
    return f'<div class="card"><b>{html.escape(number)}</b><span>{html.escape(what)}</span></div>'


def _table(table: pd.DataFrame) -> str:
    """Return a table whose first two columns are names; every cell is escaped."""
    kinds = ['class="name"' if i < 2 else "" for i in range(table.shape[1])]
    head = "".join(f"<th {kind}>{html.escape(str(c))}</th>" for kind, c in zip(kinds, table.columns, strict=True))
    rows = [
        "".join(f"<td {kind}>{html.escape(str(value))}</td>" for kind, value in zip(kinds, row, strict=True))
        for row in table.itertuples(index=False)
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _section(section: Section) -> str:
    pictures = "".join(
        f'<figure><img alt="{html.escape(caption, quote=True)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}"><figcaption>{html.escape(caption)}</figcaption>'
        "</figure>"
        for png, caption in section.pictures
    )
    heading = f"{html.escape(section.title)} <small>{html.escape(section.korean)}</small>"
    text = f'<p class="soft">{html.escape(section.text)}</p>' if section.text else ""
    return f'<section id="{section.anchor}"><h2>{heading}</h2>{text}{pictures}</section>'


def _headings(sections: Sequence[Section]) -> str:
    captions = (caption for section in sections for _, caption in section.pictures)
    return "".join([*(section.title + section.korean + section.text for section in sections), *captions])


@cache
def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
