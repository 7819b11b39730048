"""Decoders of architectures that are not ours, run by the library transformers, which is an extra.

What is promised of our own models is proved by tests; of these it is tried out on the model itself, before its first
use.
"""

import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.core.progress import say
from preceptor.models.architecture import Architecture
from preceptor.models.family import ModelFamily
from preceptor.models.foreign_config import ForeignConfig
from preceptor.models.language_model import LanguageModel
from preceptor.nn.inputs import Inputs
from preceptor.nn.masks import self_attention_mask

EXTRA = "pip install 'preceptor[hf]', with which the library transformers runs models of other types"
NOT_PROVED = (
    "that a token says nothing of those before it, and that packed documents do not see each other, is tried on two "
    "short texts, not proved by tests",
    "the same run giving the same weights, bit for bit, depends on the code of transformers",
    "activation checkpointing and rates by layer find blocks only where these are called layers, and operations of "
    "attention are not counted",
    "generation computes the whole text again for each token",
)
"""What is promised of our own models and not of these."""
_PLAINLY = {"trust_remote_code": False, "dtype": torch.float32}
_PROBE_TOKENS = 6
_CLOSE = 1e-4
_told: set[str] = set()


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        return None


def has_transformers() -> bool:
    """Whether the extra is installed."""
    return _transformers() is not None


def is_foreign(model_type: str) -> bool:
    """Whether transformers has a decoder of this type."""
    if not has_transformers():
        return False
    names = importlib.import_module("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return model_type in names


def foreign_config(table: Mapping[str, Any]) -> ForeignConfig:
    """The configuration of a model, from the content of its config.json.

    Raises:
        ValueError: it asks for code or kernels from elsewhere, or says less than is needed.
    """
    if "quantization_config" in table:
        raise ValueError("its weights are quantised already; take the model they were made from")
    found = _settings(table)
    text = found.get_text_config()
    longest = next(
        (n for key in ("max_position_embeddings", "n_positions", "seq_length") if (n := getattr(text, key, None))), 2048
    )
    return ForeignConfig(
        model_type=str(table["model_type"]),
        vocab_size=int(text.vocab_size),
        hidden_size=int(text.hidden_size),
        num_hidden_layers=int(text.num_hidden_layers),
        max_position_embeddings=int(longest),
        tie_word_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
        table=json.dumps(_plain(table), sort_keys=True),
    )


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table without what could name code or kernels to fetch."""
    left_out = ("auto_map", "custom_pipelines", "_name_or_path", "attn_implementation", "_attn_implementation")
    return {key: value for key, value in table.items() if key not in left_out}


def _settings(table: Mapping[str, Any]) -> Any:
    values = _plain(table)
    return _transformers().AutoConfig.for_model(values.pop("model_type"), **values)


def foreign_module(config: ForeignConfig) -> "ForeignModel":
    """The module of a configuration, with the weights that transformers starts it with."""
    settings = _settings(json.loads(config.table))
    settings.get_text_config().vocab_size = config.vocab_size
    make = _transformers().AutoModelForCausalLM.from_config
    module = _with_attention(lambda kind: make(settings, attn_implementation=kind, **_PLAINLY))
    return ForeignModel(config, module)


def build(config: ForeignConfig, generator: torch.Generator | None = None) -> "ForeignModel":
    """The model of a configuration with starting weights drawn from the generator, as transformers spreads them."""
    seed = int(torch.randint(2**62, (), generator=generator or torch.Generator().manual_seed(0)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return foreign_module(config)


FAMILY = ModelFamily(name="foreign", config=ForeignConfig, module=foreign_module, build=build, sharding={})
FOREIGN = Architecture(model_type="foreign", class_name="AutoModelForCausalLM", family=FAMILY, config_names={})
"""The row for whatever has none of its own."""


def load_foreign(folder: Path, config: ForeignConfig) -> "ForeignModel":
    """The model of a folder, in evaluation mode, with its weights in float32; nothing is fetched, and no code is run.

    Raises:
        ArtifactError: the weights cannot be read or do not fit, or the model is none that reads from left to right.
    """
    load = _transformers().AutoModelForCausalLM.from_pretrained
    given = {"config": _settings(json.loads(config.table)), "local_files_only": True, "use_safetensors": True}
    given |= {"output_loading_info": True, **_PLAINLY}
    try:
        found, report = _with_attention(lambda kind: load(folder, attn_implementation=kind, **given))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder}: transformers cannot load this {config.model_type} model: {error}",
            remedy="check that the folder holds config.json and safetensors of the same model",
        ) from error
    wrong = [name for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for name in report.get(kind) or ()]
    if wrong:
        raise ArtifactError(
            f"{folder}: {len(wrong)} tensors are missing, unexpected or of another shape, such as {wrong[0]}",
            remedy="the weights and config.json are not of the same model; fetch or train it again",
        )
    model = ForeignModel(config, found).eval()
    model.require_proof(folder)
    if config.model_type not in _told:
        _told.add(config.model_type)
        say(f"{config.model_type} is run by the library transformers. Not proved here: {'; '.join(NOT_PROVED)}")
    return model


def _with_attention(make: Callable[[str], Any]) -> Any:
    """What is made with PyTorch's attention or, where the architecture knows none, with its own."""
    with _quiet(_transformers()):
        try:
            return make("sdpa")
        except ValueError:
            return make("eager")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """A block in which transformers shows no bars and tells nothing but errors."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


class TokenCache:
    """What stands for a cache where a model keeps none: the tokens of each row."""

    def __init__(self, batch_size: int, max_tokens: int, device: torch.device) -> None:
        self.tokens_BT = torch.zeros(batch_size, max_tokens, dtype=torch.int64, device=device)
        self.lengths_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.max_tokens = max_tokens


@dataclass(frozen=True, slots=True)
class _Proof:
    """What was found out about a model by trying."""

    isolates: bool
    """Whether it keeps packed documents apart by our mask and positions."""
    scale: float
    """What its last states are multiplied by before they are scored."""


class ForeignModel(LanguageModel):
    """A model of transformers by our contract. The names of its weights are transformers'.

    Packed documents are kept apart by a mask where the model heeds it, which is tried out; else each document is given
    to the model as a row of its own, which is right for any model that reads from left to right.
    """

    def __init__(self, config: ForeignConfig, module: Any) -> None:
        super().__init__()
        self.config = config
        # Its parts are ours, so that their names have nothing in front; it itself is not, so that none counts twice.
        self._whole: list[Any] = [module]
        for name, child in module.named_children():
            self.add_module(name, child)
        self.logit_softcap = float(getattr(module.config.get_text_config(), "final_logit_softcapping", None) or 0.0)
        accepted = inspect.signature(module.base_model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._proof: _Proof | None = None

    @property
    def transformers_model(self) -> Any:
        """The model as transformers has it."""
        return self._whole[0]

    @property
    def isolates_documents(self) -> bool:
        """Whether packed documents are kept apart by a mask; else each is computed as a row of its own."""
        return self._proved().isolates

    @property
    def input_embedding(self) -> nn.Embedding:
        """The embedding of the vocabulary."""
        return self.transformers_model.get_input_embeddings()  # type: ignore[no-any-return]

    @property
    def output_weight_VD(self) -> Tensor:
        """The weights that turn a state into scores of the vocabulary."""
        return self.transformers_model.get_output_embeddings().weight  # type: ignore[no-any-return]

    @property
    def output_bias_V(self) -> Tensor | None:
        """What is added to the scores."""
        return getattr(self.transformers_model.get_output_embeddings(), "bias", None)

    def to_output(self, hidden: Tensor) -> Tensor:
        """States made ready for the output weights, of shape ... D."""
        scale = self._proved().scale
        return hidden if scale == 1.0 else hidden * scale

    def hidden(self, inputs: Inputs) -> Tensor:
        """The last states, of shape B T D; documents (segments) do not see each other."""
        if inputs.segments_BT is None:
            return self._states(inputs.tokens_BT, inputs.positions_BT)
        if self._proved().isolates:
            return self._masked(inputs)
        return self._one_by_one(inputs)

    def _states(self, tokens_BT: Tensor, positions_BT: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        given: dict[str, Any] = {"input_ids": tokens_BT, "use_cache": False, "return_dict": True}
        if positions_BT is not None and self._takes_positions:
            given["position_ids"] = positions_BT
        if mask is not None:
            given["attention_mask"] = mask
        try:
            return self.transformers_model.base_model(**given).last_hidden_state  # type: ignore[no-any-return]
        except (AttributeError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "Inference tensors" not in str(error):
                raise
            raise ConfigError(
                f"the code of {self.config.model_type} in transformers looks into a layer that was replaced: {error}",
                path="finetuning.adapter.target_modules",
                remedy='name other layers in finetuning.adapter.target_modules, and leave quantise = "none"',
            ) from error

    def _masked(self, inputs: Inputs) -> Tensor:
        mask = self_attention_mask(inputs, self.input_embedding.weight.dtype, causal=True)
        return self._states(inputs.tokens_BT, inputs.places(), mask)

    def _one_by_one(self, inputs: Inputs) -> Tensor:
        """Each document in a row of its own, those of like length together, padded behind, where nothing looks."""
        segments_BT, width = inputs.segments_BT, inputs.tokens_BT.shape[1]
        assert segments_BT is not None
        begins_BT = torch.ones_like(segments_BT, dtype=torch.bool)
        begins_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
        firsts = begins_BT.view(-1).nonzero().squeeze(1)
        lengths = torch.diff(firsts, append=firsts.new_tensor([segments_BT.numel()]))
        real = segments_BT.view(-1)[firsts] >= 0
        firsts, lengths = firsts[real], lengths[real]
        tokens, places = inputs.tokens_BT.reshape(-1), inputs.places().reshape(-1)
        result: Tensor | None = None
        sizes = 1 << (lengths - 1).clamp(min=0).float().log2().floor().long().add(1)
        for size in sorted(set(sizes.tolist())):
            chosen = sizes == size
            longest = min(int(lengths[chosen].max()), width)
            steps = torch.arange(longest, device=tokens.device)
            inside_NL = steps < lengths[chosen].unsqueeze(1)
            where_NL = (firsts[chosen].unsqueeze(1) + steps).clamp(max=tokens.numel() - 1)
            states_NLD = self._states(tokens[where_NL] * inside_NL, places[where_NL] * inside_NL)
            if result is None:
                result = states_NLD.new_zeros(tokens.numel(), states_NLD.shape[-1])
            result = result.index_put((where_NL[inside_NL],), states_NLD[inside_NL])
        assert result is not None
        return result.view(*segments_BT.shape, -1)

    def _proved(self) -> _Proof:
        if self._proof is None:
            self._proof = self._try_out()
        return self._proof

    @torch.no_grad()
    def _try_out(self) -> _Proof:
        """What the model does with two short documents in one row; its mode is as before afterwards.

        Raises:
            ValueError: a token sees those behind it, or scores are no multiple of the states' products.
        """
        was_training = [module for module in self.modules() if module.training]
        self.eval()
        device, size = self.input_embedding.weight.device, self.config.vocab_size
        count = _PROBE_TOKENS
        try:
            with torch.autocast(device.type, enabled=False):
                row = (torch.arange(2 * count, device=device) * 7919 + 11).remainder(size).unsqueeze(0)
                changed = row.clone()
                changed[:, -1] = (changed[:, -1] + size // 2).remainder(size)
                if not torch.allclose(self._states(row)[:, :-1], self._states(changed)[:, :-1], atol=1e-6):
                    raise ValueError("a token sees those behind it, so it is no model that can be trained to go on")
                return _Proof(self._isolates(row), self._scale(row))
        finally:
            for module in was_training:
                module.training = True

    def _isolates(self, row: Tensor) -> bool:
        """Whether the second document of a row is what it is alone, and does not change with the first."""
        count = _PROBE_TOKENS
        places = torch.arange(count, device=row.device).repeat(2).unsqueeze(0)
        segments = torch.arange(2, device=row.device).repeat_interleave(count).unsqueeze(0)
        other = row.clone()
        other[:, :count] = (other[:, :count] + 5).remainder(self.config.vocab_size)
        try:
            packed, changed = (self._masked(Inputs(each, places, segments))[:, count:] for each in (row, other))
        except (ConfigError, RuntimeError, ValueError, TypeError, IndexError):
            return False  # it has no place for a mask of this form
        alone = self._states(row[:, count:], places[:, :count])
        return torch.equal(packed, changed) and bool((packed - alone).abs().max() <= _CLOSE * alone.abs().max())

    def _scale(self, row: Tensor) -> float:
        """By how much the states are multiplied before they are scored."""
        theirs = self.transformers_model(input_ids=row, use_cache=False).logits
        hidden, weight, bias = self._states(row), self.output_weight_VD, self.output_bias_V
        ours = nn.functional.linear(hidden, weight, bias)
        plain = self.logit_softcap * torch.tanh(ours / self.logit_softcap) if self.logit_softcap else ours
        if torch.allclose(theirs, plain, rtol=_CLOSE, atol=_CLOSE):
            return 1.0
        scale = float((theirs * ours).sum() / ours.square().sum())
        if bias is not None or self.logit_softcap or not torch.allclose(theirs, scale * ours, rtol=_CLOSE, atol=_CLOSE):
            raise ValueError("its scores are not the products of its last states and its output weights")
        return scale

    def require_proof(self, where: Path) -> None:
        """Refuse a model that does not keep our contract.

        Raises:
            ArtifactError: says what it does.
        """
        conv = [type(each).__name__ for each in self.modules() if type(each).__name__ == "Conv1D"]
        try:
            if conv:
                raise ValueError("its layers are of transformers' own kind Conv1D, which adapters do not know")
            if [*self.transformers_model.parameters(recurse=False), *self.transformers_model.buffers(recurse=False)]:
                raise ValueError("it has weights outside its parts")
            self._proved()
        except ValueError as error:
            raise ArtifactError(
                f"{where}: the {self.config.model_type} model cannot be trained here: {error}",
                remedy="choose a decoder of another architecture",
            ) from error

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and safetensors, as transformers does, into an existing folder."""
        whole = self.transformers_model
        state = {name: each.to(dtype) for name, each in whole.state_dict().items()}
        with _quiet(_transformers()):
            whole.save_pretrained(folder, state_dict=state)

    def new_cache(self, batch_size: int, max_tokens: int) -> TokenCache:
        """An empty cache for a batch of rows that may grow to ``max_tokens`` each."""
        return TokenCache(batch_size, max_tokens, self.input_embedding.weight.device)

    @torch.no_grad()
    def step(self, tokens_BT: Tensor, cache: TokenCache, lengths_B: Tensor | None = None) -> Tensor:
        """The logits of shape B V after each row's last token; the whole rows are computed anew.

        Rows are padded on the right; ``lengths_B`` says how many tokens of each row are real (all, when left out).
        """
        if lengths_B is None:
            lengths_B = torch.full_like(cache.lengths_B, tokens_BT.shape[1])
        steps = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        rows, columns = (steps < lengths_B.unsqueeze(1)).nonzero(as_tuple=True)
        cache.tokens_BT[rows, cache.lengths_B[rows] + columns] = tokens_BT[rows, columns]
        cache.lengths_B += lengths_B
        longest = int(cache.lengths_B.max())
        # What stands behind a row's end is not seen by what stands before.
        hidden_BTD = self._states(cache.tokens_BT[:, :longest])
        return self.score(hidden_BTD[torch.arange(len(lengths_B)), cache.lengths_B - 1])
