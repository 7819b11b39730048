"""The datasheet of a corpus: what is in it, by what right, and what became of everything else."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from preceptor.core.config import encode
from preceptor.core.errors import DataError, output_errors
from preceptor.data.document import UNKNOWN_LICENCE
from preceptor.data.histograms import Histogram, edges_of
from preceptor.data.mixture import Ingredient, MixtureConfig, shares
from preceptor.data.source_config import SourceConfig
from preceptor.data.statistics import RIGHTS_RULES, Statistics, Table

DUPLICATE_RULES = ("duplicate-id", "exact-duplicate", "near-duplicate", "repeated-elsewhere")
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SPLITS = ("train", "validation")
_NOT_IN_RECIPE = ("sources",)


class Recipe(Protocol):
    """The part of a DataConfig that is looked at by name; the rest is shown as it is."""

    @property
    def sources(self) -> Sequence[SourceConfig]:
        """The sources, in the order in which they are read."""


def build(
    statistics: Statistics,
    *,
    config: Recipe,
    bias: Mapping[str, Any] | None = None,
    outliers: Mapping[str, tuple[float, float]] | None = None,
    tokens: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The datasheet, as a table that JSON can hold.

    ``config`` is the DataConfig of the corpus; ``outliers`` the lowest and highest value of each measure that is no
    outlier; ``tokens`` how many tokens each source has, where a tokenizer is at hand.
    """
    recipe = encode(config)
    tables = {name: dict(table) for name, table in statistics.tables.items()}
    totals = tables["totals"]
    drops = statistics.drops_by_rule()
    sheet: dict[str, Any] = {
        "documents_in": _of(totals, "in", "documents"),
        "documents_kept": _of(totals, "kept", "documents"),
        "documents_dropped": sum(drops.values()),
        "drops_by_rule": drops,
        "bytes_in": _of(totals, "in", "bytes"),
        "bytes_kept": _of(totals, "kept", "bytes"),
        "edits": _sorted({name: counts["documents"] for name, counts in tables["edits"].items()}),
        "redactions": _sorted({kind: counts.total() for kind, counts in tables["redactions"].items()}),
        "licences": _most_common(tables["licences"], "documents"),
        "consents": _most_common(tables["consents"], "documents"),
        "sources": _most_common(tables["kinds"], "documents"),
        **{split: _sums(tables["splits"], split) for split in _SPLITS},
    }
    sheet |= {
        "collections": _collections(statistics, config.sources, tokens),
        "languages": _most_common(tables["languages"], "documents"),
        "years": _sorted({year: counts["documents"] for year, counts in tables["years"].items()}),
        "bytes_by_licence": _most_common(tables["licences"], "bytes"),
        "bytes_by_language": _most_common(tables["languages"], "bytes"),
        "augmented": _sums(totals, "augmented"),
        "drops_by_collection": _nested(tables["drops"]),
        "refused_by_licence": _nested(tables["refused"]),
        "redactions_by_collection": _nested(tables["redactions"]),
        "duplicates": {rule: drops[rule] for rule in DUPLICATE_RULES if rule in drops}
        | {"documents_cut": sheet["edits"].get("remove_repeats", 0)},
        "contamination": _contamination(statistics, recipe, drops),
        "outliers": {name: [_finite(low), _finite(high)] for name, (low, high) in sorted((outliers or {}).items())},
        "bias": dict(bias or {}),
        "measures": _measures(statistics),
        "drop_measures": {
            rule: _histogram(histogram) for rule, histogram in sorted(statistics.histograms["measured"].items())
        },
        "drop_samples": {rule: [row for _, row in rows] for rule, rows in sorted(statistics.samples.items())},
        "recipe": {name: value for name, value in recipe.items() if name not in _NOT_IN_RECIPE},
    }
    sheet["mixture"] = _mixture(sheet["collections"], recipe)
    sheet["warnings"] = _warnings(sheet)
    return sheet


def _of(table: Mapping[str, Mapping[str, int]], name: str, count: str) -> int:
    return table[name].get(count, 0) if name in table else 0


def _sums(table: Mapping[str, Mapping[str, int]], name: str) -> dict[str, int]:
    return {count: _of(table, name, count) for count in ("documents", "bytes")}


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _most_common(table: Mapping[str, Mapping[str, int]], count: str) -> dict[str, int]:
    counts = {name: values.get(count, 0) for name, values in table.items()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _nested(table: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {name: _sorted(counts) for name, counts in sorted(table.items())}


def _finite(value: float) -> float | None:
    """The number, or None for infinity, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def _collections(
    statistics: Statistics, sources: Sequence[SourceConfig], tokens: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """What each source of the recipe declared and gave, in the order of the recipe."""
    declared = {source.label: encode(source) for source in sources}
    counted = statistics.tables["collections"]
    names = [*declared, *sorted(set(counted) - set(declared))]
    num_bytes = sum(counts.get("bytes_kept", 0) for counts in counted.values())
    rows = []
    for name in names:
        source: Mapping[str, Any] = declared.get(name, {})
        counts: Mapping[str, int] = counted.get(name, {})
        row: dict[str, Any] = {"name": name}
        row |= {key: source.get(key, "") for key in ("kind", "licence", "consent", "origin", "date")}
        row |= {
            key: counts.get(key, 0)
            for key in (
                *("documents_in", "documents_kept", "documents_dropped", "bytes_in", "bytes_kept"),
                *(f"{split}_{unit}" for split in _SPLITS for unit in ("documents", "bytes")),
                "documents_augmented",
            )
        }
        row["share_of_bytes"] = counts.get("bytes_kept", 0) / max(1, num_bytes)
        row |= {key: source[key] for key in ("weight", "max_epochs") if key in source}
        row["drops_by_rule"] = _of_collection(statistics.tables["drops"], name)
        row["redactions"] = _of_collection(statistics.tables["redactions"], name)
        if tokens is not None:
            row["tokens"] = tokens.get(name, 0)
        rows.append(row)
    return rows


def _of_collection(table: Table, collection: str) -> dict[str, int]:
    counts = {name: values[collection] for name, values in table.items() if values.get(collection)}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _mixture(collections: list[dict[str, Any]], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """How the mixture of the recipe blends the sources in as much text as they have, and what hinders it.

    The share and the epochs of each source are put into its row.
    """
    if "mixture" not in recipe:
        return {}
    config = MixtureConfig(**recipe["mixture"])
    ingredients = [
        Ingredient(row["name"], row["train_bytes"], row.get("weight", 1.0), row.get("max_epochs", 0.0))
        for row in collections
    ]
    num_bytes = sum(each.num_samples for each in ingredients)
    described = {"kind": config.kind, "temperature": config.temperature, "problem": ""}
    try:
        blended = shares(config, ingredients, num_bytes)
    except DataError as error:
        return described | {"problem": str(error)}
    for row, share in zip(collections, blended, strict=True):
        row["share_in_training"] = share
        row["epochs_in_training"] = share * num_bytes / max(1, row["train_bytes"])
    return described


def _contamination(statistics: Statistics, recipe: Mapping[str, Any], drops: Mapping[str, int]) -> dict[str, Any]:
    """The evaluation sets that were searched for, and how many documents had words of each."""
    asked = recipe.get("contamination") or {}
    return {
        "evaluation_sets": list(asked.get("paths", ())),
        "action": asked.get("action", ""),
        "documents_dropped": drops.get("contaminated", 0),
        "documents_kept_by_set": _sorted(statistics.tables["notes"].get("contaminated", {})),
    }


def _measures(statistics: Statistics) -> dict[str, dict[str, Any]]:
    kept, dropped = statistics.histograms["kept"], statistics.histograms["dropped"]
    return {
        name: {
            "scale": (kept.get(name) or dropped[name]).scale,
            "kept": _histogram(kept.get(name)),
            "dropped": _histogram(dropped.get(name)),
        }
        for name in sorted({*kept, *dropped})
    }


def _histogram(histogram: Histogram | None) -> dict[str, Any]:
    """The bins as [least value, next bin's least value, count], with about what lies where."""
    if histogram is None or not histogram.counts:
        return {"documents": 0, "undefined": histogram.undefined if histogram else 0, "bins": []}
    return {
        "documents": histogram.total,
        "undefined": histogram.undefined,
        "low": histogram.low,
        "high": histogram.high,
        "quantiles": {str(share): histogram.quantile(share) for share in _QUANTILES},
        "bins": [[*edges_of(bin, histogram.scale), count] for bin, count in sorted(histogram.counts.items())],
    }


def _warnings(sheet: Mapping[str, Any]) -> list[str]:
    """What whoever uses the corpus must know and may not want."""
    warnings = []
    num_kept = sheet["documents_kept"]
    if unknown := sheet["licences"].get(UNKNOWN_LICENCE, 0):
        warnings.append(
            f"{unknown} of {num_kept} documents have no declared licence and are kept; declare it with licence in "
            'data.sources, or leave such documents out with data.rights.unknown="refuse"'
        )
    if refused := sum(sheet["drops_by_rule"].get(rule, 0) for rule in RIGHTS_RULES):
        rules = ", ".join(rule for rule in sheet["drops_by_rule"] if rule in RIGHTS_RULES)
        warnings.append(f"{refused} of {sheet['documents_in']} documents were refused for want of a right ({rules})")
    warnings += [
        f"source {row['name']!r} gave {row['documents_in']} documents, and none of them was kept"
        for row in sheet["collections"]
        if row["documents_in"] and not row["documents_kept"]
    ]
    warnings += [f"source {row['name']!r} gave no document" for row in sheet["collections"] if not row["documents_in"]]
    if problem := sheet["mixture"].get("problem"):
        warnings.append(f"the mixture cannot blend as much text as there is: {problem}")
    if contaminated := sum(sheet["contamination"]["documents_kept_by_set"].values()):
        warnings.append(
            f"{contaminated} documents share words with an evaluation set and are kept; what is measured on it will "
            'be too good; leave them out with data.contamination.action="remove"'
        )
    return warnings


def write_html(sheet: Mapping[str, Any], path: Path) -> None:
    """Write the datasheet as one page that needs nothing else.

    Raises:
        OutputError: the page cannot be written.
    """
    # Jinja takes a tenth of a second to load, which most commands do not need.
    from preceptor.data.datasheet_page import render

    with output_errors(path):
        # A licence or a name of a file may hold what UTF-8 cannot.
        path.write_bytes(render(sheet).encode("utf-8", "backslashreplace"))
