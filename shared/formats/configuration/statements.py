"""All that a file says about its network, whoever wrote it: our own spec, a configuration of Keras,
KerasHub, transformers or timm, or a label.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, SpecError
from shared.formats.configuration import huggingface, keras_hub, timm
from shared.formats.configuration.keras import Make, departures, describe
from shared.formats.configuration.keras_layers import (
    counter_names,
    is_model,
    read_layers,
    shown_kind,
    shown_value,
)
from shared.formats.configuration.keras_values import Network
from shared.formats.configuration.told import Told, all_fields
from shared.formats.containers.archive import Archive
from shared.formats.containers.spans import shown
from shared.naming.infer import check_blocks
from shared.naming.names import plan_of

MAX_SPEC = 1 << 14  # characters of a spec in a file
_OURS = "ResNet"  # the class of `resnet_keras`, whose configuration is its spec


def with_layer_names(archive: Archive) -> Archive:
    """The archive with layers under their names, which older Keras keeps in the configuration
    alone."""
    configuration = archive.configuration
    if (
        archive.metadata.get("layer_names") != "absent"
        or configuration is None
        or not is_model(configuration.value)
    ):
        return archive
    names = counter_names(configuration.value)
    entries = {}
    for key, entry in archive.entries.items():
        layer, _, leaf = key.rpartition("/")
        name = f"{names.get(layer, layer)}/{leaf}"
        if name in entries:
            raise CheckpointError(
                f"its {configuration.where} has two layers that are called {shown(name)}"
            )
        entries[name] = entry
    return dataclasses.replace(archive, entries=entries)


class Statements:
    """What an archive says, read when it is asked for."""

    def __init__(self, archive: Archive, *, part: bool = False):
        """`part`: the network is one part of what the archive holds."""
        self._archive, self._part = archive, part
        self._source = f"its {archive.configuration.where}" if archive.configuration else ""

    @functools.cached_property
    def early(self) -> list[Told]:
        """What is known without the tensors' names. Raises `CheckpointError` or `SpecError`."""
        found = []
        metadata, configuration = self._archive.metadata, self._archive.configuration
        if "spec" in metadata:
            found.append(self._own(metadata["spec"], "its metadata"))
        if configuration is None:
            return found
        value = configuration.value
        if configuration.kind == "huggingface":
            found.append((timm if "architecture" in value else huggingface).told(value))
            return found
        kind, config = value.get("class_name"), value.get("config")
        if isinstance(config, Mapping) and kind == _OURS and "spec" in config:
            if not found:  # which a .keras file has in its metadata, too
                found.append(self._own(json.dumps(config["spec"]), self._source))
        elif isinstance(config, Mapping) and kind in (keras_hub.BACKBONE, keras_hub.CLASSIFIER):
            found.append(keras_hub.told(kind, config, self._source))
        elif not is_model(value):
            raise CheckpointError(
                f"{self._source} says class_name = {shown_value(kind)}, which lists no layers; "
                "save the weights alone, as .weights.h5, and say what they are with --preset"
            )
        return found

    def _own(self, text: str, source: str) -> Told:
        """A spec, which may ask for anything."""
        if len(text) > MAX_SPEC:
            raise SpecError(
                f"the spec in {source} has {len(text)} characters; {MAX_SPEC} at most are read"
            )
        spec = ResNetSpec.from_json(text)
        if not spec.name.isprintable():
            raise SpecError(f"name = {spec.name!a}: must be printable, on one line")
        check_blocks(spec.depths, len(self._archive.entries))
        return Told(source=source, fields=all_fields(spec), spec=spec)

    @functools.cached_property
    def _network(self) -> Network | None:
        """The layers of a Keras model of others."""
        configuration = self._archive.configuration
        if configuration is None or configuration.kind != "keras":
            return None
        if not is_model(configuration.value):
            return None
        layers = read_layers(configuration.value, part=self._part)
        return Network(layers, part=self._part)

    def late(
        self, spec: ResNetSpec, names: Mapping[str, str], make: Make | None, whose: str
    ) -> list[Told]:
        """What needs the names of the tensors, which are those of `spec`.

        Args:
            names: canonical tensor -> the file's.
            make: gives the spec of the tensors with other fields; None where `spec` is what the
                caller says, with whom the file then has to agree.
            whose: what says `spec`.

        Raises `CheckpointError`.
        """
        found = []
        label = self._archive.metadata.get("arch") if self._archive.container == "torch" else None
        if label is not None and (told := timm.told_by_label(label, spec)):
            found.append(told)
        try:
            if self._network is not None:
                found.append(self._layers(self._network, spec, names, make, whose))
        except CheckpointError as error:
            raise CheckpointError(f"{self._source}: {error}") from None
        return found

    def _layers(
        self,
        network: Network,
        spec: ResNetSpec,
        names: Mapping[str, str],
        make: Make | None,
        whose: str,
    ) -> Told:
        if make is None:
            # Equal or not, momentum makes no difference to the outputs.
            left = [d for d in departures(network, plan_of(spec), names) if d.key != "momentum"]
        else:
            spec, left = describe(network, names, make)
        if left:
            raise left[0].error(whose)
        shape = network.input_shape or (None, None, None)
        if shape[2] not in (None, spec.in_channels):
            raise CheckpointError(
                f"images of {shape[2]} channels; by the tensors they have {spec.in_channels}"
            )
        prepared = [
            f"the layer {shown(layer.name)} ({shown_kind(layer)})" for layer in network.preparation
        ]
        surroundings = [f"{layer} before the network" for layer in prepared]
        surroundings += [f"the layer {shown(name)} (dropout)" for name in network.dropout]
        if network.head_activation:
            surroundings.append(f"{network.head_activation} behind the classifier")
        fields: dict[str, Any] = all_fields(spec)
        del fields["norm.running_var"]  # which no layer is configured with
        if make is None:
            del fields["norm.momentum"]
        return Told(
            source=self._source,
            fields=fields,
            spec=spec if make else None,
            image_size=shape[0] if shape[0] == shape[1] else None,
            prepared=tuple(prepared),
            surroundings=tuple(surroundings),
        )
