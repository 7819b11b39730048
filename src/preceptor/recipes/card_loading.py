"""What a model card says of how to load what is exported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor.recipes.export_source import ExportSource
from preceptor.recipes.parity import Agreement

_AUTO = {
    **dict.fromkeys(("decoder", "two_stream", "foreign"), "AutoModelForCausalLM"),
    "encoder": "AutoModelForMaskedLM",
}
_SEQ2SEQ = "AutoModelForSeq2SeqLM"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported, as the card tells it."""

    form: str
    """merged, adapter or gguf."""
    format: str
    """In which numbers the weights are."""
    family: str
    """Of the model."""
    files: Mapping[str, int]
    """The size in bytes of each file."""
    config: Mapping[str, Any]
    """The model's config.json."""
    agreements: Sequence[Agreement]
    """How near it is to the trained model."""
    heads: Sequence[str] = ()
    """What says something other than the next token, by name."""
    task: Mapping[str, str] | None = None
    """The folder and the class of transformers in which the model with its head stands once more."""


def how_to_load(source: ExportSource, exported: Exported) -> str:
    """The lines that load it, by form."""
    if exported.form == "gguf":
        name = next(name for name in exported.files if name.endswith(".gguf"))
        return f"With llama.cpp, or another program that reads GGUF:\n\n```sh\nllama-cli -m {name} -cnv\n```"
    if exported.form == "adapter":
        return _adapter(source, exported)
    if str(exported.config.get("model_type")).startswith("preceptor-"):
        return "Only Preceptor reads this architecture:\n\n" + _code(
            "from pathlib import Path",
            "from preceptor.models.interchange import load_model",
            "",
            "model = load_model(Path(FOLDER))",
        )
    return _transformers(exported) + _with_heads(exported)


def _adapter(source: ExportSource, exported: Exported) -> str:
    auto = _AUTO.get(exported.family, _SEQ2SEQ)
    heads = ", ".join(exported.heads)
    without = "The model it belongs to is exported with `preceptor export --no-adapter`.\n\n"
    if heads:
        without += f"Its heads ({heads}) stand in `heads.safetensors`, which peft does not read.\n\n"
    return _code(
        "from peft import PeftModel",
        f"from transformers import {auto}",
        "",
        f"# BASE is the model {source.adapter_base}.",
        f"base = {auto}.from_pretrained(BASE)",
        "model = PeftModel.from_pretrained(base, FOLDER)",
        without=without,
    )


def _with_heads(exported: Exported) -> str:
    """What becomes of the heads."""
    if not exported.heads:
        return ""
    names = ", ".join(exported.heads)
    if exported.task is None:
        return (
            f"\n\nIts heads ({names}) stand in `heads.safetensors`, which transformers has no class for; Preceptor "
            "reads them: `preceptor.models.interchange.load_model(Path(FOLDER)).heads`."
        )
    folder, name = exported.task["folder"], exported.task["class"]
    return f"\n\nWith its head ({names}):\n\n" + _code(
        f"from transformers import {name}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained(FOLDER, subfolder="{folder}")',
        f'model = {name}.from_pretrained(FOLDER, subfolder="{folder}")',
    )


def _transformers(exported: Exported) -> str:
    auto = _AUTO.get(exported.family, _SEQ2SEQ)
    if auto != "AutoModelForCausalLM":
        return _code(
            f"from transformers import {auto}, AutoTokenizer",
            "",
            "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
            f"model = {auto}.from_pretrained(FOLDER)",
        )
    needs = "Its weights are quantised by bitsandbytes, which must be installed.\n\n"
    return _code(
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
        "model = AutoModelForCausalLM.from_pretrained(FOLDER)",
        'talk = [{"role": "user", "content": "..."}]',
        'inputs = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)",
        'inputs.pop("token_type_ids", None)',
        "print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))",
        without=needs if "quantization_config" in exported.config else "",
    )


def _code(*lines: str, without: str = "") -> str:
    return without + "\n".join(["```python", *lines, "```"])
