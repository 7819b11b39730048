"""The command by which a larger model writes the answers that a smaller one learns from."""

from pathlib import Path

import click

_EPILOG = """\b
Examples
  preceptor distil runs/large questions.jsonl --to answers.jsonl
  preceptor distil models/their-chat-model questions.jsonl --to answers.jsonl --temperature 0.7
  preceptor finetune finetuning.examples=answers.jsonl --out runs/small     learn from them
"""


@click.command(epilog=_EPILOG)
@click.argument("teacher", type=click.Path(path_type=Path))
@click.argument("examples", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="The file to write (JSONL).")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 for the likeliest answer.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=160, show_default=True, help="Longest answer.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
def distil(teacher: Path, examples: Path, target: Path, temperature: float, max_new_tokens: int, seed: int) -> None:
    """Let TEACHER answer the questions of EXAMPLES, as examples for a smaller model.

    TEACHER is the folder of a run, a folder with a model that chats, or a GGUF file; its tokenizer does not matter.
    EXAMPLES is a file as fine-tuning takes it, whose own answers are not looked at. After Ctrl-C the same command goes
    on where it stopped.
    """
    from preceptor.core.errors import ConfigError
    from preceptor.recipes.distil import distil as answer
    from preceptor.recipes.distil import load_teacher
    from preceptor.serve.sampling import SamplingConfig

    try:
        sampling = SamplingConfig(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    except ValueError as error:
        raise ConfigError(str(error), remedy="use 0 for the likeliest answer, or about 0.7") from error
    number = answer(lambda: load_teacher(teacher, sampling), examples, target)
    click.echo(f"{number} answers in {target}")
