"""How sharp the tests are: small faults are put into the code, one at a time, and the tests have to find each.

A fault is looked for by the tests of its room and of those that use it, the quick ones first and then the slow ones.

python tests/mutants.py --count 60 --seed 0 kernels jaxnets

Prints each fault as found or SURVIVED, and the share that was found; `--count 0` tries every fault of the files or
folders named. Exit code 1 where fewer than 95 % were found. The few faults of `HARMLESS`, which change no result, are
left out; so are, unless they are named, drawings, where a number is a matter of taste, and code that only measures.
"""

import argparse
import ast
import dataclasses
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
AIM = 0.95
LEFT_OUT = ("jaxnets/figures/", "jaxnets/data/faces.py", "kernels/conv2d/measure.py", "kernels/margin_softmax/aot.py")
TIMEOUT = 900  # seconds; a mutant that hangs is found
COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*"}
# Faults that give the same results: path, a part of the line, what is changed in it. They are not drawn.
HARMLESS = (
    # One more barrier, on which nothing waits.
    ("kernels/margin_softmax/mosaic_gpu.py", '"vector_here": plgpu.Barrier(num_barriers=2)', "2"),
    ("kernels/margin_softmax/mosaic_gpu.py", '"turn": plgpu.Barrier(num_barriers=2)', "2"),
    # A kernel ends without waits that JAX 0.11's interpreter alone demands.
    ("kernels/margin_softmax/mosaic_gpu.py", "range(max(0, total - self.stages), total)", "total - self.stages"),
    # It waits longer.
    ("kernels/margin_softmax/hopper_compute.py", "wait_read_only=True", "True"),
)
TWINS = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    path: Path  # relative to the root
    line: int
    before: str
    after: str
    source: str  # of the whole file, with the fault


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every fault of these kinds that a file can have; annotations, docstrings and messages are left alone."""
    text = (ROOT / path).read_text()
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    encoded = text.encode()

    def replaced(first: ast.AST, last: ast.AST, new: str) -> Mutant:
        begin = starts[first.lineno - 1] + first.col_offset
        end = starts[last.end_lineno - 1] + last.end_col_offset
        source = (encoded[:begin] + new.encode() + encoded[end:]).decode()
        return Mutant(path, first.lineno, encoded[begin:end].decode(), new, source)

    for node in _code(ast.parse(text)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left, right = (ast.get_source_segment(text, part) for part in (node.left, node.comparators[0]))
            yield replaced(node, node, f"({left} {COMPARISONS[type(node.ops[0])]} {right})")
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            left, right = (ast.get_source_segment(text, part) for part in (node.left, node.right))
            yield replaced(node, node, f"(({left}) {OPERATORS[type(node.op)]} ({right}))")
        elif isinstance(node, ast.BoolOp):
            other = " or " if isinstance(node.op, ast.And) else " and "
            yield replaced(node, node, f"({other.join(ast.get_source_segment(text, v) or '' for v in node.values)})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield replaced(node, node, f"({ast.get_source_segment(text, node.operand)})")
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield replaced(node, node, repr(node.value + 1 if isinstance(node.value, int) else node.value * 1.5 + 1e-3))
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            yield replaced(node, node, repr(not node.value))
        elif isinstance(node, ast.Name) and node.id in TWINS:
            yield replaced(node, node, TWINS[node.id])
        elif isinstance(node, ast.Attribute) and node.attr in TWINS:
            yield replaced(node, node, f"({ast.get_source_segment(text, node.value)}).{TWINS[node.attr]}")


def _is_harmless(mutant: Mutant) -> bool:
    line = (ROOT / mutant.path).read_text().splitlines()[mutant.line - 1]
    return any((str(mutant.path), mutant.before) == (path, part) and text in line for path, text, part in HARMLESS)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of annotations, messages of exceptions, strings and what only a type checker reads."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
        return
    yield node
    skipped = {"annotation", "returns", "type_comment", "type_params"}
    for field, value in ast.iter_fields(node):
        if field not in skipped:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _code(child)


def tests_of(path: Path) -> list[str]:
    """The tests of a file: of its name, of its room, and of the files that use it, or of the rooms of these."""
    found = [*_named(path), *_of_room(path)]
    for user in _users_of(path):
        found += _named(user) or _of_room(user)
    found = found or sorted((ROOT / "tests" / path.parts[0]).glob("test_*.py"))
    return [str(test.relative_to(ROOT)) for test in dict.fromkeys(found)]


def _named(path: Path) -> list[Path]:
    return sorted((ROOT / "tests").rglob(f"test_*{path.stem}*.py"))


def _of_room(path: Path) -> list[Path]:
    """The mirrored folder and files."""
    wing, room = path.parts[0], Path(path.parts[1]).stem
    folder = ROOT / "tests" / wing
    return sorted(folder.glob(f"test_*{room.rstrip('s')}*.py")) + [folder / room] * (folder / room).is_dir()


def _users_of(path: Path) -> list[Path]:
    """The files that import this one, or of its package something that it defines."""
    nodes = ast.parse((ROOT / path).read_text()).body
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    module, package = ".".join(path.with_suffix("").parts), ".".join(path.parent.parts)
    users = set()
    for file in {file for wing in ("kernels", "jaxnets") for file in _files(wing)}:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.ImportFrom) and (
                node.module == module
                or (node.module == package and {alias.name for alias in node.names} & {path.stem, *defined})
            ):
                users.add(file)
    return sorted(user for user in users if user.stem != "__init__")


def is_found(mutant: Mutant, tree: Path) -> bool:
    """Whether a test fails in a copy of the project that has the fault."""
    file, tests = tree / mutant.path, tests_of(mutant.path)
    file.write_text(mutant.source)
    try:
        return _fails(tree, tests) or _fails(tree, ["--all", "-m", "slow", *tests])
    except subprocess.TimeoutExpired:
        return True
    finally:
        shutil.copy(ROOT / mutant.path, file)


def _fails(tree: Path, arguments: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:randomly", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=TIMEOUT)
    if ended.returncode not in (0, 1, 2, 5):  # 5: there are no slow ones
        raise RuntimeError(f"pytest ended with {ended.returncode}: {ended.stdout.decode()[-500:]}")
    return ended.returncode in (1, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description="Faults that the tests let pass.")
    parser.add_argument("paths", nargs="*", default=["kernels", "jaxnets"], help="files and folders")
    parser.add_argument("--count", type=int, default=60, help="how many to try, drawn at random; 0 for every one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    files = sorted({file for path in options.paths for file in _files(path)})
    mutants = [mutant for file in files for mutant in mutants_of(file) if not _is_harmless(mutant)]
    chosen = random.Random(options.seed).sample(mutants, min(options.count or len(mutants), len(mutants)))
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(options.workers) as pool:
        trees = [Path(work) / str(number) for number in range(options.workers)]
        for tree in trees:
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", "runs*", "__pycache__"))
        shares = [pool.submit(_try, chosen[number :: len(trees)], tree) for number, tree in enumerate(trees)]
        survivors = [mutant for share in shares for mutant in share.result()]
    found = len(chosen) - len(survivors)
    print(f"found {found} of {len(chosen)} faults ({found / len(chosen):.1%}), of {len(mutants)} there could be")
    return 0 if found >= AIM * len(chosen) else 1


def _files(path: str) -> Iterator[Path]:
    """The file itself, or the folder's files without those left out; relative to the root."""
    named = ROOT / path
    if named.is_file():
        yield named.relative_to(ROOT)
    for file in named.rglob("*.py"):
        if not str(file.relative_to(ROOT)).startswith(LEFT_OUT) or path.startswith(LEFT_OUT):
            yield file.relative_to(ROOT)


def _try(mutants: list[Mutant], tree: Path) -> list[Mutant]:
    survivors = []
    for mutant in mutants:
        found = is_found(mutant, tree)
        words = f"{mutant.path}:{mutant.line}: {mutant.before!r} -> {mutant.after!r}"
        print(f"{'found   ' if found else 'SURVIVED'} {words}", flush=True)
        if not found:
            survivors.append(mutant)
    return survivors


if __name__ == "__main__":
    sys.exit(main())
