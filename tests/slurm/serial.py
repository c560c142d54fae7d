"""Trains every line of a list one after the other in this process: usage: serial.py LIST"""

import shlex
import sys
from pathlib import Path

from samatch.training.train import main

for line in Path(sys.argv[1]).read_text().splitlines():
    main(shlex.split(line))
