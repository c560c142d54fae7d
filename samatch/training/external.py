"""External test: runs of one set on the pictures of another source, which no choice ever sees.

    samatch external --profile laptop --dataset stu_hospital --of busi

Reads the finished runs of `--of` that its tables show; one row per run, case and class. split is
"external" where the run segments as it was tested, the student alone or SAM alone, and
"external_refined" where SAM refines the student's map. A run that is not on this machine keeps the
rows that the table has of it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from samatch.config.settings import FINETUNE
from samatch.data.manifest import load_manifest
from samatch.data.volumes import Volume, load_cases
from samatch.results.overlaps import EXTERNAL
from samatch.results.records import read_results, read_table
from samatch.results.runs import complete_run
from samatch.results.tables import headline, usual_sam
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.system.progress import Progress
from samatch.system.whole import write_text
from samatch.training import released, with_sam
from samatch.training.evaluate import evaluate
from samatch.training.released import Segmenter

FACTS = ("run_id", "method", "variant", "seed", "config_sha256")  # of runs.csv
ALONE, REFINED = EXTERNAL, f"{EXTERNAL}_refined"
OfRun = Callable[[str, str], Segmenter]  # profile, run_id -> what segments as the run does


def file_name(dataset: str) -> str:
    """CSV file of an external test among the results of the set that was trained on."""
    return f"{EXTERNAL}_{dataset}.csv"


def external(profile: str, dataset: str, of: str, earlier: pd.DataFrame) -> pd.DataFrame:
    """The columns FACTS and those of per_case.csv, for every run of `of`.

    earlier: such a table or an empty one, from which a run keeps its rows that is on record, with
    the same settings, but not on this machine. Raises InputError where a student is in neither
    place, and where the two sets have other classes; what needs a SAM that is in neither place is
    left out.
    """
    manifest, trained = load_manifest(dataset), load_manifest(of)
    if manifest.classes != trained.classes:
        raise InputError(
            f"{dataset} cannot test students of {of}",
            expected=f"the classes {', '.join(trained.classes)}",
            got=", ".join(manifest.classes),
            do="choose sets of the same classes",
        )
    runs = runs_on_record(profile, of)
    volumes = load_cases(manifest, manifest.cases_of(manifest.patients("test")))
    known_rows = rows_of(earlier, runs)
    tables, progress = [], Progress(f"runs of {of} on {dataset}", len(runs))
    for number, run in enumerate(runs.itertuples(), 1):
        here = (paths.runs_dir(profile) / run.run_id / "run.json").exists()
        for split, of_run in ways_of(run).items():
            if here or (of_run == released.of_run and (run.run_id, split) not in known_rows):
                tables.append(tested(profile, run, split, of_run, volumes, manifest.distances))
            elif (run.run_id, split) in known_rows:
                tables.append(known_rows[run.run_id, split])
            else:
                print(f"left out, not on this machine: {run.run_id}, {split}")
        progress(number)
    return pd.concat(tables, ignore_index=True)


def rows_of(earlier: pd.DataFrame, runs: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """(run_id, split) -> rows of such a table; of a run that was trained anew since with other
    settings there are none."""
    if earlier.empty:
        return {}
    settings = dict(zip(runs.run_id, runs.config_sha256, strict=True))
    same = earlier[earlier.config_sha256 == earlier.run_id.map(settings)]
    return dict(list(same.groupby(["run_id", "split"])))


def runs_on_record(profile: str, of: str) -> pd.DataFrame:
    """The rows of runs.csv that are tested: those of the main table, and of other SAMs than its,
    that segment by themselves. Raises InputError where there is no student among them."""
    runs, per_case = read_results(profile, of, paths.results_dir(profile, of))
    shown = pd.concat([headline(runs), runs[~runs.sam.isin(["", usual_sam(runs)])]])
    shown = shown.drop_duplicates("run_id")
    shown = shown[shown.run_id.isin(per_case.run_id[per_case.split == "test"])]
    if (shown.method == FINETUNE).all():
        raise InputError(
            f"no student of {of} on record",
            where=f"profile {profile}",
            do="train one and collect the tables first",
        )
    return shown


def ways_of(run) -> dict[str, OfRun]:
    """split -> what reads the segmenter of a row of runs.csv."""
    if run.method == FINETUNE:
        return {ALONE: with_sam.of_run}
    return {ALONE: released.of_run} | ({REFINED: with_sam.of_run} if run.sam else {})


def tested(
    profile: str, run, split: str, of_run: OfRun, volumes: list[Volume], distances: str
) -> pd.DataFrame:
    """Rows of one run of runs.csv. Raises InputError where it is not on this machine."""
    _, record = complete_run(profile, run.run_id)
    if record["config_sha256"] != run.config_sha256:
        raise InputError(
            "a run on this machine is not the one on record",
            where=run.run_id,
            expected=run.config_sha256[:12],
            got=record["config_sha256"][:12],
            do="collect the tables again, or train the run on record",
        )
    segmenter = of_run(profile, run.run_id)
    rows = evaluate(
        lambda volume: segmenter.segment(volume.image), volumes, segmenter.classes, split, distances
    )
    facts = {name: getattr(run, name) for name in FACTS}
    return pd.concat([pd.DataFrame(facts, index=rows.index), rows], axis=1)


def main(words: list[str] | None = None) -> None:
    """Command line of `samatch external`."""
    parser = argparse.ArgumentParser(
        prog="samatch external", description="Test the runs of a set on another source."
    )
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--dataset", default="stu_hospital", help="the set that is tested on")
    parser.add_argument("--of", default="busi", help="the set that was trained on")
    parser.add_argument(
        "--into", type=Path, help="folder of the table; default: the results of --of"
    )
    args = parser.parse_args(words)
    folder = args.into or paths.results_dir(args.profile, args.of)
    target = paths.make_folder(folder, "--into") / file_name(args.dataset)
    earlier = read_table(target) if target.exists() else pd.DataFrame()
    table = external(args.profile, args.dataset, args.of, earlier)
    write_text(target, table.to_csv(index=False, float_format="%.6g"))
    print((100 * table.groupby(["run_id", "split"]).dice.mean()).round(1).to_string())
    print(f"written: {paths.shown(target)}")
