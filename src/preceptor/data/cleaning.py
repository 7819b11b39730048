"""What happens to one document between its source and the search for duplicates: edits, verdicts, redaction."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from preceptor.data import language
from preceptor.data.config import DataConfig
from preceptor.data.contamination import Contamination
from preceptor.data.document import KEEP, Document, Drop, Verdict
from preceptor.data.edits import EDITS, keep_c4_lines
from preceptor.data.filters import judge
from preceptor.data.opt_out import OptOut
from preceptor.data.personal import Redactor
from preceptor.data.rights import Policy
from preceptor.data.withdrawal import Withdrawn

EXCERPT_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A document after the steps, the verdict on it, and what the steps did."""

    document: Document
    verdict: Verdict
    measures: Mapping[str, float]
    edits: tuple[str, ...]
    redactions: Mapping[str, int]
    contaminated_by: str = ""
    """The evaluation set of which it has too much, where that is only reported."""


class Cleaner:
    """The steps that look at one document at a time, in their order.

    Rights come first, since nothing else should be computed on what may not be used; edits before filters, so that
    filters judge what would be trained on; personal data last, since most documents have left by then.
    """

    def __init__(self, config: DataConfig, withdrawn: Withdrawn) -> None:
        self.config = config
        self.withdrawn = withdrawn
        self.opt_out = OptOut.load(config.rights.opt_out) if config.rights.opt_out else None
        self.policy = Policy(config.rights)
        self.contamination = Contamination.load(config.contamination) if config.contamination.paths else None
        self.redactor = Redactor(config.personal)

    def clean(self, document: Document) -> Cleaned:
        """The document as it would be trained on, and whether it stays so far."""
        read = document
        verdict = self._judge_rights(document)
        if isinstance(verdict, Drop):
            return Cleaned(document, verdict, {}, (), {})
        edits = []
        for edit in (*EDITS, keep_c4_lines) if self.config.filters.c4_lines else EDITS:
            child = edit(document)
            if child is not document:
                edits.append(edit.__name__)
            document = child
        name, score = language.detect(document.text)
        document = replace(document, language=name)
        verdict, measures = judge(document, self.config.filters, score)
        contaminated_by = ""
        if not isinstance(verdict, Drop) and self.contamination is not None:
            verdict = self._judge_contamination(document)
            contaminated_by = self.contamination.note(document) or ""
        if isinstance(verdict, Drop):
            return Cleaned(document, verdict, measures, tuple(edits), {})
        document, verdict, redactions = self._redact(document, verdict)
        if document.text != read.text and redactions:
            edits.append("redact")
        if not isinstance(verdict, Drop):
            # What was withdrawn is known by its cleaned text too, from wherever a copy of it comes.
            verdict = self.withdrawn.judge(document)
        return Cleaned(document, verdict, measures, tuple(edits), redactions, contaminated_by)

    def excerpt(self, document: Document) -> Document:
        """The document cut to what may be shown of it when it is dropped: its beginning, without personal data."""
        beginning = self.redactor.redact(document.text[: 4 * EXCERPT_CHARACTERS]).text[:EXCERPT_CHARACTERS]
        return replace(document, text=beginning)

    def _judge_contamination(self, document: Document) -> Verdict:
        verdict = self.contamination.judge(document) if self.contamination is not None else KEEP
        if isinstance(verdict, Drop):
            # The words it quotes were not redacted yet.
            verdict = replace(verdict, detail=self.redactor.redact(verdict.detail).text)
        return verdict

    def _judge_rights(self, document: Document) -> Verdict:
        verdict = self.withdrawn.judge(document)
        if not isinstance(verdict, Drop) and self.opt_out is not None:
            verdict = self.opt_out.judge(document)
        return verdict if isinstance(verdict, Drop) else self.policy.judge(document)

    def _redact(self, document: Document, verdict: Verdict) -> tuple[Document, Verdict, dict[str, int]]:
        redaction = self.redactor.redact(document.text)
        counts = Counter(redaction.counts)
        drop = redaction.drop
        metadata = {}
        for key, value in document.metadata.items():
            redacted = self.redactor.redact(value)
            metadata[key] = redacted.text
            counts.update(redacted.counts)
            drop = drop or redacted.drop
        if drop:
            kinds = ", ".join(sorted(counts))
            return document, Drop("personal-data", sum(counts.values()), 0, kinds), dict(counts)
        if counts:
            document = replace(document.edited(redaction.text), metadata=metadata)
        return document, verdict, dict(counts)
