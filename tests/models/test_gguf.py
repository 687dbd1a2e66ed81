import pytest

from shear_lit.models.gguf import GgufError, convert_gguf

gguf = pytest.importorskip("gguf", reason="gguf comes with the demo extra")


@pytest.mark.parametrize(
    ("architecture", "pre_tokenizer", "named"),
    [
        ("gpt2", "smollm", "general.architecture='gpt2'"),
        ("llama", "llama-bpe", "tokenizer.ggml.pre='llama-bpe'"),
    ],
)
def test_file_that_cannot_be_read_faithfully_is_refused(tmp_path, architecture, pre_tokenizer, named):
    writer = gguf.GGUFWriter(tmp_path / "toy.gguf", architecture)
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(GgufError, match=f"toy.gguf: {named} cannot be converted faithfully: only"):
        convert_gguf(tmp_path / "toy.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
