"""Which node runs where: counted, grouped and explained."""

from __future__ import annotations

from onnxprune.targets.placement import CPU, XNNPACK, Placement, read_placement, summary, unused
from onnxprune.targets.worker import profiled_nodes

SPATIAL = "a 4-D input of fixed channels, height and width"


def placed(groups: list[list[list[str]]]) -> Placement:
    (found,) = read_placement("xnnpack", XNNPACK, [groups], 1)
    return found


def one(provider: str, op: str, domain: str = "") -> list[list[str]]:
    return [[provider, op, domain, f"{op} node"]]


def test_neighbours_on_the_provider_are_one_partition() -> None:
    found = placed([one(XNNPACK, "Conv"), one(XNNPACK, "MaxPool"), one(CPU, "Add"), one(XNNPACK, "Conv")])
    assert found.counts == {XNNPACK: 3, CPU: 1}
    assert found.partitions == 2
    assert summary(found) == "3 of 4 nodes on Xnnpack in 2 partitions"


def test_groups_that_were_compiled_count_each() -> None:
    pair = [*one(XNNPACK, "Conv"), *one(XNNPACK, "Conv")]
    assert placed([pair, pair]).partitions == 2


def test_what_fell_back_is_told_by_operator_with_the_reason() -> None:
    found = placed([one(CPU, "Conv"), one(CPU, "Erf"), one(CPU, "Erf"), one(CPU, "Attention", "com.microsoft")])
    assert [(each.op, each.count, each.why) for each in found.fallen] == [
        ("Conv", 1, f"Xnnpack takes it only with {SPATIAL} and constant weights, float, S8S8 or U8U8"),
        ("Erf", 2, "Xnnpack has no kernel for it in this form"),
        ("com.microsoft:Attention", 1, "Xnnpack has no kernel for it in this form"),
    ]
    assert found.counts == {XNNPACK: 0, CPU: 4}
    assert unused([found])
    assert summary(found) == "0 of 4 nodes on Xnnpack in 0 partitions"


def test_a_layout_is_no_other_operator() -> None:
    found = placed([one(XNNPACK, "Conv", "com.ms.internal.nhwc")])
    assert found.nodes[0].op == "Conv"
    assert summary(found) == "all 1 nodes on Xnnpack"
    assert not found.fallen


def test_names_from_outside_are_made_printable() -> None:
    found = placed([[[XNNPACK, "Conv", "", "a\x1b[31m\nb"]]])
    assert found.nodes[0].name == "a[31mb"


def test_a_profile_is_read_in_the_order_of_execution() -> None:
    def event(name: str, provider: str, category: str = "Node") -> dict[str, object]:
        return {"cat": category, "name": name, "args": {"provider": provider, "op_name": name[:3]}}

    events = [
        event("session_initialization", "", "Session"),
        event("Con_1_fence_before", XNNPACK),
        event("Con_1_kernel_time", XNNPACK),
        event("Con_2_kernel_time", XNNPACK),
        event("Add_3_kernel_time", CPU),
        # The body of a loop runs its nodes again and again.
        event("Con_1_kernel_time", XNNPACK),
    ]
    assert profiled_nodes(events) == [
        [[XNNPACK, "Con", "", "Con_1"], [XNNPACK, "Con", "", "Con_2"]],
        [[CPU, "Add", "", "Add_3"]],
    ]
