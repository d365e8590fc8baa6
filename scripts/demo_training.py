"""Train the demo's classifier on the known classes; an interrupted training resumes at its last epoch."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nnguide_core.models.demo_network import MEAN, STD, DemoResNet

__all__ = ["Recipe", "accuracy", "normalised", "train"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, beside the images."""

    cycles: tuple[tuple[int, float], ...] = ((14, 0.2), (8, 0.1))  # epochs and peak learning rate of each
    batch_size: int = 256
    warm_up: float = 0.15  # share of a cycle's steps until the peak, from which a cosine leads to zero
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 5e-4
    margin: int = 4  # pixels reflected around an image before a random crop
    seed: int = 2023

    @property
    def epochs(self) -> int:
        """Epochs of all cycles."""
        return sum(epochs for epochs, _ in self.cycles)

    def rate(self, epoch: float) -> float:
        """Return the learning rate after so many epochs, which may be a fraction."""
        for epochs, peak in self.cycles:
            if epoch < epochs:
                return peak * _share_of_peak(epoch / epochs, self.warm_up)
            epoch -= epochs
        return 0.0


def train(images: Tensor, labels: Tensor, recipe: Recipe, checkpoint: Path) -> tuple[DemoResNet, float]:
    """Train on (N, 3, 32, 32) uint8 images; return the network in eval mode and the seconds it took.

    After each epoch everything needed to go on is written to checkpoint, and read from it at the start. The
    same machine gives the same weights again; another one gives others of about the same accuracy.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    network = DemoResNet().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.rate(0), momentum=recipe.momentum, nesterov=True,
        weight_decay=recipe.weight_decay,
    )  # fmt: skip
    first, seconds = _resume(network, optimizer, recipe, checkpoint)
    padded = nn.functional.pad(images.float(), (recipe.margin,) * 4, mode="reflect").to(torch.uint8)
    for epoch in range(first, recipe.epochs):
        started = time.perf_counter()
        loss = _train_epoch(network, optimizer, padded.to(device), labels.to(device), recipe, epoch)
        seconds += time.perf_counter() - started
        print(f"Epoch {epoch + 1} of {recipe.epochs}: loss {loss:.3f}, {seconds:.0f} s so far.", flush=True)
        _save(network, optimizer, recipe, epoch + 1, seconds, checkpoint)
    return network.eval(), seconds


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of (N, 3, 32, 32) uint8 images that the network, in eval mode, names right."""
    device = next(network.parameters()).device
    parts = images.chunk(-(-len(images) // 500))
    guesses = torch.cat([network(normalised(part.to(device))).argmax(1).cpu() for part in parts])
    return (guesses == labels).float().mean().item()


def normalised(images: Tensor) -> Tensor:
    """Return uint8 images as the network wants them: float32, normalised, channels last in memory."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    padded: Tensor,
    labels: Tensor,
    recipe: Recipe,
    epoch: int,
) -> float:
    network.train()
    losses = []
    steps = len(labels) // recipe.batch_size
    for step, (batch, targets) in enumerate(_batches(padded, labels, recipe, epoch)):
        optimizer.param_groups[0]["lr"] = recipe.rate(epoch + step / steps)
        with torch.autocast(batch.device.type, dtype=torch.bfloat16):
            logits = network(normalised(batch))
        loss = nn.functional.cross_entropy(logits.float(), targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def _batches(padded: Tensor, labels: Tensor, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
    order = torch.randperm(len(labels), generator=generator)
    for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
        at = order[start : start + recipe.batch_size].to(padded.device)
        yield _cropped_and_flipped(padded[at], recipe.margin, generator), labels[at]


def _cropped_and_flipped(padded: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    count, _, height, width = padded.shape
    down, right = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator)
    rows = torch.arange(height - 2 * margin) + down  # (N, height)
    columns = torch.arange(width - 2 * margin) + right
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    picks = torch.arange(count).view(-1, 1, 1), rows[:, :, None], columns[:, None, :]
    image, row, column = (pick.to(padded.device) for pick in picks)
    return padded.permute(0, 2, 3, 1)[image, row, column].permute(0, 3, 1, 2)


def _share_of_peak(progress: float, warm_up: float) -> float:
    if progress < warm_up:
        return progress / warm_up
    return (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2


def _resume(
    network: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, checkpoint: Path
) -> tuple[int, float]:
    if not checkpoint.exists():
        return 0, 0.0
    kept = torch.load(checkpoint, weights_only=True)
    if kept["recipe"] != asdict(recipe):
        print(f"{checkpoint} was written by another recipe; starting over.")
        return 0, 0.0
    network.load_state_dict(kept["network"])
    optimizer.load_state_dict(kept["optimizer"])
    print(f"Resuming after epoch {kept['epoch']} from {checkpoint}.")
    return kept["epoch"], kept["seconds"]


def _save(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    epoch: int,
    seconds: float,
    checkpoint: Path,
) -> None:
    temporary = checkpoint.with_suffix(".part")
    states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**states, "recipe": asdict(recipe), "epoch": epoch, "seconds": seconds}, temporary)
    temporary.replace(checkpoint)
