"""A colour network for gray images."""

from torch import Tensor, nn

from .transparent import Transparent

__all__ = ["GrayAsRGB"]


class GrayAsRGB(Transparent):
    """Give a three-channel network one gray channel three times, and average its three outputs.

    The smoothing's noise must be put on the one gray channel, outside of this module: noise on
    three copies would be another, wrong number of dimensions. The state_dict is the network's.

    Args:
        network: Maps (B,3,h,w) to (B,3,s*h,s*w).

    Example:
        >>> import torch
        >>> bright = nn.Conv2d(3, 3, 1, bias=False)
        >>> _ = nn.init.constant_(bright.weight, 0.5)
        >>> GrayAsRGB(bright)(torch.ones(1, 1, 1, 1)).item()
        1.5
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.train(network.training)

    def forward(self, lr: Tensor) -> Tensor:
        """Map gray lr (B,1,h,w) to gray sr (B,1,s*h,s*w).

        Raises:
            ValueError: If lr has other than one channel.
        """
        if lr.ndim != 4 or lr.shape[1] != 1:
            raise ValueError(f"lr must be gray, (B,1,h,w), got {(*lr.shape,)}")
        return self.network(lr.repeat(1, 3, 1, 1)).mean(1, keepdim=True)
