"""The architecture contract: how tasks share a representation, and how a plain ``nn.Module`` is taken in as one."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from mtl_lightning.architectures.sizes import size_or_outputs
from mtl_lightning.names import known_arguments
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError, Features, InputSpec


class Encoder(Ranged, nn.Module):
    """A network that maps inputs to features (B, D, *) and takes its sizes from the data's input spec.

    Subclasses take the spec as their first argument and set ``out_features``, the shape of the features without B.
    Any other ``nn.Module`` does as well: its output size is found by trying it.

    Attributes:
        out_features: the shape of the features, without B.
        stages: an ``nn.Sequential`` or a list of modules which, run one after the other on the inputs, give the
            features; only encoders that are a sequence of layers have it. Architectures that share layer by layer
            join the tasks between these stages.
    """

    out_features: tuple[int, ...]


class Head(Ranged, nn.Module):
    """A network that maps a task's features to its outputs; takes (feature size without B, K)."""

    def __init__(self, in_features: tuple[int, ...], out_features: int) -> None:
        super().__init__()

    def last_affine(self) -> nn.Linear | nn.Conv2d:
        """Return the layer whose outputs are the head's, for tasks that rescale them during training.

        Raises:
            ConfigurationError: by default; a head that ends in such a layer overrides this.
        """
        raise ConfigurationError(
            f"{type(self).__name__}: expected a `last_affine` that returns the layer which gives the outputs, found "
            "none. Write that method if the head ends in an `nn.Linear` or `nn.Conv2d` with a bias, or choose another "
            "head in `heads`."
        )

    def in_sequence(self) -> Sequence[nn.Module]:
        """Return the layers that :meth:`forward` runs one after the other, and nothing else; none by default.

        For heads that may run together with equal ones, as one. A subclass with another forward is not asked.
        """
        return ()


class Linear(Head):
    """Linear map of features (B, D) to outputs (B, K); of each pixel's features (B, D, H, W) to (B, K, H, W)."""

    def __init__(self, in_features: tuple[int, ...], out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.map: nn.Linear | nn.Conv2d
        if len(in_features) == 1:
            self.map = nn.Linear(in_features[0], out_features)
        elif len(in_features) == 3:
            self.map = nn.Conv2d(in_features[0], out_features, 1)
        else:
            raise ConfigurationError(
                f"A linear map takes features (D,) or (D, H, W) a row, found {tuple(in_features)}; choose another head "
                "in `heads`, or let the encoder pool or flatten."
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, *) to outputs (B, K, *)."""
        outputs: Tensor = self.map(features)
        return outputs

    def last_affine(self) -> nn.Linear | nn.Conv2d:
        """Return the map."""
        return self.map

    def in_sequence(self) -> Sequence[nn.Module]:
        """Return the map."""
        return [self.map]


def last_affine(head: nn.Module, task: str) -> nn.Linear | nn.Conv2d:
    """Return the affine map that a task's head ends in.

    Raises:
        ConfigurationError: if the head does not say which that is, or it has no bias.
    """
    find = getattr(head, "last_affine", None)
    found = head if find is None else find()
    if not isinstance(found, nn.Linear | nn.Conv2d) or found.bias is None:
        ends = "no such method" if find is None else f"{type(found).__name__} there, or no bias"
        raise ConfigurationError(
            f"Task {task!r} rescales its outputs during training (`popart`): expected a head whose method "
            "`last_affine` returns the `nn.Linear` or `nn.Conv2d`, with a bias, that gives the outputs, found "
            f"{type(head).__name__} with {ends}. Give your head that method, choose another head in `heads`, or leave "
            "the task's scale alone."
        )
    return found


class Gating(NamedTuple):
    """A gate, and what it mixes.

    Attributes:
        module: whose output, or the first of whose outputs, is the weights (B, E) of E experts.
        experts: the names of the experts, in order; one that several gates mix has one name.
        tasks: whose features the mixture becomes.
        selects: whether it is made to choose, so that experts without a weight are no fault.
    """

    module: nn.Module
    experts: list[str]
    tasks: list[str]
    selects: bool = False


class Architecture(Ranged, nn.Module, ABC):
    """How tasks share. Subclasses take the input spec (None where unknown) and the tasks' names, and set
    ``feature_sizes``.

    Attributes:
        feature_sizes: the shape of each task's features, without B.
        final: True if ``forward`` gives the tasks' outputs themselves, so that no heads are built.
        tensors_only: a promise that :meth:`after_update` changes nothing but parameters and buffers, so that a device
            can take it back where gradients are not finite. A subclass that writes its own must make it again.
    """

    feature_sizes: dict[str, tuple[int, ...]]
    final: bool = False
    tensors_only: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take the promise back where a subclass does something else after an update, and does not make it again."""
        super().__init_subclass__(**kwargs)
        if "after_update" in cls.__dict__ and "tensors_only" not in cls.__dict__:
            cls.tensors_only = False

    @abstractmethod
    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Return features (B, D, *) of at least ``tasks``, and auxiliary losses."""

    def output_losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return auxiliary losses () by name that need the tasks' outputs (B, K, *), already scaled; none by default.

        For losses of what the heads give, which :meth:`forward` does not see. Called behind the heads, with the outputs
        of the tasks that were run.
        """
        return {}

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that serve one task alone, by task; everything else is shared."""
        return {}

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the parts whose last layers are, taken together, the last one that is shared; none by default.

        For balancers that look at that layer alone (``level: last_layer``), which are refused where there is none. A
        part's last layer is the one that runs last in it. The order of tasks must not matter: where every task has such
        a part, or there are several experts, they all belong to it.
        """
        return ()

    def pieces(self) -> list[nn.Module]:
        """Return the parts that are called in the same way whichever tasks are wanted, or not called.

        They are what ``compile`` compiles for batches without some of the tasks. By default the children, those of an
        ``nn.ModuleDict``, an ``nn.ModuleList`` and an inner architecture one by one. Override this if one of them is
        told which tasks are wanted: such a piece would be compiled for each set of tasks anew.
        """
        return pieces_of(self)

    def gating(self) -> dict[str, Gating]:
        """Return the gates that mix experts, by name, for whoever watches how they are used; none by default."""
        return {}

    def after_update(self) -> None:
        """Do what follows an optimizer step, such as annealing; nothing by default.

        Called once per update, however many micro-batches and processes it has, and not after one that was skipped.
        """


HeadFactory: TypeAlias = Callable[[tuple[int, ...], int], Head] | Callable[[tuple[int, ...], int], nn.Module]
if TYPE_CHECKING:  # Python may pass whatever makes a network, a class of the user's own included
    EncoderArgument: TypeAlias = Callable[..., nn.Module] | nn.Module
    ArchitectureArgument: TypeAlias = Callable[..., nn.Module] | nn.Module
else:  # the YAML parser tries these in turn: a short name means ours, and only ours are factories of sizes
    EncoderArgument: TypeAlias = Callable[[InputSpec], Encoder] | nn.Module
    ArchitectureArgument: TypeAlias = Callable[[InputSpec | None, list[str]], Architecture] | nn.Module


def pieces_of(*modules: nn.Module) -> list[nn.Module]:
    """Return the children of modules, each once; of containers and architectures among them, theirs."""
    found: dict[nn.Module, None] = {}
    for child in (child for module in modules for child in module.children()):
        if isinstance(child, Architecture):
            found.update(dict.fromkeys(child.pieces()))
        else:
            container = isinstance(child, nn.ModuleDict | nn.ModuleList | nn.ParameterDict | nn.ParameterList)
            found.update(dict.fromkeys(pieces_of(child) if container else [child]))
    return list(found)


class PlainNetwork(Architecture):
    """A user's ``nn.Module`` as an architecture.

    A tensor (B, D, *) as its output is the features of every task. A dict is the tasks' final outputs: no heads are
    built, and all parameters are shared unless the network has a ``task_parameters()`` of its own; a ``last_shared()``
    of its own says which parts end in the last shared layer (:meth:`Architecture.last_shared`).
    """

    def __init__(self, network: nn.Module, spec: InputSpec | None, tasks: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        output = size_or_outputs(network, spec)
        self.final = isinstance(output, Mapping)
        self.feature_sizes = {} if isinstance(output, Mapping) else dict.fromkeys(tasks, output)
        if isinstance(output, Mapping) and (missing := [task for task in tasks if task not in output]):
            raise ConfigurationError(
                f"{type(network).__name__} returns a dict of final outputs: expected one per task, found "
                f"{list(output)}, none for {missing}."
            )

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Return the network's output, for each of ``tasks``."""
        output = self.network(inputs)
        if isinstance(output, Mapping) != self.final:
            expected = (
                "a dict of the tasks' outputs, as in its trial run"
                if self.final
                else "a tensor of features, as its trial run or its `out_features` says"
            )
            raise ConfigurationError(
                f"{type(self.network).__name__}: expected {expected}, found {type(output).__name__}. What a network "
                "returns must not depend on its mode; one that returns a dict must not declare `out_features`."
            )
        return Features({task: output[task] if self.final else output for task in tasks})

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return what the user's network declares; nothing by default, so that all of it is shared."""
        declared = getattr(self.network, "task_parameters", None)
        return {task: list(parameters) for task, parameters in declared().items()} if declared is not None else {}

    def last_shared(self) -> Sequence[nn.Module]:
        """Return what the user's network declares; by default a network of features itself, and none of outputs."""
        declared = getattr(self.network, "last_shared", None)
        if declared is not None:
            return list(declared())
        return [] if self.final else [self.network]


# ---------------------------------------------------------------------------------------------------- making the parts
def build_encoder(encoder: EncoderArgument, spec: InputSpec | None) -> nn.Module:
    """Return the encoder itself, or make it: only :class:`Encoder` classes are given the spec.

    A user's own class, or a ``functools.partial`` of one, takes no sizes and is made without further arguments; any
    other callable is called with the spec.
    """
    if isinstance(encoder, nn.Module):
        return encoder
    cls = _class_behind(encoder)
    if cls is not None and not issubclass(cls, Encoder):
        return made_without_arguments(encoder)
    return _made(encoder, _need(spec, encoder))


def build_architecture(argument: ArchitectureArgument, spec: InputSpec | None, tasks: Sequence[str]) -> Architecture:
    """Return the architecture itself, or make it, or adapt a plain network; the rules of :func:`build_encoder`.

    Raises:
        ConfigurationError: if it cannot be made, or has no features for one of ``tasks``.
    """
    cls = _class_behind(argument)
    if cls is not None and issubclass(cls, Encoder):
        raise ConfigurationError(
            f"{cls.__name__} is an encoder: expected an architecture, which says how tasks share it. Use "
            f"`partial(SharedBottom, encoder={cls.__name__})`; in YAML give it as `encoder` in the `init_args` of one."
        )
    if isinstance(argument, nn.Module):
        made: nn.Module = argument
    elif cls is not None and not issubclass(cls, Architecture):
        made = made_without_arguments(argument)
    else:
        made = _made(argument, spec, list(tasks))
    architecture = made if isinstance(made, Architecture) else PlainNetwork(made, spec, tasks)
    sizes = getattr(architecture, "feature_sizes", {})
    if not architecture.final and (missing := [task for task in tasks if task not in sizes]):
        raise ConfigurationError(
            f"{type(architecture).__name__}: expected `feature_sizes` of every task, found those of {list(sizes)}, "
            f"none for {missing}."
        )
    return architecture


def made_without_arguments(factory: Callable[..., Any]) -> nn.Module:
    """Make a user's network from its class or a partial of it, which take no sizes from the data.

    Raises:
        ConfigurationError: if it needs arguments, or makes something that is no ``nn.Module``.
    """
    try:
        return _made(factory)
    except TypeError as error:
        raise ConfigurationError(
            f"{_name(factory)} takes no sizes from the data, so it is made without arguments: {error}. Pass an "
            "instance, or a `functools.partial` with its arguments; in YAML give them as `init_args`."
        ) from error


def _made(factory: Any, *args: Any) -> nn.Module:
    if not callable(factory):
        raise ConfigurationError(f"Expected a network, or a class or function that makes one, found {factory!r}.")
    known_arguments(factory)
    made = factory(*args)
    if not isinstance(made, nn.Module):
        raise ConfigurationError(
            f"Expected {_name(factory)} to make a network (an `nn.Module`), found {type(made).__name__}."
        )
    return made


def _class_behind(factory: Any) -> type | None:
    """Return the class that a class or a ``functools.partial`` of one makes."""
    made = factory.func if isinstance(factory, functools.partial) else factory
    return made if inspect.isclass(made) else None


def _name(factory: Any) -> str:
    if isinstance(factory, functools.partial):  # the parser makes partial(make, Class)
        return _name(next((arg for arg in factory.args if inspect.isclass(arg)), factory.func))
    return str(getattr(factory, "__name__", factory))


def _need(spec: InputSpec | None, part: Any) -> InputSpec:
    if spec is None:
        raise ConfigurationError(
            f"{_name(part)} takes its sizes from the data: expected an `input_spec`, found none. "
            "Pass `input_spec` to the module, or give your datamodule an `input_spec` attribute."
        )
    return spec
