"""The figure of sample images."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from clbench.records.samples import GAP
from clbench.reports.figures.canvas import Spot, shortened, svg

_MOST_PIXELS = 20_000_000
_SMALL, _INCHES, _INCHES_IF_LARGE = 32, 0.42, 0.6
_SHARP = 64  # pixels of a side, below which viewers that smooth enlarged images would blur it


def samples(picture: bytes, tasks: Sequence[str], *, per_task: int, side: int, name: str) -> str:
    """Sample images, a row for each task with its name beside it.

    Args:
        picture: as `clbench.records.samples.sample_strip` makes it.
        tasks: the tasks' names.
        per_task: images of each.
        side: height of an image in pixels.
        name: of the figure.

    Raises:
        ValueError: if the picture is not one of so many images.
    """
    try:
        with Image.open(io.BytesIO(picture), formats=["PNG"]) as found:
            columns, rows = found.size
            if not tasks or per_task < 1 or (columns + GAP) % per_task or rows + GAP != len(tasks) * (side + GAP):
                raise ValueError(
                    f"its {columns} x {rows} pixels are not {len(tasks)} rows of {per_task} images of {side} pixels"
                )
            if columns * rows > _MOST_PIXELS:
                raise ValueError(f"it has more than {_MOST_PIXELS:,} pixels")
            pixels = np.asarray(found.convert("RGBA")).copy()
    except OSError:
        raise ValueError("it is no PNG") from None
    width, height = (columns + GAP) // per_task, side + GAP
    # What lies between the images is the page's own white, or black.
    pixels[np.arange(rows) % height == height - GAP, :, 3] = 0
    pixels[:, np.arange(columns) % width == width - GAP, 3] = 0
    times = max(1, _SHARP // max(width, height))
    pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    inches = _INCHES if width <= _SMALL + GAP else _INCHES_IF_LARGE

    def draw(figure: Figure) -> list[Spot]:
        axes = figure.subplots()
        axes.imshow(pixels, interpolation="none", extent=(0, columns, rows, 0))
        axes.set_anchor("W")
        axes.set_xticks([])
        axes.set_yticks([(row + 0.5) * height - GAP for row in range(len(tasks))], [shortened(task) for task in tasks])
        axes.tick_params(axis="y", length=0)
        axes.spines[:].set_visible(False)
        return []

    return svg(draw, name, inches * len(tasks) * height / width + 0.15)
