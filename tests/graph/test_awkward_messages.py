"""Networks and arguments that cannot work: one message says what is wrong, where, and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant import Family, PliantError, Width, analyze
from pliant.checks import CaptureError, WrongShapeError
from pliant.graph.capture import _log_of_drafts
from tests.graph.awkward import mlp, tiny
from tests.graph.support import Tiny

X = torch.randn(3, 5)


def message(model: Any, *args: Any, error: type[PliantError] = CaptureError, **kwargs: Any) -> str:
    """Return the one message that both the analysis and a family give."""
    with pytest.raises(error) as first:
        analyze(model, args, kwargs)
    with pytest.raises(error) as second:
        Family(model, args, [Width()], kwargs)
    assert str(first.value) == str(second.value)
    assert "Traceback" not in str(first.value)
    return str(first.value)


def branching(s: Tiny, x: Tensor) -> Tensor:
    h = s.a(x)
    if h.sum() > 0:  # this line
        h = h.relu()
    return s.b(h)


def counted(s: Tiny, x: Tensor) -> Tensor:
    h = s.a(x)
    for _ in range(int(x.abs().sum()) % 3 + 1):  # this range
        h = h.relu()
    return s.b(h)


def test_branches_on_data() -> None:
    said = message(nn.Sequential(mlp(16), nn.Linear(2, 5), tiny(branching)), X)
    assert "branches or loops on the values of tensors" in said
    assert "module '2'" in said
    assert "if h.sum() > 0:  # this line" in said
    assert "test_awkward_messages.py, line" in said
    assert "torch.where or torch.cond" in said
    assert "only='0' works, which holds" in said


def test_numbers_made_from_data() -> None:
    said = message(tiny(counted), X)
    assert "branches or loops on the values" in said
    assert "# this range" in said
    assert "only=" in said


def test_a_draft_that_took_one_path_is_not_believed() -> None:
    """`torch.export.draft_export` captures both of the above along the example's path; other inputs go elsewhere."""
    for function in (branching, counted):
        with _log_of_drafts():
            torch.export.draft_export(tiny(function).eval(), (X,))
        with pytest.raises(CaptureError):
            analyze(tiny(function), (X,))


def test_missing_arguments_and_wrong_shapes() -> None:
    said = message(mlp(), error=WrongShapeError)
    assert "missing 1 required positional argument" in said
    said = message(nn.Sequential(mlp(), mlp()), X, error=WrongShapeError)
    assert "((3, 5))" in said
    assert "module '1.0'" in said
    assert "give arguments with which model(*args, **kwargs) works" in said
    said = message(mlp(), {"x": X}, [X, 3], error=WrongShapeError, name="n")
    assert "({x: (3, 5)}, [(3, 5), int], name=str)" in said.replace("'", "")
    with pytest.raises(WrongShapeError, match="give a tuple"):
        analyze(mlp(), 5)  # type: ignore[arg-type]


def test_layers_that_are_not_built_yet() -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2))
    assert "run model(*args) once on the example first" in message(net, X)
    net(X)
    assert [axis.size for axis in analyze(net, (X,)).axes] == [8]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_traced_modules() -> None:
    scripted, traced = torch.jit.script(mlp()), torch.jit.trace(mlp(), X)
    for net in (scripted, traced):
        assert "Python code is gone: give the nn.Module that it was made from" in message(net, X)
    assert "'0' is scripted" in message(nn.Sequential(scripted, nn.Linear(2, 2)), X)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_exported_programs() -> None:
    program = torch.export.export(mlp(), (X,))
    for net in (program, program.module(), torch.export.unflatten(program)):
        assert "exported program" in message(net, X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_modules() -> None:
    net = torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})
    said = message(net, X)
    assert "'0', '2' are quantised" in said
    assert "quantise the members that you extract" in said


def test_what_is_no_network() -> None:
    assert "got a function" in message(lambda v: v, X)
    assert "got the class Linear: give an instance" in message(nn.Linear, X)


class Thing:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_objects_as_arguments_and_results() -> None:
    said = message(tiny(lambda s, thing: s.b(s.a(thing.tensor).relu())), Thing(X))
    assert "an argument is of a class that torch.export does not know" in said
    assert "register_dataclass" in said
    said = message(tiny(lambda s, x: Thing(s.b(s.a(x).relu()))), X)
    assert "returns an object of a class" in said


def test_gradients_in_the_forward() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(s.a(x).pow(2).sum(), x)
        return s.b(s.a(gradient))

    assert "takes gradients" in message(tiny(forward), X)


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        net = mlp()
    assert "build the model outside it" in message(net, X)


def test_errors_of_the_code_itself() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        raise KeyError("no such thing")

    said = message(tiny(forward), X, error=WrongShapeError)
    assert "KeyError: 'no such thing'" in said
    assert 'raise KeyError("no such thing")' in said


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 2)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.a(x) * scale


def test_a_dict_in_the_place_of_keyword_arguments() -> None:
    said = message(Named(), {"x": X}, error=WrongShapeError)
    assert "the dict holds keyword arguments (x), so give it as example_kwargs" in said
    assert "example_kwargs" not in message(Named(), {"other": X}, error=WrongShapeError)
    assert "example_kwargs" not in message(Named(), [X], error=WrongShapeError)


def test_the_cache_of_a_language_model() -> None:
    from tests.helpers import torchvision_shim  # noqa: F401, I001  (must come first)
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    net, x = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes)), torch.zeros(2, 4, dtype=torch.long)
    assert "model.config.use_cache = False" in message(net, x)
    net.config.use_cache = False
    assert analyze(net, (x,)).axes
