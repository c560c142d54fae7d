"""The optimisers of a method's networks, their learning rates, and one step of all of them."""

import torch

from samatch.config.settings import RunConfig
from samatch.methods.base import Method, StepOutput

RISING = 30  # first steps, in which SAM's learning rate rises


def trainable(method: Method) -> dict[str, int]:
    """Numbers that learn, by network."""
    return {
        name: sum(p.numel() for p in network.parameters() if p.requires_grad)
        for name, network in method.networks().items()
    }


def make_optimizers(method: Method, config: RunConfig) -> dict[str, torch.optim.Optimizer]:
    """AdamW for SAM (published joint training: SGD 5e-4), Adam 1e-4
    for a discriminator (SSL4MIS), the setting's for the rest."""
    found, fused = {}, torch.cuda.is_available()
    for name, network in method.networks().items():
        parameters = [p for p in network.parameters() if p.requires_grad]
        if not parameters:
            continue
        if name == "sam":
            found[name] = torch.optim.AdamW(
                parameters, lr=config.sam.lr, weight_decay=config.sam.weight_decay, fused=fused
            )
        elif name == "discriminator":
            found[name] = torch.optim.Adam(parameters, lr=1e-4, betas=(0.9, 0.99))
        elif config.train.optimizer == "adamw":
            found[name] = torch.optim.AdamW(
                parameters, lr=config.train.lr, weight_decay=config.train.weight_decay, fused=fused
            )
        else:
            found[name] = torch.optim.SGD(
                parameters,
                lr=config.train.lr,
                momentum=config.train.momentum,
                weight_decay=config.train.weight_decay,
                fused=fused,
            )
    return found


def learning_rate(config: RunConfig, name: str, iteration: int) -> float:
    """Of one optimiser at an iteration: poly decay, for SAM after a short rise."""
    decay = (1 - iteration / config.train.iterations) ** config.train.poly_power
    return (
        config.sam.lr * min(1, (iteration + 1) / RISING) * decay
        if name == "sam"
        else config.train.lr * decay
    )


def descend(output: StepOutput, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """One step of every optimiser. The losses' graphs do not meet, since
    pseudo-labels carry no gradient; a network that no loss has reached has no
    gradient and stays as it is: SAM, where no image of the batch holds an object."""
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    loss = sum(output.losses.values())
    if loss.requires_grad:
        loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()
