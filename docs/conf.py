"""The documentation's settings: `sphinx-build -W -n docs docs/_build` at the root of a clone."""

import smoothsr

project = "smoothsr"
author = "The smoothsr developers"
project_copyright = "The smoothsr developers, Apache-2.0"
version = release = smoothsr.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_templates", "figures"]
templates_path = ["_templates"]
suppress_warnings = ["myst.header"]  # pages of other folders are included below their own titles

default_role = "code"  # what docstrings put in single backticks

html_theme = "furo"
html_title = f"smoothsr {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # dataclass fields are described by their class
# Types of third parties, whose pages a closed network can't reach, and aliases, which have none.
nitpick_ignore_regex = [("py:.*", r"(?!smoothsr\.(SmoothedSR|Certificate)$).*")]
linkcheck_anchors = False
