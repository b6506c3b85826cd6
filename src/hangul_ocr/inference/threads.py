"""Several small pieces of PyTorch's work at once on a CPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Made = TypeVar("Made")


def in_threads(work: Callable[[Piece], Made], pieces: Sequence[Piece], device: torch.device) -> list[Made]:
    """Return what ``work`` makes of each piece, in their order; an error is raised when no piece is worked on any more.

    On a CPU as many pieces at once as PyTorch may use threads, one thread each: of small batches two are read sooner
    beside each other than one after the other in two threads. A GPU gets one after the other. ``work`` must not depend
    on what PyTorch keeps for a thread (inference mode, autocast): it enters them itself.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(pieces) < 2:
        return [work(piece) for piece in pieces]
    pool = _pool(threads, os.getpid())
    made = [pool.submit(work, piece) for piece in pieces]
    wait(made)
    return [one.result() for one in made]


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return the workers of a ``process`` (a fork has none of its parent's), for whom PyTorch uses one thread each."""
    all_there = threading.Barrier(threads)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes over the process's number when it first asks, even after a set
        torch.set_num_threads(1)
        all_there.wait()

    pool = ThreadPoolExecutor(threads, initializer=begin)
    wait([pool.submit(int) for _ in range(threads)])
    torch.set_num_threads(threads)  # the workers' one would be that of every thread begun later
    return pool
