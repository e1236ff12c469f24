"""How Sphinx builds the pages of this folder: `make docs`."""

import sys
from pathlib import Path

import lossweights

sys.path.insert(0, str(Path(__file__).parent))  # for the extensions in this folder

project = "lossweights"
author = "the lossweights developers"
copyright = "2026, the lossweights developers"  # noqa: A001  # Sphinx's name
version = release = lossweights.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "dark_pictures",
    "docstrings",
    "mathml",
    "notebooks",
    "searching",
]

# Pages read on GitHub as they do here: its math, its anchors.
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4

# The reference: single backticks in docstrings are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Array", "ArrayLike", "State", "Steps", "Values")}
autosummary_generate = False  # the pages are ours
add_module_names = False
python_maximum_signature_line_length = 80
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

highlight_language = "none"  # of blocks that name no language: they are output
copybutton_exclude = ".linenos, .gp, .go"  # prompts and what was printed

html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_title = "lossweights"
html_copy_source = False
