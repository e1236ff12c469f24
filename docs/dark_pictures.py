"""Dark versions of the pictures, and a local Sphinx extension that shows them in dark mode.

White becomes the dark background, black becomes light, and colors keep their hues. Pictures of data
stay as they are. Run it after a picture changed, with numpy and Pillow installed:

    python docs/dark_pictures.py
"""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
from docutils import nodes
from numpy.typing import NDArray
from PIL import Image
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
BACKGROUND = np.array([0x13, 0x14, 0x16], np.float32) / 255  # that of the pages
INK = 0.92  # what black becomes
STRENGTH = 0.65  # below 1 it lightens the pale colors, which would be too dark
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of red, green and blue
LEAST = 0.4  # of the luminance of an ink
OF_DATA = ("beta-vae-traversals", "late-adversary-images")  # images that a model made
WITHIN = "data:image/png;base64,"
BEFORE_COLLECTION = 400  # by Sphinx, of the pictures that it copies


def darken(picture: bytes) -> bytes:
    """A dark version of a PNG that was drawn on white."""
    with Image.open(io.BytesIO(picture)) as image:
        white = Image.new("RGBA", image.size, "white")
        colors = np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    shown = np.rint(255 * on_dark(np.divide(colors, 255, dtype=np.float32))).astype(np.uint8)
    dark = io.BytesIO()
    Image.fromarray(shown).save(dark, "PNG")
    return dark.getvalue()


def on_dark(colors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What colors from 0 to 1 on white become on the background.

    A color is taken as an ink that covers a part of the white, as much as possible: its least
    channel is 0. The same ink, with all the light that it lacks to be as light as `INK`, covers
    the background. Pure blue and red are still too dark, and get some white.
    """
    cover = 1 - colors.min(axis=-1, keepdims=True)
    ink = (colors - 1 + cover) / np.maximum(cover, 1e-9)
    light = ink + INK * (1 - ink.max(axis=-1, keepdims=True))
    luminance = light @ LUMINANCE
    light += (np.maximum(LEAST - luminance, 0) / (1 - luminance))[..., None] * (1 - light)
    cover **= STRENGTH
    shown: NDArray[np.float32] = cover * light + (1 - cover) * BACKGROUND
    return shown


def dark_of(picture: Path) -> Path:
    """Where the dark version of a picture is."""
    return picture.with_name(f"{picture.stem}-dark.png")


def light_pictures() -> list[Path]:
    """The pictures that have a dark version."""
    pictures = sorted((DOCS / "pictures").glob("*.png"))
    return [path for path in pictures if not path.stem.endswith(("-dark", *OF_DATA))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects the function below."""
    app.connect("doctree-read", add_dark, priority=BEFORE_COLLECTION)
    return {"parallel_read_safe": True}


def add_dark(app: Sphinx, document: nodes.document) -> None:
    """Puts the dark version of each picture beside it; the theme shows one of the two."""
    page = Path(app.env.doc2path(app.env.docname))
    for image in list(document.findall(nodes.image)):
        if dark := dark_address(image["uri"], page.parent):
            other = image.deepcopy()
            other["uri"] = dark
            image["classes"].append("only-light")
            other["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, other)


def dark_address(address: str, folder: Path) -> str:
    """Where the dark version of a picture is; empty if there is none."""
    if address.startswith(WITHIN):
        picture = b64decode(address.removeprefix(WITHIN))
        return WITHIN + b64encode(darken(picture)).decode()
    is_there = dark_of(folder / address).is_file()
    return f"{address.removesuffix('.png')}-dark.png" if is_there else ""


def main() -> None:
    """Draw the dark version of every picture."""
    for path in light_pictures():
        dark_of(path).write_bytes(darken(path.read_bytes()))


if __name__ == "__main__":
    main()
