"""Models of other packages: how each is made, whether it is a ResNet that a spec can express, and
the preset that it is known to be.

All are built with drawn weights and norms as after training: fresh ones hide what is in them. Only
the package of a model that is made is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import import_torchvision
from shared import list_presets

SIZE = 96  # leaves more than one pixel at the end of every network here
CLASSES = 10
# Times what is drawn in Keras: features that grow from unit to unit would saturate a softmax.
SCALE, HEAD = np.float32(0.6), np.float32(0.02)


class Model(NamedTuple):
    """`scope`: whether a spec can express it; `preset`: what it is, where that is a preset."""

    package: str
    name: str
    make: Callable[[], Any]
    size: int = SIZE
    scope: bool = True
    preset: str = ""

    @property
    def key(self) -> str:
        return f"{self.package}/{self.name}"


# PyTorch.


def trained(model: Any) -> Any:
    """Norms of a PyTorch model as after training: fresh ones hide what is in them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dim() == 1 and tensor.is_floating_point():
            centre = 0.75 if name.endswith("weight") else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1 + centre)
    return model.eval()


def _torch(module: str, function: str, /, **options: Any) -> Any:
    import_torchvision()  # most of these packages import it
    return trained(getattr(importlib.import_module(module), function)(**options))


def _timm(name: str) -> Any:
    import_torchvision()
    return trained(importlib.import_module("timm").create_model(name, num_classes=CLASSES))


def _transformers(**options: Any) -> Any:
    import_torchvision()
    library = importlib.import_module("transformers")
    return trained(library.ResNetForImageClassification(library.ResNetConfig(**options)))


def _encoder(name: str) -> Any:
    import_torchvision()
    library = importlib.import_module("segmentation_models_pytorch")
    encoder = trained(library.encoders.get_encoder(name, weights=None))

    import torch

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, x: Any) -> Any:
            return self.encoder(x)[-1].mean((2, 3))

    return Last().eval()


# JAX.


def spread_out(array: np.ndarray, seed: int) -> np.ndarray:
    """Values that hide nothing, in place of an array's own: no zeros, variances around one."""
    random = np.random.default_rng(seed)
    if array.size == max(array.shape, default=1):  # a vector; Haiku's have four axes
        return random.uniform(0.5, 1.5, array.shape).astype(array.dtype)
    fan = np.prod(array.shape[:-1])
    return (random.normal(size=array.shape) * np.sqrt(2 / fan)).astype(array.dtype)


def _drawn(value: np.ndarray, seed: int) -> np.ndarray:
    """Vectors around one and kernels by their fan, so that features stay of one size."""
    if value.dtype.kind != "f":
        return value
    found = spread_out(value, seed)
    if value.size > max(value.shape, default=1):
        return found
    return (0.8 + 0.2 * found).astype(value.dtype)


def _tree(tree: Any) -> Any:
    """A tree of shapes with drawn values."""
    import jax

    leaves, structure = jax.tree_util.tree_flatten(tree)
    drawn = [_drawn(np.zeros(leaf.shape, leaf.dtype), k) for k, leaf in enumerate(leaves)]
    return jax.tree_util.tree_unflatten(structure, drawn)


def _image() -> Any:
    import jax

    return jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), "float32")


def _haiku(name: str, v2: bool) -> Any:
    import jax

    hk = importlib.import_module("haiku")
    net = hk.transform_with_state(
        lambda x, is_training: getattr(hk.nets, name)(CLASSES, resnet_v2=v2)(x, is_training)
    )
    key = jax.random.key(0)
    return (net, *_tree(jax.eval_shape(lambda k, x: net.init(k, x, True), key, _image())))


def _linen(package: str, name: str, **options: Any) -> Any:
    import jax

    module = getattr(importlib.import_module(package), name)(**options)
    key = jax.random.key(0)
    return module, _tree(jax.eval_shape(lambda k, x: module.init(k, x), key, _image()))


def _image_classification_jax(name: str, depths: list[int], activation: str) -> Any:
    """Its norms take means over an axis of `vmap` or `pmap` while training."""
    import jax
    from flax import linen

    resnet = importlib.import_module("image_classification_jax.models.resnet")
    block = getattr(resnet, name)
    act = getattr(linen, activation)
    module = resnet.ResNet(stage_sizes=depths, block_cls=block, num_classes=CLASSES, act=act)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda k, x: module.init(k, x, False), key, _image())
    return (lambda v, x: module.apply(v, x, False)), _tree(variables)


# Keras and TensorFlow.


@contextlib.contextmanager
def _as_keras(name: str) -> Iterator[None]:
    """Another module under the name of Keras, for packages that were written for Keras 2."""
    own = {key: sys.modules.pop(key) for key in list(sys.modules) if key.split(".")[0] == "keras"}
    other = importlib.import_module(name)
    sys.modules["keras"] = other
    for key in [key for key in sys.modules if key.startswith(f"{name}.")]:
        sys.modules[f"keras.{key.removeprefix(f'{name}.')}"] = sys.modules[key]
    try:
        yield
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] == "keras"]:
            del sys.modules[key]
        sys.modules.update(own)


def _keras(model: Any) -> Any:
    """A Keras model with drawn variables, whichever Keras it is of."""
    for k, variable in enumerate(model.variables):
        name = str(getattr(variable, "path", variable.name))
        value = np.asarray(variable)
        if "seed" not in name and "normalization/" not in name.removeprefix("batch_"):
            factor = HEAD if value.ndim == 2 else SCALE if "gamma" in name else 1
            variable.assign(_drawn(value, k) * factor)
    return model


def _application(name: str) -> Any:
    build = getattr(importlib.import_module("keras").applications, name)
    return _keras(build(weights=None, classes=CLASSES, input_shape=(SIZE, SIZE, 3)))


def _hub(blocks: list[int], kind: str, *, v2: bool = False, deep: bool = False) -> Any:
    library = importlib.import_module("keras_hub")
    stem = ([32, 32, 64], [3, 3, 3]) if deep else ([64], [7])
    widths, options = [64, 128, 256, 512], {"image_shape": (224, 224, 3)}
    build = library.models.ResNetBackbone
    return _keras(
        build(*stem, widths, blocks, [1, 2, 2, 2], kind, use_pre_activation=v2, **options)
    )


def _classifier(name: str) -> Any:
    make, _ = importlib.import_module("classification_models.keras").Classifiers.get(name)
    return _keras(make((SIZE, SIZE, 3), weights=None, classes=CLASSES))


def _keras_applications(module: str, name: str) -> Any:
    tf_keras = importlib.import_module("tf_keras")
    library = importlib.import_module(f"keras_applications.{module}")
    parts = {part: getattr(tf_keras, part) for part in ("backend", "layers", "models", "utils")}
    build = getattr(library, name)
    size = 224 if module == "resnet50" else SIZE
    return _keras(build(weights=None, classes=CLASSES, input_shape=(size, size, 3), **parts))


def _tf2cv(name: str, size: int) -> Any:
    provider = importlib.import_module("tf2cv.model_provider")
    model = provider.get_model(name, classes=CLASSES, data_format="channels_last")
    model(np.zeros((1, size, size, 3), np.float32))  # builds it
    return _keras(model)


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    """tf_keras builds a network by recursion: for 269 layers, deeper than Python allows."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _kerascv(name: str) -> Any:
    with _as_keras("tf_keras"), _deep_recursion():
        for part in ("", ".base_layer", ".input_spec"):  # where Keras 2 had them
            sys.modules[f"keras.engine{part}"] = importlib.import_module(
                f"tf_keras.src.engine{part}"
            )
        model = importlib.import_module("kerascv.model_provider").get_model(name, classes=CLASSES)
    return _keras(model)


def _keras_resnet(name: str) -> Any:
    with _as_keras("tf_keras"):
        library, keras = importlib.import_module("keras_resnet.models"), sys.modules["keras"]
        images = keras.layers.Input((None, None, 3))
        return _keras(getattr(library, name)(images, classes=CLASSES))


def _slim(name: str) -> Any:
    """A network of TensorFlow 1, as a function of a graph of its own."""
    import tensorflow as tf

    legacy = importlib.import_module("tf_keras.src.legacy_tf_layers")
    engine = importlib.import_module("tf_keras.src.engine")
    sys.modules |= {
        "tensorflow.python.layers": legacy,
        "tensorflow.python.keras": importlib.import_module("tf_keras"),
        "tensorflow.python.keras.engine": engine,
        "tensorflow.python.keras.engine.input_spec": importlib.import_module(
            "tf_keras.src.engine.input_spec"
        ),
    }
    for part in ("base", "convolutional", "core", "normalization", "pooling"):
        module = importlib.import_module(f"tf_keras.src.legacy_tf_layers.{part}")
        sys.modules[f"tensorflow.python.layers.{part}"] = module
    library = importlib.import_module(f"tf_slim.nets.{name.rpartition('_')[0]}")
    scope = importlib.import_module("tf_slim.nets.resnet_utils").resnet_arg_scope

    def network(images: Any) -> Any:
        with importlib.import_module("tf_slim").arg_scope(scope()):
            return getattr(library, name)(images, CLASSES, is_training=False)[0]

    spec = tf.TensorSpec([None, None, None, 3], tf.float32)
    module = tf.Module()
    module.function = tf.compat.v1.wrap_function(network, [spec])
    module.kept = list(module.function.graph.variables)
    for k, variable in enumerate(module.kept):
        variable.assign(_drawn(np.asarray(variable), k))
    return module.function


# What there is.

TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"),
    *("resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
TIMM = (
    *("resnet10t", "resnet14t", "resnet18", "resnet18d", "resnet26", "resnet26d", "resnet26t"),
    *("resnet34", "resnet34d", "resnet50", "resnet50_gn", "resnet50c", "resnet50d", "resnet50s"),
    *("resnet50t", "resnet101", "resnet101c", "resnet101d", "resnet101s", "resnet152"),
    *("resnet152c", "resnet152d", "resnet152s", "resnet200", "resnet200d", "resnetaa34d"),
    *("resnetaa50", "resnetaa50d", "resnetaa101d", "resnetblur18", "resnetblur50"),
    *("resnetblur50d", "resnetblur101d", "resnext50_32x4d", "resnext50d_32x4d"),
    *("resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d"),
    *("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnetv2_18", "resnetv2_18d", "resnetv2_34", "resnetv2_34d"),
    *("resnetv2_50", "resnetv2_50d", "resnetv2_50d_gn", "resnetv2_50t", "resnetv2_50x1_bit"),
    *("resnetv2_50x3_bit", "resnetv2_101", "resnetv2_101d", "resnetv2_101x1_bit"),
    *("resnetv2_101x3_bit", "resnetv2_152", "resnetv2_152d", "resnetv2_152x2_bit"),
)
TIMM_OTHERS = (
    *("seresnet18", "seresnet33ts", "seresnet34", "seresnet50", "seresnet50t", "seresnet152d"),
    *(
        "seresnext50_32x4d",
        "seresnextaa101d_32x8d",
        "ecaresnet26t",
        "ecaresnet50d",
        "eca_resnet33ts",
    ),
    *("resnetrs50", "resnetrs101", "gcresnet33ts", "gcresnet50t", "gcresnext26ts", "resnest14d"),
    *("resnest26d", "resnest50d", "skresnet18", "skresnet34", "skresnext50_32x4d", "res2net50d"),
    *("res2net50_26w_4s", "res2next50", "resnet32ts", "resnet33ts", "resnet51q", "resnet61q"),
    *("resnetv2_50d_evos", "resnetv2_50d_frn", "resnet50_clip", "resnet101_clip", "botnet26t_256"),
    *(
        "lambda_resnet26t",
        "lamhalobotnet50ts_256",
        "halonet26t",
        "sehalonet33ts",
        "ese_vovnet19b_dw",
    ),
    *("regnetx_002", "regnetv_040", "convnext_atto", "mobilenetv2_100", "densenet121", "dla34"),
    *("tresnet_m", "cspresnet50", "cspresnext50", "nf_resnet50", "nf_resnet26", "hrnet_w18_small"),
)
TRANSFORMERS: dict[str, tuple[dict[str, Any], str]] = {
    "ResNet, as published": ({}, "torchvision/resnet50"),
    "ResNet, basic": (
        {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
        "torchvision/resnet18",
    ),
    "ResNet, downsample_in_bottleneck": (
        {"downsample_in_bottleneck": True},
        "transformers/resnet50_downsample_in_bottleneck",
    ),
    "ResNet, downsample_in_first_stage": (
        {"downsample_in_first_stage": True},
        "transformers/resnet50_downsample_in_first_stage",
    ),
    "ResNet, both": ({"downsample_in_bottleneck": True, "downsample_in_first_stage": True}, ""),
}
APPLICATIONS = ("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2")
DEPTHS = {
    18: [2, 2, 2, 2],
    34: [3, 4, 6, 3],
    50: [3, 4, 6, 3],
    101: [3, 4, 23, 3],
    152: [3, 8, 36, 3],
    200: [3, 24, 36, 3],
}
# The same names in pytorchcv, tf2cv and (of the ImageNet networks) kerascv. The numbers of classes
# make no other network: there is one of each, at the name without them.
CV_WIDE = ("18_wd4", "18_wd2", "18_w3d4", "18")
CV_DEPTHS = ("10", "12", "14", "bc14b", "16", *CV_WIDE, "26", "bc26b", "34", "bc38b")
CV_DEEP = ("50", "50b", "101", "101b", "152", "152b", "200", "200b")
CV_NEXT = (
    *("resnext14_16x4d", "resnext14_32x2d", "resnext14_32x4d", "resnext26_16x4d"),
    *("resnext26_32x2d", "resnext26_32x4d", "resnext38_32x4d", "resnext50_32x4d"),
    *("resnext101_32x4d", "resnext101_64x4d"),
)
CV_CIFAR = (
    *("resnet20", "resnet56", "resnet110", "resnet164bn", "resnet272bn", "preresnet20"),
    *("preresnet56", "preresnet110", "preresnet164bn", "preresnet272bn", "resnext20_16x4d"),
    *("resnext20_32x2d", "resnext20_32x4d", "resnext29_32x4d", "resnext29_16x64d"),
    *("wrn16_10", "wrn28_10", "wrn40_8", "resnet542bn", "preresnet542bn", "resnext272_1x64d"),
    *("resnext272_2x32d", "resnet1001", "preresnet1001", "resnet1202", "preresnet1202"),
)
CV = (
    *(f"resnet{depth}" for depth in (*CV_DEPTHS, *CV_DEEP)),
    *(f"preresnet{depth}" for depth in (*CV_DEPTHS, *CV_DEEP, "269b")),
    *CV_NEXT,
)
CV_OTHERS = (
    *("seresnet18", "seresnet50b", "sepreresnet18", "seresnext50_32x4d", "resnesta18"),
    *("resnestabc14", "ibn_resnet50", "ibnb_resnet50", "ibn_resnext50_32x4d", "bam_resnet18"),
    *("bam_resnet50", "cbam_resnet18", "cbam_resnet50", "diaresnet18", "diapreresnet18"),
    *("isqrtcovresnet18", "diracnet18v2", "octresnet10_ad2", "tresnet_m"),
    *("squeezeresnet_v1_0", "shakeshakeresnet20_2x16d_cifar10", "shakedropresnet20_cifar10"),
    "wrn20_10_1bit_cifar10",
)
# In evaluation, ResNets: blocks share a kernel, as the answer says; training drops blocks.
CV_IN_EVALUATION = ("sharesnet18", "resdropresnet20_cifar10")


def models() -> Iterator[Model]:
    """All of them, package by package; nothing is built before it is asked for."""
    yield from _of_torch()
    yield from _of_pytorchcv()
    yield from _of_jax()
    yield from _of_keras()
    yield from _of_tensorflow()


def _named(package: str, names: Iterable[str], make: Callable[[str], Any], **about: Any) -> Any:
    return (Model(package, name, partial(make, name), **about) for name in names)


def _of_torch() -> Iterator[Model]:
    for name in TORCHVISION:
        make = partial(_torch, "torchvision.models", name, num_classes=CLASSES)
        yield Model("torchvision", name, make, preset=f"torchvision/{name}")
    for name in TIMM:
        preset = f"timm/{name}" if f"timm/{name}" in list_presets() else ""
        yield Model("timm", name, partial(_timm, name), preset=preset)
    yield from _named("timm", TIMM_OTHERS, _timm, scope=False)
    for name, (options, preset) in TRANSFORMERS.items():
        make = partial(_transformers, num_labels=CLASSES, **options)
        yield Model("transformers", name, make, preset=preset)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"):
        make = partial(_encoder, name)
        yield Model("segmentation-models-pytorch", name, make, preset=f"torchvision/{name}")
    for name in ("se_resnet50", "timm-res2net50_26w_4s", "timm-skresnet18"):
        yield Model("segmentation-models-pytorch", name, partial(_encoder, name), scope=False)
    for depth in (18, 34, 50, 101, 152):
        make = partial(_torch, "pretrainedmodels.models.fbresnet", f"fbresnet{depth}")
        weights = {"pretrained": None} if depth == 152 else {}  # it would fetch them
        make = partial(make, num_classes=CLASSES, **weights)
        preset = "fbresnet/fbresnet152" if depth == 152 else ""
        yield Model("pretrainedmodels", f"fbresnet{depth}", make, size=224, preset=preset)
    pretrained = {"num_classes": CLASSES, "pretrained": None}
    for module, name in (
        ("cafferesnet", "cafferesnet101"),
        ("resnext", "resnext101_32x4d"),
        ("resnext", "resnext101_64x4d"),
    ):
        make = partial(_torch, f"pretrainedmodels.models.{module}", name, **pretrained)
        yield Model("pretrainedmodels", name, make, size=224)
    for name in ("se_resnet50", "senet154"):
        make = partial(_torch, "pretrainedmodels.models.senet", name, **pretrained)
        yield Model("pretrainedmodels", name, make, size=224, scope=False)
    for name in ("ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152"):
        make = partial(_torch, "robustness.cifar_models.resnet", name)
        yield Model("robustness", name, make, size=32, preset=f"kuangliu/{name.lower()}")
    for first in ("", "PreAct"):
        for depth in (18, 34, 50, 101, 152, 200):
            name = f"{first}ResNet{depth}"
            yield Model("torch-resnet", name, partial(_torch, "torch_resnet", name))
        for depth in (20, 32, 44, 56, 110, 164):
            name = f"{first}ResNet{depth}"
            yield Model("torch-resnet", name, partial(_torch, "torch_resnet", name), size=32)
        for depth in (16, 28, 40):
            name = f"{first}WideResNet{depth}"
            make = partial(_torch, "torch_resnet", name, width=4)
            yield Model("torch-resnet", f"{name}-4", make, size=32)
    for name in ("resnet18", "resnet50", "resnet101"):
        for pool_only in (True, False):  # blurs of 4 taps, where a spec has 3
            make = partial(_torch, "antialiased_cnns", name, pool_only=pool_only)
            kind = "pools" if pool_only else "pools and convolutions"
            yield Model("antialiased-cnns", f"{name}, {kind}", make, scope=False)


def _known(name: str) -> str:
    """The preset of this name, if there is one."""
    return name if name in list_presets() else ""


def _of_pytorchcv() -> Iterator[Model]:
    def make(name: str, **options: Any) -> Any:
        return _torch("pytorchcv.model_provider", "get_model", name=name, **options)

    for name in CV:
        built = partial(make, name, num_classes=CLASSES)
        yield Model("pytorchcv", name, built, size=224, preset=_known(f"pytorchcv/{name}"))
    for name in CV_CIFAR:
        built = partial(make, f"{name}_cifar10")
        yield Model("pytorchcv", name, built, size=32, preset=_known(f"wrn/{name}"))
    for name in CV_IN_EVALUATION:
        yield Model("pytorchcv", name, partial(make, name), size=32 if "cifar" in name else 224)
    for name in CV_OTHERS:
        size = 32 if "cifar" in name else 224
        yield Model("pytorchcv", name, partial(make, name), size=size, scope=False)


def _of_jax() -> Iterator[Model]:
    for v2 in (False, True):
        for depth in DEPTHS:
            name = f"ResNet{depth}"
            label = f"{name}, resnet_v2" if v2 else name
            preset = f"haiku/{name.lower()}_v{1 + v2}"
            yield Model("dm-haiku", label, partial(_haiku, name, v2), preset=preset)
    options: dict[str, Any] = {"output": "logits", "pretrained": None, "num_classes": CLASSES}
    for depth in (18, 34, 50, 101, 152):
        make = partial(_linen, "flaxmodels", f"ResNet{depth}", **options)
        yield Model("flaxmodels", f"ResNet{depth}", make, preset=f"torchvision/resnet{depth}")
    known = {
        **{f"ResNet{d}": f"torchvision/resnet{d}" for d in (18, 34, 50, 101, 152)},
        "ResNet200": "timm/resnet200",
        "WideResNet50": "torchvision/wide_resnet50_2",
        "WideResNet101": "torchvision/wide_resnet101_2",
        "ResNeXt50": "torchvision/resnext50_32x4d",
        "ResNeXt101": "",
        **{f"ResNetD{d}": f"timm/resnet{d}d" for d in (18, 34, 50, 101, 152, 200)},
    }
    for name, preset in known.items():
        make = partial(_linen, "jax_resnet", name, n_classes=CLASSES)
        yield Model("jax-resnet", name, make, preset=preset)
    for name in ("ResNeSt50Fast", "ResNeSt50"):
        make = partial(_linen, "jax_resnet", name, n_classes=CLASSES)
        yield Model("jax-resnet", name, make, scope=False)
    for block, depth in (("ResNetBlock", 18), ("BottleneckResNetBlock", 50)):
        for act in ("relu", "silu"):
            make = partial(_image_classification_jax, block, DEPTHS[depth], act)
            name = f"ResNet, {block}, {depth} layers, act={act}"
            yield Model("image-classification-jax", name, make, size=32, scope=act == "relu")


def _of_keras() -> Iterator[Model]:
    for name in APPLICATIONS:
        preset = f"keras/{name.lower()}"
        yield Model("keras.applications", name, partial(_application, name), preset=preset)
    for name in ("MobileNetV2", "VGG16", "DenseNet121", "EfficientNetB0", "ConvNeXtTiny"):
        yield Model("keras.applications", name, partial(_application, name), scope=False)
    for depth in (18, 34, 50, 101, 152, 200):
        kind = "basic_block" if depth < 50 else "bottleneck_block"
        blocks = DEPTHS[depth]
        v1 = f"torchvision/resnet{depth}" if depth < 200 else "timm/resnet200"
        make = partial(_hub, blocks, kind)
        yield Model("keras-hub", f"resnet_{depth}", make, size=224, preset=v1)
        make = partial(_hub, blocks, kind, v2=True)
        yield Model("keras-hub", f"resnet_v2_{depth}", make, size=224)
        make = partial(_hub, blocks, f"{kind}_vd", deep=True)
        yield Model("keras-hub", f"resnet_vd_{depth}", make, size=224)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        preset = f"image_classifiers/{name}"
        yield Model(
            "image-classifiers", name, partial(_classifier, name), preset=preset
        )  # its others need Keras 2


def _of_tensorflow() -> Iterator[Model]:
    make = partial(_keras_applications, "resnet50", "ResNet50")
    yield Model("keras-applications", "resnet50", make, size=224, preset="keras2/resnet50")
    for name in (*APPLICATIONS, "ResNeXt50", "ResNeXt101"):
        make = partial(_keras_applications, "resnet_common", name)
        preset = f"keras/{name.lower()}" if name in APPLICATIONS else ""
        yield Model("keras-applications", name, make, preset=preset)
    for depth in DEPTHS:
        name = f"ResNet2D{depth}"
        preset = f"keras_resnet/resnet{depth}"
        yield Model("keras-resnet", name, partial(_keras_resnet, name), preset=preset)
    for version in ("v1", "v2"):
        for depth in (50, 101, 152, 200):
            name = f"resnet_{version}_{depth}"
            yield Model("tf-slim", name, partial(_slim, name), preset=f"slim/{name}")
    for name in CV:
        yield Model("tf2cv", name, partial(_tf2cv, name, 224), size=224)
    for name in CV_CIFAR:
        yield Model("tf2cv", name, partial(_tf2cv, f"{name}_cifar10", 32), size=32)
    for name in CV:
        if not name.startswith("resnext"):
            yield Model("kerascv", name, partial(_kerascv, name), size=224)
