"""A profile chooses what it measures, and stops in time."""

import time

import numpy as np
import pytest

from hwprune.errors import ConfigError, UntrustedError
from hwprune.experiments.devices import find
from hwprune.experiments.home import Home
from hwprune.experiments.known_models import lenders, model_path
from hwprune.experiments.models import open_model
from hwprune.experiments.profile import (
    channel_step,
    channel_steps,
    example_widths,
    full_space,
    profile_network,
    remember_steps,
)
from hwprune.experiments.profiler import Effort, Profiler
from hwprune.experiments.progress import Silent
from hwprune.experiments.session import open_session
from hwprune.experiments.unfinished import UnfinishedProfile
from hwprune.experiments.whole_networks import SITTINGS, SITTINGS_MAX, WholeNetworks, between_sittings_std
from latency_models.features import mixes_channels

pytestmark = [pytest.mark.long, pytest.mark.measures]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    with open_session(home, find(home, "local"), Silent()) as session:
        session.measurer.wait_s = 1.0
        yield session


@pytest.fixture(scope="module")
def bench(session):
    return open_model("resnet_cifar,depth=8", input_shape=(3, 8, 8), target=session.compiler.target)


def profiled(session, bench, effort, part):
    profiler = Profiler(session, bench, example_widths(full_space(bench)), effort, part)
    try:
        return profiler, profiler.run(Silent())
    except UntrustedError as reason:
        pytest.skip(f"this machine is too busy to measure anything: {reason}")


EFFORT = Effort(kernels=100, networks=8, minutes=1.5, error=0.0)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return tmp_path_factory.mktemp("models") / "local.part"


@pytest.fixture(scope="module")
def profile(session, bench, part):
    return profiled(session, bench, EFFORT, UnfinishedProfile(part))


@pytest.fixture
def inside(part, profile, bench):
    """What was timed inside networks, if the device held still for all of them."""
    known = UnfinishedProfile(part)
    if known.networks < EFFORT.kernels // len(bench.arithmetic.templates):
        pytest.skip("this machine is too busy: kernels were timed alone, or inside fewer networks")
    return known


def test_the_budget_is_kept_wherever_kernels_are_timed(profile):
    profiler, model = profile
    assert 0 < profiler.kernels <= 100
    assert 0 < len(profiler.rows) <= profiler.kernels
    assert len(model.networks) <= 8


def test_networks_are_timed_up_to_the_budget_and_corners_are_among_them(profile, inside, bench):
    profiler, model = profile
    assert profiler.kernels == inside.networks * len(bench.arithmetic.templates) > 100 - len(bench.arithmetic.templates)
    dense = set(bench.arithmetic([bench.groups.sizes]).row(0))
    assert len(dense & set(model.table)) == len(dense), "the dense network was timed"


def test_the_model_tells_networks_that_it_has_not_seen(profile, bench):
    _, model = profile
    if len(model.networks) < 6:
        pytest.skip("this machine is too busy: too few networks could be measured with trust")
    assert model.scores["networks"]["mape"] < 15
    mean_ms, _ = model.predict(bench.arithmetic([bench.groups.sizes, np.ones(len(bench.groups), int)]))
    assert mean_ms[1] < mean_ms[0]


def test_an_interrupted_profile_goes_on_with_what_it_has(session, bench, inside, profile):
    profiler, model = profile
    assert inside.networks * len(bench.arithmetic.templates) == len(profiler.rows)
    again, same = profiled(session, bench, EFFORT, inside)
    layers = [layers for layers, _ in model.networks]
    assert [each for each, _ in same.networks] == layers
    first = inside.networks // 2 * len(bench.arithmetic.templates)
    assert again.rows[:first] == profiler.rows[:first]


def test_a_target_that_is_reached_ends_the_profile(session, bench, profile):
    del profile  # the library is compiled by now
    started = time.perf_counter()
    effort = Effort(kernels=2000, networks=8, minutes=3.0, error=50.0)
    profiler, _ = profiled(session, bench, effort, UnfinishedProfile())
    assert profiler.kernels < 2000
    assert time.perf_counter() - started < 120


def test_steps_are_found_for_every_group_and_kept_with_the_device(session, bench, profile):
    _, model = profile
    steps = channel_steps(model, bench)
    assert len(steps) == len(bench.groups)
    assert set(steps) <= {1, 2, 4, 8, 16}
    step = channel_step(model, bench, full_space(bench))
    device = remember_steps(session.home, session.device, model, step)
    assert session.home.devices.get("local") == device
    assert device.channel_step == step
    assert step not in device.channel_steps.values()


def test_kernels_are_borrowed_from_a_device_that_has_them(session, bench, part, profile):
    _, model = profile
    home, local = session.home, session.device
    with pytest.raises(ConfigError, match="no other device was profiled for these layers"):
        profile_network(session, bench, console=Silent(), borrowed=True)
    twin = local.model_copy(update={"name": "twin"})
    home.devices.add(twin)
    model_path(home, twin, bench).write_text(model.to_json())
    layers = {template.template for template in bench.arithmetic.templates if mixes_channels(template)}
    if layers - {shape.template for shape in model.table}:
        pytest.skip("this machine is too busy: no kernel of some layer was timed with trust")
    assert list(lenders(home, local, bench)) == ["twin"]
    assert not lenders(home, twin, bench)
    profiler = Profiler(session, bench, example_widths(full_space(bench)), EFFORT, UnfinishedProfile(part))
    borrowed = profiler.borrow(lenders(home, local, bench), Silent())
    assert profiler.kernels == 0
    assert borrowed.recipe.source == "twin"
    mean_ms, _ = borrowed.predict_networks([layers for layers, _ in model.networks])
    np.testing.assert_allclose(mean_ms, [latency_ms for _, latency_ms in model.networks], rtol=0.1)


def test_networks_of_the_first_sittings_are_measured_again_and_averaged_if_they_moved(session, bench, profile):
    profiler, model = profile
    whole = profiler.networks
    assert 2 <= whole.sittings <= SITTINGS_MAX
    assert model.recipe.averaged_std == whole.averaged_std
    assert (whole.averaged_std > 0) == (whole.sittings > 2)


def test_no_sitting_is_begun_that_would_end_too_late(session, bench):
    whole = WholeNetworks(session, bench, example_widths(full_space(bench)), count=3)
    with Silent().progress(None, "") as steps:
        for number in range(SITTINGS):
            whole.sit(number, 0.0, steps)
        whole.settle(time.perf_counter() - 1, steps)
    assert whole.sittings <= 1


def test_what_networks_differ_by_between_sittings_is_relative_and_of_those_measured_twice_alone():
    assert between_sittings_std([[1.0], [2.0]]) == 0
    generator = np.random.default_rng(0)
    found = generator.uniform(0.1, 10, (200, 1)) * np.exp(0.05 * generator.normal(size=(200, 8)))
    assert between_sittings_std([*found.tolist(), [3.0]]) == pytest.approx(0.05, rel=0.1)
    disturbed = np.ones((200, 16))
    disturbed[:, 3] = 1.3
    assert between_sittings_std(disturbed.tolist()) == 0, "one disturbed sitting of sixteen"
