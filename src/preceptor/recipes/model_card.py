"""The model card: what a model is made of, how good it is, what it cost, how to load it; facts of artifacts alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preceptor.core.units import human_bytes, human_count, human_grams, human_joules, human_seconds
from preceptor.data.document import UNKNOWN_LICENCE
from preceptor.recipes.card_licence import Licence, licence_of
from preceptor.recipes.card_loading import Exported, how_to_load
from preceptor.recipes.export_source import ExportSource

NOT_MEASURED = "not measured"
_MOST_SCORES = 60
_LEAST_SHARE = 0.01
"""Of the documents that are in a language for the card to name it."""
_NO_METRICS = frozenset({"by_kind", "memorisation", "loss_gap", "improvement"})
"""Parts of an evaluation whose scores are no metrics by name."""
_PIPELINES = {
    **dict.fromkeys(("decoder", "foreign"), "text-generation"),
    "encoder": "fill-mask",
    "encoder_decoder": "text2text-generation",
}
_SCORE_KEYS = {"value", "unit", "low", "high", "count"}


def model_card(source: ExportSource, exported: Exported) -> str:
    """The content of README.md: front matter that the Hugging Face Hub reads, and the card."""
    sheets, scores = source.corpora(), source.scores()
    licence = licence_of(source, sheets)
    parts = [
        f"# {source.model_name}",
        source.run.summary,
        _what_it_is(source, exported),
        "## How to load it\n\n" + how_to_load(source, exported),
        "## What it was trained on\n\n" + _data(source, sheets, licence),
        "## How good it is\n\n" + _scores(scores, _taken_on(source)),
        "## What it memorised\n\n" + _said(scores, ("memorisation", "loss_gap")),
        "## Is the export the model\n\n" + _parity(exported),
        "## What it cost\n\n" + _cost(source),
        "## Limits\n\n" + _limits(source, sheets, scores, exported.config),
        "## Where it comes from\n\n" + _lineage(source),
    ]
    front = _front_matter(source, exported, sheets, scores, licence)
    return front + "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(
    source: ExportSource,
    exported: Exported,
    sheets: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Any],
    licence: Licence,
) -> str:
    """YAML between two lines of dashes; every value is written as JSON, which YAML reads."""
    table: dict[str, Any] = {"license": licence.id}
    if licence.id == "other":
        table["license_name"] = licence.name
    form = exported.form
    base = source.adapter_base if form == "adapter" else source.hub_base
    if base:
        table["base_model"] = base
    sets = sorted({each.dataset for each in source.run.data.sources if each.kind == "hub"}) if sheets else []
    if sets:
        table["datasets"] = sets
    if languages := _languages(sheets):
        table["language"] = languages
    table["tags"] = [
        "preceptor",
        str(exported.config.get("model_type")),
        *([source.run.finetuning.adapter.kind] if form == "adapter" else []),
    ]
    scored = [name.split(".") for name, _ in _every_score(scores)]
    if metrics := sorted({parts[-1] for parts in scored if not _NO_METRICS.intersection(parts)}):
        table["metrics"] = metrics
    table["library_name"] = {"merged": "transformers", "adapter": "peft", "gguf": "gguf"}[form]
    if exported.family in _PIPELINES:
        table["pipeline_tag"] = _PIPELINES[exported.family]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in table.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _languages(sheets: Sequence[Mapping[str, Any]]) -> list[str]:
    found: dict[str, int] = {}
    for sheet in sheets:
        for language, count in sheet.get("languages", {}).items():
            found[language] = found.get(language, 0) + count
    total = sum(found.values())
    return [name for name, count in found.items() if name not in ("und", "unknown") and count >= _LEAST_SHARE * total]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _what_it_is(source: ExportSource, exported: Exported) -> str:
    trained, config = source.checkpoint.facts, exported.config
    rows = [
        ("architecture", ", ".join(config.get("architectures", ())) or config.get("model_type")),
        ("parameters", _counted(trained.get("num_parameters"))),
        ("longest context", config.get("max_position_embeddings") or config.get("n_positions") or "not limited"),
        ("starts from", source.hub_base or source.run.base.model.rsplit("/", 1)[-1] or "random weights"),
        ("pre-training", _training(trained)),
    ]
    if source.adapter is not None:
        facts = source.adapter.facts
        kind = "all weights" if source.is_whole_model else f"an adapter ({source.run.finetuning.adapter.kind})"
        rows.append(("fine-tuning", f"{kind}, {_counted(facts.get('num_examples'))} examples, {_training(facts)}"))
    rows.append(("exported as", f"{exported.form}, weights in {exported.format}"))
    weights = [name for name in exported.files if name.endswith((".safetensors", ".gguf"))]
    rows += [(f"`{name}`", human_bytes(exported.files[name])) for name in weights]
    return _table(("", ""), rows)


def _counted(count: Any) -> str:
    return human_count(count) if isinstance(count, int | float) else "not recorded"


def _training(facts: Mapping[str, Any]) -> str:
    """What the facts of a training say, in a line."""
    told = [
        f"{_counted(facts[name])} {word}"
        for name, word in (("num_steps", "steps"), ("num_tokens", "tokens"))
        if name in facts
    ]
    if isinstance(facts.get("validation_loss"), float):
        told.append(f"validation loss {facts['validation_loss']:.3f}")
    return ", ".join(told) or "none"


def _data(source: ExportSource, sheets: Sequence[Mapping[str, Any]], licence: Licence) -> str:
    if not sheets:
        parts = ["No corpus: the run trained on no documents of its own."]
    else:
        parts = [text for sheet in sheets for text in _corpus(sheet)]
    if source.adapter is not None:
        parts.append(f"Examples for fine-tuning: {_examples(source)}.")
    return "\n\n".join([*parts, licence.told])


def _examples(source: ExportSource) -> str:
    config = source.run.finetuning
    named = config.examples
    if named == "python-docs":
        return "questions and answers made of the same Python documentation"
    name = named.rsplit("/", 1)[-1]
    if config.licence == UNKNOWN_LICENCE:
        return f"`{name}`, whose licence is not recorded (consent: {config.consent})"
    return f"`{name}` under {config.licence} (consent: {config.consent})"


def _corpus(sheet: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{sheet['documents_kept']:,} of {sheet['documents_in']:,} documents were kept "
        f"({human_bytes(sheet['bytes_kept'])}); {sheet['train']['documents']:,} of them train."
    )
    yield _table(
        ("source", "licence declared", "consent", "documents", "share of bytes"),
        [
            (
                row["name"],
                row["licence"] or "none",
                row["consent"] or "none",
                f"{row['documents_kept']:,}",
                f"{100 * row['share_of_bytes']:.1f} %",
            )
            for row in sheet.get("collections", ())
        ],
    )
    rows = [("licence", name, f"{count:,}") for name, count in sheet["licences"].items()]
    rows += [("consent", name, f"{count:,}") for name, count in sheet["consents"].items()]
    yield _table(("", "found", "documents"), rows)
    redacted = ", ".join(f"{count:,} {kind}" for kind, count in sheet.get("redactions", {}).items())
    yield f"Personal data taken out: {redacted or 'none was found'}."


def _every_score(table: Any, place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All scores of an evaluation, with where they stand in it."""
    if isinstance(table, list):
        # The scores of a task stand in a list, in the order in which they matter.
        table = {row["name"]: row for row in table if isinstance(row, Mapping) and "name" in row}
    if not isinstance(table, Mapping):
        return
    if table.keys() >= _SCORE_KEYS:
        yield place, table
        return
    for name, below in table.items():
        if name == "details":
            continue  # which tells the same, and more, of parts
        yield from _every_score(below, f"{place}.{name}" if place else str(name))


def _taken_on(source: ExportSource) -> str:
    """Of which model the scores are."""
    said = "Scores are those of the trained model, as it was before it was exported."
    if source.adapter is None:
        return said
    return said + (
        " Language modelling, memorisation and the gap of the loss were measured before fine-tuning; what was asked "
        "after it is named so."
    )


def _scores(scores: Mapping[str, Any], taken_on: str) -> str:
    if not scores:
        return NOT_MEASURED.capitalize() + "."
    found = list(_every_score(scores))
    rows = [
        (
            name,
            f"{score['value']:.4g}",
            f"{score['low']:.4g} to {score['high']:.4g}",
            score["unit"] + ("" if score.get("higher_is_better") else " (less is better)"),
            score["count"],
        )
        for name, score in found[:_MOST_SCORES]
    ]
    table = _table(("score", "value", "95 % interval", "unit", "taken on"), rows)
    parts = [table, taken_on] if rows else []
    baselines = [
        (name, f"{ruler['bits_per_byte']:.4g} bits per byte", ruler.get("what", ""))
        for name, ruler in scores.get("rulers", {}).items()
    ]
    if baselines:
        parts.append("The same text by rulers that are no language model of this kind:")
        parts.append(_table(("baseline", "value", "what it is"), baselines))
    task = [
        (row["name"], name, f"{each['value']:.4g}")
        for row in scores.get("task", {}).get("scores", ())
        for name, each in row["baselines"].items()
    ]
    if task:
        parts.append("The same examples by what is not this model:")
        parts.append(_table(("score", "baseline", "value"), task))
    if isinstance(scores.get("verdict"), str):
        parts.append(scores["verdict"])
    return "\n\n".join(parts) or NOT_MEASURED.capitalize() + "."


def _said(scores: Mapping[str, Any], names: Sequence[str]) -> str:
    """The verdicts of parts of an evaluation."""
    found = [scores[name]["verdict"] for name in names if isinstance(scores.get(name), Mapping)]
    return "\n\n".join(found) or NOT_MEASURED.capitalize() + "."


def _parity(exported: Exported) -> str:
    """Figures beside their bounds."""
    agreements = exported.agreements
    rows = [
        (
            each.what,
            f"{each.max_logit_difference:.3g} (at most {each.bound.max_logit_difference:g})",
            f"{each.kl_per_token:.3g} (at most {each.bound.kl_per_token:g})",
            f"{100 * each.same_tokens:.1f} % (at least {100 * each.bound.same_tokens:g} %)",
            NOT_MEASURED if each.same_answers is None else f"{100 * each.same_answers:.1f} %",
        )
        for each in agreements
    ]
    head = ("compared with the trained model", "largest difference of a logit", "nats for a token (KL)")
    table = _table((*head, "same likeliest token", "same greedy answer"), rows)
    tokens = agreements[0].tokens if agreements else 0
    return (
        f"The same prompts went through the trained model and what is exported here, at {tokens} places; its "
        f"tokenizer and its chat template give the same ids.\n\n{table}"
    )


def _cost(source: ExportSource) -> str:
    """Time, energy and emissions of each stage, and their sum over those that were measured."""
    rows, hows = [], []
    total = dict.fromkeys(("seconds", "joules", "grams_co2e"), 0.0)
    models = [source.checkpoint, *([source.adapter] if source.adapter else [])]
    evaluation = [source.evaluation] if source.evaluation else []
    for artifact in (*source.ancestors, *models, *evaluation):
        cost = artifact.notes.get("cost") or {}
        how = cost.get("how", {})
        hows += [f"{name}: {text}" for name, text in how.items()]
        cells = []
        for name, human in (("seconds", human_seconds), ("joules", human_joules), ("grams_co2e", human_grams)):
            is_measured = name in cost and not str(how.get(name, "")).startswith(NOT_MEASURED)
            total[name] += cost[name] if is_measured else 0.0
            cells.append(human(cost[name]) if is_measured else NOT_MEASURED)
        rows.append((artifact.kind, *cells))
    said = (human_seconds(total["seconds"]), human_joules(total["joules"]), human_grams(total["grams_co2e"]))
    rows.append(("in all, of what was measured", *said))
    notes = "\n".join(f"- {how}" for how in dict.fromkeys(hows))
    return _table(("stage", "time", "energy", "CO2e"), rows) + (f"\n\n{notes}" if notes else "")


def _limits(
    source: ExportSource, sheets: Sequence[Mapping[str, Any]], scores: Mapping[str, Any], config: Mapping[str, Any]
) -> str:
    lines = [warning for sheet in sheets for warning in sheet.get("warnings", ())]
    if source.adapter is not None and source.run.finetuning.quantise != "none":
        lines.append(
            f"the adapter was trained over a base in {source.run.finetuning.quantise}, and is compared here over the "
            f"same; a merged model has the weights of that base. Over the base in full precision: {NOT_MEASURED}"
        )
    if languages := _languages(sheets):
        lines.append(f"trained on text in {', '.join(languages)}; other languages: {NOT_MEASURED}")
    context = config.get("max_position_embeddings") or config.get("n_positions")
    if context:
        lines.append(f"a text beyond {context} tokens is more than it has positions for")
    fairness = "see above" if "fairness" in scores else NOT_MEASURED
    lines += [f"fairness of what it says: {fairness}", "truth of what it says beyond the scores above: not measured"]
    return "\n".join(f"- {line}" for line in lines)


def _lineage(source: ExportSource) -> str:
    models = [source.checkpoint, *([source.adapter] if source.adapter else [])]
    rows = [(each.kind, f"`{each.id}`") for each in (*source.ancestors, *models)]
    return _table(("artifact", "SHA-256 of its manifest"), rows)
