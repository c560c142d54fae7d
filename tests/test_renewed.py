"""Every tracked table is what the tracked per-case values give, to the byte."""

import shutil

from samatch.results import report
from samatch.system import paths


def test_tables_made_anew_are_the_tracked_ones(tmp_path, monkeypatch):
    tracked, copy = paths.TRACKED_RESULTS, tmp_path / "results"
    left_out = shutil.ignore_patterns("predictions", "run_json")
    shutil.copytree(tracked, copy, ignore=left_out)
    monkeypatch.setattr(paths, "TRACKED_RESULTS", copy)
    written = report.renew_tracked()
    assert len(written) >= len(paths.tracked_sets())
    differing = [
        path.relative_to(copy)
        for path in written
        if path.read_bytes() != (tracked / path.relative_to(copy)).read_bytes()
    ]
    assert not differing, f"stale: {differing}; run `make tables`"
