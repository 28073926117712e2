"""Reports as files: one page of HTML, Markdown, and node data for Model Explorer.

A command fills a `Page` (`page.py`); `html.py` and `markdown.py` write it. `comparisons.py` makes
the strips of what `shared.verification.comparison` found.
"""
