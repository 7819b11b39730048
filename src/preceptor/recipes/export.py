"""Exporting a run's model: merged, as an adapter or as GGUF, with its card, or nothing at all."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from preceptor import __version__
from preceptor.adapters.attach import merge, virtual_ids
from preceptor.core.drafts import draft_folder, sweep
from preceptor.core.errors import ArtifactError, ConfigError, OutputError, output_errors
from preceptor.core.files import exchange, make_folder, sync_and_digest, sync_folder
from preceptor.core.progress import say
from preceptor.data.corpus import Corpus
from preceptor.models.bitsandbytes_files import Bits, quantise_folder
from preceptor.models.gguf import read_gguf
from preceptor.models.gguf_writer import GgufKind, write_gguf
from preceptor.models.interchange import CONFIG_FILE, gguf_model, load_model, save_model, to_config_json
from preceptor.models.language_model import LanguageModel
from preceptor.models.task_layout import save_task_model, task_layout
from preceptor.recipes.card_licence import licence_of
from preceptor.recipes.card_loading import Exported
from preceptor.recipes.export_source import ExportSource, find_source
from preceptor.recipes.model_card import model_card
from preceptor.recipes.parity import NUM_PROMPTS, Agreement, Prompts, Reading, compare, read, require_same_ids
from preceptor.recipes.tuned import load_tuned
from preceptor.tokenizer.chat import DEFAULT_TEMPLATE
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.finetune import TASK_FILE

Form = Literal["merged", "adapter", "gguf"]
EXPORT_FILE, CARD_FILE = "export.json", "README.md"
TEMPLATE_FILE, GENERATION_FILE = "chat_template.jinja", "generation_config.json"
_FORMATS = {32: "float32", 16: "16-bit", 8: "8-bit", 4: "4-bit"}
_GGUF_KINDS: dict[int, GgufKind] = {32: "F32", 16: "F16", 8: "Q8_0", 4: "Q4_0"}
_TALKS = ("decoder", "encoder_decoder", "foreign")
_TEXT_CHARACTERS = 200


@dataclass
class Export:
    """An export that is being made."""

    source: ExportSource
    form: Form
    bits: int
    tokenizer: Tokenizer
    model: LanguageModel
    """The trained model; merged on the way."""
    prompts: Prompts
    reference: Reading
    agreements: list[Agreement] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def check(self, model: LanguageModel, what: str, format: str) -> None:
        """Compare a model with the trained one.

        Raises:
            OutputError: it differs by more than the format may.
        """
        self.agreements.append(compare(self.reference, read(model, self.prompts, self.tokenizer), what, format))


def export(
    out: Path, target: Path, *, form: Form = "merged", bits: int = 32, with_adapter: bool = True, force: bool = False
) -> dict[str, Any]:
    """What was exported, as export.json says it; ``target`` then holds it, and is not there at all if anything fails.

    Raises:
        ArtifactError: the folder holds no model, or none that may leave it; the form has no place for the model.
        ConfigError: what is asked for does not go together.
        OutputError: the target cannot be written or is in use, or what was written is not the trained model.
    """
    _require_sense(form, bits, with_adapter)
    source = find_source(out, with_adapter=with_adapter)
    if form == "adapter" and (source.adapter is None or source.is_whole_model):
        raise ArtifactError(
            f"{out} holds no adapter: " + ("all weights were trained" if source.is_whole_model else "none was trained"),
            remedy="leave --as adapter out, which exports the whole model",
        )
    _require_free(target, out, force)
    making = _opened(source, form, bits)
    parent = target.absolute().parent
    make_folder(parent)
    sweep(parent)
    with output_errors(target), draft_folder(parent, target.name) as draft:
        _FORMS[form](making, draft)
        facts = _described(making, draft)
        _release(draft, target.absolute())
    return facts


def _require_sense(form: Form, bits: int, with_adapter: bool) -> None:
    if form == "adapter" and (bits != 32 or not with_adapter):
        raise ConfigError(
            "an adapter is exported as it was trained",
            remedy="leave --bits and --no-adapter out, or export with --as merged or --as gguf",
        )
    if bits not in _FORMATS:
        raise ConfigError(f"bits must be 32, 16, 8 or 4, got {bits}", remedy="choose one of them")


def _require_free(target: Path, out: Path, force: bool) -> None:
    """Refuse a target that holds something; one that holds an export may be replaced.

    Raises:
        OutputError: says what stands there.
    """
    if not target.exists() and not target.is_symlink():
        return
    is_export = target.is_dir() and not target.is_symlink() and (target / EXPORT_FILE).is_file()
    is_empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if (force and is_export and target.resolve() != out.resolve()) or is_empty:
        return
    remedy = "name another folder" + (", or replace that export with --force" if is_export else "")
    raise OutputError(f"{target} exists already" + ("" if is_export else ", and is no export"), remedy=remedy)


def _opened(source: ExportSource, form: Form, bits: int) -> Export:
    """The trained model and what it says."""
    say(f"export: reading {source.checkpoint.kind} {source.checkpoint.path.name}")
    tokenizer = Tokenizer.load(source.checkpoint.path)
    model = load_tuned(source.checkpoint.path, None if source.adapter is None else source.adapter.path)
    context = (getattr(model.config, "max_position_embeddings", None) or 1 << 20) - model.num_prefix_tokens
    context -= len(virtual_ids(model))
    talks = model.config.family in _TALKS
    questions = _questions(source) if talks else []
    prompts = Prompts.of(tokenizer, questions, _texts(source), context, talks=talks)
    return Export(source, form, bits, tokenizer, model, prompts, read(model, prompts, tokenizer))


def _questions(source: ExportSource) -> list[str]:
    """Held-out questions that the evaluation has asked."""
    found = [
        row["question"]
        for part in source.scores().values()
        if isinstance(part, dict) and isinstance(part.get("samples"), list)
        for row in part["samples"]
        if isinstance(row, dict) and isinstance(row.get("question"), str)
    ]
    return list(dict.fromkeys(found))[: NUM_PROMPTS // 2]


def _texts(source: ExportSource) -> list[str]:
    """The beginnings of texts of a task, and of documents, that were held out."""
    samples = source.scores().get("task", {}).get("samples", ())
    found = [text[:_TEXT_CHARACTERS] for row in samples if (text := row["input"].strip())][: NUM_PROMPTS // 2]
    for artifact in source.ancestors:
        if artifact.kind == "corpus":
            for text in Corpus.load(artifact.path).texts("validation"):
                if len(found) >= NUM_PROMPTS:
                    break
                found.append(text[:_TEXT_CHARACTERS])
    return found


def _merged_model(making: Export) -> LanguageModel:
    """The model with its adapter folded in, which is compared before anything is written."""
    if making.source.adapter is not None and not making.source.is_whole_model:
        merge(making.model)
        making.check(making.model, "merged", "float32")
    return making.model


def _with_template(making: Export) -> Tokenizer:
    """The tokenizer that says its chat template, also where it is ours, which other programs do not know."""
    tokenizer = making.tokenizer
    if tokenizer.chat_template is not None or making.model.config.family not in _TALKS:
        return tokenizer
    return tokenizer.with_template(DEFAULT_TEMPLATE)


def _write_tokenizer(making: Export, draft: Path) -> None:
    tokenizer = _with_template(making)
    tokenizer.save(draft)
    if tokenizer.chat_template is not None:
        (draft / TEMPLATE_FILE).write_text(tokenizer.chat_template, encoding="utf-8")


def _write_merged(making: Export, draft: Path) -> None:
    model, end = _merged_model(making), making.tokenizer.end_of_text_id
    few: Bits | None = 8 if making.bits == 8 else 4 if making.bits == 4 else None
    save_model(model, draft, end, dtype=torch.bfloat16 if making.bits == 16 else torch.float32)
    if few is not None:
        quantise_folder(draft, few)
    _write_tokenizer(making, draft)
    _write_generation(making, draft)
    making.notes["numbers"] = {32: "float32", 16: "bfloat16", 8: "bitsandbytes int8", 4: "bitsandbytes nf4"}[
        making.bits
    ]
    again = load_model(draft)
    making.check(again, "written and loaded again", _FORMATS[making.bits])
    require_same_ids(making.prompts, making.tokenizer, _tokenizer_of(draft))
    if few is None:
        _write_task(making, again, draft)


def _write_task(making: Export, model: LanguageModel, draft: Path) -> None:
    """The model with its head once more, as transformers' class for the task, where it has the same parts."""
    layout = task_layout(model)
    if layout is None:
        return
    save_task_model(model, layout, draft / layout.folder, torch.bfloat16 if making.bits == 16 else torch.float32)
    making.tokenizer.save(draft / layout.folder)
    making.notes["task"] = {"folder": layout.folder, "class": layout.class_name}


def _tokenizer_of(folder: Path) -> Tokenizer:
    return import_tokenizer(folder, TokenizerConfig().split_pattern)


def _write_generation(making: Export, draft: Path) -> None:
    """How the run draws its answers, for programs that go by it."""
    path, sampling = draft / GENERATION_FILE, making.source.run.generation
    table = json.loads(path.read_text(encoding="utf-8")) | {"max_new_tokens": sampling.max_new_tokens}
    if sampling.beams > 1:
        table |= {"num_beams": sampling.beams, "length_penalty": sampling.length_penalty}
    elif sampling.temperature > 0:
        table |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        table |= {"top_k": sampling.top_k}
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_adapter(making: Export, draft: Path) -> None:
    adapter, base = making.source.adapter, making.source.checkpoint
    assert adapter is not None
    for name in adapter.files:
        if name.startswith(("adapter_", "heads", TASK_FILE)):
            (draft / name).write_bytes(adapter.file(name).read_bytes())
    path = draft / "adapter_config.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    table |= {"base_model_name_or_path": making.source.adapter_base}
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _write_tokenizer(making, draft)
    making.notes["numbers"] = "float32"
    again = load_tuned(base.path, draft)
    making.check(again, "written and attached to its base again", "float32")
    require_same_ids(making.prompts, making.tokenizer, _tokenizer_of(draft))


def _write_gguf(making: Export, draft: Path) -> None:
    model, kind = _merged_model(making), _GGUF_KINDS[making.bits]
    if model.heads:
        raise ArtifactError("a GGUF file has no place for the heads of a model", remedy="export with `--as merged`")
    path = draft / f"{making.source.model_name}-{kind}.gguf"
    sheets = making.source.corpora()
    says = {"name": making.source.model_name, "license": licence_of(making.source, sheets).id}
    texts = (*making.prompts.questions, *making.prompts.texts)
    counts = write_gguf(model, making.tokenizer, path, kind, says=says, texts=texts)
    making.notes |= {"numbers": f"GGUF {kind}", "tensors": counts}
    file = read_gguf(path)
    making.check(gguf_model(file), "written and loaded again", _FORMATS[making.bits])
    require_same_ids(making.prompts, making.tokenizer, file.tokenizer())


_FORMS: dict[Form, Callable[[Export, Path], None]] = {
    "merged": _write_merged,
    "adapter": _write_adapter,
    "gguf": _write_gguf,
}


def _described(making: Export, draft: Path) -> dict[str, Any]:
    """Write the card, and export.json last; what the latter says."""
    source, model = making.source, making.model
    config = to_config_json(model.config)
    if (draft / CONFIG_FILE).is_file():
        config = json.loads((draft / CONFIG_FILE).read_text(encoding="utf-8"))
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    exported = Exported(
        form=making.form,
        format=making.notes["numbers"],
        family=model.config.family,
        files={path.relative_to(draft).as_posix(): path.stat().st_size for path in files},
        config=config,
        agreements=making.agreements,
        heads=tuple(model.heads),
        task=making.notes.get("task"),
    )
    (draft / CARD_FILE).write_text(model_card(source, exported), encoding="utf-8")
    facts = {
        "name": source.model_name,
        "preceptor": __version__,
        "as": making.form,
        "bits": making.bits,
        **making.notes,
        "checkpoint": source.checkpoint.id,
        "adapter": source.adapter.id if source.adapter else None,
        "base": source.adapter_base if making.form == "adapter" else source.hub_base or None,
        "parity": [agreement.facts() for agreement in making.agreements],
        "files": _digests(draft, [*files, draft / CARD_FILE]),
    }
    (draft / EXPORT_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_and_digest(draft / EXPORT_FILE)
    for folder in {path.parent for path in files} | {draft}:
        sync_folder(folder)
    return facts


def _digests(folder: Path, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files that have been forced to the disk."""
    both = {path.relative_to(folder).as_posix(): sync_and_digest(path) for path in files}
    return {name: {"bytes": size, "sha256": digest} for name, (digest, size) in both.items()}


def _release(draft: Path, target: Path) -> None:
    """Put the draft in its place in one step; what it replaces goes with the draft."""
    if target.exists() and any(target.iterdir()):
        if not exchange(draft, target):
            raise OutputError(
                f"cannot write {target}: this file system cannot replace a folder in one step",
                remedy="name another folder, or delete that one",
            )
    else:
        os.rename(draft, target)
    sync_folder(target.parent)
