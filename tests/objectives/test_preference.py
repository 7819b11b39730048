"""Preferences: the loss and its gradients against DPO written out in torch, isolation, micro-batches, and learning."""

import pytest
import torch
from torch.nn import functional as F

from preceptor.core.errors import DataError
from preceptor.data.example_types import Message, PreferenceExample
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import load_model
from preceptor.nn.inputs import Inputs
from preceptor.objectives.batch import Batches
from preceptor.objectives.preference import PreferenceObjective, preference_objective, with_reference
from preceptor.objectives.preference_config import PreferenceConfig
from preceptor.parallel.engine import place
from preceptor.tokenizer.chat import encode_chat
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

CONTEXT = 64
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ra", "sen", "tip", "vo", "xa")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return train([" ".join(WORDS)] * 10, TokenizerConfig(vocab_size=290), folder)


def pairs(number, seed=0):
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(number):
        asked, good, bad = (
            " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (count,), generator=draw).tolist())
            for count in (2, int(torch.randint(1, 4, (1,), generator=draw)), 3)
        )
        found.append(PreferenceExample(group=asked, messages=(Message("user", asked),), chosen=good, rejected=bad))
    return found


def theirs(seed, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def small(tokenizer, seed=1):
    shape = {"vocab_size": tokenizer.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": CONTEXT}
    config = DecoderConfig(**shape, zero_init_outputs=False, initializer_range=0.2)
    return build(config, torch.Generator().manual_seed(seed))


def said(model, tokenizer, example, answer):
    """The log-probability of an answer and how many tokens it has, by transformers, one text alone."""
    messages = [{"role": "user", "content": example.messages[0].content}]
    prompt = encode_chat(tokenizer, messages, add_generation_prompt=True)
    ids = torch.tensor([[*prompt, *tokenizer.encode(answer), tokenizer.end_of_text_id]])
    logs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logs.gather(1, ids[0, len(prompt) :, None]).sum(), ids.shape[1] - len(prompt)


def plain_loss(config, policy, reference, tokenizer, examples):
    """DPO as the papers write it, one pair after another; and in how many pairs the preferred answer has gained."""
    total, right = 0.0, 0
    for example in examples:
        (chosen, num_chosen), (rejected, num_rejected) = (
            said(policy, tokenizer, example, each) for each in (example.chosen, example.rejected)
        )
        with torch.no_grad():
            was_chosen, was_rejected = (
                said(reference, tokenizer, example, each)[0] for each in (example.chosen, example.rejected)
            )
        gains = [chosen - was_chosen, rejected - was_rejected]
        if config.length_normalised:
            gains = [gains[0] / num_chosen, gains[1] / num_rejected]
        margin = gains[0] - gains[1]
        if config.kind == "ipo":
            loss = (margin - 0.5 / config.beta) ** 2
        else:
            odds = config.beta * margin
            wrong = config.label_smoothing
            loss = (1 - wrong) * torch.log1p(torch.exp(-odds)) + wrong * torch.log1p(torch.exp(odds))
        total = total + loss - config.chosen_weight * chosen / num_chosen
        right += int(margin > 0)
    return total, right


@pytest.mark.parametrize(
    "config",
    [
        PreferenceConfig(),
        PreferenceConfig(beta=0.5, label_smoothing=0.1, chosen_weight=0.3),
        PreferenceConfig(kind="ipo", beta=0.2, length_normalised=True),
    ],
    ids=["sigmoid", "smoothed", "ipo"],
)
def test_loss_and_gradients_are_those_of_dpo_written_out(tmp_path, tokenizer, config):
    policy, reference = theirs(3, tokenizer), theirs(4, tokenizer)
    policy.save_pretrained(tmp_path / "policy")
    reference.save_pretrained(tmp_path / "reference")
    examples = pairs(7)
    objective = preference_objective(examples, tokenizer, CONTEXT, config, load_model(tmp_path / "reference"))
    model = load_model(tmp_path / "policy").train()
    assert objective.num_rows < 7
    loss = objective.loss(model, objective.collate(range(objective.num_rows)))
    expected, right = plain_loss(config, policy, reference, tokenizer, examples)
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)
    assert (loss.tokens, int(loss.correct)) == (7, right)
    loss.total.backward()
    expected.backward()
    gradients = dict(policy.named_parameters())
    for name, parameter in model.named_parameters():
        theirs_grad = gradients[name].grad
        assert (parameter.grad - theirs_grad).abs().max() <= 1e-5 * theirs_grad.abs().max()


def test_a_pair_does_not_see_another(tokenizer):
    model = small(tokenizer).eval()
    objective = preference_objective(pairs(6), tokenizer, CONTEXT, PreferenceConfig(), small(tokenizer, 2))
    batch = objective.collate([0])
    is_first_pair = (batch.inputs.segments_BT >= 0) & (batch.inputs.segments_BT < 2)
    assert (batch.inputs.segments_BT > 1).any()
    changed = batch.inputs._replace(tokens_BT=batch.tokens_BT.where(~is_first_pair, (batch.tokens_BT + 5) % 256))
    before, after = (
        objective.log_probabilities(model, type(batch)(inputs, batch.labels_BT))[0]
        for inputs in (batch.inputs, changed)
    )
    assert torch.equal(before[1:], after[1:]) and not torch.equal(before[0], after[0])


def test_micro_batches_give_the_same_gradients(tokenizer):
    objective = preference_objective(pairs(12), tokenizer, CONTEXT, PreferenceConfig(), small(tokenizer, 2))
    rows = objective.num_rows // 4 * 4
    assert rows >= 4
    found = []
    for number in (1, 2, 4):
        engine = place(small(tokenizer))
        batches = Batches(objective, 0, rows, rows // number).at(0)
        assert len(batches) == number
        sums = engine.forward_backward(objective, batches)
        found.append((sums.total, sums.correct, sums.tokens, engine.gradients()))
    for other in found[1:]:
        assert other[0] == pytest.approx(found[0][0], rel=1e-6) and other[1:3] == found[0][1:3]
        for one, two in zip(found[0][3], other[3], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_model_learns_what_is_preferred(tokenizer):
    draw = torch.Generator().manual_seed(5)
    examples = []
    for number in range(48):
        asked, good, bad = (WORDS[int(torch.randint(0, 20, (1,), generator=draw))] for _ in range(3))
        # What is better ends in one word, what is worse in another.
        examples.append(
            PreferenceExample(
                group=str(number),
                messages=(Message("user", asked),),
                chosen=f"{good} {WORDS[3]}",
                rejected=f"{bad} {WORDS[7]}",
            )
        )
    model, config = small(tokenizer), PreferenceConfig()
    objective = preference_objective(examples[:32], tokenizer, CONTEXT, config, model)
    check = preference_objective(examples[32:], tokenizer, CONTEXT, config, model)
    batch, held_out = (each.collate(range(each.num_rows)) for each in (objective, check))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with torch.no_grad():
        start = objective.loss(model, batch)
    assert start.total.item() / start.tokens == pytest.approx(0.6931, abs=1e-3)
    for _ in range(40):
        loss = objective.loss(model, batch)
        optimizer.zero_grad()
        (loss.total / loss.tokens).backward()
        optimizer.step()
    after = check.loss(model, held_out)
    assert int(after.correct) / after.tokens > 0.9


def test_the_reference_is_the_same_each_time_and_leaves_the_model_as_it_is(tokenizer):
    model = small(tokenizer).train()
    first, second = (preference_objective(pairs(5), tokenizer, CONTEXT, PreferenceConfig(), model) for _ in range(2))
    assert (first.reference == second.reference).all() and model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_prompt_stands_before_each_document_and_not_in_the_reference(tokenizer):
    model, prefix = small(tokenizer), [300, 301]
    plain = preference_objective(pairs(5), tokenizer, CONTEXT, PreferenceConfig(), model)
    objective = preference_objective(pairs(5), tokenizer, CONTEXT, PreferenceConfig(), model, prefix_ids=prefix)
    torch.testing.assert_close(torch.tensor(objective.reference), torch.tensor(plain.reference))
    batch = objective.collate(range(objective.num_rows))
    starts = (batch.inputs.positions_BT == 0) & (batch.inputs.segments_BT >= 0)
    assert int(starts.sum()) == 10
    assert (batch.tokens_BT[starts] == 300).all()
    assert (batch.labels_BT[batch.tokens_BT >= 300] == -100).all()
    is_text = (batch.inputs.segments_BT >= 0) & (batch.tokens_BT < 300)
    without = plain.collate(range(plain.num_rows))
    assert int(is_text.sum()) == int((without.inputs.segments_BT >= 0).sum())
    assert objective.num_supervised_tokens == plain.num_supervised_tokens == int((batch.labels_BT >= 0).sum())


def test_pairs_that_teach_nothing_are_refused(tokenizer):
    alike = PreferenceExample(group="", messages=(Message("user", "ka"),), chosen="lora", rejected="lora")
    long = PreferenceExample(group="", messages=(Message("user", "ka"),), chosen="lora " * 90, rejected="mi")
    with pytest.raises(DataError, match="1 have two answers that are alike"):
        PreferenceObjective([*pairs(5), alike], tokenizer, CONTEXT)
    with pytest.raises(DataError, match="1 do not fit into 64 tokens") as caught:
        PreferenceObjective([*pairs(5), long], tokenizer, CONTEXT)
    assert "finetuning.context_length" in str(caught.value.remedy)
    kept = PreferenceObjective([*pairs(40), alike, long], tokenizer, CONTEXT)
    assert (kept.num_examples, kept.num_alike, kept.num_too_long) == (40, 1, 1)
    with pytest.raises(ValueError, match="with_reference"):
        kept.loss(small(tokenizer), kept.collate([0]))
    assert with_reference(kept, small(tokenizer)).collate([0]).targets is not None


@pytest.mark.parametrize(
    "wrong",
    [{"beta": 0}, {"label_smoothing": 0.5}, {"kind": "ipo", "label_smoothing": 0.1}, {"chosen_weight": -1}],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError):
        PreferenceConfig(**wrong)


def test_losses_one_by_one_are_those_of_torch(tokenizer):
    model = small(tokenizer)
    tokens = torch.randint(0, 256, (2, 9))
    labels = torch.randint(0, 256, (2, 9)).where(torch.rand(2, 9) > 0.3, -100)
    weights = torch.randn(int((labels >= 0).sum()))
    found = []
    losses, _ = model.supervised_losses(Inputs(tokens), labels)
    expected = F.cross_entropy(model(Inputs(tokens))[labels >= 0], labels[labels >= 0], reduction="none")
    torch.testing.assert_close(losses, expected)
    for each in (losses, expected):
        model.zero_grad()
        (each * weights).sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
