"""Certificates: proofs that no adversary within a budget can change an answer."""

from zeronorm.certification.truncation_window import WindowCertificate as WindowCertificate
from zeronorm.certification.truncation_window import certify_truncated as certify_truncated
from zeronorm.certification.truncation_window import certify_truncated_linear as certify_truncated_linear
from zeronorm.certification.truncation_window import truncated_range as truncated_range
from zeronorm.certification.truncation_window import worst_case_logits as worst_case_logits

__all__ = [
    "WindowCertificate",
    "certify_truncated",
    "certify_truncated_linear",
    "truncated_range",
    "worst_case_logits",
]
