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
sys.argv = ["clbench", *given["arguments"]]
torch.set_num_threads(1)
cli.main()
