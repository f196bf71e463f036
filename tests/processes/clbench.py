"""The command in a process of its own, for tests that kill it. Given: folder, arguments, output."""

import os
import sys

import torch

from clbench import cli

given = globals()
os.chdir(given["folder"])
handle = os.open(given["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(handle, 1)
os.dup2(handle, 2)
# As a new process would open them, which looks at what they are.
sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
sys.argv = ["clbench", *given["arguments"]]
torch.set_num_threads(1)
cli.main()
