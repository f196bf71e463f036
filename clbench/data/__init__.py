"""Images: where they come from, how they are read and kept, and how they become tasks.

`clbench.data.sources` is the way in. `formats`, `folder` and `arrays` each read one kind of file, `decoding` one image
file, `given` takes Python objects, and `cache` keeps decoded images for the next run.
"""

from clbench.data.cache import CacheEntry, DataWarning, cache_entries, cache_limit, clear_cache
from clbench.data.given import GivenImages, given_images
from clbench.data.images import ImageSet
from clbench.data.sources import SOURCES, Source, data_folder, is_path, load_images, stand_in

__all__ = [
    "SOURCES",
    "CacheEntry",
    "DataWarning",
    "GivenImages",
    "ImageSet",
    "Source",
    "cache_entries",
    "cache_limit",
    "clear_cache",
    "data_folder",
    "given_images",
    "is_path",
    "load_images",
    "stand_in",
]
