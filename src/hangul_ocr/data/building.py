"""Builds a store from a plan of work: many read and cut, one writes in order, and a build that was killed goes on.

What is written follows from the plan alone: a store holds the same whoever did the work, and however often it was
interrupted.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hangul_ocr.data.archives import StoredFile
from hangul_ocr.data.corrections import Corrections
from hangul_ocr.data.lmdb_store import Manifest
from hangul_ocr.data.lmdb_writer import (
    Outdated,
    Progress,
    StoreWriter,
    completed,
    explained,
    opened_store,
    place_aside,
    put_in_place,
    refuse_foreign,
    with_corrections,
)
from hangul_ocr.data.planning import ImportSettings, Planned
from hangul_ocr.data.sample import Sample
from hangul_ocr.data.workers import Workers

Plan = Callable[[], Iterator[Planned]]
_GO_ON = "run the same command again: it goes on where it was"


def build_lmdb(
    path: Path,
    plan: Plan,
    chosen: ImportSettings,
    *,
    settings: dict[str, Any],
    workers: Workers | None = None,
    shards: int = 1,
    corrections: Corrections | None = None,
) -> Manifest:
    """Write what ``plan()`` comes to as the store ``path``, in so many ``shards``, and return its manifest.

    If that ends early, by a kill or a full disk for instance, the next call with the same plan, files and ``settings``
    (the manifest's) goes on where it was; a former store stays until then. ``corrections`` drop samples or label them
    anew on the way; the manifest tells what became of each. Raises ``HangulOcrError`` for a full disk, workers that
    die, nothing kept, a foreign folder at ``path`` or beside it, and whatever ``plan`` says.
    """
    path = Path(path).absolute()  # "." has no name to put a store beside
    refuse_foreign(path)
    aside, workers = place_aside(path), workers or Workers()
    if corrections is not None:
        chosen = dataclasses.replace(chosen, rescued=corrections.relabelled)
    with explained(path, _GO_ON):
        manifest = completed(aside, shards, with_corrections(settings, corrections))
        if manifest is None:
            with workers.ready():
                fill = partial(_fill, plan=plan, chosen=chosen, workers=workers, path=path)
                manifest = _built(path, fill, partial(opened_store, aside, shards, settings, corrections))
        put_in_place(aside, path)
    return manifest


def _built(
    path: Path, fill: Callable[[StoreWriter], None], opened: Callable[[], AbstractContextManager[StoreWriter]]
) -> Manifest:
    """Complete the store that ``opened`` opens aside, or begin it anew if what lies there does not fit."""
    aside = place_aside(path)
    for _ in range(2):
        store = None
        try:
            with opened() as store:
                fill(store)
                return store.finish(path)
        except Outdated as reason:
            print(f"warning: {aside}: begun anew, for {reason}", file=sys.stderr)
            shutil.rmtree(aside)
        finally:
            if store is not None and not store.is_committed:
                shutil.rmtree(aside, ignore_errors=True)
    raise AssertionError("an empty store is never outdated")


def _fill(store: StoreWriter, *, plan: Plan, chosen: ImportSettings, workers: Workers, path: Path) -> None:
    """Do what is left of the plan."""
    planned = plan()
    _skip(planned, store.progress)
    with tqdm(desc=f"write {path.name}", unit="crop", initial=store.progress.read) as bar:
        for item, results in workers.results(planned, chosen):
            for result in results:
                store.take(result)
            store.step_done(_described(item))
            bar.update(len(results))


def _skip(plan: Iterator[Planned], progress: Progress) -> None:
    """Pass over what was done. Raises ``Outdated`` if it is not what is planned now."""
    before = Progress("")
    for item in islice(plan, progress.steps):
        before.step(_described(item))
    if (before.steps, before.plan) != (progress.steps, progress.plan):
        raise Outdated("the data set is another than it was")


def _described(item: Planned) -> str:
    """Return what a planned item is, the same in every process: what it says, and in which state its files are."""
    if isinstance(item, Sample):
        return f"{dataclasses.replace(item, image=b'')!r} {len(item.image)} {zlib.crc32(item.image)}"
    return f"{item!r} {' '.join(file.state() for file in _files_of(item))}"


def _files_of(item: Planned) -> list[StoredFile]:
    """Return the files that a planned item names: work reads them only when it is done, and they may have changed."""
    values = [getattr(item, field.name) for field in dataclasses.fields(item)] if dataclasses.is_dataclass(item) else []
    return [value for value in values if isinstance(value, StoredFile)]
