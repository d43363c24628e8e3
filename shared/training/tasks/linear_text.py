"""The light text classifier: hashed n-grams, and if wanted a sentence embedding, under one linear layer.

It trains in seconds to minutes on a CPU and answers in a fraction of a millisecond without the embedding. The package
holds everything behind the n-gram ids: weighting, the encoder, the linear layer, calibrated probabilities. With an
encoder it also answers the `embedding`, for scores that need it (how far from everything known is this?).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn

from shared import files
from shared.errors import BadInput
from shared.evaluators.classification import scores, softmax
from shared.evaluators.text import ACCURACY
from shared.manifest import TensorSpec
from shared.text.features import Features
from shared.text.inputs import TextInputs
from shared.text.tokenise import ASSET
from shared.training import encoders, linear
from shared.training.config import Strict, TrainConfig, parse
from shared.training.encoders import Normalised
from shared.training.export import export
from shared.training.linear import Fitted, Kind
from shared.training.task import Exported, OwnLoop
from shared.training.tasks.text import parity
from shared.training.text_data import labelled

_GOLDEN_SENTENCES = 4
_PARITY_SENTENCES = 16


class Model(Strict):
    """The section `model`."""

    features: dict[str, Any] | None = Field(default_factory=dict)
    """Which n-grams (`shared.text.features.Features`); null: none, the embedding alone."""
    encoder: str = ""
    """Of the sentence embedding, as in `text-classification`; empty: n-grams alone."""
    embedding_weight: Annotated[float, Field(gt=0)] = 1.0
    """Length of the embedding beside the n-grams, whose vector has length 1."""
    max_length: Annotated[int, Field(ge=4, le=8192)] = 64
    """Tokens for the encoder."""
    classifier: Kind = "svm"
    c: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        default_factory=lambda: [0.3, 1.0, 3.0]
    )
    """Inverse strengths of regularisation to choose from by cross-validation."""


class LinearNetwork(nn.Module):
    """What the package computes; see `shared.training.linear`.

    forward: of the inputs that there are, ngram_ids int64 [N, L] and ngram_counts float32 [N, L] (0 where filled up),
    input_ids and attention_mask int64 [N, T] → logits [N, C], already divided by the temperature; their softmax; and
    embedding [N, D] if there is an encoder.
    """

    def __init__(
        self,
        fitted: Fitted,
        idf: NDArray[np.float32] | None,
        encoder: nn.Module | None,
        embedding_weight: float,
    ) -> None:
        super().__init__()
        weight = torch.from_numpy(fitted.model.weight / fitted.temperature)
        split = 0 if idf is None else len(idf)
        self.encoder = encoder
        self.register_buffer("bias", torch.from_numpy(fitted.model.bias / fitted.temperature))
        if idf is not None:
            self.register_buffer("idf", torch.from_numpy(idf))
            self.register_buffer("table", weight[:, :split].T.contiguous())
        if encoder is not None:
            self.register_buffer("dense", (weight[:, split:] * embedding_weight).T.contiguous())

    def _ngrams(self, ids: Tensor, counts: Tensor) -> Tensor:
        values = torch.where(counts > 0, 1 + torch.log(counts.clamp(min=1)), 0.0)
        values = values * nn.functional.embedding(ids, self.get_buffer("idf").unsqueeze(1)).squeeze(-1)
        values = values / values.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-9)
        rows = nn.functional.embedding(ids, self.get_buffer("table"))
        return torch.matmul(values.unsqueeze(1), rows).squeeze(1)

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        logits = self.get_buffer("bias").unsqueeze(0)
        extra = []
        if "ngram_ids" in inputs:
            logits = logits + self._ngrams(inputs["ngram_ids"], inputs["ngram_counts"])
        if self.encoder is not None:
            embedding = self.encoder(inputs["input_ids"], inputs["attention_mask"])
            logits = logits + embedding @ self.get_buffer("dense")
            extra = [embedding]
        return (logits, torch.softmax(logits, dim=1), *extra)


class _OfNgrams(nn.Module):
    """The exporter gives inputs in their order and wants each of them named; so do the two below."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ngram_ids: Tensor, ngram_counts: Tensor) -> Any:
        return self.network(ngram_ids=ngram_ids, ngram_counts=ngram_counts)


class _OfTokens(_OfNgrams):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.network(input_ids=input_ids, attention_mask=attention_mask)


class _OfBoth(_OfNgrams):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, ngram_ids: Tensor, ngram_counts: Tensor) -> Any:  # type: ignore[override]
        return self.network(
            input_ids=input_ids, attention_mask=attention_mask, ngram_ids=ngram_ids, ngram_counts=ngram_counts
        )


class LinearText(OwnLoop):
    """`task: linear-text`."""

    metric = ACCURACY

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.model = parse(Model, config.model, "model")
        self.features = None if self.model.features is None else Features.from_dict(self.model.features)
        if self.features is None and not self.model.encoder:
            raise BadInput("model.features is null and model.encoder empty: there is nothing to read; set one of them.")
        self.found = labelled(config)
        missing = set(range(len(self.found.labels))) - {each.label for each in self.found.train}
        if missing:
            label = self.found.labels[min(missing)]
            raise BadInput(f"data.path {self.found.root}: no sentence to train on has the label {label!r}; add some.")
        self.data_fingerprint = self.found.fingerprint
        self.loaded = encoders.load(self.model.encoder) if self.model.encoder else None
        self.encoder = Normalised(self.loaded.module).eval() if self.loaded else None
        tokens = encoders.tokeniser(self.loaded, self.model.max_length) if self.loaded else None
        self.reader = TextInputs(tokens, self.features)
        self.licences = [self.loaded.licence] if self.loaded else []

    def train(self, folder: Path, *, resume: bool) -> tuple[Exported, dict[str, float]]:  # noqa: ARG002
        """Minutes at most, so `resume` begins anew. Leaves `choice.json` in the folder: accuracy of each C."""
        train, val = ([each.text for each in split] for split in (self.found.train, self.found.val))
        x, idf = self._vectors(train, None)
        y = np.array([each.label for each in self.found.train], dtype=np.int64)
        fitted = linear.fit_calibrated(x, y, self.model.classifier, sorted(set(self.model.c)), self.config.seed)
        choice = {"c": fitted.c, "accuracy": {str(c): value for c, value in fitted.accuracies.items()}}
        files.write_json(folder / "choice.json", choice | {"temperature": fitted.temperature})
        targets = np.array([each.label for each in self.found.val], dtype=np.int64)
        logits = fitted.model.logits(self._vectors(val, idf)[0]) / fitted.temperature
        metrics = scores(softmax(logits), targets)
        metrics |= {"c": fitted.c, "temperature": fitted.temperature, "fit_seconds": fitted.seconds}
        network = LinearNetwork(fitted, idf, self.encoder, self.model.embedding_weight).eval()
        return self._exported(network, val), metrics

    def _vectors(self, texts: list[str], idf: NDArray[np.float32] | None) -> tuple[Any, NDArray[np.float32] | None]:
        """What the linear layer sees [N, D], and the rarity of n-grams: `idf`, or if None that of these texts."""
        parts: list[Any] = []
        if self.features is not None:
            counts = linear.counted(texts, self.features)
            idf = linear.rarity(counts) if idf is None else idf
            parts.append(linear.weighted(counts, idf))
        if self.encoder is not None and self.reader.tokeniser is not None:
            found = encoders.embed(self.encoder, self.reader.tokeniser, texts, "cpu").numpy()
            parts.append(found * np.float32(self.model.embedding_weight))
        if len(parts) == 1:
            return parts[0], idf
        return sparse.hstack([parts[0], sparse.csr_matrix(parts[1])]).tocsr(), idf

    def _exported(self, network: LinearNetwork, texts: list[str]) -> Exported:
        examples, dynamic = _examples(self.reader)
        classes = len(self.found.labels)
        outputs = {"logits": classes, "probabilities": classes}
        if self.loaded is not None:
            outputs["embedding"] = self.loaded.module.width
        taking = _OfNgrams if self.loaded is None else _OfTokens if self.features is None else _OfBoth
        model = export(taking(network).eval(), examples, list(outputs), dynamic)
        parts = ["n-grams"] * (self.features is not None) + [self.model.encoder] * bool(self.model.encoder)
        return Exported(
            model=model,
            inputs=self.reader.specs(),
            outputs=[TensorSpec(name=name, datatype="FP32", shape=[-1, width]) for name, width in outputs.items()],
            golden_inputs=self.reader(texts[:_GOLDEN_SENTENCES]),
            parity=parity(network, model, self.reader, texts[:_PARITY_SENTENCES], "logits"),
            task="text-classification",
            evaluator="text-classification",
            labels=list(self.found.labels),
            preprocessing=self.reader.preprocessing(),
            assets={ASSET: self.loaded.tokeniser} if self.loaded else {},
            description=f"{' and '.join(parts)} under a linear layer that tells {classes} labels apart",
        )


def _examples(reader: TextInputs) -> tuple[dict[str, Tensor], Mapping[str, Mapping[int, str]]]:
    """Example inputs for the exporter, and the names of their sizes."""
    examples: dict[str, Tensor] = {}
    dynamic: dict[str, Mapping[int, str]] = {}
    for spec in reader.specs():
        length = "ngrams" if spec.name.startswith("ngram") else "sequence"
        dtype = torch.float32 if spec.datatype == "FP32" else torch.int64
        examples[spec.name] = torch.ones(2, 12 if length == "sequence" else 30, dtype=dtype)
        dynamic[spec.name] = {0: "batch", 1: length}
    return examples, dynamic
