"""The report: pages and plots from records alone.  No torch: it can be remade where no model runs."""

from __future__ import annotations

from zeronorm.records import summarise as summarise
from zeronorm.report.html import render as render
from zeronorm.report.html import render_leaderboard as render_leaderboard
from zeronorm.report.site import write_site as write_site

__all__ = ["render", "render_leaderboard", "summarise", "write_site"]
