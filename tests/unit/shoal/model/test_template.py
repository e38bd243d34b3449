"""Placeholders: what they stand for, what is refused."""

import pytest

from shoal.model.errors import InvalidArgument
from shoal.model.template import Context, check_payload_template, expand

CONTEXT = Context(service_name="web", service_labels={"tier": "front"}, task_slot="3")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("{{.Service.Name}}-{{ .Task.Slot }}", "web-3"),
        ('{{index .Service.Labels "tier"}}{{.Service.Labels.tier}}', "frontfront"),
        ('{{join "-" .Service.Name .Task.Slot}}', "web-3"),
        ('{{env "A"}}', "<A>"),
    ],
)
def test_placeholders_are_replaced(text: str, expanded: str) -> None:
    assert expand(text, CONTEXT, {"env": lambda name: f"<{name}>"}) == expanded


@pytest.mark.parametrize(
    "text", ["{{.Nope}}", "{{.Service.Labels.nope}}", "{{if .Task.Slot}}x{{end}}", "{{env A}}"]
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid template"):
        expand(text, CONTEXT, {"env": str})


def test_a_payload_may_use_every_label_and_function() -> None:
    check_payload_template('{{.Service.Labels.any}} {{secret "a"}} {{config "b"}} {{env "c"}}')
    with pytest.raises(InvalidArgument):
        check_payload_template("{{range .Service.Labels}}{{end}}")
