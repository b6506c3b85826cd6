"""`hangul-ocr verify`: sound stores, and every kind of fault in one line each."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from conftest import crop_png

from hangul_ocr import cli
from hangul_ocr.data import verify
from hangul_ocr.data.lmdb_store import MANIFEST_FILE
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.workers import Workers


def write(path: Path, count: int = 8, shards: int = 1) -> Path:
    items = [Sample(f"k{n}", crop_png(n), "가", "x") for n in range(count)] + [LeftOut("a", "missing image", "b\nc")]
    write_lmdb(path, items, alphabet=None, settings={}, shards=shards)
    return path


def changed(path: Path, key: bytes, value: Callable[[bytes], bytes | None]) -> Path:
    """Put another value for a key, or none."""
    with lmdb.open(str(path), lock=False) as environment, environment.begin(write=True) as transaction:
        new = value(bytes(transaction.get(key)))
        if new is None:
            transaction.delete(key)
        else:
            transaction.put(key, new)
    return path


def manifest_with(**facts: object) -> Callable[[bytes], bytes]:
    return lambda value: json.dumps(json.loads(value) | facts).encode()


@pytest.mark.parametrize("shards", [1, 3])
def test_a_sound_store(tmp_path: Path, capsys, shards: int) -> None:
    store = write(tmp_path / "s", shards=shards)
    assert cli.main(["verify", str(store)]) == 0
    assert ": 8 records, all whole; content hash " in capsys.readouterr().out


def test_workers_find_the_same_faults_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "s", 30, shards=2)
    for number in (3, 9, 4):
        changed(store / "shard-001-of-002", b"image-%09d" % number, lambda image: image[:-9])
    expected = list(verify.faults(store, Workers(1)))
    assert [line.split(":")[0] for line in expected[:3]] == ["k5", "k7", "k17"]
    monkeypatch.setattr(verify, "_CALL", 4)
    assert list(verify.faults(store, Workers(2, "threading"))) == expected


@pytest.mark.parametrize(
    ("key", "value", "messages"),
    [
        (b"image-000000003", lambda v: v[:-20], ["k2: the file is truncated", "content hash"]),
        (b"image-000000003", lambda v: None, ["record 3: ", "content hash"]),
        (b"image-000000003", lambda v: crop_png(2, 70, 30), ["k2: 70 x 30 pixels, stored as 64 x 24", "content hash"]),
        (b"label-000000002", lambda v: b"\xb0\xa1", ["record 2: 'utf-8' codec", "content hash"]),
        (b"label-000000002", lambda v: "나".encode(), ["content hash"]),
        (b"meta-000000002", lambda v: v[:-1], ["record 2: ", "content hash"]),
        (b"meta-000000002", lambda v: v.replace(b"k1", b"k0"), ["k0: another record has this key", "content hash"]),
        (b"manifest", manifest_with(kept=9), ["holds 8 records, the manifest says 9", "do not add up"]),
        (b"manifest", manifest_with(left_out={"missing image": 2}), ["do not add up", "left_out.csv has 1 rows"]),
        (b"manifest", manifest_with(version=7), ["its format is 7"]),
        (b"manifest", lambda v: v[:-5], ["its manifest is damaged"]),
        (b"num-samples", lambda v: None, ["without num-samples"]),
    ],
)
def test_each_fault_is_a_line(tmp_path: Path, capsys, key: bytes, value: Callable, messages: list[str]) -> None:
    store = changed(write(tmp_path / "s"), key, value)
    assert cli.main(["verify", str(store)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(messages), lines
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(f"{store}: ")
        assert message in line


def forged(meta: bytes) -> bytes:
    return json.dumps(json.loads(meta) | {"group": "other"}).encode()


def test_a_group_that_was_changed_is_a_fault(tmp_path: Path, capsys) -> None:
    store = changed(write(tmp_path / "s"), b"meta-000000002", forged)
    assert cli.main(["verify", str(store)]) == 1
    assert "the hash of groups and other facts is" in capsys.readouterr().out


def test_stores_of_former_versions_are_sound(tmp_path: Path, capsys) -> None:
    """They have no hash of the meta, and cells of any length in left_out.csv."""

    def former(manifest: bytes) -> bytes:
        return json.dumps({name: value for name, value in json.loads(manifest).items() if name != "meta_hash"}).encode()

    store = changed(changed(write(tmp_path / "s"), b"manifest", former), b"meta-000000002", forged)
    (store / "left_out.csv").write_text(f"key,reason,detail\n{'z' * 200_000},missing image,\n")
    limit = csv.field_size_limit()
    assert cli.main(["verify", str(store)]) == 0
    assert csv.field_size_limit() == limit
    assert "8 records, all whole" in capsys.readouterr().out


@pytest.mark.parametrize("meta", [b'{"key": 5, "group": null}', b'{"width": "x", "key": ["a"]}'])
def test_meta_of_another_kind_is_a_line(tmp_path: Path, capsys, meta: bytes) -> None:
    store = changed(write(tmp_path / "s"), b"meta-000000002", lambda _: meta)
    assert cli.main(["verify", str(store)]) == 1
    assert "record 2: " in capsys.readouterr().out.splitlines()[0]


def test_shards_that_are_gone_and_stores_that_are_none(tmp_path: Path, capsys) -> None:
    gone, sound = write(tmp_path / "gone", shards=2), write(tmp_path / "sound")
    shutil.rmtree(gone / "shard-000-of-002")
    damaged = write(tmp_path / "damaged", shards=2)
    (damaged / MANIFEST_FILE).write_text("[]")
    assert cli.main(["verify", str(gone), str(damaged), str(tmp_path / "nothing"), str(sound)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line, message in zip(lines, ["no LMDB there", "its manifest is damaged", "no LMDB", "all whole"], strict=True):
        assert message in line
        assert line.count(str(tmp_path)) == 1


def test_clovaais_stores_have_no_manifest(tmp_path: Path, capsys) -> None:
    store = changed(write(tmp_path / "s"), b"manifest", lambda value: None)
    assert cli.main(["verify", str(store), "--workers", "1"]) == 0
    assert "8 records, all whole; no manifest to hold them against" in capsys.readouterr().out
