"""Slices on the device and the batches made from them."""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch.config.settings import Augment, RunConfig
from samatch.data import augment, prepared
from samatch.data.volumes import Volume
from samatch.system.devices import home_of, send


def resize_image(image: Tensor, size: int) -> Tensor:
    """(N, 1, H, W) -> (N, 1, size, size), bilinear, antialiased when shrinking."""
    return F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)


def resized(volume: Volume, size: int) -> tuple[Tensor, Tensor]:
    """Image (D, 1, S, S) float32 and label (D, S, S) uint8; from the prepared small copy where that
    has the size."""
    if volume.small is not None and size == prepared.SIZE:
        return torch.from_numpy(volume.small[0])[:, None], torch.from_numpy(volume.small[1])
    label = F.interpolate(
        torch.from_numpy(volume.label)[:, None], (size, size), mode="nearest-exact"
    )[:, 0]
    return resize_image(torch.from_numpy(volume.image)[:, None], size), label


def soft_label(volume: Volume, size: int, num_classes: int) -> Tensor:
    """Class probabilities (D, C, S, S) float32: what share of each pixel belongs to which class."""
    one_hot = F.one_hot(torch.from_numpy(volume.label).long(), num_classes).movedim(-1, 1).float()
    return resize_image(one_hot, size)


@dataclass(frozen=True)
class SlicePool:
    """Every slice of some volumes: image (N, 1, S, S) float32, label (N, S, S) uint8 (a batch's are
    int64), and for the first n slices, the labeled ones, where soft labels are asked for, soft
    (n, C, S, S) float32. Batches are made where the label lies; image and soft may lie in the
    host's memory, where a GPU has no room for them."""

    image: Tensor
    label: Tensor
    soft: Tensor | None = None

    @classmethod
    def from_volumes(
        cls,
        volumes: list[Volume],
        size: int,
        device: torch.device | str = "cpu",
        soft: Tensor | None = None,
    ) -> "SlicePool":
        """Slices of the volumes in their order, at size x size; the labeled volumes come first."""
        images, labels = zip(*(resized(volume, size) for volume in volumes), strict=True)
        image, label = torch.cat(images), torch.cat(labels).to(device)
        large = image.nbytes + (0 if soft is None else soft.nbytes)
        home = home_of(large, device, "the slices")
        return cls(image.to(home), label, None if soft is None else soft.to(home))

    def rows(self, values: Tensor, numbers: Tensor, index: Tensor) -> Tensor:
        """values[index] where `index` lies; `numbers` are the same numbers on the host, for values
        that lie there."""
        if values.device == index.device:
            return values[index]
        return send(values[numbers], index.device)

    def with_object(self, n_labeled: int) -> Tensor:
        """Numbers of the labeled slices that hold an object; of all of them where none does."""
        found = self.label[:n_labeled].flatten(1).any(1).nonzero()[:, 0].cpu()
        return found if len(found) else torch.arange(n_labeled)

    def label_of(self, index: Tensor) -> Tensor:
        """Class maps (B, S, S) int64 of the slices with these numbers (B,)."""
        return self.label[index].long()

    def __len__(self) -> int:
        return len(self.image)


def augmented_views(
    volumes: list[Volume], count: int, size: int, settings: Augment, seed: int
) -> list[Volume]:
    """`count` augmented copies of each volume at size x size, as volumes of their own: all of the
    first view, then all of the second. For a SAM whose encoder is fixed: its embeddings of these
    are computed once."""
    generator, views = torch.Generator().manual_seed(seed), []
    for number in range(1, count + 1):
        for volume in volumes:
            image, label = resized(volume, size)
            theta = augment.random_affine(len(image), settings, generator)
            image = augment.strong_view(augment.warp(image, theta, size), settings, generator)
            label = augment.warp_label(label, theta, size)
            view_id = f"{volume.case.case_id}|view{number}"  # no case has such a name
            case = dataclasses.replace(volume.case, case_id=view_id)
            views.append(Volume(case, image[:, 0].numpy(), label.numpy(), None))
    return views


NOT_DRAWN = torch.empty(0)


@dataclass(frozen=True)
class Batch:
    """One step's images. All views are (B, 1, S, S), class maps (B, S, S), boxes (B, S, S) bool;
    label_l is a class map or, with soft labels, class probabilities (B, C, S, S).

    What a method asks for none of (`needs_unlabeled`, `strong_views`) is NOT_DRAWN, of length 0.
    The CutMix donor of sample b is sample b-1 of the same batch in the first strong view, b-2 in
    the second. `hidden_label_u` is for logging the quality of pseudo-labels; no loss may read it.
    `theta_u` takes the slice to its view (see augment)."""

    image_l: Tensor
    label_l: Tensor
    index_l: Tensor
    iteration: int
    progress: float  # fraction of the training that is done, in [0, 1)
    image_w: Tensor = NOT_DRAWN
    image_s1: Tensor = NOT_DRAWN  # strong view of image_w, CutMix applied
    cutmix_box1: Tensor = NOT_DRAWN
    image_s2: Tensor = NOT_DRAWN  # a second one, drawn anew
    cutmix_box2: Tensor = NOT_DRAWN
    index_u: Tensor = NOT_DRAWN
    theta_u: Tensor = NOT_DRAWN
    hidden_label_u: Tensor = NOT_DRAWN


def draw_batch(
    pool: SlicePool,
    n_labeled_slices: int,
    config: RunConfig,
    generator: torch.Generator,
    iteration: int,
    unlabeled: bool,
    strong_views: int = 1,
) -> Batch:
    """A batch drawn with replacement: the first slices of the pool are the labeled ones, the rest
    unlabeled."""
    size, settings = config.train.image_size, config.augment
    device, progress = pool.label.device, iteration / config.train.iterations

    numbers = draw_labeled(pool, n_labeled_slices, config, generator)
    index_l = send(numbers, device)
    theta_l = send(augment.random_affine(len(index_l), settings, generator), device)
    moved = (
        send(augment.elastic_field(len(index_l), size, settings.elastic, generator), device)
        if settings.elastic
        else None
    )
    image_l = pool.rows(pool.image, numbers, index_l)
    image_l = augment.warp(image_l, theta_l, size, displacement=moved)
    label_l = (
        augment.warp_label(pool.label_of(index_l), theta_l, size, moved)
        if pool.soft is None
        else augment.warp_probs(pool.rows(pool.soft, numbers, index_l), theta_l, size, moved)
    )
    if settings.jitter_labeled:
        image_l = augment.strong_view(image_l, settings, generator)
    if not unlabeled:
        return Batch(image_l, label_l, index_l, iteration, progress)
    count = config.train.batch_unlabeled
    numbers = torch.randint(n_labeled_slices, len(pool), (count,), generator=generator)
    index_u = send(numbers, device)
    theta_u = send(augment.random_affine(count, settings, generator), device)
    image_w = augment.warp(pool.rows(pool.image, numbers, index_u), theta_u, size)
    hidden_label_u = augment.warp_label(pool.label_of(index_u), theta_u, size)
    views: dict[str, Tensor] = {}
    for number in range(1, strong_views + 1):
        box = send(augment.cutmix_boxes(count, size, settings.cutmix_prob, generator), device)
        strong = augment.strong_view(image_w, settings, generator)
        views |= {
            f"image_s{number}": augment.paste_donor(strong, box, number),
            f"cutmix_box{number}": box,
        }
    return Batch(
        image_l,
        label_l,
        index_l,
        iteration,
        progress,
        image_w=image_w,
        index_u=index_u,
        theta_u=theta_u,
        hidden_label_u=hidden_label_u,
        **views,
    )


def draw_labeled(
    pool: SlicePool, n_labeled_slices: int, config: RunConfig, generator: torch.Generator
) -> Tensor:
    """(batch,) numbers of labeled slices, drawn with replacement; a share of them from those with
    an object."""
    count = config.train.batch_labeled
    index = torch.randint(0, n_labeled_slices, (count,), generator=generator)
    if not config.augment.foreground:
        return index
    objects = pool.with_object(n_labeled_slices)
    chosen = objects[torch.randint(0, len(objects), (count,), generator=generator)]
    return torch.where(
        torch.rand(count, generator=generator) < config.augment.foreground, chosen, index
    )
