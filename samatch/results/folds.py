"""Cross-validation of a set with too few patients for one test split: every patient is tested once.

    samatch folds draw --dataset chaos                     # writes the manifests of the folds
    samatch folds pool --profile laptop --dataset chaos    # executed/laptop/chaos_folds/results

The set itself is the first fold, so that its runs count; the others (`chaos_fold2`, ...) are sets
of their own with its files. `folds: {count, seed}` in its dataset.yaml declares them. Pooled are
the results of this machine where it has those of every fold, the tracked ones where it has none.
"""

import argparse
from pathlib import Path

import pandas as pd

from samatch.data import splits
from samatch.data.about import read_about
from samatch.data.manifest import SPLITS, load_manifest, manifest_folders, write_manifest
from samatch.results import seed_tables, tables
from samatch.results.records import read_results, write_csvs
from samatch.system import paths
from samatch.system.errors import InputError, known, raise_all


def declared(dataset: str) -> dict:
    """`folds` of the set's dataset.yaml. Raises InputError where it has none, or not both words
    with whole numbers."""
    load_manifest(dataset)
    found = read_about(manifest_folders()[dataset] / "dataset.yaml").get("folds")
    if (
        not isinstance(found, dict)
        or set(found) != {"count", "seed"}
        or not all(type(number) is int and number >= 0 for number in found.values())
    ):
        raise InputError(
            f"{dataset} has no folds",
            where=f"{dataset}/dataset.yaml",
            got=found or "no entry",
            expected="folds: {count: 4, seed: 0}",
            do="declare and draw them",
        )
    return found


def fold_names(dataset: str) -> list[str]:
    """The sets that are the folds: the set itself, then <set>_fold2 and so on."""
    return [
        dataset,
        *(f"{dataset}_fold{number}" for number in range(2, declared(dataset)["count"] + 1)),
    ]


def draw(dataset: str, into: Path | None = None) -> list[Path]:
    """Writes the manifests of all folds but the first, the set itself; returns their folders.

    Raises InputError where the set's manifest is not one of the repository: a fold finds the cases
    of its set beside its own manifest.
    """
    home = manifest_folders()[known(dataset, manifest_folders(), "data set")]
    if home.parent != paths.MANIFESTS:
        raise InputError(
            f"the folds of {dataset} cannot share its files",
            where=home,
            expected=f"its manifest in {paths.shown(paths.MANIFESTS)}",
            got="a manifest beside the data",
            do=f"copy it to {paths.shown(paths.MANIFESTS / dataset)}",
        )
    into, about, manifest = into or paths.MANIFESTS, declared(dataset), load_manifest(dataset)
    drawn = splits.folds(
        {name: manifest.patients(name) for name in SPLITS}, about["count"], about["seed"]
    )
    text = {
        "title": "",
        "classes": list(manifest.classes),
        **{
            key: getattr(manifest, key)
            for key in ("normalisation", "licence", "source", "citation")
        },
        "known_faults": f"those of {dataset}, whose files this set shares",
        "budgets": list(manifest.budgets),
        "files_of": manifest.folder,
        "reader": manifest.reader,
        "distances": manifest.distances,
        **({"clinical": manifest.clinical} if manifest.clinical else {}),
    }
    by = f"samatch folds draw --dataset {dataset}"
    folders = [into / name for name in fold_names(dataset)[1:]]
    for number, (folder, fold) in enumerate(zip(folders, drawn[1:], strict=True), 2):
        title = f"{manifest.title}, fold {number} of {about['count']}"
        (folder / "dataset.yaml").unlink(missing_ok=True)
        fold_text = text | {
            "title": title,
            "fold": {"of": dataset, "number": number, "drawn_by": by},
        }
        write_manifest(folder, fold_text, [], fold)
    return folders


def tracked_homes(profile: str, dataset: str) -> dict[str, Path]:
    """Where the tracked results of each fold lie."""
    return {name: paths.TRACKED_RESULTS / profile / name for name in fold_names(dataset)}


def homes_here(profile: str, dataset: str) -> dict[str, Path]:
    """Where the results of each fold lie: this machine's, or else the tracked ones. Raises
    InputError where this machine has those of some folds only."""
    tracked = tracked_homes(profile, dataset)
    homes = {name: paths.results_dir(profile, name) for name in tracked}
    lacking = [name for name in tracked if homes[name] == tracked[name]]
    if 0 < len(lacking) < len(homes):
        raise InputError(
            f"results of some folds of {dataset} alone are on this machine",
            where=paths.shown(paths.output_dir(profile, dataset).parent),
            expected="of all, or of none: the tracked ones are pooled then",
            got=f"none of {', '.join(lacking)}",
            do=f"make reproduce PROFILE={profile} DATASET={lacking[0]}",
        )
    return homes


def pooled(
    profile: str, dataset: str, homes: dict[str, Path] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """(runs, per_case, left_out) of the records of all folds, the tracked ones or those in `homes`;
    test patients only.

    A pooled run is what the folds' runs of one method, SAM, budget, seed and variant are together;
    its validation Dice is their mean. A run that some fold lacks is left out, and `left_out` says
    so. Raises InputError where a fold has no records, where they belong to other splits, and where
    no run is in every fold.
    """
    homes = homes or tracked_homes(profile, dataset)
    parts, names = _records(profile, dataset, homes), list(homes)
    runs, per_case = (
        pd.concat(of_folds, ignore_index=True) for of_folds in zip(*parts, strict=True)
    )
    lacking = {
        key: [name for name in names if name not in set(mine.fold)]
        for key, mine in runs.groupby("key", sort=False)
    }
    left_out = [f"{key}: not in {', '.join(folds)}" for key, folds in lacking.items() if folds]
    # SAM's own upper bound is measured on validation patients, which folds share.
    tested = set(per_case.key[per_case.split == "test"])
    whole = [key for key, folds in lacking.items() if not folds and key in tested]
    if not whole:
        raise InputError(
            f"no run is in every fold of {dataset}",
            do="train the missing ones and collect",
            expected=f"the same run in {', '.join(names)}",
            got="; ".join(left_out) or "no test results",
        )
    runs, per_case = (table[table.key.isin(whole)] for table in (runs, per_case))
    runs, per_case = (
        table.assign(run_id=f"{dataset}_folds-" + table.key) for table in (runs, per_case)
    )
    runs["val_dice"] = runs.groupby("run_id").val_dice.transform("mean")
    runs = runs.drop_duplicates("run_id").drop(columns=["key", "fold"])
    return runs.reset_index(drop=True), per_case.drop(columns="key"), left_out


def _records(
    profile: str, dataset: str, homes: dict[str, Path]
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """(runs, test rows) a fold, with the columns `fold` and `key`: the run_id without its set."""
    what = f"folds of {dataset}, profile {profile}"
    missing = [name for name, home in homes.items() if not (home / "runs.csv").exists()]
    tables_of = f"samatch tables --profile {profile} --dataset FOLD --into results/{profile}/FOLD"
    raise_all(
        what,
        [f"{name} has no records in {paths.shown(homes[name])}" for name in missing],
        f"train it, then {tables_of}",
    )
    parts, faults = [], []
    for name, home in homes.items():
        runs, per_case = read_results(profile, name, home)
        test = per_case[per_case.split.str.startswith("test")]  # SAM at test time as well
        manifest = load_manifest(name)
        if set(runs.splits_sha256) != {manifest.splits_sha256}:
            faults.append(f"{name}: its runs have other splits than its manifest")
        if len(test) and set(test.patient_id) != set(manifest.patients("test")):
            faults.append(f"{name}: its runs were tested on other patients than its manifest's")
        parts.append(
            tuple(
                table.assign(fold=name, key=table.run_id.str.removeprefix(f"{name}-"))
                for table in (runs, test)
            )
        )
    raise_all(what, faults, "train these folds again with the manifests that are here")
    return parts


def write_pooled(
    profile: str, dataset: str, homes: dict[str, Path] | None = None
) -> tuple[list[Path], list[str]]:
    """Writes per_case.csv, summary.csv and the tests of the tracked records to
    results/<profile>/<dataset>_folds, those in `homes` to this machine's results.

    Returns the files and what was left out.
    """
    tracked = tracked_homes(profile, dataset)
    runs, per_case, left_out = pooled(profile, dataset, homes := homes or tracked)
    name = f"{dataset}_folds"
    folder = (
        paths.TRACKED_RESULTS / profile / name
        if homes == tracked
        else paths.output_dir(profile, name) / "results"
    )
    paths.make_folder(folder, "SAMATCH_OUT")
    found = {"per_case": per_case, "summary": tables.summary(runs, per_case)}
    if tested := tables.references(runs, per_case):
        found["wilcoxon"] = tables.wilcoxon_tables(runs, per_case, tested)
    found |= seed_tables.where_there_are(runs, per_case)
    return write_csvs(folder, found), left_out


def main(words: list[str] | None = None) -> None:
    """Command `samatch folds draw|pool`; says which files it wrote and which runs it left out."""
    parser = argparse.ArgumentParser(prog="samatch folds", description="Draw folds or pool them.")
    parser.add_argument("what", choices=("draw", "pool"))
    parser.add_argument("--dataset", default="chaos")
    parser.add_argument("--profile", default="laptop", help="of the records that are pooled")
    args = parser.parse_args(words)
    if args.what == "draw":
        written: list[Path] = draw(args.dataset)
        left_out: list[str] = []
    else:
        homes = homes_here(args.profile, args.dataset)
        written, left_out = write_pooled(args.profile, args.dataset, homes)
    print(
        "\n".join(f"left out, {line}" for line in left_out)
        + "\n" * bool(left_out)
        + "written: "
        + ", ".join(paths.shown(f) for f in written)
    )
