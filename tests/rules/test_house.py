"""The rules of the house, as tests: sizes, cycles, the tree that the README draws."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    long = {n.name: n.end_lineno - n.lineno + 1 for n in functions if n.end_lineno - n.lineno >= MAX_FUNCTION_LINES}
    assert not long


@pytest.mark.parametrize("axis", ["data", "tensor", "pipeline"])
def test_an_axis_of_the_mesh_is_one_short_file(axis):
    assert len((ROOT / "src/preceptor/parallel" / f"{axis}.py").read_text(encoding="utf-8").splitlines()) < 250


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_names_say_what_a_file_is(path):
    assert path.stem not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_is_run_or_loaded_unsafely(path):
    """No pickle, no eval, no shell, and torch.load nowhere: safetensors and JSON only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not names & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec", "os.system", "os.popen", "torch.load"}
            assert not any(keyword.arg == "shell" for keyword in node.keywords)


def test_only_parallel_and_checkpoints_know_torch_distributed():
    allowed = {"src/preceptor/train/checkpoint.py"}
    for path in SOURCES:
        if relative(path) in allowed or "parallel" in path.parts:
            continue
        assert "torch.distributed" not in path.read_text(encoding="utf-8").replace(
            "The only home of torch.distributed", ""
        ), relative(path)


def imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of ours that a file imports when it is imported itself (not inside its functions)."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules.keys()


def test_there_are_no_import_cycles():
    modules = {
        ".".join(p.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES
    }
    graph = {name: imports(path, modules) - {name} for name, path in modules.items()}
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not graph


def test_dependencies_point_one_way():
    command = [Path(sys.executable).parent / "lint-imports", "--config", ROOT / "pyproject.toml"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_readme_draws_the_real_tree():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```\nsrc/preceptor/\n(.*?)```", readme, re.DOTALL)
    assert block, "README.md has no block that starts with src/preceptor/"
    drawn, folder = set(), ""
    for line in block.group(1).splitlines():
        entry = re.match(r"^(\s*[│├└─\s]*)([\w.]+/?)", line)
        assert entry, line
        name, depth = entry.group(2), len(entry.group(1))
        if name.endswith("/"):
            folder = name
        drawn.add(name if depth <= 4 else folder + name)
    root = ROOT / "src" / "preceptor"
    real = {p.relative_to(root).as_posix() for p in SOURCES if p.name != "__init__.py"}
    real |= {f"{p.name}/" for p in root.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert drawn == real, f"drawn only: {sorted(drawn - real)}; real only: {sorted(real - drawn)}"


def test_the_stages_before_training_start_without_torch():
    code = "import sys, preceptor.recipes.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
