"""The architecture contract: how tasks share a representation, and how a plain ``nn.Module`` is taken in as one."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from mtl_lightning.types import ConfigurationError, Features, InputSpec, sample_inputs


class Encoder(nn.Module):
    """A network that maps inputs to features (B, D, *) and takes its sizes from the data's input spec.

    Subclasses take the spec as their first argument and set ``out_features``, the shape of the features without B.
    Any other ``nn.Module`` does as well: its output size is found by trying it.
    """

    out_features: tuple[int, ...]


class Head(nn.Module):
    """A network that maps a task's features to its outputs; takes (feature size without B, K)."""

    def __init__(self, in_features: tuple[int, ...], out_features: int) -> None:
        super().__init__()


class Linear(Head):
    """Linear map of features (B, D) to outputs (B, K); of each pixel's features (B, D, H, W) to (B, K, H, W)."""

    def __init__(self, in_features: tuple[int, ...], out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.map: nn.Module
        if len(in_features) == 1:
            self.map = nn.Linear(in_features[0], out_features)
        elif len(in_features) == 3:
            self.map = nn.Conv2d(in_features[0], out_features, 1)
        else:
            raise ConfigurationError(
                f"Linear head: expected features (D,) or (D, H, W) a row, found {in_features}; choose another head in "
                "`heads`, or let the encoder pool or flatten."
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, *) to outputs (B, K, *)."""
        outputs: Tensor = self.map(features)
        return outputs


class Architecture(nn.Module, ABC):
    """How tasks share. Subclasses take the input spec (None where unknown) and the tasks' names, and set
    ``feature_sizes``.

    Attributes:
        feature_sizes: the shape of each task's features, without B.
        final: True if ``forward`` gives the tasks' outputs themselves, so that no heads are built.
    """

    feature_sizes: dict[str, tuple[int, ...]]
    final: bool = False

    @abstractmethod
    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Return features (B, D, *) of at least ``tasks``, and auxiliary losses."""

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that serve one task alone, by task; everything else is shared."""
        return {}


EncoderArgument: TypeAlias = Callable[[InputSpec], Encoder] | nn.Module
HeadFactory: TypeAlias = Callable[[tuple[int, ...], int], Head] | Callable[[tuple[int, ...], int], nn.Module]
ArchitectureArgument: TypeAlias = Callable[[InputSpec | None, list[str]], Architecture] | nn.Module


class PlainNetwork(Architecture):
    """A user's ``nn.Module`` as an architecture.

    A tensor (B, D, *) as its output is the features of every task. A dict is the tasks' final outputs: no heads are
    built, and all parameters are shared unless the network has a ``task_parameters()`` of its own.
    """

    def __init__(self, network: nn.Module, spec: InputSpec | None, tasks: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        output = None if hasattr(network, "out_features") else probe(network, spec)
        self.final = isinstance(output, Mapping)
        self.feature_sizes = {}
        if isinstance(output, Mapping):
            if missing := [task for task in tasks if task not in output]:
                raise ConfigurationError(
                    f"{type(network).__name__} returns a dict of final outputs: expected one per task, found "
                    f"{sorted(output)}, none for {missing}."
                )
        else:
            self.feature_sizes = dict.fromkeys(
                tasks, feature_size(network, spec) if output is None else tuple(output.shape[1:])
            )

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Return the network's output, for each of ``tasks``."""
        output = self.network(inputs)
        return Features({task: output[task] if self.final else output for task in tasks})

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return what the user's network declares; nothing by default, so that all of it is shared."""
        declared = getattr(self.network, "task_parameters", None)
        return {task: list(parameters) for task, parameters in declared().items()} if declared is not None else {}


def build_encoder(encoder: EncoderArgument, spec: InputSpec | None) -> nn.Module:
    """Return the encoder itself, or make it: only :class:`Encoder` classes are given the spec.

    A user's own class takes no sizes and is made without arguments; any other callable is called with the spec.
    """
    if isinstance(encoder, nn.Module):
        return encoder
    if inspect.isclass(encoder) and not issubclass(encoder, Encoder):
        return made_without_arguments(encoder)
    return encoder(_need(spec, encoder))


def build_architecture(argument: ArchitectureArgument, spec: InputSpec | None, tasks: Sequence[str]) -> Architecture:
    """Return the architecture itself, or make it, or adapt a plain network; the rules of :func:`build_encoder`."""
    if inspect.isclass(argument) and not issubclass(argument, Architecture):
        made = made_without_arguments(argument)
    elif isinstance(argument, nn.Module):
        made = argument
    else:
        made = argument(spec, list(tasks))
    return made if isinstance(made, Architecture) else PlainNetwork(made, spec, tasks)


def made_without_arguments(cls: type) -> nn.Module:
    """Make a user's network class, which takes no sizes from the data.

    Raises:
        ConfigurationError: if it needs arguments, or makes something that is no ``nn.Module``.
    """
    try:
        made = cls()
    except TypeError as error:
        raise ConfigurationError(
            f"{cls.__name__} is a class of your own, which is made without arguments: {error}. Pass an instance, or a "
            "`functools.partial` with its arguments inside a function of (input_spec, tasks)."
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigurationError(f"Expected a network (an `nn.Module`), found {cls.__name__}.")
    return made


def feature_size(encoder: nn.Module, spec: InputSpec | None) -> tuple[int, ...]:
    """Return the shape of an encoder's features without B: its ``out_features``, or what one trial run shows."""
    declared = getattr(encoder, "out_features", None)
    if declared is not None:
        return as_size(declared)
    output = probe(encoder, spec)
    if not isinstance(output, Tensor):
        raise ConfigurationError(
            f"Encoder {type(encoder).__name__}: expected a tensor (B, D, *) of features, found "
            f"{type(output).__name__}; give it as the `architecture` if it returns the tasks' outputs."
        )
    return tuple(output.shape[1:])


def as_size(out_features: int | Sequence[int]) -> tuple[int, ...]:
    """Read ``out_features`` as a shape without B."""
    return (out_features,) if isinstance(out_features, int) else tuple(out_features)


def probe(network: nn.Module, spec: InputSpec | None) -> Any:
    """Run ``network`` once on two made rows, in eval mode; its buffers, mode and the random state are restored."""
    if spec is None:
        raise ConfigurationError(
            f"Cannot tell the output size of {type(network).__name__}: expected an `input_spec` or an `out_features` "
            "attribute on the network, found neither."
        )
    parameter = next(network.parameters(), None)
    inputs = sample_inputs(spec)
    if parameter is not None:
        inputs = _like(inputs, parameter)
    modes = {module: module.training for module in network.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return network.eval()(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise ConfigurationError(
            f"{type(network).__name__} does not run on two rows of {spec}: {error}. Fix its sizes, or set "
            "`out_features` on it if it cannot run on made inputs."
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _like(inputs: Any, parameter: Tensor) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _like(value, parameter) for name, value in inputs.items()}
    dtype = parameter.dtype if inputs.is_floating_point() and parameter.is_floating_point() else inputs.dtype
    return inputs.to(parameter.device, dtype)


def _need(spec: InputSpec | None, part: Any) -> InputSpec:
    if spec is None:
        raise ConfigurationError(
            f"{getattr(part, '__name__', part)} takes its sizes from the data: expected an `input_spec`, found none. "
            "Pass `input_spec` to the module, or give your datamodule an `input_spec` attribute."
        )
    return spec
