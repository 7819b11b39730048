"""Our two-stream model against transformers' XLNet, and who sees whom where transformers has no word for it."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import TOLERANCE, randomise, save_pretrained, transformers_model
from torch.nn import functional as F

from preceptor.core.errors import ArtifactError
from preceptor.models.interchange import architecture_of, load_model, save_model, to_their_tensors
from preceptor.models.two_stream import TwoStream, build
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED

VOCAB_SIZE = 61
SMALL = TwoStreamConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    initializer_range=0.2,
)
SHAPES = {
    "xlnet": SMALL,
    "untied, clamped, short memory": replace(
        SMALL, tie_word_embeddings=False, clamp_len=4, mem_len=9, reuse_len=6, hidden_act="relu"
    ),
    "transformer-xl": replace(SMALL, attn_type="uni", hidden_act="gelu_new", mem_len=12),
}
Pair = tuple[TwoStream, torch.nn.Module, Path]


@pytest.fixture(params=SHAPES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("model")
    ours = randomise(build(SHAPES[request.param], torch.Generator().manual_seed(1)))
    save_model(ours, folder, end_of_text_id=0)
    return ours, transformers_model(folder), folder


def tokens(rows: int = 3, length: int = 17, seed: int = 3) -> torch.Tensor:
    return torch.randint(1, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


def orders(rows: int = 3, length: int = 17, context: int = 11, seed: int = 5) -> torch.Tensor:
    """Orders in which as many tokens as there are of context come first, and together; the others one by one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([torch.randperm(length, generator=generator) for _ in range(rows)])
    return (drawn - context + 1).clamp(min=0)


def types(rows: int = 3, length: int = 17) -> torch.Tensor:
    return (torch.arange(length) >= length // 2).long().expand(rows, -1)


def in_their_words(order: torch.Tensor) -> dict[str, torch.Tensor]:
    """For transformers: who does not see whom, and every place as a target."""
    hidden = order.unsqueeze(2) <= order.unsqueeze(1)
    # Tokens of the context see each other, and their queries are not asked.
    together = (order == 0).unsqueeze(2) & (order == 0).unsqueeze(1)
    rows, length = order.shape
    return {
        "perm_mask": (hidden & ~together).float(),
        "target_mapping": torch.eye(length).expand(rows, -1, -1).contiguous(),
    }


def logits_of(theirs: torch.nn.Module, ids: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
    """Transformers' logits; where it is causal row by row, for it cannot add the masks of several rows."""
    if theirs.config.attn_type == "bi":
        return theirs(ids, **more).logits
    mems = more.pop("mems", None)
    rows = []
    for row in range(len(ids)):
        own = {name: value if isinstance(value, bool) else value[row : row + 1] for name, value in more.items()}
        if mems is not None:
            own["mems"] = [layer[:, row : row + 1] for layer in mems]
        rows.append(theirs(ids[row : row + 1], **own).logits)
    return torch.cat(rows)


def compare(ours: TwoStream, theirs: torch.nn.Module, inputs: Inputs, labels: torch.Tensor, **more: torch.Tensor):
    """The loss over the labels and every gradient of it; ``more`` is what transformers is given beside the tokens."""
    loss, _, count = ours.loss_sum(inputs, labels)
    ours.zero_grad()
    (loss / count).backward()
    theirs.zero_grad()
    expected = F.cross_entropy(logits_of(theirs, inputs.tokens_BT, **more).flatten(0, 1), labels.flatten())
    expected.backward()
    assert count == int((labels != IGNORED).sum())
    torch.testing.assert_close(loss / count, expected, **TOLERANCE)
    compare_gradients(ours, theirs)


def compare_gradients(ours: TwoStream, theirs: torch.nn.Module) -> None:
    """Every gradient is the same; what is not used has none on either side."""
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in ours.named_parameters()
    }
    named = to_their_tensors(architecture_of(ours.config), ours.config, gradients)
    expected = dict(theirs.named_parameters())
    assert named.keys() == expected.keys()
    for name, gradient in named.items():
        wanted = expected[name].grad
        wanted = torch.zeros_like(gradient) if wanted is None else wanted
        torch.testing.assert_close(gradient, wanted, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_plain_reading_gives_the_same_logits_loss_and_gradients(pair):
    ours, theirs, _ = pair
    torch.testing.assert_close(ours.logits(tokens()), theirs(tokens()).logits.detach(), **TOLERANCE)
    labels = tokens(seed=8).index_fill(1, torch.tensor([0, 4]), IGNORED)
    compare(ours, theirs, Inputs(tokens()), labels)


def test_no_weight_is_left_at_transformers_own_start(pair):
    ours, theirs, _ = pair
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_pairs_of_texts_and_padding_on_either_side(pair):
    ours, theirs, _ = pair
    real = torch.arange(17) < torch.tensor([[17], [12], [6]])
    real = torch.cat((real, real.flip(1)))
    ids, kinds = tokens(6), types(6)
    inputs = Inputs(ids, segments_BT=torch.where(real, 0, -1), token_types_BT=kinds)
    more = {"attention_mask": real.float(), "token_type_ids": kinds}
    given = logits_of(theirs, ids, **more).detach()
    torch.testing.assert_close(ours(inputs).detach()[real], given[real], **TOLERANCE)
    compare(ours, theirs, inputs, tokens(6, seed=8).masked_fill(~real, IGNORED), **more)


def test_both_streams_in_a_drawn_order(pair):
    """With padding and texts of a pair, every gradient of all tensors, the query states' own among them."""
    ours, theirs, _ = pair
    ids, order, kinds = tokens(), orders(), types()
    real = torch.arange(17) < torch.tensor([[17], [15], [13]])
    earlier = (order.unsqueeze(1) < order.unsqueeze(2)) & real.unsqueeze(1)
    if ours.config.attn_type == "uni":
        earlier = earlier.tril()
    # Where nothing may be seen transformers lets a query see everything, the answer included; we let it see nothing.
    asked = (order > 0) & real & earlier.any(dim=2)
    inputs = Inputs(ids, segments_BT=torch.where(real, 0, -1), token_types_BT=kinds, order_BT=order)
    more = in_their_words(order) | {"attention_mask": real.float(), "token_type_ids": kinds}
    states = ours.two_streams(inputs)
    given = logits_of(theirs, ids, **more).detach()
    torch.testing.assert_close(ours.score(states).detach()[asked], given[asked], **TOLERANCE)
    compare(ours, theirs, inputs, ids.masked_fill(~asked, IGNORED), **more)
    assert all(parameter.grad is not None for parameter in ours.parameters())


def test_content_states_in_a_drawn_order(pair):
    ours, theirs, _ = pair
    order = orders()
    given = logits_of(theirs, tokens(), perm_mask=in_their_words(order)["perm_mask"]).detach()
    torch.testing.assert_close(ours(Inputs(tokens(), order_BT=order)).detach(), given, **TOLERANCE)


def test_only_the_asked_places_give_the_same_states_as_all(pair):
    ours, _, _ = pair
    inputs = Inputs(tokens(), order_BT=orders(), token_types_BT=types())
    places = torch.tensor([[3, 7], [0, 16], [5, 4]])
    every = ours.two_streams(inputs).gather(1, places.unsqueeze(2).expand(-1, -1, 32))
    torch.testing.assert_close(ours.two_streams(inputs, places), every, **TOLERANCE)


def test_losses_of_single_tokens_sum_up_to_the_loss(pair):
    ours, _, _ = pair
    order = orders()
    order[1] = orders(1, context=15, seed=1)
    labels = tokens().masked_fill(order == 0, IGNORED)
    inputs = Inputs(tokens(), order_BT=order)
    losses, hits = ours.losses_and_hits(inputs, labels)
    loss, correct, count = ours.loss_sum(inputs, labels)
    torch.testing.assert_close(losses.sum(), loss.detach(), **TOLERANCE)
    logits = ours.score(ours.two_streams(inputs)).detach()
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(losses)
    torch.testing.assert_close(losses, expected, **TOLERANCE)
    assert hits.sum() == correct and count == int((order > 0).sum())


def test_memory_of_three_segments_is_that_of_transformers(pair):
    ours, theirs, _ = pair
    memory, mems = None, None
    for seed in range(3):
        ids, kinds = tokens(seed=seed), types()
        states, memory = ours.read(Inputs(ids, token_types_BT=kinds), memory)
        given = theirs(ids, token_type_ids=kinds, mems=mems, use_mems=True)
        mems = given.mems
        torch.testing.assert_close(ours.score(states), given.logits, **TOLERANCE)
        torch.testing.assert_close(memory, torch.stack(mems).transpose(1, 2), **TOLERANCE)
        assert not memory.requires_grad


def test_both_streams_read_the_memory_and_its_gradients_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    first, ids, order = tokens(seed=1), tokens(), orders(context=0)
    _, memory = ours.read(Inputs(first))
    mems = theirs(first, use_mems=True).mems
    states = ours.two_streams(Inputs(ids, order_BT=order), None, memory)
    given = logits_of(theirs, ids, mems=mems, use_mems=True, **in_their_words(order))
    torch.testing.assert_close(ours.score(states), given, **TOLERANCE)
    ours.zero_grad()
    theirs.zero_grad()
    F.cross_entropy(ours.score(states).flatten(0, 1), ids.flatten()).backward()
    F.cross_entropy(given.flatten(0, 1), ids.flatten()).backward()
    compare_gradients(ours, theirs)
    content = ours.hidden(Inputs(ids), memory)
    torch.testing.assert_close(ours.score(content), theirs(ids, mems=mems, use_mems=True).logits, **TOLERANCE)


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("length", [1, 7])
def test_greedy_generation_is_token_identical(pair, remembers, length):
    ours, theirs, _ = pair
    said, memory = tokens(2, length), None
    for _ in range(20):
        logits, after = ours.next_logits(said if memory is None else said[:, -2:], memory)
        memory = after if remembers else None
        said = torch.cat((said, logits.argmax(-1, keepdim=True)), dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [
            theirs.generate(
                prompt.unsqueeze(0),
                max_new_tokens=20,
                min_new_tokens=20,
                do_sample=False,
                eos_token_id=VOCAB_SIZE + 1,
                pad_token_id=0,
                use_mems=remembers,
            )
            for prompt in tokens(2, length)
        ]
    assert torch.equal(said, torch.cat(rows))


def test_load_of_save_is_the_identity(pair, tmp_path):
    ours, theirs, folder = pair
    save_pretrained(theirs, tmp_path)
    for where in (folder, tmp_path):
        again = load_model(where)
        assert again.config == ours.config
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())
        assert torch.equal(again.logits(tokens()), ours.logits(tokens()))


def test_a_place_sees_exactly_those_before_it_in_the_order():
    """Changed one by one, tokens move the query states of later places and no others, their own least of all."""
    model = randomise(build(SMALL, torch.Generator().manual_seed(1)))
    ids, order = tokens(1, 9), orders(1, 9, context=3)
    content, query = model.hidden(Inputs(ids, order_BT=order)), model.two_streams(Inputs(ids, order_BT=order))
    for place in range(9):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % VOCAB_SIZE
        inputs = Inputs(changed, order_BT=order)
        moved = (model.two_streams(inputs) != query).any(dim=2)
        assert torch.equal(moved, order > order[0, place])
        moved = (model.hidden(inputs) != content).any(dim=2)
        assert torch.equal(moved, order >= order[0, place])


def test_the_first_of_an_order_is_predicted_from_nothing_but_its_place():
    model = randomise(build(SMALL, torch.Generator().manual_seed(1)))
    order = orders(1, 9, context=0)
    states = [model.two_streams(Inputs(tokens(1, 9, seed), order_BT=order))[order == 1] for seed in (1, 2)]
    assert torch.equal(*states)
    assert states[0].isfinite().all()


def packed(ids: torch.Tensor) -> Inputs:
    """Documents of eight and nine tokens and three of padding."""
    order = torch.cat((orders(1, 8, context=5), orders(1, 9, context=6), torch.zeros(1, 3, dtype=torch.long)), dim=1)
    return Inputs(
        ids,
        torch.cat((torch.arange(8), torch.arange(9), torch.arange(3))).unsqueeze(0),
        torch.tensor([[0] * 8 + [1] * 9 + [-1] * 3]),
        torch.cat((types(1, 8), types(1, 9), types(1, 3)), dim=1),
        order_BT=order,
    )


@pytest.mark.parametrize("attn_type", ["bi", "uni"])
def test_changing_one_packed_document_leaves_the_other_bit_identical(attn_type):
    model = randomise(build(replace(SMALL, attn_type=attn_type), torch.Generator().manual_seed(1)))
    first = tokens(1, 20)
    second = first.clone()
    second[0, :8] = (first[0, :8] + 7) % VOCAB_SIZE
    order = packed(first).order_BT
    labels = first.masked_fill(order == 0, IGNORED)
    labels[0, :8] = IGNORED
    states, gradients = [], []
    for ids in (first, second):
        states.append(
            (model.hidden(packed(ids)), model.two_streams(packed(ids)), model(packed(ids)._replace(order_BT=None)))
        )
        model.zero_grad()
        model.loss_sum(packed(ids), labels)[0].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for before, after in zip(*states, strict=True):
        assert torch.equal(before[0, 8:], after[0, 8:])
        assert not torch.equal(before[0, :8], after[0, :8])
    assert all(torch.equal(before, after) for before, after in zip(*gradients, strict=True))
    alone = Inputs(first[:, 8:17], token_types_BT=types(1, 9), order_BT=order[:, 8:17])
    torch.testing.assert_close(states[0][0][0, 8:17], model.hidden(alone)[0], **TOLERANCE)
    torch.testing.assert_close(states[0][1][0, 8:17], model.two_streams(alone)[0], **TOLERANCE)


def test_dropout_is_drawn_in_training_only():
    model = build(replace(SMALL, dropout=0.3), torch.Generator().manual_seed(1)).train()
    inputs = Inputs(tokens(), order_BT=orders())
    assert not torch.equal(model.two_streams(inputs), model.two_streams(inputs))
    model.eval()
    assert torch.equal(model.two_streams(inputs), model.two_streams(inputs))


def test_starting_weights_follow_from_the_generator_and_leave_no_tensor_empty():
    first, second, other = (build(SMALL, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    zero = []
    for (name, ours), same, different in zip(
        first.named_parameters(), second.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(ours, same)
        if not ours.any():
            zero.append(name)
        elif not name.endswith("layernorm.weight"):
            assert not torch.equal(ours, different)
    assert all(name.endswith((".bias", "output_bias")) for name in zero)


def test_query_states_without_an_order_are_refused():
    with pytest.raises(ValueError, match="order_BT"):
        build(SMALL).two_streams(Inputs(tokens()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": 3}, "must divide"),
        ({"hidden_size": 33, "num_attention_heads": 3}, "even"),
        ({"dropout": 1.0}, "below 1"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"mem_len": -1}, "must not be negative"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)


def test_a_model_needs_a_vocabulary():
    with pytest.raises(ValueError, match="vocab_size"):
        TwoStream(replace(SMALL, vocab_size=0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bi_data": True}, "bi_data"),
        ({"same_length": True}, "same_length"),
        ({"untie_r": False}, "untie_r"),
        ({"d_head": 7}, "d_head"),
    ],
)
def test_what_the_family_cannot_do_is_said(change, words, tmp_path):
    save_model(build(SMALL), tmp_path, 0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=words):
        load_model(tmp_path)


def test_what_stands_before_a_row_is_its_memory():
    """As a memory that is given: the same predictions, and no gradient through it."""
    model = randomise(build(SMALL, torch.Generator().manual_seed(1)))
    before, ids, order = tokens(2, 6, 3), tokens(2, 9, 4), orders(2, 9, context=3)
    inputs = Inputs(ids, segments_BT=torch.zeros_like(ids), order_BT=order, before=Inputs(before))
    memory = model.read(Inputs(before))[1]
    given = model.two_streams(inputs._replace(before=None, segments_BT=None), memory_LBSD=memory)
    torch.testing.assert_close(model.two_streams(inputs), given, **TOLERANCE)
    plain = inputs._replace(order_BT=None)
    given = model.hidden(plain._replace(before=None, segments_BT=None), memory)
    torch.testing.assert_close(model.hidden(plain), given, **TOLERANCE)
    assert not torch.equal(model.hidden(plain), model.hidden(plain._replace(before=None)))
    model.loss_sum(inputs, ids.masked_fill(order == 0, IGNORED))[0].backward()
    only_before = [token for token in before.unique().tolist() if token not in ids]
    assert (only_before and not model.model.embed_tokens.weight.grad[only_before].any()) or model.lm_head is None


def test_only_its_own_document_remembers_what_stands_before_a_row():
    model = randomise(build(SMALL, torch.Generator().manual_seed(1)))
    ids = tokens(1, 20)
    states = []
    for seed in (3, 4):
        before = Inputs(tokens(1, 6, seed), segments_BT=torch.tensor([[-1, -1, 0, 0, 0, 0]]))
        inputs = packed(ids)._replace(before=before, token_types_BT=None)
        states.append((model.hidden(inputs._replace(order_BT=None)), model.two_streams(inputs)))
    for one, other in zip(*states, strict=True):
        assert torch.equal(one[0, 8:17], other[0, 8:17])
        assert not torch.equal(one[0, :8], other[0, :8])
    # Padding before it is no part of the memory.
    changed = tokens(1, 6, 4)
    changed[0, :2] += 1
    before = Inputs(changed % VOCAB_SIZE, segments_BT=torch.tensor([[-1, -1, 0, 0, 0, 0]]))
    inputs = packed(ids)._replace(before=before, token_types_BT=None)
    assert torch.equal(model.two_streams(inputs)[0, :17], states[1][1][0, :17])
