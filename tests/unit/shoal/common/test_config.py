"""File, flags and checks of the host's configuration."""

from pathlib import Path

import pytest

from shoal.common.config import HostConfig, decode_config, encode_config, load_config
from shoal.model.errors import InvalidArgument


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text('address = "10.0.0.1"\nport = 3000\n')
    config = load_config(file, {"port": 3001, "hostname": "h", "state": None})
    assert (config.address, config.port, config.state) == ("10.0.0.1", 3001, "/var/lib/shoal")
    assert config.data_path == "10.0.0.1"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('addres = "10.0.0.1"', "addres"),
        ('address = "host"', "not an IP address"),
        ('address = "10.0.0.1"\nport = 0', "not a port"),
        ('address = "10.0.0.1"\nport = 2378', "share one port"),
        ('address = "10.0.0.1"\ninstance = "a-b"', "instance"),
        ("address = ", "cannot be read"),
        ('address = "10.0.0.1"\nlabels = ["disk"]', "'disk' is not name=value"),
        ('address = "10.0.0.1"\ngeneric_resources = ["gpu"]', "'gpu' is not KIND="),
        (
            'address = "10.0.0.1"\ngeneric_resources = ["gpu=a", "gpu=2"]',
            "'gpu=2' is not KIND=NAME or KIND=COUNT",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "host.toml"
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=sentence):
        load_config(file, {})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        load_config(tmp_path / "absent.toml", {})


def test_json_round_trip() -> None:
    config = HostConfig(address="10.0.0.1", hostname="h")
    assert decode_config(encode_config(config)) == config
