"""What a Keras configuration says is believed, if a spec can say it, and refused if not. Keras
itself is the oracle: it builds and runs the same configuration.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras")

from shared import CheckpointError
from shared.errors import RosettaError
from shared.formats.attempt import Wanted
from shared.formats.checkpoint import identify
from shared.formats.configuration.keras_layers import MAX_LAYERS
from shared.formats.containers.archive import Archive, Configuration, Entry
from shared.naming.infer import differences
from tests.formats.configuration.keras_models import (
    Config,
    Edit,
    as_keras2,
    edited,
    entries_of,
    layer,
    layers,
    outputs_of_keras,
    outputs_of_ours,
    plain_outputs,
    read,
    settings,
    small_config,
    without,
)
from tests.probes import relative_error
from tests.zoo import in_zoo, rest_in_zoo

# Float32 outputs against the float64 reference; measured over this file: at most 8e-7.
FLOAT32_LIMIT = 1e-5
# By which every change of the function here moves the outputs, or more.
NOTICED = 1e-4


def reads(name: str, source: str) -> Edit:
    """Lets a layer read another one."""

    def edit(config: Config) -> None:
        tensor = layer(config, name)["inbound_nodes"][0]["args"][0]
        tensor["config"]["keras_history"][0] = source

    return edit


def before(name: str, kind: str, **own: Any) -> Edit:
    """Puts a layer in front of another one."""

    def edit(config: Config) -> None:
        follower, listed = layer(config, name), config["config"]["layers"]
        new = {
            "module": "keras.layers",
            "class_name": kind,
            "registered_name": None,
            "name": f"{name}_{kind}",
            "config": {"name": f"{name}_{kind}", **own},
            "inbound_nodes": follower["inbound_nodes"],
        }
        listed.insert(listed.index(follower), new)
        tensor = json.loads(json.dumps(follower["inbound_nodes"][0]["args"][0]))
        tensor["config"]["keras_history"] = [new["name"], 0, 0]
        follower["inbound_nodes"] = [{"args": [tensor], "kwargs": {}}]

    return edit


def class_of(name: str, kind: str, **own: Any) -> Edit:
    """Makes a layer one of another class."""

    def edit(config: Config) -> None:
        item = layer(config, name)
        item["class_name"], item["config"] = kind, {"name": name, **own}

    return edit


RELU = {
    "module": "builtins",
    "class_name": "function",
    "config": "relu",
    "registered_name": "function",
}
BELIEVED: dict[str, tuple[int, tuple[Edit, ...], dict[str, Any]]] = {
    "as-it-is": (1, (), {}),
    "v2-as-it-is": (2, (), {}),
    "epsilon": (1, (settings("BatchNormalization", epsilon=1e-3),), {"norm.eps": 1e-3}),
    "v2-epsilon": (2, (settings("BatchNormalization", epsilon=1e-3),), {"norm.eps": 1e-3}),
    "momentum": (1, (settings("BatchNormalization", momentum=0.9),), {"norm.momentum": 0.9}),
    "stride-of-v1.5": (
        1,
        (settings("conv3_block1_1_conv", strides=[1, 1]),
         settings("conv3_block1_2_conv", strides=[2, 2])),
        {"block.stride_conv": 2, "block.padding": "same"},
    ),
    "stem-stride": (1, (settings("conv1_conv", strides=[1, 1]),), {"stem.convs": ((7, 1, 64),)}),
    "stem-padding": (
        1,
        (without("conv1_pad"), settings("conv1_conv", padding="same")),
        {"stem.padding": "same"},
    ),
    "pool-padding": (
        2,
        (without("pool1_pad"), settings("pool1_pool", padding="same")),
        {"stem.pool_padding": "same"},
    ),
    "no-pool": (1, (without("pool1_pad"), without("pool1_pool")), {"stem.pool": "none"}),
    "valid-pool": (1, (without("pool1_pad"),), {"stem.pool_padding": "valid"}),
    "first-stage-strides": (
        1,
        (settings("conv2_block1_1_conv", strides=2), settings("conv2_block1_0_conv", strides=2)),
        {"strides": (2, 2)},
    ),
    "raw-shortcut": (
        2,
        (reads("conv2_block1_0_conv", "pool1_pool"), reads("conv3_block1_0_conv",
                                                             "conv2_block2_out")),
        {"shortcut.preact": "never"},
    ),
    "shortcut-pool": (
        1,
        (before("conv3_block1_0_conv", "AveragePooling2D", pool_size=2, padding="same"),
         settings("conv3_block1_0_conv", strides=1)),
        {"shortcut.pool": "avg"},
    ),
    "head-pool": (1, (class_of("avg_pool", "GlobalMaxPooling2D"),), {"head.pool": "max"}),
    "pool-of-whole-features": (
        1,
        (before("predictions", "Flatten"), class_of("avg_pool", "AveragePooling2D", pool_size=8)),
        {},
    ),
    "relu-layers": (1, (class_of("conv2_block1_1_relu", "ReLU"),), {}),
    "relu-in-full": (1, (settings("Activation", activation=RELU),), {}),
    "dropout": (1, (before("predictions", "Dropout", rate=0.3),), {}),
}  # fmt: skip


# Keras itself builds and runs every other one in the short run, and all of them in the zoo.
SPELLINGS = [*itertools.product(BELIEVED, ("keras3", "keras2"))]
SPELLINGS_SHORT = [*[case for case in SPELLINGS if case[1] == "keras2"], *SPELLINGS[::4]]


@pytest.mark.parametrize(("name", "spelling"), rest_in_zoo(SPELLINGS, SPELLINGS_SHORT))
def test_what_it_says_is_believed(name: str, spelling: str) -> None:
    version, edits, fields = BELIEVED[name]
    plain, config = small_config(version), edited(small_config(version), *edits)
    entries = entries_of(plain)
    found = read(as_keras2(config) if spelling == "keras2" else config, entries)
    base = read(plain, entries).spec
    assert found.spec == base.replace(**fields)
    assert found.assumed == {}
    assert {name: found.told_fields[name] for name in fields if name in found.told_fields} == {
        name: fields[name] for name in fields if name in found.told_fields
    }
    if spelling == "keras3":
        theirs = outputs_of_keras(config, entries)
        assert relative_error(outputs_of_ours(found), theirs) <= FLOAT32_LIMIT
        if differences(base, found.spec):
            assert relative_error(plain_outputs(version), theirs) > NOTICED


def call_with(name: str, **kwargs: Any) -> Edit:
    return lambda config: layer(config, name)["inbound_nodes"][0]["kwargs"].update(kwargs)


def renamed(name: str, other: str) -> Edit:
    def edit(config: Config) -> None:
        text = json.dumps(config).replace(f'"{name}"', f'"{other}"')
        config.clear()
        config.update(json.loads(text))

    return edit


def twice(name: str) -> Edit:
    def edit(config: Config) -> None:
        nodes = layer(config, name)["inbound_nodes"]
        nodes.append(nodes[0])

    return edit


def outputs(*names: str) -> Edit:
    return lambda config: config["config"].update(output_layers=[[name, 0, 0] for name in names])


REFUSED: dict[str, tuple[int, Edit, str]] = {
    "activation": (1, settings("conv2_block1_1_relu", activation="gelu"),
                   "activation = 'gelu' in the layer 'conv2_block1_1_relu' (Activation)"),
    "one-epsilon": (1, settings("conv3_block1_2_bn", epsilon=0.1),
                    "epsilon = 0.1 in the layer 'conv3_block1_2_bn' (BatchNormalization)"),
    "one-momentum": (1, settings("conv3_block1_2_bn", momentum=0.5),
                     "momentum = 0.5 in the layer 'conv3_block1_2_bn' (BatchNormalization)"),
    "groups": (1, settings("conv2_block1_2_conv", groups=2),
               "groups = 2 in the layer 'conv2_block1_2_conv' (Conv2D)"),
    "dilation": (1, settings("conv2_block1_2_conv", dilation_rate=[2, 2]),
                 "dilation_rate = 2 in the layer 'conv2_block1_2_conv' (Conv2D)"),
    "no-padding": (1, settings("conv2_block1_2_conv", padding="valid"),
                   "padding = 'valid' in the layer 'conv2_block1_2_conv' (Conv2D)"),
    "odd-padding": (1, settings("conv1_pad", padding=[[2, 3], [2, 3]]),
                    "padding = [[2, 3], [2, 3]] in the layer 'conv1_conv' (Conv2D)"),
    "pool-size": (1, settings("pool1_pool", pool_size=[2, 2]),
                  "pool_size = 2 in the layer 'pool1_pool' (MaxPooling2D)"),
    "strides": (1, settings("conv2_block2_3_conv", strides=[2, 2]),
                "strides = 2 in the layer 'conv2_block2_3_conv' (Conv2D)"),
    "oblong-strides": (1, settings("conv1_conv", strides=[1, 2]),
                       "strides = [1, 2] in the layer 'conv1_conv' (Conv2D)"),
    "bias": (1, settings("conv2_block1_1_conv", use_bias=False),
             "use_bias = False in the layer 'conv2_block1_1_conv' (Conv2D)"),
    "filters": (1, settings("conv2_block1_1_conv", filters=9),
                "filters = 9 in the layer 'conv2_block1_1_conv' (Conv2D)"),
    "units": (1, settings("predictions", units=6), "units = 6 in the layer 'predictions' (Dense)"),
    "axis": (1, settings("conv1_bn", axis=1), "axis = 1 in the layer 'conv1_bn'"),
    "center": (1, settings("conv1_bn", center=False), "center = False in the layer 'conv1_bn'"),
    "head-activation": (1, settings("predictions", activation="sigmoid"),
                        "activation = 'sigmoid' in the layer 'predictions' (Dense)"),
    "relu6": (1, class_of("conv1_relu", "ReLU", max_value=6.0),
              "max_value = 6.0 in the layer 'conv1_relu' (ReLU)"),
    "keepdims": (1, settings("avg_pool", keepdims=True),
                 "keepdims = True in the layer 'avg_pool' (GlobalAveragePooling2D)"),
    "class": (1, class_of("conv2_block1_add", "Multiply"),
              "class_name = 'Multiply' in the layer 'conv2_block1_add' (Multiply)"),
    "rescaling": (1, before("conv1_bn", "Rescaling", scale=0.1),
                  "class_name = 'Rescaling' in the layer 'conv1_bn_Rescaling' (Rescaling)"),
    "of-the-images": (1, before("conv1_pad", "SpaceToDepth"),
                      "class_name = 'SpaceToDepth' in the layer 'conv1_pad_SpaceToDepth'"),
    "training": (1, call_with("conv1_bn", training=True),
                 "training = True in the layer 'conv1_bn'"),
    "no-relu": (1, without("conv2_block1_1_relu"),
                "input = 'conv2_block1_1_bn' in the layer 'conv2_block1_2_conv' (Conv2D)"),
    "another-relu": (1, before("conv2_block1_1_conv", "Activation", activation="relu"),
                     "input = 'conv2_block1_1_conv_Activation' in the layer"),
    "another-order": (1, reads("conv2_block2_1_conv", "conv2_block1_add"),
                      "input = 'conv2_block1_add' in the layer 'conv2_block2_1_conv' (Conv2D)"),
    "another-softmax": (1, before("conv1_bn", "Softmax"), "input = 'conv1_bn_Softmax'"),
    "no-such-layer": (1, reads("conv1_bn", "conv9"), "'conv9', which there is not"),
    "no-layer-of-a-weight": (1, renamed("conv2_block1_1_bn", "b"), "no layer 'conv2_block1_1_bn'"),
    "a-loop": (1, reads("conv1_conv", "conv2_block1_out"), "reads its own output"),
    "shared": (1, twice("conv1_conv"), "'conv1_conv' is called 2 times"),
    "two-outputs": (1, outputs("avg_pool", "predictions"), "output_layers name 2 layers"),
    "another-output": (1, outputs("avg_pool"), "no layer 'predictions'"),
    "channels": (1, settings("input_layer", batch_shape=[None, 64, 64, 4]), "images of 4 channels"),
    "data-formats": (1, settings("conv1_conv", data_format="channels_first"), "both data formats"),
    "data-format": (1, settings("conv1_conv", data_format="x"), "data_format = 'x' in the layer"),
    "v2-pool-in-shortcut": (2, settings("max_pooling2d", pool_size=[2, 2]), "conv2_block2"),
}  # fmt: skip


@pytest.mark.parametrize(("version", "edit", "says"), REFUSED.values(), ids=REFUSED)
def test_what_no_spec_says_is_refused(version: int, edit: Edit, says: str) -> None:
    plain = small_config(version)
    with pytest.raises(CheckpointError) as caught:
        read(edited(plain, edit), entries_of(plain))
    message = str(caught.value)
    assert message.startswith("small.keras: its config.json: ")
    assert says in message
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize(
    ("kind", "own", "call"),
    [
        ("Rescaling", {"scale": 0.1}, {}),
        ("Normalization", {}, {}),
        ("RandomFlip", {}, {"training": True}),  # as Keras writes it, though it flips in training
        ("TrueDivide", {}, {}),
        ("GetItem", {}, {}),
        ("TFOpLambda", {"function": "math.truediv"}, {}),
    ],
)
def test_what_prepares_the_images_stands_around_the_network(
    kind: str, own: dict[str, Any], call: dict[str, Any]
) -> None:
    plain = small_config()
    name = f"conv1_pad_{kind}"
    config = edited(plain, before("conv1_pad", kind, **own), call_with(name, **call))
    found = read(config, entries_of(plain))
    assert found.spec == read(plain, entries_of(plain)).spec
    assert found.prepared == (f"the layer '{name}' ({kind})",)
    assert f"the layer '{name}' ({kind}) before the network" in found.surroundings
    assert any("prepares its images itself" in remark for remark in found.remarks)


def test_the_size_of_images_that_are_resized_is_not_told() -> None:
    plain = small_config()
    entries = entries_of(plain)
    assert read(plain, entries).told[-1].image_size == 64
    resized = edited(plain, before("conv1_pad", "Resizing", height=32, width=32))
    assert read(resized, entries).told[-1].image_size is None


def more(config: Config) -> Config:
    """Behind the features: a layer of nobody's, two dense layers with a ReLU, two outputs."""
    config = edited(config)
    inner, last = config["config"], config["config"]["output_layers"][0]
    for name, kind, source in (
        ("strange", "Attention", last),
        ("dense_a", "Dense", "strange"),
        ("dense_b", "Dense", "dense_a"),
    ):
        tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}}
        inner["layers"].append(
            {
                "class_name": kind,
                "name": name,
                "config": {"name": name, "units": 3, "activation": "relu"},
                "inbound_nodes": [{"args": [tensor], "kwargs": {}}],
            }
        )
    inner["output_layers"] = [["dense_a", 0, 0], ["dense_b", 0, 0]]
    return config


HEADS = {
    f"{name}/{leaf}": Entry.of(np.ones(shape, np.float32))
    for name, inputs in (("dense_a", 64), ("dense_b", 3))
    for leaf, shape in (("kernel", (inputs, 3)), ("bias", (3,)))
}


def test_a_network_that_is_part_of_a_model() -> None:
    plain = small_config(classes=0)
    entries = entries_of(plain)
    with pytest.raises(CheckpointError, match=r"4 tensors belong to no ResNet.*dense_a.*dense_b"):
        read(more(plain), entries | HEADS)
    found = read(more(plain), entries | HEADS, leave_out=("dense_*",))
    assert found.spec == read(plain, entries).spec.replace(**{"head.pool": "avg"})
    assert found.assumed == {}


def test_the_configuration_of_a_part_is_believed_and_has_to_fit() -> None:
    plain = small_config(classes=0)
    entries = entries_of(plain) | HEADS
    other = edited(more(plain), settings("BatchNormalization", epsilon=0.01))
    assert read(other, entries, leave_out=("*",)).spec.norm.eps == 0.01
    other = edited(more(plain), reads("conv2_block2_1_conv", "conv2_block1_add"))
    with pytest.raises(CheckpointError, match="input = 'conv2_block1_add'"):
        read(other, entries, leave_out=("*",))


def test_another_preset_than_the_configurations_is_refused() -> None:
    """Whichever of them is right: the file is not overruled."""
    config = small_config()
    entries = entries_of(config)
    sizes = {"depths": (2, 2), "widths": (8, 16), "strides": (1, 2)}
    known = read(config, entries, preset="keras/resnet50", changes=sizes)
    assert known.identified_by == "preset"
    other = edited(config, settings("BatchNormalization", epsilon=0.01))
    with pytest.raises(CheckpointError, match=r"epsilon = 0\.01 in the layer 'conv1_bn'.*--preset"):
        read(other, entries, preset="keras/resnet50", changes=sizes)


@pytest.mark.parametrize("key", ["norm.eps", "norm_eps", "norm"])
def test_the_caller_may_say_what_the_configuration_says(key: str) -> None:
    config = small_config()
    found = read(config, changes={"norm.eps": 1.001e-5})
    assert (found.spec.norm.eps, found.given) == (1.001e-5, {"norm.eps": 1.001e-5})
    values = {"norm": {"eps": 1e-5}} if key == "norm" else {key: 1e-5}
    with pytest.raises(
        CheckpointError, match=r"config\.json says norm\.eps = 1\.001e-05, and --set"
    ):
        read(config, changes=values)


def test_fields_that_are_no_part_of_the_function_may_be_set() -> None:
    changes = {"name": "mine", "image_size": 96, "init.conv": "lecun_normal"}
    spec = read(small_config(), changes=changes).spec
    assert (spec.name, spec.image_size, spec.init.conv) == ("mine", 96, "lecun_normal")


def test_models_in_models_are_taken_apart() -> None:
    plain = small_config()
    entries = entries_of(plain)
    for inner in (plain, as_keras2(plain)):
        config = {"class_name": "Sequential", "config": {"name": "outer", "layers": [inner]}}
        found = read(config, entries)
        assert found.spec.replace(image_size=64) == read(plain, entries).spec
        assert found.assumed == {}


def test_weights_that_older_keras_numbers_get_the_names_of_the_configuration() -> None:
    """`conv2d_5`, the sixth convolution in the order of the layers (before Keras 3.11)."""
    config, counter, numbered = small_config(), Counter(), {}
    entries = entries_of(config)
    kinds = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}
    for item in layers(config):
        if kind := kinds.get(item["class_name"]):
            number = f"{kind}_{counter[kind]}" if counter[kind] else kind
            counter[kind] += 1
            for name, entry in entries.items():
                if name.startswith(f"{item['name']}/"):
                    numbered[f"{number}/{name.partition('/')[2]}"] = entry
    configuration = Configuration("keras", "config.json", config)
    archive = Archive("keras", numbered, {"layer_names": "absent"}, configuration=configuration)
    found = identify(Path("small.keras"), archive, Wanted())
    expected = read(config, entries)
    assert found.names == expected.names
    for name, array in expected.arrays():
        np.testing.assert_array_equal(found.entries[name].load(), array)


HOSTILE: dict[str, Config] = {
    "no-layers": {"class_name": "Functional", "config": {"layers": []}},
    "no-config": {"class_name": "Functional"},
    "layers-of-numbers": {"class_name": "Functional", "config": {"layers": [1]}},
    "unknown-class": {"class_name": "Mine", "config": {"a": 1}},
    "no-name": {"class_name": "Sequential", "config": [{"class_name": "Dense", "config": {}}]},
    "many-layers": {
        "class_name": "Sequential",
        "config": [{"class_name": "Dropout", "config": {"name": f"d{i}"}}
                   for i in range(MAX_LAYERS + 1)],
    },
    "input-alone": {
        "class_name": "Sequential",
        "config": [{"class_name": "InputLayer", "config": {"name": "i"}}],
    },
}  # fmt: skip


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE)
def test_other_json_is_refused_in_one_line(config: Config) -> None:
    with pytest.raises(RosettaError) as caught:
        read(config, entries_of(small_config()))
    assert str(caught.value).startswith("small.keras: its config.json")
    assert str(caught.value).isprintable()


def test_deep_models_are_refused() -> None:
    config = small_config()
    for i in range(500):
        config = {"class_name": "Sequential", "config": {"name": f"m{i}", "layers": [config]}}
    with pytest.raises(CheckpointError, match="nested deeper"):
        read(config, entries_of(small_config()))


ODD = [None, True, -1, 0, 1 << 70, 1e308, "", "relu", [], [[]], {}, {"class_name": "X"}, [1, 2, 3]]


@pytest.mark.parametrize("seed", [0, 1, in_zoo(2), in_zoo(3)])
def test_mutants_are_read_or_refused_in_one_line(seed: int) -> None:
    """Any value of the JSON is replaced by any other kind of value."""
    rng, plain = np.random.default_rng(seed), small_config(1 + seed % 2)
    entries, messages = entries_of(plain), []
    for round_ in range(60):
        config = as_keras2(plain) if round_ % 2 else json.loads(json.dumps(plain))
        places: list[tuple[Any, Any]] = []
        pending: list[Any] = [config]
        while pending:
            value = pending.pop()
            if isinstance(value, dict | list):
                keys = list(value) if isinstance(value, dict) else list(range(len(value)))
                places += [(value, key) for key in keys]
                pending += [value[key] for key in keys]
        holder, key = places[rng.integers(len(places))]
        holder[key] = ODD[rng.integers(len(ODD))]
        try:
            read(config, entries)
        except RosettaError as error:
            messages.append(str(error))
    assert messages
    assert [text for text in messages if not text.isprintable() or len(text) > 600] == []
