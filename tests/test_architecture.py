"""The tree is the architecture: who may import whom, and what stands where, read from the syntax trees."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("app", "pages", "views", "nnguide_core")  # each imports only those after it
FLOORS = (  # each imports only those before it, whatever modules lie between
    {"errors", "records", "settings", "files", "progress", "locks", "logs"},
    {"images", "archives", "search", "metrics"},
    {"datasets", "models", "scoring", "bank"},
    {"features", "detector", "baselines", "sweep", "projection", "store"},
    {"jobs", "evaluation"},
    {"cli"},
)
RUNS_CODE_FROM_FILES = {"_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch.package"}
UNPICKLES = {"load", "loads", "Unpickler", "_Unpickler"}
BETWEEN_OUR_OWN_PROCESSES = {"nnguide_core.workers", "nnguide_core.worker_process"}  # a socket pair, no file
HEAVY = (
    "torchvision",
    "pytorch_ood",
    "umap",
    "sklearn",
    "pandas",
    "streamlit",
    "numba",
    "plotly",
    "scipy",
    "timm",
    "pyarrow",
    "PIL",
)
COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3,4}){1,2}(?![0-9a-zA-Z_-])")


@cache
def modules() -> dict[str, ast.Module]:
    """The program's modules by their dotted names, tests and scripts left out."""
    files = [
        ROOT / "app.py",
        *(path for layer in LAYERS[1:] for path in sorted((ROOT / layer).rglob("*.py"))),
    ]
    return {name_of(path): ast.parse(path.read_bytes()) for path in files if path.exists()}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(name: str) -> frozenset[str]:
    """What a module imports, at its top or inside functions: our modules whole, others by their names.

    Importing a module of another package imports that package first.
    """
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & modules().keys()) or {str(node.module)}
    packages = {".".join(other.split(".")[:2]) for other in found & modules().keys()}
    return frozenset(found | (packages - {part_of(name)}))


@cache
def reached(name: str) -> frozenset[str]:
    """Our modules that a module imports, directly or through others; itself when it is in a circle."""
    seen: set[str] = set()
    waiting = list(imports(name))
    while waiting:
        if (each := waiting.pop()) in modules() and each not in seen:
            seen.add(each)
            waiting += imports(each)
    return frozenset(seen)


def part_of(name: str) -> str:
    """The core's module or package that a module belongs to, such as nnguide_core.store; others whole."""
    return ".".join(name.split(".")[:2])


def top(name: str) -> str:
    return name.partition(".")[0]


def nodes(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[str, ast.AST]]:
    for name, tree in modules().items():
        yield from ((name, node) for node in ast.walk(tree) if isinstance(node, kind))


def test_the_walk_sees_the_program():
    assert {"nnguide_core.store", "nnguide_core.demo", "views.state", "app"} <= modules().keys()
    assert "nnguide_core.store" in imports("nnguide_core.jobs")
    assert "nnguide_core.errors" in reached("nnguide_core.cli")
    assert "torch" in imports("nnguide_core.scoring")


def test_imports_point_down_from_app_to_pages_to_views_to_the_core():
    order = {layer: place for place, layer in enumerate(LAYERS)}
    upward = [
        f"{name} imports {other}"
        for name in modules()
        for other in imports(name)
        if top(other) in order and order[top(other)] < order[top(name)]
    ]
    assert upward == []


def test_pages_do_not_import_each_other_and_nothing_imports_them():
    assert [
        f"{name} imports {other}" for name in modules() for other in imports(name) if top(other) == "pages"
    ] == []


def test_the_core_knows_no_screen():
    screens = ("streamlit", "plotly")
    core = [name for name in modules() if top(name) == "nnguide_core"]
    assert [(name, other) for name in core for other in imports(name) if top(other) in screens] == []


def test_what_draws_figures_does_not_show_them():
    drawing = [name for name in modules() if "plotly" in {top(other) for other in imports(name)}]
    assert [name for name in drawing if "streamlit" in {top(other) for other in imports(name)}] == []


def test_no_module_imports_itself_through_others():
    assert [name for name in modules() if name in reached(name)] == []


def test_no_package_imports_itself_through_others():
    parts: dict[str, set[str]] = {}
    for name in modules():
        if top(name) == "nnguide_core" and name != "nnguide_core":
            inside = {part_of(other) for other in imports(name) if other.startswith("nnguide_core.")}
            parts.setdefault(part_of(name), set()).update(inside - {part_of(name)})
    order = TopologicalSorter(parts)
    order.prepare()  # raises CycleError, which names the circle
    assert "nnguide_core.errors" in order.get_ready()


@pytest.mark.parametrize("floor", range(len(FLOORS) - 1))
def test_the_core_imports_only_its_lower_floors(floor):
    above = set().union(*FLOORS[floor + 1 :])
    upward = [
        f"{name} reaches {other}"
        for name in modules()
        if name.split(".")[1:2] and top(name) == "nnguide_core" and name.split(".")[1] in FLOORS[floor]
        for other in reached(name)
        if other.count(".") and other.split(".")[1] in above
    ]
    assert upward == []


def attributes_of_streamlit(*names: str) -> set[str]:
    """The modules that use one of these names of Streamlit, as an attribute or imported alone."""
    used = {name for name, node in nodes(ast.Attribute) if getattr(node, "attr", "") in names}
    alone = {
        name
        for name, node in nodes(ast.ImportFrom)
        if isinstance(node, ast.ImportFrom)
        and str(node.module).startswith("streamlit")
        and {alias.name for alias in node.names} & set(names)
    }
    return used | alone


def test_only_views_state_touches_the_session():
    assert attributes_of_streamlit("session_state") <= {"views.state"}


def test_only_views_resources_caches_and_nothing_is_cached_on_disk():
    assert attributes_of_streamlit("cache_data", "cache_resource") <= {"views.resources"}
    persisting = [name for name, node in nodes(ast.keyword) if getattr(node, "arg", "") == "persist"]
    assert persisting == []


def test_colours_stand_in_views_theme_alone():
    in_python = {
        (name, node.value)
        for name, node in nodes(ast.Constant)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and COLOUR.search(node.value)
    }
    assert {(name, value) for name, value in in_python if name != "views.theme"} == set()
    scripts = [path for path in (ROOT / "views").rglob("*") if path.suffix in (".js", ".css", ".html")]
    assert [path.name for path in scripts if COLOUR.search(path.read_text("utf-8"))] == []


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def keyword(node: ast.Call, name: str) -> object:
    return next((ast.unparse(word.value) for word in node.keywords if word.arg == name), None)


def test_no_image_is_decoded_by_torchvision_and_no_array_is_mapped_from_a_file():
    for name, tree in modules().items():
        used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | imports(
            name
        )
        assert not {each for each in used if "torchvision.io" in each or "memmap" in each}, name
        assert "mmap" not in imports(name), name


def test_nothing_that_runs_code_from_a_file_is_imported():
    for name in modules():
        assert not imports(name) & RUNS_CODE_FROM_FILES, name
        assert not {other.partition(".")[0] for other in imports(name)} & RUNS_CODE_FROM_FILES, name


def test_only_what_our_own_processes_send_each_other_is_unpickled():
    used = {
        name
        for name, node in nodes(ast.Attribute)
        if re.fullmatch(rf"pickle\.({'|'.join(UNPICKLES)})", ast.unparse(node))
    }
    alone = {
        name
        for name, node in nodes(ast.ImportFrom)
        if isinstance(node, ast.ImportFrom)
        and node.module == "pickle"
        and {alias.name for alias in node.names} & UNPICKLES
    }
    assert used | alone <= BETWEEN_OUR_OWN_PROCESSES


def test_nothing_that_runs_code_from_a_file_is_called():
    calls = [(name, node) for name, node in nodes(ast.Call) if isinstance(node, ast.Call)]
    for name, node in calls:
        words = f"{name}, line {node.lineno}: {called(node)}"
        assert called(node) not in ("torch.jit.load", "torch.export.load", "eval", "exec"), words
        assert not called(node).endswith(("read_pickle", "to_pickle", "load_state_dict_from_url")), words
        if called(node) == "torch.load":
            assert keyword(node, "weights_only") == "True", words
        assert keyword(node, "allow_pickle") in (None, "False"), words


def test_importing_all_that_the_core_offers_loads_torch_at_most_and_leaves_the_environment_alone():
    script = (
        "import os, sys; before = dict(os.environ); from nnguide_core import *; assert NNGuide; "
        f"print(*sorted(set({HEAVY!r}) & sys.modules.keys()), *(os.environ.items() ^ before.items()))"
    )
    plain = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True, env=plain
    )
    assert done.stdout.split() == []


def test_every_module_says_in_a_sentence_what_it_holds():
    silent = [
        name
        for name, tree in modules().items()
        if not re.match(r"[^\n]*[.:?!]", ast.get_docstring(tree) or "")
    ]
    assert silent == []


def test_every_module_lists_what_is_public_and_has_it():
    scripts = {"app", "nnguide_core.__main__"} | {name for name in modules() if top(name) == "pages"}
    for name, tree in modules().items():
        if name in scripts or not tree.body[1:]:
            continue
        listed = [
            node
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        assert len(listed) == 1, f"{name} has no __all__"
        missing = set(ast.literal_eval(listed[0].value)) - set(bound(tree))
        assert not missing, f"{name} lists {missing} and has no such thing"


def bound(tree: ast.Module) -> Iterator[str]:
    """The names that a module binds at its top level."""
    for node in tree.body:
        if isinstance(node, ast.If):
            yield from bound(ast.Module(node.body, []))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (
                name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
            )


def test_functions_are_paragraphs():
    long = [
        f"{name}.{node.name} has {_code_lines(node)} lines"
        for name, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _code_lines(node) > 50
    ]
    assert long == []


def _code_lines(node):
    """Count a function's lines without its docstring."""
    described = ast.get_docstring(node) is not None
    docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if described else 0
    return node.end_lineno - node.lineno + 1 - docstring


def test_files_are_short_enough_to_be_read():
    files = [path for layer in LAYERS[1:] for path in (ROOT / layer).rglob("*.py")]
    assert [path.name for path in files if len(path.read_text("utf-8").splitlines()) > 400] == []
