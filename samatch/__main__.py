"""One command line: `samatch COMMAND ...`, or `python -m samatch COMMAND ...`."""

import importlib
import signal
import sys

from samatch.system.errors import InputError

COMMANDS = {  # name: (module, words put before the user's, what it does, an example)
    "data": (
        "data.provide",
        ["data"],
        "get a data set and prepare it",
        "--dataset busi --archive BUSI.zip",
    ),
    "verify": (
        "data.provide",
        ["verify"],
        "check a data set against its manifest",
        "--dataset acdc",
    ),
    "manifest": (
        "data.curate",
        [],
        "check the files of a set of your own, write its manifest",
        "--name hearts --classes lv,rv",
    ),
    "train": (
        "training.train",
        [],
        "train one run, missing parents first",
        "--profile laptop --dataset acdc --method samatch-fixmatch --seed 0",
    ),
    "time": (
        "training.pace",
        [],
        "how long the trainings of make reproduce will take here",
        "--profile laptop --dataset acdc",
    ),
    "predict": (
        "training.predict",
        [],
        "masks for the images of a folder",
        "--model acdc IMAGES MASKS",
    ),
    "models": (
        "training.released",
        [],
        "list the released students, or export one",
        "--export acdc",
    ),
    "external": (
        "training.external",
        [],
        "test the students of a set on another source",
        "--profile laptop --dataset stu_hospital --of busi",
    ),
    "strip": (
        "training.walkthrough",
        [],
        "draw the method on unlabeled slices, by a finished joint run",
        "--profile laptop --dataset acdc",
    ),
    "film": (
        "results.films",
        [],
        "draw one slice over a joint training that was run with --film",
        "--profile laptop --dataset acdc",
    ),
    "tables": (
        "results.report",
        [],
        "collect the runs, write the tables",
        "--profile laptop --dataset acdc --print",
    ),
    "folds": (
        "results.folds",
        [],
        "draw the folds of a set, or pool their runs",
        "pool --profile laptop --dataset chaos",
    ),
    "votes": (
        "results.votes",
        [],
        "what students without SAM gain by a vote, and which errors runs share",
        "--profile laptop --dataset acdc",
    ),
    "audit": (
        "results.audit",
        [],
        "recompute the tracked numbers by other code",
        "--profile laptop --dataset acdc",
    ),
}


def help_text() -> str:
    """All commands, each with an example."""
    rows = [
        f"  {name:10}{what}\n  {'':10}  samatch {name} {example}"
        for name, (_, _, what, example) in COMMANDS.items()
    ]
    return "\n".join(["usage: samatch COMMAND ...   (samatch COMMAND --help)", "", *rows])


def main(words: list[str] | None = None) -> None:
    """Hands the words to the command's module; bad input, and memory that is lacking, end with one
    `error: ...`, status 1, and Ctrl-C with one line, status 130."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        return print(help_text())
    name, *rest = words
    if name not in COMMANDS:
        raise SystemExit(f"error: unknown command {name!r}\n{help_text()}")
    module, before, _, example = COMMANDS[name]
    if rest[:1] in (["-h"], ["--help"]):
        print(f"example: samatch {name} {example}\n")
    try:
        importlib.import_module(f"samatch.{module}").main(before + rest)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print(f"samatch {name}: stopped", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except (MemoryError, RuntimeError) as error:
        from samatch.system.devices import out_of_memory  # torch: seconds, and many do without

        if not out_of_memory(error):
            raise
        first = (str(error).splitlines() or ["no memory left"])[0]
        raise SystemExit(f"error: not enough memory for samatch {name}\n  got: {first}") from None


if __name__ == "__main__":
    main()
