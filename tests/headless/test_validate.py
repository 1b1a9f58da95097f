"""Checks before a run: each fault has its sentence, naming node, class, title and input."""

import copy
import re

import pytest
from rescore.headless.errors import WorkflowError
from rescore.headless.overrides import CommandLineText
from rescore.headless.validate import make_plan

GOOD_WIDGETS = {
    "steps": 20,
    "cfg": 7.5,
    "text": "a cat",
    "flag": True,
    "mode": "mean",
    "codec": "auto",
}


def node(class_type, title=None, **inputs):
    """One node as JSON."""
    return {"class_type": class_type, "inputs": inputs} | (
        {"_meta": {"title": title}} if title else {}
    )


def widgets(**changes):
    """A workflow of one `Widgets` node; a change to None takes the input away."""
    inputs = {
        name: value for name, value in {**GOOD_WIDGETS, **changes}.items() if value is not None
    }
    return {"4": node("Widgets", "Knobs", **inputs)}


CASES = {
    "unknown class": (
        {"1": node("Shwo", "Result", value=1)},
        [r'^Node 1 \(Shwo, "Result"\): this runner has no such node class\. Did you mean Show\?$'],
    ),
    "unknown class of a node nobody needs": (
        {**widgets(), "9": node("Quux")},
        [r"^Node 9 \(Quux\): this runner has no such node class\.$"],
    ),
    "no output node": ({"1": node("Number", value=1)}, ["no output node, such as SaveVideo"]),
    "missing input": (
        widgets(steps=None),
        [r"^Node 4 \(Widgets, \"Knobs\"\), input 'steps': required \(INT\) but missing\.$"],
    ),
    "missing socket": ({"1": node("Show")}, [r"input 'value': required \(INT,FLOAT\) but missing"]),
    "link to nowhere": (
        {"1": node("Show", value=["8", 0])},
        [r"^Node 1 \(Show\), input 'value': linked to node '8', which is not in the workflow\.$"],
    ),
    "output out of range": (
        {"1": node("Show", value=["2", 1]), "2": node("Number", value=1)},
        [r"input 'value': linked to output 1 of node 2 \(Number\), which has 1 output\(s\)\.$"],
    ),
    "output below zero": (
        {"1": node("Show", value=["2", -1]), "2": node("Number", value=1)},
        ["linked to output -1"],
    ),
    "list that is no link": (
        widgets(steps=["2", 0.5], cfg=[1, 2, 3]),
        [
            r"^Node 4 .*, input 'steps': is a list but not a link; a link is",
            r"^Node 4 .*, input 'cfg': is a list but not a link",
        ],
    ),
    "link of another type": (
        {**widgets(), "1": node("Show", "End", value=["4", 0])},
        [
            r'^Node 1 \(Show, "End"\), input \'value\': takes INT,FLOAT, but output 0 of node 4 '
            r'\(Widgets, "Knobs"\) is LATENT\.$'
        ],
    ),
    "cycle": (
        {
            "1": node("Show", value=["2", 0]),
            "2": node("Add", "A", a=["3", 0]),
            "3": node("Add", "B", a=["4", 0]),
            "4": node("Add", "C", a=["2", 0]),
        },
        [r'circle: node . \(Add, "."\) -> node . .* -> node . .* -> node . \(Add, "."\)\. Cut'],
    ),
    "cycle of one": (
        {"1": node("Show", value=["2", 0]), "2": node("Add", a=["2", 0])},
        [r"circle: node 2 \(Add\) -> node 2 \(Add\)\."],
    ),
    "text for a number": (
        widgets(steps="20"),
        [r"'steps': takes a whole number \(INT\), found '20'\.$"],
    ),
    "flag for a number": (widgets(steps=True), ["'steps': takes a whole number"]),
    "half steps": (widgets(steps=2.5), [r"'steps': takes a whole number \(INT\), found 2\.5"]),
    "too few steps": (widgets(steps=0), [r"'steps': must lie in \[1, 100\], found 0"]),
    "too many steps": (widgets(steps=101), [r"'steps': must lie in \[1, 100\], found 101"]),
    "text for a float": (widgets(cfg="high"), [r"'cfg': takes a number \(FLOAT\), found 'high'"]),
    "float out of range": (widgets(cfg=30.5), [r"'cfg': must lie in \[0\.0, 30\.0\], found 30\.5"]),
    "integer beyond floats": (widgets(cfg=10**400), ["'cfg': takes a number"]),
    "number for text": (widgets(text=5), [r"'text': takes text \(STRING\), found 5"]),
    "object for text": (widgets(text={"a": 1}), ["'text': takes text"]),
    "number for a flag": (widgets(flag=1), [r"'flag': takes true or false \(BOOLEAN\), found 1"]),
    "wrong choice": (
        widgets(mode="maen"),
        [r"'mode': must be one of mean, sample, found 'maen'; did you mean 'mean'\?$"],
    ),
    "wrong choice of a COMBO": (widgets(codec="vp9"), ["'codec': must be one of auto, h264"]),
    "value for a socket": (
        widgets(latent=5),
        ["'latent': takes a link from a node with a LATENT output, not the value 5"],
    ),
    "all faults at once": (
        {**widgets(steps=0, cfg="x"), "5": node("Show")},
        ["'steps'", "'cfg'", r"Node 5 \(Show\)"],
    ),
    "refused by the node": (
        {"1": node("Choosy", odd=2, linked=1)},
        [r"^Node 1 \(Choosy\), input 'odd', 'linked': 2 is even; give an odd number\.$"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_faults(toy_nodes, case):
    workflow, sentences = CASES[case]
    before = copy.deepcopy(workflow)
    with pytest.raises(WorkflowError) as refusal:
        make_plan(workflow, toy_nodes)
    assert len(refusal.value.problems) == len(sentences), refusal.value.problems
    for problem, sentence in zip(refusal.value.problems, sentences, strict=True):
        assert re.search(sentence, problem), problem
    assert workflow == before


def test_a_good_workflow_passes_with_its_values_converted(toy_nodes):
    plan = make_plan(widgets(steps=20.0, cfg=7), toy_nodes)
    inputs = plan.nodes["4"].inputs
    assert inputs == {**GOOD_WIDGETS, "cfg": 7.0}
    assert type(inputs["steps"]) is int and type(inputs["cfg"]) is float


@pytest.mark.parametrize("value", [None, 5, "x", True, {"a": []}])
def test_any_takes_anything(toy_nodes, value):
    workflow = widgets()
    workflow["4"]["inputs"]["anything"] = value
    assert make_plan(workflow, toy_nodes).nodes["4"].inputs["anything"] == value


def test_unknown_inputs_are_ignored_with_a_hint(toy_nodes, caplog):
    plan = make_plan(widgets(stpes=7), toy_nodes)
    assert "stpes" not in plan.nodes["4"].inputs
    assert "input 'stpes' is unknown and ignored; did you mean 'steps'?" in caplog.text


@pytest.mark.parametrize(
    "extra", [7, None, "x", {"a": []}, [1, 2, 3], ["99", 0], ["4", 5], ["1", 0]]
)
def test_an_unknown_input_is_named_and_changes_nothing(toy_nodes, caplog, extra):
    """Whatever a later host's node has been given: nothing behind it runs, and it is no fault."""
    workflow = widgets(**{"format.codec": extra}) | {"1": node("Number", value=5)}
    if extra is None:
        workflow["4"]["inputs"]["format.codec"] = None
    plan = make_plan(workflow, toy_nodes)
    assert list(plan.nodes) == ["4"] and plan.nodes["4"].inputs == GOOD_WIDGETS
    assert "input 'format.codec' is unknown and ignored" in caplog.text
    assert plan.prompt["4"]["inputs"]["format.codec"] == extra


class Dynamic:
    """A choice with inputs of its own, as later hosts declare it."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        crf = {"required": {"crf": ["FLOAT", {"min": 0.0, "max": 51.0}]}}
        encoding = [{"key": "auto", "inputs": {}}, {"key": "re-encode", "inputs": crf}]
        codec = {"required": {"codec": ["COMFY_DYNAMICCOMBO_V3", {"options": encoding}]}}
        options = [{"key": "auto", "inputs": {}}, {"key": "mp4", "inputs": codec}]
        return {"required": {"format": ("COMFY_DYNAMICCOMBO_V3", {"options": options})}}


def test_a_dynamic_choice_and_its_inputs(toy_nodes, caplog):
    inputs = {"format": "mp4", "format.codec": "re-encode", "format.codec.crf": 17}
    classes = {**toy_nodes, "Dynamic": Dynamic}
    plan = make_plan({"1": node("Dynamic", **inputs)}, classes, {"1.format.codec.crf": 23})
    assert plan.nodes["1"].inputs == {**inputs, "format.codec.crf": 23} and caplog.text == ""
    with pytest.raises(WorkflowError, match=r"'format': must be one of auto, mp4, found 'avi'"):
        make_plan({"1": node("Dynamic", format="avi")}, classes)


def test_hidden_inputs_cannot_be_given(toy_nodes):
    workflow = {"1": node("Show", value=["2", 0], me="someone else"), "2": node("Number", value=1)}
    assert "me" not in make_plan(workflow, toy_nodes).nodes["1"].inputs


def test_only_what_outputs_need_is_checked_and_planned(toy_nodes, caplog):
    workflow = {**widgets(), "9": node("Add", "Idle", b=["nowhere", 0])}
    assert list(make_plan(workflow, toy_nodes).nodes) == ["4"]
    assert 'node 9 (Add, "Idle") feeds no output and does not run.' in caplog.text


def test_a_kept_node_is_planned_too(toy_nodes):
    workflow = {**widgets(), "9": node("Add", "Idle", a=1)}
    plan = make_plan(workflow, toy_nodes, keep=["Idle"])
    assert plan.targets == ("4", "9") and plan.kept == {"Idle": "9"}
    with pytest.raises(WorkflowError, match="A node to keep cannot be found: there is no node 'x'"):
        make_plan(workflow, toy_nodes, keep=["x"])


def test_a_node_checks_its_own_inputs_and_sees_only_constants(toy_nodes):
    workflow = {
        "1": node("Choosy", odd=77, linked=["2", 0]),
        "2": node("Number", value=5),
    }
    make_plan(workflow, toy_nodes)  # 77 is beyond max=3: the node asked to check it itself
    assert toy_nodes["Choosy"].asked == [{"odd": 77, "linked": None}]


def test_a_node_that_asks_for_types_checks_them_itself(toy_nodes):
    class Lenient(toy_nodes["Show"]):
        seen = None

        @classmethod
        def VALIDATE_INPUTS(cls, input_types):
            Lenient.seen = input_types
            return "types do not suit" if input_types == {"value": "LATENT"} else True

    classes = {**toy_nodes, "Lenient": Lenient}
    workflow = {**widgets(), "1": node("Lenient", value=["4", 0])}
    with pytest.raises(WorkflowError, match=r"Node 1 \(Lenient\): types do not suit"):
        make_plan(workflow, classes)
    workflow["1"]["inputs"]["value"] = ["4", 1]
    make_plan(workflow, classes)
    assert Lenient.seen == {"value": "INT"}


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [(False, "its own check refused"), (None, "its own check refused"), ("no", ": no$")],
)
def test_verdicts(toy_nodes, verdict, sentence):
    class Judge(toy_nodes["Show"]):
        @classmethod
        def VALIDATE_INPUTS(cls, **inputs):
            return verdict

    workflow = {"1": node("Judge", value=["2", 0]), "2": node("Number", value=5)}
    with pytest.raises(WorkflowError, match=sentence):
        make_plan(workflow, {**toy_nodes, "Judge": Judge})


def test_a_check_that_crashes_is_a_fault_of_its_node(toy_nodes):
    class Broken(toy_nodes["Show"]):
        @classmethod
        def VALIDATE_INPUTS(cls, value):
            raise KeyError("oops")

    workflow = {"1": node("Broken", value=["2", 0]), "2": node("Number", value=5)}
    with pytest.raises(WorkflowError, match=r"Node 1 \(Broken\).*its own check failed: KeyError"):
        make_plan(workflow, {**toy_nodes, "Broken": Broken})


@pytest.mark.parametrize("value", [None, 5, True, {"a": "b"}])
def test_a_name_is_text_also_where_a_node_checks_it_itself(toy_nodes, value):
    class Picker(toy_nodes["Show"]):
        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"file": (["a.png"], {})}}

        @classmethod
        def VALIDATE_INPUTS(cls, file):
            return True

    workflow = {"1": node("Picker", file=value)}
    with pytest.raises(WorkflowError, match=r"input 'file': takes a name, found"):
        make_plan(workflow, {**toy_nodes, "Picker": Picker})


def test_long_chains_are_no_problem(toy_nodes):
    length = 5000
    chain = {str(i): node("Add", a=[str(i + 1), 0]) for i in range(1, length)}
    workflow = {"0": node("Show", value=["1", 0]), **chain, str(length): node("Add", a=1)}
    assert len(make_plan(workflow, toy_nodes).nodes) == length + 1
    workflow[str(length)]["inputs"]["a"] = ["1", 0]
    with pytest.raises(WorkflowError, match="circle"):
        make_plan(workflow, toy_nodes)


SETTINGS = {
    "4.steps": ("7", 7),
    "Knobs.cfg": ("2.5", 2.5),
    "Widgets.flag": ("false", False),
    "4.mode": ("sample", "sample"),
    "4.text": ("a dog", "a dog"),
    "Knobs.text": ("5", "5"),
    "Widgets.text": ("true", "true"),
    "4.anything": ('{"a": 1}', {"a": 1}),
}


@pytest.mark.parametrize("target", SETTINGS)
def test_settings_from_the_command_line(toy_nodes, target):
    text, value = SETTINGS[target]
    plan = make_plan(widgets(), toy_nodes, {target: CommandLineText(text)})
    name = target.split(".")[1]
    assert plan.nodes["4"].inputs[name] == value
    assert type(plan.nodes["4"].inputs[name]) is type(value)
    assert plan.prompt["4"]["inputs"][name] == value


def test_quoted_json_text_is_unquoted(toy_nodes):
    plan = make_plan(widgets(), toy_nodes, {"4.text": CommandLineText('"a \\"red\\" cat"')})
    assert plan.nodes["4"].inputs["text"] == 'a "red" cat'


def test_a_setting_can_link_and_add_an_input(toy_nodes):
    workflow = {
        "1": node("Show", value=["2", 0]),
        "2": node("Add", a=1),
        "3": node("Number", value=4),
    }
    plan = make_plan(workflow, toy_nodes, {"2.b": ["3", 0]})
    assert list(plan.nodes) == ["1", "2", "3"]
    assert "b" not in workflow["2"]["inputs"]


@pytest.mark.parametrize(
    ("target", "value", "sentence"),
    [
        ("7.steps", 1, r"Setting '7\.steps': there is no node '7'"),
        ("4.stpes", 1, r"\"Knobs\"\) has no such input; did you mean 'steps'\?$"),
        ("4.zzz", 1, r"has no such input; it has steps, cfg, text, flag, mode, codec"),
        ("steps", 1, r"expected NODE\.INPUT, as in 5\.steps"),
        (".steps", 1, r"expected NODE\.INPUT"),
        ("4.", 1, r"expected NODE\.INPUT"),
        ("4.steps", [1], "is a list but not a link"),
        ("4.steps", 1000, r"'steps': must lie in \[1, 100\], found 1000"),
    ],
)
def test_bad_settings(toy_nodes, target, value, sentence):
    with pytest.raises(WorkflowError, match=sentence):
        make_plan(widgets(), toy_nodes, {target: value})
