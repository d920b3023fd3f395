"""Several processes: the result of one, whatever befalls them."""

from __future__ import annotations

import operator
import socket
from types import SimpleNamespace

import pytest
import torch

import zeronorm as zn
from benchmarks.faulty_models import Faulty
from zeronorm import ArgumentError
from zeronorm.evaluation import ray_workers as module
from zeronorm.evaluation import runner
from zeronorm.evaluation.attack_batch import AttackShard
from zeronorm.evaluation.ray_workers import Workers
from zeronorm.records.folders import CertificateFolder, RunFolder

ray = pytest.importorskip("ray")

CPU = torch.device("cpu")
QUICK = {"attack": ["sparse_pgd", "sparse_rs"], "steps": 20, "queries": 40, "batch_size": 32}


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, for all tests of the file."""
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def digits():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield zn.models.load("digits"), zn.data.load("digits", "test", 120)
    torch.set_num_threads(threads)


def rows_of(evaluation):
    return RunFolder(evaluation.run).read_rows().to_pylist()


def session_of(evaluation):
    return RunFolder(evaluation.run).read()["sessions"][-1]


@pytest.fixture(scope="module")
def alone(digits):
    return rows_of(zn.evaluate(*digits, [zn.L0(1), zn.L0(2)], **QUICK))


def test_two_find_what_one_finds(cluster, digits, alone, tmp_path):
    seen = []
    with Workers(2) as two:
        found = zn.evaluate(
            *digits, [zn.L0(1), zn.L0(2)], **QUICK, workers=two, out=tmp_path / "run", on_progress=seen.append
        )
    assert rows_of(found) == alone
    assert RunFolder(found.run).read()["execution"]["workers"] == 2
    spent = session_of(found)["stages"]
    assert sum(effort["forwards"] for effort in spent.values()) == sum(r["forwards"] for r in alone if r["k"])
    assert {state.workers for state in seen} == {2} and seen[-1].passes > 0
    assert "faults" not in session_of(found)
    assert zn.verify(found.run, *digits)


@pytest.mark.slow
def test_a_curve_begins_where_larger_budgets_ended_in_workers_too(cluster, digits):
    one, two = (
        rows_of(zn.evaluate(*digits, zn.L0(3), **(QUICK | {"steps": 8}), curve=True, workers=n))
        for n in (None, 2)
    )
    assert one == two


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("dies", "its worker died"),
        pytest.param("hangs", "did nothing for 15 s", marks=pytest.mark.slow),
        pytest.param("fills_memory", "not enough memory", marks=pytest.mark.slow),
    ],
)
def test_a_fault_costs_a_shard_and_no_figure(cluster, digits, tmp_path, how, said):
    model, data = digits
    faulty = Faulty(model, tmp_path / "flag", how).eval()
    with Workers(2, patience=15.0 if how == "hangs" else 600.0) as two:
        found = zn.evaluate(faulty, data, zn.L0(2), **QUICK, workers=two, out=tmp_path / "run")
    expected = rows_of(zn.evaluate(faulty, data, zn.L0(2), **QUICK))
    assert [(r["example"], r["stage"], r["outcome"]) for r in rows_of(found)] == [
        (r["example"], r["stage"], r["outcome"]) for r in expected
    ]
    if how != "fills_memory":  # which searches other batches
        assert rows_of(found) == expected
    assert any(said in fault for fault in session_of(found)["faults"])


def test_an_error_of_the_model_is_no_fault_of_the_worker(cluster, digits, tmp_path):
    model, data = digits
    faulty = Faulty(model, tmp_path / "flag", "raises").eval()
    with Workers(1) as one, pytest.raises(RuntimeError, match="the model is of another opinion"):
        zn.evaluate(faulty, data, zn.L0(2), **QUICK, workers=one, out=tmp_path / "run")
    # what was done before is there, and it goes on
    assert len(rows_of(zn.evaluate(faulty, data, zn.L0(2), **QUICK, out=tmp_path / "run"))) > 120


@pytest.mark.slow
def test_who_dies_again_and_again_ends_the_run_with_its_rows_kept(cluster, digits, tmp_path):
    model, data = digits
    faulty = Faulty(model, tmp_path / "flag", "dies", once=False).eval()
    with (
        Workers(2) as two,
        pytest.raises(ArgumentError, match="failed 3 times, at last because its worker died"),
    ):
        zn.evaluate(faulty, data, zn.L0(2), **QUICK, workers=two, out=tmp_path / "run")
    kept = RunFolder(tmp_path / "run")
    assert len(kept.read_rows()) == 120 and "done again" in kept.read()["sessions"][-1]["faults"][0]


@pytest.mark.slow
def test_certificates_of_two_are_those_of_one(cluster, digits):
    data = zn.data.load("digits", "test", 30)
    base = zn.models.build("lenet_300_100", in_channels=2, image_size=8).eval()
    smoothed = zn.defenses.RandomizedAblation(base, 20)
    one, two = (zn.certify(smoothed, data, n0=20, n=60, batch_size=64, workers=n) for n in (None, 2))
    key = operator.itemgetter("example")
    kept = [CertificateFolder(run.run).read_rows().to_pylist() for run in (one, two)]
    assert kept[0] == kept[1] == sorted(kept[0], key=key) and len(kept[0]) == 30
    assert one.certified_accuracy == two.certified_accuracy


@pytest.mark.slow
def test_a_comparison_begins_its_workers_once(cluster, digits, monkeypatch):
    begun = []
    enter = Workers.__enter__
    monkeypatch.setattr(Workers, "__enter__", lambda self: begun.append(self) or enter(self))
    model, data = digits
    found = zn.compare(model, data, zn.L0(2), ["sparse_pgd", "sparse_rs"], steps=10, queries=20, workers=2)
    assert len(begun) == 1 and found.figures.complete


def test_who_is_not_looked_at_is_not_taken_for_hung(monkeypatch):
    class Host:
        still, why, killed, underway = 0.0, "", False, 0.0

        def pulse(self):
            return 0, 0.0

        def kill(self):
            self.killed = True

    now, host, workers = 1000.0, Host(), Workers(1, patience=10.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    for away in (0.5, 500.0, 500.0):  # a disk that stalls
        now += away
        workers._watch({1: (host, None)}, SimpleNamespace(passed=print, finished=print, fault=print))
    assert not host.killed
    for _ in range(20):
        now += 0.5
        workers._watch({1: (host, None)}, SimpleNamespace(passed=print, finished=print, fault=print))
    assert host.killed and host.why == "its worker did nothing for 10 s"


@pytest.mark.parametrize(
    ("there", "count", "cores"),
    [([2], 2, 1), ([8], 2, 4), ([8, 4], 2, 4), ([8, 4], 3, 4), ([8, 4], 4, 2), ([0, 1], 1, 1), ([1], 4, 1)],
)
def test_workers_have_cores_that_the_nodes_can_give(there, count, cores):
    assert module._cores(there, count) == cores


@pytest.mark.parametrize(
    ("left", "workers", "sizes"),
    [
        (300, 1, [256, 44]),  # as ever in one process
        (100, 2, [25, 18, 16, 16, 16, 9]),
        (1256, 2, [256, 250, 187, 140, 105, 79, 59, 45, 33, 25, 19, 16, 16, 16, 10]),
        (20, 8, [2] * 10),
        (3, 8, [1, 1, 1]),
        (0, 4, []),
    ],
)
def test_all_workers_have_work_until_the_end(left, workers, sizes):
    shards = list(runner.cut(list(range(left)), 256, workers))
    assert [len(shard) for shard in shards] == sizes
    assert [place for shard in shards for place in shard] == list(range(left))


@pytest.mark.slow
def test_without_a_batch_size_both_have_work(cluster, digits):
    plan = {"attack": ["sparse_pgd"], "steps": 3}
    model, data = digits
    shards = []
    with Workers(2) as two:
        map_ = two.map
        two.map = lambda work, todo, listener: map_(
            work, (shards.append(len(s)) or s for s in todo), listener
        )
        found = zn.evaluate(model, data, zn.L0(1), **plan, workers=two)
    one = zn.evaluate(model, data, zn.L0(1), **plan)
    key = operator.itemgetter("example", "stage", "outcome")
    assert list(map(key, rows_of(found))) == list(map(key, rows_of(one)))
    assert shards[:2] == [29, 22] and len(shards) > 6  # of 117 that are right as they are, in two stages


def test_halves_are_the_whole():
    x, y, ids = torch.rand(5, 1, 2, 2), torch.arange(5), torch.arange(5) + 7
    examples = zn.data.Dataset(x, y, ids, "given", "given", (), tuple("abcde"))
    whole = AttackShard([3, 4, 8, 9, 11], examples, torch.rand(5, 1, 2, 2), [True, False, False, True, False])
    first, second = whole.halves()
    assert first.places + second.places == whole.places and first.written + second.written == whole.written
    assert torch.equal(torch.cat([first.start, second.start]), whole.start)
    assert torch.equal(torch.cat([first.examples.ids, second.examples.ids]), examples.ids)
    assert [*first.examples.names, *second.examples.names] == list("abcde")
    assert (len(first), len(second)) == (2, 3)


class TestRefusals:
    def test_other_versions(self, cluster, digits, monkeypatch):
        monkeypatch.setattr(module, "_versions", lambda: {"zeronorm": "9.9"})
        with (
            Workers(1) as one,
            pytest.raises(
                ArgumentError, match=r"workers: expected the versions that are here \(zeronorm 9.9\), got"
            ),
        ):
            one.load(digits[0], CPU)

    @pytest.mark.parametrize(
        ("address", "why"),
        [
            ("127.0.0.1:1", "connection refused"),
            ("nowhere.invalid:6379", "name or service|name resolution|nodename"),
        ],
    )
    def test_a_cluster_that_cannot_be_reached(self, monkeypatch, address, why):
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(ArgumentError, match=f"ray: no cluster can be reached at {address}: .*({why})"):
            Workers(1, address).__enter__()

    @pytest.mark.parametrize("address", ["", "ray://host:10001", "host", "host:port", "a b:1"])
    def test_what_is_no_address(self, address):
        with pytest.raises(ArgumentError, match=f"ray: expected auto or HOST:PORT, got '{address}'"):
            Workers(1, address)

    def test_something_that_listens_and_is_no_cluster(self, monkeypatch):
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(module, "_ANSWER_SECONDS", 3.0)
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(ArgumentError, match=f"reached at {address}: .* not answered as a cluster"):
                Workers(1, address).__enter__()

    @pytest.mark.parametrize(
        ("fails", "says"),
        [
            (
                "from ray._private.utils import check_version_info as check; "
                "check({'ray_version': '2.0.0', 'python_version': '3.8.1'}, 'here')",
                r"ray: auto: Version mismatch: .* Ray: 2.0.0 Python: 3.8.1 ",
            ),
            ("raise OSError('RPC error: InvalidAuthToken')", r"at auto: it asks for a token: set RAY_AUTH"),
            ("raise OSError('no such thing')", r"reached at auto: OSError: no such thing$"),
        ],
    )
    def test_a_cluster_that_refuses(self, monkeypatch, fails, says):
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(module, "_PROBE", fails)
        with pytest.raises(ArgumentError, match=says) as said:
            Workers(1, "auto").__enter__()
        assert "\n" not in str(said.value)

    def test_more_gpus_than_there_are(self, cluster, digits):
        with Workers(3) as three, pytest.raises(ArgumentError, match="workers: expected at most 0, the GPUs"):
            three.load(digits[0], torch.device("cuda"))

    def test_more_than_there_are_cores(self, monkeypatch):
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(
            ArgumentError, match=r"workers: expected at most \d+, the cores of this machine, got 999"
        ):
            Workers(999).__enter__()

    def test_a_model_that_cannot_travel(self, cluster, digits):
        import threading

        model = torch.nn.Linear(64, 10).eval()
        model.lock = threading.Lock()
        with Workers(1) as one, pytest.raises(ArgumentError, match="model: expected one that can be sent"):
            one.load(model, CPU)

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda: Workers(0), "workers: expected an integer of at least 1, got 0"),
            (lambda: Workers(1, patience=0.0), "patience: expected a number"),
            (lambda: Workers(1, "auto").__enter__(), "ray: expected no address where Ray is running"),
        ],
    )
    def test_arguments(self, cluster, make, says):
        with pytest.raises(ArgumentError, match=says):
            make()

    def test_without_ray(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(
            ArgumentError, match=r"workers: expected Ray to be installed; pip install 'zeronorm\[ray\]'"
        ):
            Workers(2).__enter__()
