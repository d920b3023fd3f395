"""The training methods by name."""

from __future__ import annotations

from zeronorm.certification import certify_feature_partition, certify_l0_lipschitz
from zeronorm.training import (
    ablation,
    adversarial,
    append,
    fast_ls,
    linf_adversarial,
    standard,
    trades,
    truncation_window,
)
from zeronorm.training.encoding import Encoding
from zeronorm.training.feature_partition import train_feature_partition
from zeronorm.training.l0_lipschitz import train_l0_lipschitz
from zeronorm.training.method import CertifiedMethod, Method

METHODS: dict[str, Method | CertifiedMethod] = {
    "standard": Method(standard.batch_loss),
    "sat": Method(adversarial.batch_loss),
    "strades": Method(trades.batch_loss),
    "fast_ls": Method(fast_ls.batch_loss, by_example=("labels",)),
    "linf_adversarial": Method(linf_adversarial.batch_loss),
    "ablation": Method(ablation.batch_loss, encoding=Encoding.of, certifiable=True),
    "truncated": Method(standard.batch_loss, grow=append.grow),
    "truncation_window": Method(truncation_window.batch_loss, keeps_last=True, certifiable=True),
    "l0_lipschitz": CertifiedMethod(train_l0_lipschitz, certify_l0_lipschitz, on_cpu=True),
    "feature_partition": CertifiedMethod(train_feature_partition, certify_feature_partition, normalized=True),
}
