"""Crops a second into an LMDB, by our import and by the plain way, in turn on one machine.

``pack`` writes 20,000 crops that lie as files. The plain way is that of most scripts: read, decode to check, put,
commit each 1,000, into a map of a terabyte. ``cut`` takes words out of photographs of twelve million pixels; the plain
way decodes the photograph with Pillow for each box. Ours refuses truncated files, hashes and names what it leaves out
besides. Each measurement has a process of its own, so that its memory (with its workers') is its own.

    python benchmarks/lmdb_build.py output/benchmarks --json lmdb_build.json
    python benchmarks/lmdb_build.py output/benchmarks --workers 1 --workers 8 --rounds 5
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pandas as pd
from joblib import cpu_count
from photographs import write_crops, write_photographs
from PIL import Image

from hangul_ocr.data.building import build_lmdb
from hangul_ocr.data.planning import ImportSettings
from hangul_ocr.data.sources import plan
from hangul_ocr.data.workers import Workers
from hangul_ocr.workspace import atomic_write_text

COMMIT = 1000


def naive(task: str, folder: Path, out: Path) -> int:
    """Write an LMDB the plain way; return how many crops."""
    records, count = [], 0
    with lmdb.open(str(out), map_size=1 << 40) as environment:
        for image, label in (_files if task == "pack" else _cuts)(folder):
            count += 1
            records += [(b"image-%09d" % count, image), (b"label-%09d" % count, label.encode())]
            if count % COMMIT == 0:
                _put(environment, records)
                records = []
        _put(environment, [*records, (b"num-samples", b"%d" % count)])
    return count


def _put(environment: lmdb.Environment, records: list[tuple[bytes, bytes]]) -> None:
    with environment.begin(write=True) as transaction:
        for key, value in records:
            transaction.put(key, value)


def _files(folder: Path) -> Iterator[tuple[bytes, str]]:
    for line in (folder / "gt.txt").read_text(encoding="utf-8").splitlines():
        name, label = line.split("\t")
        data = (folder / name).read_bytes()
        if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) is not None:
            yield data, label


def _cuts(folder: Path) -> Iterator[tuple[bytes, str]]:
    for table in sorted(folder.glob("*.json")):
        for word in json.loads(table.read_text(encoding="utf-8"))["annotations"]:
            x, y, width, height = word["bbox"]
            buffer = io.BytesIO()
            photograph = Image.open(table.with_suffix(".jpg")).convert("RGB")
            photograph.crop((x, y, x + width, y + height)).save(buffer, "JPEG", quality=95)
            yield buffer.getvalue(), word["text"]


def ours(task: str, folder: Path, out: Path, workers: int) -> int:
    """Write an LMDB by our import; return how many crops."""
    source, chosen = ("list" if task == "pack" else "aihub-outdoor"), ImportSettings()
    team = Workers(workers)
    return build_lmdb(out, lambda: plan(source, [folder], chosen), chosen, settings={}, workers=team).kept


def measure(task: str, folder: Path, way: str) -> dict[str, Any]:
    """Return crops a second, and the peak memory in MB of the process and of its largest worker."""
    out = folder.with_name("out.lmdb")
    shutil.rmtree(out, ignore_errors=True)
    write = naive if way == "naive" else partial(ours, workers=int(way.split()[1]))
    started = time.monotonic()
    crops = write(task, folder, out)
    seconds = time.monotonic() - started
    shutil.rmtree(out)
    own, worker = (resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"task": folder.name, "way": way, "crops/s": crops / seconds, "MB": own, "worker MB": worker}


def main() -> None:
    """Measure all ways in turn, several rounds, and print medians, spreads and ratios to the plain way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where crops and photographs lie, or are made (about 1 GB)")
    parser.add_argument("--crops", type=int, default=20_000)
    parser.add_argument("--photographs", type=int, default=60)
    parser.add_argument("--boxes", type=int, action="append", help="words on a photograph (default 4 and 12)")
    parser.add_argument("--workers", type=int, action="append", help="(default: 1, and one a core)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tasks = [("pack", write_crops(arguments.folder / f"pack {arguments.crops}", arguments.crops))]
    for boxes in arguments.boxes or (4, 12):
        place = arguments.folder / f"cut {boxes} a photograph"
        tasks.append(("cut", write_photographs(place, arguments.photographs, boxes)))
    ways = ["naive", *(f"workers {number}" for number in arguments.workers or sorted({1, cpu_count()}))]
    rows = []
    for number in range(arguments.rounds):
        for task, folder in tasks:
            for way in ways:
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    rows.append({"round": number} | pool.submit(measure, task, folder, way).result())
                print(json.dumps(rows[-1]), flush=True)
    report(rows, ["task"], "crops/s", arguments.json)


def report(rows: list[dict[str, Any]], by: list[str], speed: str, file: Path | None) -> None:
    """Print each way's median, spread, and ratio to the first of its round; write the rows to ``file`` if one is given.

    Ratios are taken within a round, for the machine's other work changes from round to round.
    """
    data = pd.DataFrame(rows)
    data["ratio"] = data[speed] / data.groupby(["round", *by], sort=False)[speed].transform("first")
    table = data.groupby([*by, "way"], sort=False)
    spreads = table[[speed, "ratio"]].agg(["median", "min", "max"])
    spreads.columns = [" ".join(names) for names in spreads.columns]
    memory = table[[name for name in rows[0] if name.endswith("MB")]].max()
    machine = f"{cpu_count()} of {os.cpu_count()} cores, OpenCV {cv2.__version__}, Pillow {Image.__version__}"
    print(machine, spreads.join(memory).round(2).to_string(), sep="\n")
    if file:
        atomic_write_text(file, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
