"""Distillation: the loss against divergences over the whole vocabulary, isolation, files that are used again."""

import pytest
import torch
from torch.nn import functional as F

from preceptor.core.errors import ConfigError
from preceptor.data.example_types import Conversation
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.objectives.batch import Batches
from preceptor.objectives.distil import DistilObjective, distil_objective
from preceptor.objectives.distil_config import DistilConfig
from preceptor.objectives.instruct import InstructObjective
from preceptor.parallel.engine import place
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.tokenizer.training import train

CONTEXT = 48
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ra", "sen", "tip", "vo", "xa")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train([" ".join(WORDS)] * 10, TokenizerConfig(vocab_size=280), tmp_path_factory.mktemp("tokenizer"))


def small(tokenizer, seed, hidden_size=32, extra_rows=0):
    shape = {"vocab_size": tokenizer.vocab_size + extra_rows, "hidden_size": hidden_size, "intermediate_size": 48}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config = DecoderConfig(**shape, max_position_embeddings=CONTEXT, zero_init_outputs=False, initializer_range=0.2)
    return build(config, torch.Generator().manual_seed(seed)).eval()


def answers(tokenizer, number=9):
    examples = [
        Conversation.of(f"{WORDS[n]}?", " ".join(WORDS[n : n + 1 + n % 4]), group=f"{n}") for n in range(number)
    ]
    return InstructObjective(examples, tokenizer, CONTEXT)


def made(tokenizer, folder, config, teacher, objective=None):
    return distil_objective(
        objective or answers(tokenizer),
        tokenizer,
        lambda: teacher,
        tokenizer,
        config,
        folder,
        teacher_key="one",
        context_length=CONTEXT,
    )


def over_the_vocabulary(model, teacher, batch, config, kept=None):
    """The loss written out; of what is not kept of the teacher's tokens all counts as one."""
    supervised = batch.labels_BT >= 0
    ours, theirs = (each(batch.inputs)[supervised] for each in (model, teacher))
    plain = F.cross_entropy(ours, batch.labels_BT[supervised], reduction="sum")
    p, q = ((each / config.temperature).softmax(-1) for each in (theirs.detach(), ours))
    if kept is not None:
        best = p.argsort(dim=-1, descending=True)
        p, q = (each.gather(1, best) for each in (p, q))
        p, q = (torch.cat([each[:, :kept], each[:, kept:].sum(1, keepdim=True)], 1) for each in (p, q))
    divergence = (p * (p.log() - q.log())).sum()
    return (1 - config.weight) * plain + config.weight * config.temperature**2 * divergence


@pytest.mark.parametrize(("weight", "temperature", "kept"), [(0.5, 1.0, None), (0.3, 2.0, 5), (1.0, 0.7, 1)])
def test_loss_and_gradients_are_those_over_the_vocabulary(tmp_path, tokenizer, monkeypatch, weight, temperature, kept):
    monkeypatch.setattr("preceptor.objectives.distil._CHUNK_SCORES", 7 * tokenizer.vocab_size)
    config = DistilConfig(weight=weight, temperature=temperature, top_k=kept or tokenizer.vocab_size)
    model, teacher = small(tokenizer, 1), small(tokenizer, 2, hidden_size=48)
    objective = made(tokenizer, tmp_path, config, teacher)
    batch = objective.collate(range(objective.num_rows))
    gradients = []
    loss = objective.loss(model, batch)
    expected = over_the_vocabulary(model, teacher, batch, config, kept)
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)
    plain = answers(tokenizer).loss(model, batch)
    assert (loss.tokens, int(loss.correct)) == (plain.tokens, int(plain.correct))
    for each in (loss.total, expected):
        model.zero_grad()
        each.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max() + 1e-7


def test_order_and_micro_batches_change_nothing(tmp_path, tokenizer):
    config = DistilConfig(top_k=8)
    objective = made(tokenizer, tmp_path, config, small(tokenizer, 2), answers(tokenizer, 16))
    rows = objective.num_rows // 4 * 4
    assert rows >= 4
    found = []
    for number in (1, 2, 4):
        engine = place(small(tokenizer, 1))
        sums = engine.forward_backward(objective, Batches(objective, 0, rows, rows // number).at(0))
        found.append((sums, engine.gradients()))
    for sums, gradients in found[1:]:
        assert sums.total == pytest.approx(found[0][0].total, rel=1e-6) and sums.tokens == found[0][0].tokens
        for one, two in zip(found[0][1], gradients, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_teacher_is_asked_once(tmp_path, tokenizer):
    calls = []

    def teacher():
        calls.append(1)
        return small(tokenizer, 2)

    def again(key="one", top_k=4, number=9):
        return DistilObjective(
            answers(tokenizer, number),
            teacher,
            DistilConfig(top_k=top_k),
            tmp_path / "kept",
            teacher_key=key,
            vocab_size=tokenizer.vocab_size,
        ).collate([0])

    first, second = again(), again()
    assert torch.equal(first.targets, second.targets) and len(calls) == 1
    again(key="two")
    again(key="two", top_k=5)
    again(key="two", top_k=5, number=7)
    assert len(calls) == 4
    ids = tmp_path / "kept" / "ids.u32"
    ids.write_bytes(ids.read_bytes()[:-4])
    again(key="two", top_k=5, number=7)
    assert len(calls) == 5


def test_a_student_comes_near_its_teacher(tmp_path, tokenizer):
    config = DistilConfig(weight=1.0, top_k=16)
    model, teacher = small(tokenizer, 1).train(), small(tokenizer, 2)
    objective = made(tokenizer, tmp_path, config, teacher)
    batch = objective.collate(range(objective.num_rows))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = objective.loss(model, batch)
        losses.append(loss.total.item() / loss.tokens)
        optimizer.zero_grad()
        (loss.total / loss.tokens).backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_rows_of_a_teacher_that_no_token_has_are_left_out(tmp_path, tokenizer):
    teacher = small(tokenizer, 2, extra_rows=7)
    objective = made(tokenizer, tmp_path, DistilConfig(top_k=10**6), teacher)
    batch = objective.collate([0])
    kept = tokenizer.vocab_size
    assert batch.targets.shape[1] == 2 * kept and int(batch.targets[:, :kept].max()) == kept - 1
    torch.testing.assert_close(batch.targets[:, kept:].exp().sum(1), torch.ones(len(batch.targets)).double())
    for rows in (0, 7):
        assert torch.isfinite(objective.loss(small(tokenizer, 1, extra_rows=rows), batch).total)


def test_a_teacher_that_does_not_fit_is_refused(tmp_path, tokenizer):
    definition = tokenizer._definition
    other = Tokenizer(definition, chat_template="{{ messages[0]['content'] }}")
    keys = {"teacher_key": "", "context_length": CONTEXT}
    with pytest.raises(ConfigError, match="another tokenizer") as caught:
        distil_objective(
            answers(tokenizer), tokenizer, lambda: small(tokenizer, 2), other, DistilConfig(), tmp_path, **keys
        )
    assert "preceptor distil TEACHER EXAMPLES --to FILE" in caught.value.remedy
    keys["context_length"] = CONTEXT + 1
    with pytest.raises(ConfigError, match="positions for 48 tokens only"):
        distil_objective(
            answers(tokenizer), tokenizer, lambda: small(tokenizer, 2), tokenizer, DistilConfig(), tmp_path, **keys
        )


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"weight": 1.1}, {"temperature": 0}, {"top_k": 0}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError):
        DistilConfig(**wrong)
