"""The package as a whole: what it offers, what imports what, and what stays unimported."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import warnings
from collections import defaultdict
from pathlib import Path

import pytest

import zeronorm

ROOT = Path(zeronorm.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# who may import whom, besides the root vocabulary; nothing imports `cli`
ARROWS = {
    "kernels": set(),
    "data": set(),
    "layers": {"kernels"},
    "models": {"layers", "kernels"},
    "defenses": {"layers", "models", "kernels", "certification"},  # a smoothed classifier certifies itself
    "attacks": {"kernels"},
    "certification": {"layers", "models", "kernels", "metrics"},
    "theory": set(),
    "metrics": set(),
    "records": {"metrics"},
    "report": {"records"},
    "training": {
        "data", "models", "defenses", "attacks", "certification", "records", "report",
    },
    "evaluation": {
        "data", "models", "defenses", "attacks", "certification", "theory", "metrics", "records", "report",
    },
    "integrations": {"data", "models", "attacks", "evaluation", "records"},
}  # fmt: skip
ROOMS = {path.parent.name for path in ROOT.glob("*/__init__.py")}
HEAVY = {"torch", "lightning_fabric", "sklearn", "scipy", "huggingface_hub", "datasets"}
HEAVY |= {"art", "foolbox", "mlflow", "onnxruntime", "ray", "timm", "transformers"}


def room(module: str) -> str:
    """The room of a dotted name; "" for the root vocabulary."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def imports(path: Path) -> set[str]:
    """Modules that a file imports, dotted and in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            # `from zeronorm import data` imports a room
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def of_zeronorm(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "zeronorm"}


def own(path: Path) -> str:
    return room(".".join(["zeronorm", *path.relative_to(ROOT).parts]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path):
    if path == ROOT / "__init__.py":
        return  # names every room, and imports none before it is asked
    mine = own(path)
    rooms = {room(name) for name in of_zeronorm(path)} - {"", mine}
    if mine == "cli" or path.name == "__main__.py":
        return  # the outermost
    assert "cli" not in rooms, "nothing imports cli"
    allowed = ARROWS[mine] if mine else {"kernels"}
    assert rooms <= allowed, f"{mine or 'the root'} may import {sorted(allowed)} only"


def test_every_room_has_its_arrows():
    assert ROOMS - {"cli"} <= set(ARROWS)
    assert not {path.stem for path in FILES} & {"utils", "util", "core", "base", "common", "misc", "helpers"}


def test_no_circle_of_files():
    """Imports made late or for types alone count too."""
    names = {path: ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES}
    files = {name.removesuffix(".__init__"): path for path, name in names.items()}
    arrows = {
        name.removesuffix(".__init__"): sorted(
            # `from zeronorm.room import file`, within that room, is about the file
            other
            for other in of_zeronorm(path) & set(files)
            if not f"{name}.".startswith(f"{other}.")
        )
        for path, name in names.items()
        if path != ROOT / "__init__.py"
    }
    done, path = set(), []

    def follow(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in arrows.get(name, ()):
                follow(other)
            done.add(path.pop())

    for name in sorted(arrows):
        follow(name)


@pytest.mark.parametrize("name", ["records", "report", "metrics"])
def test_rooms_without_torch(name):
    for path in (ROOT / name).rglob("*.py"):
        assert not {module.split(".")[0] for module in imports(path)} & {"torch", "jaxtyping"}, path


def loaded(code: str) -> set[str]:
    """Which heavy libraries a fresh Python has imported after this code."""
    script = f"import sys\n{code}\nprint('loaded:', *{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:]) & HEAVY


def command(*words: str) -> str:
    return f"from zeronorm.cli.main import run\nassert run({list(words)}) in (0, 2)"


EVERY_HELP = """
from zeronorm.cli.main import app, run
for command in app.registered_commands:
    assert run([command.name or command.callback.__name__, "--help"]) == 0
"""


@pytest.mark.parametrize(
    "code",
    [
        "import zeronorm",
        "import zeronorm; dir(zeronorm), zeronorm.__version__, zeronorm.ArgumentError",
        "import zeronorm.report, zeronorm.metrics",
        "from zeronorm.records.folders import RunFolder",
        command("--help"),
        command("--version"),
        command(),
        "import zeronorm.integrations; dir(zeronorm.integrations)",
        EVERY_HELP,
        command("evaluate", "--bogus"),
        command("evaluate", "--k", "x"),
        command("compare", "--k", "x"),
        command("compare", "--attack", "a,a"),
        command("verify", "/nowhere"),
    ],
)
def test_nothing_heavy_before_it_is_needed(code):
    assert loaded(code) == set()


def test_the_report_is_made_without_torch(tmp_path):
    import zeronorm as zn

    x = zn.data.load("digits", "test", 5)
    zn.evaluate(zn.models.load("digits"), x, zn.L0(1), "sparse_rs", tmp_path / "run", queries=3)
    zn.compare(zn.models.load("digits"), x, zn.L0(1), "sparse_rs", tmp_path / "compared", queries=3)
    for folder in ("run", "compared"):
        code = command("report", str(tmp_path / folder), "--html", str(tmp_path / "page.html"))
        assert "torch" not in loaded(code)
        assert (tmp_path / "page.html").read_text() == (tmp_path / folder / "report.html").read_text()


# -- names -------------------------------------------------------------------------------------------------

ATTACKS = [
    "sparse_pgd", "sparse_rs", "sparse_autoattack", "corner_search", "pgd0", "saif", "sparse_fool",
    "pointwise", "jsma", "carlini_wagner_l0", "sigma_zero", "fmn_l0", "vfga", "fgsm", "randomized_fgsm",
    "iterative_fgsm", "momentum_fgsm", "pgd", "locally_linear", "deepfool", "carlini_wagner_l2",
]  # fmt: skip


def test_public_names():
    assert len(set(zeronorm.__all__)) == len(zeronorm.__all__)
    for name in zeronorm.__all__:
        assert getattr(zeronorm, name) is not None
    assert set(zeronorm.__all__) <= set(dir(zeronorm))
    with pytest.raises(AttributeError, match="module 'zeronorm' has no attribute 'nothing'"):
        zeronorm.nothing  # noqa: B018
    # the rooms a user enters; the others are named by what they hold
    assert ROOMS - {"cli", "evaluation", "integrations", "kernels"} <= set(zeronorm.__all__)


@pytest.mark.parametrize(
    "name",
    [
        "certify", "recertify", "verify_certificates", "Certification", "defenses.RandomizedAblation",
        "certification.ablation_radius", "certification.ABSTAIN", "certification.Certificate",
        "L0", "Linf", "L2", "evaluate", "compare", "verify", "verify_comparison", "Evaluation",
        "Comparison", "ArgumentError", "attacks.catalogue",
        "data.load", "data.Dataset", "data.available", "models.build", "models.load", "models.save",
        "integrations.AutoAttack", "models.BlackBox", "models.from_sklearn", "models.available", "training.train",
        "training.TrainingPlan", "report.render", "report.summarise", "metrics.robust_accuracy",
        "theory.minimal_changes", "theory.minimal_epsilon", "theory.gaussian_mixture", "theory.front_end_gain",
        "defenses.SparsifyingFrontEnd", "defenses.WaveletBasis", "metrics.support_overlap",
        "defenses.truncated_inner_product",
        "defenses.TruncatedLinear", "defenses.TruncatedConv2d", "defenses.truncate",
        "defenses.prune", "defenses.sparsity", "metrics.r_inf", "metrics.r_2", "metrics.clever_score",
        "theory.lipschitz", "theory.minimal_length", "attacks.deepfool", "attacks.carlini_wagner_l2",
        "certification.truncated_range", "certification.certify_truncated",
        "distances.l0_pixels", "distances.l0_features", "distances.l1",
        "distances.l2", "distances.linf",
    ],
)  # fmt: skip
def test_names_that_others_rely_on(name):
    found = zeronorm
    for part in name.split("."):
        found = getattr(found, part)
    assert found.__doc__ or name in ("attacks.catalogue", "certification.ABSTAIN")


# steps along the sign of the gradient: one method with settings, so one file
SIGNED_GRADIENT = {"fgsm", "randomized_fgsm", "iterative_fgsm", "momentum_fgsm", "pgd"}


def test_an_attack_is_one_function_in_a_file_of_its_name():
    assert set(ATTACKS) <= set(zeronorm.attacks.catalogue) <= set(zeronorm.attacks.__all__)
    for name, row in zeronorm.attacks.catalogue.items():
        attack = getattr(zeronorm.attacks, name)
        file = "signed_gradient" if name in SIGNED_GRADIENT else name
        assert attack.__module__ == f"zeronorm.attacks.{file}" and attack.__name__ == name
        assert row.function is attack


def test_no_class_name_has_two_meanings():
    """One word, one meaning: no two classes or named types of the package share a name."""
    meanings = defaultdict(set)
    for path in FILES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                meanings[node.name].add(str(path))
        for node in tree.body:  # a type by another name means what stands on its right side
            match node:
                case ast.Assign(targets=[ast.Name(name)], value=value) if re.match("_?[A-Z][a-z]", name):
                    meanings[name].add(ast.unparse(value))
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_imports_and_says_what_it_is(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    with warnings.catch_warnings():
        if own(path) == "integrations":
            warnings.simplefilter("ignore")  # of other libraries
        try:
            module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
            for name in getattr(module, "__all__", ()):
                assert hasattr(module, name), name
        except zeronorm.ArgumentError as error:
            pytest.skip(str(error))  # an extra that is not installed
    assert module.__doc__


def test_extras_that_messages_name_exist():
    extras = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for path in FILES:
        named |= set(re.findall(r"require\([^()]*?, \"(\w+)\"\)", path.read_text()))
        named |= set(re.findall(r"zeronorm\[(\w+)\]", path.read_text()))
    assert {"integrations", "vision", "onnx", "mlflow", "ray"} <= named <= set(extras)


def test_the_version_is_said_once():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == zeronorm.__version__
    assert (ROOT / "py.typed").exists()
