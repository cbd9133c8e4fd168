"""From a class, a factory, an instance or YAML to a balancer; ours and torchjd's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchjd.aggregation
import torchjd.scalarization
from jsonargparse import ArgumentParser
from torchjd.scalarization import DWA, FAMO, IMTLL, STCH, UW, Constant, Mean

import mtl_lightning.balancing
import mtl_lightning.types
from mtl_lightning.balancing import Balancer, gradients, losses
from mtl_lightning.balancing.build import BalancerArgument, build_balancer
from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.balancing.torchjd import TorchJD, TorchJDScalarizer
from mtl_lightning.describe import describe
from mtl_lightning.types import ConfigurationError


def parsed(part: Any) -> Any:
    """What the command line makes of the argument ``balancer``."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--balancer", type=BalancerArgument)
    return parser.instantiate(parser.parse_object({"balancer": part})).balancer


def scalarizer_of(argument: Any, num_tasks: int = 3) -> Any:
    balancer = build_balancer(argument, num_tasks)
    assert isinstance(balancer, TorchJDScalarizer)
    assert balancer.num_tasks == num_tasks
    return balancer.scalarizer


@pytest.mark.parametrize("cls", [UW, IMTLL, FAMO])
def test_sizes_are_the_librarys_to_fill_in(cls: Any) -> None:
    def sized(num_tasks: int) -> torchjd.scalarization.Scalarizer:
        made: torchjd.scalarization.Scalarizer = cls(num_tasks)
        return made

    for argument in (cls, partial(cls), sized, cls(3), parsed(f"torchjd.scalarization.{cls.__name__}")):
        assert [p.shape for p in scalarizer_of(argument).parameters()] == [(3,)]


def test_a_size_that_is_given_stays() -> None:
    given: list[Any] = [
        partial(UW, shape=3),
        parsed({"class_path": "torchjd.scalarization.UW", "init_args": {"shape": 3}}),
    ]
    for argument in given:
        assert scalarizer_of(argument).log_var.shape == (3,)
        with pytest.raises(ConfigurationError, match=r"expected `log_var` of shape \(4,\)"):
            build_balancer(argument, 4)


def test_the_number_of_tasks_is_no_other_argument() -> None:
    for argument in (DWA, parsed("torchjd.scalarization.DWA")):
        assert scalarizer_of(argument).temperature == 2.0
    for argument in (Mean, Mean(), parsed("torchjd.scalarization.Mean")):
        assert isinstance(scalarizer_of(argument), Mean)


def test_arguments_are_passed_on() -> None:
    part = {"class_path": "torchjd.scalarization.STCH", "init_args": {"mu": 0.25}}
    for argument in (partial(STCH, mu=0.25), parsed(part)):
        assert scalarizer_of(argument).mu == 0.25
    famo = parsed({"class_path": "torchjd.scalarization.FAMO", "init_args": {"lr": 0.5}})
    assert scalarizer_of(famo).lr == 0.5


@pytest.mark.parametrize("argument", [STCH, Constant, parsed("torchjd.scalarization.STCH")])
def test_an_argument_that_is_missing_is_named(argument: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"torchjd's (STCH|Constant) could not be made: .*(mu|weights)"):
        build_balancer(argument, 3)


def test_aggregators_are_no_different() -> None:
    class_path = "torchjd.aggregation.AlignedMTL"
    aligned: Any = torchjd.aggregation.AlignedMTL
    part = {"class_path": class_path, "init_args": {"scale_mode": "median"}}
    for argument in (aligned, aligned(), partial(aligned, scale_mode="median"), parsed(class_path), parsed(part)):
        balancer = build_balancer(argument, 3)
        assert isinstance(balancer, TorchJD)
        assert balancer.gradient(torch.eye(3), torch.ones(3), torch.ones(3, dtype=torch.bool)).shape == (3,)


@pytest.mark.parametrize("path", ["torchjd.scalarization.UW", "torchjd.scalarization.DWA", "torchjd.aggregation.MGDA"])
def test_what_the_command_line_makes_can_be_told_as_plain_data(path: str) -> None:
    assert describe(parsed(path))["class_path"] == path
    assert build_balancer(parsed(describe(parsed(path))), 3).num_tasks == 3


def test_a_short_name_that_both_have_means_ours() -> None:
    for name in sorted(set(torchjd.scalarization.__all__) & set(mtl_lightning.balancing.__all__)):
        balancer = build_balancer(parsed(name), 3)
        assert type(balancer) is getattr(mtl_lightning.balancing, name)
        part: Any = f"torchjd.scalarization.{name}"
        part = {"class_path": part, "init_args": {"mu": 1.0}} if name == "STCH" else part
        assert type(scalarizer_of(parsed(part))) is getattr(torchjd.scalarization, name)


def test_a_function_of_the_number_of_tasks() -> None:
    factory: Callable[[int], Balancer] = lambda num_tasks: Balancer(num_tasks)  # noqa: E731  # that it is one
    assert type(build_balancer(factory, 3)) is Balancer


@pytest.mark.parametrize("argument", [lambda num_tasks: num_tasks, lambda num_tasks: torch.nn.Linear(num_tasks, 1)])
def test_anything_else_is_refused(argument: Any) -> None:
    with pytest.raises(ConfigurationError, match="or a torchjd scalarizer, aggregator or weighting, found"):
        build_balancer(argument, 3)
    with pytest.raises(ConfigurationError, match="expected one for 3 tasks, found one for 4"):
        build_balancer(Balancer(4), 3)


# ------------------------------------------------------------------------------------------------- every one of ours
NAMES = sorted(mtl_lightning.balancing.__all__)
OPTIONS: list[dict[str, Any]] = [
    {"class_path": "MGDA", "init_args": {"losses": {"class_path": "LogLosses"}, "level": "features"}},
    {"class_path": "CRMOGM", "init_args": {"balancer": {"class_path": "UPGrad"}, "alpha": 0.5}},
    {"class_path": "LogLosses", "init_args": {"losses": {"class_path": "UncertaintyWeighting"}}},
    {"class_path": "GradNorm", "init_args": {"initial_losses": "first_epoch", "normalization": "softmax"}},
    {"class_path": "MetaBalance", "init_args": {"primary": "a", "rescale": "norm"}},
    {"class_path": "UPGrad", "init_args": {"pref_vector": [1.0, 2.0, 3.0], "rescale": "sum", "weight_heads": True}},
    {"class_path": "torchjd.aggregation.CAGrad", "init_args": {"c": 0.3}},
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_one_line_of_yaml(name: str) -> None:
    balancer = build_balancer(parsed({"class_path": name}), 3)
    assert type(balancer) is getattr(mtl_lightning.balancing, name)
    again = build_balancer(parsed(describe(parsed({"class_path": name}))), 3)
    assert type(again) is type(balancer)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_that_is_written_names_the_package_and_no_file(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--balancer", type=BalancerArgument)
    written = parser.dump(parser.parse_object({"balancer": {"class_path": name}}))
    assert f"class_path: mtl_lightning.balancing.{name}\n" in written
    again = parser.instantiate(parser.parse_string(written)).balancer
    assert type(build_balancer(again, 3)) is getattr(mtl_lightning.balancing, name)
    assert describe(type(build_balancer(again, 3))) == {"class_path": f"mtl_lightning.balancing.{name}"}


def test_every_method_is_in_the_package_of_what_it_consumes() -> None:
    assert all(issubclass(getattr(gradients, name), GradientBalancer) for name in gradients.__all__)
    assert not any(issubclass(getattr(losses, name), GradientBalancer) for name in losses.__all__)


def test_the_scalarizers_adapter_is_found_where_old_files_say() -> None:
    balancer = build_balancer(parsed("mtl_lightning.balancing.scalarizer.TorchJDScalarizer"), 3)
    assert isinstance(balancer, TorchJDScalarizer)
    assert describe(TorchJDScalarizer) == {"class_path": "mtl_lightning.balancing.torchjd.TorchJDScalarizer"}


@pytest.mark.parametrize("part", OPTIONS, ids=[part["class_path"] for part in OPTIONS])
def test_options_are_reached_from_yaml(part: dict[str, Any]) -> None:
    balancer = build_balancer(parsed(part), 3)
    balancer.bind(dict.fromkeys("abc", mtl_lightning.types.Likelihood(0.5, 0.5, "log_var")))
    values = torch.tensor([1.0, 2.0, 3.0])
    present = torch.ones(3, dtype=torch.bool)
    assert balancer(values).isfinite()
    if isinstance(balancer, GradientBalancer):
        assert balancer.gradient(torch.eye(3), values, present).isfinite().all()
    assert build_balancer(parsed(describe(parsed(part))), 3).scale == balancer.scale
