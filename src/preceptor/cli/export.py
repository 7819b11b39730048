"""The command that takes a model out of a run's folder."""

from pathlib import Path
from typing import Any

import click

_EPILOG = """\b
Examples
  preceptor export --out runs/default --to my-model                       for transformers, in float32
  preceptor export --out runs/default --to my-model --bits 16             the same in bfloat16
  preceptor export --out runs/default --to my-adapter --as adapter        for peft, without the base model
  preceptor export --out runs/default --to my-gguf --as gguf --bits 4     for llama.cpp, in 4 bits

\b
What --bits means
  merged   16: bfloat16. 8, 4: linear layers as bitsandbytes int8 or nf4, which transformers loads where bitsandbytes
           is installed (pip install 'preceptor[quant]'); embeddings and norms stay in float32.
  gguf     16: F16. 8: Q8_0. 4: Q4_0 with embeddings in Q8_0. Always available.
"""


@click.command(epilog=_EPILOG)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/default"), show_default=True, metavar="RUN",
              help="The folder of the run.")  # fmt: skip
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, metavar="FOLDER",
              help="Where the model goes; a folder that is not there yet.")  # fmt: skip
@click.option("--as", "form", type=click.Choice(["merged", "adapter", "gguf"]), default="merged", show_default=True,
              help="merged: one model in the layout of transformers. adapter: what was trained on top of the base, in "
              "the layout of peft. gguf: one model in one file for llama.cpp and the like.")  # fmt: skip
@click.option("--bits", type=click.Choice(["32", "16", "8", "4"]), default="32", show_default=True,
              help="How many bits a weight has.")  # fmt: skip
@click.option("--no-adapter", is_flag=True, help="The model before fine-tuning, which an adapter belongs to.")
@click.option("--force", is_flag=True, help="Replace an earlier export in FOLDER.")
def export(out: Path, target: Path, form: str, bits: str, no_adapter: bool, force: bool) -> None:
    """Take the newest model out of a run's folder, with its tokenizer, chat template and model card.

    Before FOLDER appears, the same prompts go through the trained model, the merged one and the one that is loaded from
    what was written. If they say something else than the format explains, or the tokenizer or chat template gives other
    ids, nothing is written. Nor is it where a withdrawn document, or one that the run's rights policy refuses, was
    trained on. README.md in FOLDER is the model card; export.json has the figures.
    """
    from preceptor.recipes.export import export as make

    facts = make(out, target, form=form, bits=int(bits), with_adapter=not no_adapter, force=force)  # type: ignore[arg-type]
    click.echo(_told(facts, target))


def _told(facts: dict[str, Any], target: Path) -> str:
    """What was written and how near it is to the trained model."""
    from preceptor.core.units import human_bytes

    lines = [f"{facts['name']} is in {target}, as {facts['as']} in {facts['numbers']}", ""]
    lines += [f"  {name:32s} {human_bytes(file['bytes']):>9s}" for name, file in facts["files"].items()]
    lines.append("")
    for row in facts["parity"]:
        answers = (
            "" if row["same_answers"] is None else f", {100 * row['same_answers']:.0f} % of greedy answers the same"
        )
        lines.append(
            f"  {row['what']}: logits within {row['max_logit_difference']:.2g}, {row['kl_per_token']:.2g} nats for a "
            f"token, {100 * row['same_tokens']:.1f} % of tokens the same{answers}"
        )
    return "\n".join([*lines, "", f"Next: read {target / 'README.md'}, the model card, before you pass it on"])
