"""The look that all figures share: a font that draws Hangul, a colour-blind-safe palette, and saving without halves."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from hangul_ocr.hangul import HangulOcrError

# Okabe and Ito's palette ("Color Universal Design", 2008): told apart in every common form of colour blindness.
BLUE, ORANGE, VERMILLION, GREEN, SKY, PURPLE = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#56B4E9", "#CC79A7"
INK, GREY, PALE = "#222222", "#707070", "#D9D9D9"
RIGHT, WRONG = BLUE, VERMILLION
WIDTH = 9.0
DPI = 150

# What holds on saving too. Each figure says its layout itself: a notebook's default must not rearrange the sheets of
# crops. And the font's own hinting makes the thin strokes of its arrows vanish at small sizes.
_SAVING: dict[str, Any] = {
    "figure.constrained_layout.use": False,
    "figure.autolayout": False,
    "text.hinting": "force_autohint",
}
_STYLE: dict[str, Any] = _SAVING | {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.unicode_minus": False,
    "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY]),
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "font.size": 10,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    # A label such as "$5 ... $7" is text, not a formula.
    "text.parse_math": False,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}

# Plain text faces first: any other Korean font may be a brush or a signboard face, unreadable in small type.
_TEXT_FACES = (
    "nanumgothic",
    "nanumbarungothic",
    "notosanskr",
    "notosanscjk",
    "sourcehansans",
    "malgun",
    "applesdgothicneo",
    "applegothic",
    "undotum",
    "pretendard",
)
_FONT_PACKAGES = ("koreanize_matplotlib", "pylopdf_fonts_ko")
_PROBES = "가힣뷁ㄱ"
_OTHER_SYMBOLS = "DejaVu Sans"

P = ParamSpec("P")


class Picture(Figure):
    """A matplotlib figure that a notebook shows even where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def use_korean_font() -> str:
    """Make matplotlib draw Hangul (and the plain minus sign) from now on; return the font family's name.

    Takes the system's Korean text faces, then the TTF files of the pip packages koreanize-matplotlib and
    pylopdf-fonts-ko (found without importing them), then any other font of the system; of all these only such as truly
    have outlines. Raises ``HangulOcrError`` if there is none.
    """
    family = _register_korean_font()
    # DejaVu stands behind it for the symbols that a Korean font lacks.
    mpl.rcParams["font.family"] = [family, _OTHER_SYMBOLS]
    mpl.rcParams["axes.unicode_minus"] = False
    return family


def draws(path: str | Path, characters: str = _PROBES) -> bool:
    """Tell whether the font file has an outline for each of ``characters``; its cmap alone proves nothing."""
    try:
        font = FT2Font(str(path))
        return all(_has_outline(font, character) for character in characters)
    except (OSError, RuntimeError):
        return False


def drawn(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function that makes a figure: it runs in the common style, whatever the caller's own settings are."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        use_korean_font()
        with mpl.rc_context(_STYLE):
            figure = function(*args, **kwargs)
            # Ticks are made when first drawn and read the settings then: make them while the style holds.
            figure.draw_without_rendering()
        return figure

    return wrapper


def new_figure(height: float, width: float = WIDTH, layout: str | None = "constrained") -> Figure:
    """Return an empty figure of this size in inches, tied to no window and to no global list."""
    return Picture(figsize=(width, height), layout=layout)


def headline(figure: Figure, title: str) -> None:
    """Write what one should look at over the whole figure, smaller where the line would leave it."""
    fit(figure.suptitle(title, x=0.01, ha="left"), figure.get_figwidth() - 0.15)


def fit(text: Text, width: float) -> None:
    """Shrink a text, if need be, until it is at most ``width`` inches wide."""
    drawn_width = text.get_window_extent().width / text.figure.dpi
    text.set_fontsize(text.get_fontsize() * min(1.0, width / max(drawn_width, 1e-6)))


def sentence_figure(sentence: str) -> Figure:
    """Return a small figure that says in words why there is nothing to draw."""
    figure = new_figure(1.0, layout=None)
    figure.text(0.5, 0.5, sentence, ha="center", va="center", color=GREY, fontsize=11)
    return figure


def sentence_axes(ax: Any, sentence: str) -> None:
    """Turn one panel of a figure into a sentence."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, sentence, ha="center", va="center", color=GREY, transform=ax.transAxes, wrap=True)


def percent_axis(axis: Any) -> None:
    """Label an axis of shares (0..1) in percent."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def number_axis(axis: Any) -> None:
    """Label an axis in plain numbers (10,000)."""
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def count_axis(axis: Any) -> None:
    """Label an axis of whole numbers."""
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    number_axis(axis)


def log_axis(axis: Any, subs: Sequence[float] = (1, 2, 5)) -> None:
    """Make an axis logarithmic, labelled in plain numbers at ``subs`` times the powers of ten."""
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    number_axis(axis)


def shown(text: str) -> str:
    """Return ``text`` as a figure shows it: each space as ␣, control characters as the replacement mark."""
    return "".join("␣" if c.isspace() else (c if c.isprintable() else "\ufffd") for c in text)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write ``figure`` as a tight PNG of 150 dpi, aside and then renamed, making its folder; return the path."""
    path = Path(path)
    aside = path.with_suffix(path.suffix + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(_SAVING):
            figure.savefig(aside, format="png", dpi=DPI, bbox_inches="tight")
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise HangulOcrError(
            f"cannot write the figure {path}: {error.strerror}; free space or name another folder"
        ) from None
    return path


def png_bytes(figure: Figure, dpi: float | None = None) -> bytes:
    """Return ``figure`` as a tight PNG of ``dpi``, by default its own."""
    buffer = BytesIO()
    with mpl.rc_context(_SAVING):
        figure.savefig(buffer, format="png", dpi=dpi or "figure", bbox_inches="tight")
    return buffer.getvalue()


@functools.cache
def _register_korean_font() -> str:
    for path in _candidates():
        if draws(path):
            _add(path)
            return font_manager.FontProperties(fname=str(path)).get_name()
    raise HangulOcrError(
        "no font on this machine draws Hangul: pip install koreanize-matplotlib, or install fonts-nanum"
    )


def _candidates() -> Iterator[Path]:
    system = sorted(map(Path, font_manager.findSystemFonts()))
    yield from _text_faces(system)
    for package in _FONT_PACKAGES:
        yield from _text_faces(_package_fonts(package))
    yield from system


def _text_faces(paths: Iterable[Path]) -> list[Path]:
    """Return the regular cuts of the known text faces, in the order of preference."""
    ranked = []
    for path in paths:
        stem = path.stem.lower().replace("-", "").removesuffix("regular")
        ranked += [(rank, stem, path) for rank, face in enumerate(_TEXT_FACES) if stem == face]
    return [path for *_, path in sorted(ranked)]


def _package_fonts(package: str) -> list[Path]:
    """Return the font files inside an installed package, without running any of its code."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return sorted(path for folder in folders for path in Path(folder).rglob("*.[to]tf"))


def _add(path: Path) -> None:
    """Register a font, and as its bold the bold cut beside it (itself where there is none)."""
    font_manager.fontManager.addfont(path)
    _register_bold(next((bold for bold in _bold_cuts(path) if draws(bold)), path))


def _bold_cuts(path: Path) -> list[Path]:
    stem = path.stem.removesuffix("-Regular")
    names = (f"{stem}Bold", f"{stem}-Bold", f"{stem}bd")
    return [bold for name in names if (bold := path.with_name(name + path.suffix)).is_file()]


def _register_bold(path: Path) -> None:
    """Register ``path`` as the weight that "bold" asks for: some bold cuts call themselves something else."""
    fonts = font_manager.fontManager
    fonts.addfont(path)
    fonts.ttflist[-1] = dataclasses.replace(fonts.ttflist[-1], weight=700)


def _has_outline(font: FT2Font, character: str) -> bool:
    if not font.get_char_index(ord(character)):
        return False
    font.load_char(ord(character))
    return len(font.get_path()[0]) > 0
