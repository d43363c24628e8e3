"""What does somebody want who says this? A transformer encoder with a linear head, fine-tuned on labelled sentences.

A linear probe on the frozen embeddings is the fast first answer and where fine-tuning starts from. Teachers may be any
text packages: each gets the student's sentences in the form that it reads itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import BadInput
from shared.evaluators.text import ACCURACY
from shared.manifest import TensorSpec
from shared.package import open_package
from shared.text.inputs import TextInputs
from shared.text.labelled import Sentence
from shared.text.tokenise import ASSET, Tokeniser
from shared.training import encoders
from shared.training.config import Strict, TrainConfig, parse
from shared.training.encoders import Encoder, Pooling
from shared.training.export import Session, export
from shared.training.probe import Features, classifier_figures, probe_head
from shared.training.task import Batch, Exported, Group, Task
from shared.training.text_data import labelled

_PARITY_SENTENCES = 16
_GOLDEN_SENTENCES = 4
_PROBE_SMOOTHING = 0.1
EVALUATOR = "text-classification"


class Model(Strict):
    """The section `model`."""

    encoder: str = "all-minilm-l6-v2"
    """See `shared.training.encoders`."""
    pretrained: bool = True
    pooling: Pooling = "mean"
    """`mean` of all tokens, or the `first` one."""
    max_length: Annotated[int, Field(ge=4, le=8192)] = 64
    """Tokens of a sentence; what comes after is not read."""
    freeze: Annotated[int, Field(ge=0)] = 0
    """Groups of parameters next to the input that never learn: 1 the words, 2 the first layer as well, and so on. What
    words mean needs no learning anew, and half of the parameters (and of a step's memory) are theirs."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Augment(Strict):
    """The section `augment`."""

    drop_words: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Each token is left out with this probability; the special ones stay."""


class Classifier(nn.Module):
    """forward: input_ids, attention_mask int64 [N, L] → `logits` [N, C] and `features` [N, D]. What else is in a batch
    is for teachers."""

    def __init__(self, encoder: Encoder, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_others: Tensor) -> dict[str, Tensor]:
        features = self.encoder(input_ids, attention_mask)
        return {"logits": self.head(self.dropout(features)), "features": features}


class _Answer(nn.Module):
    """What the package answers."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.classifier(input_ids, attention_mask)["logits"]
        return logits, torch.softmax(logits, dim=1)


class _Logits(nn.Module):
    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.classifier(input_ids, attention_mask)["logits"]
        return logits


class Samples:
    """Sentences to train on, as token ids of different lengths."""

    def __init__(self, sentences: Sequence[Sentence], tokens: Tokeniser, augment: Augment) -> None:
        self.sentences, self.augment = sentences, augment
        self._ids = tokens.ids([each.text for each in sentences])

    def __len__(self) -> int:
        return len(self.sentences)

    def sample(self, index: int, generator: np.random.Generator) -> Mapping[str, Any]:
        ids = self._ids[index]
        if self.augment.drop_words:
            kept = generator.random(len(ids)) >= self.augment.drop_words
            kept[[0, -1]] = True
            ids = [each for each, keep in zip(ids, kept, strict=True) if keep]
        return {"ids": ids, "sentence": index, "target": self.sentences[index].label}


class TextClassification(Task):
    """`task: text-classification`."""

    metric = ACCURACY

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.model = parse(Model, config.model, "model")
        self.augment = parse(Augment, config.augment, "augment")
        self.found = labelled(config)
        self.labels = self.found.labels
        self.data_fingerprint = self.found.fingerprint
        self.loaded = encoders.load(self.model.encoder, pooling=self.model.pooling, pretrained=self.model.pretrained)
        self.licences = [self.loaded.licence] if self.model.pretrained else []
        self.tokens = encoders.tokeniser(self.loaded, self.model.max_length)
        self.sentences = Samples(self.found.train, self.tokens, self.augment)
        self.samples = self.sentences
        self._teachers: list[TextInputs] | None = None

    def build(self) -> nn.Module:
        encoder = self.loaded.module.train()
        layers = encoder.layers()
        if self.model.freeze >= len(layers):
            raise BadInput(f"model.freeze {self.model.freeze}: {self.model.encoder} has {len(layers)} groups only.")
        for parameter in (each for layer in layers[: self.model.freeze] for each in layer):
            parameter.requires_grad_(False)
        return Classifier(encoder, len(self.labels), self.model.dropout)

    def groups(self, module: nn.Module) -> list[Group]:
        encoder = module.get_submodule("encoder")
        assert isinstance(encoder, Encoder)
        head = Group(list(module.get_submodule("head").parameters()), is_head=True)
        # Frozen for good by their place, not by what is frozen now: the engine freezes and unfreezes by these groups.
        learning = encoder.layers()[self.model.freeze :]
        if not self.model.pretrained:
            head.parameters.extend(each for layer in learning for each in layer)
            return [head]
        return [*(Group(layer) for layer in learning if layer), head]

    def collate(self, samples: Sequence[Mapping[str, Any]], generator: np.random.Generator) -> Batch:  # noqa: ARG002
        inputs = self.tokens.padded([sample["ids"] for sample in samples])
        batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
        batch["target"] = torch.tensor([sample["target"] for sample in samples])
        if self.config.distill.teachers:
            batch["sentence"] = torch.tensor([sample["sentence"] for sample in samples])
        return batch

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return functional.cross_entropy(outputs["logits"], batch["target"], label_smoothing=self.model.label_smoothing)

    def validate(self, module: nn.Module, device: Any) -> dict[str, float]:
        texts, targets = _columns(self.found.val)
        return classifier_figures(encoders.embed(_Logits(module), self.tokens, texts, device), targets)

    def probe(self, module: nn.Module) -> dict[str, float] | None:
        """Logistic regression on the frozen embeddings; none for random weights."""
        if not self.model.pretrained:
            return None
        assert isinstance(module, Classifier)
        device = next(module.parameters()).device
        train, val = (self._features(module, split, device) for split in (self.found.train, self.found.val))
        return probe_head(module.head, train, val, _PROBE_SMOOTHING)

    def _features(self, module: Classifier, sentences: Sequence[Sentence], device: Any) -> Features:
        texts, targets = _columns(sentences)
        return Features(encoders.embed(module.encoder, self.tokens, texts, device), targets)

    # -- teachers ----------------------------------------------------------------------------------------------------

    def teacher_inputs(self, batch: Batch) -> dict[str, np.ndarray]:
        """The sentences before augmentation, in the form that the teachers read: their tokeniser is seldom ours."""
        if self._teachers is None:
            self._teachers = [self._reader(path) for path in self.config.distill.teachers]
        texts = [self.found.train[int(index)].text for index in batch["sentence"]]
        inputs: dict[str, np.ndarray] = {}
        for reader in self._teachers:
            for name, array in reader(texts).items():
                if name in inputs and not np.array_equal(inputs[name], array):
                    raise BadInput(
                        f"distill.teachers: two of them read sentences in different forms ({name}); use one of them."
                    )
                inputs[name] = array
        return inputs

    def _reader(self, path: Any) -> TextInputs:
        package = open_package(path)
        return TextInputs.of(package.manifest, {name: package.asset(name) for name in package.assets})

    # -- export ------------------------------------------------------------------------------------------------------

    def export(self, module: nn.Module) -> Exported:
        reader = TextInputs(self.tokens, None)
        answer = _Answer(module).eval()
        texts = [each.text for each in self.found.val]
        golden = reader(texts[:_GOLDEN_SENTENCES])
        classes = len(self.labels)
        return Exported(
            model=(model := export_text(answer, ["logits", "probabilities"])),
            inputs=reader.specs(),
            outputs=[
                TensorSpec(name=name, datatype="FP32", shape=[-1, classes]) for name in ("logits", "probabilities")
            ],
            golden_inputs=golden,
            parity=parity(answer, model, reader, texts[:_PARITY_SENTENCES], "logits"),
            task="text-classification",
            evaluator=EVALUATOR,
            labels=list(self.labels),
            preprocessing=reader.preprocessing(),
            assets={ASSET: self.loaded.tokeniser},
            description=f"{self.model.encoder} that tells {classes} labels apart",
        )


def _columns(sentences: Sequence[Sentence]) -> tuple[list[str], Tensor]:
    """Texts, and their labels int64 [N]."""
    return [each.text for each in sentences], torch.tensor([each.label for each in sentences])


def export_text(module: nn.Module, outputs: Sequence[str]) -> bytes:
    """The ONNX file of a module that takes input_ids and attention_mask; both sizes are free."""
    sizes = {0: "batch", 1: "sequence"}
    example = torch.ones(2, 12, dtype=torch.int64)
    examples = {"input_ids": example, "attention_mask": example.clone()}
    return export(module, examples, outputs, dict.fromkeys(examples, sizes))


def parity(module: nn.Module, model: bytes, reader: TextInputs, texts: Sequence[str], output: str) -> float:
    """The largest difference between module and graph on sentences one by one, against the largest number of each.

    Args:
        module: its outputs are the graph's in their order; `output` is the first.
    """
    session, worst = Session(model, 1), 0.0
    for text in texts:
        inputs = reader([text])
        with torch.inference_mode():
            answer = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        ours = (answer[0] if isinstance(answer, tuple) else answer).numpy()
        theirs = session.run(inputs)[output]
        # Against the largest number: one of an embedding's near nought says nothing.
        worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(ours).max()))
    return worst
