"""One image file to pixels, whatever its kind: grey or colour, transparent, of 16 bits, turned by its camera.

Letters: C channels (1 grey, 3 red, green and blue), H height, W width.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from clbench.errors import DataError

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)


def decode(path: str, image_size: int | None = None) -> Pixels:
    """The pixels of one image file, uint8 [1, H, W] if it is grey and [3, H, W] otherwise.

    What is transparent becomes black, in proportion. Of 16 bits the upper 8 count. Files of 32 bits use 8 of them
    or 16. The turn that a camera noted in EXIF is carried out. Of several images in one file the first counts. An
    image with a palette is no grey one.

    Args:
        path: of the file.
        image_size: height and width to give it, in pixels, bilinear with antialiasing; None leaves its own. The
            image is squeezed, never cut.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            # Pillow opens grey with transparency at 16 bits as a colour image; its file says what it is.
            is_grey = bool(image.tile) and image.tile[0].args == "LA;16B"
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            plain = _without_extras(image)
            plain = plain.convert("L") if is_grey else plain
    except MemoryError:
        raise
    # Each of Pillow's readers fails in its own way on damaged files, not with OSError alone.
    except Exception as error:
        is_none = isinstance(error, UnidentifiedImageError)
        said = "it is no image" if is_none else " ".join(str(error).replace(path, "").replace("''", "it").split())
        raise DataError(f"the image {path} cannot be read ({said}); repair it, or take it out of the folder") from None
    if image_size is not None and plain.size != (image_size, image_size):
        plain = plain.resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _without_extras(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("its pixels have more than 16 bits")
        # Of 32 bits, some files use 8 and some 16. Pillow takes every PGM of more than 8 bits for one of 32.
        is_wide = image.mode != "I" or image.format == "PPM" or values.max() > 255
        if isinstance(transparent := image.info.get("transparency"), int):
            values = np.where(values == transparent, 0, values)
        return Image.fromarray((values >> 8 if is_wide else values).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are fractions")
    plain = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == plain else image.convert(plain)
    image = image.convert("LA" if plain == "L" else "RGBA")
    black = Image.new(plain, image.size)
    black.paste(image.convert(plain), mask=image.getchannel("A"))
    return black


def resized(images: Pixels, image_size: int | None) -> Pixels:
    """Images [N, C, H, W] squeezed to this height and width as `decode` does it; None leaves theirs."""
    if image_size is None or images.shape[2:] == (image_size, image_size):
        return images
    result = np.empty((*images.shape[:2], image_size, image_size), np.uint8)
    for image, target in zip(images, result, strict=True):
        for channel, of_target in zip(image, target, strict=True):
            of_target[:] = Image.fromarray(channel).resize((image_size, image_size), Image.Resampling.BILINEAR)
    return result
