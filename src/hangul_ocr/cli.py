"""The steps of a competition for people who live in a terminal, in the order of the notebooks.

Exit codes: 0 done, 1 an error that one line explains, 2 wrong usage, 3 stopped on time (the same command goes on),
130 interrupted. Images that cannot be read are named on stderr; as long as one can, `predict` and `import` end with 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hangul_ocr import __version__
from hangul_ocr.data.sources import SOURCES
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.settings import SURE
from hangul_ocr.workspace import end_processes, is_main_process

# PyTorch takes seconds to import: each command imports what it needs, so that --help answers at once.
if TYPE_CHECKING:
    from hangul_ocr.ensembles import Ensemble
    from hangul_ocr.notebook_runner import NotebookResult
    from hangul_ocr.session import Session
    from hangul_ocr.settings import Settings
    from hangul_ocr.workspace import Workspace

DONE, ERROR, USAGE, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. Errors that a user can act on are one line on stderr."""
    options = build_parser().parse_args(arguments)
    try:
        code = options.command(options) or DONE
        end_processes()
        return code
    except HangulOcrError as error:
        print(f"error: {error}", file=sys.stderr)
        if not _is_stop(error):
            return ERROR
        end_processes()  # a time limit stops all of them, an error perhaps this one alone
        return STOPPED
    except BrokenPipeError:
        # Somebody reads only our first lines (`| head`); Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        print(f"error: {_os_message(error)}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("interrupted; what was saved is kept: run the same command again to go on", file=sys.stderr)
        return INTERRUPTED


def _is_stop(error: HangulOcrError) -> bool:
    from hangul_ocr.steps import StoppedOnTime

    return isinstance(error, StoppedOnTime)


def _os_message(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


# --- the commands, in the order of the steps --------------------------------------------------------------------------


def sample_competition(options: argparse.Namespace) -> None:
    """Make a sample competition: a folder exactly like the real one, its quirks included."""
    from hangul_ocr.synthesis.competition import make_competition

    folder = make_competition(options.folder, options.train, options.test, options.seed)
    print(f"{folder}: {options.train:,} train and {options.test:,} test crops; the answers are in {folder / 'answers'}")


def lmdb(options: argparse.Namespace) -> None:
    """Write the competition's crops and labels into LMDBs, and deal the folds."""
    from hangul_ocr import steps
    from hangul_ocr.data.folds import largest_groups

    session = _session(options)
    if options.corrections:
        steps.keep_corrections(session.competition, session.workspace, *options.corrections)
    elif options.no_corrections:
        steps.forget_corrections(session.competition, session.workspace)
    print(steps.manifest_table(session.prepared).to_string())
    for line in steps.corrections_lines(session.prepared):
        print(line)
    groups = largest_groups(session.prepared.folds)
    sizes = ", ".join(f"{size:,} ({name})" for name, size in groups[groups > 1].items())
    print(f"groups that stay in one fold, the largest by their first crop: {sizes or 'none of more than one crop'}")
    print(
        f"written to {steps.data_folder(session.competition, session.workspace)}; left_out.csv names what is not there"
    )


def import_(options: argparse.Namespace) -> None:
    """Write a data set into an LMDB: photographs are cut into words; what cannot be used is counted by reason."""
    import dataclasses

    from hangul_ocr.data.building import build_lmdb
    from hangul_ocr.data.corrections import Applied, read_corrections
    from hangul_ocr.data.lmdb_store import LEFT_OUT_FILE
    from hangul_ocr.data.planning import ImportSettings
    from hangul_ocr.data.sources import plan
    from hangul_ocr.data.workers import Workers

    scripts = tuple(script.strip() for script in options.scripts.split(","))
    chosen = ImportSettings(options.margin, options.short_side, options.quality, scripts, options.shrink)
    facts = dataclasses.asdict(chosen)
    del facts["rescued"]  # a set, and what corrections did is told by the manifest itself
    record = {"source": options.source, "paths": options.paths, "import": facts}
    for path in map(Path, options.paths):
        if options.out.resolve().is_relative_to(path.expanduser().resolve()):
            raise HangulOcrError(f"{options.out}: lies in {path}, which is to be read; name a folder elsewhere")
    manifest = build_lmdb(
        options.out,
        lambda: plan(options.source, options.paths, chosen),
        chosen,
        settings=record,
        workers=Workers(options.workers, options.backend),
        shards=options.shards,
        corrections=read_corrections(*options.corrections) if options.corrections else None,
    )
    counts = {"read": manifest.read, "kept": manifest.kept, "left out": manifest.read - manifest.kept}
    rows = [*counts.items(), *((f"  {name}", count) for name, count in sorted(manifest.left_out.items()))]
    width = max(len(name) for name, _ in rows)
    for name, count in rows:
        print(f"{name:<{width}}  {count:>11,}")
    for line in Applied(**manifest.corrections).lines() if manifest.corrections else ():
        print(line)
    print(f"written to {options.out}; {options.out / LEFT_OUT_FILE} names what is not there")


def verify(options: argparse.Namespace) -> int:
    """Read LMDBs again, whole: every image is decoded, counts and content hash are held against the manifest."""
    return max([_verify(path, options) for path in options.lmdbs])


def _verify(path: Path, options: argparse.Namespace) -> int:
    """Print what is wrong with one store, a line for each fault, and return the exit code."""
    from hangul_ocr.data.lmdb_store import LmdbReader
    from hangul_ocr.data.verify import faults
    from hangul_ocr.data.workers import Workers

    number = 0
    try:
        for number, fault in enumerate(faults(path, Workers(options.workers, options.backend)), start=1):  # noqa: B007
            print(f"{path}: {' '.join(fault.split())}")
        if number:
            return ERROR
        with LmdbReader(path) as reader:
            manifest = reader.manifest
            known = f"content hash {manifest.content_hash}" if manifest else "no manifest to hold them against"
            print(f"{path}: {len(reader):,} records, all whole; {known}")
    except HangulOcrError as error:
        print(error if str(error).startswith(str(path)) else f"{path}: {error}")
        return ERROR
    return DONE


def pretrain(options: argparse.Namespace) -> None:
    """Pretrain the network on streamed synthetic crops, once for all folds."""
    from hangul_ocr import steps

    session = _session(options)
    steps.require_pretraining_start(session.settings, options.init_from)  # before a run folder is made
    steps.say_how_long(steps.estimated_seconds(session.run)["pretrain"])
    result = steps.pretrain_run(session.run, session.prepared, session.deadline, options.init_from)
    _say(f"{result.best}: {100 * result.progress.best_accuracy:.1f} % of its own validation crops are read exactly")


def train(options: argparse.Namespace) -> None:
    """Fine-tune one model for each fold, from the pretraining or from --init-from."""
    from hangul_ocr import steps

    session = _session(options)
    folds = None if options.fold is None else [options.fold]
    folder = steps.run_folder(session.workspace, session.name)
    steps.require_training_start(folder, session.settings, options.init_from, folds or [])  # before it is made
    steps.say_how_long(steps.estimated_seconds(session.run, folds)["train"])
    for result in steps.train_run(session.run, session.prepared, options.init_from, session.deadline, folds):
        _say(f"{result.best}: {100 * result.progress.best_accuracy:.1f} % of the fold's own crops")


def _say(line: str) -> None:
    """Print for all processes of a distributed run."""
    if is_main_process():
        print(line)


def ensemble(options: argparse.Namespace) -> None:
    """Read the training crops out-of-fold and the test crops; with several runs or views, keep what joins them best."""
    from hangul_ocr import ensembles, results, steps

    session = _trained_session(options)
    several = _ensemble(options)
    steps.read_oof(session.run, session.prepared)
    scores = results.oof_scores(session.run, session.prepared.folds)
    print(f"cross-validated accuracy: {results.accuracy_line(scores)}")
    if several is None:
        predictions = steps.read_test(session.run, session.prepared)
        print(f"{session.run.folder / results.TEST_PREDICTIONS}: {len(predictions):,} predictions")
        return
    record = ensembles.choose(several)
    print(ensembles.shown_comparison(ensembles.load_comparison(several)).to_string())
    print(f"kept: {ensembles.describe(record)}")
    predictions = ensembles.predict(several)
    print(f"{several.folder / results.TEST_PREDICTIONS}: {len(predictions):,} predictions")


def soup(options: argparse.Namespace) -> None:
    """Average the weights of runs that began alike into a new run, and keep it if it reads more crops out-of-fold."""
    from hangul_ocr import soups
    from hangul_ocr.steps import open_competition, prepare

    workspace = _workspace()
    competition = open_competition(workspace, _absolute(options.data), make_sample=False)
    prepared = prepare(competition, workspace, _kept_settings(workspace, options.runs))
    print("\n".join(soups.describe(soups.make_soup(workspace, prepared, options.runs, options.name))))


def suspects(options: argparse.Namespace) -> None:
    """Rank the labels that the out-of-fold predictions contradict, as a table to decide on and a wall of pictures."""
    from hangul_ocr.suspects import SUSPECTS, find_suspects, show_suspects, write_suspects

    session = _trained_session(options)
    table = find_suspects(session.run, session.prepared.train, options.confidence).head(options.most)
    if table.empty:
        print(f"no label is contradicted with a confidence of {options.confidence} or more: nothing is written")
        return
    path = write_suspects(table, options.out or session.run.folder / SUSPECTS)
    session.show(show_suspects(table, session.prepared.train), "suspects")
    print(
        f"{path}: {len(table):,} labels; pictures of the first in {session.workspace.output / 'figures'}/suspects.png"
    )
    print("write drop or relabel under action, then `hangul-ocr lmdb --corrections` with this file")


def submit(options: argparse.Namespace) -> None:
    """Write submissions/submission.csv, check it against the template, log it, and say what changed."""
    from hangul_ocr import ensembles, steps

    session = _trained_session(options)
    several = _ensemble(options)
    if several is None:
        path = steps.hand_in(session.run, session.prepared, session.workspace)
    else:
        path = ensembles.hand_in(several, session.workspace)
    print(f"{path}: columns, rows and order are the template's; its row is in {path.with_name('log.csv')}")


def report(options: argparse.Namespace) -> None:
    """Write the errors of a run as one HTML page to pass around: search, filters and zoom, without a network."""
    from hangul_ocr.error_report import write_report
    from hangul_ocr.results import require_read

    session = _session(options)
    require_read(session.workspace, session.name)  # before a run folder is made for a name mistyped
    path = options.out or session.workspace.output / "report.html"
    written = write_report(session.run, session.prepared, path, options.max_megabytes)
    print(f"{written.path}: {written.megabytes:.1f} MB; {written.coverage}")


def compare(options: argparse.Namespace) -> None:
    """Compare two runs or ensembles on the same crops: what got better or worse, and whether that may be chance."""
    from hangul_ocr import results
    from hangul_ocr.error_report import comparison_pictures
    from hangul_ocr.evaluation.comparison import comparison_table, verdict
    from hangul_ocr.evaluation.plots import save_figure
    from hangul_ocr.steps import open_competition, prepare

    workspace = _workspace()
    competition = open_competition(workspace, _absolute(options.data), make_sample=False)
    prepared = prepare(competition, workspace, _kept_settings(workspace, (options.first, options.second)))
    compared = results.compare_named(workspace, options.first, options.second, prepared.folds)
    print(comparison_table(compared).to_string(header=False))
    print(verdict(compared))
    folder = options.out or workspace.output / "figures"
    names = "_".join(Path(name).name for name in compared.names)
    for name, figure in comparison_pictures(compared, prepared.train).items():
        print(save_figure(figure, folder / f"compare_{names}_{name}.png"))


def _kept_settings(workspace: Workspace, names: Sequence[str]) -> Settings:
    """Return the settings of the first of these that is a run."""
    from hangul_ocr.session import choose_settings

    kept = [workspace.output / "runs" / name / "settings.json" for name in names]
    return choose_settings(next((str(path) for path in kept if path.is_file()), "quick"))


def upload(options: argparse.Namespace) -> None:
    """Upload a submission through DACON's dacon_submit_api or Kaggle's command line, once, and say what they answer."""
    from hangul_ocr.inference.submission import validate_file
    from hangul_ocr.inference.upload import upload_to
    from hangul_ocr.steps import open_competition

    workspace = _workspace()
    file = options.file or workspace.submissions / "submission.csv"
    problems = validate_file(file, open_competition(workspace, _absolute(options.data), make_sample=False))
    if problems:
        raise HangulOcrError(f"{file}: not uploaded: {'; '.join(problems)}")
    print(upload_to(options.to, file, options.competition, options.team, options.memo))


def validate(options: argparse.Namespace) -> int:
    """Check any submission file against the competition's template."""
    from hangul_ocr.inference.submission import validate_file
    from hangul_ocr.steps import open_competition

    competition = open_competition(_workspace(), _absolute(options.data), make_sample=False)
    problems = validate_file(options.file, competition)
    for problem in problems:
        print(f"error: {options.file}: {problem}", file=sys.stderr)
    if not problems:
        print(f"{options.file}: can be handed in, {len(competition.template):,} rows as in the template")
    return ERROR if problems else DONE


def predict(options: argparse.Namespace) -> None:
    """Read images, folders of images, or the images that a CSV's column img_path names."""
    from hangul_ocr.data.tables import write_table
    from hangul_ocr.inference.predict import find_crops, read_files, save_candidates
    from hangul_ocr.labelled import file_parts, find_readers, forget_file_parts

    source = find_crops(options.images)
    _refuse_to_overwrite(options.images, options.csv, options.n_best)
    readers = find_readers(_workspace(), options.run, options.sure)
    models, fusion = readers.models(), readers.fusion()
    # Without a second opinion the likeliest string is the choice, and others need not be looked for.
    weighs = options.n_best or fusion or len(models) > 1
    count = options.n_best_count or (5 if weighs else 1)
    parts = file_parts(options.csv, readers, source, count)
    table, readings = read_files(models, source, count, fusion, parts, readers.first_look(), readers.sure)
    write_table(table, options.csv)
    if options.n_best:
        save_candidates(options.n_best, source.names, readings)
    forget_file_parts(options.csv)
    for index, reason in sorted(source.unreadable.items()):
        print(f"not read: {source.names[index]}: {reason}", file=sys.stderr)
    unread = f", {len(source.unreadable):,} of them not readable and left empty" if source.unreadable else ""
    print(f"{options.csv}: {len(table):,} rows by {readers.described}{unread}")


def _refuse_to_overwrite(inputs: Sequence[str], *outputs: Path | None) -> None:
    """Raise ``HangulOcrError`` for an output that is one of the inputs: a table of labels would be lost."""
    read = {Path(given).expanduser().resolve() for given in inputs}
    for output in outputs:
        if output is not None and output.expanduser().resolve() in read:
            raise HangulOcrError(f"{output}: is to be read and would be overwritten; name another file to write")


def evaluate(options: argparse.Namespace) -> None:
    """Read a labelled LMDB that nothing was trained on, such as an import of K-STR-Bench: scores, slices, report."""
    from hangul_ocr.evaluation.metrics import score, scores_table
    from hangul_ocr.evaluation.slices import readable, slice_report
    from hangul_ocr.labelled import find_readers, read_labelled

    workspace = _workspace()
    readers = find_readers(workspace, options.run)
    found = read_labelled(workspace, options.lmdb, readers, options.out)
    texts, predictions, groups = (found.frame[name].tolist() for name in ("text", "prediction", "group"))
    print(scores_table({readers.name: score(texts, predictions, groups)}).to_string())
    print(readable(slice_report(found.frame)).head(12).to_string(index=False))
    print(f"{found.predictions}: {len(found.frame):,} predictions")
    print(f"{found.report.path}: {found.report.megabytes:.1f} MB; {found.report.coverage}")


def convert_checkpoint(options: argparse.Namespace) -> None:
    """Convert a .pth file of Clova AI's benchmark, or one of EasyOCR's such as korean_g2, into weights of ours."""
    from hangul_ocr.models.convert import convert_checkpoint

    model = convert_checkpoint(options.file, options.characters, options.out, options.short_side, options.fixed_width)
    found = model.settings
    stages = f"{found.rectifier}, {found.backbone}, {found.neck}, {found.decoder}"
    size = (
        f"{found.short_side} x {found.fixed_width} pixels" if found.fixed_width else f"{found.short_side} pixels high"
    )
    print(f"{options.out}: {stages}; {len(model.alphabet.characters):,} characters; trained on crops {size}")
    if options.short_side is None:
        print("the file does not say how large its crops were: if not so, name it by --short-side and --fixed-width")


def export_weights(options: argparse.Namespace) -> None:
    """Write a model's weights in half precision, to pass them on: half the size, read by --init-from like any."""
    from hangul_ocr.models.checkpoint import load_model, read_header, save_model

    facts = read_header(options.file).get("facts", {})
    save_model(options.out, load_model(options.file), facts, half=True)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


def score(options: argparse.Namespace) -> None:
    """Score predictions against answers: the competition's exact match and its relatives, with intervals."""
    from hangul_ocr.data.tables import read_table
    from hangul_ocr.evaluation.metrics import scores_table
    from hangul_ocr.results import scores_by_part

    print(scores_table(scores_by_part(read_table(options.predictions), read_table(options.answers))).to_string())


def kstrbench_predictions(options: argparse.Namespace) -> None:
    """Write predictions in the form that K-STR-Bench's evaluator reads."""
    from hangul_ocr.data.kstrbench import write_predictions
    from hangul_ocr.data.tables import read_table

    table = read_table(options.predictions)
    print(f"{write_predictions(table, options.out)}: {len(table):,} predictions")


def settings(options: argparse.Namespace) -> None:
    """Print a preset as JSON, to be changed and given to the other commands with --settings."""
    from hangul_ocr.models.checkpoint import model_settings
    from hangul_ocr.session import choose_settings

    if options.network and not options.settings:  # another network has all to learn, as one from noise
        options.preset = options.preset or "scratch"
    chosen = choose_settings(_preset(options), options.seed)
    if options.network:
        chosen = replace(chosen, model=model_settings(options.network), start="scratch")
    print(chosen.to_json())


def run(options: argparse.Namespace) -> int:
    """Do everything: run the notebooks in order, headless, and end with a short table."""
    from hangul_ocr.data.dacon import competitions_in
    from hangul_ocr.notebook_runner import NotebookFailed, run_notebooks
    from hangul_ocr.session import ALSO, STOP_AT, choose_settings
    from hangul_ocr.steps import open_competition

    workspace = _workspace()
    preset = _preset(options, workspace)
    if also := _also(options):
        os.environ[ALSO] = os.pathsep.join(also)
    if options.time_limit:
        os.environ[STOP_AT] = str(time.time() + 60 * options.time_limit)
    parameters = {"DATA": _absolute(options.data), "PRESET": preset, "RUN": options.run}
    if options.data or competitions_in(workspace.input):
        open_competition(workspace, parameters["DATA"])  # what is wrong there is said before a notebook starts
    try:
        done = run_notebooks(
            workspace.root / "notebooks",
            workspace.output / "notebooks",
            parameters | {"SEED": options.seed},
            estimates=_estimates(choose_settings(preset, options.seed), workspace, options.data),
            timing_key=f"{Path(preset).stem} {_trained_before(workspace, options)}".strip(),
        )
    except NotebookFailed as error:
        if "StoppedOnTime" in str(error):
            print("stopped on time and saved: run the same command again to go on", file=sys.stderr)
            return STOPPED
        raise
    _print_final_table(options, workspace, done)
    return DONE


# --- what they share --------------------------------------------------------------------------------------------------


def _workspace() -> Workspace:
    from hangul_ocr.workspace import find_workspace

    try:
        return find_workspace()
    except RuntimeError as error:
        raise HangulOcrError(str(error)) from None


def _session(options: argparse.Namespace) -> Session:
    """Return the session that the options name."""
    from hangul_ocr.session import find_session

    workspace = _workspace()
    workspace.create_folders()
    if runs := getattr(options, "runs", []):
        options.run = runs[0]
    preset, minutes = _preset(options, workspace), getattr(options, "time_limit", None)
    also = _also(options)
    return find_session(workspace, _absolute(options.data), preset, options.run, options.seed, minutes, also)


def _trained_session(options: argparse.Namespace) -> Session:
    """Return the session of a run that exists: a name mistyped must not make a run folder."""
    session = _session(options)
    folder = session.workspace.output / "runs" / session.name
    if not (folder / "settings.json").is_file():
        known = sorted(path.parent.name for path in folder.parent.glob("*/settings.json"))
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        raise HangulOcrError(f"run {session.name!r}: no {folder} ({there}); name another --run, or train it first")
    return session


def _also(options: argparse.Namespace) -> list[str]:
    """Return the LMDBs of ``--also`` as absolute paths. Raises ``HangulOcrError`` for one that is none."""
    from hangul_ocr.data.lmdb_store import LmdbReader

    places = [path.expanduser().resolve() for path in getattr(options, "also", ())]
    for place in places:
        LmdbReader(place).close()
    return list(map(str, places))


def _ensemble(options: argparse.Namespace) -> Ensemble | None:
    """Return the ensemble that the options name; None for one run and no views."""
    from hangul_ocr import ensembles

    further, views = options.runs[1:], ensembles.named(options.views)
    if not (further or views):
        return None
    session = _session(options)
    return ensembles.open_ensemble(session.workspace, session.run, session.prepared, further, views)


def _preset(options: argparse.Namespace, workspace: Workspace | None = None) -> str:
    """Return what the notebooks call PRESET: the preset's name, or the settings file's absolute path.

    A run that exists goes on with its own settings unless others are named.
    """
    if options.settings:
        return str(options.settings.expanduser().resolve())
    if workspace and options.run and not options.preset and options.seed is None:
        kept = workspace.output / "runs" / options.run / "settings.json"
        return str(kept) if kept.is_file() else "quick"
    preset = options.preset or "quick"
    return str(Path(preset).expanduser().resolve()) if preset.lower().endswith(".json") else preset


def _absolute(data: str) -> str:
    """Return the data folder so that notebooks, which run in another folder, find it too."""
    return str(Path(data).expanduser().resolve()) if data else ""


def _estimates(chosen: Settings, workspace: Workspace, data: str) -> dict[str, float]:
    """Return seconds by notebook, from the presets' own clocks; a step without a clock is not foretold."""
    first, second = chosen.pretraining.seconds, chosen.fine_tuning.seconds
    first = first if chosen.start != "shipped" else None
    makes_sample = not data and not any(workspace.input.glob("**/train.csv"))
    return {
        "01_eda": 45 if makes_sample else 0,
        "04_train": 1.05 * first + 30 if first else 0,
        "05_kfold_ensemble": (1.05 * second + 20) * chosen.trained_folds + 90 if second else 0,
    }


def _trained_before(workspace: Workspace, options: argparse.Namespace) -> str:
    """Return a mark for timings of runs that find everything trained: they say nothing about a first run."""
    from hangul_ocr.steps import finished_runs

    names = [run.folder.name for run in finished_runs(workspace)]
    wanted = options.run or Path(_preset(options)).stem
    return "again" if any(name == wanted or name.startswith(f"{wanted}-") for name in names) else ""


def _print_final_table(options: argparse.Namespace, workspace: Workspace, done: list[NotebookResult]) -> None:
    from hangul_ocr.notebook_runner import clock
    from hangul_ocr.results import final_table, submission_rows

    session = _session(options)
    rows = final_table(session.run, session.competition, session.prepared.folds)
    rows += submission_rows(workspace.submissions / "submission.csv", session.competition)
    rows.append(("submission", str(workspace.submissions / "submission.csv")))
    rows.append(("pictures", str(workspace.output / "figures")))
    rows.append(("notebooks to read", str(workspace.output / "notebooks" / "*.html")))
    rows += [(f"time of {result.name}", clock(result.seconds)) for result in done]
    rows.append(("time in all", clock(sum(result.seconds for result in done))))
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


# --- the command line -------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its commands stand in the order of the steps."""
    parser = argparse.ArgumentParser(
        prog="hangul-ocr", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"hangul-ocr {__version__}")
    commands = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    _add_run(commands)
    _add_sample_competition(commands)
    _add_import(commands)
    _add_verify(commands)
    _add_steps(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_soup(commands)
    _add_validate(commands)
    _add_upload(commands)
    _add_predict(commands)
    _add_evaluate(commands)
    _add_convert_checkpoint(commands)
    _add_export_weights(commands)
    _add_score(commands)
    _add_kstrbench_predictions(commands)
    _add_settings(commands)
    return parser


def _command(
    commands: Any, function: Callable[[argparse.Namespace], int | None], example: str
) -> argparse.ArgumentParser:
    """Add the command that ``function`` does, described by its docstring and an example."""
    about = (function.__doc__ or "").splitlines()[0]
    name = function.__name__.rstrip("_").replace("_", "-")
    parser = commands.add_parser(name, help=about, description=about, epilog=f"example: hangul-ocr {example}")
    parser.set_defaults(command=function)
    return parser


def _add_run(commands: Any) -> None:
    parser = _command(commands, run, "run --preset quick --data input/open")
    _add_common(parser)
    _add_time_limit(parser)
    _add_also(parser)


def _add_sample_competition(commands: Any) -> None:
    parser = _command(commands, sample_competition, "sample-competition input/sample --train 3000 --test 800 --seed 0")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to make; it must not hold anything yet")
    parser.add_argument("--train", type=_count, default=3000, metavar="N", help="train crops (default %(default)s)")
    parser.add_argument("--test", type=_count, default=800, metavar="N", help="test crops (default %(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="same seed, same crops (default 0)")


def _add_import(commands: Any) -> None:
    parser = _command(commands, import_, "import aihub-outdoor photos/Training labels/Training --out outdoor.lmdb")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    about = "\n".join(f"  {name:<15}{source.about}" for name, source in SOURCES.items())
    parser.description = f"{parser.description}\n\nSOURCE is one of\n{about}"
    parser.add_argument("source", choices=SOURCES, metavar="SOURCE", help="what kind of data set it is, see above")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="its folders, zips or lists")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="LMDB", help="folder to write; replaced when complete"
    )
    text = "room around a box, as a share of its short side (default %(default)s)"
    parser.add_argument("--margin", type=float, default=0.05, metavar="SHARE", help=text)
    text = "crops of photographs are halved while their short side keeps as many pixels (default %(default)s)"
    parser.add_argument("--short-side", type=_count, default=96, metavar="N", help=text)
    parser.add_argument("--quality", type=_count, default=95, metavar="Q", help="JPEG quality of crops (default 95)")
    text = "store files of crops like those of photographs, as JPEG, which loads several times as fast as large PNG"
    parser.add_argument("--shrink", action="store_true", help=text)
    text = "scripts to keep of mlt, separated by commas (default %(default)s)"
    parser.add_argument("--scripts", default="Korean", metavar="LIST", help=text)
    text = "LMDBs to deal the crops among, read as one (default %(default)s)"
    parser.add_argument("--shards", type=_count, default=1, metavar="N", help=text)
    _add_corrections(parser)
    _add_workers(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(commands, verify, "verify outdoor.lmdb wild.lmdb")
    parser.add_argument("lmdbs", nargs="+", type=Path, metavar="LMDB", help="stores, ours or clovaai's")
    _add_workers(parser)


def _add_corrections(parser: Any) -> None:
    text = "table img_path,action,text of crops to drop or relabel (suspects.csv filled in); may be given several times"
    parser.add_argument("--corrections", type=Path, action="append", default=[], metavar="FILE", help=text)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=_count, metavar="N", help="processes that decode (default: one a core)")
    text = "joblib's backend: loky (default), threading, or the clusters dask and ray"
    parser.add_argument("--backend", default="loky", metavar="NAME", help=text)


def _add_steps(commands: Any) -> None:
    examples = {
        lmdb: "lmdb --data input/open",
        pretrain: "pretrain --preset quick --time-limit 30",
        train: "train --preset quick --fold 0 --init-from weights.safetensors",
        ensemble: "ensemble --run quick-sample --run wide-sample --views wider,shifted",
        suspects: "suspects --run quick-sample --most 200",
        submit: "submit --run quick-sample",
    }
    for function, example in examples.items():
        parser = _command(commands, function, example)
        _add_common(parser, several=function in (ensemble, submit))
        if function is lmdb:
            choice = parser.add_mutually_exclusive_group()
            _add_corrections(choice)
            text = "take the labels of train.csv as they are again"
            choice.add_argument("--no-corrections", action="store_true", help=text)
        if function in (pretrain, train):
            _add_time_limit(parser)
            _add_also(parser)
        if function is suspects:
            parser.add_argument("--most", type=_count, default=500, metavar="N", help="rows (default %(default)s)")
            parser.add_argument("--out", type=Path, metavar="FILE", help="default: suspects.csv in the run's folder")
            text = "how sure the model must be, 0 to 1 (default %(default)s)"
            parser.add_argument("--confidence", type=float, default=0.2, metavar="P", help=text)
        if function is train:
            parser.add_argument("--fold", type=int, metavar="K", help="this fold alone, from 0 (default: all)")
        if function in (pretrain, train):
            parser.add_argument(
                "--init-from",
                type=Path,
                metavar="FILE",
                help="safetensors weights to start from, of the same backbone or of a shallower ResNet",
            )


def _add_report(commands: Any) -> None:
    parser = _command(commands, report, "report --run quick-sample --out errors.html")
    _add_common(parser)
    text = "file to write (default: output/report.html)"
    parser.add_argument("--out", type=Path, metavar="HTML", help=text)
    text = "size of the file; the crops least worth looking at stay out (default %(default)s)"
    parser.add_argument("--max-megabytes", type=_count, default=20, metavar="MB", help=text)


def _add_compare(commands: Any) -> None:
    parser = _command(commands, compare, "compare quick-sample colab-sample")
    for name, which in (("first", "what to compare with"), ("second", "what may be better")):
        text = f"{which}: the name of a run or ensemble, or a CSV with img_path, text (the label) and prediction"
        parser.add_argument(name, metavar="AB"[name == "second"], help=text)
    _add_data(parser)
    text = "folder for the pictures (default: output/figures)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)


def _add_soup(commands: Any) -> None:
    parser = _command(commands, soup, "soup quick-sample slower-sample --name soup")
    text = "runs of the same network, folds and starting weights, trained with other rates, steps or augmentation"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=text)
    parser.add_argument("--name", default="soup", metavar="NAME", help="the new run's name (default %(default)s)")
    _add_data(parser)


def _add_validate(commands: Any) -> None:
    parser = _command(commands, validate, "validate submissions/submission.csv --data input/open")
    parser.add_argument("file", type=Path, metavar="FILE", help="the submission to check")
    _add_data(parser)


def _add_predict(commands: Any) -> None:
    parser = _command(commands, predict, "predict photos/ sign.jpg --csv out.csv")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="images, folders with all that lie below them, or CSV files with a column img_path",
    )
    text = (
        "where img_path,text,confidence go; an image that cannot be read has no text and the confidence 0. Stopped "
        "on many images, the same command goes on"
    )
    parser.add_argument("--csv", type=Path, required=True, metavar="OUT", help=text)
    parser.add_argument(
        "--run",
        default="",
        metavar="RUN",
        help="the run whose models read, or a file of weights.safetensors (default: the weights that ship)",
    )
    parser.add_argument("--n-best", type=Path, metavar="OUT", help="JSON lines with each image's likeliest strings")
    text = (
        "strings to weigh (default 5; 1, twice as fast, with a single model and no --n-best: it would choose the same)"
    )
    parser.add_argument("--n-best-count", type=_count, metavar="N", help=text)
    text = (
        "how sure a first, cheap look must be of an image's string, from 0 to 1, to spare it the close one (default "
        f"{SURE}); 0 leaves all to the first: fastest, with more errors. Only where one model gives one string for "
        "each image, not with --n-best"
    )
    parser.add_argument("--sure", type=_probability, default=SURE, metavar="P", help=text)


def _add_convert_checkpoint(commands: Any) -> None:
    example = "convert-checkpoint korean_g2.pth --characters korean.txt --out korean_g2.safetensors"
    parser = _command(commands, convert_checkpoint, example)
    parser.add_argument("file", type=Path, metavar="IN.pth", help="the published state dict")
    text = "text file with the network's characters in the order of its classes"
    parser.add_argument("--characters", type=Path, required=True, metavar="FILE", help=text)
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.safetensors", help="where the weights go")
    text = "height of its crops in pixels (default: 64 for EasyOCR's networks, else 32)"
    parser.add_argument("--short-side", type=_count, metavar="N", help=text)
    text = "their width, 0 if they keep their ratio (default: 0 for EasyOCR's networks, else 100)"
    parser.add_argument("--fixed-width", type=_width, metavar="N", help=text)


def _add_export_weights(commands: Any) -> None:
    example = "export-weights output/runs/quick-sample/fold0/best.safetensors --out mine.safetensors"
    parser = _command(commands, export_weights, example)
    parser.add_argument("file", type=Path, metavar="BEST.safetensors", help="the best weights of a stage or fold")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.safetensors", help="where the weights go")


def _add_evaluate(commands: Any) -> None:
    parser = _command(commands, evaluate, "evaluate GIST_Signboard.lmdb --run quick-sample")
    parser.add_argument("lmdb", type=Path, metavar="LMDB", help="labelled crops that nothing was trained on")
    text = "the run whose models read, or a file of weights.safetensors (default: the weights that ship)"
    parser.add_argument("--run", default="", metavar="RUN", help=text)
    text = (
        "folder for predictions.csv (img_path,text,confidence, img_path being the crop's key in the LMDB) and "
        "report.html (default: output/labelled/LMDB-RUN)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)


def _add_score(commands: Any) -> None:
    parser = _command(commands, score, "score submissions/submission.csv input/sample/answers/test_answers.csv")
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="CSV with img_path,text")
    parser.add_argument("answers", type=Path, metavar="ANSWERS", help="CSV with img_path,text of the same images")


def _add_kstrbench_predictions(commands: Any) -> None:
    parser = _command(commands, kstrbench_predictions, "kstrbench-predictions out.csv GIST_Signboard.csv")
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="CSV with img_path,text of its images")
    text = "file to write: .csv (text_id,infer), .txt (path<TAB>prediction) or .jsonl (image_path, pred)"
    parser.add_argument("out", type=Path, metavar="OUT", help=text)


def _add_settings(commands: Any) -> None:
    parser = _command(commands, settings, "settings --preset quick > mine.json")
    _add_choice(parser)
    text = "take the network of these weights, converted ones for example, to train from them with --init-from"
    parser.add_argument("--network", type=Path, metavar="WEIGHTS.safetensors", help=text)


def _add_common(parser: argparse.ArgumentParser, several: bool = False) -> None:
    _add_data(parser)
    text = "name of the run (default: preset and competition)"
    if several:
        parser.set_defaults(run="")
        text += "; named again, another member"
        parser.add_argument("--run", action="append", default=[], dest="runs", metavar="RUN", help=text)
        text = "read each crop once more: shifted, wider, narrower, smaller, farther, closer, turned (with commas)"
        parser.add_argument("--views", default="", metavar="LIST", help=text)
    else:
        parser.add_argument("--run", default="", metavar="RUN", help=text)
    _add_choice(parser)


def _add_upload(commands: Any) -> None:
    parser = _command(commands, upload, "upload --to dacon --competition 235970 --team 우리팀 --memo 'five folds'")
    text = "dacon: the token from $DACON_TOKEN; kaggle: as its own command line finds it"
    parser.add_argument("--to", choices=("dacon", "kaggle"), required=True, help=text)
    parser.add_argument(
        "--competition", required=True, metavar="ID", help="DACON's number, or Kaggle's name in the URL"
    )
    text = "the submission (default: submissions/submission.csv)"
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help=text)
    parser.add_argument("--team", default="", metavar="NAME", help="the team's name at DACON")
    parser.add_argument("--memo", default="", metavar="TEXT", help="a note that the competition's page shows")
    _add_data(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    text = "folder with train.csv (default: the one in input/, or the sample)"
    parser.add_argument("--data", default="", metavar="DIR", help=text)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--preset", metavar="P", help="smoke, quick (default), scratch, colab or full")
    choice.add_argument(
        "--from-scratch",
        dest="preset",
        action="store_const",
        const="scratch",
        help="--preset scratch: pretrain a small network first, not from the weights that ship (20 minutes)",
    )
    choice.add_argument("--settings", type=Path, metavar="FILE", help="a settings file instead of a preset")
    parser.add_argument(
        "--seed",
        type=_seed,
        metavar="S",
        help="seed of folds, weights and order (default: the settings', 0 in a preset)",
    )


def _add_time_limit(parser: argparse.ArgumentParser) -> None:
    text = "save and stop after so many minutes (exit code 3); the same command goes on"
    parser.add_argument("--time-limit", type=_minutes, metavar="MIN", help=text)


def _add_also(parser: argparse.ArgumentParser) -> None:
    text = "an imported LMDB to learn from beside the competition, never validated on; may be given several times"
    parser.add_argument("--also", type=Path, action="append", default=[], metavar="LMDB", help=text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value


def _width(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 4294967295")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not minutes > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
