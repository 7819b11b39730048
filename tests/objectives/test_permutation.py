"""The permutation objective: which tokens are predicted, in which order, and that a model learns from it."""

import numpy as np
import pytest
import torch

from preceptor.models.two_stream import build
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batches
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.packing import PADDING_SEGMENT
from preceptor.objectives.permutation import CONTEXT, PermutationObjective
from preceptor.tokenizer.stream import TokenStream

LENGTHS = [200, 31, 7, 90, 150, 1, 64, 3, 400]
VOCAB_SIZE = 50


def stream(lengths=LENGTHS, seed=0):
    """Documents of drawn tokens, each closed by 0, of three sources by turns."""
    generator = np.random.default_rng(seed)
    documents = [[*generator.integers(1, VOCAB_SIZE, n - 1), 0] for n in lengths]
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    sources = (np.arange(len(lengths)) % 3).astype(np.uint16)
    tokens = np.array([token for document in documents for token in document], np.uint32)
    return TokenStream(tokens, offsets, np.array([], np.bytes_), 1, sources, ["a", "b", "c"])


def objective(context_length=128, **more):
    return PermutationObjective(stream(), context_length, 0, **more)


def collate(given, rows, draw):
    """Rows as they come in a run that visits them for the draw-th time."""
    return given.collate(rows, [draw * given.num_rows + row for row in rows])


def documents_of(batch):
    """Of each document of a batch its tokens, labels and orders."""
    for row in range(len(batch.tokens_BT)):
        segments = batch.inputs.segments_BT[row]
        for segment in range(int(segments.max()) + 1):
            own = segments == segment
            yield batch.tokens_BT[row][own], batch.labels_BT[row][own], batch.inputs.order_BT[row][own]


def test_every_token_is_read_in_its_own_place_and_targets_are_the_tokens_themselves():
    given = objective()
    batch = given.collate(range(given.num_rows))
    read = np.concatenate([tokens.numpy() for tokens, _, _ in documents_of(batch)])
    assert sorted(read.tolist()) == sorted(stream().tokens.tolist())
    whole = {tuple(stream().document(index).tolist()) for index in range(len(LENGTHS)) if LENGTHS[index] <= 128}
    assert whole <= {tuple(tokens.tolist()) for tokens, _, _ in documents_of(batch)}
    supervised = batch.labels_BT != IGNORED
    assert torch.equal(batch.labels_BT[supervised], batch.tokens_BT[supervised])
    assert torch.equal(supervised, batch.inputs.order_BT > CONTEXT)
    assert not supervised[batch.inputs.segments_BT == PADDING_SEGMENT].any()
    assert (batch.tokens_BT[batch.inputs.segments_BT == PADDING_SEGMENT] == 0).all()


def test_the_targets_of_a_document_have_places_of_their_own_one_after_the_other():
    batch = collate(objective(), range(4), 3)
    for _, _, order in documents_of(batch):
        targets = order[order > CONTEXT]
        assert sorted(targets.tolist()) == list(range(1, len(targets) + 1))


def test_every_order_of_the_targets_is_as_likely():
    given = PermutationObjective(stream([12]), 12, 0, context_factor=2, max_span_tokens=1)
    orders = [
        tuple(np.argsort(o[o > 0].tolist())) for o in (given.collate([0], [d]).inputs.order_BT[0] for d in range(2000))
    ]
    first = np.bincount([order[0] for order in orders], minlength=6)
    assert len(first) == 6
    assert first.min() > 2000 / 6 * 0.75 and first.max() < 2000 / 6 * 1.25


def test_about_one_token_in_six_is_predicted_in_spans_of_one_to_five():
    given = objective()
    supervised = [collate(given, range(given.num_rows), draw).labels_BT != IGNORED for draw in range(60)]
    share = float(sum(s.sum() for s in supervised)) / (60 * sum(LENGTHS))
    assert abs(share - 1 / 6) < 0.01
    # Spans of two windows may touch; most do not.
    edges = torch.cat(supervised).int().diff(dim=1)
    spans = torch.cat(supervised).sum() / (edges == 1).sum()
    assert 2 < spans < 5


def test_every_place_gets_its_turn():
    given = PermutationObjective(stream([40]), 40, 0)
    turns = sum((given.collate([0], [draw]).labels_BT != IGNORED).long() for draw in range(400))
    assert turns.min() > 0


def test_targets_and_orders_follow_from_seed_and_sample_alone():
    given, again = objective(seed=5), objective(seed=5)
    whole = given.collate([4, 0, 2], [70, 71, 72])
    assert torch.equal(again.collate([2], [72]).inputs.order_BT[0], whole.inputs.order_BT[2])
    assert torch.equal(again.collate([2], [72]).labels_BT[0], whole.labels_BT[2])
    for other in (given.collate([4, 0, 2], [80, 81, 82]), objective(seed=6).collate([4, 0, 2], [70, 71, 72])):
        assert torch.equal(other.tokens_BT, whole.tokens_BT)
        for row in range(3):
            assert not torch.equal(other.inputs.order_BT[row], whole.inputs.order_BT[row])
    assert torch.equal(given.collate([4, 0]).inputs.order_BT, again.collate([4, 0]).inputs.order_BT)


def test_micro_batches_change_nothing():
    whole, parts = (Batches(objective(), seed=2, rows_per_step=4, rows_per_microbatch=size).at(3) for size in (4, 1))
    for name in ("tokens_BT", "order_BT"):
        expected = getattr(whole[0].inputs, name)
        assert torch.equal(torch.cat([getattr(part.inputs, name) for part in parts]), expected)


@pytest.mark.parametrize("lengths", [[1], [2], [2, 1, 3], [1] * 9])
def test_no_row_is_read_for_nothing(lengths):
    given = PermutationObjective(stream(lengths), 4, 0)
    for draw in range(30):
        batch = collate(given, range(given.num_rows), draw)
        assert (batch.labels_BT != IGNORED).any(dim=1).all()


def test_sources_are_packed_by_themselves_where_they_are_to_be_blended():
    given = objective(by_source=True)
    ranges = given.source_ranges()
    assert sum(count for _, count in ranges) == given.num_rows and len(ranges) == 3


@pytest.mark.parametrize("change", [{"context_factor": 1}, {"max_span_tokens": 0}])
def test_what_leaves_no_context_or_no_target_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        objective(**change)


def test_a_target_does_not_reach_its_own_prediction():
    given = objective(64)
    batch = given.collate([0, 1])
    model = build(
        TwoStreamConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=32, num_hidden_layers=2, initializer_range=0.3
        )
    ).eval()
    before = model.two_streams(batch.inputs)
    for row, place in (batch.labels_BT != IGNORED).nonzero().tolist()[::5]:
        changed = batch.tokens_BT.clone()
        changed[row, place] = (changed[row, place] + 1) % VOCAB_SIZE
        after = model.two_streams(batch.inputs._replace(tokens_BT=changed))
        order, segments = batch.inputs.order_BT[row], batch.inputs.segments_BT[row]
        later = (order > order[place]) & (segments == segments[place])
        assert torch.equal((after[row] != before[row]).any(dim=1), later)
        assert torch.equal(after[1 - row], before[1 - row])


def test_a_tiny_model_learns_a_tiny_corpus_by_heart():
    given = PermutationObjective(stream([24, 24, 24, 24], seed=1), 48, 0)
    model = build(
        TwoStreamConfig(vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=128, num_hidden_layers=2),
        torch.Generator().manual_seed(0),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    batches = Batches(given, seed=0, rows_per_step=8, rows_per_microbatch=8)
    for step in range(200):
        [batch] = batches.at(step)
        found = given.loss(model, batch)
        optimizer.zero_grad()
        (found.total / found.tokens).backward()
        optimizer.step()
    fresh = [given.loss(model.eval(), collate(given, range(2), 10_000 + draw)) for draw in range(10)]
    loss = sum(float(found.total.detach()) for found in fresh) / sum(found.tokens for found in fresh)
    assert loss < 0.25 * np.log(VOCAB_SIZE)


@pytest.mark.parametrize("memory_tokens", [1, 40, 1000])
def test_a_row_remembers_what_stands_before_its_first_piece_in_the_same_document(memory_tokens):
    given = objective(64, config=ObjectiveConfig(kind="permuted", memory_tokens=memory_tokens))
    read = stream()
    for row in range(given.num_rows):
        start = int(given.plan.starts[given.plan.row(row)[0]])
        begin = max(int(offset) for offset in read.offsets if offset <= start)
        expected = read.tokens[max(begin, start - memory_tokens) : start].tolist()
        before = given.collate([row]).inputs.before
        assert (before is None) == (not expected)
        if before is not None:
            assert before.tokens_BT[0].tolist() == expected and not before.segments_BT.any()
    together = given.collate(range(given.num_rows)).inputs.before
    assert (together.segments_BT == PADDING_SEGMENT).any() and together.tokens_BT.shape[1] <= memory_tokens
    assert objective(64).collate(range(3)).inputs.before is None


def test_memory_is_for_this_objective_alone():
    with pytest.raises(ValueError, match="memory_tokens"):
        ObjectiveConfig(kind="causal", memory_tokens=8)


def test_a_model_that_remembers_learns_what_stands_before_its_rows():
    """Every other half of a text repeats the half before it: what is hidden there can only be known by memory."""
    generator = np.random.default_rng(0)
    halves = [generator.integers(1, VOCAB_SIZE, 16) for _ in range(40)]
    flat = np.concatenate([np.concatenate((half, half)) for half in halves]).astype(np.uint32)
    texts = TokenStream(flat, np.arange(0, len(flat) + 1, 32), np.array([], np.bytes_), 1)
    shape = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    accuracies = []
    for memory_tokens in (0, 16):
        config = ObjectiveConfig(kind="permuted", memory_tokens=memory_tokens)
        given = PermutationObjective(texts, 16, 0, config=config, seed=1)
        model = build(TwoStreamConfig(**shape, num_attention_heads=4), torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for draw in range(60):
            batch = collate(given, range(given.num_rows), draw)
            loss = given.loss(model, batch)
            (loss.total / loss.tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
        second = [row for row in range(given.num_rows) if int(given.plan.starts[given.plan.row(row)[0]]) % 32]
        scored = given.loss(model.eval(), collate(given, second, 99))
        accuracies.append(int(scored.correct) / scored.tokens)
    assert accuracies[1] > accuracies[0] + 0.3
