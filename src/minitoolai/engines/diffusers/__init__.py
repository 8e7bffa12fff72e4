"""Stable Diffusion on a GPU: weights, prompts and batched denoising."""
