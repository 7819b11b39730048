"""Questions of a file answered by a larger model, for a smaller one to learn from; a stopped one goes on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from preceptor.adapters.attach import CONFIG_FILE, peft_type
from preceptor.adapters.prompt import PEFT_TYPE as PROMPT
from preceptor.core.artifact import Store
from preceptor.core.drafts import write_file
from preceptor.core.errors import ConfigError, DataError, output_errors
from preceptor.core.files import make_folder
from preceptor.core.interrupt import grace
from preceptor.core.progress import Progress, say
from preceptor.core.seeds import derive
from preceptor.data.examples import conversations, read_examples
from preceptor.models.decoder import Decoder
from preceptor.models.foreign import ForeignModel
from preceptor.recipes import inputs
from preceptor.recipes.answering import load_responder
from preceptor.recipes.folder import MODEL_CONFIG_FILE, newest_model
from preceptor.recipes.model_lookup import find_model
from preceptor.recipes.tuned import load_tuned
from preceptor.serve.chat import Responder
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train import finetune

CHUNK = 32
"""How many questions are answered together, and written together."""


@dataclass(frozen=True, slots=True)
class AnsweringTeacher:
    """A model that answers, and what it is known by."""

    responder: Responder
    id: str


def load_teacher(path: Path, sampling: SamplingConfig) -> AnsweringTeacher:
    """The newest model of a run's folder with its adapter, or the model of a folder or of a GGUF file.

    Raises:
        ArtifactError: there is none, or it is damaged.
        ConfigError: it cannot answer questions.
    """
    if path.is_dir() and not (path / MODEL_CONFIG_FILE).is_file():
        checkpoint, adapter = newest_model(Store(path / "artifacts"))
        known = checkpoint.id if adapter is None else adapter.id
        return AnsweringTeacher(replace(load_responder(path), sampling=sampling), known)
    model, tokenizer = find_model(path)
    if not isinstance(model, Decoder | ForeignModel):
        raise ConfigError(f"the model of {path} is no decoder and answers no questions", remedy="name another teacher")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer of {path} has no chat template, so its model was not taught to answer questions",
            remedy="name a model that was (a chat or instruct model), or the folder of a run that was fine-tuned",
        )
    digest = hashlib.sha256("\n".join(inputs.of_base(path)).encode()).hexdigest()
    return AnsweringTeacher(Responder(model, tokenizer, sampling), f"sha256:{digest}")


def teacher_of(path: Path) -> finetune.ProbabilityTeacher:
    """A model whose probabilities are learned; it is read when they are first wanted.

    Raises:
        ArtifactError: there is none.
        ConfigError: it was taught by a prompt, which would have to stand in front of what both models read.
    """
    if path.is_dir() and not (path / MODEL_CONFIG_FILE).is_file():
        checkpoint, adapter = newest_model(Store(path / "artifacts"))
        tuned = None if adapter is None else adapter.path
        if tuned is not None and (tuned / CONFIG_FILE).is_file() and peft_type(tuned) == PROMPT:
            raise ConfigError(
                f"the model of {path} was taught by a prompt, which would stand in front of what the learner reads",
                path="finetuning.distil.teacher",
                remedy=f"let it write answers instead: `preceptor distil {path} EXAMPLES --to FILE`",
            )
        known = checkpoint.id if adapter is None else adapter.id
        return finetune.ProbabilityTeacher(
            partial(load_tuned, checkpoint.path, tuned), Tokenizer.load(checkpoint.path), known
        )
    model, tokenizer = find_model(path)
    digest = hashlib.sha256("\n".join(inputs.of_base(path)).encode()).hexdigest()
    return finetune.ProbabilityTeacher(lambda: model, tokenizer, f"sha256:{digest}")


def distil(load: Callable[[], AnsweringTeacher], questions: Path, target: Path) -> int:
    """How many questions of a file are answered in the target, in its order, one conversation a line.

    What is answered so far stands in a file beside the target, from which the same call goes on. The draws of a
    question follow from the seed and its place alone, so that a stopped call ends in the same file as any other.

    Raises:
        DataError: the examples cannot be read, or no question got an answer.
        ConfigError: the target is there already, or its part is of another teacher, file or way to draw.
        OutputError: the target cannot be written.
        Interrupted: a signal has asked to stop.
    """
    if target.exists():
        raise ConfigError(f"{target} is there already", remedy="name another file with --to, or remove this one")
    teacher = load()
    asked = [(example.question, example.group) for example in conversations(read_examples(questions))]
    sampling = teacher.responder.sampling
    header = {
        "teacher": teacher.id,
        "questions": inputs.content(questions).split()[-1],
        "sampling": {name: getattr(sampling, name) for name in sampling.__dataclass_fields__},
    }
    part = target.with_name(target.name + ".part")
    make_folder(target.parent)
    done = _kept(part, header)
    if done:
        say(f"distil: going on from question {done} of {len(asked)}")
    with grace() as stop, Progress("distil", len(asked), "questions") as progress, stop.anywhere():
        progress.advance(done)
        for start in range(done, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            responder = replace(
                teacher.responder, sampling=replace(sampling, seed=derive(sampling.seed, "distil", start))
            )
            replies = responder.answer_many([question for question, _ in chunk])
            lines = [_line(*each, reply, teacher.id) for each, reply in zip(chunk, replies, strict=True)]
            with output_errors(part), part.open("ab") as stream:
                stream.write("".join(lines).encode())
            progress.advance(len(chunk))
    return _finish(part, target)


def _line(question: str, group: str, answer: str, teacher: str) -> str:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": said, "group": group, "teacher": teacher}, ensure_ascii=False) + "\n"


def _kept(part: Path, header: dict[str, Any]) -> int:
    """How many questions a part file has the answers to, in whole chunks; what stands behind them is cut off.

    Raises:
        ConfigError: it was begun otherwise.
    """
    first = json.dumps(header) + "\n"
    if not part.exists():
        write_file(part, first)
        return 0
    with output_errors(part), part.open("r+b") as stream:
        if stream.readline() != first.encode():
            raise ConfigError(
                f"{part} was begun with another teacher, other questions or another way to draw",
                remedy=f"give the same as then, remove {part.name} to begin anew, or name another file with --to",
            )
        whole, count = stream.tell(), 0
        for number, line in enumerate(iter(stream.readline, b""), 1):
            if line.endswith(b"\n") and number % CHUNK == 0:
                whole, count = stream.tell(), number
        stream.truncate(whole)
    return count


def _finish(part: Path, target: Path) -> int:
    """How many answers now stand in the target; questions to which the teacher said nothing are left out."""
    with output_errors(part):
        said = part.read_text(encoding="utf-8").split("\n")[1:-1]
    lines = [line + "\n" for line in said if json.loads(line)["messages"][-1]["content"]]
    num_silent = len(said) - len(lines)
    if num_silent:
        say(f"distil: {num_silent} questions got no answer and are left out")
    if not lines:
        raise DataError(
            "the teacher answered none of the questions", file=part, remedy="name a teacher that was taught to answer"
        )
    write_file(target, "".join(lines))
    part.unlink()
    return len(lines)
