"""One value, one byte string, one digest: in every order and in every process."""

import hashlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.data.digest import canonical, digest, plain, sha256

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
quick = settings(deadline=None, max_examples=60)


def reversed_keys(value):
    if isinstance(value, dict):
        return {k: reversed_keys(v) for k, v in reversed(value.items())}
    return [reversed_keys(v) for v in value] if isinstance(value, list) else value


def test_the_example_of_the_standard_gives_its_bytes():
    """RFC 8785, section 3.2.2."""
    given_ = r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]}"""
    wanted = (
        '{"literals":[null,true,false],'
        '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(json.loads(given_)) == wanted.encode()


def test_keys_are_sorted_as_the_standard_sorts_them():
    """RFC 8785, section 3.2.3: by UTF-16 code units, so the emoji stands before U+FB33."""
    wanted = ["\r", "1", "\u0080", "ö", "€", "😀", "\ufb33"]
    assert list(json.loads(canonical(dict.fromkeys(sorted(wanted), 0)))) == wanted


@pytest.mark.parametrize(
    ("number", "text"),
    [(-0.0, "0"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (5e-324, "5e-324"), (1.0, "1")],
)
def test_numbers_have_the_shortest_form(number, text):
    assert canonical(number).decode() == text


@quick
@given(JSON)
def test_canonical_bytes_say_the_value_and_nothing_else(value):
    written = canonical(value)
    assert json.loads(written, parse_int=float) == value
    assert canonical(json.loads(written)) == written
    assert canonical(reversed_keys(value)) == written


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**53 + 1, "\ud800", {1: 2}, {1, 2}, b"x", np.int64(3), object()]
)
def test_what_is_not_json_has_no_canonical_form(value):
    with pytest.raises(ValueError, match=r"."):
        canonical(value)


@quick
@given(st.binary())
def test_a_digest_is_the_sha256_of_the_bytes(data):
    assert sha256(data) == sha256(memoryview(data)) == hashlib.sha256(data).hexdigest()


def test_a_digest_is_the_same_for_ever():
    assert digest({"b": [1, "é"], "a": None}) == (
        "f8f17faab95c024891d173fa43442b0e52007736a1f36715ac721ab22deeefc5"
    )


@quick
@given(JSON)
def test_json_is_plain_already(value):
    assert plain(value) == value


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**60, "1152921504606846976"),
        (np.float64(1.5), 1.5),
        ((1, (2,)), [1, [2]]),
        ({3: {2, 1}}, {"3": [1, 2]}),
        (b"x", "b'x'"),
    ],
)
def test_anything_else_becomes_plain(value, wanted):
    assert plain(value) == wanted
    assert isinstance(canonical(plain(value)), bytes)


def test_a_set_is_the_same_in_every_process():
    code = "from mlct.data.digest import *; print(digest(plain({'a', 'b', 'c', ('d', 1)})))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1
