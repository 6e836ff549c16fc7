"""One self-contained HTML page of a suite: one file per part, put together by build.py."""

from benchmark.report.page.build import build_page

__all__ = ["build_page"]
