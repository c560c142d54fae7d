import itertools

import numpy as np
import pandas as pd
import pytest

from samatch.results import formulae, stats
from samatch.system.errors import InputError


def exact_p(difference):
    """Two-sided signed-rank p by going through all 2^n sign patterns."""
    ranks = pd.Series(np.abs(difference)).rank().to_numpy()
    observed = abs((ranks * np.sign(difference)).sum())
    patterns = np.array(list(itertools.product([-1, 1], repeat=len(difference))))
    return (np.abs(patterns @ ranks) >= observed - 1e-9).mean()


@pytest.mark.parametrize("seed", range(4))
def test_p_value_equals_all_sign_patterns(seed):
    difference = np.random.default_rng(seed).normal(0.4, 1, 9)
    assert stats.paired_test(difference)["p"] == pytest.approx(exact_p(difference))


def test_five_improvements_cannot_be_significant():
    found = stats.paired_test(np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert found["p"] == found["smallest_p"] == 0.0625
    assert found["rank_biserial"] == 1 and found["median_difference"] == pytest.approx(0.3)


def test_zeros_nans_and_equal_methods():
    found = stats.paired_test(np.array([0.0, 0.0, 0.2, -0.1, np.nan]))
    assert (found["n"], found["zeros"], found["undefined"]) == (4, 2, 1)
    assert found["rank_biserial"] == pytest.approx((2 - 1) / 3)
    same = stats.paired_test(np.zeros(6))
    assert same["p"] == 1 and same["zeros"] == 6 and (same["ci_low"], same["ci_high"]) == (0, 0)


def test_holm_by_hand():
    assert stats.holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert stats.holm(np.array([0.6, 0.9])).tolist() == [1, 1]


def test_bootstrap_interval_covers_and_repeats():
    values = np.random.default_rng(0).normal(5, 1, 40)
    low, high = stats.bootstrap_interval(values, 0)
    assert low < np.median(values) < high and high - low < 1.5
    assert (low, high) == stats.bootstrap_interval(values, 0)


def per_case(scores):
    rows = [
        {
            "run_id": run,
            "split": "test",
            "patient_id": p,
            "case_id": f"{p}_{f}",
            "class": c,
            "dice": d + 0.01 * f,
        }
        for run, by_patient in scores.items()
        for p, d in by_patient.items()
        for f in (0, 1)
        for c in ("a", "b")
    ]
    return pd.DataFrame(rows)


def test_the_patient_is_the_unit():
    table = per_case({"x": {"p1": 0.5, "p2": 0.7}})
    assert stats.unit_scores(table)["x"].to_dict() == pytest.approx({"p1": 0.505, "p2": 0.705})
    assert len(stats.unit_scores(table, unit="volume")) == 4
    with pytest.raises(InputError, match="unknown unit"):
        stats.unit_scores(table, unit="slice")


def test_who_leaves_an_absent_class_empty_is_right_in_a_test():
    """Twenty normal pictures, where `b` invents a lesion, and twenty lesions where it is a point
    better. A mean of `a` leaves the normal ones out; a test must not, or `b` would be the better.
    """
    rows = [
        {"split": "test", "patient_id": f"p{n}", "case_id": f"p{n}", "class": "lesion"}
        | {"run_id": run, "dice": dice}
        for n in range(40)
        for run, dice in (("a", np.nan), ("b", 0.0) if n < 20 else ("b", 0.76))
        for dice in ([0.75] if run == "a" and n >= 20 else [dice])
    ]
    table = pd.DataFrame(rows)
    assert stats.unit_scores(table).mean().to_dict() == pytest.approx({"a": 0.75, "b": 0.38})
    found = stats.paired_scores(table)
    assert found.a.tolist().count(1.0) == 20
    tested = stats.paired_test((found.a - found.b).to_numpy())
    assert tested["n"] == 40 and tested["rank_biserial"] > 0 and tested["p"] < 0.05
    alone = table[table.run_id == "a"]  # nobody invents anything: nothing is filled
    assert stats.paired_scores(alone).a.isna().sum() == 20


def test_bonferroni_over_the_family():
    rng = np.random.default_rng(1)
    patients = [f"p{i}" for i in range(12)]
    base = {p: rng.uniform(0.5, 0.8) for p in patients}
    scores = stats.unit_scores(
        per_case(
            {
                "ours": base,
                "worse": {p: v - rng.uniform(0.01, 0.1) for p, v in base.items()},
                "same": {p: v + rng.normal(0, 0.01) for p, v in base.items()},
            }
        )
    )
    table = stats.wilcoxon_family(scores, "ours", ["worse", "same"]).set_index("comparison")
    assert table.p["worse"] == 2 / 2**12 and table.p_bonferroni["worse"] == 2 * table.p["worse"]
    assert table.significant.to_dict() == {"worse": True, "same": False}
    with pytest.raises(InputError, match="unknown run"):
        stats.wilcoxon_family(scores, "ours", ["missing"])


def test_what_floats_add_breaks_no_tie_and_makes_no_difference():
    """0.1 + 0.2 - 0.3 is no difference, and 0.8 - 0.7 is as large as 0.3 - 0.4."""
    noisy = np.array([0.1 + 0.2 - 0.3, 0.8 - 0.7, 0.3 - 0.4, 0.6, 0.9])
    plain = np.array([0.0, 0.1, -0.1, 0.6, 0.9])
    assert len(set(np.abs(noisy))) == 5  # as floats they are all different
    assert stats.paired_test(noisy) == stats.paired_test(plain)
    assert formulae.paired(noisy) == formulae.paired(plain)
    assert stats.paired_test(noisy)["zeros"] == 1
