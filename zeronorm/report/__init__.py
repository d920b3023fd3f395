"""The report: pages and tables from records alone.  No torch: it can be remade where no model runs."""

from __future__ import annotations

from zeronorm.report.certificates import CertificateSummary as CertificateSummary
from zeronorm.report.certificates import certificates_table as certificates_table
from zeronorm.report.certificates import certified_json as certified_json
from zeronorm.report.certificates import pictured as pictured
from zeronorm.report.certificates import summarise_certificates as summarise_certificates
from zeronorm.report.comparison import comparison_json as comparison_json
from zeronorm.report.comparison import comparison_table as comparison_table
from zeronorm.report.comparison import read_comparison as read_comparison
from zeronorm.report.html import render as render
from zeronorm.report.html import render_leaderboard as render_leaderboard
from zeronorm.report.leaderboard import leaderboard_json as leaderboard_json
from zeronorm.report.leaderboard import leaderboard_table as leaderboard_table
from zeronorm.report.leaderboard import read_boards as read_boards
from zeronorm.report.leaderboard import result_of as result_of
from zeronorm.report.leaderboard import save_result as save_result
from zeronorm.report.matrix import matrix_json as matrix_json
from zeronorm.report.matrix import matrix_table as matrix_table
from zeronorm.report.matrix import read_matrix as read_matrix
from zeronorm.report.site import write_site as write_site
from zeronorm.report.tables import Summary as Summary
from zeronorm.report.tables import summarise as summarise
from zeronorm.report.tables import text_table as text_table

__all__ = [
    "CertificateSummary",
    "Summary",
    "certificates_table",
    "certified_json",
    "comparison_json",
    "comparison_table",
    "leaderboard_json",
    "leaderboard_table",
    "matrix_json",
    "matrix_table",
    "pictured",
    "read_boards",
    "read_comparison",
    "read_matrix",
    "render",
    "render_leaderboard",
    "result_of",
    "save_result",
    "summarise",
    "summarise_certificates",
    "text_table",
    "write_site",
]
