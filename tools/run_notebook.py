"""Executes one notebook with papermill: parameters are checked first, nothing half-done stays.

usage: run_notebook.py SOURCE OUTPUT name=value ...
       run_notebook.py --in-place SOURCE

In place is for tracked notebooks: their own parameters, clean metadata. A notebook that fails, or
whose kernel dies, leaves OUTPUT with the ending .failed.ipynb and no OUTPUT.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from samatch.system.errors import InputError

# Makes relative SAMATCH_* absolute, before the working directory changes.
from samatch.system.paths import ROOT, make_folder

TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool}


def checked_parameters(source: Path, words: list[str]) -> dict:
    """name=value words as typed parameters; a name or type that the notebook does not declare is an
    error.
    """
    declared = papermill.inspect_notebook(str(source))
    found, faults = {}, []
    for word in words:
        name, _, text = word.partition("=")
        if name not in declared:
            faults.append(f"{source.name} has no parameter {name!r}; it has {', '.join(declared)}")
            continue
        kind = declared[name]["inferred_type_name"]
        value = text if kind == "str" else yaml.safe_load(text)
        if not isinstance(value, TYPES.get(kind, object)):
            faults.append(f"parameter {name} of {source.name} is a {kind}, got {text!r}")
        found[name] = value
    if faults:
        raise SystemExit("error: " + "\n       ".join(faults))
    return found


class Reporter(threading.Thread):
    """Shows the line that the library writes about its progress, behind the notebook's name."""

    def __init__(self, name: str, path: Path):
        super().__init__(daemon=True)
        self.notebook, self.path, self.ended = name, path, threading.Event()
        self.start_time, self.last = time.monotonic(), ""

    def run(self) -> None:
        """Looks once a second until `ended` is set."""
        while not self.ended.wait(1.0):
            line = self.path.read_text() if self.path.exists() else ""
            if (
                line
                and line != self.last
                and (sys.stderr.isatty() or line.split(":")[0] != self.last.split(":")[0])
            ):
                self.say(line)
            self.last = line or self.last

    def say(self, line: str, end: str = "") -> None:
        """One line on stderr; on a terminal it takes the place of the one before."""
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        end = end or ("" if sys.stderr.isatty() else "\n")
        print(
            f"{start}{self.notebook}  {time.monotonic() - self.start_time:4.0f} s  {line}",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def execute(source: Path, output: Path, parameters: dict, name: str) -> None:
    """Runs `source` into `output`, which appears only when every cell has passed. Raises InputError
    where nothing may be written there."""
    make_folder(output.parent, "make ... OUT=DIR")
    failed = output.with_suffix(".failed.ipynb")
    partial = output.with_suffix(".partial.ipynb")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAMATCH_PROGRESS"] = str(Path(folder) / "progress")
        os.environ["PYTHONWARNINGS"] = "ignore"
        reporter = Reporter(name, Path(os.environ["SAMATCH_PROGRESS"]))
        reporter.start()
        try:
            papermill.execute_notebook(
                str(source),
                str(partial),
                parameters=parameters,
                cwd=str(ROOT / "notebooks"),
                kernel_name="python3",
                progress_bar=False,
                extra_arguments=["--IPKernelApp.log_level=40"],
            )
        except (papermill.PapermillExecutionError, DeadKernelError) as error:
            partial.replace(failed)
            reporter.say("FAILED", "\n")
            raise SystemExit(
                f"error: {source.name} failed {why_failed(error)}\n"
                f"       the notebook as far as it ran: {failed}"
            ) from None
        finally:
            reporter.ended.set()
    failed.unlink(missing_ok=True)
    partial.replace(output)
    reporter.say("done", "\n")


def why_failed(error: papermill.PapermillExecutionError | DeadKernelError) -> str:
    """The failing cell and its error, or that the kernel has died."""
    if isinstance(error, DeadKernelError):
        return "since its kernel was killed, by a user or where the memory was full"
    return f"in cell {error.exec_count}: {error.ename}: {error.evalue}"


def clean_metadata(path: Path) -> None:
    """Leaves what a reader needs: outputs and counts, no times, no paths.

    What was printed in pieces is one piece, wherever the kernel happened to cut.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.get("tags", [])} if cell.metadata.get("tags") else {}
    nbformat.write(notebook, path)


def main() -> None:
    """Reads the command line; see the module."""
    words = sys.argv[1:]
    if len(words) < 2:
        raise SystemExit(__doc__)
    in_place = words[0] == "--in-place"
    source = Path(words[1] if in_place else words[0]).resolve()
    output = source if in_place else Path(words[1]).resolve()
    parameters = checked_parameters(source, words[2:])
    try:
        execute(source, output, parameters, source.stem)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    if in_place:
        clean_metadata(output)


if __name__ == "__main__":
    main()
