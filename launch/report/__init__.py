"""``r2ac report``: one HTML page about runs, which needs nothing beside itself.

`study` reads the runs and says which belong together, `scores` is the maths, each `*_section` module turns a part of
the study into blocks, `svg` turns figures into text, and `page` puts the blocks into ``page.html``.
"""

from r2ac.launch.report.page import EXTENSIONS, write_report

__all__ = ["EXTENSIONS", "write_report"]
