"""A frozen sentence encoder as a package: nothing is trained, its quality is measured on labelled sentences.

For what needs meanings as vectors (search, out-of-scope scores, linear models on embeddings), and as the parent of a
smaller one that `haechi compress` makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.evaluators.text import PROTOTYPE_ACCURACY, EmbeddedTexts
from shared.manifest import TensorSpec
from shared.text.inputs import TextInputs
from shared.text.tokenise import ASSET
from shared.training import encoders
from shared.training.config import Strict, TrainConfig, parse
from shared.training.encoders import Normalised, Pooling
from shared.training.export import Session
from shared.training.task import Exported, OwnLoop
from shared.training.tasks.text import export_text, parity
from shared.training.text_data import labelled

_GOLDEN_SENTENCES = 4
_PARITY_SENTENCES = 16


class Model(Strict):
    """The section `model`."""

    encoder: str = "all-minilm-l6-v2"
    """See `shared.training.encoders`."""
    pooling: Pooling = "mean"
    max_length: Annotated[int, Field(ge=4, le=8192)] = 128


class SentenceEmbedding(OwnLoop):
    """`task: sentence-embedding`."""

    metric = PROTOTYPE_ACCURACY

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.model = parse(Model, config.model, "model")
        self.found = labelled(config)
        self.data_fingerprint = self.found.fingerprint
        self.loaded = encoders.load(self.model.encoder, pooling=self.model.pooling)
        self.licences = [self.loaded.licence]

    def train(self, folder: Path, *, resume: bool) -> tuple[Exported, dict[str, float]]:  # noqa: ARG002
        reader = TextInputs(encoders.tokeniser(self.loaded, self.model.max_length), None)
        module = Normalised(self.loaded.module).eval()
        model = export_text(module, ["embedding"])
        measured = EmbeddedTexts(reader, self.found).evaluate(Session(model, 1).run)
        texts = [each.text for each in self.found.val]
        exported = Exported(
            model=model,
            inputs=reader.specs(),
            outputs=[TensorSpec(name="embedding", datatype="FP32", shape=[-1, self.loaded.module.width])],
            golden_inputs=reader(texts[:_GOLDEN_SENTENCES]),
            parity=parity(module, model, reader, texts[:_PARITY_SENTENCES], "embedding"),
            task="sentence-embedding",
            evaluator="sentence-embedding",
            preprocessing=reader.preprocessing(),
            assets={ASSET: self.loaded.tokeniser},
            description=f"{self.model.encoder}: sentences to vectors of unit length",
        )
        return exported, {self.metric: measured.value, **measured.extra}
