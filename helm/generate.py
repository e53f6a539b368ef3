"""Shell: writes the parts of the chart that are made from what stands elsewhere: the CustomResourceDefinitions, from
the types, and the gateway's bootstrap, from the one in envoy/.

python -m helm.generate            write them
python -m helm.generate --check    list the files that would change; exit 1 if there are any
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from controller import crd

CHART = Path(__file__).parent / "spillway"
BOOTSTRAP = Path(__file__).parents[1] / "envoy/bootstrap.yaml"
IN_CLUSTER_ONLY = "#+ "
"""What lines of the bootstrap stand behind that are for a gateway in a cluster."""

ANY_ADDRESS = "address: 0.0.0.0"
ADDRESS = '(.Values.config.gateway | default dict).address | default "0.0.0.0"'
GATEWAY_ADDRESS = f'address: "{{{{ {ADDRESS} }}}}", ipv4_compat: {{{{ eq "::" ({ADDRESS}) }}}}'
IN_CLUSTER = {
    "node_id": "",
    "node_cluster": "",
    "xds_host": '{{ include "spillway.fullname" . }}-controller.{{ .Release.Namespace }}.svc',
    "xds_port": "{{ .Values.xds.port }}",
    "admin_host": "127.0.0.1",
    "admin_port": "9901",
}
"""What the template's placeholders are in a Pod. Its name, and so the node's, is a flag of Envoy's."""


class _Dumper(yaml.SafeDumper):
    """Repeats what occurs twice: CustomResourceDefinitions are read by people and by tools that know no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render() -> dict[Path, str]:
    """Every file that is made, and its text."""
    made = {CHART / "files/bootstrap.yaml": _bootstrap(BOOTSTRAP.read_text())}
    for each in crd.definitions():
        text = yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
        made[CHART / f"crds/{each['metadata']['name']}.yaml"] = f"# Made from controller/api.py by `make crds`.\n{text}"
    return made


def _bootstrap(template: str) -> str:
    """Envoy's bootstrap as a template of Helm's: the controller is found by name, and both sides show certificates."""
    text = template.replace(IN_CLUSTER_ONLY, "").replace(ANY_ADDRESS, GATEWAY_ADDRESS)
    return "# Made from envoy/bootstrap.yaml by `make crds`.\n" + Template(text).substitute(IN_CLUSTER)


def differences(wanted: Mapping[Path, str]) -> list[Path]:
    """The files that are missing, outdated or made no more."""
    present = {path: path.read_text() for path in [*(CHART / "crds").glob("*.yaml"), *wanted] if path.exists()}
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
