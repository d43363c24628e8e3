"""Made data and a made encoder: five things that callers want, in templates, and a transformer of two narrow layers."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

INTENTS = {
    "balance": ["how much money is in my {}", "show the balance of the {}", "what do i have left on my {}"],
    "block": ["block my {} at once", "somebody stole my {} please freeze it", "my {} is lost lock it now"],
    "opening": ["when does the {} open", "what are the hours of the {}", "is the {} open on sunday"],
    "비밀번호": ["{} 비밀번호 바꿔 주세요", "{} 비밀번호를 잊어버렸어요", "{} 비번 변경하고 싶어요"],
    "해지": ["{} 해지해 주세요", "{} 그만 쓰고 싶어요", "{} 취소할게요"],
}
THINGS = ["card", "account", "branch", "shop", "savings", "wallet", "office", "인터넷", "계좌", "카드", "앱", "요금제"]


def pairs(seed: int, count: int) -> list[list[str]]:
    """`count` [text, label] of each intent."""
    generator = random.Random(seed)
    return [
        [generator.choice(templates).format(generator.choice(THINGS)), label]
        for label, templates in INTENTS.items()
        for _ in range(count)
    ]


def make_intents(path: Path, count: int = 24) -> Path:
    """A JSON file with train, val, test and sentences outside of every intent."""
    outside = [["tell me a joke", "oos"], ["오늘 날씨 어때", "oos"]]
    splits = {"train": pairs(1, count), "val": pairs(2, 8), "test": pairs(3, 8), "oos_test": outside}
    path.write_text(json.dumps(splits, ensure_ascii=False), encoding="utf-8")
    return path


def tokenizer_json() -> str:
    """A word-level tokeniser of the made sentences, which (as many do) says that it pads to 128."""
    words = sorted(
        {word for templates in INTENTS.values() for each in templates for word in each.split()} | set(THINGS)
    )
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=128, pad_id=0, pad_token="[PAD]")
    return str(tokenizer.to_str())


def make_encoder(folder: Path) -> Path:
    """A folder as `transformers` saves it, with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=128,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder
