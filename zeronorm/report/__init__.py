"""The report: pages and tables from records alone.  No torch: it can be remade where no model runs."""

from __future__ import annotations

from zeronorm.report.comparison import comparison_json as comparison_json
from zeronorm.report.comparison import comparison_table as comparison_table
from zeronorm.report.comparison import read_comparison as read_comparison
from zeronorm.report.html import render as render
from zeronorm.report.tables import Summary as Summary
from zeronorm.report.tables import summarise as summarise
from zeronorm.report.tables import text_table as text_table

__all__ = [
    "Summary",
    "comparison_json",
    "comparison_table",
    "read_comparison",
    "render",
    "summarise",
    "text_table",
]
