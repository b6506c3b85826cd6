"""Hands planned work out through joblib, to the cores of this machine or to a cluster, and gives it back in order.

The backends ``loky`` (processes, joblib's own choice), ``threading``, ``dask`` and ``ray`` do the same. On a cluster
the workers must see the data set's files under the same paths; the store is written where the call is made.
"""

from __future__ import annotations

import importlib
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import cv2
from joblib import Parallel, cpu_count, delayed, effective_n_jobs, parallel_config

from hangul_ocr.data.lmdb_writer import Record, as_record
from hangul_ocr.data.planning import ImportSettings, Planned, do
from hangul_ocr.data.sample import LeftOut, Sample, shortened
from hangul_ocr.hangul import HangulOcrError

Items = list[Record | LeftOut]
# Pieces of work in one call of a worker; calls of each worker in a stretch of the plan, of which two are under way;
# and how many finished items, which hold images, a stretch may have.
_CALL, _CALLS, _FINISHED = 16, 8, 256


@dataclass(frozen=True)
class Workers:
    """Whom the work is given to: so many ``count`` (all cores if None) of joblib's ``backend``."""

    count: int | None = None
    backend: str = "loky"

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Have them at hand: on a cluster, connect to it first, or start one of this machine's cores.

        Raises ``HangulOcrError`` for an unknown backend, and if workers die in the meantime.
        """
        try:
            with _cluster(self.backend):
                yield
        except BrokenExecutor:
            raise HangulOcrError(
                "a worker died, most likely for want of memory; run the same command again with fewer --workers"
            ) from None

    def results(self, plan: Iterator[Planned], settings: ImportSettings) -> Iterator[tuple[Planned, Items]]:
        """Yield each planned item and what it comes to, in the order of the plan, doing two stretches at a time.

        The next stretch is planned while the workers have one to do, and no more than two wait in memory.
        """
        underway: deque[_Stretch] = deque()
        try:
            for items in _stretches(plan, _CALL * _CALLS * self._number()):
                underway.append(_Stretch(items, self, settings))
                if len(underway) > 1:
                    yield from underway[0].results()
                    underway.popleft()
            for stretch in underway:
                yield from stretch.results()
        finally:
            for stretch in underway:
                stretch.cancel()

    def call(self, calls: list) -> Iterator:
        """Return the results of joblib's ``delayed`` calls in order; all are under way or done when this returns."""
        # Ray's backend for joblib cannot return results one by one, so there a stretch is waited for.
        return_as = "list" if self.backend == "ray" else "generator"
        with self._config():
            return iter(Parallel(return_as=return_as, batch_size=1, pre_dispatch="all")(calls))

    def _number(self) -> int:
        with self._config():
            return effective_n_jobs(-1 if self.count is None else self.count)

    def _config(self) -> parallel_config:
        return parallel_config(backend=self.backend, n_jobs=self.count or cpu_count())


class _Stretch:
    """Consecutive items of a plan; the work among them is under way."""

    def __init__(self, items: list[Planned], workers: Workers, settings: ImportSettings) -> None:
        self._items = items
        works = [item for item in items if not _is_finished(item)]
        parts = [works[start : start + _CALL] for start in range(0, len(works), _CALL)]
        # Starting processes takes longer than a little work.
        few = len(parts) < 2
        self._calls = (
            map(_do_all, parts, [settings] * len(parts))
            if few
            else workers.call([delayed(_do_all)(part, settings) for part in parts])
        )

    def results(self) -> Iterator[tuple[Planned, Items]]:
        done = (items for part in self._calls for items in part)
        for planned in self._items:
            yield planned, [as_record(planned)] if _is_finished(planned) else next(done)

    def cancel(self) -> None:
        if hasattr(self._calls, "close"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # joblib regrets what it did in vain
                self._calls.close()


def _do_all(works: list[Planned], settings: ImportSettings) -> list[Items]:
    """Do some work where this is called. Every core has a worker, so OpenCV must not start threads for all of them."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return [_done(work, settings) for work in works]
    finally:
        cv2.setNumThreads(threads)


def _done(work: Planned, settings: ImportSettings) -> Items:
    """Return what a piece of work comes to. One that fails is left out: it must not end an import of a million."""
    items: Items = []
    try:
        for item in do(work, settings):
            items.append(as_record(item))
    except HangulOcrError:
        raise
    except Exception as error:
        items.append(LeftOut(_in_a_line(repr(work)), "failed", _in_a_line(f"{type(error).__name__}: {error}")))
    return items


def _in_a_line(text: str) -> str:
    return shortened(" ".join(text.split()), 200)


def _stretches(plan: Iterator[Planned], works: int) -> Iterator[list[Planned]]:
    """Yield the plan in lists of ``works`` pieces of work, or fewer if finished items are among them."""
    items: list[Planned] = []
    finished = 0
    for item in plan:
        items.append(item)
        finished += _is_finished(item)
        if finished == _FINISHED or len(items) - finished == works:
            yield items
            items, finished = [], 0
    yield items


def _is_finished(planned: Planned) -> bool:
    return isinstance(planned, (Sample, LeftOut))


def _cluster(backend: str) -> AbstractContextManager:
    """Return what keeps a backend usable. Raises ``HangulOcrError`` if it is unknown or not installed."""
    clusters = {"dask": _dask, "ray": _ray, "loky": nullcontext, "threading": nullcontext}
    if backend not in clusters:
        raise HangulOcrError(f"backend {backend!r} is unknown; choose one of {', '.join(clusters)}")
    try:
        return clusters[backend]()
    except ImportError as error:
        raise HangulOcrError(f"backend {backend!r} needs a package ({error}); install it") from None


def _dask() -> AbstractContextManager:
    """Use the client there is; else one of the scheduler that Dask's configuration names, or of this machine."""
    distributed = importlib.import_module("distributed")
    try:
        distributed.get_client()
    except ValueError:
        return distributed.Client()
    return nullcontext()


def _ray() -> AbstractContextManager:
    importlib.import_module("ray.util.joblib").register_ray()
    return nullcontext()
