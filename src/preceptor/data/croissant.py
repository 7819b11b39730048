"""Croissant metadata of a corpus: what it is and how its files are read, in the form that data catalogues share.

Source: MLCommons Croissant 1.0 and Croissant RAI 1.0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from preceptor.core.units import human_bytes
from preceptor.data.document import UNKNOWN_LICENCE

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_DOCUMENT_FIELDS = {
    "id": "The name of the document: a hash of its source and text.",
    "text": "The text, cleaned and without the personal data that was found.",
    "source": "The file and record that it was read from.",
    "collection": "The source of the recipe that it belongs to.",
    "licence": "Its licence as an SPDX expression, or unknown.",
    "consent": "On what consent it is used.",
    "origin": "Where its author published it.",
    "date": "When it was published, as ISO 8601.",
    "language": "The language that was recognised, as ISO 639-1.",
    "metadata": "What else is known of it, as JSON.",
    "parent": "The id under which it was read, where an edit changed it.",
    "split": "train or validation.",
}
_LEDGER_FIELDS = {
    "id": "The id under which the document was read.",
    "source": "The file and record that it was read from.",
    "collection": "The source of the recipe that it belongs to.",
    "licence": "Its licence as an SPDX expression.",
    "verdict": "keep or drop.",
    "rule": "The rule that dropped it.",
    "measured": "What the rule measured.",
    "limit": "The limit of the rule.",
    "detail": "What else the rule says.",
}
_NUMBERS = ("measured", "limit")
_FOLDERS = {
    "documents": (_DOCUMENT_FIELDS, "The documents that were kept."),
    "ledger": (_LEDGER_FIELDS, "What became of every document that was read, one row each."),
}


def build(sheet: Mapping[str, Any], files: Sequence[str], *, name: str = "corpus") -> dict[str, Any]:
    """The metadata as JSON-LD.

    ``files`` are the Parquet files of the corpus, relative to the folder that the metadata will lie in.
    """
    folders = [folder for folder in _FOLDERS if any(file.startswith(f"{folder}/") for file in files)]
    metadata: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": name,
        "description": _description(sheet),
        "license": [_licence(licence) for licence in sheet["licences"]],
        "inLanguage": [language for language in sheet["languages"] if language != "und"],
        "version": "1.0.0",
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": folder,
                "name": folder,
                "description": _FOLDERS[folder][1],
                "encodingFormat": "application/x-parquet",
                "includes": f"{folder}/*.parquet",
            }
            for folder in folders
        ],
        "recordSet": [_record_set(folder) for folder in folders],
    }
    metadata |= {f"rai:{key}": value for key, value in _responsible(sheet).items() if value}
    return metadata


def _description(sheet: Mapping[str, Any]) -> str:
    kept, read = sheet["documents_kept"], sheet["documents_in"]
    return (
        f"A text corpus of {kept:,} documents with {human_bytes(sheet['bytes_kept'])} of text, kept of {read:,} "
        "that were read. Its ledger says of every document why it was kept or dropped."
    )


def _licence(licence: str) -> str:
    """The address of a licence that SPDX lists; an expression or ``unknown`` stays as it is."""
    is_one = licence != UNKNOWN_LICENCE and " " not in licence and not licence.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{licence}.html" if is_one else licence


def _record_set(folder: str) -> dict[str, Any]:
    fields, description = _FOLDERS[folder]
    # Record sets and file sets share one space of names.
    name = f"{folder}-rows"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        **({"key": {"@id": f"{name}/id"}} if folder == "documents" else {}),
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "description": says,
                "dataType": "sc:Float" if column in _NUMBERS else "sc:Text",
                "source": {"fileSet": {"@id": folder}, "extract": {"column": column}},
            }
            for column, says in fields.items()
        ],
    }


def _responsible(sheet: Mapping[str, Any]) -> dict[str, Any]:
    """What Croissant's vocabulary for responsible AI asks of a data set, as sentences from the datasheet."""
    sources = [
        f"{row['name']}: {row['documents_kept']:,} of {row['documents_in']:,} documents kept, declared licence "
        f"{row['licence'] or UNKNOWN_LICENCE}, consent {row['consent'] or 'unknown'}"
        + (f", published at {row['origin']}" if row["origin"] else "")
        for row in sheet["collections"]
    ]
    drops = ", ".join(f"{rule} {number:,}" for rule, number in sheet["drops_by_rule"].items())
    redactions = ", ".join(f"{kind} {number:,}" for kind, number in sheet["redactions"].items())
    edits = [f"{name.replace('_', ' ')}: {number:,} documents changed" for name, number in sheet["edits"].items()]
    return {
        "dataCollection": "; ".join(sources),
        "dataPreprocessingProtocol": [*edits, f"Documents dropped by rule: {drops or 'none'}"],
        "personalSensitiveInformation": [f"Found and treated: {redactions or 'none'}"],
        "dataLimitations": list(sheet["warnings"]),
        "dataBiases": ["Counts of terms for groups are in datasheet.json under bias."] if sheet["bias"] else [],
    }
