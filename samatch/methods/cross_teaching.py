"""Cross teaching between a CNN and a transformer (Luo et al., MIDL 2022).

    loss of the CNN = L(f(x_l), y_l) + lambda_u r(t) Dice(f(w), argmax g(w))

and likewise for the transformer g. It is MONAI's Swin UNETR here, from random weights; the paper's
Swin-Unet starts from ImageNet's. The CNN is validated and tested, as in the paper.
"""

from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

from samatch.data.batches import Batch
from samatch.methods._families import TwoStudents, like
from samatch.networks.losses import dice_loss


class CrossTeaching(TwoStudents):
    """The student is the CNN, student2 the transformer."""

    def new_partner(self, student: nn.Module) -> nn.Module:
        """A Swin UNETR from random weights, of as many classes."""
        return like(
            SwinUNETR(
                in_channels=1, out_channels=student.num_classes, spatial_dims=2, feature_size=24
            ),
            student,
        )

    def cross(self, predictions: dict[str, Tensor], mine: str, other: str, batch: Batch) -> Tensor:
        """Dice loss against the other's class map, over unlabeled images."""
        return dice_loss(
            predictions["logits_w" + mine].float().softmax(1),
            predictions["logits_w" + other].detach().argmax(1),
        )


METHOD = CrossTeaching
