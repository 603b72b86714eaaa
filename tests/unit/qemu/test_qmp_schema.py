import json
from typing import Any

from bascule.qemu.qmp_schema import Features, read_schema

# Cut down from QEMU's own answer, its type numbers included.
SCHEMA: list[dict[str, Any]] = [
    {"name": "query-status", "ret-type": "6", "meta-type": "command", "arg-type": "0"},
    {"name": "migrate-set-capabilities", "ret-type": "0", "meta-type": "command", "arg-type": "141"},
    {"name": "migrate-set-parameters", "ret-type": "0", "meta-type": "command", "arg-type": "145"},
    {"name": "query-migrate", "ret-type": "140", "meta-type": "command", "arg-type": "0"},
    {"name": "STOP", "meta-type": "event", "arg-type": "0"},
    {"name": "0", "members": [], "meta-type": "object"},
    {"name": "141", "members": [{"name": "capabilities", "type": "[142]"}], "meta-type": "object"},
    {"name": "[142]", "element-type": "142", "meta-type": "array"},
    {
        "name": "142",
        "members": [{"name": "capability", "type": "143"}, {"name": "state", "type": "bool"}],
        "meta-type": "object",
    },
    {"name": "143", "members": [{"name": "xbzrle"}, {"name": "events"}], "values": ["xbzrle"], "meta-type": "enum"},
    {"name": "145", "members": [{"name": "max-bandwidth", "default": None, "type": "int"}], "meta-type": "object"},
    {"name": "140", "members": [{"name": "status", "default": None, "type": "200"}], "meta-type": "object"},
    {"name": "200", "values": ["none", "active"], "meta-type": "enum"},
]


def test_names_are_found_through_types_that_have_only_numbers() -> None:
    features = read_schema(SCHEMA)
    assert features.commands["query-status"] == ()
    assert features.commands["migrate-set-capabilities"] == ("capabilities",)
    assert features.migration_parameters == {"max-bandwidth"}
    assert features.events == {"STOP"}


def test_members_of_an_enumeration_count_before_the_older_values() -> None:
    features = read_schema(SCHEMA)
    assert features.migration_capabilities == {"xbzrle", "events"}
    assert features.migration_statuses == {"none", "active"}


def test_a_qemu_without_a_command_has_just_none_of_its_names() -> None:
    features = read_schema([entity for entity in SCHEMA if not entity["name"].startswith("migrate-set")])
    assert features.migration_capabilities == frozenset()
    assert features.migration_parameters == frozenset()


def test_features_travel_as_json() -> None:
    features = read_schema(SCHEMA)
    assert Features.from_dict(json.loads(json.dumps(features.to_dict()))) == features
