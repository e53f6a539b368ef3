"""The generator finds what is in a binary, says what is wrong with one, and its output is what is committed."""

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from protos import generate

A = "envoy/a.proto"
B = "envoy/b.proto"


def descriptor(
    name: str, *dependencies: str, json_name: str | None = None, field: str = "some_field"
) -> FileDescriptorProto:
    file = FileDescriptorProto(name=name, package="envoy", dependency=dependencies, syntax="proto3")
    file.message_type.add(name="Message").field.add(
        name=field, number=1, type=FieldDescriptorProto.TYPE_STRING, json_name=json_name
    )
    return file


def executable(*files: FileDescriptorProto, padding: bytes = bytes(16)) -> bytes:
    return b"\x7fELF" + padding + b"".join(file.SerializeToString() + padding for file in files)


@given(
    padding=st.sampled_from([b"", b"\0", b"\0" * 32, b"\xff" * 8, b"\n", b"text"]),
    names=st.sets(st.from_regex(r"\A[a-z]{2,140}\Z"), min_size=1),
)
def test_descriptors_are_found_whatever_lies_between_them(padding: bytes, names: set[str]) -> None:
    files = {f"{name}.proto": descriptor(f"{name}.proto") for name in names}

    assert generate.embedded_files(executable(*files.values(), padding=padding)) == files


def test_of_two_copies_the_one_with_json_names_is_kept() -> None:
    full, bare = descriptor(A, json_name="someField"), descriptor(A)

    for copies in ((full, bare), (bare, full)):
        assert generate.embedded_files(executable(*copies)) == {A: full}


def test_copies_that_disagree_are_an_error() -> None:
    with pytest.raises(generate.GenerateError, match=f"two different copies of {A}"):
        generate.embedded_files(executable(descriptor(A), descriptor(A, field="other")))


def test_what_begins_like_a_descriptor_and_is_none_is_an_error() -> None:
    whole = descriptor(A).SerializeToString()

    with pytest.raises(generate.GenerateError, match="no descriptor at offset 0"):
        generate.embedded_files(whole[:-3])


def test_the_closure_puts_imports_first_and_leaves_the_rest_out() -> None:
    files = {file.name: file for file in (descriptor(A, B), descriptor(B), descriptor("envoy/unused.proto"))}

    assert generate.closure(files, (A,)) == [B, A]


def test_a_missing_import_is_named_with_its_importer() -> None:
    with pytest.raises(generate.GenerateError, match=f"{B}, needed by {A}, is not in the binary"):
        generate.closure({A: descriptor(A, B)}, (A,))


def test_what_is_committed_is_what_the_generator_writes() -> None:
    assert generate.differences(generate.render()) == []


def test_changed_missing_and_superfluous_files_are_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "PACKAGE", tmp_path)
    wanted = {"__init__.py": "", "envoy/same.py": "s", "envoy/changed.py": "new", "envoy/missing.py": "m"}
    generate.write(wanted)
    (tmp_path / "generate.py").touch()
    (tmp_path / "envoy/changed.py").write_text("old")
    (tmp_path / "envoy/missing.py").unlink()
    (tmp_path / "envoy/superfluous.py").touch()

    assert generate.differences(wanted) == ["envoy/changed.py", "envoy/missing.py", "envoy/superfluous.py"]

    generate.write(wanted)
    assert generate.differences(wanted) == []
    assert (tmp_path / "generate.py").exists()
