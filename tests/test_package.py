"""The pack as a package: its metadata, what importing it costs, and how a host loads it."""

import ast
import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copyfile, copytree, ignore_patterns

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("attention", "headless", "nodes", "pipelines", "shapeworld")
# Distributions whose modules have another name, and what every ComfyUI brings.
MODULES = {"huggingface-hub": "huggingface_hub", "pillow": "PIL"}
HOST_BRINGS = {"numpy", "torch"}


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def distribution(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower()


def test_requirements_file_names_the_projects_dependencies(pyproject):
    assert requirement_lines("requirements.txt") == pyproject["project"]["dependencies"]


def test_dependencies_have_a_lower_bound_and_nothing_more(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    for requirement in (*pyproject["project"]["dependencies"], *extras["batch"]):
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", requirement), requirement


def test_what_the_host_brings_is_no_dependency(pyproject):
    named = {distribution(line) for line in pyproject["project"]["dependencies"]}
    assert not named & {"torch", "torchvision", "torchaudio", "numpy", "opencv-python"}
    assert not [name for name in named if name.startswith("opencv")]


def test_developer_set_pins_every_dependency_exactly(pyproject):
    pinned = requirement_lines("requirements-dev.txt")
    no_wheel = r'platform_machine != "[a-z0-9_]+" or sys_platform != "[a-z]+"'
    marker = rf'(; (python_version (<|>=) "3\.11"|{no_wheel}))?'
    for line in pinned:
        assert re.fullmatch(rf"[a-z-]+==[0-9.]+{marker}", line), line
    extras = pyproject["project"]["optional-dependencies"].values()
    needed = {
        distribution(line)
        for lines in (pyproject["project"]["dependencies"], *extras)
        for line in lines
    }
    assert needed | HOST_BRINGS <= {distribution(line) for line in pinned}


def test_every_package_the_pack_imports_is_a_dependency(pyproject):
    named = {distribution(line) for line in pyproject["project"]["dependencies"]}
    expected = {MODULES.get(name, name) for name in named} | HOST_BRINGS
    host = {"comfy", "folder_paths", "latent_preview", "nodes", "server"}
    # Used where they are installed, and an error that says so where they are not.
    optional = {ROOT / "pipelines" / "flow" / "estimation.py": {"cv2", "torchvision"}}
    batch = {distribution(line) for line in pyproject["project"]["optional-dependencies"]["batch"]}
    # What requests stands on: how often it tries again is set in its words.
    optional |= {file: batch | {"urllib3"} for file in (ROOT / "headless" / "batch").glob("*.py")}
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            found = third_party_imports(file.read_text(encoding="utf-8"))
            assert found <= expected | host | optional.get(file, set()), file


def third_party_imports(source: str) -> set[str]:
    """The top-level names of what a source imports from outside the standard library."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


def test_packages_are_the_folders_with_code(pyproject):
    folders = {
        file.parent.relative_to(ROOT) for room in ROOMS for file in (ROOT / room).rglob("*.py")
    }
    expected = {".".join(("rescore", *folder.parts)) for folder in folders} | {"rescore"}
    assert set(pyproject["tool"]["setuptools"]["packages"]) == expected


def placed(folder: Path) -> Path:
    """The pack's clips and install.py in a folder of that name."""
    copytree(ROOT / "workflows" / "input", folder / "workflows" / "input")
    copyfile(ROOT / "install.py", folder / "install.py")
    return folder / "install.py"


def run_install(script: Path) -> str:
    command = [sys.executable, str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_installing_gives_the_host_the_clips_of_the_graphs_and_keeps_a_users_files(tmp_path):
    script = placed(tmp_path / "ComfyUI" / "custom_nodes" / "a pack")
    clips = {file.name: file.read_bytes() for file in (ROOT / "workflows" / "input").iterdir()}
    folder = tmp_path / "ComfyUI" / "input"
    folder.mkdir()
    mine = sorted(clips)[0]
    (folder / mine).write_bytes(b"mine")
    assert run_install(script) == ""
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == clips | {mine: b"mine"}


def test_installing_elsewhere_says_what_to_copy(tmp_path):
    script = placed(tmp_path / "somewhere" / "pack")
    assert "copy the files of" in run_install(script)
    assert [file.name for file in tmp_path.iterdir()] == ["somewhere"]


def test_wheel_holds_code_and_data(tmp_path):
    """Built from a copy, since a build leaves folders beside the sources."""
    tree = tmp_path / "tree"
    copytree(ROOT, tree, ignore=ignore_patterns(".*", "tests", "demo_out", "*.egg-info", "build"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(tmp_path), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("rescore-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = ("js/**/*.js", "js/docs/**/*.*", "locales/**/*.json", "workflows/**/*.json")
    data += ("pipelines/models/unet/configs/**/*.*", "shapeworld/**/*.safetensors")
    wanted = {file for pattern in data for file in ROOT.glob(pattern)}
    wanted |= {file for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    wanted -= set((ROOT / "js" / "tests").rglob("*"))
    assert {f"rescore/{file.relative_to(ROOT).as_posix()}" for file in wanted} <= names
    assert not [name for name in names if "tests/" in name or "benchmarks/" in name]


def test_import_is_quiet_and_light(fresh_python):
    code = """
import sys, time
start = time.process_time()
import rescore
spent = time.process_time() - start
heavy = {"torch", "numpy", "diffusers", "transformers", "kornia", "PIL", "av"} & set(sys.modules)
print(spent, *sorted(heavy))
"""
    seconds = []
    for _ in range(3):
        run = fresh_python(code, options=("-W", "error"))
        assert run.returncode == 0, run.stderr
        assert run.stderr == ""
        spent, *heavy = run.stdout.split()
        assert heavy == []
        seconds.append(float(spent))
    assert min(seconds) < 0.25


def test_host_loads_the_folder_under_a_name_of_its_own(fresh_python):
    """As ComfyUI does, with its own top-level `nodes` loaded, and the folder not on the path."""
    code = """
import importlib.util, sys, types
sys.modules["nodes"] = theirs = types.ModuleType("nodes")
folder = sys.argv[1]
name = folder.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
pack = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
import rescore
assert sys.modules["nodes"] is theirs
assert folder not in sys.path
assert pack.NODE_CLASS_MAPPINGS is not rescore.NODE_CLASS_MAPPINGS
assert pack.NODE_CLASS_MAPPINGS.keys() == rescore.NODE_CLASS_MAPPINGS.keys()
assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
assert pack.WEB_DIRECTORY == "./js"
"""
    run = fresh_python(code, str(ROOT))
    assert run.returncode == 0, run.stderr


def test_root_is_not_on_the_path():
    assert ROOT not in {Path(entry).resolve() for entry in sys.path}
    assert importlib.util.find_spec("rescore").submodule_search_locations == [str(ROOT)]


def test_a_node_id_taken_twice_is_refused(tmp_path, fresh_python):
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_bytes((ROOT / "nodes" / "__init__.py").read_bytes())
    for name in ("first", "second"):
        (pack / f"{name}.py").write_text("NODE_CLASS_MAPPINGS = {'ReScoreTwin': object}\n")
    run = fresh_python("import sys; sys.path.insert(0, '.'); import pack")
    assert run.returncode != 0
    assert "ReScoreTwin of nodes/second.py is already taken" in run.stderr
