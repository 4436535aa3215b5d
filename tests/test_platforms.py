"""Windows and macOS: explicit UTF-8 everywhere, and no calls that only POSIX has."""

import ast
import json
import re

import forkserver
import pytest
from conftest import ROOT, read_metrics, run, start

SOURCES = sorted(
    path
    for folder in ("makemore_jax", "benchmarks", "configs", "tests", "notebooks", ".")
    for path in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")
)


def lacks_encoding(call: ast.Call) -> bool:
    """Return whether a call uses the encoding of the locale, which is not UTF-8 on Windows."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    is_method = isinstance(call.func, ast.Attribute)
    if name in ("read_text", "write_text"):
        return len(call.args) <= (name == "write_text")
    if name == "open" and not (is_method and getattr(call.func.value, "id", "") == "os"):
        mode = keywords.get("mode") or dict(enumerate(call.args)).get(0 if is_method else 1)
        return "b" not in getattr(mode, "value", "r")
    return "text" in keywords or "universal_newlines" in keywords  # of subprocess


@pytest.mark.parametrize("source", ["open(p)", "p.open('w')", "p.read_text()", "p.write_text(x)",
                                    "run(c, text=True)"])  # fmt: skip
def test_a_missing_encoding_is_detected(source):
    assert lacks_encoding(ast.parse(source, mode="eval").body)


@pytest.mark.parametrize("source", ["open(p, 'rb')", "p.open(mode='wb')", "p.read_text('utf-8')",
                                    "p.write_text(x, 'ascii')", "os.open(p, os.O_WRONLY)",
                                    "open(p, encoding='utf-8')"])  # fmt: skip
def test_an_encoding_is_detected(source):
    assert not lacks_encoding(ast.parse(source, mode="eval").body)


def test_every_text_file_has_an_encoding():
    """This includes text from subprocess. Add "utf-8" or encoding="utf-8" if this test fails."""
    matches = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and lacks_encoding(node)
    ]
    assert not matches, "\n".join(["the encoding is missing:", *matches])


POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": "fork geteuid getgid getloadavg getuid killpg mkfifo nice posix_fadvise pread "
    "sched_getaffinity setsid sysconf uname wait4",
    "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGUSR1 SIGUSR2 alarm pthread_sigmask setitimer",
}


def posix_only(source: str) -> list[str]:
    """Return the names in a file that Windows lacks and that no `hasattr` guards.

    Modules must be imported inside a function, which can handle or avoid the error.
    """
    tree, matches = ast.parse(source), []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "")]
            matches += POSIX_MODULES.intersection(names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, name = node.value.id, node.attr
            is_posix = name in POSIX_NAMES.get(module, "").split()
            if is_posix and not re.search(rf'hasattr\({module}, "{name}"\)', source):
                matches.append(f"{module}.{name}")
    return matches


def test_no_file_needs_posix():
    assert posix_only("import fcntl\nfrom resource import x\nos.uname()") == [
        *("fcntl", "resource", "os.uname")
    ]
    programs = [path for path in SOURCES if "tests" not in path.parts]
    assert len(programs) > 50
    matches = {path.name: posix_only(path.read_text("utf-8")) for path in programs}
    assert not {name: names for name, names in matches.items() if names}


# Simulates Windows: imports of POSIX modules fail in the project, os has no POSIX names, the
# locale's encoding is not UTF-8, and using it is an error.
SIMULATED_WINDOWS = """\
import builtins, importlib, os, pkgutil, runpy, sys, types, warnings
warnings.filterwarnings("ignore", category=EncodingWarning)
import jax, flax.linen, optax, orbax.checkpoint, tensorboard, tqdm  # they handle it themselves
from ml_collections import config_flags
root, posix_modules, posix_names = sys.argv[1], sys.argv[2].split(), sys.argv[3].split()
usual_import = builtins.__import__
def import_(name, globals=None, *rest):
    if name in posix_modules and str((globals or {}).get("__file__")).startswith(root):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return usual_import(name, globals, *rest)
builtins.__import__ = import_
for name in posix_names:
    if hasattr(os, name) and name != "fork":  # which subprocess uses
        delattr(os, name)
locked = []
msvcrt = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *args: locked.append(args))
sys.modules["msvcrt"] = msvcrt
warnings.filterwarnings("error", category=EncodingWarning, module=r"makemore_jax|__main__|train")
import makemore_jax
for module in pkgutil.walk_packages(makemore_jax.__path__, "makemore_jax."):
    if not module.name.endswith("__main__") and "torch_parity" not in module.name:
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name in ("matplotlib", "flatbuffers"), error
from absl import flags
for command in sys.argv[4:]:
    for flag in list(flags.FLAGS):
        delattr(flags.FLAGS, flag)
    sys.argv = command.split("|")
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
assert len(locked) == 1
"""


@pytest.mark.slow
def test_trains_and_samples_without_posix(tmp_path):
    words = [f"zo\u00eb{a}{b}" for a in "abcdefgh" for b in "jklmnopq"]
    (tmp_path / "words.txt").write_text("\n".join(words), "utf-8")
    train = ("train.py", "--config", "configs/bigram.py", "--workdir", str(tmp_path / "run"))
    flags = (f"data.path={tmp_path / 'words.txt'}", "train.steps=20", "train.eval_every=10")
    train += tuple(f"--config.{flag}" for flag in flags)
    sample = ("sample.py", "--workdir", str(tmp_path / "run"), "--format", "json")
    done = run(
        *("-c", SIMULATED_WINDOWS, ROOT, " ".join(POSIX_MODULES), POSIX_NAMES["os"]),
        *("|".join(train), "|".join(sample)),
        fresh=True,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
        PYTHONWARNDEFAULTENCODING="1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    samples = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(samples) == 20
    assert any("\u00eb" in line["text"] for line in samples)
    assert read_metrics(tmp_path / "run")[-1]["step"] == 20


def test_programs_start_without_fork(monkeypatch, tmp_path):
    """As in the fork server, streams use UTF-8, and a program need not wait for a reader."""
    monkeypatch.setattr(forkserver, "IS_AVAILABLE", False)
    code = "import sys; print(sys.stdin.read() * 30_000); print(sys.argv[1], file=sys.stderr)"
    done = run("-c", code, "\u00eb", stdin="zo\u00eb\n")
    assert (done.returncode, done.stderr) == (0, "\u00eb\n")
    with start("-c", code, "\u00eb", stdin="zo\u00eb\n", cwd=tmp_path) as process:
        assert process.wait(timeout=60) == 0
        assert process.communicate(timeout=60) == (done.stdout, done.stderr)
    assert done.stdout == "zo\u00eb\n" * 30_000 + "\n"
    with start("-c", "import time; time.sleep(600)") as process:
        assert process.poll() is None
    assert process.poll() is not None
