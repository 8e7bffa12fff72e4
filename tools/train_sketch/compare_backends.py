"""Do numpy and torch draw the same? Every scheduler at 1 to 8 steps on the shipped model, from the same noise.

usage: compare_backends.py [WEIGHTS.pt]. numpy feeds ONNX Runtime; torch tensors run through the same sampler code
and the same ONNX model. Given weights, also how far int8 moves one model call from the torch network's.
"""

import sys

import numpy as np
import torch
from model import Transformer

from minitoolai.engines.images.prompts.captions import CaptionEncoder
from minitoolai.engines.images.sketch import FOLDER, LATENT
from minitoolai.engines.sampling import SCHEDULERS, sample
from minitoolai.engines.sampling.noise import SeededNoise


def main() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(FOLDER / "denoiser.onnx", providers=["CPUExecutionProvider"])
    caption = CaptionEncoder(FOLDER).embed("red apple")[None]

    def by_numpy(x: np.ndarray, sigma: float) -> np.ndarray:
        fed = {"x": x[None].astype(np.float32), "sigma": np.array([sigma], np.float32), "caption": caption}
        return session.run(None, fed)[0][0].astype(x.dtype)

    def by_torch(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.from_numpy(by_numpy(x.numpy(), sigma))

    print("sampler code, same model:", furthest(by_numpy, by_torch))
    if len(sys.argv) > 1:
        net = Transformer().eval()
        net.load_state_dict(torch.load(sys.argv[1]))

        print("one call, int8 in ONNX beside float32 in torch, root mean square:")
        x = SeededNoise(0, LATENT).start()
        for sigma in (14.6, 2.9, 0.93, 0.029):
            noisy = x * sigma
            with torch.no_grad():
                told = net(torch.from_numpy(noisy[None]).float(), torch.tensor([sigma]), torch.from_numpy(caption))
            gap = by_numpy(noisy, sigma) - told[0].numpy()
            print(f"  sigma {sigma}: {np.sqrt((gap**2).mean()):.4f}")


def furthest(by_numpy: object, by_torch: object) -> str:
    """The largest difference of any latent of any case, latents being of about unit variance."""
    worst = []
    for name in SCHEDULERS:
        for steps in range(1, 9):
            noise = SeededNoise(steps, LATENT)
            ours = sample(name, steps, noise.start(), by_numpy, noise)
            start = torch.from_numpy(noise.start())
            theirs = sample(name, steps, start, by_torch, lambda *at, noise=noise: torch.from_numpy(noise(*at)))
            worst.append((float(np.abs(ours - theirs.numpy()).max()), name, steps))
    gap, name, steps = max(worst)
    return f"{len(worst)} cases, at most {gap:.1e} apart ({name}, {steps} steps)"


if __name__ == "__main__":
    main()
