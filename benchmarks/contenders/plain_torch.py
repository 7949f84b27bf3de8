"""The same convolutions in plain torch layers under Lightning's import. Arguments: side, seconds,
patterns, batch.
"""

from __future__ import annotations

import json
import resource
import sys
import time

BEGUN = time.perf_counter()
SIDE, SECONDS, PATTERNS, BATCH = (
    int(sys.argv[1]),
    float(sys.argv[2]),
    int(sys.argv[3]),
    int(sys.argv[4]),
)

import lightning.pytorch  # noqa: E402, F401 - what such an adapter imports
import torch  # noqa: E402
from torch import nn  # noqa: E402

START = time.perf_counter() - BEGUN


def stage(inputs: int, outputs: int, last: nn.Module) -> list[nn.Module]:
    """Return two convolutions with ReLU and a resizing."""
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(), last,
    ]  # fmt: skip


class Plain(nn.Module):
    """Encoder, two decoders, fine heads in a coarse frame."""

    def __init__(self, filters: list[int]) -> None:
        super().__init__()
        layers, inputs = [], 1
        for f in filters:
            layers += stage(inputs, f, nn.MaxPool2d(2))
            inputs = f
        self.encoder = nn.Sequential(*layers)
        self.decoders, self.heads, self.frames = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for _ in range(2):
            layers, inputs = [], filters[-1]
            for f in filters[-2::-1]:
                layers += stage(inputs, f, nn.Upsample(scale_factor=2))
                inputs = f
            self.decoders.append(nn.Sequential(*layers))
            self.heads.append(nn.Conv2d(inputs - 4, 1, 3, padding=1))
            self.frames.append(
                nn.Sequential(nn.Conv2d(4, 1, 3, padding=1), nn.Upsample(scale_factor=2))
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return complex patches (B, N, N)."""
        x, maps = self.encoder(x), []
        for decoder, head, frame in zip(self.decoders, self.heads, self.frames, strict=True):
            y = decoder(x)
            coarse, quarter = frame(y[:, -4:]), SIDE // 4
            fine = nn.functional.pad(head(y[:, :-4]), (quarter,) * 4)
            mask = torch.ones(SIDE, SIDE)
            mask[quarter:-quarter, quarter:-quarter] = 0
            maps.append((fine + coarse * mask)[:, 0])
        return torch.polar(torch.sigmoid(maps[0]), torch.pi * torch.tanh(maps[1]))


def main() -> None:
    """Train for SECONDS, infer with stitching, print."""
    filters = {64: [64, 128, 256], 128: [32, 64, 128, 256]}[SIDE]
    net = Plain(filters)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.rand(PATTERNS, SIDE, SIDE, generator=generator) * 400, generator)
    probe = torch.randn(SIDE, SIDE, dtype=torch.complex64) * 20
    inputs = counts.sqrt()[:, None] / 20

    def step() -> None:
        rows = torch.randint(0, PATTERNS, (BATCH,), generator=generator)
        optimizer.zero_grad()
        field = torch.fft.fftshift(
            torch.fft.fft2(net(inputs[rows]) * probe, norm='ortho'), dim=(-2, -1)
        )
        expected = field.abs().square()
        loss = (expected - counts[rows] * torch.log(expected + 1e-3)).mean()
        loss.backward()
        optimizer.step()

    step()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        step()
        done += BATCH
    training = done / (time.perf_counter() - begun)
    best = 1e9
    corner = torch.randint(0, 3 * SIDE, (PATTERNS, 2), generator=generator).tolist()
    with torch.inference_mode():
        for _ in range(2):
            begun = time.perf_counter()
            canvas = torch.zeros(4 * SIDE, 4 * SIDE, dtype=torch.complex64)
            for i in range(0, PATTERNS, BATCH):
                for (y, x), patch in zip(
                    corner[i : i + BATCH], net(inputs[i : i + BATCH]), strict=True
                ):
                    canvas[y : y + SIDE, x : x + SIDE] += patch
            best = min(best, time.perf_counter() - begun)
    print(
        json.dumps(
            {
                'training_patterns_per_s': training,
                'inference_patterns_per_s': PATTERNS / best,
                'inference_start_s': START,
                'training_start_s': START,
                'peak_memory_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == '__main__':
    main()
