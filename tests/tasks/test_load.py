"""Loading tasks: built-in ones, a user's file, and every way in which a file can be wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import pliant.tasks
from pliant.checks import PliantError, UnknownNameError
from pliant.tasks import BUILT_IN, TaskError, check, load_task, new_task

GOOD = """
import torch

def model():
    return torch.nn.Linear(3, 2)

def example_args():
    return (torch.zeros(2, 3),)

def batches(seed):
    k = 0
    while True:
        yield torch.full((4, 3), float(k)), torch.zeros(4, dtype=torch.long)
        k += 1

def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets)

def evaluate(model, split):
    return {"error": float(model(torch.ones(1, 3)).sum())}
"""


def write(folder: Path, text: str = GOOD, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_every_module_with_batches_is_built_in() -> None:
    folder = Path(pliant.tasks.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "\ndef batches(" in path.read_text()}
    assert found == {*BUILT_IN, "template"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "digits:vit", "digits:convnet", "charlm"])
def test_built_in_tasks_fit_their_own_contract(name: str) -> None:
    task = load_task(name)
    figures = check(task)
    assert len(figures) >= 1
    assert {"steps", "lr", "weight_decay", "budget"} <= set(task.settings)
    assert task.settings_for(quick=True)["steps"] < task.settings_for()["steps"]
    assert "quick" not in task.settings_for()
    assert task.name == (name if ":" in name else f"{name}:{task.variant}")


def test_settings_of_a_variant_win() -> None:
    vit, convnet = load_task("digits:vit").settings, load_task("digits:convnet").settings
    assert vit["lr"] != convnet["lr"]
    assert "convnet" not in vit


def test_a_users_file(tmp_path: Path) -> None:
    task = load_task(write(tmp_path))
    check(task)
    assert task.variant == ""
    assert dict(task.settings) == {}
    inputs, _ = next(task.batches(0, start=5))  # its batches() has no `start`: skipped ahead
    assert float(inputs[0, 0]) == 5.0
    first = task.digest
    write(tmp_path, GOOD + "# changed\n")
    assert load_task(str(tmp_path / "mine.py")).digest != first


def test_a_users_file_can_import_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("SIZE = 2\n")
    text = GOOD.replace("import torch\n", "import torch\nfrom neighbour_of_mine import SIZE\n", 1)
    check(load_task(write(tmp_path, text)))


def test_variants_of_a_users_file(tmp_path: Path) -> None:
    text = GOOD.replace("def model():", "VARIANTS = ('small', 'large')\n\ndef model(variant):")
    path = write(tmp_path, text)
    assert load_task(path).variant == "small"
    assert load_task(f"{path}:large").name.endswith("mine.py:large")
    with pytest.raises(UnknownNameError, match="did you mean 'large'"):
        load_task(f"{path}:larger")


def test_evaluation_mode_is_kept_from_the_task(tmp_path: Path) -> None:
    text = GOOD.replace(
        'return {"error"', 'assert not model.training and not torch.is_grad_enabled()\n    return {"error"'
    )
    task = load_task(write(tmp_path, text))
    net = task.model()
    task.evaluate(net)
    assert net.training


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("digit", "no task named 'digit'; did you mean 'digits'"),
        ("digits:vitt", "did you mean 'vit'"),
        ("charlm:bert", "no variant of the task charlm named 'bert'"),
        ("nowhere/mine.py", "no task file nowhere/mine.py"),
        ("", "no task named ''"),
    ],
)
def test_unknown_tasks(text: str, said: str) -> None:
    with pytest.raises(PliantError, match=said):
        load_task(text)


def test_paths_that_are_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    with pytest.raises(TaskError, match=r"did you mean 'mine\.py'"):
        load_task(str(tmp_path / "mina.py"))
    with pytest.raises(TaskError, match="is a folder"):
        load_task(f"{tmp_path}/")
    with pytest.raises(TaskError, match="has no variants"):
        load_task(f"{path}:small")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(TaskError, match="not a Python file"):
        load_task(str(tmp_path / "notes.txt"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=r"write \./mine\.py"):
        load_task("mine")


def test_a_missing_function_is_named_with_its_signature(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("def evaluate(", "def evalute("))
    with pytest.raises(TaskError) as caught:
        load_task(path)
    said = str(caught.value)
    assert "lacks evaluate()" in said
    assert "def evaluate(model: nn.Module" in said
    assert "did you mean 'evalute'" in said
    with pytest.raises(TaskError, match=r"lacks model\(\), example_args\(\), batches\(\), loss\(\), evaluate\(\)"):
        load_task(write(tmp_path, "x = 1\n", "empty.py"))


def test_an_error_at_import_shows_the_users_line(tmp_path: Path) -> None:
    path = write(tmp_path, "import torch\n\nsize = 1 / 0\n", "broken.py")
    with pytest.raises(TaskError) as caught:
        load_task(path)
    said = str(caught.value)
    assert f"{path}, line 3" in said
    assert "ZeroDivisionError: division by zero" in said
    assert "size = 1 / 0" in said
    assert "importlib" not in said
    with pytest.raises(TaskError, match=r"syntax\.py, line 2: reading it raised SyntaxError"):
        load_task(write(tmp_path, "x = 1\ndef f(:\n", "syntax.py"))
    with pytest.raises(TaskError, match="SystemExit"):
        load_task(write(tmp_path, "raise SystemExit(3)\n", "leaves.py"))
    with pytest.raises(TaskError, match="No module named 'not_installed_here'"):
        load_task(write(tmp_path, "import not_installed_here\n", "needs.py"))


def test_an_error_in_a_function_shows_the_users_line(tmp_path: Path) -> None:
    text = GOOD.replace("return torch.nn.functional", "return torch.nn.functionall")
    task = load_task(write(tmp_path, text))
    with pytest.raises(TaskError, match=r"mine\.py, line \d+: loss\(\) raised AttributeError"):
        task.loss(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    text = GOOD.replace("        k += 1", "        k += missing")
    batches = load_task(write(tmp_path, text)).batches(0)
    next(batches)
    with pytest.raises(TaskError, match=r"batches\(\) raised NameError"):
        next(batches)


def test_what_the_functions_give_is_checked(tmp_path: Path) -> None:
    def task(old: str, new: str) -> pliant.tasks.Task:
        assert old in GOOD
        return load_task(write(tmp_path, GOOD.replace(old, new)))

    with pytest.raises(TaskError, match=r"model\(\) must give a torch.nn.Module, but gave None"):
        task("return torch.nn.Linear(3, 2)", "torch.nn.Linear(3, 2)").model()
    with pytest.raises(TaskError, match=r"example_args\(\) must give a tuple .* tensor of shape \(2, 3\)"):
        task("(torch.zeros(2, 3),)", "torch.zeros(2, 3)").example_args()
    with pytest.raises(TaskError, match=r"pairs \(inputs, targets\), but gave a tuple of length 3"):
        next(task("torch.zeros(4, dtype=torch.long)", "0, 1").batches(0))
    with pytest.raises(TaskError, match="ended after 2 batches"):
        list(task("while True:", "for _ in range(2):").batches(0))
    with pytest.raises(TaskError, match="an iterator of"):
        task("def batches(seed):\n", "def batches(seed):\n    return 3\n\ndef unused(seed):\n").batches(0)
    with pytest.raises(TaskError, match="one floating-point number"):
        task("cross_entropy(outputs, targets)", "relu(outputs)").loss(torch.zeros(4, 2), torch.zeros(4))
    for new, said in [
        ("{}", "at least one figure"),
        ("None", "is a `return` missing"),
        ('{"error": float("nan")}', "a finite number as 'error'"),
        ('{"error": "low"}', "a number as 'error'"),
    ]:
        bad = task('{"error": float(model(torch.ones(1, 3)).sum())}', new)
        with pytest.raises(TaskError, match=said):
            bad.evaluate(bad.model())
    with pytest.raises(TaskError, match="SETTINGS must be a dict"):
        task("import torch\n", "import torch\nSETTINGS = 3\n")


def test_check_finds_arguments_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"model\(\) raised RuntimeError"):
        check(load_task(write(tmp_path, GOOD.replace("torch.zeros(2, 3)", "torch.zeros(2, 5)"))))
    with pytest.raises(TaskError, match="nothing can be learnt"):
        check(load_task(write(tmp_path, GOOD.replace("float(k)", "float('nan')"))))


def test_batches_of_a_finite_iterable_start_where_asked(tmp_path: Path) -> None:
    text = GOOD.replace("batches(seed)", "batches(seed, start=0)").replace("k = 0", "k = start")
    task = load_task(write(tmp_path, text))
    ks = [float(inputs[0, 0]) for inputs, _ in itertools.islice(task.batches(0, start=3), 2)]
    assert ks == [3.0, 4.0]


def test_a_file_is_named_by_its_whole_path_wherever_it_is_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_task(tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    assert load_task("./mine.py").place == load_task(tmp_path / "mine.py").place == str(tmp_path.resolve() / "mine.py")
    assert load_task("digits:convnet").place == "digits:convnet"
