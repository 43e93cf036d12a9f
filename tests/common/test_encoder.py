"""The adapted top over stored states equals the whole adapted model, for several encoder families."""

from __future__ import annotations

import copy
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from hushrec.common import encoder as encoder_module
from hushrec.common import packing as packing_module
from hushrec.common.adapters import ROLES, Factor, RowLayout, add_adapters
from hushrec.common.base_model import BaseModel, load_base_model
from hushrec.common.encoder import TextEncoder, fastest_dtype, layer_list
from hushrec.common.errors import ConfigError
from hushrec.common.postnorm import PostNormStack
from hushrec.common.prefix import Prefix, build_prefix

TEXTS = ["a b c", "", "d " * 25, "e f", "g h i j k l m", "a b c", "x"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
FAMILIES: dict[str, Any] = {
    "bert": lambda **own: transformers.BertModel(transformers.BertConfig(**SMALL, **own)),
    "mpnet": lambda **own: transformers.MPNetModel(transformers.MPNetConfig(**SMALL, **own)),
    "roberta": lambda **own: transformers.RobertaModel(transformers.RobertaConfig(**SMALL, **own)),
    "electra": lambda **own: transformers.ElectraModel(transformers.ElectraConfig(embedding_size=32, **SMALL, **own)),
    "distilbert": lambda **own: transformers.DistilBertModel(
        transformers.DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=48, **own)
    ),
}


def save_tiny(family: str, folder: Path) -> Path:
    """A random model of three layers with a tokenizer that knows single letters."""
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *string.ascii_lowercase]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    # Dropout is on in the configuration, so that a model left in training mode would be noticed.
    own = {"vocab_size": len(words), "pad_token_id": 1, "initializer_range": 0.3, "max_position_embeddings": 64}
    FAMILIES[family](**own).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(FAMILIES))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base_model(str(save_tiny(request.param, tmp_path_factory.mktemp(request.param))))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base_model(str(save_tiny("bert", tmp_path_factory.mktemp("bert"))))


def build(base: BaseModel, k: int, kind: str = "lora", dtype: torch.dtype = torch.float32) -> TextEncoder:
    """An encoder whose adapters have nonzero weights."""
    made = TextEncoder(base, top_layers=k, roles=ROLES, adapter=kind, r=3, lora_alpha=6.0, dtype=dtype, seed=5)
    shake(made)
    return made.eval()


def shake(module: nn.Module) -> None:
    torch.manual_seed(7)
    for child in module.modules():
        if isinstance(child, Factor):
            child.weight.data.normal_(std=0.3)


def prefix_of(base: BaseModel, k: int) -> Prefix:
    return build_prefix(base, TEXTS, top_layers=k, max_length=16, dtype=torch.float32, cached=False)


def whole_model(base: BaseModel, k: int, kind: str) -> Tensor:
    """(texts, width): every text through all layers of one adapted copy, alone and unpadded."""
    model = copy.deepcopy(base.module)
    if k:
        top = nn.ModuleList(list(layer_list(model, base.layers)[1])[base.layers - k :])
        add_adapters(top, ROLES, kind=kind, r=3, lora_alpha=6.0, layout=RowLayout(), seed=5)
        shake(top)
    vectors = []
    with torch.no_grad():
        for text in TEXTS:
            ids = base.tokenizer([text], truncation=True, max_length=16, return_tensors="pt")["input_ids"]
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            vectors.append(functional.normalize(hidden[0].mean(0), dim=0))
    return torch.stack(vectors)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_stored_states_and_adapted_top_equal_the_whole_adapted_model(base: BaseModel, k: int) -> None:
    vectors = build(base, k).encode(prefix_of(base, k), torch.arange(len(TEXTS)))
    assert (vectors - whole_model(base, k, "lora")).abs().max() <= 1e-5
    if k:  # the adapters of this test do something
        assert (vectors - whole_model(base, 0, "lora")).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["ffa", "sb"])
def test_the_other_adapter_kinds_equal_the_whole_model_too(bert: BaseModel, kind: str) -> None:
    vectors = build(bert, 2, kind).encode(prefix_of(bert, 2), torch.arange(len(TEXTS)))
    assert (vectors - whole_model(bert, 2, kind)).abs().max() <= 1e-5


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("shortest", [1, 20, 64])
def test_encoding_by_rows_equals_encoding_one_by_one(
    base: BaseModel, k: int, shortest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, prefix = build(base, k), prefix_of(base, k)
    monkeypatch.setattr(packing_module, "SHORTEST_SEQUENCE", shortest)
    index = torch.tensor([[0, 2, 1, 5, 6], [3, 3, 4, 2, 0], [1, 1, 1, 1, 1]])
    rows = made.encode_rows(prefix, index)
    alone = torch.stack([made.encode(prefix, torch.tensor([text]))[0] for text in index.flatten().tolist()])
    assert (rows - alone.view(3, 5, -1)).abs().max() <= 1e-5
    assert made.layout.rows == 1


def test_texts_that_are_not_wanted_change_nothing(base: BaseModel) -> None:
    made, prefix = build(base, 1), prefix_of(base, 1)
    index = torch.tensor([[0, 2, 1], [3, 3, 4], [5, 5, 5]])
    wanted = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    rows = made.encode_rows(prefix, index, wanted)
    assert (rows - made.encode_rows(prefix, index))[wanted].abs().max() <= 1e-5
    assert made.encode_rows(prefix, index, ~wanted)[wanted].abs().max() == 0
    assert rows[~wanted].abs().max() == 0
    assert made.encode_rows(prefix, index[2:], wanted[2:]).abs().max() == 0


@pytest.mark.parametrize("k", [1, 2])
def test_layers_written_out_give_the_gradients_of_the_layers(base: BaseModel, k: int) -> None:
    made, prefix = build(base, k), prefix_of(base, k)
    if "mpnet" in base.name:
        assert made.stack is None  # its attention has a bias by distance
        return
    assert made.stack is not None
    index, wanted = torch.tensor([[0, 2, 1], [3, 6, 4]]), torch.tensor([[True, True, False], [True, True, True]])
    once = made.stack.forward(prefix.hidden, prefix.lengths.numpy(), prefix.offsets.numpy())
    vectors, aim = made.stack.rows(once, index, wanted), torch.randn(2, 3, made.width)
    expected = made.encode_rows(prefix, index, wanted)
    assert (vectors - expected).abs().max() <= 1e-5
    (vectors * aim).sum().backward()
    for row in range(2):
        made.zero_grad()
        (made.encode_rows(prefix, index[row : row + 1], wanted[row : row + 1]) * aim[row]).sum().backward()
        for factor in (module for module in made.modules() if isinstance(module, Factor)):
            gradient, sample = factor.weight.grad, factor.weight.grad_sample
            assert gradient is not None
            assert (sample[row] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_a_layer_that_computes_something_else_is_not_written_out(activation: str) -> None:
    top = FAMILIES["bert"](vocab_size=30, hidden_act=activation, initializer_range=0.3)
    assert PostNormStack.of(top.eval(), top.encoder.layer, 32) is None


class _MixesAll(nn.Module):
    """An encoder that heeds no mask (a state-space layer, say)."""

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Any:
        return BaseModelOutput(last_hidden_state=inputs_embeds + inputs_embeds.mean(1, keepdim=True))


class _RefusesMask(nn.Module):
    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Any:
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("wrong shape for attention_mask")
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def test_texts_are_packed_only_where_that_changes_nothing(base: BaseModel) -> None:
    assert build(base, 1).packs
    assert not encoder_module._keeps_texts_apart(_MixesAll(), 8)
    assert not encoder_module._keeps_texts_apart(_RefusesMask(), 8)


@pytest.mark.parametrize("packs", [True, False])
def test_an_encoder_that_cannot_pack_gives_the_same_vectors(bert: BaseModel, packs: bool) -> None:
    made, prefix = build(bert, 2), prefix_of(bert, 2)
    made.packs = packs
    index, wanted = torch.tensor([[0, 2, 1], [3, 6, 4]]), torch.tensor([[True, True, False], [True, True, True]])
    expected = made.encode(prefix, index.flatten()).view(2, 3, -1) * wanted[..., None]
    assert (made.encode_rows(prefix, index, wanted) - expected).abs().max() <= 1e-5


@given(lengths=st.lists(st.lists(st.integers(0, 40), min_size=5, max_size=5), min_size=1, max_size=4))
def test_packing_lays_every_token_down_once_and_apart(lengths: list[list[int]]) -> None:
    assume(any(map(sum, lengths)))
    wanted = np.array(lengths)
    offsets = (np.cumsum(wanted) - wanted.ravel()).reshape(wanted.shape)
    packing = packing_module.pack_rows(wanted, offsets)
    rows, columns = wanted.shape
    text, token = packing.text.reshape(rows, -1), packing.token.reshape(rows, -1)
    real = text < rows * columns
    assert sorted(token[real].tolist()) == list(range(wanted.sum()))
    for row in range(rows):  # a row's texts lie in its own sequences
        assert set(text[row][real[row]].tolist()) == {row * columns + c for c in range(columns) if wanted[row, c]}
    mask = packing.mask(torch.float32)[:, 0] == 0
    assert torch.equal(mask, packing.text[:, :, None] == packing.text[:, None, :])
    for sequence, places in zip(packing.text, packing.token, strict=True):  # in order, without gaps
        for one in set(sequence.tolist()) - {rows * columns}:
            assert (places[sequence == one].diff() == 1).all()
            assert (torch.nonzero(sequence == one).flatten().diff() == 1).all()


def test_the_batch_a_text_is_in_does_not_change_its_vector(bert: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made, prefix = build(bert, 2), prefix_of(bert, 2)
    many = made.encode(prefix, torch.arange(len(TEXTS)))
    monkeypatch.setattr(encoder_module, "TOKENS_PER_PASS", 1)  # every text in a pass of its own
    assert (made.encode(prefix, torch.arange(len(TEXTS))) - many).abs().max() <= 1e-5


def test_vectors_come_back_in_the_order_asked_and_have_length_one(bert: BaseModel) -> None:
    made, prefix = build(bert, 1), prefix_of(bert, 1)
    order = torch.tensor([4, 0, 2, 0])
    vectors = made.encode(prefix, order)
    assert torch.allclose(vectors, made.encode(prefix, torch.arange(len(TEXTS)))[order], atol=1e-6)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)
    assert made.encode(prefix, torch.zeros(0, dtype=torch.int64)).shape == (0, 32)


def test_building_an_encoder_leaves_the_base_model_as_it_was(bert: BaseModel) -> None:
    before = {name: value.clone() for name, value in bert.module.state_dict().items()}
    build(bert, 2)
    after = bert.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(layer_list(bert.module, 3)[1]) == 3


def test_only_adapters_are_trained(bert: BaseModel) -> None:
    names = [name for name, parameter in build(bert, 2).named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * len(ROLES) * 2
    assert all("lora_" in name for name in names)


def test_bfloat16_stays_near_float32(bert: BaseModel) -> None:
    prefix = build_prefix(bert, TEXTS, top_layers=1, max_length=16, dtype=torch.bfloat16, cached=False)
    assert prefix.hidden.dtype == torch.bfloat16
    vectors = build(bert, 1, dtype=torch.bfloat16).encode(prefix, torch.arange(len(TEXTS)))
    assert vectors.dtype == torch.float32
    assert (vectors - whole_model(bert, 1, "lora")).abs().max() <= 0.1


def test_more_top_layers_than_the_model_has_are_refused(bert: BaseModel) -> None:
    with pytest.raises(ConfigError, match=r"model\.top-layers in 0\.\.3 .* got 4"):
        build(bert, 4)


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no list of 3 layers"):
        layer_list(nn.Sequential(nn.Linear(2, 2)), 3)


def test_the_fastest_dtype_is_one_of_two_and_measured_once() -> None:
    assert fastest_dtype() in (torch.float32, torch.bfloat16)
    assert fastest_dtype() is fastest_dtype()


def test_the_packaged_model_is_split_exactly() -> None:
    packaged = load_base_model()
    prefix = build_prefix(packaged, TEXTS, top_layers=1, max_length=16, dtype=torch.float32, cached=False)
    vectors = build(packaged, 1).encode(prefix, torch.arange(len(TEXTS)))
    assert (vectors - whole_model(packaged, 1, "lora")).abs().max() <= 1e-5
