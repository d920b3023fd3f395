"""What befalls a cluster, the process that was started, or its disk; workers that fail are in `test_workers`."""

from __future__ import annotations

import pytest
import torch

from benchmarks import faults

pytest.importorskip("ray")

SAID = {
    "node": "done again, since its worker died",
    "last-node": "workers: none is left, and none can be started; what is finished is kept",
    "driver": "rows were kept; 0 of 2 workers were left after",
    "full-disk": "No space left on device: ",
    "stalled-folder": "which has not answered for 1 s; nothing is lost; going on: ",
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The rows of one undisturbed process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("alone") / "run"
    faults.evaluated(faults.zn.models.load("digits"), out)
    yield faults.rows_of(out)
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_a_fault_costs_no_row(expected, tmp_path, name):
    outcome = faults.FAULTS[name][1](tmp_path)
    assert faults.compared(expected, outcome.rows) == f"0 / 0 / 0 of {len(expected)}"
    assert SAID[name] in outcome.said


def test_a_comparison_of_rows_sees_what_is_lost_doubled_or_other():
    rows = [{"example": i, "k": 1, "stage": 0, "outcome": "broken", "margin": 0.5} for i in range(4)]
    assert faults.compared(rows, rows) == "0 / 0 / 0 of 4"
    found = [rows[0], rows[0], rows[1] | {"margin": 0.6}, rows[2] | {"outcome": "robust"}]
    assert faults.compared(rows, found) == "1 / 1 / 2 of 4"
    assert faults.compared(rows, found, bitwise=False) == "1 / 1 / 1 of 4"
