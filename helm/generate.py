"""Shell: writes the parts of the chart that are made from the code: the CustomResourceDefinitions.

python -m helm.generate            write them
python -m helm.generate --check    list the files that would change; exit 1 if there are any
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from controller import crd

CHART = Path(__file__).parent / "spillway"
HEADER = "# Made from controller/api.py by `make crds`.\n"


class _Dumper(yaml.SafeDumper):
    """Repeats what occurs twice: CustomResourceDefinitions are read by people and by tools that know no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render() -> dict[Path, str]:
    """Every file that is made, and its text."""
    return {
        CHART / "crds" / f"{each['metadata']['name']}.yaml": HEADER
        + yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
        for each in crd.definitions()
    }


def differences(wanted: Mapping[Path, str]) -> list[Path]:
    """The files that are missing, outdated or made no more."""
    present = {path: path.read_text() for path in (CHART / "crds").glob("*.yaml")}
    return sorted(path for path in present.keys() | wanted.keys() if present.get(path) != wanted.get(path))


def main() -> int:
    """Exit status: 0 done or nothing differs, 1 `--check` found differences."""
    parser = argparse.ArgumentParser(prog="python -m helm.generate", description="Make parts of the chart.")
    parser.add_argument("--check", action="store_true", help="change nothing, list the files that differ")
    check: bool = parser.parse_args().check
    wanted = render()
    differing = differences(wanted)
    for path in differing:
        if check:
            print(f"{path.relative_to(CHART.parent)} differs from what the code says; run `make crds`")
        elif path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
        else:
            path.unlink()
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
