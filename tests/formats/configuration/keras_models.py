"""Small networks of keras.applications with their configurations, and what our reader makes of
them; without files, which would take a process each.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.applications import resnet

from shared.formats.attempt import Wanted
from shared.formats.checkpoint import Checkpoint, identify
from shared.formats.containers.archive import Archive, Configuration, Entry
from shared.frameworks import reference
from shared.weights.canonical import cast_exactly
from shared.weights.random import named_rng
from tests.probes import images_for

Config = dict[str, Any]
Edit = Callable[[Config], None]

SIZE = (64, 64)  # SAME and symmetric windows differ on even sides


@functools.cache
def _config(version: int, classes: int) -> str:
    keras.utils.clear_session()  # layers without names of their own are numbered from the start
    stack = (resnet.stack_residual_blocks_v1, resnet.stack_residual_blocks_v2)[version - 1]
    model = resnet.ResNet(
        lambda x: stack(
            stack(x, 8, 2, stride1=1 if version == 1 else 2, name="conv2"),
            16,
            2,
            stride1=2 if version == 1 else 1,
            name="conv3",
        ),
        preact=version == 2,
        use_bias=True,
        include_top=classes > 0,
        weights=None,
        input_shape=(*SIZE, 3),
        classes=classes,
        name=f"small{version}",
    )
    return json.dumps(keras.saving.serialize_keras_object(model))


def small_config(version: int = 1, classes: int = 5) -> Config:
    """The configuration of two stages of ResNet V1 or V2, as Keras 3 writes it."""
    return json.loads(_config(version, classes))


def layers(config: Config, kind: str | None = None) -> Iterator[Config]:
    """All listed layers, or those of a class, nested ones too."""
    for item in config["config"]["layers"]:
        if "layers" in item["config"]:
            yield from layers(item, kind)
        elif kind in (None, item["class_name"]):
            yield item


def layer(config: Config, name: str) -> Config:
    return next(item for item in layers(config) if item["config"]["name"] == name)


def settings(name: str, **values: Any) -> Edit:
    """Sets values of one layer, or of all of a class."""

    def edit(config: Config) -> None:
        for item in layers(config):
            if name in (item["config"]["name"], item["class_name"]):
                item["config"].update(values)

    return edit


def without(name: str) -> Edit:
    """Takes a layer out: whoever reads it reads what it reads."""

    def edit(config: Config) -> None:
        item = layer(config, name)
        source = item["inbound_nodes"][0]["args"][0]
        config["config"]["layers"].remove(item)
        for reader in layers(config):
            for node in reader["inbound_nodes"]:
                for arguments in (node["args"], *(a for a in node["args"] if isinstance(a, list))):
                    for i, tensor in enumerate(arguments):
                        if (
                            isinstance(tensor, dict)
                            and tensor["config"]["keras_history"][0] == name
                        ):
                            arguments[i] = source

    return edit


def edited(config: Config, *edits: Edit) -> Config:
    config = copy.deepcopy(config)
    for edit in edits:
        edit(config)
    return config


def as_keras2(config: Config) -> Config:
    """The same in the spelling of Keras 2 (tf_keras 2.21, `.h5`)."""
    inner = copy.deepcopy(config["config"])
    for item in inner["layers"]:
        for key in ("module", "registered_name", "build_config"):
            item.pop(key, None)
        own = item["config"]
        own["dtype"] = "float32"
        if "batch_shape" in own:
            own["batch_input_shape"] = own.pop("batch_shape")
        if "axis" in own:
            own["axis"] = [own["axis"]]
        calls = []
        for node in item["inbound_nodes"]:
            arguments = [t for a in node["args"] for t in (a if isinstance(a, list) else [a])]
            calls.append([[*t["config"]["keras_history"], {}] for t in arguments])
        item["inbound_nodes"] = calls
    for key in ("input_layers", "output_layers"):
        inner[key] = [inner[key]]
    return {"class_name": config["class_name"], "config": inner}


def entries_of(config: Config) -> dict[str, Entry]:
    """Values for the weights of the model that Keras builds from a configuration."""
    return dict(_entries(json.dumps(config)))


@functools.lru_cache(maxsize=16)  # the same few configurations again and again
def _entries(config: str) -> dict[str, Entry]:
    found = {}
    for variable, name in _variables(built(json.loads(config))):
        leaf = variable.name
        rng = named_rng(name, seed=1)
        positive = leaf in ("gamma", "moving_variance")
        values = (
            rng.uniform(0.5, 1.5, variable.shape)
            if positive
            else rng.normal(
                0,
                0.3 if len(variable.shape) < 2 else np.prod(variable.shape[:-1]) ** -0.5,
                variable.shape,
            )
        )
        found[name] = Entry.of(values.astype(np.float32))
    return found


def _variables(model: keras.Model) -> Iterator[tuple[keras.Variable, str]]:
    for item in model._flatten_layers(include_self=False):
        if not isinstance(item, keras.Model):
            yield from (
                (variable, f"{item.name}/{variable.name}")
                for variable in item.variables
                if variable.name != "seed_generator_state"
            )


def built(config: Config) -> keras.Model:
    """The model that Keras builds."""
    return keras.saving.deserialize_keras_object(copy.deepcopy(config))


def read(
    config: Config, entries: dict[str, Entry] | None = None, form: str | None = None, **wanted: Any
) -> Checkpoint:
    """Our reader's word; `entries` are those of another configuration, unless given."""
    configuration = Configuration("keras", "config.json", config)
    entries = entries_of(config) if entries is None else entries
    archive = Archive("keras", entries, configuration=configuration)
    return identify(Path("small.keras"), archive, Wanted(form, **wanted))


@functools.cache
def plain_outputs(version: int) -> np.ndarray:
    """What Keras computes of `small_config(version)`, for whoever changes something in it."""
    plain = small_config(version)
    return outputs_of_keras(plain, entries_of(plain))


def outputs_of_keras(config: Config, entries: dict[str, Entry]) -> np.ndarray:
    """What Keras computes, before the softmax."""
    config = edited(config, settings("predictions", activation="linear"))
    model = built(config)
    for variable, name in _variables(model):
        variable.assign(entries[name].load())
    return np.asarray(model(_images(), training=False))


def outputs_of_ours(checkpoint: Checkpoint) -> np.ndarray:
    """What the NumPy network computes with a checkpoint's spec and weights."""
    weights = cast_exactly(checkpoint.weights(), "float64")
    model = reference.Reference(checkpoint.spec, weights)
    return reference.trace(model, _images())["eval/output"]


def _images() -> np.ndarray:
    from shared import get_spec

    return images_for(get_spec("keras/resnet50"), SIZE, "float32")
