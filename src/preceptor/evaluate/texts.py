"""How near written texts are to those that should be written: translations and summaries."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preceptor.evaluate.judged import Judged, beside, judged_facts
from preceptor.evaluate.metrics import Score
from preceptor.evaluate.resampling import resampled_sums, score_with
from preceptor.evaluate.sentences import first_sentences

_ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
_WORD = re.compile(r"[^\W_]+")
Scorer = Callable[[Sequence[str]], dict[str, Score]]


@dataclass(frozen=True, slots=True)
class TextScores:
    """All scores of what was written on one set of texts."""

    judged: tuple[Judged, ...]
    unanswered: int
    """Texts for which nothing was written; each counts as an empty one."""
    signatures: Mapping[str, str] = field(default_factory=dict)
    """How each measure was taken, in the words of the library that took it, so that others can compare."""

    def facts(self) -> dict[str, Any]:
        """The scores as JSON."""
        return {
            "scores": judged_facts(self.judged),
            "unanswered": self.unanswered,
            "signatures": dict(self.signatures),
        }


def translation_scores(
    references: Sequence[Sequence[str]],
    written: Sequence[str | None],
    sources: Sequence[str],
    seed: int = 0,
    *,
    tokenize: str = "13a",
    baselines: Mapping[str, Sequence[str]] | None = None,
) -> TextScores:
    """BLEU and chrF of translations, each with one reference or more, as sacrebleu takes them.

    ``tokenize`` is sacrebleu's: "13a" for most languages, "zh" for Chinese, "char" for others without spaces between
    words. Baselines left out are the sources as they stand.

    Raises:
        ValueError: there is no text, or not one of each for each.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    _check(references, written, sources)
    most = max(map(len, references))
    # Sacrebleu takes the first references of all texts, then the second; where one is missing None stands.
    streams = [[each[n] if n < len(each) else None for each in references] for n in range(most)]
    metrics = {"BLEU": BLEU(tokenize=tokenize, force=True), "chrF": CHRF()}

    def score(texts: Sequence[str]) -> dict[str, Score]:
        return {name: _corpus_score(metric, name, texts, streams, seed) for name, metric in metrics.items()}

    judged, unanswered = _judged(score, written, baselines or {"a copy of the source": sources})
    return TextScores(judged, unanswered, {name: str(metric.get_signature()) for name, metric in metrics.items()})


def _corpus_score(metric: Any, unit: str, texts: Sequence[str], streams: Any, seed: int) -> Score:
    """A score of the whole corpus, with an interval from resampling its texts."""
    # The library's own bootstrap holds all resamples of all texts at once. A score follows from the sums of counts.
    counts = np.array(metric._extract_corpus_statistics(texts, streams), np.int64)
    value = metric._compute_score_from_stats(counts.sum(axis=0).tolist()).score
    sums = resampled_sums(counts, seed).round().astype(np.int64).tolist()
    resampled = [metric._compute_score_from_stats(each).score for each in sums]
    return score_with(value, resampled, f"{unit}, 0 to 100", len(texts))


def summary_scores(
    references: Sequence[Sequence[str]],
    written: Sequence[str | None],
    sources: Sequence[str],
    seed: int = 0,
    *,
    use_stemmer: bool = False,
    baselines: Mapping[str, Sequence[str]] | None = None,
) -> TextScores:
    """ROUGE-1, ROUGE-2 and ROUGE-L (F1) of summaries, with the best of the references of each.

    Words are runs of letters and digits of any script, where the library itself knows English ones alone; on those
    both agree. ``use_stemmer`` is for English. Baselines left out are the first sentence and the first three.

    Raises:
        ValueError: there is no text, or not one of each for each.
    """
    _check(references, written, sources)
    if baselines is None:
        baselines = {
            "the first sentence": [first_sentences(source, 1) for source in sources],
            "the first three sentences": [first_sentences(source, 3) for source in sources],
        }
    scorer = _rouge_scorer(use_stemmer)

    def score(texts: Sequence[str]) -> dict[str, Score]:
        found = np.array(
            [
                [part.fmeasure for part in _of(scorer, wanted, text)]
                for wanted, text in zip(references, texts, strict=True)
            ]
        )
        resampled = resampled_sums(found, seed) / len(texts)
        return {
            name: score_with(float(found[:, place].mean()), resampled[:, place], "share of 1", len(texts))
            for place, name in enumerate(_ROUGE.values())
        }

    judged, unanswered = _judged(score, written, baselines)
    signature = f"rouge-score, F1, stemmer: {'yes' if use_stemmer else 'no'}, words: letters and digits of any script"
    return TextScores(judged, unanswered, dict.fromkeys(_ROUGE.values(), signature))


def _rouge_scorer(use_stemmer: bool) -> Any:
    from nltk.stem.porter import PorterStemmer
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    stemmer = PorterStemmer() if use_stemmer else None

    class Words(Tokenizer):  # type: ignore[misc]
        """Words in lower case; long ones without their endings where there is a stemmer, as in the library."""

        def tokenize(self, text: str) -> list[str]:
            """The words of a text."""
            words = _WORD.findall(text.lower())
            return [stemmer.stem(word) if stemmer and len(word) > 3 else word for word in words]

    return RougeScorer(list(_ROUGE), tokenizer=Words())


def _of(scorer: Any, references: Sequence[str], text: str) -> list[Any]:
    """The best score of each kind among the references."""
    found = scorer.score_multi(list(references), text)
    return [found[kind] for kind in _ROUGE]


def _check(references: Sequence[Sequence[str]], written: Sequence[object], sources: Sequence[str]) -> None:
    if not references or not len(references) == len(written) == len(sources) or not all(references):
        raise ValueError(
            f"{len(references)} references, {len(written)} texts and {len(sources)} sources: give as many, "
            "and one reference or more for each"
        )


def _judged(
    score: Scorer, written: Sequence[str | None], baselines: Mapping[str, Sequence[str]]
) -> tuple[tuple[Judged, ...], int]:
    """The scores beside those of the baselines, and for how many texts nothing was written."""
    scores = score([text or "" for text in written])
    others = {name: score(texts) for name, texts in baselines.items()}
    judged = beside(scores, others)
    return judged, sum(1 for text in written if text is None)
