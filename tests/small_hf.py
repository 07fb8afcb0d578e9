"""Small random models as transformers writes them, and a tokenizer in LLaMA's manner.

Shapes: B rows, T tokens of a row.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers

from retune_jax import tokenizer
from retune_jax.checkpoints import weights
from retune_jax.models import sharding

torch.set_num_threads(1)  # the models are small, and tests run side by side

VOCAB = 384

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def train_tokenizer(path: Path, vocab_size: int = VOCAB):
    """A SentencePiece model like LLaMA's: BPE, digits split, bytes as a fallback, a dummy space before every text."""
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.islice(tokenizer.lines(200, 5), 4000),
            model_writer=file,
            model_type="bpe",
            vocab_size=vocab_size,
            split_digits=True,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            character_coverage=1.0,
            minloglevel=2,
        )


def make(kind: str = "llama", dtype=torch.float32, seed: int = 0, **changes):
    """A random model whose every weight, the norms' scales included, makes a difference."""
    classes = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    }
    config, model = classes[kind]
    model = model(config(**(SIZES | changes)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * noise if "norm" in name else noise if "embed" in name else noise * weight.shape[1] ** -0.5)
    return model.to(dtype).eval()


def save(model, folder: Path, tokenizer_file: Path, **options) -> Path:
    """Writes a model and its tokenizer as a released folder has them."""
    model.save_pretrained(folder, **options)
    (folder / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    return folder


def edit(path: Path, **changes):
    """Changes keys of a JSON file; None removes one."""
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def load(folder: Path, lora=None):
    """A base folder as a model on one device."""
    base = weights.load_base(str(folder), "custom")
    mesh = sharding.make_mesh(-1, 1, 1)
    return weights.assemble(base, lora, remat="none", context_length=None, seed=0, mesh=mesh)


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(3, VOCAB, shape, dtype=np.int32)


@torch.no_grad()
def their_logits(model, tokens_BT):
    return model(torch.tensor(tokens_BT, dtype=torch.long)).logits.float().numpy()
