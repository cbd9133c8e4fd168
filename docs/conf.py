"""How Sphinx builds the site: `sphinx-build -W docs FOLDER`. Every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_sphinx")]

from mtl_lightning.version import __version__  # noqa: E402

project = "mtl_lightning"
author = "mtl_lightning maintainers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",  # pages are Markdown, as on the repository's own page
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "generated_tables",
    "repository_links",
    "shapes_in_docstrings",
]
exclude_patterns = ["_sphinx"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_typehints = "none"  # signatures have them
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what a method must do stands once, in the base
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"
python_use_unqualified_type_names = True
toc_object_entries = False

html_theme = "furo"
html_title = f"mtl_lightning {version}"
html_search_scorer = str(HERE / "_static" / "scorer.js")
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
