"""Building stores: many workers, shards, kills at any moment, full disks, mounted folders."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import lmdb
import pytest
from conftest import crop_png
from data_sets import outdoor_json, photograph, write, write_zip
from tqdm.auto import tqdm

from hangul_ocr import cli
from hangul_ocr.data import building, lmdb_writer, workers
from hangul_ocr.data.building import build_lmdb
from hangul_ocr.data.dacon import read_competition, train_samples
from hangul_ocr.data.lmdb_store import LmdbReader, matches, read_manifest
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.planning import ImportSettings, Planned, do
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import plan
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.data.workers import Workers
from hangul_ocr.hangul import HangulOcrError

SETTINGS = ImportSettings()
THREADS = Workers(2, "threading")
IMAGES = [crop_png(seed, 40, 20) for seed in range(8)]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and signals")


@dataclass(frozen=True)
class Piece:
    """Work that comes to three crops, one of them a duplicate or left out now and then; it says that it was done."""

    number: int
    log: str = ""
    pause: float = 0.0

    def samples(self, settings: ImportSettings) -> Iterator[Sample | LeftOut]:
        if self.log:
            with open(self.log, "a") as log:
                log.write(f"{self.number}\n")
        time.sleep(self.pause)
        for part in range(3):
            key = f"{self.number // 2 if self.number % 7 == 6 else self.number}#{part}"
            if self.number % 5 == 1 and part == 1:
                yield LeftOut(key, "box too small", 'a, "detail"\rwith 글')
            else:
                yield Sample(key, IMAGES[(self.number + part) % 8], f"글{part}", "x", f"photo {self.number}")


def pieces(count: int, log: Path | str = "", pause: float = 0.0) -> Callable[[], Iterator[Planned]]:
    def plan() -> Iterator[Planned]:
        for number in range(count):
            if number % 11 == 3:
                yield LeftOut(f"image {number}", "missing image")
            yield Piece(number, str(log), pause)

    return plan


def content(path: Path) -> tuple:
    """Return all that a store holds but when it was made and of how many shards."""
    with LmdbReader(path) as reader:
        manifest = reader.manifest
        records = [
            (sample.key, sample.text, sample.image, sample.group)
            for sample in map(reader.__getitem__, range(len(reader)))
        ]
        counts = (manifest.read, manifest.kept, manifest.left_out, manifest.content_hash)
        return counts, records, reader.metas(), (path / "left_out.csv").read_bytes()


def serial(path: Path, count: int) -> tuple:
    write_lmdb(path, (item for piece in pieces(count)() for item in do(piece, SETTINGS)), alphabet=None, settings={})
    return content(path)


# --- whoever does the work


@pytest.mark.parametrize("team", [Workers(1), THREADS], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_store_is_the_same_whoever_made_it(tmp_path: Path, team: Workers, shards: int) -> None:
    manifest = build_lmdb(tmp_path / "s", pieces(100), SETTINGS, settings={"a": 1}, workers=team, shards=shards)
    expected = serial(tmp_path / "serial", 100)
    assert content(tmp_path / "s") == expected
    assert expected[0][2] == {"box too small": 20, "missing image": 9, "duplicate key": 18}
    assert (manifest.shards, manifest.settings) == (shards, {"a": 1})
    assert matches(tmp_path / "s", {"a": 1})
    assert len(read_table(tmp_path / "s" / "left_out.csv")) == sum(manifest.left_out.values())


def test_processes_do_the_work_in_order(tmp_path: Path, capsys) -> None:
    for number in range(80):
        boxes = [([10 + 30 * n, 20, 25, 40], f"글{n}") for n in range(number % 4)] + [([1, 2, 3, 4], "xxx")]
        write(tmp_path / "set" / f"{number:02d}.json", outdoor_json(f"{number:02d}", boxes))
        write(tmp_path / "set" / f"{number:02d}.jpg", photograph())
    for name, options in {"one": ["--workers", "1"], "two": ["--workers", "2", "--shards", "2"]}.items():
        arguments = ["import", "aihub-outdoor", str(tmp_path / "set"), "--out", str(tmp_path / name), *options]
        assert cli.main(arguments) == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(LmdbReader(tmp_path / "two")) == 120


def test_the_same_call_runs_on_a_dask_cluster(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        # Work is done elsewhere: in processes that get it through the scheduler.
        build_lmdb(tmp_path / "s", pieces(100), SETTINGS, settings={}, workers=Workers(2, "dask"))
    assert content(tmp_path / "s") == serial(tmp_path / "serial", 100)


def test_the_same_call_runs_on_ray(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    seen = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, runtime_env=seen)
    try:
        build_lmdb(tmp_path / "s", pieces(100), SETTINGS, settings={}, workers=Workers(2, "ray"))
    finally:
        ray.shutdown()
    assert content(tmp_path / "s") == serial(tmp_path / "serial", 100)


def test_finished_samples_need_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "call", lambda *_: pytest.fail("work was handed out"))
    items = [Sample(str(n), IMAGES[n % 8], "가", "x") for n in range(700)]
    assert build_lmdb(tmp_path / "s", lambda: iter(items), SETTINGS, settings={}).kept == 700


def test_no_more_than_two_stretches_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_CALLS", 2)
    done = 0

    def plan() -> Iterator[Planned]:
        for number in range(600):
            assert number <= done + 2 * 2 * workers._CALL * 2
            yield Piece(number)

    for _ in THREADS.results(plan(), SETTINGS):
        done += 1
    assert done == 600


def test_an_unknown_backend_and_one_that_is_not_installed(tmp_path: Path) -> None:
    for backend, message in (("spark", "choose one of dask, ray, loky"), ("ray", "needs a package")):
        if backend == "spark" or not importlib.util.find_spec("ray"):
            with pytest.raises(HangulOcrError, match=message):
                build_lmdb(tmp_path / "s", pieces(2), SETTINGS, settings={}, workers=Workers(2, backend))
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Fatal:
    def samples(self, settings: ImportSettings) -> Iterator[Sample | LeftOut]:
        os._exit(9)
        yield


def test_a_worker_that_dies_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HangulOcrError, match=r"a worker died.*fewer --workers"):
        build_lmdb(tmp_path / "s", lambda: iter([Fatal()] * 40), SETTINGS, settings={}, workers=Workers(2))


@dataclass(frozen=True)
class Failing:
    """Work that fails once it has come to one crop."""

    number: int

    def samples(self, settings: ImportSettings) -> Iterator[Sample | LeftOut]:
        yield Sample(f"{self.number}", IMAGES[self.number % 8], "가", "x")
        raise (MemoryError(), ValueError("two\nlines"))[self.number % 2]


def test_work_that_fails_is_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    def plan() -> Iterator[Planned]:
        yield from (Failing(0), Piece(0), Failing(1))

    manifest = build_lmdb(tmp_path / "s", plan, SETTINGS, settings={}, workers=Workers(1))
    assert (manifest.kept, manifest.left_out) == (5, {"failed": 2})
    table = read_table(tmp_path / "s" / "left_out.csv")
    assert list(table["key"]) == ["Failing(number=0)", "Failing(number=1)"]
    assert list(table["detail"]) == ["MemoryError:", "ValueError: two lines"]


def test_an_importer_runs_over_a_cluster_that_stands_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    for number in range(40):
        write(tmp_path / "set" / f"{number}.json", outdoor_json(f"{number}", [([10, 20, 90, 40], f"글{number}")]))
        write(tmp_path / "set" / f"{number}.jpg", photograph())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        client.run(os.chdir, tmp_path / "elsewhere")
        arguments = ["import", "aihub-outdoor", "set", "--out", "store", "--workers", "2", "--backend", "dask"]
        assert cli.main(arguments) == 0
    with LmdbReader(tmp_path / "store") as reader:
        assert (reader.manifest.kept, reader.manifest.left_out) == (40, {})


# --- shards


def test_each_shard_is_an_lmdb_that_clovaai_reads(tmp_path: Path) -> None:
    build_lmdb(tmp_path / "s", pieces(20), SETTINGS, settings={}, workers=Workers(1), shards=3)
    whole = LmdbReader(tmp_path / "s")
    images, texts = [whole[number].image for number in range(3)], whole.texts()
    whole.close()
    counts = []
    for number in range(3):
        folder = tmp_path / "s" / f"shard-00{number}-of-003"
        with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
            counts.append(int(transaction.get(b"num-samples")))
            assert transaction.get(b"image-000000001") == images[number]
            assert transaction.get(b"label-000000002").decode() == texts[3 + number]
            assert transaction.stat()["entries"] == 3 * counts[-1] + 1
    assert sum(counts) == len(whole)
    assert LmdbReader(tmp_path / "s" / "shard-001-of-003").keys() == whole.keys()[1::3]


def test_a_shard_that_is_gone_or_another_is_named(tmp_path: Path) -> None:
    for name, count in (("a", 20), ("b", 30)):
        build_lmdb(tmp_path / name, pieces(count), SETTINGS, settings={}, workers=Workers(1), shards=2)
    shutil.rmtree(tmp_path / "a" / "shard-001-of-002")
    with pytest.raises(HangulOcrError, match="shard-001-of-002: no LMDB there"):
        LmdbReader(tmp_path / "a")
    shutil.copytree(tmp_path / "b" / "shard-001-of-002", tmp_path / "a" / "shard-001-of-002")
    with pytest.raises(HangulOcrError, match="do not belong together"):
        LmdbReader(tmp_path / "a")


def test_a_store_of_shards_is_imported_as_one(tmp_path: Path) -> None:
    build_lmdb(tmp_path / "in" / "s", pieces(20), SETTINGS, settings={}, workers=Workers(1), shards=3)
    for path, name in ((tmp_path / "in", "one"), (tmp_path / "in" / "s", "two")):
        assert cli.main(["import", "lmdb", str(path), "--out", str(tmp_path / name)]) == 0
        assert LmdbReader(tmp_path / name).keys() == LmdbReader(tmp_path / "in" / "s").keys()


def _contents(path: Path) -> tuple[str, str, dict[str, int], bytes]:
    manifest = read_manifest(path)
    return manifest.content_hash, manifest.meta_hash, manifest.left_out, (path / "left_out.csv").read_bytes()


@pytest.mark.parametrize("workers", [Workers(1), THREADS, Workers(2)], ids=["one", "threads", "processes"])
def test_competitions_and_stores_are_read_by_workers_and_come_out_the_same(
    mini_competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: Workers
) -> None:
    monkeypatch.setattr("hangul_ocr.data.workers._CALL", 2)
    train = read_table(mini_competition / "train.csv")
    train.loc[3, "text"], train.loc[4, "img_path"] = "xxx", "./train/gone.png"
    write_table(train, mini_competition / "train.csv")
    (mini_competition / "train" / Path(train["img_path"][5]).name).write_bytes(b"junk")
    write_lmdb(tmp_path / "o", train_samples(read_competition(mini_competition)), alphabet=None, settings={}, shards=2)
    sources = {"dacon": mini_competition, "lmdb": tmp_path / "o"}
    for source, path in sources.items():
        planned = partial(plan, source, [path], SETTINGS)
        assert not any(isinstance(item, Sample) for item in planned())
        build_lmdb(tmp_path / source, planned, SETTINGS, settings={}, workers=workers)
    expected = _contents(tmp_path / "o")
    assert expected[2] == {"placeholder label": 1, "missing image": 1, "unreadable image": 1}
    assert _contents(tmp_path / "dacon") == expected
    assert _contents(tmp_path / "lmdb")[:2] == expected[:2]


def test_a_relabel_saves_a_crop_of_a_competition_and_of_a_store(mini_competition: Path, tmp_path: Path) -> None:
    train = read_table(mini_competition / "train.csv")
    train.loc[3, "text"] = "xxx"
    write_table(train, mini_competition / "train.csv")
    items = [Sample("a", crop_png(1), "가", "x"), Sample("b", crop_png(2), "xxx", "x")]
    write_lmdb(tmp_path / "o", items, alphabet=None, settings={})
    for source, path, key in (
        ("dacon", mini_competition, train["img_path"][3]),
        ("lmdb", tmp_path / "o", "b"),
    ):
        corrections = write(tmp_path / "c.csv", f"img_path,action,text\n{key},relabel,나라\n")
        command = ["import", source, str(path), "--out", str(tmp_path / source), "--corrections", str(corrections)]
        assert cli.main(command) == 0
        with LmdbReader(tmp_path / source) as reader:
            assert reader[reader.index_of(key)].text == "나라"
            assert reader.manifest.left_out == {}


@pytest.mark.parametrize("shards", [(1, 3), (3, 1), (3, 2)])
def test_a_store_replaces_one_of_other_shards(tmp_path: Path, shards: tuple[int, int]) -> None:
    for number in shards:
        build_lmdb(tmp_path / "s", pieces(10), SETTINGS, settings={}, workers=Workers(1), shards=number)
        assert read_manifest(tmp_path / "s").shards == number
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert len(list((tmp_path / "s").glob("shard-*"))) == (0 if shards[1] == 1 else shards[1])


# --- kills and other ends


def _forked(work: Callable[[], None]) -> multiprocessing.Process:
    """Start ``work`` in a process of its own, which costs no imports."""

    def run() -> None:
        # tqdm's lock is shared with the parent: a child that is killed while it holds it would keep it for ever.
        tqdm.set_lock(threading.RLock())
        work()

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    return child


def _build_in_child(path: Path, plan: Callable[[], Iterator[Planned]], shards: int) -> multiprocessing.Process:
    """Begin a build that commits often in a process of its own."""

    def build() -> None:
        lmdb_writer._BATCH_BYTES = 1 << 14
        lmdb_writer._FIRST_MAP = 1 << 16
        workers._CALL = workers._CALLS = 4
        build_lmdb(path, plan, SETTINGS, settings={}, workers=THREADS, shards=shards)

    return _forked(build)


def _pieces_committed(aside: Path, plan: Callable[[], Iterator[Planned]]) -> int:
    progress = aside / "progress.json"
    steps = json.loads(progress.read_text())["steps"] if progress.exists() else 0
    return sum(isinstance(planned, Piece) for planned in islice(plan(), steps))


def _wait_for_commit(
    child: multiprocessing.Process, aside: Path, plan: Callable[[], Iterator[Planned]], before: int
) -> None:
    while child.is_alive() and _pieces_committed(aside, plan) <= before:
        time.sleep(0.002)


@linux
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("shards", [1, 3])
def test_killed_at_twenty_random_moments_it_ends_as_if_undisturbed(tmp_path: Path, shards: int) -> None:
    rng, committed = random.Random(shards), [0]
    plan = pieces(1200, tmp_path / "log", pause=0.001)
    for turn in range(20):
        child = _build_in_child(tmp_path / "s", plan, shards)
        if turn % 2:  # on a busy machine no moment that is chosen beforehand may lie behind a commit
            _wait_for_commit(child, tmp_path / "s.tmp", plan, committed[-1])
        child.join(rng.uniform(0.005, 0.02 if turn % 2 else 0.1))
        assert child.is_alive(), "too quick to be killed"
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        committed.append(_pieces_committed(tmp_path / "s.tmp", plan))
        done = {int(line) for line in (tmp_path / "log").read_text().splitlines()} if committed[-1] else set()
        assert not done & set(range(committed[-2])), "what was committed was done again"
        (tmp_path / "log").write_text("")
    child = _build_in_child(tmp_path / "s", plan, shards)
    child.join()
    assert child.exitcode == 0
    assert committed == sorted(committed)
    assert len(set(committed)) > 5, "most kills came before the first commit"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "s"]
    assert content(tmp_path / "s") == serial(tmp_path / "serial", 1200)


@linux
@pytest.mark.parametrize("moment", range(6))
def test_killed_within_a_commit(tmp_path: Path, moment: int) -> None:
    """Each commit writes two shards, left_out.csv and progress.json: kill between and within them."""

    def build() -> None:
        lmdb_writer._BATCH_BYTES = 1 << 13
        left = 12 + moment

        def counted(function: Callable) -> Callable:
            def call(*arguments: object) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                function(*arguments)

            return call

        for name in ("_commit", "atomic_write_text"):
            setattr(lmdb_writer, name, counted(getattr(lmdb_writer, name)))
        lmdb_writer.StoreWriter._append_left_out = counted(lmdb_writer.StoreWriter._append_left_out)
        build_lmdb(tmp_path / "s", pieces(60), SETTINGS, settings={}, workers=Workers(1), shards=2)

    child = _forked(build)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert _pieces_committed(tmp_path / "s.tmp", pieces(60)) > 0
    build_lmdb(tmp_path / "s", pieces(60), SETTINGS, settings={}, workers=Workers(1), shards=2)
    assert content(tmp_path / "s") == serial(tmp_path / "serial", 60)


IMPORT = """
import sys
from hangul_ocr import cli
from hangul_ocr.data import lmdb_writer
lmdb_writer._BATCH_BYTES = 1 << 13
sys.exit(cli.main(sys.argv[1:]))
"""


@linux
def test_the_command_goes_on_after_a_kill_of_all_its_processes(tmp_path: Path) -> None:
    boxes = [([10, 20, 90, 40], "글")] * 20
    for number in range(60):
        write(tmp_path / "set" / f"{number}.json", outdoor_json(f"{number}", boxes, 2000, 1500))
        write(tmp_path / "set" / f"{number}.jpg", photograph(2000, 1500))
    command = [sys.executable, "-c", IMPORT, "import", "aihub-outdoor", str(tmp_path / "set"), "--workers", "2"]
    paths = [str(Path(__file__).parent), str(Path(lmdb_writer.__file__).parents[2])]
    options = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, "start_new_session": True}
    with subprocess.Popen([*command, "--out", str(tmp_path / "s")], **options) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "s.tmp" / "progress.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "s.tmp" / "progress.json").exists()
    for name in ("s", "undisturbed"):
        assert cli.main([*command[3:-2], "--workers", "1", "--out", str(tmp_path / name)]) == 0
    assert content(tmp_path / "s") == content(tmp_path / "undisturbed")


def _interrupted(path: Path, count: int, **options: object) -> None:
    """Leave the first half of a store as a failure of the plan does."""

    def failing() -> Iterator[Planned]:
        yield from islice(pieces(count)(), count // 2)
        raise HangulOcrError("a cable was pulled")

    with pytest.raises(HangulOcrError, match="a cable"):
        build_lmdb(path, failing, SETTINGS, settings={}, workers=Workers(1), **options)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_writer, "_BATCH_BYTES", 1 << 14)
    monkeypatch.setattr(lmdb_writer, "_FIRST_MAP", 1 << 16)
    monkeypatch.setattr(workers, "_CALLS", 1)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    "change", ["data set", "settings", "shards", "left_out.csv", "records", "progress", "header", "size"]
)
def test_what_does_not_fit_is_begun_anew(tmp_path: Path, capsys, change: str) -> None:
    _interrupted(tmp_path / "s", 100)
    aside = tmp_path / "s.tmp"
    if change == "left_out.csv":
        (aside / "left_out.csv").unlink()
    if change == "records":
        with lmdb.open(str(aside), lock=False) as environment, environment.begin(write=True) as transaction:
            transaction.delete(b"image-000000003")
    if change == "progress":
        (aside / "progress.json").write_text('{"steps": 1')
    if change in ("header", "size"):
        data = (aside / "data.mdb").read_bytes()
        (aside / "data.mdb").write_bytes(b"x" * len(data) if change == "header" else data[: len(data) // 2])
    plan = pieces(100) if change != "data set" else lambda: islice(pieces(100)(), 1, None)
    settings = {"margin": 1} if change == "settings" else {}
    build_lmdb(tmp_path / "s", plan, SETTINGS, settings=settings, workers=Workers(1), shards=1 + (change == "shards"))
    assert "begun anew" in capsys.readouterr().err
    if change != "data set":
        assert content(tmp_path / "s") == serial(tmp_path / "serial", 100)


@pytest.mark.usefixtures("often")
def test_an_unfinished_store_can_be_looked_into(tmp_path: Path) -> None:
    _interrupted(tmp_path / "s", 100, shards=2)
    kept = json.loads((tmp_path / "s.tmp" / "progress.json").read_text())["kept"]
    parts = [LmdbReader(tmp_path / "s.tmp" / f"shard-00{number}-of-002") for number in range(2)]
    assert sum(map(len, parts)) == kept > 30
    with pytest.raises(HangulOcrError, match="no LMDB there"):
        LmdbReader(tmp_path / "s.tmp")


def test_a_complete_store_that_was_not_put_in_place_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for shards in (1, 2):
        path, options = tmp_path / f"s{shards}", {"settings": {}, "workers": Workers(1), "shards": shards}
        with monkeypatch.context() as patched:
            patched.setattr(building, "put_in_place", interrupt)
            with pytest.raises(KeyboardInterrupt):
                build_lmdb(path, pieces(20), SETTINGS, **options)
        build_lmdb(path, lambda: pytest.fail("all is done"), SETTINGS, **options)
        assert content(path) == serial(tmp_path / "serial", 20)


@linux
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_do_not_write_one_store(tmp_path: Path) -> None:
    child = _build_in_child(tmp_path / "s", pieces(1000, pause=0.01), 1)
    while not (tmp_path / "s.tmp" / "progress.json").exists():
        time.sleep(0.01)
    with pytest.raises(HangulOcrError, match="another process is writing there"):
        build_lmdb(tmp_path / "s", pieces(10), SETTINGS, settings={}, workers=Workers(1))
    assert child.is_alive()
    child.kill()
    child.join()


def test_a_store_may_not_lie_in_what_it_is_made_of(tmp_path: Path, capsys) -> None:
    assert cli.main(["import", "list", str(tmp_path), "--out", str(tmp_path / "a" / "s")]) == 1
    assert "which is to be read; name a folder elsewhere" in capsys.readouterr().err


# --- disks


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB of its own, where we may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a disk is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("shards", [1, 3])
def test_a_full_disk_is_said_and_the_store_goes_on_when_there_is_room(
    tmp_path: Path, mounted: Path, shards: int
) -> None:
    options = {"settings": {}, "workers": Workers(1), "shards": shards}
    build_lmdb(mounted / "s", pieces(20), SETTINGS, **options)
    with pytest.raises(HangulOcrError, match=r"the disk is full.*make room and run the same command again") as caught:
        build_lmdb(mounted / "s", pieces(600, tmp_path / "log"), SETTINGS, **options)
    assert "\n" not in str(caught.value)
    assert len(LmdbReader(mounted / "s")) == 54
    committed = _pieces_committed(mounted / "s.tmp", pieces(600))
    assert committed > 100
    (tmp_path / "log").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(mounted)], check=True)
    build_lmdb(mounted / "s", pieces(600, tmp_path / "log"), SETTINGS, **options)
    assert min(map(int, (tmp_path / "log").read_text().split())) == committed
    assert content(mounted / "s") == serial(tmp_path / "serial", 600)


@pytest.mark.parametrize("shards", [(1, 1), (1, 3), (3, 1), (3, 2)])
def test_a_mounted_folder_can_be_the_store(tmp_path: Path, mounted: Path, shards: tuple[int, int]) -> None:
    (mounted / "lost+found").mkdir()
    for number in shards:
        build_lmdb(mounted, pieces(20), SETTINGS, settings={"n": number}, workers=Workers(1), shards=number)
    assert content(mounted) == serial(tmp_path / "serial", 20)
    parts = {f"shard-{n:03d}-of-{shards[1]:03d}" for n in range(shards[1])}
    files = {"data.mdb"} if shards[1] == 1 else {"manifest.json", *parts}
    assert {path.name for path in mounted.iterdir()} == {"lost+found", "left_out.csv", *files}


def test_moving_a_store_into_a_mounted_folder_can_be_interrupted(
    tmp_path: Path, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = os.replace, 0

    def failing(*arguments: object) -> None:
        nonlocal left
        if Path(str(arguments[0])).parent.name == "unfinished" and Path(str(arguments[0])).name != "progress.json":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        replace(*arguments)

    options = {"settings": {}, "workers": Workers(1), "shards": 2}
    for before in range(3):
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            left = before
            patched.setattr(os, "replace", failing)
            build_lmdb(mounted, pieces(20), SETTINGS, **options)
    monkeypatch.setattr(os, "replace", replace)
    build_lmdb(mounted, lambda: pytest.fail("all is done"), SETTINGS, **options)
    assert content(mounted) == serial(tmp_path / "serial", 20)


# --- memory


def test_what_is_left_out_does_not_pile_up_in_memory(tmp_path: Path) -> None:
    def plan() -> Iterator[Planned]:
        yield Piece(0)
        for number in range(60_000):
            yield LeftOut(f"image {number} " + 300 * "x", "missing image")

    tracemalloc.start()
    manifest = build_lmdb(tmp_path / "s", plan, SETTINGS, settings={}, workers=Workers(1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest.left_out["missing image"] == 60_000
    assert os.path.getsize(tmp_path / "s" / "left_out.csv") > 18_000_000
    assert peak < 45_000_000


def test_a_store_at_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build_lmdb(Path("."), pieces(4), ImportSettings(), settings={})
    with LmdbReader(tmp_path / "here") as reader:
        assert len(reader) > 4


# --- folders of other people


def built_by_work(path: Path, items: list[Sample]) -> None:
    build_lmdb(path, lambda: iter(items), SETTINGS, settings={}, workers=Workers(1))


def written_at_once(path: Path, items: list[Sample]) -> None:
    write_lmdb(path, items, alphabet=None, settings={})


@pytest.mark.parametrize("suffix", ["tmp", "former"])
@pytest.mark.parametrize("make", [built_by_work, written_at_once])
@pytest.mark.parametrize("items", [[], [Sample("k", IMAGES[0], "가", "x")]], ids=["fails", "succeeds"])
def test_folders_that_happen_to_have_a_needed_name_are_left_alone(
    tmp_path: Path, suffix: str, make: Callable, items: list[Sample]
) -> None:
    precious = write(tmp_path / f"s.{suffix}" / "precious.txt", "my thesis")
    message = rf"s\.{suffix}: holds precious\.txt .*move it away or name another path"
    with pytest.raises(HangulOcrError, match=message):
        make(tmp_path / "s", items)
    assert precious.read_text() == "my thesis"
    assert [path.name for path in tmp_path.iterdir()] == [f"s.{suffix}"]


def test_a_file_of_a_needed_name_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "s.former", "my thesis")
    with pytest.raises(HangulOcrError, match=r"s\.former: holds a file"):
        build_lmdb(tmp_path / "s", pieces(2), SETTINGS, settings={}, workers=Workers(1))


def test_leftovers_of_our_own_are_no_hindrance(tmp_path: Path) -> None:
    build_lmdb(tmp_path / "s.former", pieces(4), SETTINGS, settings={}, workers=Workers(1), shards=2)
    for name in ("lock", "data.mdb", ".progress.json.x1_y.tmp", ".DS_Store"):
        write(tmp_path / "s.tmp" / name, b"")
    build_lmdb(tmp_path / "s", pieces(4), SETTINGS, settings={}, workers=Workers(1))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


# --- data sets that change between two calls


@pytest.fixture
def very_often(often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_writer, "_BATCH_BYTES", 1 << 10)
    monkeypatch.setattr(workers, "_CALL", 2)
    monkeypatch.setattr(workers, "_FINISHED", 2)


def _break_off(path: Path, plan: Callable[[], Iterator[Planned]]) -> None:
    """Do half of a plan and fail."""

    def failing() -> Iterator[Planned]:
        planned = list(plan())
        yield from planned[: len(planned) // 2]
        raise HangulOcrError("a cable was pulled")

    with pytest.raises(HangulOcrError, match="a cable"):
        build_lmdb(path, failing, SETTINGS, settings={}, workers=Workers(1))
    assert json.loads((path.with_name("s.tmp") / "progress.json").read_text())["steps"] > 10


def _outdoor_set(folder: Path, label: str) -> dict[str, bytes]:
    members = {f"{n:03d}.json": json.dumps(outdoor_json(f"{n:03d}", [([10, 20, 90, 40], label)])) for n in range(40)}
    files = {name: text.encode() for name, text in members.items()}
    files |= {f"{n:03d}.jpg": photograph() for n in range(40)}
    for name, data in files.items():
        write(folder / name, data)
    return files


@pytest.mark.usefixtures("very_often")
@pytest.mark.parametrize("changed", [False, True])
def test_corrected_label_files_are_not_mixed_with_former_ones(tmp_path: Path, capsys, changed: bool) -> None:
    def plan_of_set() -> Iterator[Planned]:
        return plan("aihub-outdoor", [tmp_path / "set"], SETTINGS)

    _outdoor_set(tmp_path / "set", "가")
    _break_off(tmp_path / "s", plan_of_set)
    if changed:
        _outdoor_set(tmp_path / "set", "나")
    build_lmdb(tmp_path / "s", plan_of_set, SETTINGS, settings={}, workers=Workers(1))
    assert LmdbReader(tmp_path / "s").texts() == ["나" if changed else "가"] * 40
    assert ("begun anew, for the data set is another" in capsys.readouterr().err) == changed


@pytest.mark.usefixtures("very_often")
@pytest.mark.parametrize("label", ["가", "나"])
def test_a_zip_that_was_written_anew_is_told_from_its_former_self_by_what_it_holds(
    tmp_path: Path, capsys, label: str
) -> None:
    def plan_of_zip() -> Iterator[Planned]:
        return plan("aihub-outdoor", [tmp_path / "set.zip"], SETTINGS)

    write_zip(tmp_path / "set.zip", _outdoor_set(tmp_path / "set", "가"))
    _break_off(tmp_path / "s", plan_of_zip)
    write_zip(tmp_path / "set.zip", _outdoor_set(tmp_path / "set", label))
    os.utime(tmp_path / "set.zip", (1, 1))
    build_lmdb(tmp_path / "s", plan_of_zip, SETTINGS, settings={}, workers=Workers(1))
    assert LmdbReader(tmp_path / "s").texts() == [label] * 40
    assert ("begun anew" in capsys.readouterr().err) == (label == "나")


@pytest.mark.usefixtures("very_often")
def test_a_finished_sample_of_another_image_or_group_is_another(tmp_path: Path, capsys) -> None:
    same = [Sample(str(n), IMAGES[n % 8], "가", "x", "photo") for n in range(40)]
    turned = same[0].image[:-1] + b"x"
    for other in (replace(same[0], image=turned), replace(same[0], group="another"), same[0]):
        _break_off(tmp_path / "s", lambda: iter(same))
        items = [other, *same[1:]]
        build_lmdb(tmp_path / "s", lambda items=items: iter(items), SETTINGS, settings={}, workers=Workers(1))
        assert ("begun anew" in capsys.readouterr().err) == (other is not same[0])
