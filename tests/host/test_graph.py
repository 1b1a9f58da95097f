"""The reader of UI-format workflows finds every kind of damage; no host is needed for this."""

import copy

import pytest
from rescore.tests.host.graph import (
    Widget,
    as_prompt,
    complaint,
    problems,
    widgets,
    without_additions,
)

LOADER = {
    "input": {
        "required": {"file": ["COMBO", {"options": ["a.mp4"], "video_upload": True}]},
        "optional": {"crop": ["BOOLEAN", {"default": False}]},
    },
    "input_order": {"required": ["file"], "optional": ["crop"]},
    "output": ["IMAGE"],
    "output_name": ["images"],
}
EDITOR = {
    "input": {
        "required": {
            "mode": [["fast", "exact"], {}],
            "images": ["IMAGE", {}],
            "seed": ["INT", {"min": 0, "max": 2**53}],
            "weight": ["FLOAT", {"min": 0.0, "max": 1.0, "step": 0.01}],
            "prompt": ["STRING", {"multiline": True}],
            "scale": ["FLOAT", {"forceInput": True}],
        },
    },
    # Not the order of the dictionary above, which JSON does not promise.
    "input_order": {"required": ["images", "seed", "weight", "mode", "prompt", "scale"]},
    "output": [],
    "output_name": [],
}
OBJECT_INFO = {"Loader": LOADER, "Editor": EDITOR}
GRAPH = {
    "nodes": [
        {
            "id": 3,
            "type": "Loader",
            "mode": 0,
            "outputs": [{"name": "images", "type": "IMAGE", "links": [11]}],
            "widgets_values": ["a.mp4", "image", True],
        },
        {
            "id": 5,
            "type": "Editor",
            "mode": 0,
            "inputs": [
                {"name": "images", "type": "IMAGE", "link": 11},
                {"name": "scale", "type": "FLOAT", "link": 13},
            ],
            "widgets_values": [7, "fixed", 0.25, "exact", "a red circle"],
        },
        {
            "id": 2,
            "type": "Number",
            "outputs": [{"name": "FLOAT", "type": "FLOAT", "links": [13]}],
        },
        {"id": 4, "type": "MarkdownNote", "widgets_values": ["What this shows"]},
    ],
    "links": [[11, 3, 0, 5, 0, "IMAGE"], [13, 2, 0, 5, 1, "FLOAT"]],
}
NUMBER = {"input": {}, "input_order": {}, "output": ["FLOAT"], "output_name": ["FLOAT"]}
OBJECT_INFO["Number"] = NUMBER


def test_widgets_follow_the_input_order_with_what_the_front_end_adds():
    assert [widget.name for widget in widgets(LOADER)] == ["file", "upload", "crop"]
    assert [widget.name for widget in widgets(EDITOR)] == [
        "seed",
        "seed: control after generate",
        "weight",
        "mode",
        "prompt",
    ]


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 2), ({"control_after_generate": False}, 1), ({"control_after_generate": True}, 2)],
)
def test_a_seed_has_a_control_unless_told_otherwise(options, count):
    info = {
        "input": {"required": {"seed": ["INT", options]}},
        "input_order": {"required": ["seed"]},
    }
    assert len(widgets(info)) == count


def test_round_decides_how_many_digits_a_float_keeps_before_step_does():
    fine = Widget("step_size", "FLOAT", {"min": 0, "max": 1, "step": 0.01, "round": 0.0001})
    assert complaint(fine, 0.0125) is None
    assert "which rounds to 0.0001" in complaint(fine, 0.01251)


def test_a_sound_graph_has_no_problem_and_one_api_form():
    assert problems(GRAPH, OBJECT_INFO) == []
    assert as_prompt(GRAPH, OBJECT_INFO) == {
        "3": {"class_type": "Loader", "inputs": {"file": "a.mp4", "crop": True}},
        "5": {
            "class_type": "Editor",
            "inputs": {
                "images": ["3", 0],
                "seed": 7,
                "weight": 0.25,
                "mode": "exact",
                "prompt": "a red circle",
                "scale": ["2", 0],
            },
        },
        "2": {"class_type": "Number", "inputs": {}},
    }


SAVER = {
    "input": {
        "required": {
            "video": ["VIDEO", {}],
            "format": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {"key": "auto", "inputs": {"required": {"crf": ["INT", {"default": 23}]}}},
                        {"key": "webm", "inputs": {"required": {"speed": ["INT", {}]}}},
                    ]
                },
            ],
        },
        "optional": {"codec": ["COMBO", {"options": ["h264", "av1"]}]},
    },
    "input_order": {"required": ["video", "format"], "optional": ["codec"]},
    "output": ["VIDEO", "COMBO"],
    "output_name": ["video", "codec"],
    "python_module": "comfy_extras.nodes_video",
}
OLDER = {
    "id": 3,
    "type": "Saver",
    "outputs": [{"name": "video", "type": "VIDEO"}],
    "widgets_values": ["auto"],
}


def test_a_dynamic_list_brings_the_widgets_of_its_first_choice():
    assert [(w.name, w.kind, w.default) for w in widgets(SAVER)] == [
        ("format", "COMBO", "auto"),
        ("format.crf", "INT", 23),
        ("codec", "COMBO", "h264"),
    ]


def test_an_older_graph_lacks_what_the_hosts_own_nodes_have_gained():
    graph = {"nodes": [OLDER], "links": []}
    found = problems(graph, {"Saver": SAVER})
    assert found == ["node 3 (Saver): required input 'video' is not linked"]
    posted = as_prompt(graph, {"Saver": SAVER})
    shipped = {"3": {"class_type": "Saver", "inputs": {"format": "auto", "codec": "h264"}}}
    assert posted["3"]["inputs"] == {"format": "auto", "format.crf": 23, "codec": "h264"}
    assert without_additions(posted, shipped, {"Saver": SAVER}) == shipped


def test_a_node_of_ours_must_be_whole():
    ours = SAVER | {"python_module": "custom_nodes.rescore"}
    graph = {"nodes": [OLDER], "links": []}
    found = problems(graph, {"Saver": ours})
    assert "1 widget values ['auto'] for 3 widgets" in found[0]
    assert any("outputs ['VIDEO'], the host has ['VIDEO', 'COMBO']" in line for line in found)
    posted = as_prompt(graph, {"Saver": ours})
    assert without_additions(posted, {}, {"Saver": ours}) == posted


def test_links_may_be_objects():
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    graph = GRAPH | {"links": [dict(zip(keys, link, strict=True)) for link in GRAPH["links"]]}
    assert problems(graph, OBJECT_INFO) == []
    assert as_prompt(graph, OBJECT_INFO) == as_prompt(GRAPH, OBJECT_INFO)


def set_widget(position, value):
    def damage(graph):
        graph["nodes"][1]["widgets_values"][position] = value

    return damage


def drop_widget(graph):
    del graph["nodes"][1]["widgets_values"][1]


def rename_type(graph):
    graph["nodes"][0]["type"] = "Lodaer"


def bypass(graph):
    graph["nodes"][0]["mode"] = 4


def rename_input(graph):
    graph["nodes"][1]["inputs"][0]["name"] = "image"


def retype_input(graph):
    graph["nodes"][1]["inputs"][0]["type"] = "LATENT"


def unlink(graph):
    graph["nodes"][1]["inputs"][0]["link"] = None


def dangle(graph):
    graph["nodes"][1]["inputs"][0]["link"] = 17


def cross(graph):
    graph["links"][0][4] = 1


def carry_other_type(graph):
    graph["links"][0][5] = "MASK"


def forget_output(graph):
    graph["nodes"][0]["outputs"] = []


def rename_output(graph):
    graph["nodes"][0]["outputs"][0]["name"] = "frames"


def forget_leaving_link(graph):
    graph["nodes"][0]["outputs"][0]["links"] = []


def remove_node(graph):
    del graph["nodes"][2]


def repeat_id(graph):
    graph["nodes"][3]["id"] = 2


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (set_widget(0, 7.0), "'seed': 7.0 is no INT"),
        (set_widget(0, True), "'seed': True is no INT"),
        (set_widget(0, -1), "'seed': -1 is outside 0 to"),
        (set_widget(1, "often"), "'often' is not among"),
        (set_widget(2, 1.5), "'weight': 1.5 is outside 0.0 to 1.0"),
        (
            set_widget(2, 0.125),
            "0.125 has more digits than the front end keeps, which rounds to 0.01",
        ),
        (set_widget(3, "slow"), "'slow' is not among ['fast', 'exact']"),
        (set_widget(4, 3), "'prompt': 3 is no STRING"),
        (drop_widget, "4 widget values"),
        (rename_type, "node 3 (Lodaer): the host has no node of this type"),
        (bypass, "node 3 (Loader): is muted or bypassed"),
        (rename_input, "has no input 'image'"),
        (retype_input, "input 'images' is LATENT, the host has IMAGE"),
        (unlink, "required input 'images' is not linked"),
        (dangle, "link 17 is not in the graph"),
        (cross, "link 11 ends elsewhere"),
        (carry_other_type, "link 11 carries MASK, not IMAGE"),
        (forget_output, "outputs [], the host has ['IMAGE']"),
        (rename_output, "outputs ['frames'], the host says ['images']"),
        (forget_leaving_link, "output 'images' lists links []"),
        (remove_node, "link 13 joins a node that is not there"),
        (repeat_id, "two nodes have the same id"),
    ],
)
def test_damage_is_found(damage, complaint):
    graph = copy.deepcopy(GRAPH)
    damage(graph)
    found = problems(graph, OBJECT_INFO)
    assert any(complaint in problem for problem in found), found
