"""Images, the sequence of tasks made of them, and the batches that are trained on."""

from clbench.data.sources import SOURCES, ImageSet, Source, data_folder, load_images

__all__ = ["SOURCES", "ImageSet", "Source", "data_folder", "load_images"]
