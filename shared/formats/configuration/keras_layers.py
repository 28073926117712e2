"""The layers that a Keras configuration lists, as one flat table: nested models are taken apart.

Both spellings are read: that of Keras 3 (`.keras`, and what it writes into `.h5`) and that of
Keras 2 and TensorFlow.js. Sources: keras 3.15 src/models/functional.py, tf_keras 2.21
src/engine/functional.py. The JSON may hold anything; every error is one line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from shared.errors import CheckpointError
from shared.formats.containers.spans import shown

MAX_LAYERS = 1 << 14  # ResNet-1202 has 5,000
MAX_NESTING = 8  # models in models
MODELS = ("Functional", "Sequential", "Model")
# What may stand between a file's images and a network, and has no weights that count here. Keras 3
# writes operators on symbolic tensors (`keras.applications`' preprocess_input) under their names.
PREPARATIONS = frozenset(
    (
        "Rescaling",
        "Normalization",
        "Resizing",
        "CenterCrop",
        "Cast",
        "GetItem",
        "Stack",
        "Flip",
        "TrueDivide",
        "Divide",
        "Multiply",
        "Subtract",
        "Add",
        "TFOpLambda",
        "SlicingOpLambda",
    )
)
RANDOM = re.compile(r"Random[A-Z]\w*|RandAugment|MixUp|CutMix|AugMix|GaussianNoise")
_CORRECTIONS = ("weight_std_eps", "grid")  # of resnet_keras.corrected.Conv2D
INPUT = ""  # the key of the images; no layer has an empty name


class Layer(NamedTuple):
    """A layer: its name, class and configuration, and the keys of the layers that it reads."""

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: tuple[str, ...]

    def refused(self, key: str, value: Any, instead: str) -> CheckpointError:
        """The error of a value that no network here has; `instead` says what is possible."""
        return CheckpointError(
            f"{key} = {shown_value(value)} in the layer {shown(self.name)} ({shown_kind(self)}); "
            f"{instead}"
        )


class Layers(NamedTuple):
    """All layers by key (their names, behind those of the models around them), and the output's
    key."""

    table: Mapping[str, Layer]
    output: str
    input_shape: tuple[int | None, ...] | None  # without the batch


def shown_kind(layer: Layer) -> str:
    return layer.kind if layer.kind.isidentifier() and len(layer.kind) <= 40 else shown(layer.kind)


def shown_value(value: Any) -> str:
    """A value of the configuration for a message."""
    if isinstance(value, str):
        return shown(value)
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_model(value: Any) -> bool:
    """Whether this is a configuration of layers, whatever its class is called."""
    if not isinstance(value, Mapping):
        return False
    config = value.get("config")
    if isinstance(config, list):  # Keras before 2.2.3 wrote Sequential models so
        return value.get("class_name") == "Sequential"
    return isinstance(config, Mapping) and isinstance(config.get("layers"), list)


def prepares(kind: str) -> bool:
    """Whether layers of this class prepare images, where they read these."""
    return kind in PREPARATIONS or RANDOM.fullmatch(kind) is not None


def read_layers(model: Mapping[str, Any], *, part: bool = False) -> Layers:
    """The layers of a model's configuration. Raises `CheckpointError` for what is no such thing.

    `part`: the model may be more than a network: have several inputs and outputs, and call a layer
    several times, of which the first is read.
    """
    reader = _Reader(part)
    output = reader.model(model, "", None, MAX_NESTING)
    table = {
        key: layer._replace(inputs=tuple(reader.resolved(name) for name in layer.inputs))
        for key, layer in reader.table.items()
    }
    return Layers(table, reader.resolved(output), reader.input_shape)


def counter_names(model: Mapping[str, Any], scope: str = "") -> dict[str, str]:
    """The names of layers by what Keras before 3.11 calls their weights: by class and number, as
    `conv2d_5`, behind those of the models around them. Source: saving_lib._save_container_state.
    """
    config = model["config"]
    counter: Counter[str] = Counter()
    names: dict[str, str] = {}
    for item in config if isinstance(config, list) else config["layers"]:
        name, kind, _ = _parts(item)
        snake = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
        number = counter[snake]
        counter[snake] += 1
        key = f"{scope}{snake}_{number}" if number else f"{scope}{snake}"
        if is_model(item) and scope.count("/") < MAX_NESTING:
            names |= counter_names(item, f"{key}/")
        else:
            names[key] = name
    return names


class _Reader:
    """Collects layers; `aliases` are models and inputs, which stand for another layer's output."""

    def __init__(self, part: bool) -> None:
        self.part = part
        self.table: dict[str, Layer] = {}
        self.aliases: dict[str, str] = {}
        self.input_shape: tuple[int | None, ...] | None = None

    def resolved(self, key: str) -> str:
        """The layer whose output this is; INPUT for the images."""
        for _ in range(len(self.aliases) + 1):
            if key not in self.aliases:
                break
            key = self.aliases[key]
        if key != INPUT and key not in self.table:
            raise CheckpointError(f"a layer reads {shown(key)}, which there is not")
        return key

    def model(
        self, model: Mapping[str, Any], scope: str, sources: Sequence[str] | None, nesting: int
    ) -> str:
        """Add a model's layers, whose keys begin with `scope`; the key of its output.

        `sources` are the keys of what it reads, None for the outermost.
        """
        if not nesting:
            raise CheckpointError(f"its models are nested deeper than {MAX_NESTING} levels")
        config = model["config"]
        chain = isinstance(config, list) or (
            model.get("class_name") == "Sequential" and "output_layers" not in config
        )
        layers = config if isinstance(config, list) else config["layers"]
        last: tuple[str, ...] = tuple(sources if sources is not None else (INPUT,))
        for position, item in enumerate(layers):
            name, kind, own = _parts(item)
            key = scope + name
            if key in self.table or key in self.aliases:
                raise CheckpointError(f"it has the layer {shown(key)} twice")
            if len(self.table) + len(self.aliases) >= MAX_LAYERS:
                raise CheckpointError(f"it has more than {MAX_LAYERS} layers")
            if sources is None and (kind == "InputLayer" or (chain and not position)):
                self._see_shape(own)
            if kind == "InputLayer":
                self.aliases[key] = self._input(config, name, sources)
            else:
                inputs = (
                    last
                    if chain
                    else tuple(scope + n for n in _inbound(item, name, kind, self.part))
                )
                if is_model(item):
                    self.aliases[key] = self.model(item, f"{key}/", inputs, nesting - 1)
                else:
                    self.table[key] = Layer(name, kind, own, inputs)
            last = (key,)
        if chain:
            return last[0] if last else INPUT
        outputs = config.get("output_layers")
        if self.part and isinstance(outputs, list) and len(outputs) > 1:
            return last[0] if last else INPUT
        return scope + _one_name(outputs, "output_layers")

    def _input(self, config: Any, name: str, sources: Sequence[str] | None) -> str:
        """What an input layer stands for."""
        if isinstance(config, Mapping) and "input_layers" in config and not self.part:
            only = _one_name(config["input_layers"], "input_layers")
            if only != name:
                raise CheckpointError(f"the input {shown(name)} is not among its input_layers")
        if sources is None:
            return INPUT
        if len(sources) != 1:
            raise CheckpointError(f"a model in it reads {len(sources)} layers; 1 is possible")
        return sources[0]

    def _see_shape(self, config: Mapping[str, Any]) -> None:
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        if isinstance(shape, list) and all(n is None or type(n) is int for n in shape):
            self.input_shape = tuple(shape[1:])


def _parts(item: Any) -> tuple[str, str, Mapping[str, Any]]:
    """Name, class and configuration of a listed layer."""
    if not isinstance(item, Mapping):
        raise CheckpointError("its list of layers has something else than layers")
    kind, config = item.get("class_name"), item.get("config")
    name = item.get("name", config.get("name") if isinstance(config, Mapping) else None)
    if not isinstance(kind, str) or not isinstance(config, Mapping | list):
        raise CheckpointError("a layer of it has no class_name or no config")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"a layer of class {shown(kind)} has no name")
    if not isinstance(config, Mapping):
        return name, kind, {}
    # A convolution of ours has the name of Keras' own, and may compute something else.
    corrected = any(config.get(key) is not None for key in _CORRECTIONS)
    return name, f"corrected {kind}" if corrected else kind, config


def _inbound(item: Mapping[str, Any], name: str, kind: str, part: bool) -> list[str]:
    """The names of the layers that a layer reads; in its first call, if there may be several."""
    nodes = item.get("inbound_nodes")
    if not isinstance(nodes, list) or not nodes or (len(nodes) > 1 and not part):
        count = len(nodes) if isinstance(nodes, list) else 0
        raise CheckpointError(f"the layer {shown(name)} is called {count} times; 1 is possible")
    found: list[str] = []
    for source, options in _calls(nodes[0]):
        if source is not None:
            found.append(source)
        if options.get("training") and not RANDOM.fullmatch(kind):  # which flip in training alone
            raise Layer(name, kind, {}, ()).refused(
                "training", options["training"], "only networks that infer by default are read"
            )
    if not found:
        raise CheckpointError(f"the layer {shown(name)} reads nothing")
    return found


def _calls(node: Any) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """(layer that is read, keyword arguments) of a call, as Keras 3 or Keras 2 writes it."""
    if isinstance(node, Mapping):
        kwargs = node.get("kwargs")
        yield None, kwargs if isinstance(kwargs, Mapping) else {}
        pending = [kwargs, node.get("args")]
        while pending:
            value = pending.pop()
            if isinstance(value, Mapping):
                inner = value.get("config")
                if value.get("class_name") == "__keras_tensor__" and isinstance(inner, Mapping):
                    yield _reference(inner.get("keras_history")), {}
                else:
                    pending.extend(reversed(list(value.values())))
            elif isinstance(value, list):
                pending.extend(reversed(value))
        return
    if not isinstance(node, list) or not node:
        raise CheckpointError("a call of a layer in it is neither a list nor an object")
    for call in [node] if isinstance(node[0], str) else node:
        options = call[3] if isinstance(call, list) and len(call) > 3 else {}
        yield _reference(call), options if isinstance(options, Mapping) else {}


def _reference(value: Any) -> str:
    """The layer in [layer, node, output]."""
    if not isinstance(value, list) or len(value) < 3 or not isinstance(value[0], str):
        raise CheckpointError("a call of a layer in it names no layer")
    if value[2] != 0:
        raise CheckpointError(
            f"the output {value[2]!r} of {shown(value[0])} is read; 0 is possible"
        )
    return value[0]


def _one_name(value: Any, key: str) -> str:
    """The single layer of `input_layers` or `output_layers`."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        return value[0]
    count = len(value) if isinstance(value, list | Mapping) else 0
    raise CheckpointError(f"its {key} name {count} layers; 1 is possible")
