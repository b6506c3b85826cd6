"""Arrange any labelled crops as a competition folder, to run the whole suite on them.

LABELS is a CSV with ``img_path,text`` and paths relative to it. Rows are dealt to train and test at random (seeded);
the test's labels go to ``answers/test_answers.csv``, which only the final score reads. Other columns stay in train.csv.

    python benchmarks/as_competition.py crops/labels.csv input/mine --test 0.4
    make run DATA=input/mine
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.hangul import HangulOcrError


def arrange(labels: Path, folder: Path, test_share: float, seed: int) -> None:
    """Write the competition folder. Raises ``HangulOcrError`` if it exists."""
    if folder.exists():
        raise HangulOcrError(f"{folder}: exists; name another folder or delete it")
    table = read_table(labels)
    order = np.random.default_rng(seed).permutation(len(table))
    n_test = round(test_share * len(table))
    parts = {"test": table.iloc[np.sort(order[:n_test])], "train": table.iloc[np.sort(order[n_test:])]}
    parts = {name: _copied(part, name, labels.parent, folder) for name, part in parts.items()}
    train, test = parts["train"], parts["test"]
    write_table(train, folder / "train.csv", "utf-8-sig")
    write_table(test[["img_path"]], folder / "test.csv", "utf-8-sig")
    write_table(test[["img_path"]].assign(text=""), folder / "sample_submission.csv", "utf-8-sig")
    (folder / "answers").mkdir()
    write_table(test, folder / "answers" / "test_answers.csv", "utf-8-sig")
    print(f"{folder}: {len(train)} train and {len(test)} test crops")


def _copied(part: pd.DataFrame, name: str, source: Path, folder: Path) -> pd.DataFrame:
    """Copy the images to ``folder/name`` and return the rows with their new paths."""
    (folder / name).mkdir(parents=True)
    paths = []
    for number, path in enumerate(part["img_path"], start=1):
        target = f"./{name}/{name}_{number:05d}{Path(path).suffix.lower()}"
        shutil.copyfile(source / path, folder / target)
        paths.append(target)
    # The provider's "source" of a crop is no source in the sense of a data set, and must not become one.
    return part.assign(img_path=paths).rename(columns={"source": "origin"})


def main() -> None:
    """Read the command line and arrange the crops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--test", type=float, default=0.4, help="share of the rows that become the test set")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arrange(arguments.labels, arguments.folder, arguments.test, arguments.seed)


if __name__ == "__main__":
    main()
