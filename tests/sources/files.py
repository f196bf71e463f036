"""The files of known sources, and where the real ones are."""

import struct
from pathlib import Path

import pytest

DIGITS_SHA256 = "82d9d9a6b1f24958111fbc6331ad9d5fceb0f970f5c8cfe9511229c1aef42639"

REAL_FILES = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_mnist = pytest.mark.skipif(
    not (REAL_FILES / "MNIST" / "raw").is_dir(), reason="../shared/data/MNIST is not beside the repository"
)

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TRAIN, TEST = 40, 20


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
