"""The set-up of a notebook: installed packages, the expected device, the folder of runs."""

import importlib.metadata
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, run

from makemore_jax.notebook import setup

PYPROJECT = """
[project]
dependencies = ["flax>=0.9", "numpy>=99.1", "absl-py", "missing_one>=2.0"]  # flax is above 0.10
[project.optional-dependencies]
plots = ["missing-two>=3"]
"""


def test_only_missing_packages_are_installed_and_the_others_pinned(tmp_path, capsys):
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, "utf-8")
    calls = []

    def install(arguments: list[str]) -> None:
        option, pins, *packages = arguments
        with open(pins, encoding="utf-8") as file:
            calls.append((option, file.read().splitlines(), packages))

    setup.install_missing(tmp_path, install)
    ((option, pins, packages),) = calls
    assert (option, packages) == ("--constraint", ["missing_one>=2.0", "missing-two>=3"])
    for name in ("jax", "jaxlib", "flax", "numpy"):
        assert f"{name}=={importlib.metadata.version(name)}" in pins
    numpy = importlib.metadata.version("numpy")
    assert capsys.readouterr().out.splitlines() == [
        f"warning: numpy {numpy} is older than 99.1, the oldest version tested",
        "installing missing_one, missing-two",
    ]


def test_nothing_is_installed_if_all_packages_are_present(capsys):
    pytest.importorskip("matplotlib")
    setup.install_missing(ROOT, install=pytest.fail)
    assert "all required packages are installed" in capsys.readouterr().out


def test_a_failure_of_pip_is_shown():
    with pytest.raises(RuntimeError, match=r"(?s)could not install .*no such option: --nonsense"):
        setup._pip_install(["--nonsense"])


def test_the_set_up_needs_only_the_standard_library():
    code = "import sys\nfrom makemore_jax.notebook import setup\n"
    code += "print(set(sys.modules) & {'jax', 'numpy', 'flax', 'absl', 'IPython'})"
    assert run("-c", code, fresh=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("environment", "devices", "accelerator"),
    [
        ({}, [], None),
        ({"COLAB_TPU_1VM": ""}, ["null"], None),  # Colab's CPU and GPU runtimes
        ({"COLAB_TPU_1VM": "1"}, [], "tpu"),
        ({"TPU_ACCELERATOR_TYPE": "v5litepod-8"}, [], "tpu"),
        ({}, ["accel0"], "tpu"),
        ({"COLAB_TPU_1VM": ""}, ["nvidia0", "nvidiactl"], "gpu"),
        ({}, ["nvidiactl"], None),
    ],
)
def test_the_accelerator_of_a_runtime(environment, devices, accelerator, tmp_path):
    for name in devices:
        (tmp_path / name).touch()
    assert setup.expected_accelerator(environment, tmp_path) == accelerator


def test_a_fallback_to_the_cpu_is_reported():
    assert "has a TPU, but jax uses the CPU" in setup.fallback_warning("cpu", "tpu", {})
    assert setup.fallback_warning("tpu", "tpu", {}) is None
    assert setup.fallback_warning("gpu", "gpu", {}) is None
    assert setup.fallback_warning("cpu", None, {}) is None
    assert setup.fallback_warning("cpu", "gpu", {"JAX_PLATFORMS": "cpu"}) is None


def test_the_device_is_described():
    assert setup.describe_devices(1, "TPU v5 lite", "tpu") == "jax has 1 device: TPU v5 lite."
    assert setup.describe_devices(2, "cpu", "cpu") == "jax has 2 devices: CPU core."


def test_the_platform():
    colab = {"COLAB_RELEASE_TAG": "release-colab"}
    assert setup.platform(colab) == "colab"
    assert setup.platform(colab | {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}) == "kaggle"
    assert setup.platform({}) == "local"


def test_runs_on_google_drive(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    with pytest.raises(RuntimeError, match="only available on Colab"):
        setup.runs_folder(on_drive=True)
    mounted = []
    drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(colab=sys.modules["google.colab"]))
    folder = setup.runs_folder(on_drive=True)
    assert folder.as_posix() == "/content/drive/MyDrive/makemore_jax/runs"
    assert mounted == ["/content/drive"]
    assert setup.runs_folder().as_posix() == "runs"
