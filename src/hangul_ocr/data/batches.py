"""From crops to tensors: each crop keeps its ratio, and crops of one shape share a batch.

Training goes by blocks of ``STEPS_PER_BLOCK`` steps. A block's number names its crops, their changes and their order,
whatever came before it, so a run can start again at any block and see what it would have seen. The crops of a block
are sorted by ratio and cut into steps of equal area: large batches of one shape, which is what a device runs fast, and
the same number of steps in every process.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hangul_ocr.data.crops import TALL, Crop, CropSource, crop_or_none, join_crops
from hangul_ocr.data.images import UnreadableImage
from hangul_ocr.hangul import UNKNOWN_CLASS, Alphabet, HangulOcrError
from hangul_ocr.settings import ModelSettings

# The long side of a batch in short sides; finer where most words are.
RATIOS = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 16)
# Where the nearest ratio changes: as far from one as from the next, as a factor.
_BETWEEN = [math.sqrt(ratio * following) for ratio, following in pairwise(RATIOS)]
STEPS_PER_BLOCK = 8
# So many unreadable crops in a row mean that a whole store is damaged.
TRIES = 20


@dataclass(frozen=True)
class Group:
    """Crops of one shape: ``images`` (N, H, W, C) uint8; ``frames`` (N, T) as in :func:`frame_labels`.

    ``lost`` names the unreadable crops in whose place others were taken.
    """

    images: Tensor
    keys: list[str]
    texts: list[str]
    targets: list[list[int]]
    frames: Tensor
    lost: tuple[str, ...] = ()

    def pin_memory(self) -> Group:
        """Return the group in memory that a GPU copies from by itself; PyTorch's loaders ask for it by this name."""
        return replace(self, images=self.images.pin_memory(), frames=self.frames.pin_memory())


def batch_shape(width: int, height: int, model: ModelSettings) -> tuple[int, int]:
    """Return (height, width) in pixels of the batch that a crop of this size goes to: the nearest ratio."""
    short_side = model.short_side
    if model.fixed_width:
        return short_side, model.fixed_width
    tall = height > TALL * width
    ratio = max(height, width) / min(height, width) if tall or width > height else 1.0
    nearest = RATIOS[bisect_left(_BETWEEN, ratio * model.stretch)]
    long_side = int(nearest * short_side)
    return (long_side, short_side) if tall else (short_side, long_side)


def resize(image: np.ndarray, shape: tuple[int, int], grey: bool) -> np.ndarray:
    """Return ``image`` (H, W, 3) as (height, width, C) uint8 in ``shape``, C = 1 if ``grey``."""
    if grey and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shrinks = image.shape[0] > shape[0]
    resized = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(*shape, -1)


def make_groups(crops: Sequence[Crop], model: ModelSettings, alphabet: Alphabet) -> list[Group]:
    """Sort crops by their nearest shape into groups."""
    return [make_group(rows, model, alphabet) for rows in of_one_shape(crops, model)]


def of_one_shape(crops: Sequence[Crop], model: ModelSettings, largest: int | None = None) -> list[list[Crop]]:
    """Return ``crops`` by their nearest shape, wide ones in order of their width and then tall ones.

    With ``largest`` no list is longer.
    """
    by_shape: dict[tuple[int, int], list[Crop]] = {}
    for crop in crops:
        by_shape.setdefault(_shape_of(crop, model), []).append(crop)
    step = largest or len(crops)
    return [rows[i : i + step] for _, rows in sorted(by_shape.items()) for i in range(0, len(rows), step)]


def make_group(crops: Sequence[Crop], model: ModelSettings, alphabet: Alphabet) -> Group:
    """Return ``crops`` as one group, in the shape nearest to the first one's."""
    return _group(_shape_of(crops[0], model), crops, model, alphabet)


def _shape_of(crop: Crop, model: ModelSettings) -> tuple[int, int]:
    return batch_shape(crop.image.shape[1], crop.image.shape[0], model)


def equal_area_parts(crops: Sequence[Crop], model: ModelSettings, parts: int) -> list[list[Crop]]:
    """Return ``crops`` in ``parts`` runs of similar ratio and equal area, none empty (fewer runs for fewer crops).

    Large runs have sizes in eights, so that shapes recur: a CPU's kernels are compiled for each shape and kept.
    """
    parts = min(parts, len(crops))
    unit = 8 if len(crops) >= 16 * parts else 1
    ordered = sorted(crops, key=lambda crop: max(_shape_of(crop, model)))
    areas = np.cumsum([max(_shape_of(crop, model)) for crop in ordered])
    cuts = [0]
    for part in range(1, parts):
        cut = unit * round(int(np.searchsorted(areas, areas[-1] * part / parts)) / unit)
        cuts.append(min(max(cut, cuts[-1] + unit), len(ordered) - parts + part))
    return [ordered[start:end] for start, end in pairwise([*cuts, len(ordered)])]


def _group(shape: tuple[int, int], crops: Sequence[Crop], model: ModelSettings, alphabet: Alphabet) -> Group:
    images = np.stack([resize(crop.image, shape, model.grey) for crop in crops])
    targets = [alphabet.encode(crop.text) for crop in crops]
    steps = model.time_steps(max(shape))
    frames = np.full((len(crops), steps), UNKNOWN_CLASS, dtype=np.int64)
    axis = 1 if shape[0] > shape[1] else 0
    for row, crop, target in zip(frames, crops, targets, strict=True):
        squeezed_flat = shape[1] > shape[0] and crop.tall
        if crop.centres is not None and not squeezed_flat:
            row[:] = frame_labels(target, crop.centres[:, axis], steps)
    return Group(
        torch.from_numpy(images), [c.key for c in crops], [c.text for c in crops], targets, torch.from_numpy(frames)
    )


def frame_labels(classes: Sequence[int], places: Sequence[float], steps: int) -> np.ndarray:
    """Return (steps,) with each character's class at its place, blanks well away from all, ``UNKNOWN_CLASS`` between.

    ``places`` are positions along the text in 0..1. A crop whose characters are too narrow for the grid (two in one
    step, or equal neighbours without a step between) gives ``UNKNOWN_CLASS`` throughout: CTC alone decides there.
    """
    labels = np.full(steps, UNKNOWN_CLASS, dtype=np.int64)
    positions = np.asarray(places, dtype=np.float64) * steps
    cells = np.clip(positions.astype(int), 0, steps - 1)
    gaps = np.diff(cells)
    same = np.array([a == b for a, b in pairwise(classes)], dtype=bool)
    if len(cells) != len(classes) or (gaps < 1).any() or (gaps[same] < 2).any():
        return labels
    distance = np.abs(np.arange(steps)[:, None] + 0.5 - positions[None, :]).min(axis=1)
    labels[distance > 1.0] = 0
    labels[cells] = classes
    return labels


class TrainingBlocks(Dataset):
    """Item ``k`` is block ``k``: ``STEPS_PER_BLOCK`` optimiser steps, each a list of groups, for this process's crops.

    Crops come from ``real`` in a new order each epoch and, for ``synthetic_share`` of them, from ``synthetic``. With
    ``real_weights`` (N,) an epoch draws real crops by these probabilities instead; ``join_share`` of the real crops
    have another one joined to them. ``glance_share`` of the blocks show their crops at the size of the model's
    ``glance``. Raises ``HangulOcrError`` for fewer crops in a step than processes.
    """

    def __init__(
        self,
        model: ModelSettings,
        alphabet: Alphabet,
        crops_per_step: int,
        seed: int,
        *,
        real: CropSource | None = None,
        synthetic: CropSource | None = None,
        synthetic_share: float = 1.0,
        join_share: float = 0.0,
        glance_share: float = 0.0,
        real_weights: np.ndarray | None = None,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        self.model, self.alphabet, self.seed = model, alphabet, seed
        self.real, self.synthetic, self.process = real, synthetic, process
        self.join_share, self.glance_share, self.real_weights = join_share, glance_share, real_weights
        if crops_per_step < process[1]:
            raise HangulOcrError(
                f"crops_per_step = {crops_per_step}: fewer than the {process[1]} processes; raise it, or start fewer"
            )
        share = 1.0 if real is None else synthetic_share if synthetic is not None else 0.0
        crops = crops_per_step * STEPS_PER_BLOCK
        self.n_synthetic = round(crops * share)
        self.n_real = crops - self.n_synthetic

    def __getitem__(self, block: int) -> list[list[Group]]:
        rank, world = self.process
        lost: list[str] = []
        crops = [self._crop(block, place, lost) for place in range(rank, self.n_real + self.n_synthetic, world)]
        steps = _steps(crops, self.model.glancing if self._is_glance(block) else self.model, self.alphabet)
        steps[0][0] = replace(steps[0][0], lost=tuple(lost))
        order = np.random.default_rng([self.seed, block]).permutation(len(steps))
        return [steps[i] for i in order]

    def _is_glance(self, block: int) -> bool:
        """Spread ``glance_share`` of the blocks evenly."""
        return int((block + 1) * self.glance_share) > int(block * self.glance_share)

    def _crop(self, block: int, place: int, lost: list[str]) -> Crop:
        rng = np.random.default_rng([self.seed, block, place])
        if place >= self.n_real:
            return self.synthetic.crop(block * self.n_synthetic + place - self.n_real, rng)
        crop = self._real_crop(self._row(block * self.n_real + place), rng, lost)
        if self.join_share and rng.random() < self.join_share:
            other = self._real_crop(int(rng.integers(len(self.real))), rng, lost)
            return join_crops(crop, other, self.model.max_length)
        return crop

    def _real_crop(self, row: int, rng: np.random.Generator, lost: list[str]) -> Crop:
        """Return the crop at ``row``, or the next that can be read; what is lost is noted."""
        for further in range(TRIES):
            try:
                return self.real.crop((row + further) % len(self.real), rng)
            except UnreadableImage as error:
                lost.append(str(error))
        raise HangulOcrError(f"{TRIES} crops in a row cannot be read (last {lost[-1]}); make the LMDB anew")

    def _row(self, position: int) -> int:
        """Return the row at ``position`` of the endless sequence of seeded epochs."""
        epoch, place = divmod(position, len(self.real))
        return int(self._order(epoch)[place])

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            rng, n = np.random.default_rng([self.seed, epoch]), len(self.real)
            drawn = rng.permutation(n) if self.real_weights is None else rng.choice(n, n, p=self.real_weights)
            self._epoch, self._rows = epoch, drawn
        return self._rows


def _steps(crops: list[Crop], model: ModelSettings, alphabet: Alphabet) -> list[list[Group]]:
    """Cut the wide crops into a block's steps, and give the tall ones to as many of these as they fill.

    Steps that the wide crops are too few for (or the tall ones, if they are more) are the others'.
    """
    tall = [crop for crop in crops if _is_tall(crop, model)]
    wide = [crop for crop in crops if not _is_tall(crop, model)]
    main, other = (wide, tall) if len(wide) >= len(tall) else (tall, wide)
    runs = [[_joined(run, model, alphabet)] for run in equal_area_parts(main, model, STEPS_PER_BLOCK)]
    empty = STEPS_PER_BLOCK - len(runs)
    steps = [[] for _ in range(empty)] + runs
    n_other = min(len(steps), max(1, empty, round(STEPS_PER_BLOCK * len(other) / len(main)))) if other else 0
    for step, run in zip(steps, equal_area_parts(other, model, n_other) if other else [], strict=False):
        step.append(_joined(run, model, alphabet))
    return steps


def _joined(crops: list[Crop], model: ModelSettings, alphabet: Alphabet) -> Group:
    """Return one group in the shape of its longer crops: stretching a short one costs less than squeezing."""
    shapes = sorted(_shape_of(crop, model) for crop in crops)
    return _group(shapes[int(0.8 * (len(shapes) - 1))], crops, model, alphabet)


def _is_tall(crop: Crop, model: ModelSettings) -> bool:
    height, width = _shape_of(crop, model)
    return height > width


def fixed_groups(
    source: CropSource, model: ModelSettings, alphabet: Alphabet, largest: int = 128, seed: int = 0
) -> list[Group]:
    """Return all crops of a source in groups of at most ``largest``, for validation (a set that fits in memory)."""
    crops = (crop_or_none(source, i, np.random.default_rng([seed, i])) for i in range(len(source)))
    by_shape = make_groups([crop for crop in crops if crop is not None], model, alphabet)
    return [part for group in by_shape for part in split_group(group, largest)]


def split_group(group: Group, largest: int) -> list[Group]:
    """Return a group's crops in groups of at most ``largest``."""
    cuts = range(0, len(group.texts), largest)
    return [
        Group(
            group.images[i : i + largest],
            group.keys[i : i + largest],
            group.texts[i : i + largest],
            group.targets[i : i + largest],
            group.frames[i : i + largest],
        )
        for i in cuts
    ]
