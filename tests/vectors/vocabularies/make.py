#!/usr/bin/env python3
"""Cuts llama.cpp's vocabularies down to what its own test texts can become, and writes them with the ids that it gives.

usage: make.py MODELS OUT, with gguf-py's `gguf` installed. MODELS is the folder `models` of llama.cpp (MIT), of which b7700 as in
llama-cpp-python 0.3.36 was used. A token that is no part of any text takes part in no merge, so leaving it out changes nothing;
ids are counted anew."""
import json
import pathlib
import sys

from gguf import GGUFReader

# GPT-2's alphabet: bytes that print in Latin-1 are themselves, the others follow from U+0100 on
PRINTS = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTS]
ALPHABET = {byte: chr(byte) for byte in PRINTS} | {byte: chr(0x100 + n) for n, byte in enumerate(OTHERS)}
NAMES = ["deepseek-coder", "deepseek-llm", "falcon", "llama-bpe", "llama-spm", "qwen35", "starcoder"]
END = "\n__ggml_vocab_test__\n"


def value(reader, key):
    field = reader.fields.get(key)
    return field and field.contents()


def cut(path):
    reader = GGUFReader(path)
    get = lambda key: value(reader, "tokenizer.ggml." + key)
    tokens, types = get("tokens"), get("token_type")
    texts = pathlib.Path(f"{path}.inp").read_text(encoding="utf-8").split(END)
    lines = pathlib.Path(f"{path}.out").read_text().split("\n")
    ids = [[int(i) for i in line.split()] for line in lines[: len(texts)]]
    sentence = get("model") == "llama"
    if sentence:
        written = "\n".join(" " + text for text in texts).replace(" ", "\u2581")
    else:
        written = "".join(ALPHABET[byte] for byte in END.join(texts).encode())
    plain = END.join(texts)
    keep = [
        i
        for i, (token, ty) in enumerate(zip(tokens, types))
        if token in written or ty == 6 or ty == 4 and token in plain or token in ALPHABET.values() or sentence and i < 3
    ]
    kept, number = {tokens[i] for i in keep}, {old: new for new, old in enumerate(keep)}
    both = lambda merge: all(part in kept for part in [*merge.split(" "), merge.replace(" ", "", 1)])
    merges = [merge for merge in get("merges") or [] if both(merge)]
    scores = get("scores")
    return {
        "model": get("model"),
        "pre": get("pre"),
        "tokens": [tokens[i] for i in keep],
        "types": [types[i] for i in keep],
        "merges": merges,
        "scores": [scores[i] for i in keep] if sentence else [],
        "texts": texts,
        "ids": [[number[i] for i in line] for line in ids],
    }


def main():
    models, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    cuts = {name: cut(models / f"ggml-vocab-{name}.gguf") for name in NAMES}
    out.write_text(json.dumps(cuts, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


main()
