"""What the oracle tests of all families share: random weights that hide nothing, and transformers' reading of them."""

import warnings
from pathlib import Path

import torch

from preceptor.models.architecture import Architecture
from preceptor.models.interchange import architecture_of, to_their_tensors

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def randomise(model: torch.nn.Module, seed: int = 2) -> torch.nn.Module:
    """The model in evaluation mode, none of its weights at a value that hides a mistake, such as a gain of one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def transformers_model(folder: Path, auto_class: str = "AutoModelForCausalLM") -> torch.nn.Module:
    """The model of a folder as transformers reads it, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        return getattr(transformers, auto_class).from_pretrained(folder, attn_implementation="eager").eval()


def save_pretrained(model: torch.nn.Module, folder: Path) -> None:
    """Write a model of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)


def assert_same_gradients(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Every gradient of theirs is ours, under their names and in their layout."""
    architecture: Architecture = architecture_of(ours.config)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    in_their_words = to_their_tensors(architecture, ours.config, gradients)
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    # In the file it has another name than in the module.
    if "lm_head.weight" in expected and "embed_out.weight" in in_their_words:
        in_their_words["lm_head.weight"] = in_their_words.pop("embed_out.weight")
    assert in_their_words.keys() == expected.keys(), in_their_words.keys() ^ expected.keys()
    for name, gradient in in_their_words.items():
        torch.testing.assert_close(gradient, expected[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
