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
    "pictured",
    "read_comparison",
    "render",
    "summarise",
    "summarise_certificates",
    "text_table",
    "write_site",
]
