"""The fast reader reads what libyaml reads, or leaves it to libyaml."""

from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.scale.fleet import Fleet
from controller import kube_yaml, plain_yaml
from controller.manifests import read

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.yaml"))

INDENTS = st.sampled_from(["", "", "  ", "  ", "    ", "- ", "  - ", "-   ", "    - ", "      ", "- - ", " "])
KEYS = st.sampled_from(["a:", "b:", "a: ", "kind:", "yes:", "1:", "<<:", "app.kubernetes.io/name:", '"q":', "a :", "?"])
PLAIN = ["x", "x y", "x  y", "x:y", "x,y", "x: y", "x:", "a#b", "a #b", "x # note", "x ", "  x", "2026-01-01", "é", "."]
URLS = ["http://h:80/p?q=1", "$workspace/$model", "sum(x{a='b'}[1m]) / 2", "app=x,tier!=y"]
TYPED = ["1", "007", "1.5", "1:30", "-1", "true", "No", "~", "null", "=", ".inf", "0x1F", "<<"]
QUOTED = ["'q'", "'it''s'", '"q"', '"\\n"', '"x" y', "'x' # note", '"a: b"', "'#'"]
FLOW = ["[]", "[a, 'b']", "[a,b]", "[a, [b]]", "[a: b]", "[-]", "[a, b] c", "[a,]", "['a, b', c]"]
MAPPINGS = ["{}", "{a: b}", "{a: b, a: c}", "{a}", "{a: 1, b: no}", "{a: 'b, c'}", "{a: {b: c}}", "{a: b,}"]
OTHERS = ["", "", "|", ">-", "&x y", "*x", "!!str 1", "# only", "@x", "%x", "`x`", "...", "---", "x\t", "x\r", "x\x01"]
VALUES = st.sampled_from([*PLAIN, *URLS, *TYPED, *QUOTED, *FLOW, *MAPPINGS, *OTHERS])
LINES = st.builds(lambda *parts: "".join(parts), INDENTS, KEYS | st.just(""), st.sampled_from(["", " "]), VALUES)
TEXTS = st.lists(LINES | st.sampled_from(["---", "", "# note", "  # note", "...", "%YAML 1.1", "\t"]), max_size=8)


def by_libyaml(text: str) -> list[tuple[Any, int]]:
    return [(value, node.start_mark.line + 1) for value, node in kube_yaml.documents(text)]


def agrees(text: str) -> bool:
    """Whether it was read here, as libyaml reads it; lines count only for what there is."""
    read_here = plain_yaml.documents(text)
    if read_here is None:
        return False
    theirs = by_libyaml(text)
    assert [repr(value) for value, _ in read_here] == [repr(value) for value, _ in theirs]
    assert [line for value, line in read_here if value] == [line for value, line in theirs if value]
    return True


@given(TEXTS)
@example(["a:", "- b: x", "  c:", "  - d", "- e", "f:"])
@example(["---", "---", "a: b", "---"])
@example(["a:", "  b: x", "   c: y"])
def test_what_is_read_here_is_what_libyaml_reads(lines: list[str]) -> None:
    agrees("\n".join(lines))


TREES = st.recursive(
    st.text("abcXYZ019-./: #'\"", max_size=8) | st.integers(0, 10**6) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz", min_size=1), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from("abcdef"), TREES, min_size=1), st.sampled_from([None, False]), st.booleans())
def test_whatever_is_dumped_is_read_the_same_way(tree: dict[str, Any], flow: bool | None, indented: bool) -> None:
    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, indentless and not indented)

    agrees(yaml.dump(tree, Dumper=Dumper, default_flow_style=flow))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name + "/" + path.name)
def test_all_examples_are_read_here(path: Path) -> None:
    assert agrees(path.read_text())


def test_manifests_of_many_models_are_read_here(tmp_path: Path) -> None:
    Fleet(3).write_yaml(tmp_path / "fleet")
    assert all(agrees(path.read_text()) for path in (tmp_path / "fleet").iterdir())


UNUSUAL = ["a: |\n  b\n", "a: &x b\n", "a: !!str b\n", "a: b\n  c\n", "a: {b: {c: d}}\n", "a: ü\n", "a: 1.5\n", "- a\n"]
WRONG = ["a: b: c\n", "a: b\na: c\n", "a:\tb\n", "a: b\r\n", "  a: b\n", "a: b\n c: d\n", "a: b\n- c\n", "yes: b\n"]


@pytest.mark.parametrize("text", [*UNUSUAL, *WRONG])
def test_what_is_unusual_is_left_to_libyaml(text: str) -> None:
    assert plain_yaml.documents(text) is None


def test_a_problem_knows_its_line_whichever_reader_found_it() -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - name: http\n    port: 0\n"
    (manifest,) = read(PurePath("web.yaml"), text).manifests
    assert [problem.source.line for problem in manifest.problems] == [8]
