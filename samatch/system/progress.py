"""Progress of long work: a bar on a terminal, or one line in the file that SAMATCH_PROGRESS names.

The runner of the notebooks reads that file, so that progress shows while a notebook runs and leaves
nothing in its saved output.
"""

import os
import sys
import time


class Progress:
    """Progress of one task of `total` steps. Call with the number done."""

    def __init__(self, task: str, total: int):
        self.task, self.total = task, total
        self.start = time.monotonic()
        self.first: int | None = None
        self.shown = 0.0

    def __call__(self, done: int, note: str = "") -> None:
        """Shows `done` of the total, at most once a second and at the end."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now
        if now - self.shown < 1 and done < self.total:
            return
        self.shown = now
        rate = (done - self.first) / max(now - self.start, 1e-6)
        left = f"{(self.total - done) / rate:.0f} s left" if rate > 0 else ""
        self._write(f"{self.task}: {done}/{self.total} {note} {left}".strip(), done >= self.total)

    def _write(self, line: str, last: bool) -> None:
        if target := os.environ.get("SAMATCH_PROGRESS"):
            with open(target, "w") as handle:
                handle.write(line)
        elif sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
