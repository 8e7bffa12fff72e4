"""The two networks of the sketch model: an autoencoder (8x down, 4 channels) and a diffusion transformer.

The noise convention is Stable Diffusion's (x = x0 + sigma * noise); the preconditioning is that of Karras et
al. 2022 (arXiv 2206.00364, table 1) with sigma_data 1, on latents scaled to unit variance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT = (4, 16, 16)
PATCHES, PATCH_VALUES = 64, 16
WIDTH, LAYERS, HEADS = 192, 6, 6
CAPTION = 192
IMPRESSION_WIDTH = 1536
CHANNELS = 4


class Residual(nn.Module):
    """Two 3x3 convolutions beside a straight path, (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, 1, 1)
        self.b = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.silu(self.a(F.silu(x))))


class Autoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to latents (B, 4, H/8, W/8) and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 96, 3, 1, 1),
            Residual(96),
            nn.Conv2d(96, 128, 3, 2, 1),
            Residual(128),
            Residual(128),
            nn.SiLU(),
            nn.Conv2d(128, CHANNELS, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, 128, 3, 1, 1),
            Residual(128),
            Residual(128),
            nn.Conv2d(128, 384, 1),
            nn.PixelShuffle(2),
            Residual(96),
            Residual(96),
            nn.SiLU(),
            nn.Conv2d(96, 48, 3, 1, 1),
            nn.PixelShuffle(4),
        )


class Decoder(nn.Module):
    """Latents of unit variance (B, 4, 16, 16) to pictures (B, 3, 256, 256) in [-1, 1].

    Begins as the autoencoder's decoder does, and then doubles once more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.start = Autoencoder().decoder[:7]
        self.end = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(96, 256, 3, 1, 1),
            nn.PixelShuffle(2),
            Residual(64),
            nn.SiLU(),
            nn.Conv2d(64, 48, 3, 1, 1),
            nn.PixelShuffle(4),
        )
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(1, CHANNELS, 1, 1))

    def scale_like(self, kept: dict[str, Tensor]) -> None:
        self.mean.copy_(kept["mean"])
        self.std.copy_(kept["std"])

    def forward(self, latents: Tensor) -> Tensor:
        return self.end(self.start(latents * self.std + self.mean))


class Encoder(nn.Module):
    """Pictures (B, 3, 256, 256) in [-1, 1] to latents of unit variance (B, 4, 16, 16), for edits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(16),
            nn.Conv2d(768, 160, 1),
            Residual(160),
            Residual(160),
            Residual(160),
            nn.SiLU(),
            nn.Conv2d(160, CHANNELS, 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


class Impression(nn.Module):
    """What a caption's picture roughly looks like, before any noise is seen: a wide perceptron.

    A transformer this small has little room for what 1,400 things look like, since each of its weights works
    at all 64 places. Weights used once a picture are 64 times cheaper: this is where the model remembers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(CAPTION, IMPRESSION_WIDTH)
        self.second = nn.Linear(IMPRESSION_WIDTH, IMPRESSION_WIDTH)
        self.picture = nn.Linear(IMPRESSION_WIDTH, PATCHES * PATCH_VALUES)

    def forward(self, caption: Tensor) -> tuple[Tensor, Tensor]:
        """Caption (B, 192) to patches (B, 64, 16) and the thought behind them (B, 1536)."""
        thought = F.silu(self.first(F.layer_norm(caption, (CAPTION,))))
        thought = F.silu(thought + self.second(thought))
        return self.picture(thought).view(-1, PATCHES, PATCH_VALUES), thought


class Block(nn.Module):
    """Attention and perceptron, steered by scale, shift and gate from the condition (adaLN, 2212.09748)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.steer = nn.Linear(WIDTH, 6 * WIDTH)
        self.up = nn.Linear(WIDTH, 3 * WIDTH)
        self.down = nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.steer(condition)[:, None].chunk(6, -1)
        y = F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift
        q, k, v = self.qkv(y).view(y.shape[0], PATCHES, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(y.shape)
        x = x + gate * self.out(seen)
        y = F.layer_norm(x, (WIDTH,)) * (1 + scale_2) + shift_2
        return x + gate_2 * self.down(F.gelu(self.up(y)))


class Transformer(nn.Module):
    """Noisy latents x (B, 4, 16, 16), sigma (B,), caption (B, 192) to the clean latents it believes in."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(PATCH_VALUES, WIDTH)
        self.place = nn.Parameter(torch.randn(1, PATCHES, WIDTH) * 0.02)
        self.nothing = nn.Parameter(torch.zeros(CAPTION))
        self.level = nn.Sequential(nn.Linear(128, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.caption = nn.Sequential(nn.Linear(CAPTION, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.leave = nn.Linear(WIDTH, PATCH_VALUES)
        self.impression = Impression()
        self.enter_impression = nn.Linear(PATCH_VALUES, WIDTH, bias=False)
        self.condition_impression = nn.Linear(IMPRESSION_WIDTH, WIDTH, bias=False)
        self.trust = nn.Linear(WIDTH, CHANNELS)
        new = [self.leave, self.enter_impression, self.condition_impression, self.trust]
        for layer in [*new, *(block.steer for block in self.blocks)]:
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, sigma: Tensor, caption: Tensor) -> Tensor:
        return self.with_impression(x, sigma, caption)[0]

    def with_impression(self, x: Tensor, sigma: Tensor, caption: Tensor) -> tuple[Tensor, Tensor]:
        """Also the impression itself (B, 4, 16, 16), for the loss that keeps it a picture."""
        patches, thought = self.impression(caption)
        s = sigma[:, None, None, None]
        spread = (s * s + 1).sqrt()
        turns = sigma.log()[:, None] / 16 * torch.exp(torch.linspace(0, 6, 64, device=x.device))
        condition = self.level(torch.cat([turns.sin(), turns.cos()], -1)) + self.caption(caption)
        condition = F.silu(condition + self.condition_impression(thought))
        h = self.enter(F.pixel_unshuffle(x / spread, 2).flatten(2).transpose(1, 2))
        h = h + self.place + self.enter_impression(patches)
        for block in self.blocks:
            h = block(h, condition)
        raw = self.leave(F.layer_norm(h, (WIDTH,))) + patches * self.trust(condition).repeat_interleave(4, -1)[:, None]
        return x / spread**2 + s / spread * picture_of(raw), picture_of(patches)


def picture_of(patches: Tensor) -> Tensor:
    """Patches (B, 64, 16) to latents (B, 4, 16, 16)."""
    return F.pixel_shuffle(patches.transpose(1, 2).reshape(-1, PATCH_VALUES, 8, 8), 2)
