"""The house of `docs/design.md`: which files there are, in which order they stand, and what each room may import."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "quantize"
DESIGN = (ROOT / "docs/design.md").read_text()

Module = tuple[str, ...]


def drawn() -> list[Module]:
    """The files in the tree of the page, in its order."""
    tree = DESIGN.split("```text\nquantize/\n")[1].split("```")[0]
    above: list[str] = []
    found = []
    for line in tree.splitlines():
        match = re.match(r"([│ ]   )*[├└]── (\w+)(\.py|/)", line)
        assert match is not None, line
        above[(match.end() - len(match[2]) - len(match[3])) // 4 - 1 :] = [match[2]]
        if match[3] == ".py":
            found.append(tuple(above))
    return found


def allowed() -> dict[str, set[str]]:
    """What each room may import, by the table of the page."""
    table = DESIGN.split("| room | may import |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| *(.*?) *\|$", table, re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", others)) for room, others in rows}


FILES = drawn()
MAY = allowed()


def imported(module: Module) -> list[Module]:
    """The modules of the package that one imports, anywhere in it; but `__version__`, which anybody may."""
    package = module[:-1]
    found: list[Module] = []
    for node in ast.walk(ast.parse(PACKAGE.joinpath(*module).with_suffix(".py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split(".")))
            for alias in node.names:
                inner = (*base, alias.name)
                found.append(inner if PACKAGE.joinpath(*inner).with_suffix(".py").exists() else base)
                if inner == ("__version__",):
                    found.pop()
    return found


def test_all_files_are_drawn() -> None:
    there = {path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    assert set(FILES) == {module for module in there if module[-1] != "__init__" or len(module) == 1}
    assert len(FILES) == len(set(FILES))
    assert {module[0] for module in FILES} == {*MAY, "__init__"}


@pytest.mark.parametrize("module", [module for module in FILES if module[0] != "__init__"], ids="/".join)
def test_a_file_imports_what_stands_above_it_in_rooms_that_its_own_may_use(module: Module) -> None:
    room = module[0]
    above = {*FILES[: FILES.index(module)]}
    for target in imported(module):
        assert target in above or (PACKAGE.joinpath(*target) / "__init__.py").exists(), target
        assert room == "cli" or target[0] in {room, *MAY[room]}, target


@pytest.mark.parametrize("room", sorted(PACKAGE.rglob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_folder_says_what_lives_there(room: Path) -> None:
    tree = ast.parse(room.read_text())
    assert len((ast.get_docstring(tree) or "").split(".")) > 2
    if room.parent.name not in ("cli", "io"):
        assert len(tree.body) == 1, "a room imports nothing by itself"
