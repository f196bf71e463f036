"""A figure that a notebook shows, also one that has not loaded matplotlib's pyplot."""

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A matplotlib figure that is an image where a notebook shows values."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()
