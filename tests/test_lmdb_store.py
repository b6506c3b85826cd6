"""The LMDB: round trips, clovaai's files, many processes, and failures that cost nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from conftest import crop_png
from joblib import Parallel, delayed

from hangul_ocr.data import lmdb_writer, verify
from hangul_ocr.data.lmdb_store import RECORD_FAULTS, LmdbReader, matches, read_manifest
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import import_samples
from hangul_ocr.data.tables import read_table
from hangul_ocr.data.workers import Workers
from hangul_ocr.hangul import Alphabet, HangulOcrError

ALPHABET = Alphabet("가나다 AB")


def samples(n: int = 12) -> list[Sample]:
    texts = ["가", "나다", "A B", "다가"]
    return [
        Sample(f"./train/{i:05d}.png", crop_png(i), texts[i % 4], "mini", f"photo {i // 3}", {"kind": "sign"})
        for i in range(n)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_lmdb(tmp_path / "store", samples(), alphabet=ALPHABET, settings={"seed": 1})
    return tmp_path / "store"


def write_clova(path: Path, records: list[tuple[bytes, str]]) -> Path:
    with lmdb.open(str(path), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for number, (image, label) in enumerate(records, start=1):
            transaction.put(b"image-%09d" % number, image)
            transaction.put(b"label-%09d" % number, label.encode())
        transaction.put(b"num-samples", str(len(records)).encode())
    return path


# --- round trips


def test_samples_come_back_whole_and_in_order(store: Path) -> None:
    with LmdbReader(store) as reader:
        assert len(reader) == 12
        for index, sample in enumerate(samples()):
            facts = {**sample.facts, "width": 64, "height": 24}
            assert reader[index] == Sample(sample.key, sample.image, sample.text, "mini", sample.group, facts)
        assert reader[-1].key == "./train/00011.png"
        assert reader.keys() == [sample.key for sample in samples()]
        assert reader.texts() == [sample.text for sample in samples()]
        assert reader.metas()[3] == {
            "key": "./train/00003.png", "source": "mini", "group": "photo 1", "kind": "sign", "width": 64, "height": 24
        }  # fmt: skip
        assert reader.image_bytes(2) == crop_png(2)
        assert reader.index_of("./train/00007.png") == 7
        for wrong in (12, -13):
            with pytest.raises(IndexError):
                reader[wrong]
        with pytest.raises(KeyError):
            reader.index_of("./train/99999.png")


def test_the_keys_are_those_that_clovaai_reads(store: Path) -> None:
    with lmdb.open(str(store), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert int(transaction.get(b"num-samples")) == 12
        assert transaction.get(b"image-000000001") == crop_png(0)
        assert transaction.get(b"label-000000012").decode() == "다가"
        assert transaction.get(b"image-000000013") is None
        assert json.loads(transaction.get(b"meta-000000001"))["key"] == "./train/00000.png"
        assert json.loads(transaction.get(b"manifest"))["kept"] == 12


def test_clovaais_own_files_are_read(tmp_path: Path) -> None:
    path = write_clova(tmp_path / "clova", [(crop_png(0), "가나"), (crop_png(1), "B")])
    with LmdbReader(str(path)) as reader:
        assert reader.texts() == ["가나", "B"]
        assert reader[0] == Sample("image-000000001", crop_png(0), "가나", "clova")
        assert reader.keys() == ["image-000000001", "image-000000002"]
        assert reader.manifest is None
    assert read_manifest(path) is None
    assert not matches(path, {})


def test_numpy_facts_and_reserved_names_survive(tmp_path: Path) -> None:
    facts = {"centres": np.array([[0.25, 0.5]]), "size": np.int64(3), "source": "generator"}
    write_lmdb(tmp_path / "s", [Sample("a", crop_png(0), "가", "x", facts=facts)], alphabet=None, settings={})
    with LmdbReader(tmp_path / "s") as reader:
        assert reader[0].facts["centres"] == [[0.25, 0.5]]
        assert (reader[0].facts["size"], reader[0].facts["fact_source"], reader[0].source) == (3, "generator", "x")


def test_a_store_larger_than_the_first_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_writer, "_FIRST_MAP", 1 << 16)
    monkeypatch.setattr(lmdb_writer, "_BATCH_BYTES", 1 << 14)
    many = [Sample(str(i), crop_png(i, 200, 60), "가", "x") for i in range(60)]
    write_lmdb(tmp_path / "s", many, alphabet=None, settings={})
    with LmdbReader(tmp_path / "s") as reader:
        assert [reader[i].image for i in range(60)] == [sample.image for sample in many]


# --- what is left out, the manifest


def test_everything_left_out_is_counted_and_named(tmp_path: Path) -> None:
    good = samples(3)
    items = [
        good[0],
        LeftOut("./train/gone.png", "missing image"),
        Sample("./train/odd.png", crop_png(50), "가뷁Z", "mini"),
        good[0],
        Sample("./train/broken.png", b"no image", "가", "mini"),
        Sample("./train/surrogate.png", crop_png(51), "가\ud83d", "mini"),
        LeftOut("./train/gone2.png", "missing image"),
        *good[1:],
    ]
    manifest = write_lmdb(tmp_path / "s", items, alphabet=ALPHABET, settings={})
    assert (manifest.read, manifest.kept) == (9, 3)
    assert manifest.left_out == {
        "missing image": 2,
        "character outside the alphabet": 2,
        "duplicate key": 1,
        "unreadable image": 1,
    }
    assert manifest.read == manifest.kept + sum(manifest.left_out.values())
    assert manifest.summary().startswith("3 of 9 kept; left out: 2 character outside")
    table = read_table(tmp_path / "s" / "left_out.csv")
    assert list(table.columns) == ["key", "reason", "detail"]
    assert len(table) == 6
    assert table.set_index("key").loc["./train/odd.png", "detail"] == "Z뷁 in 가뷁Z"


def test_a_name_without_end_does_not_spoil_the_table(tmp_path: Path) -> None:
    items = [LeftOut("z" * 200_000, "missing image", "y" * 200_000), *samples(1)]
    write_lmdb(tmp_path / "s", items, alphabet=None, settings={})
    (row,) = read_table(tmp_path / "s" / "left_out.csv").itertuples(index=False)
    assert row.reason == "missing image"
    for cell, letter in ((row.key, "z"), (row.detail, "y")):
        assert cell == letter * 1000 + "... (200,000 characters)"
    assert list(verify.faults(tmp_path / "s", Workers(1))) == []


def test_a_label_that_is_no_unicode_is_left_out(tmp_path: Path) -> None:
    items = [*samples(1), Sample("b", crop_png(9), "가\ud83d", "x")]
    assert write_lmdb(tmp_path / "s", items, alphabet=None, settings={}).left_out == {"label is no valid Unicode": 1}


def test_nfd_labels_are_stored_as_nfc(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "s", [Sample("a", crop_png(0), "\u1100\u1161", "x")], alphabet=ALPHABET, settings={})
    assert LmdbReader(tmp_path / "s").texts() == ["가"]


def test_the_content_hash_follows_the_content_alone(tmp_path: Path) -> None:
    def content(items: list[Sample], **settings: int) -> str:
        return write_lmdb(tmp_path / "s", items, alphabet=None, settings=settings).content_hash

    first = content(samples(4))
    assert content(samples(4), other=1) == first
    changed = [samples(4)[::-1], samples(3), [*samples(3), Sample("./train/00003.png", crop_png(3), "가나", "x")]]
    assert len({first, *map(content, changed)}) == 4


def test_the_hash_of_the_meta_follows_groups_and_facts(tmp_path: Path) -> None:
    def hashes(**change: object) -> tuple[str, str]:
        items = [*samples(3), dataclasses.replace(samples(4)[3], **change)]
        manifest = write_lmdb(tmp_path / "s", items, alphabet=None, settings={})
        return manifest.content_hash, manifest.meta_hash

    first = hashes()
    assert hashes() == first
    others = [hashes(group="another"), hashes(source="another"), hashes(facts={"kind": "book"})]
    assert {content for content, _ in others} == {first[0]}
    assert len({first[1], *(meta for _, meta in others)}) == 4


def test_a_finished_store_is_recognised_by_its_settings(store: Path) -> None:
    assert matches(store, {"seed": 1})
    assert not matches(store, {"seed": 2})
    assert not matches(store.with_name("other"), {"seed": 1})
    assert read_manifest(store).settings == {"seed": 1}


def test_settings_match_after_json(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "s", samples(1), alphabet=None, settings={"size": (32, 128)})
    assert matches(tmp_path / "s", {"size": (32, 128)})


# --- many readers


def _read_some(reader: LmdbReader, rows: list[int]) -> list[tuple[int, str, bytes]]:
    return [(os.getpid(), reader[row].key, reader.image_bytes(row)) for row in rows]


def test_joblib_processes_read_at_once(store: Path) -> None:
    reader = LmdbReader(store)
    assert reader[0].text == "가"  # Open here before the reader is sent away.
    parts = Parallel(n_jobs=2)(delayed(_read_some)(reader, list(range(start, 12, 3))) for start in range(3))
    found = {key: image for part in parts for _, key, image in part}
    assert found == {sample.key: sample.image for sample in samples()}
    assert os.getpid() not in {pid for part in parts for pid, _, _ in part}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_threads_open_and_read_at_once(store: Path) -> None:
    with LmdbReader(store) as reader:
        expected = reader.texts()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(60):
            fresh = pickle.loads(pickle.dumps(reader))  # nothing of it is open yet
            assert [sample.text for sample in threads.map(fresh.__getitem__, range(len(expected)))] == expected
            fresh.close()


def test_forked_workers_read_through_an_open_reader(store: Path) -> None:
    reader = LmdbReader(store)
    assert reader[0].text == "가"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.starmap(_read_some, [(reader, [0, 5]), (reader, [6, 11])])
    assert [row[1] for part in parts for row in part] == [f"./train/{i:05d}.png" for i in (0, 5, 6, 11)]
    assert reader[11].text == "다가"


def _child_reads(reader: LmdbReader, queue: multiprocessing.Queue) -> None:
    queue.put([reader[3].key, LmdbReader(reader.path)[4].key])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_inherited_reader_opens_the_file_anew(store: Path) -> None:
    reader = LmdbReader(store)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child_reads, args=(reader, queue))
    child.start()
    assert queue.get(timeout=30) == ["./train/00003.png", "./train/00004.png"]
    child.join()


def test_two_readers_share_a_file_and_one_may_close(store: Path) -> None:
    first, second = LmdbReader(store), LmdbReader(os.path.relpath(store))
    first.close()
    assert second[0].key == first[0].key
    copy = pickle.loads(pickle.dumps(second))
    assert (len(copy), copy[1].key) == (12, "./train/00001.png")


def test_a_store_rewritten_while_open(store: Path) -> None:
    old = LmdbReader(store)
    write_lmdb(store, samples(5), alphabet=None, settings={"seed": 2})
    assert len(LmdbReader(store)) == 5
    assert len(old.texts()) == 12


def test_a_read_only_folder_is_enough(store: Path) -> None:
    assert sorted(path.name for path in store.iterdir()) == ["data.mdb", "left_out.csv"]


# --- failures


def test_a_wrong_folder(tmp_path: Path) -> None:
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "data.mdb").write_bytes(b"nothing " * 2000)
    write_clova(tmp_path / "other", [])
    with lmdb.open(str(tmp_path / "other")) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"num-samples")
    (tmp_path / "several" / "inner").mkdir(parents=True)
    (tmp_path / "several" / "inner" / "data.mdb").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    inner = re.escape(str(tmp_path / "several" / "inner"))
    for name, message in (
        ("nowhere", r"no LMDB there \(no such folder"),
        ("file", r"no LMDB there \(it is a file"),
        ("several", rf"no LMDB there \(it holds 1 of them: name {inner}"),
        ("junk", "cannot be opened"),
        ("other", "num-samples"),
    ):
        with pytest.raises(HangulOcrError, match=message):
            LmdbReader(tmp_path / name)


def test_what_lies_where_a_store_was_looked_for_is_told(tmp_path: Path) -> None:
    for name, shards in (("many/a", 1), ("many/b", 3), ("deep/MJ/train", 1), ("gone", 2)):
        write_lmdb(tmp_path / name, samples(4), alphabet=None, settings={}, shards=shards)
    (tmp_path / "gone" / "manifest.json").unlink()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "photo.jpg").write_bytes(b"x")
    for name, message in (
        ("many", f"it holds 2 of them: name {tmp_path}/many/a, {tmp_path}/many/b)"),
        ("deep", f"it holds 1 of them: name {tmp_path}/deep/MJ/train)"),
        ("gone", "its manifest.json is gone; copy or write the store again)"),
        ("plain", "it has no data.mdb; found photo.jpg;"),
        ("many/a/data.mdb", f"it is a store's file; name its folder, {tmp_path}/many/a)"),
    ):
        with pytest.raises(HangulOcrError, match=re.escape(f"{tmp_path / name}: no LMDB there ({message}")):
            LmdbReader(tmp_path / name)


def test_a_truncated_store_does_not_end_the_process(store: Path) -> None:
    data = (store / "data.mdb").read_bytes()
    (store / "data.mdb").write_bytes(data[: len(data) // 2])
    with pytest.raises(HangulOcrError, match="truncated"):
        LmdbReader(store)
    assert not matches(store, {"seed": 1})


def test_a_record_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write_clova(tmp_path / "s", [(crop_png(0), "가")])
    with lmdb.open(str(path), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"2")
    with LmdbReader(path) as reader:
        for read in (lambda: reader[1], reader.texts, lambda: reader.image_bytes(1)):
            with pytest.raises(HangulOcrError, match=r"-000000002 is missing"):
                read()


def put(path: Path, key: bytes, value: bytes) -> None:
    with lmdb.open(str(path), lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(key, value)


@pytest.mark.parametrize("number", [b"9" * 5000, b"9" * 20, b"4000000000", b"\xd9\xa3"])
def test_a_number_of_samples_that_cannot_be(store: Path, number: bytes) -> None:
    put(store, b"num-samples", number)
    with pytest.raises(HangulOcrError, match=r"num-samples.*(copy or write it again|name another folder)$"):
        LmdbReader(store)


@pytest.mark.parametrize(
    "meta", [b'{"key": 5}', b'{"key": ["a"]}', b'{"key": "k", "group": null}', b"[]", b"null", b"{", b"[" * 100_000]
)
def test_meta_that_is_none_is_named(store: Path, meta: bytes) -> None:
    put(store, b"meta-000000003", meta)
    with LmdbReader(store) as reader:
        with pytest.raises(HangulOcrError, match=r"meta-000000003 is damaged .*copy or write the LMDB again"):
            reader[2]
        assert reader[3].key == "./train/00003.png"
        assert reader.keys()[1:4] == ["./train/00001.png", "image-000000003", "./train/00003.png"]


def test_one_damaged_label_does_not_hide_the_others(store: Path) -> None:
    with LmdbReader(store) as reader:
        texts = reader.texts()
    put(store, b"label-000000002", b"\xff\xfe")
    with LmdbReader(store) as reader:
        assert reader.texts() == [texts[0], "", *texts[2:]]
        with pytest.raises(RECORD_FAULTS):
            reader[1]


def _damaged(data: bytes, seed: int) -> bytes:
    """Return a file in which bytes of some pages, of 4,096 bytes each, are others."""
    rng = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        start = rng.randrange(len(data) // 4096) * 4096 + rng.choice((0, 10, 16, rng.randrange(4096)))
        size = min(rng.choice((2, 8, 64, 4096)), len(data) - start)
        damaged[start : start + size] = rng.choice((bytes(size), rng.randbytes(size)))
    return bytes(damaged)


def _read_damaged(path: Path) -> None:
    """Verify and import a damaged store: both end or say in one line why not."""
    faulthandler.disable()
    for read in (lambda: verify.faults(path, Workers(1)), lambda: import_samples("lmdb", [path])):
        with contextlib.suppress(HangulOcrError):
            list(read())


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_damaged_pages_are_faults_and_no_tracebacks(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "s", samples(40), alphabet=None, settings={})
    data, ends = (tmp_path / "s" / "data.mdb").read_bytes(), []
    for seed in range(60):
        (tmp_path / "s" / "data.mdb").write_bytes(_damaged(data, seed))
        child = multiprocessing.get_context("fork").Process(target=_read_damaged, args=(tmp_path / "s",))
        child.start()
        child.join()
        ends.append(child.exitcode)
    # LMDB follows some wrong addresses out of its map, where the system ends the process: so a child for each.
    assert set(ends) <= {0, -signal.SIGBUS, -signal.SIGSEGV}
    assert ends.count(0) > 50


def test_a_failing_importer_leaves_the_former_store(store: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield samples(1)[0]
        raise HangulOcrError("the importer's own words")

    with pytest.raises(HangulOcrError, match="own words"):
        write_lmdb(store, failing(), alphabet=None, settings={})
    assert len(LmdbReader(store)) == 12
    assert [path.name for path in store.parent.iterdir()] == ["store"]


def test_a_file_error_of_the_importer_is_not_called_a_full_disk(tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield from samples(1)
        (tmp_path / "not there").read_bytes()

    with pytest.raises(FileNotFoundError):
        write_lmdb(tmp_path / "s", failing(), alphabet=None, settings={})


def test_nothing_to_store_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(HangulOcrError, match=r"0 of 1 kept; left out: 1 missing image; the first: a"):
        write_lmdb(tmp_path / "s", [LeftOut("a", "missing image")], alphabet=None, settings={})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(HangulOcrError, match="no LMDB folder"):
        write_lmdb(tmp_path / "precious", samples(1), alphabet=None, settings={})
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"


def test_leftovers_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "s.tmp").mkdir()
    (tmp_path / "s.tmp" / "data.mdb").write_bytes(b"half")
    write_lmdb(tmp_path / "s", samples(2), alphabet=None, settings={})
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


FILL = """
import resource, signal, sys
from pathlib import Path
from conftest import crop_png
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.sample import Sample
from hangul_ocr.hangul import HangulOcrError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
image = crop_png(0, 300, 200)
try:
    items = (Sample(str(i), image, "가", "x") for i in range(500))
    write_lmdb(Path(sys.argv[1]), items, alphabet=None, settings={})
except HangulOcrError as error:
    print(error)
    sys.exit(1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_costs_nothing_that_was_there(store: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(lmdb_writer.__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(store)], capture_output=True, encoding="utf-8", env=environment, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert len(LmdbReader(store)) == 12
    assert [path.name for path in store.parent.iterdir()] == ["store"]


def test_a_store_at_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_lmdb(Path("."), samples(3), alphabet=None, settings={})
    with LmdbReader(tmp_path / "here") as reader:
        assert len(reader) == 3
