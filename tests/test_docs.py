"""Every snippet in the documentation is run, and every output that is shown is compared."""

import doctest
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from marks import slow

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
FRESH_CLONE = (
    'python3 -m venv .venv && . .venv/bin/activate && pip install -q ".[report]" && quantize demo\n',
    'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && .venv/bin/pytest -q -m "not slow"\n',
)
NOT_RUN = ("text", "json")

# The commands of the environment that runs the tests, whether or not it has them on its path.
SHELL = f"""set -euo pipefail
python() {{ {sys.executable!r} "$@"; }}
quantize() {{ python -m quantize.cli "$@"; }}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page where the text begins."""

    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    found = [
        Block(match[1], match[2], text.count("\n", 0, match.start(2)))
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found), "a fence is not closed, or is indented"
    return found


SLOW = ["README.md", "docs/out-of-core.md", "docs/climate.md", "docs/checkpoints.md", "docs/search.md"]


@pytest.mark.parametrize("page", [slow(page) if page in SLOW else page for page in PAGES])
def test_snippets(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        match block.language:
            case "python" if block.text.startswith(">>>"):
                run_session(block, page, namespace)
            case "python":
                exec(compile("\n" * block.line + block.text, page, "exec"), namespace)
            case "console":
                run_console(block, page)
            case "bash" if block.text not in FRESH_CLONE:
                shell(block.text, f"{page}:{block.line}")
            case "bash":
                assert page == "README.md"
            case language:
                assert language in NOT_RUN, f"{page}:{block.line}: nothing is known of {language!r} blocks"


def run_session(block: Block, page: str, namespace: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, namespace, page, page, block.line)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=said.append, clear_globs=False)
    assert not said, "".join(said)
    namespace.update(test.globs)


def run_console(block: Block, page: str) -> None:
    """Commands after ``$``, each with its output behind it."""
    first, *sessions = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not first, f"{page}:{block.line}: a console block begins with $"
    for session in sessions:
        command, expected = session.split("\n", 1)
        shown = shell(command, f"{page}:{block.line}")
        difference = doctest.OutputChecker().output_difference(
            doctest.Example(command, expected), shown, doctest.ELLIPSIS
        )
        assert doctest.OutputChecker().check_output(expected, shown, doctest.ELLIPSIS), f"{command}\n{difference}"


def shell(commands: str, where: str) -> str:
    done = subprocess.run(["bash", "-c", SHELL + commands], capture_output=True, text=True)
    assert done.returncode == 0, f"{where} gave {done.returncode}\n{textwrap.indent(done.stderr, '  ')}"
    return done.stdout


def test_both_fresh_clone_commands_are_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [block.text for block in blocks("README.md") if block.text in FRESH_CLONE] == list(FRESH_CLONE)
    assert text.index("Run the tests") < text.index(FRESH_CLONE[1])
    assert text.count("Run the tests") == 1


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page: str) -> None:
    for name, function in re.findall(r"`tests/([\w/]+\.py)::(\w+)`", (ROOT / page).read_text()):
        assert f"def {function}(" in (ROOT / "tests" / name).read_text(), f"{name}::{function}"
