"""Sphinx's settings for the site; docs/build.py lays its pages out and calls Sphinx. Nothing on a page comes from the network."""

import kvmlab

project = "kvmlab"
author = "the kvmlab authors"
version = release = kvmlab.__version__
html_title = f"kvmlab {version}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md"]  # index.md holds the README

html_theme = "furo"
pygments_dark_style = "github-dark"
html_static_path = ["docs/_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # it would be fetched, which a browser refuses to pages opened from a disk
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

# Notebooks were executed beforehand, with an eye on failures (docs/lessons.py). Widgets are static; no script comes from elsewhere.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_heading_anchors = 4
myst_heading_slug_func = "lessons.anchor"
myst_html_meta = {"viewport": "width=device-width, initial-scale=1"}

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
python_display_short_literal_types = True
napoleon_google_docstring = False
napoleon_custom_sections = [("Columns", "params_style")]
napoleon_use_rtype = False
