"""Shapes and types of every function of the package are checked at run time here, and only here."""

from __future__ import annotations

import os

# before torch is imported: two test workers on two cores, not four threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook("zeronorm", "shape_checks.checked")

import pytest
import torch

# Waiting for a disk is a third of a small run, and no test pulls the plug: those about `fsync` put their own in.
os.fsync = lambda file: None


@pytest.fixture(autouse=True)
def _same_start():
    """Each test starts from the same global random state, whatever ran before it in the worker."""
    torch.manual_seed(0)
