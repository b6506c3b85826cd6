"""The plain recipe that ours is held against: how deep-text-recognition-benchmark trains, in its essentials.

Pillow decodes and squeezes every crop to 32 x 100; batches of 192 in random order; float32 without channels_last;
Adadelta at rate 1 (rho 0.95, eps 1e-8), gradients clipped at 5; no schedule, no averaged weights, no augmentation.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hangul_ocr.data.lmdb_store import LmdbReader
from hangul_ocr.evaluation.metrics import exact_matches
from hangul_ocr.models.ctc import ctc_losses
from hangul_ocr.models.recognizer import Recognizer

BATCH, SIZE = 192, (100, 32)


class PillowCrops(Dataset):
    """The samples of a store as grey tensors (1, 32, 100) in -1..1, with their labels."""

    def __init__(self, reader: LmdbReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        sample = self.reader[index]
        image = Image.open(io.BytesIO(sample.image)).convert("L").resize(SIZE, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1)[None], sample.text


def plain_batches(reader: LmdbReader, seed: int, workers: int = 1, batch: int = BATCH) -> Iterator[tuple]:
    """Yield batches of the store without end, in a new order each epoch."""
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        PillowCrops(reader), batch, shuffle=True, drop_last=True, num_workers=workers, generator=generator
    )
    while True:
        yield from loader


class PlainTraining:
    """A network trained by the plain recipe; :meth:`step` takes one batch and returns its loss."""

    def __init__(self, model: Recognizer) -> None:
        self.model = model
        self.optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.95, eps=1e-8)

    def logits(self, images: Tensor) -> Tensor:
        """Return log probabilities (N, T, classes) for ``images`` (N, 1, 32, 100) in -1..1."""
        model = self.model
        return model.decoder.log_probabilities(model.neck(model.backbone(model.rectifier(images))))

    def step(self, images: Tensor, texts: list[str]) -> float:
        """Take one optimiser step."""
        self.model.train()
        targets = [self.model.alphabet.encode(text) for text in texts]
        lengths = torch.tensor([max(1, len(target)) for target in targets])
        loss = (ctc_losses(self.logits(images), targets) / lengths).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def accuracy(self, reader: LmdbReader) -> float:
        """Return the exact match on all samples of a store, read greedily."""
        self.model.eval()
        hits: list[bool] = []
        for images, texts in DataLoader(PillowCrops(reader), BATCH):
            path = self.logits(images).argmax(-1)
            merged = [torch.unique_consecutive(row).tolist() for row in path]
            hits += exact_matches(list(texts), [self.model.alphabet.decode(row) for row in merged]).tolist()
        return float(np.mean(hits))


def train_until(
    training: PlainTraining, train: LmdbReader, validation: LmdbReader, seed: int, seconds: float, goal: float
) -> Iterator[tuple[float, int, float]]:
    """Train until ``seconds`` or the accuracy ``goal``; yield (seconds, crops, accuracy) about every 10,000 crops."""
    started, crops = time.monotonic(), 0
    for number, (images, texts) in enumerate(plain_batches(train, seed), start=1):
        training.step(images, texts)
        crops += len(texts)
        late = time.monotonic() - started > seconds
        if number % 52 == 0 or late:
            accuracy = training.accuracy(validation)
            yield time.monotonic() - started, crops, accuracy
            if late or accuracy >= goal:
                return
