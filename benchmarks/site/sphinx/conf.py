"""Sphinx' configuration; `python -m benchmarks.site` puts it beside the pages."""

from importlib import metadata

project = "ResNet Rosetta"
try:
    release = metadata.version("resnet-rosetta")
except metadata.PackageNotFoundError:  # run from a source tree
    release = ""

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "ResNet Rosetta"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]
html_show_copyright = False
html_copy_source = False
html_show_search_summary = False  # it would be fetched, which a browser refuses without a server
pygments_style = "default"
pygments_dark_style = "github-dark"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True


def setup(app):
    app.connect("autodoc-process-docstring", whole_sentences, priority=400)


def whole_sentences(app, what, name, found, options, lines):
    """Napoleon takes what stands in front of a property's first colon for its type."""
    if what in ("attribute", "property"):
        lines.insert(0, "")
