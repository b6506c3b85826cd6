"""Folds that do not flatter: the same crop, or the same sign seen twice, never lies on both sides.

Rows are one group if they are near-duplicates by a perceptual hash, if they are neighbours in file order with equal
labels (crops of one photograph), or if the data set says that they come from one photograph. Folds are then stratified
by label length and by shape.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from hangul_ocr.data.images import UnreadableImage, decode_trusted
from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.hangul import HangulOcrError

COLUMNS = ["key", "group", "fold"]
NEIGHBOURS = 10
SAME_LABEL_BITS = 4
ANY_LABEL_BITS = 1
# A hash with fewer set (or unset) bits is a flat crop or a plain gradient: it says nothing about what is written there.
TELLING_BITS = 10
# As many different labels under one hash are a coincidence of short rendered words, not copies.
MOST_LABELS_OF_A_CROP = 3
TALL = 1.3
_LENGTH_EDGES = (1, 2, 3, 4, 5, 6, 8)
_log = logging.getLogger(__name__)


def make_folds(table: pd.DataFrame, n_folds: int, seed: int) -> pd.DataFrame:
    """Return ``key,group,fold`` in file order for the rows of ``table``.

    ``table`` has ``key,text,width,height`` and may have ``hash`` (uint64, :func:`perceptual_hashes`) and ``group``
    (what the data set itself says). The order of its rows does not matter: file order is the natural order of the
    keys. A group is called by its first key. Raises ``HangulOcrError`` if there are fewer groups than folds.
    """
    rows = _in_file_order(table)
    groups = _group_rows(rows)
    group_names = rows["key"].to_numpy()[groups]
    folds = _assign(_strata(rows), groups, n_folds, seed)
    return pd.DataFrame({"key": rows["key"], "group": group_names, "fold": folds})


def find_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``key,group,why`` in file order: the groups that :func:`make_folds` would keep together, and what joins
    their rows (``near-duplicates``, ``equal neighbours``, ``one photograph``); empty for a row that is alone.

    ``table`` is the same as there.
    """
    rows = _in_file_order(table)
    kinds: dict[str, set[int]] = {}
    links = _Links(len(rows))
    for kind, pairs in _reasons_to_join(rows):
        pairs = list(pairs)
        links.join(pairs)
        kinds[kind] = {a for a, _ in pairs}
    roots = links.roots()
    why = {root: [kind for kind, members in kinds.items() if members & set(rest)] for root, rest in _members(roots)}
    names = [", ".join(why.get(root, ())) for root in roots.tolist()]
    return pd.DataFrame({"key": rows["key"], "group": rows["key"].to_numpy()[roots], "why": names})


def _members(roots: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    return ((int(roots[places[0]]), places.tolist()) for places in _buckets(roots))


def conflicting_twins(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``key,text,twin,twin_text``: crops that look all but equal and have different labels, each pair once.

    ``table`` is :func:`make_folds`'s, with ``hash``.
    """
    rows = _in_file_order(table)
    labels, hashes = pd.factorize(rows["text"])[0], rows["hash"].to_numpy(np.uint64)
    pairs = sorted({(a, b) for a, b in _look_alikes(hashes, labels, _shape(rows)) if labels[a] != labels[b]})
    keys, texts = rows["key"], rows["text"]
    found = [(keys[a], texts[a], keys[b], texts[b]) for a, b in pairs]
    return pd.DataFrame(found, columns=["key", "text", "twin", "twin_text"])


def fold_table(reader: LmdbReader) -> pd.DataFrame:
    """Return :func:`make_folds`'s table for the samples of a store."""
    metas = pd.DataFrame(reader.metas(), columns=["key", "group", "width", "height"])
    return metas.assign(text=reader.texts(), hash=perceptual_hashes(reader))


def ensure_folds(path: Path, reader: LmdbReader, n_folds: int, seed: int) -> pd.DataFrame:
    """Return the folds saved at ``path``, or make and save them: they are dealt once for all runs on a store.

    Raises ``HangulOcrError`` if the saved ones are of other samples or of another number of folds.
    """
    if not path.is_file():
        save_folds(path, make_folds(fold_table(reader), n_folds, seed))
    folds = load_folds(path, reader.keys())
    if folds["fold"].nunique() != n_folds:
        raise HangulOcrError(f"{path}: has {folds['fold'].nunique()} folds, not {n_folds}; remove it to deal them anew")
    return folds


def save_folds(path: Path, folds: pd.DataFrame) -> None:
    """Write ``folds`` (``key,group,fold``) as CSV."""
    write_table(folds[COLUMNS], path)


def load_folds(path: Path, keys: Iterable[str] | None = None) -> pd.DataFrame:
    """Read folds; with ``keys``, return them in that order.

    Raises ``HangulOcrError`` for a file that is none, and if it does not hold exactly ``keys``.
    """
    folds = read_table(path)
    numbered = folds["fold"].str.fullmatch(r"\d+").all() if "fold" in folds else False
    if list(folds.columns) != COLUMNS or not numbered or folds["key"].duplicated().any():
        raise HangulOcrError(f"{path}: no table of folds ({', '.join(COLUMNS)}); remove it to deal them anew")
    folds["fold"] = folds["fold"].astype(int)
    return folds if keys is None else _ordered_as(path, folds, list(keys))


def largest_groups(folds: pd.DataFrame, n: int = 5) -> pd.Series:
    """Return the sizes of the ``n`` largest groups by name, to see whether the grouping has run away."""
    sizes = folds.groupby("group").size().sort_values(ascending=False, kind="stable")
    return sizes.head(n).rename("rows")


def perceptual_hashes(reader: LmdbReader) -> np.ndarray:
    """Return (len(reader),) uint64, a 64-bit difference hash of every crop.

    A bit tells whether one of 8 x 8 cells is brighter than its right neighbour, so size, contrast and compression
    hardly change it. Raises ``HangulOcrError`` for an image that does not decode.
    """
    numbers = tqdm(range(len(reader)), desc="hash crops", unit="crop")
    threads = min(8, os.cpu_count() or 1)
    hashes = Parallel(n_jobs=threads, prefer="threads", batch_size=64)(delayed(_hash_of)(reader, i) for i in numbers)
    return np.array(hashes, dtype=np.uint64)


def difference_hash(image: np.ndarray) -> int:
    """Return the 64-bit difference hash of a grey image (H, W)."""
    small = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(small[:, :-1] > small[:, 1:]).tobytes(), "big")


def _hash_of(reader: LmdbReader, index: int) -> int:
    try:
        return difference_hash(decode_trusted(reader.image_bytes(index), grey=True))
    except UnreadableImage as error:
        raise HangulOcrError(f"{reader.path}: image {index} does not decode ({error}); write the LMDB again") from None


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sorting key under which ``img10`` follows ``img9``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts)


def _in_file_order(table: pd.DataFrame) -> pd.DataFrame:
    repeated = table["key"][table["key"].duplicated()]
    if len(repeated):
        raise HangulOcrError(f"folds: key {repeated.iloc[0]!r} repeats; keys must differ")
    order = sorted(range(len(table)), key=lambda i: natural_key(table["key"].iloc[i]))
    return table.iloc[order].reset_index(drop=True)


def _ordered_as(path: Path, folds: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    saved, wanted = set(folds["key"]), set(keys)
    if saved != wanted:
        example = sorted(saved ^ wanted)[0]
        raise HangulOcrError(
            f"{path}: folds of other samples ({len(wanted - saved)} of the store are missing, {len(saved - wanted)} "
            f"are unknown to it, {example!r} for one); remove it to deal them anew"
        )
    return folds.set_index("key").loc[keys].reset_index()[COLUMNS]


def _group_rows(rows: pd.DataFrame) -> np.ndarray:
    """Return for each row the number of the first row of its group."""
    links = _Links(len(rows))
    for _, pairs in _reasons_to_join(rows):
        links.join(pairs)
    roots = links.roots()
    largest = np.bincount(roots).max(initial=0)
    if largest > max(50, len(rows) // 10):
        _log.warning("folds: %d of %d rows are one group; see largest_groups", largest, len(rows))
    return roots


def _reasons_to_join(rows: pd.DataFrame) -> Iterator[tuple[str, Iterator[tuple[int, int]]]]:
    """Yield each reason to keep rows together, and the pairs that it joins."""
    labels = pd.factorize(rows["text"])[0]
    yield "equal neighbours", _equal_neighbours(labels)
    if "group" in rows:
        yield "one photograph", _same_photograph(rows["group"].fillna("").to_numpy())
    if "hash" in rows:
        yield "near-duplicates", _near_duplicates(rows["hash"].to_numpy(np.uint64), labels, _shape(rows))


def _shape(rows: pd.DataFrame) -> np.ndarray:
    return np.log(rows["width"].to_numpy(float) / rows["height"].to_numpy(float))


class _Links:
    """Union-find over rows; the smallest number of a set names it."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def join(self, pairs: Iterable[tuple[int, int]]) -> None:
        for a, b in pairs:
            a, b = sorted((self._root(a), self._root(b)))
            self._parent[b] = a

    def roots(self) -> np.ndarray:
        return np.array([self._root(i) for i in range(len(self._parent))], dtype=np.int64)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i


def _equal_neighbours(labels: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows with equal labels within ``NEIGHBOURS`` rows (fewer in small sets).

    A label so common that neighbours share it by chance (one syllable of the handwriting set is every fourth row)
    says nothing, and would chain the set into one group.
    """
    window = min(NEIGHBOURS, max(1, len(labels) // 100))
    for places in _buckets(labels):
        if 2 * window * (len(places) - 1) < 0.5 * len(labels):
            yield from ((int(a), int(b)) for a, b in pairwise(places) if b - a <= window)


def _same_photograph(groups: np.ndarray) -> Iterator[tuple[int, int]]:
    known = np.flatnonzero(groups != "")
    for members in _buckets(pd.factorize(groups[known])[0]):
        places = known[members]
        yield from ((int(places[0]), int(place)) for place in places[1:])


def _near_duplicates(hashes: np.ndarray, labels: np.ndarray, shape: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows whose crops look alike: nearly, if their labels are equal, and almost exactly otherwise."""
    for a, b in _close_pairs(hashes, _telling(hashes), SAME_LABEL_BITS, labels):
        if abs(shape[a] - shape[b]) < 0.2:
            yield a, b
    yield from _look_alikes(hashes, labels, shape)


def _look_alikes(hashes: np.ndarray, labels: np.ndarray, shape: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows whose crops look all but equal, whatever their labels."""
    telling, crowded = _telling(hashes), _crowded(hashes, labels)
    for a, b in _close_pairs(hashes, telling[~crowded[telling]], ANY_LABEL_BITS):
        if abs(shape[a] - shape[b]) < 0.05:
            yield a, b


def _telling(hashes: np.ndarray) -> np.ndarray:
    bits = _bit_count(hashes)
    return np.flatnonzero((bits >= TELLING_BITS) & (bits <= 64 - TELLING_BITS))


def _crowded(hashes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (n,) bool: rows whose very hash is shared by many different labels."""
    table = pd.DataFrame({"hash": hashes, "label": labels})
    return (table.groupby("hash")["label"].transform("nunique") > MOST_LABELS_OF_A_CROP).to_numpy()


def _close_pairs(
    hashes: np.ndarray, rows: np.ndarray, most_bits: int, labels: np.ndarray | None = None
) -> Iterator[tuple[int, int]]:
    """Yield pairs of ``rows`` whose hashes differ in at most ``most_bits`` bits (and whose ``labels`` are equal).

    Cut into one band more than bits may differ, two such hashes agree in a whole band: only rows that share a band
    are compared.
    """
    edges = np.linspace(0, 64, most_bits + 2).astype(int)
    for low, high in pairwise(edges):
        band = (hashes[rows] >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        codes = np.unique(band, return_inverse=True)[1]
        if labels is not None:
            codes = codes * (labels.max(initial=0) + 1) + labels[rows]
        for members in _buckets(codes):
            yield from _compare(hashes, rows[members], most_bits)


def _compare(hashes: np.ndarray, places: np.ndarray, most_bits: int) -> Iterator[tuple[int, int]]:
    """Compare each of ``places`` with those after it, one row of the triangle at a time to stay small in memory."""
    for i, place in enumerate(places[:-1]):
        rest = places[i + 1 :]
        near = rest[_bit_count(hashes[rest] ^ hashes[place]) <= most_bits]
        yield from ((int(place), int(other)) for other in near)


def _buckets(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the ascending places of each value that occurs more than once."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    yield from (places for places in np.split(order, starts) if len(places) > 1)


def _bit_count(values: np.ndarray) -> np.ndarray:
    return np.bitwise_count(values).astype(int)


def _strata(rows: pd.DataFrame) -> np.ndarray:
    """Return (n,) a class for each row: its bucket of label length, and whether it is tall."""
    lengths = np.searchsorted(_LENGTH_EDGES, rows["text"].str.len().to_numpy(int))
    tall = rows["height"].to_numpy(float) > TALL * rows["width"].to_numpy(float)
    return lengths * 2 + tall


def _assign(strata: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Return (n,) the fold of each row, 0 to ``n_folds`` - 1.

    Groups are dealt in a seeded order, large ones first, each to the fold that has least of what the group holds, and
    of those to the smallest. scikit-learn's splitter of this kind deals differently from version to version, and in
    some (1.5) unevenly when it shuffles; a seed must mean the same folds everywhere.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    if n_folds < 2 or len(names) < n_folds:
        raise HangulOcrError(
            f"{n_folds} folds of {len(names)} groups ({len(groups)} rows): there must be 2 or more folds and at least "
            f"as many groups; ask for another number of folds or add data"
        )
    kinds, kind_of_row = np.unique(strata, return_inverse=True)
    members = np.zeros((len(names), len(kinds)))
    np.add.at(members, (group_of_row, kind_of_row), 1)
    return _deal(members, n_folds, np.random.default_rng(seed))[group_of_row]


def _deal(members: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return (groups,) a fold for each group; ``members`` (groups, strata) counts the rows it has of each stratum."""
    shuffled = rng.permutation(len(members))
    order = shuffled[np.argsort(-members[shuffled].sum(axis=1), kind="stable")]
    weights = members / members.sum(axis=0)
    folds, held = np.zeros(len(members), dtype=np.int64), np.zeros((n_folds, members.shape[1]))
    for group in order:
        cost, size = held @ weights[group], held.sum(axis=1)
        folds[group] = np.lexsort((size, cost))[0]
        held[folds[group]] += members[group]
    return folds
