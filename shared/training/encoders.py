"""Transformer encoders of sentences by name: MiniLM as an installed package brings it, a folder, or any model of the
hub that `transformers` knows. Only safetensors are read; nothing is unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared import weights
from shared.errors import BadInput, HaechiError
from shared.manifest import WeightsLicence
from shared.text.tokenise import ASSET, Tokeniser

Pooling = Literal["mean", "first"]


class Encoder(nn.Module):
    """forward: input_ids and attention_mask int64 [N, L] → embedding [N, D], not normalised."""

    def __init__(self, network: nn.Module, width: int, pooling: Pooling) -> None:
        super().__init__()
        self.network = network
        self.width = width
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "first":
            return hidden[:, 0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)

    def layers(self) -> list[list[nn.Parameter]]:
        """All parameters, from the word embeddings to the last layer. What lies outside the layers (word and position
        embeddings, a last normalisation) learns with the layer that it is next to."""
        stacks = [each for each in self.network.modules() if isinstance(each, nn.ModuleList)]
        if not stacks:
            return [list(self.network.parameters())]
        stack = max(stacks, key=lambda each: sum(parameter.numel() for parameter in each.parameters()))
        grouped: list[list[nn.Parameter]] = [[], *(list(layer.parameters()) for layer in stack)]
        inside = {id(parameter) for group in grouped for parameter in group}
        seen_stack = False
        for parameter in self.network.parameters():
            seen_stack = seen_stack or id(parameter) in inside
            if id(parameter) not in inside:
                grouped[-1 if seen_stack else 0].append(parameter)
        return grouped


class Normalised(nn.Module):
    """What a package of a sentence encoder answers: the embedding at unit length."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return functional.normalize(self.encoder(input_ids, attention_mask), dim=-1)


@dataclass(frozen=True)
class Loaded:
    """An encoder in evaluation mode, its tokeniser's file, and where its weights are from."""

    module: Encoder
    tokeniser: bytes
    longest: int
    """Tokens that its position embeddings reach to."""
    licence: WeightsLicence


def load(name: str, *, pooling: Pooling = "mean", pretrained: bool = True) -> Loaded:
    """The encoder of this name.

    Args:
        name: `all-minilm-l6-v2`, a folder with config.json, model.safetensors and tokenizer.json, or `owner/name` on
            the hub.
        pretrained: False for random weights of the same shape.

    Raises:
        BadInput: a folder without what is needed.
        HaechiError: the model is not here and the hub cannot be reached.
    """
    with _quiet():
        if name == weights.MINILM:
            return _load_minilm(pooling, pretrained=pretrained)
        return _load_any(name, pooling, pretrained=pretrained)


def tokeniser(loaded: Loaded, max_length: int) -> Tokeniser:
    """The encoder's tokeniser; BadInput if sentences may be longer than its position embeddings."""
    if max_length > loaded.longest:
        raise BadInput(
            f"model.max_length {max_length} is more than the {loaded.longest} tokens of {loaded.licence.name}."
        )
    return Tokeniser(loaded.tokeniser, max_length)


def _load_minilm(pooling: Pooling, *, pretrained: bool) -> Loaded:
    import transformers
    from safetensors.torch import load_file

    found = {part: weights.resolve(f"{weights.MINILM}{part}") for part in ("", "-config", "-tokenizer")}
    settings = json.loads(found["-config"].path.read_text(encoding="utf-8"))
    config = transformers.BertConfig(**settings)
    network = transformers.BertModel._from_config(config, attn_implementation="eager", add_pooling_layer=False)
    if pretrained:
        stored = load_file(found[""].path)
        kept = {key: value for key, value in stored.items() if not key.startswith("pooler.")}
        missing, unknown = network.load_state_dict(kept, strict=False)
        if missing or set(unknown) - {"embeddings.position_ids"}:
            raise HaechiError(f"weights {weights.MINILM} do not fit the network ({(missing + unknown)[0]}).")
    licence = WeightsLicence(
        name=weights.MINILM, licence=found[""].licence, sha256=found[""].sha256, source=found[""].source
    )
    tokens = found["-tokenizer"].path.read_bytes()
    return Loaded(_finished(network, config, pooling), tokens, config.max_position_embeddings, licence)


def _load_any(name: str, pooling: Pooling, *, pretrained: bool) -> Loaded:
    local = Path(name).is_dir()
    if not local and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise BadInput(
            f"model.encoder {name} is no folder and no name on the hub; use {weights.MINILM}, a folder with "
            f"config.json, model.safetensors and {ASSET}, or owner/name."
        )
    try:
        config, network, tokens = _from_transformers(name, pretrained=pretrained, here=True)
    except Exception as error:  # each of transformers' ways to fail has a type of its own
        if local:
            raise BadInput(
                f"model.encoder {name} cannot be loaded ({_reason(error)}); it needs config.json, model.safetensors "
                f"and {ASSET}."
            ) from error
        config, network, tokens = _from_hub(name, pretrained=pretrained)
    longest = int(getattr(config, "max_position_embeddings", 512))
    content = tokens.backend_tokenizer.to_str().encode()
    module = _finished(network, config, pooling)
    return Loaded(module, content, min(longest, int(tokens.model_max_length)), _licence(name, module))


def _from_transformers(name: str, *, pretrained: bool, here: bool) -> tuple[Any, Any, Any]:
    """Configuration, network and tokeniser of a folder or a name; `here`: without asking the hub."""
    import transformers

    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": here}
    config = transformers.AutoConfig.from_pretrained(name, **options)
    if pretrained:
        network = transformers.AutoModel.from_pretrained(
            name, attn_implementation="eager", use_safetensors=True, **options
        )
    else:
        network = transformers.AutoModel.from_config(config, attn_implementation="eager")
    return config, network, transformers.AutoTokenizer.from_pretrained(name, use_fast=True, **options)


def _from_hub(name: str, *, pretrained: bool) -> tuple[Any, Any, Any]:
    problem = weights.hub_problem()  # asked first: the library itself retries for half a minute
    if problem is None:
        try:
            return _from_transformers(name, pretrained=pretrained, here=False)
        except Exception as error:  # as above
            problem = _reason(error)
    raise HaechiError(
        f"model.encoder {name} is not on this machine, and the hub did not give it ({problem}); fetch it elsewhere and "
        f"give its folder, or use {weights.MINILM}, which needs no hub."
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")[:300]


def _finished(network: nn.Module, config: Any, pooling: Pooling) -> Encoder:
    """Without the parts that no embedding of a sentence goes through."""
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    return Encoder(network.float(), int(config.hidden_size), pooling).eval()


def _licence(name: str, module: nn.Module) -> WeightsLicence:
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return WeightsLicence(name=name, licence="unknown", sha256=digest.hexdigest(), source=name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library draws bars and warns on stderr; its failures are exceptions all the same."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def embed(module: nn.Module, tokens: Tokeniser, texts: list[str], device: Any, size: int = 32) -> Tensor:
    """Embeddings float32 [N, D] of sentences, in batches of like length, without gradients, on the CPU."""
    from shared.progress import stage
    from shared.text.tokenise import alike

    ids = tokens.ids(texts)
    found: Tensor | None = None
    with torch.no_grad(), stage("embedding", len(texts)) as bar:
        for rows in alike([len(row) for row in ids], size):
            batch = tokens.padded([ids[row] for row in rows])
            answer = module(*(torch.from_numpy(batch[name]).to(device) for name in ("input_ids", "attention_mask")))
            if found is None:
                found = torch.empty(len(texts), answer.shape[1])
            found[rows] = answer.float().cpu()
            bar.advance(len(rows))
    if found is None:
        raise BadInput("there are no sentences; give one or more.")
    return found
