"""What an approval pins besides the version: slot, environment, traffic, settings."""

import pytest

from mlct.errors import SpecError
from mlct.release.approval.deployment import Deployment

PLAIN = Deployment()


@pytest.mark.parametrize(
    "other",
    [
        Deployment(environment="staging"),
        Deployment(traffic=0.5),
        Deployment(requires=["shadow"]),
        Deployment(settings={"timeout": 3}),
    ],
)
def test_every_field_and_the_slot_are_in_the_digest(other):
    assert other.digest("production") != PLAIN.digest("production")
    assert PLAIN.digest("production-eu") != PLAIN.digest("production")


def test_the_digest_names_what_is_said_and_not_how():
    one = Deployment(traffic=1, requires=["shadow", "canary"], settings={"a": 1, "b": [2]})
    two = Deployment(traffic=1.0, requires=("canary", "shadow"), settings={"b": [2], "a": 1})
    assert one.digest("production") == two.digest("production")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("environment", ""),
        ("environment", 7),
        ("traffic", 0),
        ("traffic", 1.5),
        ("traffic", True),
        ("traffic", "all"),
        ("requires", ["looks-good"]),
        ("requires", "shadow"),
        ("requires", {"shadow": True}),
        ("settings", {"when": object()}),
        ("settings", [1]),
    ],
)
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(SpecError, match=rf"Deployment\.{field} is"):
        Deployment(**{field: value})


def test_a_deployment_with_settings_is_hashable():
    assert len({Deployment(settings={"a": 1}), Deployment(settings={"a": 1}), PLAIN}) == 2
