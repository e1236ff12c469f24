"""How Sphinx builds the pages of this folder: `make docs`."""

import lossweights

project = "lossweights"
author = "the lossweights developers"
copyright = "2026, the lossweights developers"  # noqa: A001  # Sphinx's name
version = release = lossweights.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = False

# Pages read on GitHub as they do here: its math, its anchors.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

copybutton_exclude = ".linenos, .gp, .go"  # prompts and what was printed

html_theme = "furo"
html_title = "lossweights"
