"""Files as people have them: whose they are, what is read of them, and with which command."""

from __future__ import annotations

from typing import NamedTuple


class Owner(NamedTuple):
    """Files of one kind. `command` has FILE for the file, and TO for the target."""

    whose: str
    looks: str  # how such a file is known
    read: str
    command: str


CONVERT = "rosetta convert FILE TO"
REST = "--leave-out '*'"
OWNERS: dict[str, Owner] = {
    "trainer": Owner(
        "a training script in PyTorch: the ImageNet example, Lightning, DDP, FSDP, `torch.compile`",
        "`state_dict`, `net`, `model` in it; names begin with `module.`, `model.`, `_orig_mod.`",
        "the network behind any nesting and any prefix; optimizers, counters, epochs and "
        "configurations are left, and told",
        CONVERT,
    ),
    "averages": Owner(
        "a script that keeps averages: timm, torchvision, ema-pytorch",
        "two networks: `state_dict` and `state_dict_ema`, `model` and `model_ema`",
        "the raw weights; the averages where `--take` says so; equal ones are one network",
        f"{CONVERT} --take ema",
    ),
    "contrastive": Owner(
        "MoCo, SimCLR, SwAV, BYOL, Barlow Twins",
        "`encoder_q` and `encoder_k`, `queue`, `projector`, `prototypes`",
        "the encoder, of query and key that of the query; heads of several layers belong to no "
        "ResNet, so that it takes your word to leave them",
        f"{CONVERT} {REST}",
    ),
    "teacher": Owner(
        "DINO, a distillation, an ensemble",
        "`student` and `teacher`, `models.0` and `models.1`",
        "the one that you name: nothing tells which is meant",
        f"{CONVERT} --take teacher {REST}",
    ),
    "bigger": Owner(
        "a detector, a segmenter, a depth model, a re-identification",
        "`backbone.body`, `encoder`, `base` beside `fpn`, `decoder`, `bottleneck`",
        "the backbone",
        f"{CONVERT} {REST}",
    ),
    "classifier": Owner(
        "a fine-tuning with a head of its own",
        "`last_linear`, `classifier.1`, `head.fc`, `output`, or any other name",
        "one linear layer that takes the features is the classifier, whatever it is called",
        CONVERT,
    ),
    "names": Owner(
        "somebody whose names nobody knows",
        "`stage1.0.c1`, `features.stage1.unit1.body.conv1`, `4.0.conv1`, `conv2d_17`",
        "the network by its structure; where tensors could be exchanged, their order decides, and "
        "the doubt is told",
        CONVERT,
    ),
    "keras": Owner(
        "a fine-tuning in Keras",
        "`resnet50`, `dense` in a `.keras`, `.h5` or `.weights.h5`",
        "the network with its new classifier; layers that prepare the images, dropout and softmax "
        "are told, and not carried",
        CONVERT,
    ),
    "module": Owner(
        "`torch.save(model)`, TorchScript",
        "a file that wants the program that wrote it",
        "the tensors alone: nothing of the program is imported or run",
        CONVERT,
    ),
    "pickle": Owner(
        "detectron2, Caffe2, PaddlePaddle, Haiku",
        "a `.pkl` of NumPy arrays",
        "the network; what its code does that no tensor tells (SAME padding, stride in the first "
        "1x1, BGR) is assumed, and told",
        f"{CONVERT} {REST}",
    ),
    "tensorflow": Owner(
        "TensorFlow: slim, official, SimCLR",
        "a `.ckpt.index` beside `.ckpt.data-…`, or a SavedModel",
        "the network; slim strides in the last unit of a block, and pools SAME, as is told",
        CONVERT,
    ),
    "onnx": Owner(
        "an export to ONNX that kept its batch norms",
        "a `.onnx`, with or without a file of values beside it",
        "the weights by their layers; where the exporter folded the norms into the kernels, as "
        "most do, it is refused and says so, whatever the tensors are called",
        CONVERT,
    ),
    "arrays": Owner(
        "NumPy, JAX, Flax",
        "an `.npz`, `.npy`, `.msgpack` or an Orbax folder of any tree",
        "the network in it; where kernels are HWIO, SAME padding is assumed, and told",
        CONVERT,
    ),
}
