"""How the modules of the project depend on each other."""

import ast
import graphlib

from conftest import ROOT

FOLDERS = ("makemore_jax", "benchmarks")
PROGRAMS = ("train.py", "sample.py")


def find_modules():
    """Return {module name: file}. A package has the name of its folder."""
    files = [ROOT / name for name in PROGRAMS]
    files += [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    modules = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def find_imports(name, modules):
    """Return the modules of the project that a module imports, also inside its functions.

    `from package import module` imports the module. Importing a module does not count as an import
    of its parent packages.
    """
    imported = set()
    for node in ast.walk(ast.parse(modules[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = members & modules.keys()
            imported |= submodules
            if submodules != members:
                imported.add(node.module)
    return imported & modules.keys()


def test_there_is_no_circular_import():
    modules = find_modules()
    graph = {name: find_imports(name, modules) for name in modules}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle = " imports ".join(reversed(error.args[1]))
        raise AssertionError(f"circular import: {cycle}") from None
