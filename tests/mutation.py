"""How much the tests of a module would notice: one small change at a time, the tests after each.

    python tests/mutation.py wallet/escrow.py tests/escrow/test_table.py

In a copy of the tree, and not in CI: it takes as many runs of the tests as there are changes. What survives is printed;
the figures are kept in docs/testing.md. Docstrings, annotations and
decorators are left alone.
"""

import ast
import copy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS_MAX = 300
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "node_modules", "__pycache__", ".*_cache", "docs")
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What can be changed at one place, and what stands there then."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield "another comparison", ast.Compare(node.left, [SWAPS[type(op)]()], node.comparators)
        case ast.BinOp(op=op) if type(op) in SWAPS:
            yield "another operator", ast.BinOp(node.left, SWAPS[type(op)](), node.right)
        case ast.BoolOp(op=op):
            yield "another connective", ast.BoolOp(SWAPS[type(op)](), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield "no `not`", node.operand
        case ast.Constant(value=bool() as value):
            yield "the other truth", ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield "one more", ast.Constant(value + 1)
        case ast.Constant(value=str() as value):
            yield "another text", ast.Constant(value + "XX")
        case ast.IfExp() | ast.If() | ast.While() if not isinstance(node.test, ast.Constant):
            other = copy.copy(node)
            other.test = ast.UnaryOp(ast.Not(), node.test)
            yield "the condition reversed", other
        case ast.match_case(guard=ast.expr()):
            yield "no guard", ast.match_case(node.pattern, None, node.body)
        case ast.MatchOr(patterns=patterns):
            for left_out in patterns:
                rest = [pattern for pattern in patterns if pattern is not left_out]
                yield "one pattern less", rest[0] if len(rest) == 1 else ast.MatchOr(rest)
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield "None returned", ast.Return(ast.Constant(None))
        case ast.Expr() | ast.Assign() | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield "the statement dropped", ast.Pass()


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Each node with its parent, the field and the index that it has there."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
                inside = isinstance(parent, ast.Expr) and isinstance(child, ast.Constant)
                if isinstance(child, ast.AST) and not is_docstring and not inside:
                    yield parent, name, index, child


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Each changed module, and what was changed where."""
    tree = ast.parse(source)
    left_alone = {
        id(inner) for node in ast.walk(tree) for outer in _no_code(node) for inner in ast.walk(outer)
    }
    for parent, name, index, child in list(places(tree)):
        if id(child) in left_alone:
            continue
        for what, other in changes(child):
            where = getattr(child, "lineno", None) or getattr(parent, "lineno", 0)
            _put(parent, name, index, other)
            yield (
                ast.unparse(ast.fix_missing_locations(tree)),
                f"line {where}: {what}: {ast.unparse(child)[:80]}",
            )
            _put(parent, name, index, child)


def _no_code(node: ast.AST) -> list[ast.AST]:
    types = [getattr(node, name, None) for name in ("annotation", "returns")]
    return [found for found in (*types, *getattr(node, "decorator_list", ())) if found is not None]


def _put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def main() -> None:
    """Change, test, tell."""
    module, tests = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copied = Path(folder) / "tree"
        shutil.copytree(ROOT, copied, ignore=LEFT_OUT)
        if not passes(copied, tests):
            sys.exit("the tests fail with nothing changed")
        found = list(mutants((ROOT / module).read_text(encoding="utf-8")))
        survivors = []
        for number, (source, what) in enumerate(found, start=1):
            (copied / module).write_text(source, encoding="utf-8")
            if passes(copied, tests):
                survivors.append(what)
                print(f"survived {what}", flush=True)
            if number % 50 == 0:
                print(f"{number} of {len(found)}", flush=True)
    killed = len(found) - len(survivors)
    print(f"{module}: {killed} of {len(found)} killed, {100 * killed / len(found):.0f} %")


def passes(folder: Path, tests: list[str]) -> bool:
    """Whether the tests notice nothing; a run without end is noticed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, timeout=SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0


if __name__ == "__main__":
    main()
