"""What a folder on disk holds, and the figures that follow from its rows.  No torch."""

from __future__ import annotations

from zeronorm.records.certificate_figures import CertificateSummary as CertificateSummary
from zeronorm.records.certificate_figures import certificates_table as certificates_table
from zeronorm.records.certificate_figures import certified_json as certified_json
from zeronorm.records.certificate_figures import pictured as pictured
from zeronorm.records.certificate_figures import summarise_certificates as summarise_certificates
from zeronorm.records.comparison_figures import comparison_json as comparison_json
from zeronorm.records.comparison_figures import comparison_table as comparison_table
from zeronorm.records.comparison_figures import read_comparison as read_comparison
from zeronorm.records.figures import Summary as Summary
from zeronorm.records.figures import summarise as summarise
from zeronorm.records.figures import text_table as text_table
from zeronorm.records.matrix_figures import matrix_json as matrix_json
from zeronorm.records.matrix_figures import matrix_table as matrix_table
from zeronorm.records.matrix_figures import read_matrix as read_matrix
from zeronorm.records.matrix_figures import verdicts as verdicts
from zeronorm.records.paper_table import read_paper_table as read_paper_table
from zeronorm.records.results import leaderboard_json as leaderboard_json
from zeronorm.records.results import leaderboard_table as leaderboard_table
from zeronorm.records.results import read_boards as read_boards
from zeronorm.records.results import result_of as result_of
from zeronorm.records.results import save_result as save_result

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
    "read_paper_table",
    "result_of",
    "save_result",
    "summarise",
    "summarise_certificates",
    "text_table",
    "verdicts",
]
