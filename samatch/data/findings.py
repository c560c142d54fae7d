"""What a new manifest's report says: counts, classes, doubts, near-duplicates."""

from samatch.data.manifest import SPLITS, Case, bare_patients, is_bare
from samatch.data.reading import Reading
from samatch.data.volumes import SEVERAL
from samatch.system.errors import few

MOST = 10  # lines of one kind


def report(
    cases: list[Case], drawn: dict[str, list[str]], classes: list[str], found: Reading
) -> list[str]:
    """Lines on what the set holds, then the warnings, each with its cases."""
    sizes = {(case.height, case.width) for case in cases}
    lines = [
        f"{len(cases)} cases of {len({c.patient_id for c in cases})} patients, "
        f"{sum(c.n_slices for c in cases)} slices, {len(sizes)} sizes",
        "patients: " + ", ".join(f"{name} {len(group)}" for name, group in drawn.items() if group),
    ]
    lines += class_lines(cases, drawn, classes, found)
    for doubt, these in found.doubts.items():
        lines.append(f"warning: {doubt} In {len(these)} cases: {few(these)}")
    if bare := sum(map(is_bare, cases)):
        lines.append(f"unlabeled: {bare} cases, all in train")
    lines += unused_labels(cases)
    if several := [c.case_id for c in cases if SEVERAL in c.label]:
        lines.append(f"several masks of an image, united: in {len(several)} cases: {few(several)}")
    return lines


def unused_labels(cases: list[Case]) -> list[str]:
    """A warning where patients have cases with a label and cases without one: a budget counts
    patients, and takes whole ones."""
    bare = bare_patients(cases)
    lost = [case for case in cases if case.patient_id in bare and not is_bare(case)]
    patients = list(dict.fromkeys(case.patient_id for case in lost))
    if not lost:
        return []
    return [
        f"warning: {len(lost)} labels are not used: their patients have cases without a label too, "
        f"and count as unlabeled. Leave those cases out to use the labels. "
        f"Patients: {few(patients)}"
    ]


def class_lines(cases: list[Case], drawn: dict, classes: list[str], found: Reading) -> list[str]:
    """How many cases show a class, and a warning where a split has none: there it is not learned,
    or not judged."""
    lines, warnings = [], []
    for number, name in enumerate(classes, 1):
        owners = [case.patient_id for case in cases if number in found.shown[case.case_id]]
        lines.append(f"class {number} {name}: in {len(owners)} cases")
        in_use = [split for split in SPLITS if drawn.get(split)]
        if lacking := [split for split in in_use if not set(owners) & set(drawn[split])]:
            warnings.append(f"warning: class {number} {name} is in no case of {', '.join(lacking)}")
    return lines + warnings


def left_apart(
    groups: list[list[str]], cases: list[Case], drawn: dict[str, list[str]]
) -> list[str]:
    """A line a group of near-duplicates of several patients; a warning where these are in several
    splits."""
    patient = {case.case_id: case.patient_id for case in cases}
    split, lines = {p: name for name, group in drawn.items() for p in group}, []
    for group in groups:
        where = {split[patient[case]] for case in group}
        if len({patient[case] for case in group}) > 1:
            kind = (
                "near-duplicates"
                if len(where) == 1
                else "warning: near-duplicates in different splits"
            )
            named = ", ".join(f"{case} ({split[patient[case]]})" for case in group)
            lines.append(f"{kind}, left as they are: {named}")
    return sorted(lines, key=lambda line: not line.startswith("warning"))


def shortened(lines: list[str]) -> list[str]:
    """The first MOST lines and one that counts the others."""
    return lines[:MOST] + [f"... and {len(lines) - MOST} more of these"] * (len(lines) > MOST)
