import gc
import mmap
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clbench.methods.table import METHODS
from clbench.runs.memory import peak_memory_bytes, reset_peak_memory
from clbench.runs.runner import train
from clbench.runs.spec import make_specs
from clbench.suites.files import SUITES

MEGABYTE = 2**20
CPU = SimpleNamespace(type="cpu")


def can_reset():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return "VmHWM" in Path("/proc/self/status").read_text()


needs_reset = pytest.mark.skipif(not can_reset(), reason="this system cannot reset a process's peak memory")


def touch(megabytes):
    """Takes fresh pages from the kernel, writes one byte into each, and gives them back.

    Not through malloc, which may hand out memory that the process holds anyway.
    """
    with mmap.mmap(-1, megabytes * MEGABYTE) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1


@needs_reset
def test_the_peak_since_a_reset_rises_by_what_was_taken():
    reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    touch(200)
    assert (peak_memory_bytes(CPU) - before) / MEGABYTE == pytest.approx(200, abs=20)


@needs_reset
def test_the_peak_stays_after_the_memory_was_given_back_until_it_is_reset():
    reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    touch(100)
    peak = peak_memory_bytes(CPU)
    assert peak - before > 80 * MEGABYTE
    assert peak_memory_bytes(CPU) == peak
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) < peak - 80 * MEGABYTE


def test_a_new_process_sees_its_peak_rise_even_where_no_reset_is_possible():
    code = (
        "import mmap\n"
        "from types import SimpleNamespace\n"
        "from clbench.runs.memory import peak_memory_bytes\n"
        "before = peak_memory_bytes(SimpleNamespace(type='cpu'))\n"
        "block = mmap.mmap(-1, 200 * 2**20)\n"
        "for page in range(0, len(block), mmap.PAGESIZE): block[page] = 1\n"
        "print(peak_memory_bytes(SimpleNamespace(type='cpu')) - before)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) / MEGABYTE == pytest.approx(200, abs=20)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident set from /proc")
def test_keeping_freed_memory_holds_on_to_a_large_block_and_the_default_gives_it_back():
    code = (
        "import mmap, sys\n"
        "from pathlib import Path\n"
        "if sys.argv[1] == 'keep':\n"
        "    from clbench.runs.memory import keep_freed_memory\n"
        "    keep_freed_memory()\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[1]) * mmap.PAGESIZE\n"
        "before = resident()\n"
        "block = bytearray(b'x') * (200 * 2**20)\n"
        "held = resident() - before\n"
        "del block\n"
        "print(held, resident() - before)"
    )

    def megabytes(mode):
        run = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True)
        return [int(number) / MEGABYTE for number in run.stdout.split()]

    held, kept = megabytes("default")
    assert held == pytest.approx(200, abs=20)
    if kept > 20:
        pytest.skip("this C library keeps freed memory by default")
    held, kept = megabytes("keep")
    assert held == pytest.approx(200, abs=20)
    if "glibc" not in platform.libc_ver():
        pytest.skip("only glibc can be told to keep freed memory")
    assert kept > 180


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux only")
def test_what_an_earlier_run_has_freed_is_not_in_the_next_ones_peak():
    code = (
        "import torch\n"
        "from clbench.runs.memory import keep_freed_memory, peak_memory_bytes, reset_peak_memory\n"
        "cpu = torch.device('cpu')\n"
        "keep_freed_memory()\n"
        "reset_peak_memory(cpu)\n"
        "before = peak_memory_bytes(cpu)\n"
        "block = bytearray(b'x') * (300 * 2**20)\n"
        "held = peak_memory_bytes(cpu) - before\n"
        "del block\n"
        "reset_peak_memory(cpu)\n"
        "print(held, peak_memory_bytes(cpu) - before)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    held, left = (int(number) / MEGABYTE for number in printed.split())
    assert held == pytest.approx(300, abs=30)
    assert left < 50


def live_tensor_bytes():
    """Bytes of all tensors there are, each storage once."""
    gc.collect()
    storages = {}
    with warnings.catch_warnings():
        # Looking at some objects of torch's is deprecated.
        warnings.simplefilter("ignore")
        for item in gc.get_objects():
            if type(item) in (torch.Tensor, torch.nn.Parameter):
                storage = item.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


# Copies of the weights that each further task may leave; the rest are masks, contexts and biases.
# A mask takes a byte for each weight in memory, and a bit where it is counted.
COPIES_PER_TASK = {"single-task": 1, "avalanche-ewc": 2, "wsn": 0.25, "supsup": 0.25, "sor-snn-style": 0.25}


LOOKED_AT_ALWAYS = ("clnp", "ewc", "psp")


@pytest.mark.parametrize(
    "method",
    [name if name in LOOKED_AT_ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in sorted(METHODS)],
)
def test_memory_grows_with_the_tasks_by_no_more_than_the_method_keeps(method, digits):
    tasks = 16
    suite = SUITES["permuted-digits"].with_overrides({"n_tasks": tasks, "epochs": 1, "hidden_sizes": [300, 300]})
    (spec,) = make_specs(suite, [method], [0], {}, digits, "float32", "cpu")
    sizes = []
    # What was there before is not looked at, which takes most of the time.
    gc.collect()
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained = train(spec, digits, torch.device("cpu"), lambda result: sizes.append(live_tensor_bytes()))
    finally:
        gc.unfreeze()
    weights = sum(value.nbytes for value in trained.model.parameters())
    per_task = (sizes[tasks] - sizes[3]) / (tasks - 3) / weights
    assert per_task <= COPIES_PER_TASK.get(method, 0) + 0.05


TRAIN_CONVOLUTIONS = """
import resource, sys, warnings
import torch
from clbench.data import ImageSet
from clbench.runs.runner import train
from clbench.runs.spec import make_specs
from clbench.suites.files import find_suite

warnings.simplefilter("ignore")
torch.set_num_threads(1)
images = torch.randint(0, 256, (4_000, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
labels = torch.arange(4_000) % 10
images = ImageSet("noise", images, labels, images[:100], labels[:100], tuple("abcdefghij"), "0" * 64)
changes = {"n_tasks": int(sys.argv[2]), "network": "conv", "epochs": 2, "steps_per_epoch": 2, "batch_size": 64}
changes |= {"channels": [8, 8], "hidden_sizes": [32]}
changes |= {"clnp.budget": "even"} if sys.argv[1] == "clnp" else {}
changes |= {"ewc.fisher_images": 20} if sys.argv[1] == "ewc" else {}
(spec,) = make_specs(find_suite("permuted-digits"), [sys.argv[1]], [0], changes, images, "float32", "cpu")
train(spec, images, torch.device("cpu"), lambda result: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
@pytest.mark.parametrize("method", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("naive", "ewc")), "clnp"])
def test_twenty_tasks_of_images_take_hardly_more_memory_than_five(method):
    def peak(tasks):
        command = [sys.executable, "-c", TRAIN_CONVOLUTIONS, method, str(tasks)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # A copy of a task's images, as floats, is 49 MB.
    assert peak(20) < 1.3 * peak(5)


TRAIN_ON_A_FILE = """
import sys, threading, time
from pathlib import Path
import numpy as np
import torch
from clbench.data import ImageSet
from clbench.runs.runner import train
from clbench.runs.spec import make_specs
from clbench.suites.files import find_suite

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon:"))

n, peak, done = 170_000, 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.005)

images = torch.from_numpy(np.memmap(sys.argv[1], np.uint8, "r+", shape=(n, 3, 64, 64)))
labels = torch.arange(n) % 10
images = ImageSet("file", images, labels, images[:100], labels[:100], tuple("abcdefghij"), "0" * 64)
method = sys.argv[2]
changes = {"n_tasks": 1, "hidden_sizes": [16], "epochs": 1, "batch_size": 256, "normalise": True}
if method != "naive":
    changes |= {"augmentation": ["crop", "flip"], "steps_per_epoch": 100}
(spec,) = make_specs(find_suite("permuted-digits"), [method], [0], changes, images, "float32", "cpu")
threading.Thread(target=watch, daemon=True).start()
train(spec, images, torch.device("cpu"), lambda result: None)
done.set()
print(peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the anonymous memory from /proc")
@pytest.mark.parametrize("method", ["naive", "clnp"])
def test_a_task_of_two_gigabytes_in_a_file_trains_in_less_than_one_of_anonymous_memory(method, tmp_path):
    path = tmp_path / "images"
    with path.open("wb") as file:
        # A file with a hole: it takes no place on the disk.
        file.truncate(170_000 * 3 * 64 * 64)
    assert path.stat().st_size > 2e9
    code = [sys.executable, "-c", TRAIN_ON_A_FILE, path, method]
    run = subprocess.run(code, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 100 < int(run.stdout) < 1000
