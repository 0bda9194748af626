"""``r2ac report``: one HTML page about runs, which needs nothing beside itself.

`study` reads the runs and groups them into configurations, `scores` compares their evaluations, a module for each
section makes its blocks with the macros of ``blocks.html``, and `page` puts the sections into ``page.html``.
"""

from r2ac.launch.report.page import EXTENSIONS, write_report

__all__ = ["EXTENSIONS", "write_report"]
