"""Defences: what changes a classifier so that it resists.

robust = zn.defenses.truncate(model, k=10)
"""

from zeronorm.defenses.truncation import TruncatedConv2d as TruncatedConv2d
from zeronorm.defenses.truncation import TruncatedInput as TruncatedInput
from zeronorm.defenses.truncation import TruncatedLinear as TruncatedLinear
from zeronorm.defenses.truncation import truncate as truncate
from zeronorm.defenses.truncation import truncated_inner_product as truncated_inner_product

__all__ = ["TruncatedConv2d", "TruncatedInput", "TruncatedLinear", "truncate", "truncated_inner_product"]
