"""How fast a folder of images is decoded and read from the cache, beside a plain loop of Pillow.

    python benchmarks/decoding.py DIR [SOURCE]

DIR is a data root, SOURCE one that lies there as folders of images by class (`cifar100` where it is not given). The
cache is a new one, so the first reading decodes every file. Imports are not counted. Keep the machine idle meanwhile.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from clbench.data import load_images

FILES_OF_THE_LOOP = 5_000


def main(root: Path, source: str) -> None:
    """Prints images per second of the loop and of the first reading, and the seconds of the second."""
    below = root / source if (root / source).is_dir() else root
    paths = [path for path in sorted(below.rglob("*")) if path.suffix.lower() in (".png", ".jpeg", ".jpg")]
    start = time.perf_counter()
    for path in paths[:FILES_OF_THE_LOOP]:
        np.asarray(Image.open(path).convert("RGB"))
    loop = min(FILES_OF_THE_LOOP, len(paths)) / (time.perf_counter() - start)
    print(f"plain loop of Pillow: {loop:,.0f} images/s")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        load_images("digits")
        start = time.perf_counter()
        images = load_images(source, root, offline=True)
        seconds = time.perf_counter() - start
        count = len(images.train_labels) + len(images.test_labels)
        print(f"decoded: {count:,} images, {count / seconds:,.0f} images/s, {count / seconds / loop:.2f} of the loop")
        del images
        start = time.perf_counter()
        load_images(source, root, offline=True)
        print(f"from the cache: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cifar100")
