"""A gallery of errors to turn over in a notebook: view, search, filters and order, and the crops that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hangul_ocr.evaluation import plots
from hangul_ocr.evaluation.gallery import ORDERS, VIEWS, choices, filtered, ordered, search, view
from hangul_ocr.evaluation.slices import DIMENSIONS
from hangul_ocr.evaluation.style import png_bytes

ANY = "any"


class ErrorBrowser:
    """Widgets over an ``errors.error_frame``; the last line of a cell shows them.

    ``fetch`` returns the crops (uint8 arrays) with given paths, and is asked for those of one page only. ``frame`` may
    be filtered by hand before; :meth:`chosen` returns what fits the widgets, to go on with in the next cell.
    """

    def __init__(
        self, frame: pd.DataFrame, fetch: Callable[[Sequence[str]], list[np.ndarray]], per_page: int = 12
    ) -> None:
        self.frame, self.fetch, self.per_page = frame.reset_index(drop=True), fetch, per_page
        self.view = widgets.Dropdown(options=VIEWS, description="view")
        self.query = widgets.Text(placeholder="a syllable, a string, a file name · 글자", description="search")
        self.order = widgets.Dropdown(options=list(ORDERS), description="order")
        self.filters = {column: _dropdown(column, values) for column, values in choices(self.frame).items()}
        self.page = widgets.BoundedIntText(value=1, min=1, max=1, description="page")
        self.count = widgets.Label()
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        for control in (self.view, self.query, self.order, *self.filters.values()):
            control.observe(self._start_over, "value")
        self.page.observe(self._draw, "value")
        self._draw()

    def chosen(self) -> pd.DataFrame:
        """Return the rows that fit, in the order shown."""
        rows = search(view(self.frame, self.view.value), self.query.value)
        values = {column: "" if control.value == ANY else control.value for column, control in self.filters.items()}
        return ordered(filtered(rows, values), self.order.value)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        above = widgets.HBox([self.view, self.query, self.order], layout=_wrapping())
        below = widgets.HBox(list(self.filters.values()), layout=_wrapping())
        display(widgets.VBox([above, below, widgets.HBox([self.page, self.count]), self.picture]))

    def _start_over(self, _: object) -> None:
        if self.page.value == 1:
            self._draw()
        else:
            self.page.value = 1  # which draws

    def _draw(self, _: object = None) -> None:
        rows = self.chosen()
        self.page.max = max(1, math.ceil(len(rows) / self.per_page))
        first = (self.page.value - 1) * self.per_page
        shown = rows.iloc[first : first + self.per_page]
        self.count.value = f"of {self.page.max:,} · {len(rows):,} of {len(self.frame):,} crops fit"
        self.picture.value = png_bytes(self._gallery(shown))

    def _gallery(self, rows: pd.DataFrame) -> Figure:
        title = f"{self.view.value}: label above, reading below, what differs is coloured" if len(rows) else None
        texts, predictions = rows["text"].tolist(), rows["prediction"].tolist()
        sure = rows["confidence"].tolist() if "confidence" in rows else None
        return plots.gallery(self.fetch(rows["img_path"].tolist()), texts, predictions, sure, title=title)


def _dropdown(column: str, values: Sequence[str]) -> widgets.Dropdown:
    name = DIMENSIONS.get(column, "kind of error" if column == "error_kind" else column)
    return widgets.Dropdown(options=[ANY, *values], description=name.split(" character")[0])


def _wrapping() -> widgets.Layout:
    return widgets.Layout(flex_flow="row wrap")
