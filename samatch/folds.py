"""Cross-validation of a set with too few patients for one test split: every patient is tested once.

    python -m samatch.folds draw --dataset chaos                     # writes the manifests of the folds
    python -m samatch.folds pool --profile laptop --dataset chaos    # results/laptop/chaos_folds from the folds' records

The set itself is the first fold, so that its runs count; the others are sets of their own (`chaos_fold2`, ...), with its files.
`folds: {count, seed}` in its dataset.yaml declares them.
"""

import argparse
from pathlib import Path

import pandas as pd
import yaml

from samatch import paths, splits, tables
from samatch.config import GUIDED, run_id
from samatch.errors import InputError, raise_all
from samatch.manifest import SPLITS, load_manifest, manifest_folders, write_manifest
from samatch.records import read_results, write_text
from samatch.tables import CHOSEN, COMBINE_VARIANTS


def declared(dataset: str) -> dict:
    """`folds` of the set's dataset.yaml. Raises InputError where it has none."""
    load_manifest(dataset)
    found = yaml.safe_load((manifest_folders()[dataset] / "dataset.yaml").read_text()).get("folds")
    if not found:
        raise InputError(f"{dataset} has no folds", where=f"{dataset}/dataset.yaml", expected="folds: {count: 4, seed: 0}",
                         got="no entry", do="declare them, then `python -m samatch.folds draw`")
    return found


def fold_names(dataset: str) -> list[str]:
    """The sets that are the folds: the set itself, then <set>_fold2 and so on."""
    return [dataset, *(f"{dataset}_fold{number}" for number in range(2, declared(dataset)["count"] + 1))]


def draw(dataset: str, into: Path | None = None) -> list[Path]:
    """Writes the manifests of all folds but the first, which is the set itself; returns their folders."""
    into, about, manifest = into or paths.MANIFESTS, declared(dataset), load_manifest(dataset)
    drawn = splits.folds({name: manifest.patients(name) for name in SPLITS}, about["count"], about["seed"])
    folders = []
    for number, (name, fold) in enumerate(zip(fold_names(dataset)[1:], drawn[1:]), 2):
        text = {"title": f"{manifest.title}, fold {number} of {about['count']}", "classes": list(manifest.classes),
                **{key: getattr(manifest, key) for key in ("normalisation", "licence", "source", "citation")},
                "known_faults": f"those of {dataset}, whose files this set shares", "budgets": list(manifest.budgets),
                "files_of": manifest.folder, "reader": manifest.reader, "distances": manifest.distances, **({"clinical": manifest.clinical} if manifest.clinical else {}),
                "fold": {"of": dataset, "number": number, "drawn_by": f"python -m samatch.folds draw --dataset {dataset}"}}
        folders.append(into / name)
        (into / name / "dataset.yaml").unlink(missing_ok=True)
        write_manifest(into / name, text, [], fold)
    return folders


def pooled(profile: str, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """(runs, per_case, left_out) of the tracked records of all folds, test patients only.

    A pooled run is what the folds' runs of one method, SAM, budget, seed and variant are together: its validation Dice is
    their mean. A run that some fold lacks is left out, and `left_out` says so. Raises InputError where a fold has no
    records, where they belong to other splits, and where no run is in every fold.
    """
    parts = _records(profile, dataset)
    runs = pd.concat([part[0] for part in parts], ignore_index=True)
    per_case = pd.concat([part[1] for part in parts], ignore_index=True)
    names = fold_names(dataset)
    lacking = {key: [name for name in names if name not in set(mine.fold)] for key, mine in runs.groupby("key", sort=False)}
    left_out = [f"{key}: not in {', '.join(folds)}" for key, folds in lacking.items() if folds]
    tested = set(per_case.key)  # SAM's own upper bound is measured on validation patients, which folds share
    whole = runs[runs.key.isin([key for key, folds in lacking.items() if not folds and key in tested])]
    if whole.empty:
        raise InputError(f"no run is in every fold of {dataset}", expected=f"the same run in {', '.join(names)}",
                         got="; ".join(left_out) or "none with test results", do="train the missing ones and collect")
    runs, per_case = with_chosen(whole, per_case[per_case.key.isin(whole.key)])
    runs, per_case = (table.assign(run_id=f"{dataset}_folds-" + table.key) for table in (runs, per_case))
    means = runs.groupby("run_id").val_dice.mean()
    runs = runs.drop_duplicates("run_id").assign(val_dice=lambda table: table.run_id.map(means))
    return runs.drop(columns=["key", "fold"]).reset_index(drop=True), per_case.drop(columns="key"), left_out


def _records(profile: str, dataset: str) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """(runs, test rows) a fold, with the columns `fold` and `key`, the run's name without its set's."""
    home, names = paths.TRACKED_RESULTS / profile, fold_names(dataset)
    missing = [f"{name} has no records in {paths.shown(home / name)}" for name in names if not (home / name / "runs.csv").exists()]
    do = f"train it, then `python -m samatch.tables --profile {profile} --dataset FOLD --into results/{profile}/FOLD`"
    raise_all(f"folds of {dataset}, profile {profile}", missing, do)
    parts, faults = [], []
    for name in names:
        runs, per_case = read_results(profile, name, home / name)
        test, manifest = per_case[per_case.split == "test"], load_manifest(name)
        if set(runs.splits_sha256) != {manifest.splits_sha256}:
            faults.append(f"{name}: its runs have other splits than its manifest")
        if len(test) and set(test.patient_id) != set(manifest.patients("test")):
            faults.append(f"{name}: its runs were tested on other patients than its manifest's")
        parts.append(tuple(table.assign(fold=name, key=table.run_id.str.removeprefix(f"{name}-")) for table in (runs, test)))
    raise_all(f"folds of {dataset}, profile {profile}", faults, "train these folds again with the manifests that are here")
    return parts


def with_chosen(runs: pd.DataFrame, per_case: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Adds SAM-Match as it would be used: in each fold the way to combine with that fold's best validation Dice.

    One choice for all folds would look at patients who are tested in another one. Without several ways nothing is added.
    """
    ways = runs[runs.method.str.startswith(GUIDED) & runs.variant.isin(COMBINE_VARIANTS)]
    for (method, sam, n_labeled, seed), mine in ways.groupby(["method", "sam", "n_labeled", "seed"], sort=False):
        if mine.variant.nunique() > 1:
            best = mine.sort_values("val_dice", ascending=False, kind="stable").drop_duplicates("fold")
            key = run_id("", n_labeled, method, sam, seed, CHOSEN).removeprefix("-")
            rows = per_case.merge(best[["fold", "key"]], on=["fold", "key"])
            runs = pd.concat([runs, best.assign(variant=CHOSEN, key=key)], ignore_index=True)
            per_case = pd.concat([per_case, rows.assign(key=key)], ignore_index=True)
    return runs, per_case


def references(runs: pd.DataFrame) -> list[str]:
    """The SAM-Match of every method, SAM, budget and seed: chosen in each fold, or the only way to combine that there is."""
    mine = runs[runs.method.str.startswith(GUIDED) & runs.variant.isin((CHOSEN, *COMBINE_VARIANTS))]
    mine = mine.assign(first=mine.variant != CHOSEN).sort_values("first", kind="stable")
    return list(mine.drop_duplicates(["method", "sam", "n_labeled", "seed"]).run_id)


def write_pooled(profile: str, dataset: str) -> tuple[list[Path], list[str]]:
    """Writes per_case.csv, summary.csv and wilcoxon.csv to results/<profile>/<dataset>_folds; returns them and what was left out."""
    runs, per_case, left_out = pooled(profile, dataset)
    folder = paths.TRACKED_RESULTS / profile / f"{dataset}_folds"
    folder.mkdir(parents=True, exist_ok=True)
    found = {"per_case": per_case, "summary": tables.summary(runs, per_case)}
    if chosen := references(runs):
        found["wilcoxon"] = tables.wilcoxon_tables(runs, per_case, chosen)
    for name, table in found.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    return [folder / f"{name}.csv" for name in found], left_out


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m samatch.folds", description="Draw the folds of a set, or pool their results.")
    parser.add_argument("what", choices=("draw", "pool"))
    parser.add_argument("--dataset", default="chaos")
    parser.add_argument("--profile", default="laptop", help="of the records that are pooled")
    args = parser.parse_args(words)
    try:
        written, left_out = (draw(args.dataset), []) if args.what == "draw" else write_pooled(args.profile, args.dataset)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print("\n".join([f"left out, {line}" for line in left_out] + ["written: " + ", ".join(paths.shown(f) for f in written)]))


if __name__ == "__main__":
    main()
