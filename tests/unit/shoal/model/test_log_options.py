"""Which ways to log there are, and what is said with a line."""

import pytest

from shoal.model.log_options import Logged, refusal, said_with_lines

LOGGED = Logged(
    id="ab" * 32,
    name="web",
    image_id="sha256:" + "cd" * 32,
    image="demo/web:1",
    labels={"tier": "front", "team": "a"},
    env=("COLOR=red", "SIZE=1", "BARE"),
)


@pytest.mark.parametrize("driver", ["", "json-file", "local", "none"])
def test_drivers_that_there_are(driver: str) -> None:
    assert refusal(driver, {}) is None


def test_rotation_and_details_pass() -> None:
    said = {"max-size": "10m", "max-file": "3", "compress": "false", "mode": "blocking"}
    assert refusal("local", said) is None
    assert refusal("", {**said, "labels": "a", "env-regex": "^A", "tag": "{{.Name}}"}) is None


@pytest.mark.parametrize(
    ("driver", "option", "value", "sentence", "missing"),
    [
        ("json-file", "x", "1", "unknown log opt 'x' for json-file log driver: it has", False),
        ("local", "tag", "a", "unknown log opt 'tag' for local", False),
        ("none", "max-size", "1m", "it has none", False),
        ("json-file", "max-size", "huge", "no size such as 10m", False),
        ("json-file", "max-size", "0", "no size", False),
        ("json-file", "max-size", "9" * 5000, "no size", False),
        ("json-file", "max-size", "\u0661\u0660m", "no size", False),
        ("json-file", "max-file", "0", "no number of files above 0", False),
        ("json-file", "max-file", "\u00b2", "no number of files", False),
        ("json-file", "max-file", "9" * 5000, "no number of files", False),
        ("json-file", "compress", "x", "neither true nor false", False),
        ("json-file", "compress", "true", "not supported", True),
        ("json-file", "mode", "x", "neither blocking nor", False),
        ("json-file", "mode", "non-blocking", "not supported", True),
        ("json-file", "max-buffer-size", "1m", "not supported", True),
        ("json-file", "tag", "{{.Nope}}", "there are .ID, .FullID", False),
        ("json-file", "labels-regex", "(", "no regular expression", False),
    ],
)
def test_what_is_refused(
    driver: str, option: str, value: str, sentence: str, missing: bool
) -> None:
    found = refusal(driver, {option: value})
    assert found is not None
    assert (found.option, found.missing) == (option, missing)
    assert sentence in found.sentence


def test_a_driver_that_there_is_not() -> None:
    found = refusal("syslog", {})
    assert found is not None
    assert found.missing
    assert "'syslog' is not supported; there are json-file, local, none" in found.sentence


def test_what_is_said_with_a_line() -> None:
    assert said_with_lines({}, LOGGED) == {}
    assert said_with_lines({"labels": "tier,none", "env": "COLOR,BARE"}, LOGGED) == {
        "tier": "front",
        "COLOR": "red",
    }
    assert said_with_lines({"labels-regex": "^te", "env-regex": "S"}, LOGGED) == {
        "team": "a",
        "SIZE": "1",
    }


def test_a_tag_is_a_template() -> None:
    tag = "{{.Name}}/{{ .ID }}/{{.ImageName}}/{{.ImageID}}"
    said = said_with_lines({"tag": tag}, LOGGED)["tag"]
    assert said == "web/abababababab/demo/web:1/cdcdcdcdcdcd"
    assert said_with_lines({"tag": "{{.FullID}} {{.ImageFullID}} {{.DaemonName}}"}, LOGGED) == {
        "tag": f"{LOGGED.id} {LOGGED.image_id} docker"
    }
