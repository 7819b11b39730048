"""The report: one self-contained HTML page, and the same facts as JSON."""

import json
import platform
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from preceptor import __version__
from preceptor.core.artifact import Artifact
from preceptor.core.config import encode
from preceptor.core.drafts import write_file
from preceptor.footprint.meter import Reading
from preceptor.recipes.folder import HTML_FILE, JSON_FILE, TRAINING_STAGES
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.run import RUN_FILE, Run

_ADAPTING = {
    "lora": "LoRA",
    "full": "Full fine-tuning",
    "prefix": "Prefix tuning",
    "prompt": "Prompt tuning",
}


def write_run_file(run: Run, out: Path) -> None:
    """Write run.json: the resolved run, and what it ran on."""
    table = {
        "run": encode(run),
        "versions": {
            "preceptor": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "tokenizers", "numpy", "codecarbon")},
        },
        "machine": {"platform": platform.platform(), "processor": platform.processor() or platform.machine()},
    }
    write_file(out / RUN_FILE, json.dumps(table, indent=2) + "\n")


def write_report(pipeline: Pipeline) -> dict[str, Any]:
    """The facts of the run, which are then also in report.json and report.html."""
    from preceptor.recipes.curves import keep_curves
    from preceptor.recipes.report_page import render

    report = collect(pipeline)
    trained = {row.stage: row.artifact for row in pipeline.rows if row.stage in TRAINING_STAGES}
    curves = {stage: keep_curves(pipeline.out, stage, artifact) for stage, artifact in trained.items()}
    write_file(pipeline.out / JSON_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_file(pipeline.out / HTML_FILE, render(report, encode(pipeline.run), curves))
    return report


def collect(pipeline: Pipeline) -> dict[str, Any]:
    """Everything that is known about the run, by stage; each part names the artifact it speaks of and its parents."""
    stages = {row.stage: row.artifact for row in pipeline.rows}
    model = _base(stages["base"]) if "base" in stages else None
    report: dict[str, Any] = {
        "data": None,
        "tokenizer": None,
        "pretraining": None,
        "model": model,
        "finetuning": None,
        "evaluation": _json(stages["evaluate"], "evaluation.json") | _lineage(stages["evaluate"]),
    }
    if "pretrain" in stages:
        report |= _from_documents(stages, pipeline.run.pretraining.optimizer.kind, model)
    if "finetune" in stages:
        how = _ADAPTING[pipeline.run.finetuning.adapter.kind]
        quantised = " over 4-bit weights" if pipeline.run.finetuning.quantise != "none" else ""
        report["finetuning"] = _training(stages["finetune"]) | {"how": how + quantised}
    total = Reading()
    for row in pipeline.rows:
        total = total.add(row.cost)
    by_stage = {row.stage: row.cost.facts() for row in pipeline.rows}
    report["footprint"] = {"total": total.facts(), "stages": by_stage}
    return report


def _from_documents(stages: Mapping[str, Artifact], optimizer: str, base: dict[str, Any] | None) -> dict[str, Any]:
    """What is known of the documents, and of the model that was trained on them."""
    return {
        "data": _json(stages["data"], "datasheet.json") | _lineage(stages["data"]),
        "tokenizer": stages["tokenizer"].facts
        | {"tokens": stages["tokens"].facts, "bytes_per_token": _bytes_per_token(stages["tokens"])}
        | _lineage(stages["tokenizer"]),
        "pretraining": _training(stages["pretrain"])
        | {"base": base, "model": _json(stages["pretrain"], "config.json"), "optimizer": optimizer},
        "model": stages["pretrain"].facts,
    }


def _training(artifact: Artifact) -> dict[str, Any]:
    return artifact.facts | {"curve": _json(artifact, "curve.json")} | _lineage(artifact)


def _bytes_per_token(tokens: Artifact) -> float:
    splits = (tokens.facts["train"], tokens.facts["validation"])
    # The end of text of each document stands for no byte.
    return float(sum(s["bytes"] for s in splits) / sum(s["tokens"] - s["documents"] for s in splits))


def _base(artifact: Artifact) -> dict[str, Any]:
    return artifact.facts | {"source": artifact.notes["source"]} | _lineage(artifact)


def _lineage(artifact: Artifact) -> dict[str, Any]:
    return {"artifact": artifact.id, "parents": artifact.parents}


def _json(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.file(name).read_text(encoding="utf-8"))


def template_text() -> str:
    """The page's template."""
    return (resources.files("preceptor.recipes") / "report.html.jinja").read_text(encoding="utf-8")
