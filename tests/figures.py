"""What others have published about these networks, as data: the tests compare the plans with it.

Counts are exact; a figure that its source prints rounded is a string, and is compared to the digit
that is printed. `DERIVED` are our own: from a counter that shares no code with the plan and gives
every published count to the unit.
"""

from __future__ import annotations

from typing import NamedTuple

# torchvision 0.28, `weights` metadata: num_params, and _ops in 1e9 multiply-adds at 224 x 224.
TORCHVISION: dict[str, tuple[int, str]] = {
    "torchvision/resnet18": (11689512, "1.814"),
    "torchvision/resnet34": (21797672, "3.664"),
    "torchvision/resnet50": (25557032, "4.089"),
    "torchvision/resnet101": (44549160, "7.801"),
    "torchvision/resnet152": (60192808, "11.514"),
    "torchvision/resnext50_32x4d": (25028904, "4.230"),
    "torchvision/resnext101_32x8d": (88791336, "16.414"),
    "torchvision/resnext101_64x4d": (83455272, "15.460"),
    "torchvision/wide_resnet50_2": (68883240, "11.398"),
    "torchvision/wide_resnet101_2": (126886696, "22.753"),
}


class KerasCounts(NamedTuple):
    """Of a keras.applications model: `params` includes the moving statistics."""

    params: int
    trainable: int
    non_trainable: int
    tensors: int
    trainable_tensors: int


# keras.io/api/applications and `model.summary()` of Keras 3.
KERAS: dict[str, KerasCounts] = {
    "keras/resnet50": KerasCounts(25636712, 25583592, 53120, 320, 214),
    "keras/resnet101": KerasCounts(44707176, 44601832, 105344, 626, 418),
    "keras/resnet152": KerasCounts(60419944, 60268520, 151424, 932, 622),
    "keras/resnet50v2": KerasCounts(25613800, 25568360, 45440, 272, 174),
    "keras/resnet101v2": KerasCounts(44675560, 44577896, 97664, 544, 344),
    "keras/resnet152v2": KerasCounts(60380648, 60236904, 143744, 816, 514),
}

# keras-hub resnet_presets.py: parameters with moving statistics, of the backbone (no head). The two
# V2 entries of that file repeat V1's numbers; these here are derived from its code.
KERAS_HUB_BACKBONE: dict[str, int] = {
    "keras_hub/resnet_18": 11186112,
    "keras_hub/resnet_50": 23561152,
    "keras_hub/resnet_101": 42605504,
    "keras_hub/resnet_152": 58295232,
    "keras_hub/resnet_v2_50": 23545792,
    "keras_hub/resnet_v2_101": 42590144,
}

# The same file lists its `vd` presets with their heads.
KERAS_HUB_CLASSIFIER: dict[str, int] = {
    "keras_hub/resnet_vd_18": 11722824,
    "keras_hub/resnet_vd_34": 21838408,
    "keras_hub/resnet_vd_50": 25629512,
    "keras_hub/resnet_vd_101": 44673864,
    "keras_hub/resnet_vd_152": 60363592,
    "keras_hub/resnet_vd_200": 74933064,
}

# timm results/results-imagenet.csv: millions of parameters.
TIMM_PARAMS_M: dict[str, str] = {
    "timm/resnet18": "11.69",
    "timm/resnet34": "21.80",
    "timm/resnet50": "25.56",
    "timm/resnet101": "44.55",
    "timm/resnet152": "60.19",
    "timm/resnet26": "16.00",
    "timm/resnet18d": "11.71",
    "timm/resnet34d": "21.82",
    "timm/resnet50d": "25.58",
    "timm/resnet101d": "44.57",
    "timm/resnet50_gn": "25.56",
    "timm/resnetaa50": "25.56",
    "timm/resnetaa50d": "25.58",
    "timm/resnetaa101d": "44.57",
    "timm/resnetblur50": "25.56",
    "timm/resnetv2_18": "11.69",
    "timm/resnetv2_34": "21.80",
    "timm/resnetv2_50": "25.55",
    "timm/resnetv2_101": "44.54",
    "timm/resnetv2_50x1_bit": "25.55",
    "timm/resnetv2_101x1_bit": "44.54",
    "timm/resnetv2_50x3_bit": "217.32",
    "timm/resnetv2_152x4_bit": "936.53",
}

# osmr/imgclsmob README. Its V1 nets project where the shape changes, its V2 nets where the
# channels do; ours are option A, so the tests give them these projections.
IMGCLSMOB_POST: dict[str, int] = {
    "cifar/resnet20": 272474,
    "cifar/resnet56": 855770,
    "cifar/resnet110": 1730714,
    "cifar/resnet1202": 19424026,
    "cifar/resnet164": 1704154,
    "cifar/resnet1001": 10328602,
}
IMGCLSMOB_PRE: dict[str, int] = {
    "cifar/preresnet20": 272282,
    "cifar/preresnet56": 855578,
    "cifar/preresnet110": 1730522,
    "cifar/preresnet1202": 19423834,
    "cifar/preresnet164": 1703258,
    "cifar/preresnet1001": 10327706,
}

# Parameters of the packages' own models: dm-haiku 0.0.17, pretrainedmodels 0.7.4, and those that
# the tests of pytorchcv 0.0.74 have.
PACKAGES: dict[str, int] = {
    "haiku/resnet18_v1": 11689512,
    "haiku/resnet18_v2": 11687720,
    "haiku/resnet34_v1": 21797672,
    "haiku/resnet34_v2": 21795880,
    "haiku/resnet50_v1": 25557032,
    "haiku/resnet50_v2": 25549352,
    "haiku/resnet101_v1": 44549160,
    "haiku/resnet101_v2": 44541480,
    "haiku/resnet152_v1": 60192808,
    "haiku/resnet152_v2": 60185128,
    "haiku/resnet200_v1": 64673832,
    "haiku/resnet200_v2": 64666152,
    "fbresnet/fbresnet152": 60268520,
    "pytorchcv/resnet18": 11689512,
    "pytorchcv/resnet26": 17960232,
    "pytorchcv/resnetbc26b": 15995176,
    "pytorchcv/resnet34": 21797672,
    "pytorchcv/resnetbc38b": 21925416,
    "pytorchcv/resnet50": 25557032,
    "pytorchcv/resnet50b": 25557032,
    "pytorchcv/resnet101": 44549160,
    "pytorchcv/resnet101b": 44549160,
    "pytorchcv/resnet152": 60192808,
    "pytorchcv/resnet152b": 60192808,
    "pytorchcv/resnet200": 64673832,
    "pytorchcv/resnet200b": 64673832,
    "pytorchcv/preresnet18": 11687848,
    "pytorchcv/preresnet26": 17958568,
    "pytorchcv/preresnetbc26b": 15987624,
    "pytorchcv/preresnet34": 21796008,
    "pytorchcv/preresnetbc38b": 21917864,
    "pytorchcv/preresnet50": 25549480,
    "pytorchcv/preresnet50b": 25549480,
    "pytorchcv/preresnet101": 44541608,
    "pytorchcv/preresnet101b": 44541608,
    "pytorchcv/preresnet152": 60185256,
    "pytorchcv/preresnet152b": 60185256,
    "pytorchcv/preresnet200": 64666280,
    "pytorchcv/preresnet200b": 64666280,
    "pytorchcv/preresnet269b": 102065832,
    "wrn/wrn16_10": 17116634,
    "wrn/wrn28_10": 36479194,
    "wrn/wrn40_8": 35748314,
}

# Zagoruyko & Komodakis 2016 (arXiv:1605.07146), table 4, and table 8 for ImageNet
# (WRN-50-2-bottleneck): millions of parameters.
WRN_PARAMS_M: dict[str, str] = {
    "wrn/wrn40_1": "0.6",
    "wrn/wrn40_2": "2.2",
    "wrn/wrn40_4": "8.9",
    "wrn/wrn40_8": "35.7",
    "wrn/wrn28_10": "36.5",
    "wrn/wrn28_12": "52.5",
    "wrn/wrn22_8": "17.2",
    "wrn/wrn22_10": "26.8",
    "wrn/wrn16_8": "11.0",
    "wrn/wrn16_10": "17.1",
    "torchvision/wide_resnet50_2": "68.9",
}

# He et al. 2015, table 1: 1e9 multiply-adds; the basic nets have parameter-free shortcuts.
PAPER_V1_GMACS: dict[str, str] = {
    "he/plain18": "1.8",
    "he/plain34": "3.6",
    "he/resnet18_a": "1.8",
    "he/resnet34_a": "3.6",
    "he/resnet50": "3.8",
    "he/resnet101": "7.6",
    "he/resnet152": "11.3",
}

# He et al. 2015, table 6: millions of parameters of the CIFAR-10 nets.
PAPER_V1_CIFAR_PARAMS_M: dict[str, str] = {
    "cifar/resnet20": "0.27",
    "cifar/resnet32": "0.46",
    "cifar/resnet44": "0.66",
    "cifar/resnet56": "0.85",
    "cifar/resnet110": "1.7",
    "cifar/resnet1202": "19.4",
}

# He et al. 2016, table 4. It prints 10.2 for ResNet-1001, whose own code builds 10.33.
PAPER_V2_PARAMS_M: dict[str, str] = {
    "cifar/preresnet110": "1.7",
    "cifar/preresnet164": "1.7",
    "cifar/preresnet1202": "19.4",
}

# Trainable parameters, and 1e9 multiply-adds at the preset's image size where a figure is known.
DERIVED: dict[str, tuple[int, str | None]] = {
    "he/resnet18_a": (11515688, "1.7948"),
    "he/resnet34_a": (21623848, "3.6445"),
    "he/resnet50": (25557096, "3.8580"),
    "he/resnet101": (44549160, "7.5702"),
    "he/resnet152": (60192808, "11.2824"),
    "keras/resnet50": (25583592, "3.8580"),
    "keras/resnet101": (44601832, "7.5702"),
    "keras/resnet152": (60268520, "11.2824"),
    "keras/resnet50v2": (25568360, "3.4823"),
    "keras/resnet101v2": (44577896, "7.1945"),
    "keras/resnet152v2": (60236904, "10.9067"),
    "timm/resnet18d": (11708744, None),
    "timm/resnet26d": (16014408, None),
    "timm/resnet34d": (21816904, None),
    "timm/resnet50d": (25576264, None),
    "timm/resnet101d": (44568392, None),
    "timm/resnet152d": (60212040, None),
    "timm/resnet200d": (64693064, None),
    "timm/resnet50t": (25573728, None),
    "timm/resnet50s": (25680808, None),
    "timm/resnetv2_18": (11687720, None),
    "timm/resnetv2_34": (21795880, None),
    "timm/resnetv2_50": (25549352, None),
    "timm/resnetv2_101": (44541480, None),
    "timm/resnetv2_152": (60185128, None),
    "bit/r50x1": (25549352, None),
    "bit/r50x3": (217319080, None),
    "bit/r101x1": (44541480, None),
    "bit/r101x3": (387934888, None),
    "bit/r152x2": (236335208, None),
    "bit/r152x4": (936533224, None),
    "cifar/resnet20": (269722, "0.0406"),
    "cifar/resnet32": (464154, None),
    "cifar/resnet44": (658586, None),
    "cifar/resnet56": (853018, "0.1255"),
    "cifar/resnet110": (1727962, "0.2529"),
    "cifar/resnet1202": (19421274, None),
    "cifar/preresnet20": (269722, "0.0406"),
    "cifar/preresnet32": (464154, None),
    "cifar/preresnet44": (658586, None),
    "cifar/preresnet56": (853018, "0.1255"),
    "cifar/preresnet110": (1727962, "0.2529"),
    "cifar/preresnet1202": (19421274, None),
    "tf/resnet18_v1": (11694249, None),
    "tf/resnet34_v1": (21802409, None),
    "tf/resnet50_v1": (25559081, None),
    "tf/resnet18_v2": (11692329, None),
    "tf/resnet50_v2": (25551401, None),
    "fb/preresnet200": (64666152, "15.0075"),
    "kuangliu/resnet18": (11173962, None),
    "kuangliu/resnet50": (23520842, None),
    "kuangliu/preact_resnet18": (11171146, None),
    "kuangliu/preact_resnet50": (23509066, None),
    "d2l/resnet18": (11178378, "1.7349"),
    "article/resnet50v2": (23705316, None),
    "ablation/resnet110_conv_shortcut": (1826202, None),
}
