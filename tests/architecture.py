"""The order of rooms, and how to hold code against it: who imports whom is read from the source, nothing is run.

``ORDER`` is the map of docs/architecture.md. Each room may import what stands to the right of it; ``|`` stands between
neighbours, which must not know each other. A room is a folder of the package, or a file that lies flat in it.
"""

import ast
import re
from pathlib import Path

import networkx as nx

ORDER = """
__main__ > bench > __init__ > backend | compat | criteria | rules | memory > api > running | pruning
  > training | passes | reports > masking | compacting > analysis
  > channels | tracing | models > compiled > operators > errors
"""

PACKAGE = "upscale_fx"
#: Most lines of a file, and of a function beside its docstring; most modules of a folder.
MOST_LINES, MOST_LINES_OF_FUNCTION, MOST_MODULES = 300, 60, 25


def floors(order=ORDER):
    """By room its floor, 0 at the top."""
    return {room.strip(): floor for floor, names in enumerate(order.split(">")) for room in names.split("|")}


def sources(root):
    """By dotted name the file of every module of a package, those behind links included."""
    files = {}
    folders = [root]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if path.is_dir() and path.name != "__pycache__":
                folders.append(path)
            elif path.suffix == ".py":
                parts = path.relative_to(root.parent).with_suffix("").parts
                files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports(files):
    """By module, which modules it imports: at the top, in functions and under TYPE_CHECKING."""
    found = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                targets = {f"{base}.{alias.name}" for alias in node.names}
                found[name] |= {target if target in files else base for target in targets}
        found[name] = {target for target in found[name] if target in files and target != name}
    return found


def room_of(module):
    """The room of a module."""
    return (*module.split("."), "__init__")[1]


def misplaced(files, order=ORDER):
    """What stands against the order, a line each: unknown rooms, rooms that are not there, imports up or sideways."""
    floor, there = floors(order), {room_of(name) for name in files}
    problems = [f"{room} is missing in the table" for room in sorted(there - floor.keys())]
    problems += [f"{room} is in the table only" for room in sorted(floor.keys() - there)]
    for name, targets in imports(files).items():
        for target in sorted(targets):
            here, other = room_of(name), room_of(target)
            if here != other and here in floor and other in floor and floor[other] <= floor[here]:
                problems.append(f"{name} imports {target}: {here} stands below {other}, or beside it")
    return problems


def circles(files):
    """Modules that import each other in a circle."""
    graph = nx.DiGraph([(name, target) for name, targets in imports(files).items() for target in targets])
    return [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1]


def too_large(files):
    """Files, functions and folders that hold more than one thing, by their size."""
    problems = []
    for path in files.values():
        text = path.read_text()
        if text.count("\n") > MOST_LINES:
            problems.append(f"{path}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := _lines(node)) > (
                MOST_LINES_OF_FUNCTION
            ):
                problems.append(f"{path}: {node.name} has {lines} lines")
    for folder in {path.parent for path in files.values()}:
        if (count := len(list(folder.glob("*.py")))) > MOST_MODULES:
            problems.append(f"{folder}: {count} modules")
    return problems


def _lines(function):
    """Lines of a function beside its docstring."""
    total = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    return total - (function.body[0].end_lineno - function.body[0].lineno + 1)


def names_in_strings(path):
    """Dotted names of the package in strings, docstrings included, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for name in re.findall(rf"(?<![\w./-]){PACKAGE}(?:\.[A-Za-z_]\w*)+", node.value):
                yield node.lineno, name


def root():
    """The folder of the package."""
    return Path(__file__).parents[1] / PACKAGE
