import pytest

from shoal.model.numbers import whole, within


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1_0", "0x1", "²", "٣", "1.0", "1" * 19, "9" * 5000]
)
def test_what_is_no_plain_number(text: str) -> None:
    assert whole(text) is None


def test_plain_numbers() -> None:
    assert (whole("0"), whole("080"), whole("9" * 18)) == (0, 80, 10**18 - 1)
    assert (within("5", 1, 5), within("6", 1, 5)) == (5, None)
