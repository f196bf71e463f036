"""The command in a process of its own, which ends as if killed when the naive method begins the second task."""

import os
import runpy
from pathlib import Path

from clbench.baselines.naive import Naive

learn = Naive.learn
Naive.learn = lambda method, task: os._exit(9) if task.index == 1 else learn(method, task)
given = {name: globals()[name] for name in ("folder", "arguments", "output")}
runpy.run_path(str(Path(__file__).with_name("clbench.py")), given)
