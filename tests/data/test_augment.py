"""Augmentation: rates that hold, nothing damaged that means what it says, and the same copy for the same seed."""

import pickle
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import DataError
from preceptor.data import augment
from preceptor.data.augment import RATES, AugmentConfig, Augmenter, back_translate, read_lexicon
from preceptor.data.document import Document

PLAIN = [rate for rate in RATES if rate != "synonyms"]
NAMES = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")
PROSE = " ".join(NAMES[n % 8] for n in range(4000))
FRAGILE = "write to <email> or see https://example.org/a?b=1 from 2024-05-06 with f(x)=3 and [link] user_name"


def noisy(text, name="document", number=0, seed=1, **rates):
    return Augmenter.make(AugmentConfig(copies=1, **rates), seed).text(text, name, number)


@pytest.mark.parametrize("operation", PLAIN)
def test_a_rate_is_the_share_of_words_it_says(operation):
    words = PROSE.split()
    for rate in (0.05, 0.3):
        found = noisy(PROSE, **{operation: rate}).split()
        if operation == "token_dropout":
            share = 1 - len(found) / len(words)
        else:
            assert len(found) == len(words)
            share = sum(before != after for before, after in zip(words, found, strict=True)) / len(words)
        if operation == "swapping":
            # A word that was swapped is not swapped again: two words for each pair, drawn among those left.
            share = share / 2 / (1 - share / 2)
        # Five standard deviations of a share among four thousand.
        assert abs(share - rate) < 5 * (rate * (1 - rate) / len(words)) ** 0.5, (operation, rate, share)


@pytest.mark.parametrize("operation", PLAIN)
def test_numbers_addresses_markup_and_placeholders_stay(operation):
    found = noisy(FRAGILE + " end", **{operation: 1.0})
    for whole in ("<email>", "https://example.org/a?b=1", "2024-05-06", "f(x)=3", "[link]", "user_name"):
        assert whole in found.split(), (operation, found)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200), st.sampled_from(PLAIN), st.floats(0, 1))
@settings(deadline=None, max_examples=150)
def test_no_text_breaks_an_operation_and_lines_stay_lines(text, operation, rate):
    found = noisy(text, **{operation: rate}) if rate else text
    assert found.count("\n") == text.count("\n")
    assert bool(found.split()) == bool(text.split())
    assert noisy(text, **{operation: rate}) == found if rate else True


def test_the_same_seed_document_and_copy_give_the_same_noise_and_any_other_does_not():
    rates = {"spelling": 0.3, "swapping": 0.2, "case": 0.1}
    first = noisy(PROSE, **rates)
    assert noisy(PROSE, **rates) == first
    others = {noisy(PROSE, seed=2, **rates), noisy(PROSE, name="other", **rates), noisy(PROSE, number=1, **rates)}
    assert len(others | {first}) == 4


def test_copies_name_their_parent_and_keep_licence_and_consent():
    document = Document.new(PROSE, "test:1", licence="MIT", consent="granted", metadata={"title": "T"}, collection="c")
    augmenter = Augmenter.make(AugmentConfig(copies=2, token_dropout=0.1), 5)
    first, second = pickle.loads(pickle.dumps(augmenter)).copies(document)
    assert first.parent == second.parent == document.id
    assert (first.licence, first.consent, first.collection) == ("MIT", "granted", "c")
    assert first.metadata == {"title": "T", "augmented": "1"} and second.source == "test:1~2"
    assert len({document.text, first.text, second.text}) == 3 and first.id != second.id


def test_letters_move_as_people_and_keyboards_make_them():
    draw = random.Random(3)
    for _ in range(300):
        wrong = augment.mistype("Keyboard", draw)
        (place,) = [n for n in range(8) if wrong[n] != "Keyboard"[n]]
        assert wrong[place].lower() in augment._NEAR["Keyboard"[place].lower()]
        slip = augment.misspell("spelling", draw)
        assert slip[0] == "s" and abs(len(slip) - 8) <= 1
    assert "s" in augment._NEAR["a"] and "q" in augment._NEAR["a"] and "p" not in augment._NEAR["a"]
    for key, near in augment._NEAR.items():
        assert all(key in augment._NEAR[other] for other in near), key


def test_synonyms_come_from_the_users_lexicon_with_the_letters_as_they_were(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("# words\nbig, large, huge\nfast\tquick\n")
    assert read_lexicon(path)["large"] == ("big", "huge")
    found = noisy("Big dogs are FAST, (fast) and cats are not.", synonyms=1.0, lexicon=str(path))
    assert re.fullmatch(r"(Large|Huge) dogs are QUICK, \(quick\) and cats are not\.", found)
    path.write_text("big, large\nalone\n")
    with pytest.raises(DataError, match=r"synonyms\.txt:2: 'alone' is one word"):
        read_lexicon(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_lexicon(tmp_path / "nowhere.txt")


def test_back_translation_goes_sentence_by_sentence_and_keeps_what_comes_back_empty():
    words = {"the cat sleeps.": "le chat dort.", "dogs bark!": "les chiens aboient!"}
    other = {"le chat dort.": "a cat is asleep.", "les chiens aboient!": ""}
    text = "The cat sleeps. Dogs bark!\n\n12 - 13\n"
    there = lambda sentences: [words[sentence.lower()] for sentence in sentences]  # noqa: E731
    back = lambda sentences: [other.get(sentence, "") for sentence in sentences]  # noqa: E731
    assert back_translate(text, there, back) == "a cat is asleep. Dogs bark!\n\n12 - 13\n"


def test_settings_that_would_do_nothing_or_cannot_work_are_refused():
    with pytest.raises(ValueError, match="every rate is 0"):
        AugmentConfig(copies=1)
    with pytest.raises(ValueError, match="lexicon"):
        AugmentConfig(synonyms=0.1)
    with pytest.raises(ValueError, match="spelling must be between 0 and 1, got 2"):
        AugmentConfig(spelling=2)
    with pytest.raises(ValueError, match="translate_back"):
        AugmentConfig(translate_there="runs/a")
    config = AugmentConfig(copies=1, translate_there="a", translate_back="b")
    with pytest.raises(DataError, match="two models"):
        Augmenter.make(config, 0)
    assert Augmenter.make(replace(config, translate_there="", translate_back="", case=1.0), 0).text("a", "n") == "A"
