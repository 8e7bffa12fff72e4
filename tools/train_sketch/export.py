"""Step 4: what the engine ships: two ONNX graphs with small weights, the words as int8, the tokenizer.

usage: export.py WORK FOLDER. Matrices become int8, with a scale per column, convolutions float16; ONNX
Runtime unfolds both to float32 when it loads them, so only the files are small, not the arithmetic coarse.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from model import CAPTION, LATENT, Decoder, Transformer
from onnx import helper, numpy_helper
from torch import Tensor, nn

OPSET = 18
SMALL = 4096  # weights with fewer values than this are kept as they are


def to_onnx(net: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    rows = torch.export.Dim("rows", min=1, max=4096)
    torch.onnx.export(
        net.eval(),
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=["out"],
        dynamic_shapes=tuple({0: rows} for _ in inputs),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    shrink(model)
    forget_where(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    print(path.name, path.stat().st_size, "bytes")


def forget_where(model: onnx.ModelProto) -> None:
    """The exporter notes the source line behind every node, with the paths of the machine that trained."""
    graph = model.graph
    for noted in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        noted.doc_string = ""
        del noted.metadata_props[:]


def shrink(model: onnx.ModelProto) -> None:
    """Each large weight becomes a small constant with the Cast (and Mul) that unfold it in the graph."""
    graph, kept, unfolding = model.graph, [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < SMALL:
            kept.append(weight)
            continue
        small = f"{weight.name}.small"
        if values.ndim == 2:
            # One scale per column, which are the outputs of a MatMul.
            scale = np.abs(values).max(0, keepdims=True) / 127 + 1e-12
            kept.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), small))
            kept.append(numpy_helper.from_array(scale.astype(np.float32), f"{weight.name}.scale"))
            wide = f"{weight.name}.wide"
            unfolding.append(helper.make_node("Cast", [small], [wide], to=onnx.TensorProto.FLOAT))
            unfolding.append(helper.make_node("Mul", [wide, f"{weight.name}.scale"], [weight.name]))
        else:
            kept.append(numpy_helper.from_array(values.astype(np.float16), small))
            unfolding.append(helper.make_node("Cast", [small], [weight.name], to=onnx.TensorProto.FLOAT))
    nodes = [*unfolding, *graph.node]
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def export_words(work: Path, folder: Path, nothing: Tensor) -> None:
    names = sorted({thing["name"] for thing in json.loads((work / "things.json").read_text())})
    table = np.load(work / "words.npy").astype(np.float32)
    scales = (np.abs(table).max(1) / 127 + 1e-12).astype(np.float16)
    vectors = np.rint(table / scales.astype(np.float32)[:, None]).clip(-127, 127).astype(np.int8)
    rest = {"nothing": nothing.numpy(), "names": np.array(names)}
    np.savez_compressed(folder / "words.npz", vectors=vectors, scales=scales, **rest)
    shutil.copy(work / "minilm/tokenizer.json", folder / "tokenizer.json")


def main() -> None:
    work, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    decoder, net = Decoder(), Transformer()
    decoder.load_state_dict(torch.load(work / "decoder.pt"))
    net.load_state_dict(torch.load(work / (sys.argv[3] if len(sys.argv) > 3 else "transformer.pt")))
    rows = 3
    to_onnx(
        net,
        {
            "x": torch.randn(rows, *LATENT),
            "sigma": torch.rand(rows) + 1,
            "caption": torch.randn(rows, CAPTION),
        },
        folder / "denoiser.onnx",
    )
    to_onnx(decoder, {"latents": torch.randn(rows, *LATENT)}, folder / "decoder.onnx")
    export_words(work, folder, net.nothing.detach())


if __name__ == "__main__":
    main()
