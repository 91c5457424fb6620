#!/usr/bin/env python3
"""Turns small Hugging Face Llama checkpoints into the GGUF fixtures of this folder.

usage: make_gguf.py SOURCE_DIR TARGET_DIR NAME...

Reads SOURCE_DIR/NAME/{config.json,model.safetensors} and writes TARGET_DIR/NAME/model.gguf beside
copies of the reference outputs (*.npy). Needs Python 3.8 and NumPy. Matrices stay bfloat16, as the
checkpoints hold them; norms become float32.
"""
import json
import math
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9  # kinds of metadata values
TYPE_F32, TYPE_BF16, TYPE_I32 = 0, 30, 5
ALIGNMENT = 32


def pack_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pack_value(kind, value):
    if kind == STRING:
        return pack_string(value)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<?", TYPE_I32: "<i"}[kind], value)


def pack_key(name, kind, value):
    """One metadata entry; a pair (kind, list) in place of the value makes an array."""
    head = pack_string(name)
    if kind != ARRAY:
        return head + struct.pack("<I", kind) + pack_value(kind, value)
    elem_kind, elems = value
    head += struct.pack("<IIQ", ARRAY, elem_kind, len(elems))
    return head + b"".join(pack_value(elem_kind, e) for e in elems)


def write_gguf(path, keys, tensors):
    """keys: list of (name, kind, value); tensors: list of (name, type, array)."""
    infos, data = b"", b""
    for name, kind, array in tensors:
        ne = array.shape[::-1]  # the contiguous dimension first
        infos += pack_string(name) + struct.pack(f"<I{len(ne)}Q", len(ne), *ne)
        infos += struct.pack("<IQ", kind, len(data))
        data += array.tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(pack_key(*key) for key in keys) + infos
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)


def read_safetensors(path):
    """name -> uint16 array of bfloat16 bits."""
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, info in json.loads(raw[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        if info["dtype"] != "BF16":
            sys.exit(f"{path}: {name} is {info['dtype']}, expected BF16")
        begin, end = (8 + n + offset for offset in info["data_offsets"])
        tensors[name] = np.frombuffer(raw[begin:end], "<u2").reshape(info["shape"])
    return tensors


def as_f32(bits):
    return (bits.astype("<u4") << 16).view("<f4")


def interleave(matrix, n_head):
    """Rows of each head from (i, i + d/2) pairs to (2i, 2i + 1) pairs, as GGUF files of
    architecture llama hold Q and K: row 2i + t is row t d/2 + i."""
    rows, n_in = matrix.shape
    halves = matrix.reshape(n_head, 2, rows // n_head // 2, n_in)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, n_in)


def llama3_divisors(rope, d_head):
    """Divisors of the frequencies as Llama 3.1 scales them, in float32."""
    i = np.arange(0, d_head, 2, dtype=np.float32)
    wavelength = 2 * math.pi * rope["rope_theta"] ** (i / np.float32(d_head))
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] / wavelength
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype("<f4")


def byte_tokens():
    """The 256 bytes in the GPT-2 alphabet: printable ones are themselves, others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


def metadata(name, config):
    rope = config["rope_parameters"]
    n_vocab = config["vocab_size"]
    if n_vocab != 256:
        sys.exit(f"{name}: {n_vocab} tokens, expected 256")
    keys = [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, name),
        ("llama.block_count", U32, config["num_hidden_layers"]),
        ("llama.context_length", U32, config["max_position_embeddings"]),
        ("llama.embedding_length", U32, config["hidden_size"]),
        ("llama.feed_forward_length", U32, config["intermediate_size"]),
        ("llama.attention.head_count", U32, config["num_attention_heads"]),
        ("llama.attention.head_count_kv", U32, config["num_key_value_heads"]),
        ("llama.attention.key_length", U32, config["head_dim"]),
        ("llama.attention.value_length", U32, config["head_dim"]),
        ("llama.attention.layer_norm_rms_epsilon", F32, config["rms_norm_eps"]),
        ("llama.vocab_size", U32, n_vocab),
        ("llama.rope.dimension_count", U32, config["head_dim"]),
        ("llama.rope.freq_base", F32, rope["rope_theta"]),
    ]
    if rope["rope_type"] in ("linear", "yarn"):
        keys += [
            ("llama.rope.scaling.type", STRING, rope["rope_type"]),
            ("llama.rope.scaling.factor", F32, rope["factor"]),
        ]
    if rope["rope_type"] == "yarn":
        context = rope["original_max_position_embeddings"]
        keys.append(("llama.rope.scaling.original_context_length", U32, context))
    return keys + [
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, byte_tokens())),
        ("tokenizer.ggml.token_type", ARRAY, (TYPE_I32, [1] * n_vocab)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, [])),
        ("tokenizer.ggml.bos_token_id", U32, config["bos_token_id"]),
        ("tokenizer.ggml.eos_token_id", U32, config["eos_token_id"]),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
    ]


def tensors_of(config, hf):
    """The list of GGUF tensors of a checkpoint."""
    rope = config["rope_parameters"]
    n_head, n_kv_head = config["num_attention_heads"], config["num_key_value_heads"]
    out = [
        ("token_embd.weight", TYPE_BF16, hf["model.embed_tokens.weight"]),
        ("output_norm.weight", TYPE_F32, as_f32(hf["model.norm.weight"])),
    ]
    if not config["tie_word_embeddings"]:
        out.append(("output.weight", TYPE_BF16, hf["lm_head.weight"]))
    if rope["rope_type"] == "llama3":
        out.append(("rope_freqs.weight", TYPE_F32, llama3_divisors(rope, config["head_dim"])))
    for n in range(config["num_hidden_layers"]):
        here = f"model.layers.{n}."
        attn, mlp = here + "self_attn.", here + "mlp."
        matrices = {
            "attn_q": interleave(hf[attn + "q_proj.weight"], n_head),
            "attn_k": interleave(hf[attn + "k_proj.weight"], n_kv_head),
            "attn_v": hf[attn + "v_proj.weight"],
            "attn_output": hf[attn + "o_proj.weight"],
            "ffn_gate": hf[mlp + "gate_proj.weight"],
            "ffn_up": hf[mlp + "up_proj.weight"],
            "ffn_down": hf[mlp + "down_proj.weight"],
        }
        norms = {
            "attn_norm": hf[here + "input_layernorm.weight"],
            "ffn_norm": hf[here + "post_attention_layernorm.weight"],
        }
        out += [(f"blk.{n}.{k}.weight", TYPE_F32, as_f32(v)) for k, v in norms.items()]
        out += [(f"blk.{n}.{k}.weight", TYPE_BF16, v) for k, v in matrices.items()]
    return out


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    for name in sys.argv[3:]:
        source, target = Path(sys.argv[1], name), Path(sys.argv[2], name)
        config = json.loads((source / "config.json").read_text())
        target.mkdir(parents=True, exist_ok=True)
        hf = read_safetensors(source / "model.safetensors")
        write_gguf(target / "model.gguf", metadata(name, config), tensors_of(config, hf))
        for part in ("ids", "positions", "logits", "greedy_from40"):
            shutil.copyfile(source / f"{part}.npy", target / f"{part}.npy")


if __name__ == "__main__":
    main()
